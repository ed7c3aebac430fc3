//! What becomes of a claim or a volume, pure (`persistentvolume/pv_controller.go`: `syncClaim`, `syncVolume`).

use skiff_machinery::Value;
use skiff_machinery::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, NO_PROVISIONER, PROVISIONED_BY, SELECTED_NODE, annotation, class_of,
    find_matching, is_bound_to, is_free, mismatch,
};

/// A warning or a note: whether it warns, reason, message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Word {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Word {
    fn note(reason: &'static str, message: impl Into<String>) -> Option<Self> {
        Some(Self { warning: false, reason, message: message.into() })
    }
    fn warning(reason: &'static str, message: impl Into<String>) -> Option<Self> {
        Some(Self { warning: true, reason, message: message.into() })
    }
}

/// What becomes of a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ForClaim {
    /// It gets this volume, or what is missing of that.
    Bind(Value),
    /// It waits.
    Wait(Option<Word>),
    /// Its provisioner has to make a volume.
    Provision(String),
    /// Its volume is gone or somebody else's; it never will be bound again.
    Lose(Word),
}

/// What the decision about a claim looks at.
pub(super) struct Seen<'s> {
    pub(super) volumes: &'s [&'s Value],
    /// The claim's class, when it exists.
    pub(super) class: Option<&'s Value>,
    /// Pods that use the claim and are not scheduled: what it waits for.
    pub(super) waiting_pods: &'s [String],
}

fn lost(reason: &'static str, message: &str) -> ForClaim {
    ForClaim::Lose(Word { warning: true, reason, message: message.to_owned() })
}

pub(super) fn claim(claim: &Value, seen: &Seen<'_>) -> ForClaim {
    let named = claim.str_at(&["spec", "volumeName"]);
    let volume = seen.volumes.iter().copied().find(|volume| volume.str_at(&["metadata", "name"]) == named);
    if !annotation(claim, BIND_COMPLETED).is_empty() {
        return match volume {
            _ if named.is_empty() => {
                lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
            }
            None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
            Some(volume) if is_free(volume) || is_bound_to(volume, claim) => ForClaim::Bind(volume.clone()),
            Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
        };
    }
    if named.is_empty() { unbound(claim, seen) } else { wants(claim, named, volume) }
}

/// A claim that names its volume.
fn wants(claim: &Value, named: &str, volume: Option<&Value>) -> ForClaim {
    let Some(volume) = volume else { return ForClaim::Wait(None) };
    if is_bound_to(volume, claim) {
        return ForClaim::Bind(volume.clone());
    }
    if !is_free(volume) {
        let message = format!("volume \"{named}\" already bound to a different claim.");
        return ForClaim::Wait(Word::warning("FailedBinding", message));
    }
    match mismatch(volume, claim) {
        None => ForClaim::Bind(volume.clone()),
        Some(why) => {
            let message = format!("Cannot bind to requested volume \"{named}\": {why}");
            ForClaim::Wait(Word::warning("VolumeMismatch", message))
        }
    }
}

fn unbound(claim: &Value, seen: &Seen<'_>) -> ForClaim {
    let delayed = seen.class.is_some_and(|class| class.str_at(&["volumeBindingMode"]) == "WaitForFirstConsumer");
    if let Some(volume) = find_matching(claim, seen.volumes.iter().copied(), None, delayed) {
        return ForClaim::Bind(volume.clone());
    }
    if delayed && annotation(claim, SELECTED_NODE).is_empty() {
        return ForClaim::Wait(match seen.waiting_pods {
            [] => Word::note("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            pods => {
                let (what, names) = (if pods.len() > 1 { "pods" } else { "pod" }, pods.join(","));
                Word::note("WaitForPodScheduled", format!("waiting for {what} {names} to be scheduled"))
            }
        });
    }
    let name = class_of(claim);
    if name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return ForClaim::Wait(Word::note("FailedBinding", message));
    }
    let Some(class) = seen.class else {
        let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
        return ForClaim::Wait(Word::warning("ProvisioningFailed", message));
    };
    match class.str_at(&["provisioner"]) {
        // People make these, and none is there yet.
        NO_PROVISIONER => ForClaim::Wait(Word::note(
            "FailedBinding",
            "no persistent volumes available for this claim, and its class has no provisioner",
        )),
        provisioner if provisioner.starts_with("kubernetes.io/") => {
            let message = format!("no volume plugin matched name: {provisioner}");
            ForClaim::Wait(Word::warning("ProvisioningFailed", message))
        }
        provisioner => ForClaim::Provision(provisioner.to_owned()),
    }
}

/// What becomes of a volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ForVolume {
    /// Its phase, with what is told of it.
    Phase(&'static str, Option<Word>),
    /// Its claim has to be looked at; the phase, if it changes.
    LookAtClaim(Option<&'static str>),
    /// It is nobody's any more: the binder takes back what it wrote.
    Unbind,
}

/// `claimed` is the claim of its `claimRef` as it lives.
pub(super) fn volume(volume: &Value, claimed: Option<&Value>) -> ForVolume {
    let phase = volume.str_at(&["status", "phase"]);
    let uid = volume.str_at(&["spec", "claimRef", "uid"]);
    if is_free(volume) {
        return ForVolume::Phase("Available", None);
    }
    if uid.is_empty() {
        // Meant for a claim that may not be there yet.
        return ForVolume::LookAtClaim(Some("Available"));
    }
    let Some(claim) = claimed.filter(|claim| claim.str_at(&["metadata", "uid"]) == uid) else {
        return released(volume, phase);
    };
    let name = volume.str_at(&["metadata", "name"]);
    match claim.str_at(&["spec", "volumeName"]) {
        "" => ForVolume::LookAtClaim(None),
        bound if bound == name => ForVolume::Phase("Bound", None),
        // The claim took another volume meanwhile.
        _ if annotation(volume, PROVISIONED_BY).is_empty() => ForVolume::Unbind,
        _ if volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Delete" => released(volume, phase),
        _ if annotation(volume, BOUND_BY_CONTROLLER).is_empty() => ForVolume::LookAtClaim(None),
        _ => ForVolume::Unbind,
    }
}

/// A volume whose claim is gone (`reclaimVolume`). Volumes of provisioners are theirs to delete.
fn released(volume: &Value, phase: &str) -> ForVolume {
    if phase == "Failed" {
        return ForVolume::Phase("Failed", None);
    }
    let name = volume.str_at(&["metadata", "name"]);
    match volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) {
        "Recycle" => {
            let word = Word::warning("VolumeFailedRecycle", "no volume plugin here recycles volumes");
            ForVolume::Phase("Failed", word)
        }
        "Delete" if annotation(volume, PROVISIONED_BY).is_empty() => {
            let why = match volume.str_at(&["spec", "hostPath", "path"]) {
                "" => "no deletable volume plugin matched".to_owned(),
                path => format!("hostPath volumes are not deleted from their host: {path}"),
            };
            let message = format!("error getting deleter volume plugin for volume \"{name}\": {why}");
            ForVolume::Phase("Failed", Word::warning("VolumeFailedDelete", message))
        }
        _ => ForVolume::Phase("Released", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{Map, list, object};

    fn pv(name: &str, class: &str) -> Value {
        object! {
            "metadata": object! { "name": name },
            "spec": object! {
                "capacity": object! { "storage": "5Gi" }, "accessModes": list!["ReadWriteOnce"],
                "storageClassName": class, "persistentVolumeReclaimPolicy": "Retain",
            },
            "status": object! { "phase": "Available" },
        }
    }
    fn pvc(class: &str, volume: &str) -> Value {
        object! {
            "metadata": object! { "namespace": "ns", "name": "c", "uid": "u" },
            "spec": object! {
                "accessModes": list!["ReadWriteOnce"], "storageClassName": class, "volumeName": volume,
                "resources": object! { "requests": object! { "storage": "1Gi" } },
            },
        }
    }
    fn annotated(mut tree: Value, name: &'static str) -> Value {
        let mut annotations = Map::new();
        annotations.insert(name, "yes");
        tree.as_object_mut().unwrap().object_mut("metadata").insert("annotations", annotations);
        tree
    }
    fn claimed(mut volume: Value, uid: &str) -> Value {
        let reference = object! { "namespace": "ns", "name": "c", "uid": uid };
        volume.as_object_mut().unwrap().object_mut("spec").insert("claimRef", reference);
        volume
    }
    fn class(mode: &str, provisioner: &str) -> Value {
        object! { "volumeBindingMode": mode, "provisioner": provisioner }
    }
    fn of(wanted: &Value, volumes: &[&Value], class: Option<&Value>) -> String {
        match claim(wanted, &Seen { volumes, class, waiting_pods: &[] }) {
            ForClaim::Bind(volume) => format!("bind {}", volume.str_at(&["metadata", "name"])),
            ForClaim::Wait(word) => format!("wait {}", word.map_or("", |word| word.reason)),
            ForClaim::Provision(who) => format!("provision {who}"),
            ForClaim::Lose(word) => format!("lose {}", word.reason),
        }
    }

    #[test]
    fn a_claim_takes_what_does_waits_or_is_provisioned() {
        let (v, other) = (pv("v", "a"), pv("w", "b"));
        assert_eq!(of(&pvc("a", ""), &[&other, &v], None), "bind v");
        assert_eq!(of(&pvc("", ""), &[&v], None), "wait FailedBinding");
        assert_eq!(of(&pvc("z", ""), &[&v], None), "wait ProvisioningFailed");
        let external = class("Immediate", "example.com/disk");
        assert_eq!(of(&pvc("z", ""), &[], Some(&external)), "provision example.com/disk");
        let later = class("WaitForFirstConsumer", NO_PROVISIONER);
        assert_eq!(of(&pvc("a", ""), &[&v], Some(&later)), "wait WaitForFirstConsumer");
        let chosen = claimed(pv("v", "a"), "u");
        assert_eq!(of(&pvc("a", ""), &[&chosen], Some(&later)), "bind v", "the scheduler has chosen");
    }

    #[test]
    fn a_named_volume_is_taken_when_it_does() {
        assert_eq!(of(&pvc("a", "v"), &[], None), "wait ");
        assert_eq!(of(&pvc("a", "v"), &[&pv("v", "a")], None), "bind v");
        assert_eq!(of(&pvc("b", "v"), &[&pv("v", "a")], None), "wait VolumeMismatch");
        assert_eq!(of(&pvc("a", "v"), &[&claimed(pv("v", "a"), "other")], None), "wait FailedBinding");
    }

    #[test]
    fn a_bound_claim_without_its_volume_is_lost() {
        let bound = annotated(pvc("a", "v"), BIND_COMPLETED);
        assert_eq!(of(&bound, &[&claimed(pv("v", "a"), "u")], None), "bind v");
        assert_eq!(of(&bound, &[], None), "lose ClaimLost");
        assert_eq!(of(&bound, &[&claimed(pv("v", "a"), "other")], None), "lose ClaimMisbound");
    }

    #[test]
    fn a_volume_follows_its_claim() {
        let is = |decision: ForVolume, phase: &str| matches!(decision, ForVolume::Phase(known, _) if known == phase);
        assert!(is(volume(&pv("v", "a"), None), "Available"));
        assert_eq!(volume(&claimed(pv("v", "a"), ""), None), ForVolume::LookAtClaim(Some("Available")));
        let ours = claimed(pv("v", "a"), "u");
        assert_eq!(volume(&ours, Some(&pvc("a", ""))), ForVolume::LookAtClaim(None));
        assert!(is(volume(&ours, Some(&pvc("a", "v"))), "Bound"));
        assert_eq!(volume(&ours, Some(&pvc("a", "w"))), ForVolume::Unbind);
        assert!(is(volume(&ours, None), "Released"));
        let mut deleted = ours.clone();
        deleted.as_object_mut().unwrap().object_mut("spec").insert("persistentVolumeReclaimPolicy", "Delete");
        assert!(is(volume(&deleted, None), "Failed"));
        assert!(is(volume(&annotated(deleted, PROVISIONED_BY), None), "Released"), "its provisioner's to delete");
    }
}
