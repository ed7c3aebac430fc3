//! Volumes behind a claim (`desired_state_of_world_populator.go: getPVCExtractPV`): the claim's bound persistent volume is
//! used as a volume of its own kind.
//!
//! Not here yet: persistent volumes other than `hostPath` and `local`, block devices, mount options, the check of a volume's
//! node affinity (the scheduler asks it).

use super::{Mounted, VolumeError, host_path, io_error};
use crate::pod::spec::Pod;
use rustix::fs::Gid;
use skiff_machinery::{Map, Value};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A volume of a pod that stands for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// `persistentVolumeClaim`: somebody's.
    Claim,
    /// `ephemeral`: the pod's own.
    Ephemeral,
}

/// The claim that a volume stands for, by name.
pub fn claim_of(pod: &Pod, volume: &Value) -> Option<(String, Behind)> {
    let set = |field: &str| volume.get(field).is_some_and(|source| !source.is_null());
    if set("persistentVolumeClaim") {
        return Some((volume.str_at(&["persistentVolumeClaim", "claimName"]).to_owned(), Behind::Claim));
    }
    set("ephemeral").then(|| (format!("{}-{}", pod.name(), volume.str_at(&["name"])), Behind::Ephemeral))
}

/// The name of the volume that a claim is bound to, if the pod may use it now.
pub fn bound<'c>(pod: &Pod, name: &str, behind: Behind, claim: Option<&'c Value>) -> Result<&'c str, String> {
    let place = format!("error processing PVC {}/{name}", pod.namespace());
    let Some(claim) = claim else {
        return Err(format!(
            "{place}: failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found"
        ));
    };
    let owned = || {
        let owners = claim.items_at(&["metadata", "ownerReferences"]).iter();
        owners.into_iter().any(|owner| {
            owner.str_at(&["uid"]) == pod.uid() && owner.get("controller").and_then(Value::as_bool) == Some(true)
        })
    };
    if behind == Behind::Ephemeral && !owned() {
        return Err(format!("{place}: PVC {}/{name} was not created for pod {}", pod.namespace(), pod.name()));
    }
    // One that runs already has it.
    let runs = pod.0.str_at(&["status", "phase"]) == "Running";
    if claim.at(&["metadata", "deletionTimestamp"]).is_some() && !runs {
        return Err(format!("{place}: PVC is being deleted"));
    }
    let volume = claim.str_at(&["spec", "volumeName"]);
    if claim.str_at(&["status", "phase"]) != "Bound" || volume.is_empty() {
        return Err(format!("{place}: PVC is not bound"));
    }
    Ok(volume)
}

/// Whether a persistent volume is the claim's.
pub fn belongs(volume: Option<&Value>, name: &str, claim: &Value) -> Result<(), String> {
    let Some(volume) = volume else {
        return Err(format!("failed to fetch PV {name} from API server: persistentvolumes \"{name}\" not found"));
    };
    if volume.str_at(&["spec", "claimRef", "uid"]) != claim.str_at(&["metadata", "uid"]) {
        return Err(format!("PV {name} is bound to another claim"));
    }
    Ok(())
}

/// Sets up what a claim is bound to. Blocking.
pub(super) fn set_up(pod: &Pod, volume: &Value, bound: &Value, group: Option<i64>) -> Result<Mounted, VolumeError> {
    let name = volume.str_at(&["name"]);
    let spec = bound.get("spec").unwrap_or(&Value::Null);
    let unbuilt = |kind: &str| VolumeError::Unbuilt { name: name.to_owned(), kind: kind.to_owned() };
    if spec.str_at(&["volumeMode"]) == "Block" {
        return Err(unbuilt("block"));
    }
    let set = |field: &str| spec.get(field).filter(|source| !source.is_null());
    let mut mounted = if let Some(source) = set("hostPath") {
        host_path(name, source)?
    } else if let Some(source) = set("local") {
        local(pod, name, source, group)?
    } else {
        // The kind is the one field that no other kind of volume has.
        const OTHERS: [&str; 9] = [
            "accessModes",
            "capacity",
            "claimRef",
            "mountOptions",
            "nodeAffinity",
            "persistentVolumeReclaimPolicy",
            "storageClassName",
            "volumeMode",
            "volumeAttributesClassName",
        ];
        let fields = spec.as_object().into_iter().flat_map(Map::keys).map(|key| key.as_str());
        let kind = fields.into_iter().find(|field| !OTHERS.contains(field)).unwrap_or("persistent");
        return Err(unbuilt(kind));
    };
    mounted.read_only |= volume.at(&["persistentVolumeClaim", "readOnly"]).and_then(Value::as_bool) == Some(true);
    Ok(mounted)
}

/// A directory of this machine. It is there, or nothing is: an empty one in its place would look like lost data.
fn local(pod: &Pod, name: &str, source: &Value, group: Option<i64>) -> Result<Mounted, VolumeError> {
    let path = PathBuf::from(source.str_at(&["path"]));
    let step = || format!("path {}", path.display());
    std::fs::metadata(&path).map_err(io_error(name, step()))?;
    if let Some(group) = group.and_then(|group| u32::try_from(group).ok()) {
        let policy = pod.0.str_at(&["spec", "securityContext", "fsGroupChangePolicy"]);
        let right = |path: &Path| -> io::Result<bool> {
            let found = std::fs::metadata(path)?;
            Ok(found.gid() == group && found.mode() & 0o2070 == 0o2070)
        };
        if policy != "OnRootMismatch" || !right(&path).map_err(io_error(name, step()))? {
            give_to_group(&path, group).map_err(io_error(name, "setting the group"))?;
        }
    }
    Ok(Mounted { path, read_only: false })
}

/// Everything below belongs to the group, which may do what it may (`volume_linux.go: SetVolumeOwnership`).
fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?;
    rustix::fs::chownat(
        rustix::fs::CWD,
        path,
        None::<rustix::fs::Uid>,
        Some(Gid::from_raw(group)),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if found.is_symlink() {
        return Ok(());
    }
    let more = if found.is_dir() { 0o2770 } else { 0o660 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(found.mode() & 0o7777 | more))?;
    if found.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_to_group(&entry?.path(), group)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};
    use std::sync::Arc;

    fn pod() -> Pod {
        Pod(Arc::new(object! { "metadata": object! { "name": "p", "namespace": "n", "uid": "u" } }))
    }
    fn claim(phase: &str) -> Value {
        object! {
            "metadata": object! { "uid": "c" }, "spec": object! { "volumeName": "pv" },
            "status": object! { "phase": phase },
        }
    }

    #[test]
    fn a_claim_has_to_be_bound() {
        let of = |claim: Option<&Value>| bound(&pod(), "x", Behind::Claim, claim).map(str::to_owned);
        assert_eq!(of(Some(&claim("Bound"))).unwrap(), "pv");
        assert_eq!(of(Some(&claim("Pending"))).unwrap_err(), "error processing PVC n/x: PVC is not bound");
        assert!(of(None).unwrap_err().contains("not found"));
        let other = object! { "spec": object! { "claimRef": object! { "uid": "other" } } };
        assert!(belongs(Some(&other), "pv", &claim("Bound")).is_err() && belongs(None, "pv", &claim("Bound")).is_err());
    }

    #[test]
    fn an_ephemeral_volumes_claim_is_the_pods_own() {
        let volume = object! { "name": "v", "ephemeral": object! {} };
        assert_eq!(claim_of(&pod(), &volume), Some(("p-v".to_owned(), Behind::Ephemeral)));
        let mut own = claim("Bound");
        assert!(bound(&pod(), "p-v", Behind::Ephemeral, Some(&own)).is_err());
        let owners = list![object! { "uid": "u", "controller": true }];
        own.as_object_mut().unwrap().object_mut("metadata").insert("ownerReferences", owners);
        assert!(bound(&pod(), "p-v", Behind::Ephemeral, Some(&own)).is_ok());
    }

    #[test]
    fn volumes_are_those_of_their_kind() {
        let directory = tempfile::tempdir().unwrap();
        let volume = object! { "name": "v", "persistentVolumeClaim": object! { "claimName": "x", "readOnly": true } };
        let with = |kind: &'static str, source: Value| {
            let mut spec = Map::new();
            spec.insert("capacity", object! {});
            spec.insert(kind, source);
            set_up(&pod(), &volume, &object! { "spec": spec }, None)
        };
        let path = directory.path().to_str().unwrap();
        let mounted = with("local", object! { "path": path }).unwrap();
        assert_eq!((mounted.path.to_str().unwrap(), mounted.read_only), (path, true));
        let absent = directory.path().join("absent");
        assert!(with("local", object! { "path": absent.to_str().unwrap() }).is_err());
        assert!(!absent.exists());
        assert!(with("nfs", object! {}).unwrap_err().to_string().contains("nfs volumes are not supported"));
    }
}
