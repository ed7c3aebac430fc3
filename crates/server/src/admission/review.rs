//! A write as webhooks and policies see it: `AdmissionRequest`, objects in the version that was asked for, and the way back.
//!
//! Mirrors `apiserver/pkg/admission/plugin/webhook/request` and `plugin/webhook/generic/conversion.go`.

use super::attributes::named;
use super::matching::{kind_of, request_version};
use super::{Attributes, Reader};
use crate::kinds::SubresourceBehaviour;
use crate::kinds::tree::Tree;
use skiff_machinery::{ApiError, Map, Value, object};
use std::sync::Arc;

/// Whether the object of a request is the kind itself (or a view of it), rather than one of a subresource's own.
pub(super) fn is_own_kind(attributes: &Attributes<'_>) -> bool {
    let sub = attributes.resource.subresources.iter().find(|sub| sub.name == attributes.subresource);
    match sub.map(|sub| &sub.behaviour) {
        None | Some(SubresourceBehaviour::View(_) | SubresourceBehaviour::Scale(_)) => true,
        Some(SubresourceBehaviour::Action(_) | SubresourceBehaviour::Connect(_)) => false,
    }
}

/// An object as a version of its kind shows it.
pub(super) fn shown(attributes: &Attributes<'_>, object: &Value, version: usize) -> Result<Value, ApiError> {
    let mut object = object.clone();
    if is_own_kind(attributes) && !object.is_null() {
        let resource = attributes.resource;
        let version = &resource.versions[version];
        if let Some(conversion) = &version.conversion {
            conversion.to_served(&mut object)?;
        }
        object.set("apiVersion", version.group_version.to_string());
        object.set("kind", resource.kind.as_str());
    }
    Ok(object)
}

/// `AdmissionRequest`.
pub(super) fn request(attributes: &Attributes<'_>, version: usize) -> Result<Value, ApiError> {
    let mut request = facts(attributes, version);
    let part = |object: Option<&Value>| shown_or_null(attributes, object, version);
    let (object, old) = (part(attributes.object.as_ref())?, part(attributes.old.as_deref())?);
    if let Some(request) = request.as_object_mut() {
        request.insert("object", object);
        request.insert("oldObject", old);
        request.insert("dryRun", attributes.context.dry_run);
        request.insert("options", attributes.options.clone().unwrap_or_default());
    }
    Ok(request)
}

/// The same for an object that may not be there.
pub(super) fn shown_or_null(
    attributes: &Attributes<'_>,
    object: Option<&Value>,
    version: usize,
) -> Result<Value, ApiError> {
    object.map_or(Ok(Value::Null), |object| shown(attributes, object, version))
}

/// `AdmissionRequest` without its objects: what expressions know as `request`.
pub(super) fn facts(attributes: &Attributes<'_>, version: usize) -> Value {
    let resource = attributes.resource;
    let asked = request_version(attributes);
    let kind = |version: usize| {
        let (group, version, kind) = kind_of(attributes, version);
        object! { "group": group, "version": version, "kind": kind }
    };
    let of = |version: usize| {
        let gv = &resource.versions[version].group_version;
        object! { "group": gv.group.as_str(), "version": gv.version.as_str(), "resource": resource.name.resource.as_str() }
    };
    let user = &attributes.context.user;
    let mut user_info = Map::new();
    user_info.insert("username", user.name.as_str());
    if !user.uid.is_empty() {
        user_info.insert("uid", user.uid.as_str());
    }
    let list = |items: &[String]| Value::Array(items.iter().map(|item| item.as_str().into()).collect());
    if !user.groups.is_empty() {
        user_info.insert("groups", list(&user.groups));
    }
    if !user.extra.is_empty() {
        let extra: Map = user.extra.iter().map(|(key, values)| (key.clone(), list(values))).collect();
        user_info.insert("extra", extra);
    }
    let mut request = Map::new();
    request.insert("uid", uuid::Uuid::new_v4().to_string());
    request.insert("kind", kind(version));
    request.insert("resource", of(version));
    request.insert("requestKind", kind(asked));
    request.insert("requestResource", of(asked));
    if !attributes.subresource.is_empty() {
        request.insert("subResource", attributes.subresource);
        request.insert("requestSubResource", attributes.subresource);
    }
    for (field, text) in [("name", attributes.name), ("namespace", attributes.namespace)] {
        if !text.is_empty() {
            request.insert(field, text);
        }
    }
    request.insert("operation", attributes.operation.as_str());
    request.insert("userInfo", user_info);
    request.insert("dryRun", attributes.context.dry_run);
    request.insert("options", attributes.options.clone().unwrap_or_default());
    Value::Object(request)
}

/// An object that somebody made of one that was shown to him, in the storage version again.
pub(super) fn returned(attributes: &Attributes<'_>, version: usize, mut after: Value) -> Result<Value, String> {
    if !is_own_kind(attributes) {
        return Ok(after);
    }
    let resource = attributes.resource;
    let version = &resource.versions[version];
    let (kind, api_version) = (after.text("kind"), after.text("apiVersion"));
    if kind != resource.kind || api_version != version.group_version.to_string() {
        return Err(format!("the patch made another kind of the object: {api_version}, Kind={kind}"));
    }
    // What was put in has defaults like anything a client sends.
    resource.strategy.default(&version.group_version, &mut after);
    if let Some(conversion) = &version.conversion {
        conversion.to_storage(&mut after).map_err(|error| error.message().to_owned())?;
    }
    after.set("apiVersion", resource.storage.to_string());
    Ok(after)
}

/// The namespace that a request is in, or is about.
pub(super) async fn namespace(
    reader: &dyn Reader,
    attributes: &Attributes<'_>,
) -> Result<Option<Arc<Value>>, ApiError> {
    let namespaces = named("", "namespaces");
    if attributes.is_of("", "namespaces") && attributes.subresource.is_empty() {
        let new = attributes.object.clone().filter(|object| !object.is_null()).map(Arc::new);
        return Ok(new.or_else(|| attributes.old.clone()));
    }
    if attributes.namespace.is_empty() {
        return Ok(None);
    }
    if let Some(found) = reader.get(&namespaces, "", attributes.namespace) {
        return Ok(Some(found));
    }
    match reader.fetch(&namespaces, "", attributes.namespace).await? {
        Some(found) => Ok(Some(found)),
        None => Err(ApiError::not_found(&namespaces, attributes.namespace)),
    }
}
