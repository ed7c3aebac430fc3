//! Whether an APIService can be used: what its objects say, before anybody is asked. Pure.
//!
//! Mirrors kube-aggregator's `pkg/controllers/status/{local,remote}`.

use crate::kinds::tree::Tree;
use skiff_machinery::error::quote;
use skiff_machinery::{Value, list, object};
use std::sync::Arc;

/// What the condition `Available` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }
    pub(super) fn failed(reason: &'static str, message: impl Into<String>) -> Self {
        Self { available: false, reason, message: message.into() }
    }
}

/// What is wrong with the Service and its endpoints; `None`: it can be asked.
pub(super) fn of_objects(
    (namespace, name): (&str, &str),
    port: i64,
    service: Option<&Value>,
    slices: &[Arc<Value>],
) -> Option<Verdict> {
    let at = format!("service/{name} in {}", quote(namespace));
    let Some(service) = service else {
        return Some(Verdict::failed("ServiceNotFound", format!("{at} is not present")));
    };
    // Others lead somewhere that has no endpoints.
    if !matches!(service.str_at(&["spec", "type"]), "" | "ClusterIP") {
        return None;
    }
    let ports = service.items_at(&["spec", "ports"]);
    let Some(port) = ports.iter().find(|own| own.int("port") == Some(port)) else {
        let message = format!("{at} is not listening on port {port}");
        return Some(Verdict::failed("ServicePortError", message));
    };
    let mine = |slice: &&Arc<Value>| slice.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == name;
    let mut mine = slices.iter().filter(mine).peekable();
    if mine.peek().is_none() {
        let message = format!("cannot find endpointslices for {at}");
        return Some(Verdict::failed("EndpointsNotFound", message));
    }
    let ready = |endpoint: &Value| endpoint.at(&["conditions", "ready"]).and_then(Value::as_bool) != Some(false);
    let has = mine.any(|slice| {
        slice.items("endpoints").iter().any(ready)
            && slice.items("ports").iter().any(|own| own.text("name") == port.text("name"))
    });
    let message = format!("endpoints for {at} have no addresses with port name {}", quote(port.text("name")));
    (!has).then(|| Verdict::failed("MissingEndpoints", message))
}

/// The APIService with a verdict in its conditions; `None` when they say so already.
pub(super) fn told(service: &Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let status = if verdict.available { "True" } else { "False" };
    let conditions = service.items_at(&["status", "conditions"]);
    let old = conditions.iter().find(|condition| condition.text("type") == "Available");
    if let Some(old) = old
        && (old.text("status"), old.text("reason"), old.text("message")) == (status, verdict.reason, &*verdict.message)
    {
        return None;
    }
    let since = old.filter(|old| old.text("status") == status).map_or(now, |old| old.text("lastTransitionTime"));
    let condition = object! {
        "type": "Available", "status": status, "lastTransitionTime": since,
        "reason": verdict.reason, "message": verdict.message.as_str(),
    };
    let mut service = service.clone();
    let place = conditions.iter().position(|condition| condition.text("type") == "Available");
    let status = service.make("status");
    match status.get_mut("conditions").and_then(Value::as_array_mut) {
        Some(conditions) => match place {
            Some(place) => conditions[place] = condition,
            None => conditions.push(condition),
        },
        None => status.set("conditions", list![condition]),
    }
    Some(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_objects_say() {
        let service = |ty: &str| {
            object! { "spec": object! { "type": ty, "ports": list![object! { "name": "https", "port": 443 }] } }
        };
        let slice = |name: &str, port: &str, ready: bool| {
            let endpoint = object! { "addresses": list!["10.0.0.1"], "conditions": object! { "ready": ready } };
            Arc::new(object! {
                "metadata": object! { "labels": object! { "kubernetes.io/service-name": name } },
                "ports": list![object! { "name": port, "port": 8443 }], "endpoints": list![endpoint],
            })
        };
        let found = |port, service: Option<Value>, slices: &[Arc<Value>]| {
            of_objects(("ns", "svc"), port, service.as_ref(), slices).map(|verdict| (verdict.reason, verdict.message))
        };
        let told = |reason, message: &str| Some((reason, message.to_owned()));
        assert_eq!(found(443, None, &[]), told("ServiceNotFound", "service/svc in \"ns\" is not present"));
        assert_eq!(
            found(80, Some(service("ClusterIP")), &[]),
            told("ServicePortError", "service/svc in \"ns\" is not listening on port 80")
        );
        assert_eq!(
            found(443, Some(service("ClusterIP")), &[slice("other", "https", true)]),
            told("EndpointsNotFound", "cannot find endpointslices for service/svc in \"ns\"")
        );
        let missing =
            told("MissingEndpoints", "endpoints for service/svc in \"ns\" have no addresses with port name \"https\"");
        assert_eq!(found(443, Some(service("ClusterIP")), &[slice("svc", "https", false)]), missing);
        assert_eq!(found(443, Some(service("ClusterIP")), &[slice("svc", "http", true)]), missing);
        assert_eq!(found(443, Some(service("ClusterIP")), &[slice("svc", "https", true)]), None);
        assert_eq!(found(80, Some(service("ExternalName")), &[]), None);
    }

    #[test]
    fn conditions_change_only_with_what_they_say() {
        let bare = object! { "status": object! { "conditions": list![object! { "type": "Mine", "status": "True" }] } };
        let first = told(&bare, &Verdict::failed("A", "b"), "t1").unwrap();
        assert_eq!(told(&first, &Verdict::failed("A", "b"), "t2"), None);
        let of = |object: &Value| {
            let condition = &object.items_at(&["status", "conditions"])[1];
            (condition.text("status").to_owned(), condition.text("lastTransitionTime").to_owned())
        };
        assert_eq!(of(&first), ("False".to_owned(), "t1".to_owned()));
        let other = told(&first, &Verdict::failed("C", "b"), "t2").unwrap();
        assert_eq!(of(&other), ("False".to_owned(), "t1".to_owned()));
        assert_eq!(of(&told(&other, &Verdict::passed(), "t3").unwrap()), ("True".to_owned(), "t3".to_owned()));
        assert_eq!(other.items_at(&["status", "conditions"])[0].text("type"), "Mine");
    }
}
