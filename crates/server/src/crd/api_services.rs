//! The `APIService` of each group and version that definitions serve, so that whoever lists them sees every group.
//!
//! Mirrors the aggregator's `crdRegistrationController` and the `Local` half of its availability controller.

use crate::admission::Reader;
use crate::registry::Registry;
use skiff_machinery::{ApiError, GroupResource, Map, Name, Value, list, object};
use std::collections::BTreeSet;

/// Marks what is kept here and by nobody else.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Of definitions; `onstart` is of built-in groups.
const BY_DEFINITION: &str = "true";

fn api_service(group: &str, version: &str, now: &str) -> Value {
    let labels: Map = [(Name::Static(AUTOMANAGED), BY_DEFINITION)].into_iter().collect();
    object! {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": object! { "name": format!("{version}.{group}"), "labels": labels },
        "spec": object! { "group": group, "version": version, "groupPriorityMinimum": 1000, "versionPriority": 100 },
        "status": object! {
            "conditions": list![object! {
                "type": "Available", "status": "True", "lastTransitionTime": now, "reason": "Local",
                "message": "Local APIServices are always available",
            }],
        },
    }
}

/// Makes what is missing of `wanted` (group, version) and takes away what is no longer wanted.
pub(super) async fn reconcile(registry: &Registry, wanted: &BTreeSet<(String, String)>) -> Result<(), ApiError> {
    let services = GroupResource::new("apiregistration.k8s.io", "apiservices");
    let mut known = BTreeSet::new();
    for service in Reader::list(registry, &services, None) {
        let name = service.str_at(&["metadata", "name"]).to_owned();
        let place = (service.str_at(&["spec", "group"]).to_owned(), service.str_at(&["spec", "version"]).to_owned());
        let ours = service.str_at(&["metadata", "labels", AUTOMANAGED]) == BY_DEFINITION;
        if ours && !wanted.contains(&place) {
            match Reader::delete(registry, &services, "", &name).await {
                // Somebody was faster.
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        known.insert(name);
    }
    for (group, version) in wanted {
        if known.contains(&format!("{version}.{group}")) {
            continue;
        }
        match Reader::create(registry, &services, api_service(group, version, &registry.now())).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
