//! Static pods: manifests in a directory, and their mirrors in the API (`pkg/kubelet/config/file.go`,
//! `pkg/kubelet/pod/mirror_client.go`).
//!
//! A static pod lives whatever the API says. Its mirror carries its status and is made again when somebody deletes it.
//! The pod's uid follows from its manifest, so an edited file is a new pod: it begins when the one before it, which has
//! the same name, has ended.
//!
//! A file that cannot be read leaves its pod as it was.
//!
//! Not here yet: static pods from a URL; several pods in one file.

use crate::names;
use crate::pod::spec::Pod;
use crate::shared::Shared;
use crate::source::Pods;
use skiff_client::{Store, Tree, WriteOptions};
use skiff_machinery::codec::yaml;
use skiff_machinery::{Map, Value, object};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What tells that a file has changed: device and inode, size, time of change.
type Stamp = (u64, u64, u64, i64, i64);

struct Manifest {
    stamp: Stamp,
    /// `None` for a file that has never held a pod.
    pod: Option<Arc<Value>>,
}

/// Static pods of a directory.
pub(crate) struct StaticPods {
    directory: Option<PathBuf>,
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    files: BTreeMap<PathBuf, Manifest>,
    /// Pods that have been handed to actors, by uid.
    running: BTreeMap<String, Arc<Value>>,
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

fn manifests(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_file() && !hidden {
            paths.push(path);
        }
    }
    Ok(paths)
}

impl StaticPods {
    pub(crate) fn new(directory: Option<PathBuf>, shared: Arc<Shared>, pods: Arc<Pods>) -> Self {
        Self { directory, shared, pods, files: BTreeMap::new(), running: BTreeMap::new() }
    }

    /// Whether there can be any.
    pub(crate) fn is_used(&self) -> bool {
        self.directory.is_some()
    }

    /// Reads what has changed in the directory and directs the actors.
    pub(crate) fn read(&mut self, mirrors: &BTreeMap<(String, String), Pod>) {
        let Some(directory) = self.directory.clone() else { return };
        match manifests(&directory) {
            Ok(paths) => self.read_files(paths),
            // No directory holds no pods; one that cannot be read keeps those it had.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.files.clear(),
            Err(error) => tracing::warn!(directory = %directory.display(), %error, "static pods not read"),
        }
        self.direct(mirrors);
    }

    fn read_files(&mut self, paths: Vec<PathBuf>) {
        self.files.retain(|path, _| paths.contains(path));
        for path in paths {
            let Ok(stamp) = stamp(&path) else { continue };
            if self.files.get(&path).is_some_and(|known| known.stamp == stamp) {
                continue;
            }
            let source = path.to_string_lossy().into_owned();
            let pod = std::fs::read(&path)
                .map_err(|error| error.to_string())
                .and_then(|bytes| yaml::from_slice(&bytes).map_err(|error| error.to_string()))
                .and_then(|tree| static_pod(&tree, &source, &self.shared.node_name));
            let pod = match pod {
                Ok(pod) => Some(Arc::new(pod)),
                Err(error) => {
                    tracing::warn!(path = source, error, "static pod not read");
                    self.files.get(&path).and_then(|known| known.pod.clone())
                }
            };
            self.files.insert(path, Manifest { stamp, pod });
        }
    }

    fn wanted(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.files.values().filter_map(|manifest| manifest.pod.as_ref())
    }

    /// Ends pods whose file is gone or changed, begins those whose name is free, and tells each what its mirror says.
    fn direct(&mut self, mirrors: &BTreeMap<(String, String), Pod>) {
        let uid = |pod: &Value| pod.str_at(&["metadata", "uid"]).to_owned();
        let key = |pod: &Value| {
            (pod.str_at(&["metadata", "namespace"]).to_owned(), pod.str_at(&["metadata", "name"]).to_owned())
        };
        let gone: Vec<String> =
            self.running.keys().filter(|known| !self.wanted().any(|pod| uid(pod) == **known)).cloned().collect();
        for uid in gone {
            if let Some(pod) = self.running.remove(&uid) {
                self.pods.gone(Pod(pod));
            }
        }
        let alive = self.pods.list();
        let mut begun = Vec::new();
        for pod in self.wanted() {
            let (uid, key) = (uid(pod), key(pod));
            let taken = alive.iter().any(|other| {
                other.uid() != uid && (other.namespace(), other.name()) == (key.0.as_str(), key.1.as_str())
            });
            if !self.running.contains_key(&uid) && taken {
                continue;
            }
            let mirror = mirrors.get(&key).filter(|mirror| mirror.annotation(names::CONFIG_MIRROR) == uid);
            let told = with_status(pod, mirror);
            let same = self.running.get(&uid).is_some_and(|known| **known == *told);
            if !same {
                begun.push((uid, told));
            }
        }
        for (uid, pod) in begun {
            self.running.insert(uid, Arc::clone(&pod));
            self.pods.set(Pod(pod));
        }
    }

    /// Brings the mirrors in the API to the static pods.
    pub(crate) async fn mirror(&self, bound: &Store<Tree>) {
        let mirrors = mirrors(bound);
        for ((namespace, name), mirror) in &mirrors {
            let current = self.wanted().any(|pod| {
                pod.str_at(&["metadata", "uid"]) == mirror.annotation(names::CONFIG_MIRROR)
                    && pod.str_at(&["metadata", "name"]) == name
                    && pod.str_at(&["metadata", "namespace"]) == namespace
            });
            if !current || mirror.is_deleted() {
                self.delete_mirror(mirror).await;
            }
        }
        for pod in self.wanted() {
            let name = pod.str_at(&["metadata", "name"]).to_owned();
            let namespace = pod.str_at(&["metadata", "namespace"]).to_owned();
            if !mirrors.contains_key(&(namespace, name)) {
                self.create_mirror(pod).await;
            }
        }
    }

    async fn create_mirror(&self, pod: &Value) {
        let node_name = &self.shared.node_name;
        let node = match self.shared.client.all("", "v1", "nodes").fetch(node_name).await {
            Ok(node) => node,
            Err(error) => {
                tracing::debug!(%error, "mirror pod waits for its node");
                return;
            }
        };
        let mut mirror = pod.clone();
        let hash = pod.str_at(&["metadata", "uid"]).to_owned();
        if let Some(map) = mirror.as_object_mut() {
            let metadata = map.object_mut("metadata");
            metadata.remove("uid");
            metadata.object_mut("annotations").insert(names::CONFIG_MIRROR, hash);
            let owner = object! {
                "apiVersion": "v1", "kind": "Node", "name": node_name.as_str(),
                "uid": node.str_at(&["metadata", "uid"]), "controller": true,
            };
            metadata.insert("ownerReferences", vec![owner]);
        }
        let pods = self.shared.client.namespaced("", "v1", "pods", pod.str_at(&["metadata", "namespace"]));
        match pods.create(&mirror, &WriteOptions::default()).await {
            Ok(_) => (),
            Err(error) if error.is_already_exists() => (),
            Err(error) => tracing::warn!(pod = pod.str_at(&["metadata", "name"]), %error, "mirror pod not made"),
        }
    }

    async fn delete_mirror(&self, mirror: &Pod) {
        let mut options = skiff_client::api::delete_options(mirror.uid(), "");
        if let Some(map) = options.as_object_mut() {
            map.insert("gracePeriodSeconds", 0);
        }
        let pods = self.shared.client.namespaced("", "v1", "pods", mirror.namespace());
        if let Err(error) = pods.delete(mirror.name(), Some(&options)).await
            && !error.is_not_found()
        {
            tracing::warn!(pod = mirror.name(), %error, "mirror pod not deleted");
        }
    }
}

/// Mirrors among the pods that are bound here, by namespace and name.
pub(crate) fn mirrors(bound: &Store<Tree>) -> BTreeMap<(String, String), Pod> {
    let pods = bound.list().into_iter().map(|item| Pod(Arc::clone(&item.value.0))).filter(Pod::is_mirror);
    pods.map(|pod| ((pod.namespace().to_owned(), pod.name().to_owned()), pod)).collect()
}

/// The pod with what its mirror says of its status, so that the actor knows what the API has.
fn with_status(pod: &Arc<Value>, mirror: Option<&Pod>) -> Arc<Value> {
    let Some(mirror) = mirror else { return Arc::clone(pod) };
    let mut told = (**pod).clone();
    if let Some(map) = told.as_object_mut() {
        if let Some(status) = mirror.0.get("status") {
            map.insert("status", status.clone());
        }
        let version = mirror.0.str_at(&["metadata", "resourceVersion"]);
        map.object_mut("metadata").insert("resourceVersion", version);
    }
    Arc::new(told)
}

/// A static pod from a manifest: named after the node, with a uid that follows from its source
/// (`config/common.go: applyDefaults`).
pub(crate) fn static_pod(manifest: &Value, source: &str, node_name: &str) -> Result<Value, String> {
    if manifest.str_at(&["kind"]) != "Pod" || manifest.str_at(&["apiVersion"]) != "v1" {
        return Err("not a v1 Pod".to_owned());
    }
    let mut pod = manifest.clone();
    let text = skiff_machinery::codec::json::to_string(manifest);
    let hash = format!("{:032x}", fnv128(&[source, &text, node_name].join("\0")));
    let map = pod.as_object_mut().ok_or("not an object")?;
    let metadata = map.object_mut("metadata");
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    metadata.insert("name", format!("{name}-{}", node_name.to_lowercase()));
    if metadata.get("namespace").is_none_or(Value::is_null) {
        metadata.insert("namespace", "default");
    }
    metadata.insert("uid", hash.as_str());
    let annotations = metadata.object_mut("annotations");
    annotations.insert(names::CONFIG_HASH, hash.as_str());
    annotations.insert(names::CONFIG_SOURCE, "file");
    map.remove("status");
    let spec = map.object_mut("spec");
    // What the API server would refuse for a mirror (`validation.go: staticPodsAreNot...`), refused here by name.
    refuse_references(spec)?;
    spec.insert("nodeName", node_name);
    // A static pod has no admission: it tolerates everything that would end it.
    let tolerations = spec.get("tolerations").and_then(Value::as_array).unwrap_or_default();
    let everything = object! { "operator": "Exists", "effect": "NoExecute" };
    let all: Vec<Value> =
        tolerations.iter().filter(|known| **known != everything).cloned().chain([everything.clone()]).collect();
    spec.insert("tolerations", all);
    Ok(pod)
}

/// A static pod is nobody's in the API, so it may name nothing that belongs to a namespace there.
fn refuse_references(spec: &Map) -> Result<(), String> {
    let account = spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default();
    if !account.is_empty() {
        return Err("static pods may not reference a service account".to_owned());
    }
    let names = crate::volumes_names(&Pod(Arc::new(object! { "spec": spec.clone() })));
    let refused = [
        (!names.config_maps.is_empty(), "configmaps"),
        (!names.secrets.is_empty(), "secrets"),
        (!names.tokens.is_empty(), "service account tokens"),
    ];
    match refused.iter().find(|(found, _)| *found) {
        Some((_, kind)) => Err(format!("static pods may not reference {kind}")),
        None => Ok(()),
    }
}

fn fnv128(text: &str) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::list;

    #[test]
    fn static_pods_are_named_after_the_node_and_keep_their_uid() {
        let manifest = object! { "apiVersion": "v1", "kind": "Pod", "metadata": object! { "name": "etcd" } };
        let one = static_pod(&manifest, "file", "n1").unwrap();
        assert_eq!(one.str_at(&["metadata", "name"]), "etcd-n1");
        assert_eq!(one, static_pod(&manifest, "file", "n1").unwrap());
        let other = static_pod(&manifest, "file", "n2").unwrap();
        assert_ne!(one.str_at(&["metadata", "uid"]), other.str_at(&["metadata", "uid"]));
        assert!(static_pod(&object! { "kind": "Service" }, "file", "n").is_err());
    }

    #[test]
    fn static_pods_name_nothing_of_a_namespace() {
        let with = |spec: Value| {
            object! { "apiVersion": "v1", "kind": "Pod", "metadata": object! { "name": "p" }, "spec": spec }
        };
        let volumes = list![object! { "name": "v", "secret": object! { "secretName": "s" } }];
        assert!(static_pod(&with(object! { "volumes": volumes }), "f", "n").unwrap_err().contains("secrets"));
        assert!(static_pod(&with(object! { "serviceAccountName": "root" }), "f", "n").is_err());
    }
}
