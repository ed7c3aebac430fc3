//! A container's environment and its arguments: `env` in all its forms, `envFrom`, service variables, `$(VAR)`
//! (`kubelet_pods.go: makeEnvironmentVariables`, `third_party/forked/golang/expansion`).

use super::spec::Pod;
use skiff_machinery::quantity::Quantity;
use skiff_machinery::{Map, Value};
use std::collections::BTreeMap;

/// What variables are made from beside the pod itself. Absent objects are `None`.
pub trait Sources {
    /// A ConfigMap of the pod's namespace.
    fn config_map(&self, name: &str) -> Option<&Value>;
    /// A Secret of the pod's namespace.
    fn secret(&self, name: &str) -> Option<&Value>;
}

/// Facts about the running pod for the downward API.
#[derive(Clone, Debug, Default)]
pub struct Downward {
    /// Node name.
    pub node_name: String,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// What the node offers, for limits that are not set: CPU in thousandths, memory in bytes.
    pub allocatable: (i64, i64),
}

/// A value from a Secret or ConfigMap key: plain text, or base64 in `binaryData` and `data` of Secrets.
pub fn decode_secret(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// Replaces `$(NAME)` by the variable, `$$` by `$`; what is not known stays (`expansion.Expand`).
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        out.push_str(&rest[..position]);
        let after = &rest[position + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn list_labels(map: Option<&Map>) -> String {
    let lines = map
        .into_iter()
        .flat_map(Map::iter)
        .map(|(key, value)| format!("{key}={}", skiff_machinery::error::quote(value.as_str().unwrap_or_default())));
    lines.collect::<Vec<_>>().join("\n")
}

/// The value of a `fieldRef`; `None` for a path that does not exist.
pub fn field(pod: &Pod, path: &str, downward: &Downward) -> Option<String> {
    if let Some((base, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match base {
            "metadata.labels" => "labels",
            "metadata.annotations" => "annotations",
            _ => return None,
        };
        return Some(pod.0.str_at(&["metadata", map, key]).to_owned());
    }
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    Some(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => list_labels(pod.0.object_at(&["metadata", "labels"])),
        "metadata.annotations" => list_labels(pod.0.object_at(&["metadata", "annotations"])),
        "spec.nodeName" => downward.node_name.clone(),
        "spec.serviceAccountName" => pod.spec("serviceAccountName").to_owned(),
        "status.hostIP" => first(&downward.host_ips),
        "status.hostIPs" => downward.host_ips.join(","),
        "status.podIP" => first(&downward.pod_ips),
        "status.podIPs" => downward.pod_ips.join(","),
        _ => return None,
    })
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up. A limit that is not set is what the node
/// offers.
pub fn resource(container: &Value, reference: &Value, downward: &Downward) -> Result<String, String> {
    let path = reference.str_at(&["resource"]);
    let (list, name) = path.split_once('.').ok_or_else(|| format!("unsupported container resource: {path}"))?;
    if !matches!(list, "limits" | "requests") {
        return Err(format!("unsupported container resource: {path}"));
    }
    let said = container.at(&["resources", list, name]).and_then(Value::as_str);
    let quantity = said.map(Quantity::parse).transpose().map_err(|error| error.to_string())?;
    let divisor = match reference.str_at(&["divisor"]) {
        "" | "0" => 1000,
        text => Quantity::parse(text).map_err(|error| error.to_string())?.milli_value().max(1),
    };
    let millis: i128 = match (quantity, name, list) {
        (Some(quantity), ..) if name == "cpu" => i128::from(quantity.milli_value()),
        (Some(quantity), ..) => i128::from(quantity.value()) * 1000,
        (None, "cpu", "limits") => i128::from(downward.allocatable.0),
        (None, "memory", "limits") => i128::from(downward.allocatable.1) * 1000,
        (None, ..) => 0,
    };
    let divisor = i128::from(divisor);
    Ok(((millis + divisor - 1) / divisor).to_string())
}

/// Variables of the services of the pod's namespace (`envvars.FromServices`): `NAME_SERVICE_HOST` and the rest. The
/// API server's own are there even without `enableServiceLinks`.
pub fn service_variables(services: &[&Value], pod: &Pod) -> BTreeMap<String, String> {
    let links = pod.0.at(&["spec", "enableServiceLinks"]).and_then(Value::as_bool).unwrap_or(true);
    let mut variables = BTreeMap::new();
    for service in services {
        let name = service.str_at(&["metadata", "name"]);
        let ip = service.str_at(&["spec", "clusterIP"]);
        let namespace = service.str_at(&["metadata", "namespace"]);
        let master = namespace == "default" && name == "kubernetes";
        if ip.is_empty() || ip == "None" || !(master || (links && namespace == pod.namespace())) {
            continue;
        }
        add_service(&mut variables, name, ip, service.items_at(&["spec", "ports"]));
    }
    variables
}

fn add_service(variables: &mut BTreeMap<String, String>, name: &str, ip: &str, ports: &[Value]) {
    let prefix = name.to_uppercase().replace('-', "_");
    let number = |port: &Value| port.get("port").and_then(Value::as_int).unwrap_or(0);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (index, port) in ports.iter().enumerate() {
        let protocol = match port.str_at(&["protocol"]) {
            "" => "TCP",
            said => said,
        };
        let (number, lower) = (number(port), protocol.to_lowercase());
        let url = format!("{lower}://{host}:{number}");
        if index == 0 {
            variables.insert(format!("{prefix}_SERVICE_PORT"), number.to_string());
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        let port_name = port.str_at(&["name"]);
        if !port_name.is_empty() {
            let suffix = port_name.to_uppercase().replace('-', "_");
            variables.insert(format!("{prefix}_SERVICE_PORT_{suffix}"), number.to_string());
        }
        let one = format!("{prefix}_PORT_{number}_{protocol}");
        variables.insert(one.clone(), url);
        variables.insert(format!("{one}_PROTO"), lower);
        variables.insert(format!("{one}_PORT"), number.to_string());
        variables.insert(format!("{one}_ADDR"), ip.to_owned());
    }
}

/// Makes the environment. An error is what the container waits with as `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Value,
    sources: &dyn Sources,
    services: &BTreeMap<String, String>,
    downward: &Downward,
) -> Result<Vec<(String, String)>, String> {
    let mut result: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: String| match result.iter_mut().find(|(known, _)| *known == name) {
        Some((_, known)) => *known = value,
        None => result.push((name, value)),
    };
    for source in container.items_at(&["envFrom"]) {
        for (name, value) in from_source(source, sources)? {
            set(name, value);
        }
    }
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut own: Vec<(String, String)> = Vec::new();
    for variable in container.items_at(&["env"]) {
        let name = variable.str_at(&["name"]).to_owned();
        let lookup = |wanted: &str| known.get(wanted).or_else(|| services.get(wanted)).cloned();
        let value = match variable.get("valueFrom").filter(|from| !from.is_null()) {
            None => Some(expand(variable.str_at(&["value"]), lookup)),
            Some(from) => value_from(pod, container, from, sources, downward)?,
        };
        if let Some(value) = value {
            known.insert(name.clone(), value.clone());
            own.push((name, value));
        }
    }
    for (name, value) in own {
        set(name, value);
    }
    for (name, value) in services {
        if !result.iter().any(|(known, _)| known == name) {
            result.push((name.clone(), value.clone()));
        }
    }
    Ok(result)
}

fn from_source(source: &Value, sources: &dyn Sources) -> Result<Vec<(String, String)>, String> {
    let prefix = source.str_at(&["prefix"]);
    let optional = |of: &Value| of.get("optional").and_then(Value::as_bool).unwrap_or(false);
    let mut variables = Vec::new();
    let mut add = |name: &str, value: String| variables.push((format!("{prefix}{name}"), value));
    if let Some(reference) = source.get("configMapRef").filter(|reference| !reference.is_null()) {
        let name = reference.str_at(&["name"]);
        match sources.config_map(name) {
            Some(map) => {
                for (key, value) in map.object_at(&["data"]).into_iter().flat_map(Map::iter) {
                    add(key, value.as_str().unwrap_or_default().to_owned());
                }
            }
            None if optional(reference) => (),
            None => return Err(format!("configmap \"{name}\" not found")),
        }
    }
    if let Some(reference) = source.get("secretRef").filter(|reference| !reference.is_null()) {
        let name = reference.str_at(&["name"]);
        match sources.secret(name) {
            Some(secret) => {
                for (key, value) in secret.object_at(&["data"]).into_iter().flat_map(Map::iter) {
                    let bytes = decode_secret(value.as_str().unwrap_or_default()).unwrap_or_default();
                    add(key, String::from_utf8_lossy(&bytes).into_owned());
                }
            }
            None if optional(reference) => (),
            None => return Err(format!("secret \"{name}\" not found")),
        }
    }
    Ok(variables)
}

fn value_from(
    pod: &Pod,
    container: &Value,
    from: &Value,
    sources: &dyn Sources,
    downward: &Downward,
) -> Result<Option<String>, String> {
    let set = |name: &str| from.get(name).filter(|value| !value.is_null());
    if let Some(reference) = set("fieldRef") {
        let path = reference.str_at(&["fieldPath"]);
        return field(pod, path, downward).map(Some).ok_or_else(|| format!("unsupported fieldPath: {path}"));
    }
    if let Some(reference) = set("resourceFieldRef") {
        let named = reference.str_at(&["containerName"]);
        let of = if named.is_empty() { Some(container) } else { pod.container(named).map(|found| found.tree) };
        let of = of.ok_or_else(|| format!("container {named} not found"))?;
        return resource(of, reference, downward).map(Some);
    }
    let optional = |of: &Value| of.get("optional").and_then(Value::as_bool).unwrap_or(false);
    let missing = |of: &Value, message: String| if optional(of) { Ok(None) } else { Err(message) };
    if let Some(reference) = set("configMapKeyRef") {
        let (name, key) = (reference.str_at(&["name"]), reference.str_at(&["key"]));
        let Some(map) = sources.config_map(name) else {
            return missing(reference, format!("configmap \"{name}\" not found"));
        };
        return match map.at(&["data", key]).and_then(Value::as_str) {
            Some(value) => Ok(Some(value.to_owned())),
            None => missing(reference, format!("couldn't find key {key} in ConfigMap {}/{name}", pod.namespace())),
        };
    }
    if let Some(reference) = set("secretKeyRef") {
        let (name, key) = (reference.str_at(&["name"]), reference.str_at(&["key"]));
        let Some(secret) = sources.secret(name) else {
            return missing(reference, format!("secret \"{name}\" not found"));
        };
        return match secret.at(&["data", key]).and_then(Value::as_str).and_then(decode_secret) {
            Some(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            None => missing(reference, format!("couldn't find key {key} in Secret {}/{name}", pod.namespace())),
        };
    }
    if set("fileKeyRef").is_some() {
        return Err("fileKeyRef is not supported yet".to_owned());
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};
    use std::sync::Arc;

    struct Fixed(Value, Value);
    impl Sources for Fixed {
        fn config_map(&self, name: &str) -> Option<&Value> {
            (name == "cm").then_some(&self.0)
        }
        fn secret(&self, name: &str) -> Option<&Value> {
            (name == "s").then_some(&self.1)
        }
    }
    fn fixed() -> Fixed {
        Fixed(object! { "data": object! { "a": "1" } }, object! { "data": object! { "b": "Mg==" } })
    }
    fn pod() -> Pod {
        let metadata = object! { "name": "p", "namespace": "ns", "labels": object! { "x": "y" } };
        Pod(Arc::new(object! { "metadata": metadata, "spec": object! {} }))
    }
    fn run(container: &Value) -> Result<Vec<(String, String)>, String> {
        environment(&pod(), container, &fixed(), &BTreeMap::new(), &Downward::default())
    }

    #[test]
    fn references_expand_in_order_and_escapes_stay() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(expand("$(A)-$(B)-$$(A)-$A-$", lookup), "1-$(B)-$(A)-$A-$");
        let container = object! { "env": list![
            object! { "name": "A", "value": "x" },
            object! { "name": "B", "value": "$(A)$(C)" },
            object! { "name": "C", "value": "y" },
        ] };
        assert_eq!(run(&container).unwrap()[1], ("B".to_owned(), "x$(C)".to_owned()));
    }

    #[test]
    fn maps_secrets_fields_and_their_absence() {
        let reference = |kind: &'static str, name: &str, key: &str, optional: bool| {
            let inner = object! { "name": name, "key": key, "optional": optional };
            let from: Map = [(kind, inner)].into_iter().collect();
            object! { "env": list![object! { "name": "V", "valueFrom": from }] }
        };
        assert_eq!(run(&reference("configMapKeyRef", "cm", "a", false)).unwrap()[0].1, "1");
        assert_eq!(run(&reference("secretKeyRef", "s", "b", false)).unwrap()[0].1, "2");
        assert_eq!(run(&reference("secretKeyRef", "no", "b", false)).unwrap_err(), "secret \"no\" not found");
        let key = run(&reference("secretKeyRef", "s", "no", false)).unwrap_err();
        assert_eq!(key, "couldn't find key no in Secret ns/s");
        assert!(run(&reference("secretKeyRef", "no", "b", true)).unwrap().is_empty());
        let label = object! { "name": "L", "valueFrom": object! { "fieldRef": object! { "fieldPath": "metadata.labels['x']" } } };
        assert_eq!(run(&object! { "env": list![label] }).unwrap()[0].1, "y");
    }

    #[test]
    fn services_become_variables() {
        let service = object! {
            "metadata": object! { "name": "my-db", "namespace": "ns" },
            "spec": object! { "clusterIP": "10.0.0.9", "ports": list![object! { "port": 53, "protocol": "UDP", "name": "dns" }] },
        };
        let variables = service_variables(&[&service], &pod());
        assert_eq!(variables["MY_DB_SERVICE_HOST"], "10.0.0.9");
        assert_eq!(variables["MY_DB_SERVICE_PORT_DNS"], "53");
        assert_eq!(variables["MY_DB_PORT_53_UDP"], "udp://10.0.0.9:53");
    }
}
