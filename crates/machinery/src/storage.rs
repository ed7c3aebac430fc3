//! Which volume is a claim's, alike for the binder and the scheduler (`component-helpers/storage/volume/pv_helpers.go`).
//!
//! Everything here is a function of trees: who calls decides which volumes there are and what a node allows.

use crate::Value;
use crate::quantity::{Format, Quantity};
use crate::selector::Selector;
use std::cmp::Ordering;

/// Set on a claim when its binding is complete, and on a volume or claim whose binding a controller has chosen.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// See [`BIND_COMPLETED`].
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The node that the scheduler has chosen for the pod of a claim.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner that is to make a claim's volume, and the one that has made a volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The older name of [`STORAGE_PROVISIONER`], which some provisioners still read.
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Who has made a volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The provisioner of classes whose volumes people make.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// An annotation; empty when absent.
pub fn annotation<'t>(tree: &'t Value, name: &str) -> &'t str {
    tree.str_at(&["metadata", "annotations", name])
}

/// The class of a volume or claim; empty for none (`GetPersistentVolumeClass`).
pub fn class_of(tree: &Value) -> &str {
    match tree.at(&["metadata", "annotations", CLASS]).and_then(Value::as_str) {
        Some(class) => class,
        None => tree.str_at(&["spec", "storageClassName"]),
    }
}

/// Whether a claim says nothing about its class: it may still be given the default one.
pub fn has_no_class(claim: &Value) -> bool {
    claim.at(&["metadata", "annotations", CLASS]).is_none() && claim.at(&["spec", "storageClassName"]).is_none()
}

/// Whether the volume is meant for this claim, by name alone or by uid (`IsVolumeBoundToClaim`).
pub fn is_bound_to(volume: &Value, claim: &Value) -> bool {
    let Some(reference) = volume.at(&["spec", "claimRef"]).filter(|reference| !reference.is_null()) else {
        return false;
    };
    let same = |field: &str| reference.str_at(&[field]) == claim.str_at(&["metadata", field]);
    same("name") && same("namespace") && (reference.str_at(&["uid"]).is_empty() || same("uid"))
}

/// Whether nobody has the volume.
pub fn is_free(volume: &Value) -> bool {
    volume.at(&["spec", "claimRef"]).is_none_or(Value::is_null)
}

/// `Filesystem` unless said otherwise.
fn mode(tree: &Value) -> &str {
    match tree.str_at(&["spec", "volumeMode"]) {
        "" => "Filesystem",
        said => said,
    }
}

fn quantity(tree: &Value, path: &[&str]) -> Quantity {
    Quantity::parse(tree.str_at(path)).unwrap_or_else(|_| Quantity::zero(Format::BinarySI))
}

fn has_modes(claim: &Value, volume: &Value) -> bool {
    let offered = volume.items_at(&["spec", "accessModes"]);
    claim.items_at(&["spec", "accessModes"]).iter().all(|wanted| offered.contains(wanted))
}

/// Why a volume that a claim names cannot be the claim's (`checkVolumeSatisfyClaim`).
pub fn mismatch(volume: &Value, claim: &Value) -> Option<&'static str> {
    if volume.at(&["metadata", "deletionTimestamp"]).is_some() {
        return Some("the volume is marked for deletion");
    }
    let wanted = quantity(claim, &["spec", "resources", "requests", "storage"]);
    if quantity(volume, &["spec", "capacity", "storage"]).cmp(&wanted) == Ordering::Less {
        return Some("requested PV is too small");
    }
    if class_of(volume) != class_of(claim) {
        return Some("storageClassName does not match");
    }
    if mode(volume) != mode(claim) {
        return Some("incompatible volumeMode");
    }
    (!has_modes(claim, volume)).then_some("incompatible accessMode")
}

/// The volume for a claim: the one that is meant for it, else the smallest that does (`FindMatchingVolume`).
///
/// `allowed` says whether a node can use a volume: with it the scheduler asks for one node. `delayed` leaves volumes that
/// nobody has to the scheduler.
pub fn find_matching<'v>(
    claim: &Value,
    volumes: impl Iterator<Item = &'v Value>,
    allowed: Option<&dyn Fn(&Value) -> bool>,
    delayed: bool,
) -> Option<&'v Value> {
    let wanted = quantity(claim, &["spec", "resources", "requests", "storage"]);
    let selector = claim.at(&["spec", "selector"]).filter(|selector| !selector.is_null());
    let selector = match selector.map(|selector| Selector::from_label_selector(Some(selector))) {
        Some(Ok(selector)) => Some(selector),
        // A selector that cannot be read selects nothing.
        Some(Err(_)) => return None,
        None => None,
    };
    let size = |volume: &Value| quantity(volume, &["spec", "capacity", "storage"]);
    let mut smallest: Option<&Value> = None;
    for volume in volumes {
        let ours = is_bound_to(volume, claim);
        let usable = (ours || is_free(volume))
            && size(volume).cmp(&wanted) != Ordering::Less
            && mode(volume) == mode(claim)
            && volume.at(&["metadata", "deletionTimestamp"]).is_none();
        if !usable {
            continue;
        }
        let reachable = allowed.is_none_or(|allowed| allowed(volume));
        if ours {
            return reachable.then_some(volume);
        }
        let fits = !(allowed.is_none() && delayed)
            && reachable
            && volume.str_at(&["status", "phase"]) == "Available"
            && class_of(volume) == class_of(claim)
            && has_modes(claim, volume)
            && selector.as_ref().is_none_or(|selector| selector.matches_object(volume));
        if fits && smallest.is_none_or(|known| size(volume).cmp(&size(known)) == Ordering::Less) {
            smallest = Some(volume);
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{list, object};

    fn volume(name: &str, size: &str, class: &str) -> Value {
        object! {
            "metadata": object! { "name": name, "labels": object! { "disk": name } },
            "spec": object! {
                "capacity": object! { "storage": size }, "accessModes": list!["ReadWriteOnce", "ReadOnlyMany"],
                "storageClassName": class,
            },
            "status": object! { "phase": "Available" },
        }
    }
    fn claim(size: &str, class: &str) -> Value {
        object! {
            "metadata": object! { "namespace": "ns", "name": "c", "uid": "u" },
            "spec": object! {
                "accessModes": list!["ReadWriteOnce"], "storageClassName": class,
                "resources": object! { "requests": object! { "storage": size } },
            },
        }
    }
    fn with(mut tree: Value, field: &'static str, value: Value) -> Value {
        tree.as_object_mut().unwrap().object_mut("spec").insert(field, value);
        tree
    }
    fn found(claim: &Value, volumes: &[Value]) -> String {
        let found = find_matching(claim, volumes.iter(), None, false);
        found.map_or("", |volume| volume.str_at(&["metadata", "name"])).to_owned()
    }

    #[test]
    fn the_smallest_that_does_is_taken() {
        let volumes = [volume("small", "1Gi", "a"), volume("large", "9Gi", "a"), volume("right", "5Gi", "a")];
        assert_eq!(found(&claim("4Gi", "a"), &volumes), "right");
        assert_eq!(found(&claim("10Gi", "a"), &volumes), "");
        assert_eq!(found(&claim("4Gi", "b"), &volumes), "");
        assert_eq!(found(&with(claim("1Gi", "a"), "accessModes", list!["ReadWriteMany"]), &volumes), "");
        let selector = object! { "matchLabels": object! { "disk": "large" } };
        assert_eq!(found(&with(claim("4Gi", "a"), "selector", selector), &volumes), "large");
        assert_eq!(found(&with(claim("4Gi", "a"), "volumeMode", Value::from("Block")), &volumes), "");
        let delayed = find_matching(&claim("4Gi", "a"), volumes.iter(), None, true);
        assert!(delayed.is_none(), "the scheduler's to choose");
        let near = |volume: &Value| volume.str_at(&["metadata", "name"]) == "large";
        let near = find_matching(&claim("4Gi", "a"), volumes.iter(), Some(&near), true);
        assert_eq!(near.map(|volume| volume.str_at(&["metadata", "name"])), Some("large"));
    }

    #[test]
    fn what_is_meant_for_a_claim_comes_first_and_what_is_anothers_never() {
        let meant = |uid: &str| object! { "namespace": "ns", "name": "c", "uid": uid };
        let volumes =
            |uid: &str| [volume("right", "5Gi", "a"), with(volume("meant", "9Gi", "a"), "claimRef", meant(uid))];
        assert_eq!(found(&claim("4Gi", "a"), &volumes("u")), "meant");
        assert_eq!(found(&claim("4Gi", "a"), &volumes("")), "meant");
        assert_eq!(found(&claim("4Gi", "a"), &volumes("other")), "right");
    }

    #[test]
    fn a_named_volume_has_to_do() {
        let volume = volume("v", "5Gi", "a");
        assert_eq!(mismatch(&volume, &claim("5Gi", "a")), None);
        assert_eq!(mismatch(&volume, &claim("6Gi", "a")), Some("requested PV is too small"));
        assert_eq!(mismatch(&volume, &claim("5Gi", "")), Some("storageClassName does not match"));
    }
}
