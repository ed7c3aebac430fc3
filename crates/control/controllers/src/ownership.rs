//! Who controls what: owner references, and how a controller claims what matches its selector
//! (`controller/controller_ref_manager.go`).

use skiff_client::{Api, ClientError, Patch, WriteOptions};
use skiff_machinery::{Map, Value, list, object};

/// The owner reference with `controller: true`.
pub fn controller_of(tree: &Value) -> Option<&Value> {
    let owners = tree.items_at(&["metadata", "ownerReferences"]);
    owners.iter().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

/// An owner reference that makes `owner` the controller.
pub fn controller_reference(owner: &Value, api_version: &str, kind: &str) -> Value {
    object! {
        "apiVersion": api_version,
        "kind": kind,
        "name": owner.str_at(&["metadata", "name"]),
        "uid": owner.str_at(&["metadata", "uid"]),
        "controller": true,
        "blockOwnerDeletion": true,
    }
}

/// What to do about an object that could be a controller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the controller's.
    Keep,
    /// It has no controller and matches: take it.
    Adopt,
    /// It is the controller's but no longer matches: let it go.
    Release,
    /// It is somebody else's, or nobody's and does not match.
    Ignore,
}

/// Decides about one object. `owner_uid` is its present controller's; `dying` is the object's, `owner_dying` ours.
pub fn decide_claim(owner_uid: Option<&str>, our_uid: &str, matches: bool, dying: bool, owner_dying: bool) -> Claim {
    match owner_uid {
        Some(uid) if uid != our_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_dying => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_dying || dying || !matches => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Makes `owner` the controller of an object; the uid in the patch guards against a namesake.
pub async fn adopt(api: &Api, name: &str, uid: &str, reference: Value) -> Result<Value, ClientError> {
    adopt_with(api, name, uid, reference, None).await
}

/// The same, with a finalizer that marks it as the owner's.
pub async fn adopt_with(
    api: &Api,
    name: &str,
    uid: &str,
    reference: Value,
    finalizer: Option<&str>,
) -> Result<Value, ClientError> {
    let mut metadata = Map::new();
    metadata.insert("ownerReferences", list![reference]);
    metadata.insert("uid", uid);
    if let Some(finalizer) = finalizer {
        metadata.insert("finalizers", list![finalizer]);
    }
    let patch = object! { "metadata": metadata };
    api.patch(name, "", &Patch::Strategic(&patch), &WriteOptions::default()).await
}

/// Takes the owner reference with `owner_uid` away from an object.
pub async fn release(api: &Api, name: &str, uid: &str, owner_uid: &str) -> Result<(), ClientError> {
    release_with(api, name, uid, owner_uid, None).await
}

/// The same, with the finalizer that marked it.
pub async fn release_with(
    api: &Api,
    name: &str,
    uid: &str,
    owner_uid: &str,
    finalizer: Option<&str>,
) -> Result<(), ClientError> {
    let mut metadata = Map::new();
    metadata.insert("ownerReferences", list![object! { "$patch": "delete", "uid": owner_uid }]);
    metadata.insert("uid", uid);
    if let Some(finalizer) = finalizer {
        metadata.insert("$deleteFromPrimitiveList/finalizers", list![finalizer]);
    }
    let patch = object! { "metadata": metadata };
    match api.patch(name, "", &Patch::Strategic(&patch), &WriteOptions::default()).await {
        Ok(_) => Ok(()),
        // Gone, or the reference is: what was wanted.
        Err(error) if error.is_not_found() || error.api().is_some_and(|api| api.code() == 422) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_follow_upstream() {
        assert_eq!(decide_claim(Some("us"), "us", true, true, false), Claim::Keep);
        assert_eq!(decide_claim(Some("us"), "us", false, false, false), Claim::Release);
        assert_eq!(decide_claim(Some("us"), "us", false, false, true), Claim::Ignore);
        assert_eq!(decide_claim(Some("them"), "us", true, false, false), Claim::Ignore);
        assert_eq!(decide_claim(None, "us", true, false, false), Claim::Adopt);
        assert_eq!(decide_claim(None, "us", true, true, false), Claim::Ignore);
        assert_eq!(decide_claim(None, "us", true, false, true), Claim::Ignore);
        assert_eq!(decide_claim(None, "us", false, false, false), Claim::Ignore);
    }
}
