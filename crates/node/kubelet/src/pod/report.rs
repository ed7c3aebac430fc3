//! Telling the API a pod's status (`pkg/kubelet/status/status_manager.go`).
//!
//! What the API has is known from two sides: the watch brings the pod, and the answer to our own write comes before
//! that. The newer of both (by resource version) is what a new status is compared with and what times of conditions
//! are kept from, so nothing is written twice and nothing that somebody else has wiped stays away.

use super::spec::Pod;
use crate::shared::Shared;
use skiff_client::informer::resource_version;
use skiff_client::{ClientError, Patch, WriteOptions};
use skiff_machinery::{Map, Value, object};

/// What the API has, as far as one actor knows.
#[derive(Default)]
pub(super) struct Reporter {
    /// The answer to the last write: its resource version and status.
    written: Option<(u64, Value)>,
}

/// Texts that a condition or state may lose: where ours has none, the API's must go.
const REMOVABLE: [&str; 2] = ["reason", "message"];

/// Whether the API's value says all that ours does.
fn covers(known: &Value, ours: &Value) -> bool {
    match (known, ours) {
        (Value::Object(known_map), Value::Object(our_map)) => {
            let kept = our_map.iter().all(|(key, value)| match known_map.get(key) {
                Some(found) => covers(found, value),
                None => value.is_null(),
            });
            kept && REMOVABLE.iter().all(|field| known_map.get(field).is_none() || our_map.get(field).is_some())
        }
        (Value::Array(known_list), Value::Array(our_list)) => {
            known_list.len() == our_list.len()
                && known_list.iter().zip(our_list.iter()).all(|(found, value)| covers(found, value))
        }
        _ => known == ours,
    }
}

/// The status as a strategic merge patch: lists and texts that are merged by the API are made to say exactly ours.
fn patch_of(status: &Value, known: &Value) -> Map {
    let mut patch = Map::new();
    for (name, value) in status.as_object().into_iter().flat_map(Map::iter) {
        patch.insert(name.clone(), value.clone());
    }
    let conditions = patch.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        for field in REMOVABLE {
            if condition.get(field).is_none() {
                condition.insert(field, Value::Null);
            }
        }
    }
    // Ours holds every condition that the API had, but for those that are over.
    let is_over = |condition: &&Value| {
        let ty = condition.str_at(&["type"]);
        !status.items_at(&["conditions"]).iter().any(|ours| ours.str_at(&["type"]) == ty)
    };
    let over = known.items_at(&["conditions"]).iter().filter(is_over);
    let over: Vec<Value> =
        over.map(|condition| object! { "$patch": "delete", "type": condition.str_at(&["type"]) }).collect();
    if let Some(conditions) = patch.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.extend(over);
    }
    // Addresses of a sandbox before this one must not stay beside the new ones.
    for list in ["podIPs", "hostIPs"] {
        if let Some(items) = patch.get_mut(list).and_then(Value::as_array_mut) {
            items.insert(0, object! { "$patch": "replace" });
        }
    }
    for field in REMOVABLE {
        if patch.get(field).is_none() {
            patch.insert(field, Value::Null);
        }
    }
    patch
}

impl Reporter {
    /// The newest status that is known of the API.
    pub(super) fn known<'a>(&'a self, pod: &'a Pod) -> &'a Value {
        match &self.written {
            Some((version, status)) if *version > resource_version(&pod.0) => status,
            _ => pod.0.get("status").unwrap_or(&Value::Null),
        }
    }

    /// Writes `status` unless the API has it. A pod that is gone, or whose name belongs to another by now, needs none.
    pub(super) async fn write(&mut self, shared: &Shared, pod: &Pod, status: &Value) -> Result<(), ClientError> {
        if covers(self.known(pod), status) {
            return Ok(());
        }
        // A static pod's mirror has a uid of its own, and may not be there yet.
        let metadata = if pod.is_static() {
            object! {}
        } else {
            object! { "uid": pod.uid() }
        };
        let patch = object! { "metadata": metadata, "status": patch_of(status, self.known(pod)) };
        let pods = shared.client.namespaced("", "v1", "pods", pod.namespace());
        match pods.patch(pod.name(), "status", &Patch::Strategic(&patch), &WriteOptions::default()).await {
            Ok(mut answer) => {
                let version = resource_version(&answer);
                let status = answer.get_mut("status").map(std::mem::take).unwrap_or_default();
                self.written = Some((version, status));
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) if error.is_conflict() && !pod.is_static() => {
                let now = pods.fetch_optional(pod.name()).await?;
                let ours = now.is_some_and(|now| now.str_at(&["metadata", "uid"]) == pod.uid());
                if ours { Err(error) } else { Ok(()) }
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::list;

    #[test]
    fn what_the_api_adds_is_no_difference_and_what_it_lacks_is() {
        let known = object! {
            "phase": "Running", "added": "by the server",
            "conditions": list![object! { "type": "Ready", "status": "False", "reason": "R" }],
        };
        assert!(covers(&known, &object! { "phase": "Running" }));
        assert!(!covers(&known, &object! { "phase": "Failed" }));
        let ready = |reason: Option<&str>| {
            let mut condition = object! { "type": "Ready", "status": "False" };
            if let Some(reason) = reason {
                condition.as_object_mut().unwrap().insert("reason", reason);
            }
            object! { "conditions": list![condition] }
        };
        assert!(covers(&known, &ready(Some("R"))));
        assert!(!covers(&known, &ready(None)), "a reason that no longer holds has to be taken away");
    }
}
