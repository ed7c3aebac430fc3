//! Finding a strategic merge patch: two-way (what a controller sends) and three-way (what client-side apply sends).
//!
//! Mirrors `CreateTwoWayMergeMapPatch` and `CreateThreeWayMergePatch` with `overwrite`. Not here: the check for conflicts
//! that `kubectl apply --overwrite=false` asks for.

use super::merge_patch::sorted;
use super::strategic::{
    DELETE_FROM_LIST, DIRECTIVE, ItemKind, Key, Meta, Mode, RETAIN_KEYS, Result, SET_ELEMENT_ORDER, check_merge_keys,
    go_text, item_kind, merge_map,
};
use crate::schema::Type;
use crate::value::{Map, Name, Value};
use std::collections::HashMap;

/// Which half of a difference is wanted.
#[derive(Clone, Copy)]
struct Options {
    changes: bool,
    deletions: bool,
    retain_keys: bool,
}

/// The patch that makes `modified` of `original`; an empty object when they are the same.
pub fn diff(original: &Value, modified: &Value, ty: &Type) -> Result<Value> {
    let options = Options { changes: true, deletions: true, retain_keys: false };
    let empty = Map::new();
    let original = original.as_object().unwrap_or(&empty);
    let modified = modified.as_object().unwrap_or(&empty);
    diff_maps(original, modified, ty, options).map(Value::Object)
}

/// Additions and changes from `current` to `modified`, deletions from `original` (the last applied) to `modified`.
pub fn three_way(original: &Value, modified: &Value, current: &Value, ty: &Type) -> Result<Value> {
    let empty = Map::new();
    let map = |value| Value::as_object(value).unwrap_or(&empty);
    let (original, modified, current) = (map(original), map(modified), map(current));
    let changes = diff_maps(current, modified, ty, Options { changes: true, deletions: false, retain_keys: false })?;
    let deletions = diff_maps(original, modified, ty, Options { changes: false, deletions: true, retain_keys: false })?;
    merge_map(deletions, changes, ty, Mode::Combine).map(Value::Object)
}

/// `diffMaps`.
fn diff_maps(original: &Map, modified: &Map, ty: &Type, options: Options) -> Result<Map> {
    let inner = Options { retain_keys: false, ..options };
    let mut patch: Vec<(Name, Value)> = Vec::new();
    for (key, new) in modified.iter() {
        let Some(old) = original.get(key) else {
            if options.changes {
                patch.push((key.clone(), new.clone()));
            }
            continue;
        };
        match (old, new) {
            (old, new) if old == new => {}
            (Value::Object(old), Value::Object(new)) => {
                let meta = Meta::of(ty, key)?;
                if meta.strategy.replace {
                    if options.changes {
                        patch.push((key.clone(), Value::Object(new.clone())));
                    }
                } else {
                    let inner = Options { retain_keys: meta.strategy.retain_keys, ..inner };
                    let found = diff_maps(old, new, meta.ty, inner)?;
                    if !found.is_empty() {
                        patch.push((key.clone(), Value::Object(found)));
                    }
                }
            }
            (Value::Array(old), Value::Array(new)) => {
                let meta = Meta::of(ty, key)?;
                if meta.strategy.merge {
                    let inner = Options { retain_keys: meta.strategy.retain_keys, ..inner };
                    diff_lists(key, old, new, &meta, inner, &mut patch)?;
                } else if options.changes {
                    patch.push((key.clone(), Value::Array(new.clone())));
                }
            }
            _ if options.changes => patch.push((key.clone(), new.clone())),
            _ => {}
        }
    }
    if options.deletions {
        let gone = original.keys().filter(|key| !modified.contains_key(key));
        patch.extend(gone.map(|key| (key.clone(), Value::Null)));
    }
    if options.retain_keys {
        let kept: Vec<Value> =
            modified.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str().into()).collect();
        let clears = original.iter().any(|(key, value)| !value.is_null() && !modified.contains_key(key));
        if !kept.is_empty() && (!patch.is_empty() || clears) {
            patch.push((Name::Static(RETAIN_KEYS), Value::Array(kept)));
        }
    }
    Ok(sorted(patch))
}

/// `diffLists`: what to merge into the list, what to delete from it, and its order, each under its own key.
fn diff_lists(
    key: &Name,
    old: &[Value],
    new: &[Value],
    meta: &Meta<'_>,
    options: Options,
    patch: &mut Vec<(Name, Value)>,
) -> Result<()> {
    if old.is_empty() {
        if options.changes && !new.is_empty() {
            patch.push((key.clone(), Value::Array(new.to_vec())));
        }
        return Ok(());
    }
    let (list, order) = match item_kind(&[old, new])? {
        Some(ItemKind::Maps) => diff_lists_of_maps(old, new, meta, options)?,
        _ => {
            let (added, deleted) = diff_sets(old, new, options);
            let ordered = (options.deletions && !deleted.is_empty()) || options.changes;
            if !deleted.is_empty() {
                patch.push((format!("{DELETE_FROM_LIST}/{key}").into(), Value::Array(deleted)));
            }
            (added, ordered.then(|| new.to_vec()))
        }
    };
    if !list.is_empty() {
        patch.push((key.clone(), Value::Array(list)));
    }
    if let Some(order) = order.filter(|order| !order.is_empty()) {
        patch.push((format!("{SET_ELEMENT_ORDER}/{key}").into(), Value::Array(order)));
    }
    Ok(())
}

/// Scalars to add, in the order of `new`, and to delete, sorted by their text.
fn diff_sets(old: &[Value], new: &[Value], options: Options) -> (Vec<Value>, Vec<Value>) {
    let count = |list: &[Value]| {
        let mut counts: HashMap<Key, usize> = HashMap::new();
        for key in list.iter().filter_map(Key::of) {
            *counts.entry(key).or_default() += 1;
        }
        counts
    };
    // What stands more often in one list than in the other; upstream compares sorted lists with duplicates.
    let surplus = |list: &[Value], mut against: HashMap<Key, usize>| -> Vec<Value> {
        let mut rest = Vec::new();
        for item in list {
            match Key::of(item).and_then(|key| against.get_mut(&key)) {
                Some(left) if *left > 0 => *left -= 1,
                _ => rest.push(item.clone()),
            }
        }
        rest
    };
    let added = if options.changes { surplus(new, count(old)) } else { Vec::new() };
    let mut deleted = if options.deletions { surplus(old, count(new)) } else { Vec::new() };
    deleted.sort_by(|left, right| go_text(left).cmp(&go_text(right)));
    deleted.dedup();
    (added, deleted)
}

/// `diffListsOfMaps`, and the order when contents or order change.
fn diff_lists_of_maps(
    old: &[Value],
    new: &[Value],
    meta: &Meta<'_>,
    options: Options,
) -> Result<(Vec<Value>, Option<Vec<Value>>)> {
    let merge_key = meta.merge_key;
    check_merge_keys(old, merge_key)?;
    check_merge_keys(new, merge_key)?;
    // Upstream compares merge keys by their text.
    let text = |item: &Value| item.get(merge_key).map(|key| go_text(key).into_owned()).unwrap_or_default();
    let known: HashMap<String, &Value> = old.iter().rev().map(|item| (text(item), item)).collect();
    let mut list = Vec::new();
    let mut kept = std::collections::HashSet::new();
    for item in new {
        let key = text(item);
        match (known.get(&key).and_then(|old| old.as_object()), item.as_object()) {
            (Some(before), Some(after)) => {
                let mut found = diff_maps(before, after, meta.item(), options)?;
                if !found.is_empty() {
                    found.insert(merge_key.to_owned(), after.get(merge_key).cloned().unwrap_or_default());
                    list.push(Value::Object(found));
                }
            }
            _ if options.changes => list.push(item.clone()),
            _ => {}
        }
        kept.insert(key);
    }
    if options.deletions {
        let mut gone: Vec<(String, &Value)> = known.into_iter().filter(|(key, _)| !kept.contains(key)).collect();
        gone.sort_by(|left, right| left.0.cmp(&right.0));
        list.extend(gone.into_iter().map(|(_, item)| {
            let mut deletion = Map::new();
            deletion.insert(merge_key.to_owned(), item.get(merge_key).cloned().unwrap_or_default());
            deletion.insert(DIRECTIVE, "delete");
            Value::Object(deletion)
        }));
    }
    let same_order = old.len() == new.len()
        && old.iter().zip(new).all(|(before, after)| before.get(merge_key) == after.get(merge_key));
    let ordered = (options.changes && (!list.is_empty() || !same_order)) || (options.deletions && !list.is_empty());
    let order = ordered.then(|| {
        let name = |item: &Value| {
            let mut only = Map::new();
            only.insert(merge_key.to_owned(), item.get(merge_key).cloned().unwrap_or_default());
            Value::Object(only)
        };
        new.iter().map(name).collect()
    });
    Ok((list, order))
}
