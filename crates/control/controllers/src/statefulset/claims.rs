//! The claims of a StatefulSet's pods, and who owns them (`stateful_set_utils.go`, retention policy).

use crate::workload::Owner;
use skiff_machinery::{Map, Value, object};

/// Name of a pod's claim of a template.
pub(super) fn claim_name(template: &Value, set: &str, ordinal: i64) -> String {
    format!("{}-{set}-{ordinal}", template.str_at(&["metadata", "name"]))
}

/// The claims that a pod needs.
pub(super) fn claims(owner: &Owner<'_>, ordinal: i64) -> Vec<Value> {
    let labels = owner.tree.object_at(&["spec", "selector", "matchLabels"]).cloned().unwrap_or_default();
    let claim = |template: &Value| {
        let mut claim = template.clone();
        let Some(map) = claim.as_object_mut() else { return claim };
        map.remove("status");
        map.insert("apiVersion", "v1");
        map.insert("kind", "PersistentVolumeClaim");
        let metadata = map.object_mut("metadata");
        metadata.insert("name", claim_name(template, owner.name(), ordinal));
        metadata.insert("namespace", owner.namespace());
        let all = metadata.object_mut("labels");
        for (key, value) in labels.iter() {
            all.insert(key.clone(), value.clone());
        }
        claim
    };
    owner.tree.items_at(&["spec", "volumeClaimTemplates"]).iter().map(claim).collect()
}

/// Puts the claims among a pod's volumes, in place of volumes of the same name.
pub(super) fn add_volumes(owner: &Owner<'_>, ordinal: i64, spec: &mut Map) {
    let templates = owner.tree.items_at(&["spec", "volumeClaimTemplates"]);
    let name_of = |template: &Value| template.str_at(&["metadata", "name"]).to_owned();
    let mut volumes: Vec<Value> = templates
        .iter()
        .map(|template| {
            let claim = object! { "claimName": claim_name(template, owner.name(), ordinal), "readOnly": false };
            object! { "name": name_of(template), "persistentVolumeClaim": claim }
        })
        .collect();
    let given = spec.get("volumes").and_then(Value::as_array).unwrap_or(&[]);
    let stays = |volume: &&Value| !templates.iter().any(|template| name_of(template) == volume.str_at(&["name"]));
    volumes.extend(given.iter().filter(stays).cloned());
    if !volumes.is_empty() {
        spec.insert("volumes", volumes);
    }
}

/// What may own a claim.
pub(super) struct Owners<'o> {
    /// A reference to the set.
    pub(super) set: &'o Value,
    /// A reference to the pod, when the pod is beyond the set's bounds.
    pub(super) condemned_pod: Option<&'o Value>,
    /// The pod's uid and name, whether it is condemned or not.
    pub(super) pod: (&'o str, &'o str),
}

/// The owner references that a claim should have; `None` when it has them (`updateClaimOwnerRefForSetAndPod`).
pub(super) fn owner_references(set: &Value, claim: &Value, owners: &Owners<'_>) -> Option<Vec<Value>> {
    let policy = |when: &str| set.str_at(&["spec", "persistentVolumeClaimRetentionPolicy", when]) == "Delete";
    let (deleted, scaled) = (policy("whenDeleted"), policy("whenScaled"));
    let by_pod = owners.condemned_pod.filter(|_| scaled);
    let by_set = (deleted && by_pod.is_none()).then_some(owners.set);
    let standing = claim.items_at(&["metadata", "ownerReferences"]);
    let set_uid = owners.set.str_at(&["uid"]);
    let is_ours = |reference: &&Value| {
        let uid = reference.str_at(&["uid"]);
        uid == set_uid || uid == owners.pod.0
    };
    let wanted = by_pod.or(by_set);
    let ours: Vec<&Value> = standing.iter().filter(is_ours).collect();
    let right = match wanted {
        None => ours.is_empty(),
        Some(wanted) => ours.len() == 1 && ours[0].str_at(&["uid"]) == wanted.str_at(&["uid"]),
    };
    // Somebody else who controls the claim decides about it.
    let foreign = standing
        .iter()
        .any(|reference| reference.get("controller").and_then(Value::as_bool) == Some(true) && !is_ours(&reference));
    if right || foreign {
        return None;
    }
    let mut references: Vec<Value> = standing.iter().filter(|reference| !is_ours(reference)).cloned().collect();
    references.extend(wanted.cloned());
    Some(references)
}

/// Whether a claim still belongs to an earlier pod of this name: it goes with that one, and a new one has to wait.
pub(super) fn is_stale(claim: &Value, pod: &str, uid: &str) -> bool {
    claim.items_at(&["metadata", "ownerReferences"]).iter().any(|reference| {
        reference.str_at(&["kind"]) == "Pod" && reference.str_at(&["name"]) == pod && reference.str_at(&["uid"]) != uid
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::list;

    fn reference(kind: &str, uid: &str) -> Value {
        object! { "apiVersion": "v1", "kind": kind, "name": uid, "uid": uid }
    }
    fn uids(deleted: &str, scaled: &str, condemned: bool, standing: Value) -> Option<Vec<String>> {
        let policy = object! { "whenDeleted": deleted, "whenScaled": scaled };
        let set = object! { "spec": object! { "persistentVolumeClaimRetentionPolicy": policy } };
        let claim = object! { "metadata": object! { "ownerReferences": standing } };
        let (set_reference, pod) = (reference("StatefulSet", "set"), reference("Pod", "pod"));
        let owners = Owners { set: &set_reference, condemned_pod: condemned.then_some(&pod), pod: ("pod", "db-1") };
        let references = owner_references(&set, &claim, &owners)?;
        Some(references.iter().map(|one| one.str_at(&["uid"]).to_owned()).collect())
    }

    #[test]
    fn the_retention_policy_says_who_owns_a_claim() {
        assert_eq!(uids("Retain", "Retain", true, list![]), None);
        assert_eq!(uids("Delete", "Retain", true, list![]), Some(vec!["set".to_owned()]));
        assert_eq!(uids("Delete", "Delete", false, list![]), Some(vec!["set".to_owned()]));
        let by_set = || list![reference("StatefulSet", "set"), reference("X", "other")];
        let both = ["other", "pod"].map(str::to_owned).to_vec();
        assert_eq!(uids("Delete", "Delete", true, by_set()), Some(both));
        assert_eq!(uids("Retain", "Retain", false, by_set()), Some(vec!["other".to_owned()]));
        assert_eq!(uids("Delete", "Retain", false, by_set()), None);
        let mut foreign = reference("X", "other");
        foreign.as_object_mut().unwrap().insert("controller", true);
        assert_eq!(uids("Delete", "Delete", false, list![foreign]), None);
    }

    #[test]
    fn a_claim_of_an_earlier_pod_is_stale() {
        let claim = object! { "metadata": object! { "ownerReferences": list![object! {
            "kind": "Pod", "name": "db-1", "uid": "old",
        }] } };
        assert!(is_stale(&claim, "db-1", "new"));
        assert!(!is_stale(&claim, "db-1", "old"));
        assert!(!is_stale(&claim, "db-2", "new"));
    }
}
