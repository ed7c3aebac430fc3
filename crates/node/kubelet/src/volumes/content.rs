//! What stands in configMap, secret, downwardAPI and projected volumes, pure.

use crate::pod::env::{Downward, decode_secret, field, resource};
use crate::pod::spec::Pod;
use skiff_machinery::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, when it is not root.
    pub owner: Option<u32>,
}

/// An object that a pod names: found, or known not to exist.
#[derive(Clone, Debug)]
pub enum Object {
    /// As the API has it.
    Found(Arc<Value>),
    /// There is none.
    Missing,
}

/// The objects that a pod's volumes and variables are made from, fetched before.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// By name.
    pub config_maps: BTreeMap<String, Object>,
    /// By name.
    pub secrets: BTreeMap<String, Object>,
    /// Tokens by audience and seconds of life.
    pub tokens: BTreeMap<(String, i64), String>,
    /// Persistent volumes behind the pod's volumes, by the volume's name; or why there is none.
    pub volumes: BTreeMap<String, Result<Arc<Value>, String>>,
}

impl Objects {
    fn config_map(&self, name: &str) -> Option<&Value> {
        match self.config_maps.get(name)? {
            Object::Found(tree) => Some(tree),
            Object::Missing => None,
        }
    }
    fn secret(&self, name: &str) -> Option<&Value> {
        match self.secrets.get(name)? {
            Object::Found(tree) => Some(tree),
            Object::Missing => None,
        }
    }
}

impl crate::pod::env::Sources for Objects {
    fn config_map(&self, name: &str) -> Option<&Value> {
        self.config_map(name)
    }
    fn secret(&self, name: &str) -> Option<&Value> {
        self.secret(name)
    }
}

/// Every object that the pod names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// ConfigMaps.
    pub config_maps: std::collections::BTreeSet<String>,
    /// Secrets, without those for pulling images.
    pub secrets: std::collections::BTreeSet<String>,
    /// Tokens: audience and seconds of life.
    pub tokens: std::collections::BTreeSet<(String, i64)>,
}

/// Finds them in volumes and variables.
pub fn names(pod: &Pod) -> Names {
    let mut names = Names::default();
    let mut source = |source: &Value| {
        let set = |kind: &str| source.get(kind).filter(|value| !value.is_null());
        if let Some(map) = set("configMap") {
            names.config_maps.insert(map.str_at(&["name"]).to_owned());
        }
        if let Some(secret) = set("secret") {
            let name = secret.get("secretName").or_else(|| secret.get("name")).and_then(Value::as_str);
            names.secrets.insert(name.unwrap_or_default().to_owned());
        }
        if let Some(token) = set("serviceAccountToken") {
            let seconds = token.get("expirationSeconds").and_then(Value::as_int).unwrap_or(3600);
            names.tokens.insert((token.str_at(&["audience"]).to_owned(), seconds));
        }
    };
    for volume in pod.0.items_at(&["spec", "volumes"]) {
        source(volume);
        volume.items_at(&["projected", "sources"]).iter().for_each(&mut source);
    }
    for container in pod.containers() {
        for from in container.tree.items_at(&["envFrom"]) {
            if let Some(map) = from.get("configMapRef") {
                names.config_maps.insert(map.str_at(&["name"]).to_owned());
            }
            if let Some(secret) = from.get("secretRef") {
                names.secrets.insert(secret.str_at(&["name"]).to_owned());
            }
        }
        for variable in container.tree.items_at(&["env"]) {
            if let Some(map) = variable.at(&["valueFrom", "configMapKeyRef"]) {
                names.config_maps.insert(map.str_at(&["name"]).to_owned());
            }
            if let Some(secret) = variable.at(&["valueFrom", "secretKeyRef"]) {
                names.secrets.insert(secret.str_at(&["name"]).to_owned());
            }
        }
    }
    names.config_maps.remove("");
    names.secrets.remove("");
    names
}

fn mode_of(source: &Value, item: Option<&Value>, default: u32) -> u32 {
    let said = item.and_then(|item| item.get("mode")).or_else(|| source.get("defaultMode")).and_then(Value::as_int);
    said.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default)
}

fn optional(source: &Value) -> bool {
    source.get("optional").and_then(Value::as_bool).unwrap_or(false)
}

type Files = BTreeMap<String, File>;

/// Picks keys: all of them, or those of `items` under the paths these say.
fn pick(
    data: &BTreeMap<String, Vec<u8>>,
    source: &Value,
    default_mode: u32,
    what: &str,
    files: &mut Files,
) -> Result<(), String> {
    let items = source.items_at(&["items"]);
    if items.is_empty() {
        for (key, bytes) in data {
            let mode = mode_of(source, None, default_mode);
            files.insert(key.clone(), File { bytes: bytes.clone(), mode, owner: None });
        }
        return Ok(());
    }
    for item in items {
        let key = item.str_at(&["key"]);
        match data.get(key) {
            Some(bytes) => {
                let mode = mode_of(source, Some(item), default_mode);
                let file = File { bytes: bytes.clone(), mode, owner: None };
                files.insert(item.str_at(&["path"]).to_owned(), file);
            }
            None if optional(source) => (),
            None => return Err(format!("{what}: {key}")),
        }
    }
    Ok(())
}

fn config_map(source: &Value, objects: &Objects, mode: u32, files: &mut Files) -> Result<(), String> {
    let name = source.str_at(&["name"]);
    let Some(map) = objects.config_map(name) else {
        return if optional(source) { Ok(()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    let mut data: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (key, value) in map.object_at(&["data"]).into_iter().flat_map(Map::iter) {
        data.insert(key.to_string(), value.as_str().unwrap_or_default().as_bytes().to_vec());
    }
    for (key, value) in map.object_at(&["binaryData"]).into_iter().flat_map(Map::iter) {
        data.insert(key.to_string(), value.as_str().and_then(decode_secret).unwrap_or_default());
    }
    pick(&data, source, mode, "configmap references non-existent config key", files)
}

fn secret(source: &Value, objects: &Objects, mode: u32, files: &mut Files) -> Result<(), String> {
    let name = source.get("secretName").or_else(|| source.get("name")).and_then(Value::as_str).unwrap_or_default();
    let Some(secret) = objects.secret(name) else {
        return if optional(source) { Ok(()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    let entries = secret.object_at(&["data"]).into_iter().flat_map(Map::iter);
    let data = entries
        .map(|(key, value)| (key.to_string(), value.as_str().and_then(decode_secret).unwrap_or_default()))
        .collect();
    pick(&data, source, mode, "references non-existent secret key", files)
}

fn downward_api(pod: &Pod, source: &Value, downward: &Downward, mode: u32, files: &mut Files) -> Result<(), String> {
    for item in source.items_at(&["items"]) {
        let text = if let Some(reference) = item.get("fieldRef").filter(|reference| !reference.is_null()) {
            let path = reference.str_at(&["fieldPath"]);
            field(pod, path, downward).ok_or_else(|| format!("unsupported fieldPath: {path}"))?
        } else if let Some(reference) = item.get("resourceFieldRef") {
            let name = reference.str_at(&["containerName"]);
            let container = pod.container(name).ok_or_else(|| format!("container {name} not found"))?;
            resource(container.tree, reference, downward)?
        } else {
            return Err(format!("item {:?} has neither fieldRef nor resourceFieldRef", item.str_at(&["path"])));
        };
        let mode = mode_of(source, Some(item), mode);
        files.insert(item.str_at(&["path"]).to_owned(), File { bytes: text.into_bytes(), mode, owner: None });
    }
    Ok(())
}

fn token(pod: &Pod, source: &Value, objects: &Objects, mode: u32, files: &mut Files) -> Result<(), String> {
    let seconds = source.get("expirationSeconds").and_then(Value::as_int).unwrap_or(3600);
    let key = (source.str_at(&["audience"]).to_owned(), seconds);
    let token = objects.tokens.get(&key).ok_or("no token has been issued yet")?;
    // Only its user may read it, when the pod runs as one (`serviceAccountToken` in projected.go).
    let user = pod.0.at(&["spec", "securityContext", "runAsUser"]).and_then(Value::as_int);
    let owner = user.and_then(|user| u32::try_from(user).ok());
    let mode = if owner.is_some() { 0o600 } else { mode };
    let file = File { bytes: token.clone().into_bytes(), mode, owner };
    files.insert(source.str_at(&["path"]).to_owned(), file);
    Ok(())
}

/// The files of a volume.
pub(super) fn files(pod: &Pod, volume: &Value, objects: &Objects, downward: &Downward) -> Result<Files, String> {
    let mut files = Files::new();
    let set = |kind: &str| volume.get(kind).filter(|value| !value.is_null());
    if let Some(source) = set("configMap") {
        config_map(source, objects, 0o644, &mut files)?;
    } else if let Some(source) = set("secret") {
        secret(source, objects, 0o644, &mut files)?;
    } else if let Some(source) = set("downwardAPI") {
        downward_api(pod, source, downward, 0o644, &mut files)?;
    } else if let Some(projected) = set("projected") {
        let mode = mode_of(projected, None, 0o644);
        for source in projected.items_at(&["sources"]) {
            let set = |kind: &str| source.get(kind).filter(|value| !value.is_null());
            if let Some(source) = set("configMap") {
                config_map(source, objects, mode, &mut files)?;
            } else if let Some(source) = set("secret") {
                secret(source, objects, mode, &mut files)?;
            } else if let Some(source) = set("downwardAPI") {
                downward_api(pod, source, downward, mode, &mut files)?;
            } else if let Some(source) = set("serviceAccountToken") {
                token(pod, source, objects, mode, &mut files)?;
            } else {
                let kind = source.as_object().and_then(|map| map.keys().next().map(ToString::to_string));
                return Err(format!("projected source {} is not supported yet", kind.unwrap_or_default()));
            }
        }
    }
    Ok(files)
}
