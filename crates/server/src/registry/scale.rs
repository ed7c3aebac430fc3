//! The `scale` subresource: an `autoscaling/v1` `Scale` made of three fields of the object, and put back into one.
//!
//! Mirrors `ScaleREST` of the workload kinds and of custom resources.

use super::respond::Scope;
use crate::kinds::ScalePaths;
use skiff_machinery::schema::{StructRef, Type, builtin};
use skiff_machinery::selector::Selector;
use skiff_machinery::{ApiError, GroupVersion, Map, Value};

/// The kind's type.
pub(super) fn schema() -> Type {
    builtin::by_kind("autoscaling", "v1", "Scale").map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found)))
}

/// `autoscaling/v1`, as a version that bodies are decoded in.
pub(super) fn version() -> crate::kinds::Version {
    crate::kinds::Version {
        group_version: GroupVersion::new("autoscaling", "v1"),
        served: true,
        schema: schema(),
        conversion: None,
        deprecation_warning: None,
        custom: None,
    }
}

fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|part| !part.is_empty()).try_fold(object, |node, key| node.get(key))
}

/// The `Scale` of an object.
pub(super) fn of(object: &Value, paths: &ScalePaths) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            metadata.insert(field, value.clone());
        }
    }
    let replicas = |path: &str| at(object, path).and_then(Value::as_int).unwrap_or(0);
    let selector = paths.selector.as_deref().and_then(|path| at(object, path)).map(|selector| match selector {
        Value::String(text) => text.clone(),
        // Replication controllers have a plain set of labels.
        Value::Object(map) if !map.contains_key("matchLabels") && !map.contains_key("matchExpressions") => {
            Selector::from_set(map).to_string()
        }
        other => Selector::from_label_selector(Some(other)).map(|selector| selector.to_string()).unwrap_or_default(),
    });
    let mut status = Map::new();
    status.insert("replicas", replicas(&paths.status_replicas));
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        status.insert("selector", selector);
    }
    let mut spec = Map::new();
    let wanted = replicas(&paths.spec_replicas);
    if wanted != 0 {
        spec.insert("replicas", wanted);
    }
    let mut scale = Map::new();
    scale.insert("kind", "Scale");
    scale.insert("apiVersion", "autoscaling/v1");
    scale.insert("metadata", metadata);
    scale.insert("spec", spec);
    scale.insert("status", status);
    Value::Object(scale)
}

/// Puts the wanted replicas of a `Scale` into its object.
pub(super) fn put(scope: &Scope, object: &mut Value, scale: &Value, paths: &ScalePaths) -> Result<(), ApiError> {
    let replicas = scale.at(&["spec", "replicas"]).and_then(Value::as_int).unwrap_or(0);
    if replicas < 0 {
        let path = skiff_machinery::FieldPath::new("spec");
        let error = skiff_machinery::FieldError::invalid(
            &path.child("replicas"),
            replicas,
            "must be greater than or equal to 0",
        );
        let name = scale.str_at(&["metadata", "name"]);
        return Err(ApiError::invalid(&scope.resource.group_kind(), name, &[error]));
    }
    let mut parts: Vec<&str> = paths.spec_replicas.split('.').filter(|part| !part.is_empty()).collect();
    let last = parts.pop().unwrap_or("replicas").to_owned();
    let Some(mut map) = object.as_object_mut() else { return Ok(()) };
    for part in parts {
        map = map.object_mut(part.to_owned());
    }
    map.insert(last, replicas);
    let revision = scale.str_at(&["metadata", "resourceVersion"]);
    if !revision.is_empty() {
        super::meta::metadata_mut(object).insert("resourceVersion", revision);
    }
    Ok(())
}
