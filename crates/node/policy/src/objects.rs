//! What is read of NetworkPolicies, Pods and Namespaces.
//!
//! A part of a policy that cannot be read allows nothing; the rest of it counts. (The API does not let such a part in.)

use std::net::IpAddr;
use std::sync::Arc;

use skiff_client::Projection;
use skiff_machinery::selector::Selector;
use skiff_machinery::{Map, Value};

use crate::model::{Allowed, NamedPort, Peer, Pod, Policy, Port, Which};

/// A pod; `None` for one without addresses of its own.
pub struct PodObject(pub Option<Arc<Pod>>);
/// A policy.
pub struct PolicyObject(pub Arc<Policy>);
/// A namespace's labels.
pub struct NamespaceObject(pub Arc<Map>);

fn protocol(word: &str) -> Option<u8> {
    match word {
        "" | "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = text.split_once('/')?;
    let (ip, prefix): (IpAddr, u8) = (ip.parse().ok()?, prefix.parse().ok()?);
    (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, prefix))
}

fn number(value: &Value) -> Option<u16> {
    value.as_int().and_then(|number| u16::try_from(number).ok())
}

/// A selector of a peer; one that cannot be understood selects nothing.
fn selector(said: &Value) -> Selector {
    Selector::from_label_selector(Some(said)).unwrap_or_else(|_| Selector::nothing())
}

fn peer(said: &Value) -> Option<Peer> {
    if let Some(block) = said.get("ipBlock") {
        let except = block.items_at(&["except"]).iter().map(|one| one.as_str().and_then(cidr));
        // An exception that is not understood must not let in what it keeps out.
        return Some(Peer::Block { cidr: cidr(block.str_at(&["cidr"]))?, except: except.collect::<Option<_>>()? });
    }
    let (namespaces, pods) = (said.get("namespaceSelector"), said.get("podSelector"));
    if namespaces.is_none() && pods.is_none() {
        return None;
    }
    Some(Peer::Pods { namespaces: namespaces.map(selector), pods: pods.map_or_else(Selector::everything, selector) })
}

fn port(said: &Value) -> Option<Port> {
    let protocol = protocol(said.str_at(&["protocol"]))?;
    let which = match said.get("port") {
        None | Some(Value::Null) => Which::All,
        Some(Value::String(name)) => Which::Named(name.to_string()),
        Some(first) => {
            let first = number(first)?;
            Which::Numbers(first, said.get("endPort").map_or(Some(first), number)?)
        }
    };
    Some(Port { protocol, which })
}

fn allowed(said: &Value, peers: &str) -> Allowed {
    let (peers, ports) = (said.items_at(&[peers]), said.items_at(&["ports"]));
    Allowed {
        peers: (!peers.is_empty()).then(|| peers.iter().filter_map(peer).collect()),
        ports: (!ports.is_empty()).then(|| ports.iter().filter_map(port).collect()),
    }
}

impl Projection for PolicyObject {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let spec = |key| tree.at(&["spec", key]);
        let types: Vec<&str> = tree.items_at(&["spec", "policyTypes"]).iter().filter_map(Value::as_str).collect();
        let rules =
            |key: &str, peers: &str| tree.items_at(&["spec", key]).iter().map(|one| allowed(one, peers)).collect();
        let is = |kind: &str, default: bool| if types.is_empty() { default } else { types.contains(&kind) };
        let everything = Value::from(Map::new());
        let pods = Selector::from_label_selector(Some(spec("podSelector").unwrap_or(&everything)));
        Ok(Self(Arc::new(Policy {
            namespace: tree.str_at(&["metadata", "namespace"]).to_owned(),
            // Whom it isolates is not known then, and guessing would cut off the wrong ones.
            pods: pods.map_err(|error| format!("spec.podSelector: {error}"))?,
            ingress: is("Ingress", true).then(|| rules("ingress", "from")),
            egress: is("Egress", !tree.items_at(&["spec", "egress"]).is_empty()).then(|| rules("egress", "to")),
        })))
    }
}

impl Projection for PodObject {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let on_host = tree.at(&["spec", "hostNetwork"]).and_then(Value::as_bool).unwrap_or(false);
        let ended = matches!(tree.str_at(&["status", "phase"]), "Succeeded" | "Failed");
        let ips = tree.items_at(&["status", "podIPs"]).iter().map(|one| one.str_at(&["ip"]));
        let ips: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        if on_host || ended || ips.is_empty() {
            return Ok(Self(None));
        }
        let lists = ["containers", "initContainers"].map(|list| tree.items_at(&["spec", list]));
        let ports = lists.iter().copied().flatten().flat_map(|container| container.items_at(&["ports"]));
        let named = |port: &Value| {
            let name = port.str_at(&["name"]);
            let (protocol, number) = (protocol(port.str_at(&["protocol"]))?, number(port.get("containerPort")?)?);
            (!name.is_empty()).then(|| NamedPort { name: name.to_owned(), protocol, port: number })
        };
        Ok(Self(Some(Arc::new(Pod {
            namespace: tree.str_at(&["metadata", "namespace"]).to_owned(),
            labels: tree.object_at(&["metadata", "labels"]).cloned().unwrap_or_default(),
            node: tree.str_at(&["spec", "nodeName"]).to_owned(),
            ips,
            ports: ports.filter_map(named).collect(),
        }))))
    }
}

impl Projection for NamespaceObject {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        Ok(Self(Arc::new(tree.object_at(&["metadata", "labels"]).cloned().unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    fn policy(spec: &str) -> Arc<Policy> {
        let text = format!(r#"{{"metadata":{{"name":"p","namespace":"a"}},"spec":{spec}}}"#);
        PolicyObject::project(&Arc::new(json::from_str(&text).unwrap())).unwrap().0
    }

    #[test]
    fn directions_are_those_said_or_upstreams_defaults() {
        let of = |spec: &str| (policy(spec).ingress.is_some(), policy(spec).egress.is_some());
        assert_eq!(of(r#"{"podSelector":{}}"#), (true, false));
        assert_eq!(of(r#"{"podSelector":{},"egress":[{}]}"#), (true, true));
        assert_eq!(of(r#"{"podSelector":{},"policyTypes":["Egress"]}"#), (false, true));
        assert_eq!(
            policy(r#"{"podSelector":{},"ingress":[{}]}"#).ingress,
            Some(vec![Allowed { peers: None, ports: None }])
        );
    }

    #[test]
    fn what_cannot_be_read_allows_nothing() {
        let peers = |from: &str| {
            let spec = format!(r#"{{"podSelector":{{}},"ingress":[{{"from":[{from}]}}]}}"#);
            policy(&spec).ingress.clone().unwrap().remove(0).peers.unwrap()
        };
        assert_eq!(peers(r#"{"ipBlock":{"cidr":"10.0.0.0/40"}}"#), []);
        assert_eq!(peers(r#"{"ipBlock":{"cidr":"10.0.0.0/8","except":["all"]}}"#), []);
        assert_eq!(peers("{}"), []);
        let [Peer::Pods { pods, .. }] =
            &peers(r#"{"podSelector":{"matchExpressions":[{"key":"a","operator":"Odd"}]}}"#)[..]
        else {
            panic!("pods are meant")
        };
        assert!(pods.matches_nothing());
        let ports = policy(
            r#"{"podSelector":{},"ingress":[{"ports":[{"port":70000},{"port":80,"endPort":90},{"protocol":"UDP","port":"dns"}]}]}"#,
        );
        let ports = ports.ingress.clone().unwrap().remove(0).ports.unwrap();
        let named = Port { protocol: 17, which: Which::Named("dns".into()) };
        assert_eq!(ports, [Port { protocol: 6, which: Which::Numbers(80, 90) }, named]);
    }

    #[test]
    fn pods_without_addresses_of_their_own_are_none_of_ours() {
        let pod = |spec: &str, status: &str| {
            let text = format!(r#"{{"metadata":{{"name":"p","namespace":"a"}},"spec":{spec},"status":{status}}}"#);
            PodObject::project(&Arc::new(json::from_str(&text).unwrap())).unwrap().0
        };
        let running = r#"{"phase":"Running","podIPs":[{"ip":"10.244.0.1"}]}"#;
        assert!(pod(r#"{"hostNetwork":true}"#, running).is_none());
        assert!(pod("{}", r#"{"phase":"Succeeded","podIPs":[{"ip":"10.244.0.1"}]}"#).is_none());
        assert!(pod("{}", r#"{"phase":"Pending"}"#).is_none());
        let spec = r#"{"containers":[{"ports":[{"containerPort":80,"name":"http"},{"containerPort":81}]}]}"#;
        assert_eq!(pod(spec, running).unwrap().ports, [NamedPort { name: "http".into(), protocol: 6, port: 80 }]);
    }
}
