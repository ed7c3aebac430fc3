//! Which names a definition may have, and what its status says about it.
//!
//! Mirrors `pkg/controller/status/naming_controller.go` and `pkg/controller/establish`.

use super::condition;
use super::validation::{Approval, approval};
use skiff_machinery::{Map, Value, list};

/// A name that somebody else of the group has: what for, and which.
pub(super) struct Conflict {
    reason: &'static str,
    name: String,
}

fn names(definition: &Value) -> impl Iterator<Item = (&'static str, &str)> {
    let one = |field: &'static str, reason| Some((reason, definition.str_at(&["spec", "names", field])));
    let short = definition.items_at(&["spec", "names", "shortNames"]).iter().filter_map(Value::as_str);
    [
        one("plural", "PluralConflict"),
        one("singular", "SingularConflict"),
        one("kind", "KindConflict"),
        one("listKind", "ListKindConflict"),
    ]
    .into_iter()
    .flatten()
    .chain(short.map(|name| ("ShortNamesConflict", name)))
    .filter(|(_, name)| !name.is_empty())
}

/// Names that an accepted definition of the same group has already. `all` is in order of age.
pub(super) fn conflicts(definition: &Value, all: &[&Value]) -> Vec<Conflict> {
    let own = definition.str_at(&["metadata", "name"]);
    let group = definition.str_at(&["spec", "group"]);
    let mut found: Vec<Conflict> = Vec::new();
    let older = all.iter().take_while(|other| other.str_at(&["metadata", "name"]) != own);
    let accepted = all.iter().filter(|other| is_true(other, "NamesAccepted"));
    for other in older.chain(accepted) {
        if other.str_at(&["metadata", "name"]) == own || other.str_at(&["spec", "group"]) != group {
            continue;
        }
        // Kinds and resources are apart: a kind may be called as somebody's plural.
        let is_kind = |reason: &str| reason.starts_with("Kind") || reason.starts_with("ListKind");
        for (reason, name) in names(definition) {
            let taken = names(other).any(|(other, taken)| is_kind(other) == is_kind(reason) && taken == name);
            if taken && !found.iter().any(|known| known.name == name) {
                found.push(Conflict { reason, name: name.to_owned() });
            }
        }
    }
    found
}

/// Whether a condition is there and true.
pub(super) fn is_true(definition: &Value, kind: &str) -> bool {
    let conditions = definition.items_at(&["status", "conditions"]);
    conditions.iter().any(|condition| condition.str_at(&["type"]) == kind && condition.str_at(&["status"]) == "True")
}

/// Sets a condition; its time changes with its status only.
pub(super) fn set_condition(status: &mut Map, kind: &str, on: bool, reason: &str, message: &str, now: &str) {
    let conditions = status.entry("conditions", || list![]);
    let Some(conditions) = conditions.as_array_mut() else { return };
    let mut new = condition(kind, on, reason, message, now);
    match conditions.iter_mut().find(|condition| condition.str_at(&["type"]) == kind) {
        None => conditions.push(new),
        Some(old) => {
            if old.str_at(&["status"]) == new.str_at(&["status"])
                && let (Some(time), Some(map)) = (old.get("lastTransitionTime").cloned(), new.as_object_mut())
            {
                map.insert("lastTransitionTime", time);
            }
            *old = new;
        }
    }
}

/// Says of a kind in one of Kubernetes' own groups whether it is approved (`pkg/controller/apiapproval`).
pub(super) fn set_approval(status: &mut Map, definition: &Value, now: &str) {
    let group = definition.str_at(&["spec", "group"]);
    let protected = [".k8s.io", ".kubernetes.io"].iter().any(|own| group.ends_with(own));
    if !protected {
        return;
    }
    let own = definition.str_at(&["metadata", "annotations", "api-approved.kubernetes.io"]);
    let kind = "KubernetesAPIApprovalPolicyConformant";
    match approval(definition) {
        None if own.starts_with("unapproved") => {
            let message = format!("not approved: \"{own}\"");
            set_condition(status, kind, false, "UnapprovedAnnotation", &message, now);
        }
        None => set_condition(status, kind, true, "ApprovedAnnotation", &format!("approved in {own}"), now),
        Some(Approval::Missing) => {
            let message = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
            set_condition(status, kind, false, "MissingAnnotation", message, now);
        }
        Some(Approval::Bad(value)) => {
            let message = format!(
                "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", but it is \"{value}\""
            );
            set_condition(status, kind, false, "InvalidAnnotation", &message, now);
        }
    }
}

/// Brings the status of a definition up to date.
pub(super) fn set_status(status: &mut Map, definition: &Value, conflicts: &[Conflict], now: &str) {
    match conflicts.first() {
        None => {
            if let Some(names) = definition.at(&["spec", "names"]) {
                status.insert("acceptedNames", names.clone());
            }
            set_condition(status, "NamesAccepted", true, "NoConflicts", "no conflicts found", now);
            let message = "the initial names have been accepted";
            set_condition(status, "Established", true, "InitialNamesAccepted", message, now);
        }
        Some(first) => {
            let message = conflicts.iter().map(|one| format!("\"{}\" is already in use", one.name));
            let message = message.collect::<Vec<_>>().join(", ");
            set_condition(status, "NamesAccepted", false, first.reason, &message, now);
            let established =
                status.get("conditions").and_then(Value::as_array).into_iter().flatten().any(|condition| {
                    condition.str_at(&["type"]) == "Established" && condition.str_at(&["status"]) == "True"
                });
            if !established {
                set_condition(status, "Established", false, "NotAccepted", "not all names are accepted", now);
            }
        }
    }
    let storage = definition
        .items_at(&["spec", "versions"])
        .iter()
        .find(|version| version.get("storage").and_then(Value::as_bool) == Some(true));
    let stored = status.entry("storedVersions", || list![]);
    if let (Some(stored), Some(storage)) = (stored.as_array_mut(), storage) {
        let name = storage.str_at(&["name"]);
        if !stored.iter().any(|own| own.as_str() == Some(name)) {
            stored.push(name.into());
        }
    }
}
