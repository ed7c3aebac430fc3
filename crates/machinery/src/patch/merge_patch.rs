//! JSON merge patch (RFC 7386) as upstream applies and makes it: `gopkg.in/evanphx/json-patch.v4` (`merge.go`) and
//! `k8s.io/apimachinery/pkg/util/jsonmergepatch`.

use crate::error::ApiError;
use crate::value::{Map, Name, Value};
use std::cmp::Ordering;

/// Entries of two maps side by side, in key order.
pub(crate) fn join(left: Map, right: Map) -> impl Iterator<Item = (Name, Option<Value>, Option<Value>)> {
    let mut left = left.into_iter().peekable();
    let mut right = right.into_iter().peekable();
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((left, _)), Some((right, _))) => left.cmp(right),
        };
        match order {
            Ordering::Less => left.next().map(|(key, value)| (key, Some(value), None)),
            Ordering::Greater => right.next().map(|(key, value)| (key, None, Some(value))),
            Ordering::Equal => {
                let (key, old) = left.next()?;
                Some((key, Some(old), right.next().map(|(_, value)| value)))
            }
        }
    })
}

/// Entries that come sorted, as a map.
pub(crate) fn sorted(entries: Vec<(Name, Value)>) -> Map {
    Map::from_entries(entries).0
}

/// Removes null members of objects, also of those inside lists (`pruneNils`).
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (_, value) in map.iter_mut() {
                prune(value);
            }
            map.retain(|_, value| !value.is_null());
        }
        Value::Array(items) => {
            for item in items {
                prune(item);
            }
        }
        _ => {}
    }
}

/// Applies a decoded patch document. Anything but an object is refused.
pub fn apply(document: Value, patch: Value) -> Result<Value, ApiError> {
    match (document, patch) {
        (Value::Object(document), Value::Object(patch)) => Ok(Value::Object(merge(document, patch))),
        (_, Value::Object(patch)) => Ok(Value::Object(merge(Map::new(), patch))),
        (_, Value::Null) => Err(ApiError::bad_request("Invalid JSON Patch")),
        (_, other) => {
            let kind = match other {
                Value::Bool(_) => "bool",
                ref other => other.type_name(),
            };
            Err(ApiError::bad_request(format!(
                "error decoding patch: json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
            )))
        }
    }
}

fn merge(document: Map, patch: Map) -> Map {
    let mut merged = Vec::with_capacity(document.len() + patch.len());
    for (key, old, new) in join(document, patch) {
        let value = match (old, new) {
            (Some(old), None) => old,
            (_, Some(Value::Null)) => continue,
            (Some(Value::Object(old)), Some(Value::Object(new))) => Value::Object(merge(old, new)),
            // Upstream prunes what replaces anything but an object.
            (Some(Value::Object(_)), Some(new)) => new,
            (_, Some(mut new)) => {
                prune(&mut new);
                new
            }
            (None, None) => continue,
        };
        merged.push((key, value));
    }
    sorted(merged)
}

/// The patch that makes `modified` of `original` (`CreateMergePatch`): an empty object when they are the same.
pub fn diff(original: &Value, modified: &Value) -> Value {
    match (original, modified) {
        (Value::Object(original), Value::Object(modified)) => Value::Object(diff_maps(original, modified)),
        (_, modified) => modified.clone(),
    }
}

fn diff_maps(original: &Map, modified: &Map) -> Map {
    let mut patch = Vec::new();
    for (key, new) in modified.iter() {
        match (original.get(key), new) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                let inner = diff_maps(old, new);
                if !inner.is_empty() {
                    patch.push((key.clone(), Value::Object(inner)));
                }
            }
            _ => patch.push((key.clone(), new.clone())),
        }
    }
    for key in original.keys() {
        if !modified.contains_key(key) {
            patch.push((key.clone(), Value::Null));
        }
    }
    sorted(patch)
}

/// Keeps only nulls (deletions), or everything but nulls, dropping objects that become empty
/// (`keepOrDeleteNullInObj`).
fn keep(value: Map, nulls: bool) -> Map {
    let kept = value.into_iter().filter_map(|(key, value)| match value {
        Value::Null => nulls.then_some((key, Value::Null)),
        Value::Object(inner) => {
            let was_empty = inner.is_empty();
            let inner = keep(inner, nulls);
            // An empty object that was empty before is an addition.
            (!inner.is_empty() || (was_empty && !nulls)).then_some((key, Value::Object(inner)))
        }
        other => (!nulls).then_some((key, other)),
    });
    sorted(kept.collect())
}

/// Two patches as one; `second` wins (`MergeMergePatches`).
fn combine(first: Map, second: Map) -> Map {
    let combined = join(first, second).filter_map(|(key, old, new)| match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => Some((key, Value::Object(combine(old, new)))),
        (_, Some(new)) => Some((key, new)),
        (Some(old), None) => Some((key, old)),
        (None, None) => None,
    });
    sorted(combined.collect())
}

/// What client-side apply sends for kinds without a strategic merge (`CreateThreeWayJSONMergePatch`): additions and
/// changes from `current` to `modified`, deletions from `original` (the last applied) to `modified`.
pub fn three_way(original: &Map, modified: &Map, current: &Map) -> Map {
    let changes = keep(diff_maps(current, modified), false);
    let deletions = keep(diff_maps(original, modified), true);
    combine(deletions, changes)
}
