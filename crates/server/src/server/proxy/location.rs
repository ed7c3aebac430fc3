//! Where a proxied request goes. Pure.
//!
//! Mirrors `ResourceLocation` of pkg/registry/core/{pod/strategy,service/storage/storage}.go and
//! `SplitSchemeNamePort` (apimachinery/pkg/util/net/port_split.go).

use crate::kinds::tree::Tree;
use skiff_machinery::{ApiError, Value};
use std::net::IpAddr;

/// The name of a proxied object, as it stands in the path: `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    /// `http` unless said otherwise.
    pub(crate) scheme: &'a str,
    /// The object.
    pub(crate) name: &'a str,
    /// A port's number or name; empty when nothing is said.
    pub(crate) port: &'a str,
}

impl<'a> Asked<'a> {
    /// Takes a name apart; `None` when it is none of the three forms.
    pub(crate) fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let asked = match parts[..] {
            [name] => Self { scheme: "http", name, port: "" },
            [name, port] => Self { scheme: "http", name, port },
            ["", name, port] => Self { scheme: "http", name, port },
            [scheme @ ("http" | "https"), name, port] => Self { scheme, name, port },
            _ => return None,
        };
        (!asked.name.is_empty()).then_some(asked)
    }
}

/// Scheme and authority of a back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) scheme: &'static str,
    pub(super) authority: String,
}

impl Location {
    pub(super) fn new(scheme: &str, host: &str, port: &str) -> Self {
        let host = match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => host.to_owned(),
        };
        let authority = if port.is_empty() { host } else { format!("{host}:{port}") };
        Self { scheme: if scheme == "https" { "https" } else { "http" }, authority }
    }
}

/// `IsProxyableIP`: no request is sent to this host or its link in somebody's name.
fn proxyable(ip: &str) -> Result<(), ApiError> {
    let Ok(address) = ip.parse::<IpAddr>() else {
        return Err(ApiError::bad_request(format!("no addresses for hostname{}", if ip.is_empty() { "" } else { ip })));
    };
    if skiff_net::client::is_local(address) {
        return Err(ApiError::bad_request("address not allowed"));
    }
    Ok(())
}

/// A pod's address, and the port that is said, else the first that one of its containers names.
pub(super) fn of_pod(pod: &Value, asked: Asked<'_>) -> Result<Location, ApiError> {
    let first_port = || {
        let containers = pod.items_at(&["spec", "containers"]);
        let port = containers.iter().find_map(|container| container.items("ports").first());
        port.and_then(|port| port.int("containerPort")).map(|port| port.to_string()).unwrap_or_default()
    };
    let port = if asked.port.is_empty() { first_port() } else { asked.port.to_owned() };
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return Err(ApiError::bad_request(format!("{:?} is no port of a pod", asked.port)));
    }
    let ip = pod.str_at(&["status", "podIP"]);
    proxyable(ip)?;
    Ok(Location::new(asked.scheme, ip, &port))
}

/// One ready endpoint of a Service. `is_pod` says whether an address, with its target, is a pod's own: requests are
/// sent to nothing else. `random` spreads them.
pub(super) fn of_service(
    service: &Value,
    endpoints: Option<&Value>,
    asked: Asked<'_>,
    id: &str,
    random: usize,
    is_pod: impl Fn(&Value) -> bool,
) -> Result<Location, ApiError> {
    let mut port_name = asked.port;
    if let Ok(number) = asked.port.parse::<i64>() {
        let ports = service.items_at(&["spec", "ports"]);
        let port = ports.iter().find(|port| port.int("port") == Some(number)).ok_or_else(|| {
            let name = asked.name;
            ApiError::service_unavailable(format!("no service port {number} found for service {name:?}"))
        })?;
        port_name = port.text("name");
    }
    let none = |name: &str| ApiError::service_unavailable(format!("no endpoints available for service {name:?}"));
    let subsets = endpoints.map(|endpoints| endpoints.items("subsets")).unwrap_or_default();
    if subsets.is_empty() {
        return Err(none(asked.name));
    }
    for step in 0..subsets.len() {
        let subset = &subsets[(random % subsets.len() + step) % subsets.len()];
        let addresses = subset.items("addresses");
        let Some(port) = subset.items("ports").iter().find(|port| port.text("name") == port_name) else { continue };
        let spread = (0..addresses.len()).map(|step| &addresses[(random % addresses.len() + step) % addresses.len()]);
        if let Some(address) = spread.into_iter().find(|address| is_pod(address)) {
            proxyable(address.text("ip"))?;
            let port = port.int("port").unwrap_or(0).to_string();
            return Ok(Location::new(asked.scheme, address.text("ip"), &port));
        }
    }
    Err(none(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    #[test]
    fn names_are_taken_apart() {
        let parse = |id: &'static str| Asked::parse(id).map(|asked| (asked.scheme, asked.name, asked.port));
        assert_eq!(parse("web"), Some(("http", "web", "")));
        assert_eq!(parse("web:80"), Some(("http", "web", "80")));
        assert_eq!(parse("https:web:"), Some(("https", "web", "")));
        assert_eq!(parse("https:web:443"), Some(("https", "web", "443")));
        assert_eq!(parse(":web:port"), Some(("http", "web", "port")));
        for wrong in ["", ":", "ftp:web:21", "a:b:c:d", "http::80"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    fn to(location: Result<Location, ApiError>) -> String {
        match location {
            Ok(location) => format!("{}://{}", location.scheme, location.authority),
            Err(error) => format!("{} {}", error.code(), error.message()),
        }
    }

    #[test]
    fn pods() {
        let pod = |ip: &str| {
            let text = format!(
                r#"{{"spec":{{"containers":[{{}},{{"ports":[{{"containerPort":8080}}]}}]}},"status":{{"podIP":"{ip}"}}}}"#
            );
            json::from_str(&text).unwrap()
        };
        let at = |ip: &str, id: &str| to(of_pod(&pod(ip), Asked::parse(id).unwrap()));
        assert_eq!(at("10.1.0.2", "p"), "http://10.1.0.2:8080");
        assert_eq!(at("10.1.0.2", "https:p:1"), "https://10.1.0.2:1");
        assert_eq!(at("fd00::2", "p"), "http://[fd00::2]:8080");
        assert_eq!(at("10.1.0.2", "p:ssh"), "400 \"ssh\" is no port of a pod");
        for local in ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "0.0.0.0"] {
            assert_eq!(at(local, "p"), "400 address not allowed", "{local}");
        }
        assert_eq!(at("", "p"), "400 no addresses for hostname");
    }

    #[test]
    fn services() {
        let service = json::from_str(
            r#"{"spec":{"ports":[{"name":"web","port":80,"targetPort":8080},{"name":"admin","port":81}]}}"#,
        )
        .unwrap();
        let endpoints = json::from_str(
            r#"{"subsets":[{"addresses":[],"ports":[{"name":"web","port":1}]},
                {"addresses":[{"ip":"10.1.0.2"},{"ip":"10.1.0.3","targetRef":{"kind":"Pod"}}],
                 "ports":[{"name":"web","port":8080}]}]}"#,
        )
        .unwrap();
        let ask = |id: &str, endpoints: Option<&Value>| {
            to((0..7)
                .map(|random| {
                    of_service(&service, endpoints, Asked::parse(id).unwrap(), id, random, |address| {
                        address.has("targetRef")
                    })
                })
                .reduce(
                    |one, other| if to(one.clone()) == to(other.clone()) { one } else { panic!("{id}: it depends") },
                )
                .unwrap())
        };
        let there = Some(&endpoints);
        assert_eq!(ask("s:web", there), "http://10.1.0.3:8080", "only addresses of pods");
        assert_eq!(ask("https:s:80", there), "https://10.1.0.3:8080", "a port's number means the Service's");
        assert_eq!(ask("s:82", there), "503 no service port 82 found for service \"s\"");
        assert_eq!(ask("s:admin", there), "503 no endpoints available for service \"s:admin\"");
        assert_eq!(ask("s", there), "503 no endpoints available for service \"s\"");
        assert_eq!(ask("s:web", None), "503 no endpoints available for service \"s\"");
    }
}
