//! Strategic merge patch: a merge that knows which lists are merged by a key, which are sets, which are replaced.
//!
//! Mirrors `k8s.io/apimachinery/pkg/util/strategicpatch/patch.go`; what it reads from Go struct tags stands in
//! [`Field::patch`](crate::schema::Field) and `merge_key`. Directives in a patch:
//!
//! - `$patch: replace | delete` in an object: take the patch as it is, or empty the object; in an item of a merged list:
//!   replace the list by the other items, or drop the item with that key.
//! - `$retainKeys: [..]`: drop all other keys of the object.
//! - `$deleteFromPrimitiveList/FIELD: [..]`: take these scalars out of a set.
//! - `$setElementOrder/FIELD: [..]`: the order of a merged list's items.
//!
//! Every step is linear in document and patch (upstream's are quadratic in the length of lists), so that a patch with a
//! hundred thousand items costs milliseconds.

use super::merge_patch::{join, sorted};
use super::unprocessable;
use crate::error::{ApiError, Reason};
use crate::schema::{PatchStrategy, StructType, Type};
use crate::value::{Map, Name, Value};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

pub use super::strategic_diff::{diff, three_way};

pub(super) const DIRECTIVE: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
pub(super) const SET_ELEMENT_ORDER: &str = "$setElementOrder";

/// A patch that does not fit its type or its own form. Texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// A `$deleteFromPrimitiveList` of the wrong form.
    #[error("invalid patch format of primitive list")]
    BadPrimitiveList,
    /// A `$retainKeys` that is no list, or lacks a key of the patch.
    #[error("invalid patch format of retainKeys")]
    BadRetainKeys,
    /// A `$setElementOrder` of the wrong form.
    #[error("invalid patch format of setElementOrder list")]
    BadSetElementOrder,
    /// A list in a list.
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// Anything that upstream answers with 500 and the text alone.
    #[error("{0}")]
    Other(String),
}

impl From<StrategicError> for ApiError {
    /// `interpretStrategicMergePatchError`.
    fn from(error: StrategicError) -> Self {
        match error {
            StrategicError::BadPrimitiveList | StrategicError::BadRetainKeys | StrategicError::BadSetElementOrder => {
                ApiError::bad_request(error.to_string())
            }
            StrategicError::ListOfLists => unprocessable(),
            StrategicError::Other(message) => ApiError::new(500, Reason::Unknown, message),
        }
    }
}

pub(super) type Result<T> = std::result::Result<T, StrategicError>;

pub(super) fn other<T>(message: String) -> Result<T> {
    Err(StrategicError::Other(message))
}

/// A value as Go's `%v` prints it.
pub(super) fn go_text(value: &Value) -> Cow<'_, str> {
    let spaced = |items: Vec<String>| items.join(" ");
    Cow::Owned(match value {
        Value::Null => return Cow::Borrowed("<nil>"),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::String(text) => return Cow::Borrowed(text),
        Value::Array(items) => {
            format!("[{}]", spaced(items.iter().map(|item| go_text(item).into_owned()).collect()))
        }
        Value::Object(map) => return Cow::Owned(go_map(map)),
    })
}
pub(super) fn go_map(map: &Map) -> String {
    let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
    format!("map[{}]", entries.join(" "))
}
/// `reflect.TypeOf(value)` as Go's `%s` prints it.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => GO_LIST,
        Value::Object(_) => GO_MAP,
    }
}
const GO_LIST: &str = "[]interface {}";
const GO_MAP: &str = "map[string]interface {}";

pub(super) fn bad_argument<T>(expected: &str, actual: &Value) -> Result<T> {
    other(format!("expected a {expected}, but received a {}", go_type(actual)))
}
pub(super) fn no_merge_key<T>(map: &Map, key: &str) -> Result<T> {
    other(format!("map: {} does not contain declared merge key: {key}", go_map(map)))
}

/// What a field's metadata says about merging (`LookupPatchMetadataForStruct`, `...ForSlice`).
pub(super) struct Meta<'t> {
    pub(super) ty: &'t Type,
    pub(super) strategy: PatchStrategy,
    pub(super) merge_key: &'t str,
}

static ANY: Type = Type::Json;

impl<'t> Meta<'t> {
    /// The metadata of field or key `name` of something of type `ty`.
    pub(super) fn of(ty: &'t Type, name: &str) -> Result<Self> {
        match ty {
            Type::Struct(entry) => Self::of_field(entry, name),
            Type::SchemaOr(_, entry) => Self::of_field(entry, name),
            Type::Map(item) => Ok(Self::plain(item)),
            Type::RawExtension => missing_field("RawExtension", name),
            Type::Json => missing_field("JSON", name),
            Type::FieldsV1 => missing_field("FieldsV1", name),
            scalar => other(format!(
                "merging an object in json but data type is not map or struct, instead is: {}",
                go_kind(scalar)
            )),
        }
    }
    fn of_field(entry: &'t StructType, name: &str) -> Result<Self> {
        if let Some(field) = entry.field(name) {
            return Ok(Self { ty: &field.ty, strategy: field.patch, merge_key: &field.merge_key });
        }
        match &entry.additional {
            Some(item) => Ok(Self::plain(item)),
            None if entry.preserve_unknown => Ok(Self::plain(&ANY)),
            None => missing_field(entry.go_name(), name),
        }
    }
    fn plain(ty: &'t Type) -> Self {
        Self { ty, strategy: PatchStrategy::default(), merge_key: "" }
    }
    /// The type of items, when this is a list.
    pub(super) fn item(&self) -> &'t Type {
        match self.ty {
            Type::List(item) => item,
            _ => &ANY,
        }
    }
}

fn missing_field<T>(entry: &str, name: &str) -> Result<T> {
    let name = crate::error::quote(name);
    other(format!("unable to find api field in struct {entry} for the json field {name}"))
}

/// `reflect.Kind` of the Go type.
fn go_kind(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Double => "float64",
        Type::String => "string",
        Type::Bytes | Type::List(_) => "slice",
        Type::Map(_) => "map",
        _ => "struct",
    }
}

/// The kind of a list's items: one for all lists (`sliceElementType`). `None` when there are no items.
pub(super) fn item_kind(lists: &[&[Value]]) -> Result<Option<ItemKind>> {
    let mut found: Option<&Value> = None;
    for item in lists.iter().copied().flatten() {
        match found {
            None if matches!(item, Value::Array(_)) => return Err(StrategicError::ListOfLists),
            None => found = Some(item),
            Some(first) if std::mem::discriminant(first) == std::mem::discriminant(item) => {}
            Some(_) => {
                let lists: Vec<Cow<'_, str>> = lists
                    .iter()
                    .map(|list| Cow::Owned(format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" "))))
                    .collect();
                return other(format!("list element types are not identical: [{}]", lists.join(" ")));
            }
        }
    }
    Ok(found.map(|first| if matches!(first, Value::Object(_)) { ItemKind::Maps } else { ItemKind::Scalars }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemKind {
    Maps,
    Scalars,
}

/// A scalar that items are told apart by. Structures are never the same, as Go cannot compare them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Null,
    Bool(bool),
    Int(i64),
    Float(u64),
    Text(Box<str>),
}

impl Key {
    pub(super) fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Int(number) => Self::Int(*number),
            Value::Float(number) => Self::Float(number.to_bits()),
            Value::String(text) => Self::Text(text.as_str().into()),
            Value::Array(_) | Value::Object(_) => return None,
        })
    }
    /// What tells an item apart: itself, or its merge key.
    pub(super) fn of_item(item: &Value, merge_key: &str) -> Option<Self> {
        if merge_key.is_empty() { Self::of(item) } else { item.get(merge_key).and_then(Self::of) }
    }
}

/// Where each key first stands in a list.
fn positions(list: &[Value], merge_key: &str) -> HashMap<Key, usize> {
    let mut positions = HashMap::with_capacity(list.len());
    for (index, item) in list.iter().enumerate() {
        if let Some(key) = Key::of_item(item, merge_key) {
            positions.entry(key).or_insert(index);
        }
    }
    positions
}

/// Refuses items without their merge key (`validateMergeKeyInLists`).
pub(super) fn check_merge_keys(list: &[Value], merge_key: &str) -> Result<()> {
    for item in list {
        match item {
            Value::Object(map) if map.contains_key(merge_key) => {}
            Value::Object(map) => return no_merge_key(map, merge_key),
            other => return bad_argument(GO_MAP, other),
        }
    }
    Ok(())
}

/// Puts items in order (`normalizeElementOrder`): those known to `wanted` in its order, the others in that of `server`,
/// the two interleaved so that an item of the server stays before its old successors.
fn order(items: Vec<Value>, wanted: &HashMap<Key, usize>, server: &HashMap<Key, usize>, merge_key: &str) -> Vec<Value> {
    let mut ours: Vec<(usize, Option<usize>, Value)> = Vec::new();
    let mut theirs: Vec<(Option<usize>, Value)> = Vec::new();
    for item in items {
        let key = Key::of_item(&item, merge_key);
        let place = key.as_ref().and_then(|key| server.get(key)).copied();
        match key.as_ref().and_then(|key| wanted.get(key)) {
            Some(&rank) => ours.push((rank, place, item)),
            None => theirs.push((place, item)),
        }
    }
    ours.sort_by_key(|(rank, _, _)| *rank);
    theirs.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    let mut ordered = Vec::with_capacity(ours.len() + theirs.len());
    let mut ours = ours.into_iter().peekable();
    let mut theirs = theirs.into_iter().peekable();
    loop {
        let theirs_first = match (theirs.peek(), ours.peek()) {
            (None, None) => return ordered,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((left, _)), Some((_, right, _))) => left.zip(*right).is_some_and(|(left, right)| left < right),
        };
        ordered.extend(if theirs_first {
            theirs.next().map(|(_, item)| item)
        } else {
            ours.next().map(|(_, _, item)| item)
        });
    }
}

/// What a merge does with directives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The server applies the patch: directives are obeyed, nulls delete.
    Apply,
    /// Two patches become one: directives and nulls are kept.
    Combine,
}

/// Applies a decoded patch document to an object of type `ty` (`StrategicMergeMapPatch`).
pub fn apply(original: Value, patch: Value, ty: &Type) -> Result<Value> {
    let Value::Object(patch) = patch else {
        let kind = match &patch {
            Value::Null => return Ok(original),
            Value::Bool(_) => "bool",
            other => other.type_name(),
        };
        return other(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"));
    };
    let original = match original {
        Value::Object(original) => original,
        _ => Map::new(),
    };
    merge_map(original, patch, ty, Mode::Apply).map(Value::Object)
}

/// `mergeMap`.
pub(super) fn merge_map(mut original: Map, mut patch: Map, ty: &Type, mode: Mode) -> Result<Map> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Map::new()),
            _ => {
                let shown = go_text(&directive).into_owned();
                patch.insert(DIRECTIVE, directive);
                other(format!("unknown patch type: {shown} in map: {}", go_map(&patch)))
            }
        };
    }
    retain_keys(&mut original, &mut patch, mode)?;
    set_element_orders(&mut original, &mut patch, ty, mode)?;
    delete_from_lists(&mut original, &mut patch, ty, mode)?;

    let mut merged = Vec::with_capacity(original.len() + patch.len());
    for (key, old, new) in join(original, patch) {
        let value = match (old, new) {
            (None, None) => None,
            (Some(old), None) => Some(old),
            (_, Some(Value::Null)) => (mode == Mode::Combine).then_some(Value::Null),
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                let meta = Meta::of(ty, &key)?;
                Some(Value::Object(if meta.strategy.replace { new } else { merge_map(old, new, meta.ty, mode)? }))
            }
            (Some(Value::Array(old)), Some(Value::Array(new))) => {
                let meta = Meta::of(ty, &key)?;
                Some(Value::Array(if meta.strategy.merge { merge_list(old, new, &meta, mode)? } else { new }))
            }
            (_, Some(new)) => without_directives(new, mode),
        };
        merged.extend(value.map(|value| (key, value)));
    }
    Ok(sorted(merged))
}

/// A value that stands where nothing was to merge with: nulls and items that are directives go
/// (`discardNullValuesFromPatch`, `removeDirectives`); `None` when the value is a directive itself. When patches are
/// combined everything stays.
fn without_directives(value: Value, mode: Mode) -> Option<Value> {
    if mode == Mode::Combine {
        return Some(value);
    }
    // Plain loops: in a chain of adapters each level of a deep tree would take several frames.
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let mut kept = Vec::with_capacity(map.len());
            for (key, value) in map {
                if !value.is_null()
                    && !is_list_directive(&key)
                    && let Some(value) = without_directives(value, mode)
                {
                    kept.push((key, value));
                }
            }
            Some(Value::Object(sorted(kept)))
        }
        Value::Array(items) => {
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                kept.extend(without_directives(item, mode));
            }
            Some(Value::Array(kept))
        }
        scalar => Some(scalar),
    }
}

fn is_list_directive(key: &str) -> bool {
    key == RETAIN_KEYS || key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ELEMENT_ORDER)
}

/// The field that a list directive is about (`extractKey`).
fn directive_field<'k>(key: &'k str, prefix: &str, error: StrategicError) -> Result<&'k str> {
    key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).ok_or(error)
}

/// Takes the entries whose keys begin with `prefix` out of a patch.
fn take_directives(patch: &mut Map, prefix: &str) -> Vec<(Name, Value)> {
    if !patch.keys().any(|key| key.starts_with(prefix)) {
        return Vec::new();
    }
    let mut taken = Vec::new();
    patch.retain(|key, value| {
        let found = key.starts_with(prefix);
        if found {
            taken.push((key.clone(), std::mem::take(value)));
        }
        !found
    });
    taken
}

/// `applyRetainKeysDirective`.
fn retain_keys(original: &mut Map, patch: &mut Map, mode: Mode) -> Result<()> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    if mode == Mode::Combine {
        return match original.get(RETAIN_KEYS) {
            Some(present) if *present != directive => other(format!(
                "{} and {} are not deep equal: this may happen when calculating the 3-way diff patch",
                go_text(present),
                go_text(&directive)
            )),
            Some(_) => Ok(()),
            None => {
                original.insert(RETAIN_KEYS, directive);
                Ok(())
            }
        };
    }
    let keys: HashSet<&str> =
        directive.as_array().ok_or(StrategicError::BadRetainKeys)?.iter().filter_map(Value::as_str).collect();
    let listed = |(key, value): (&Name, &Value)| {
        value.is_null()
            || key.starts_with(DELETE_FROM_LIST)
            || key.starts_with(SET_ELEMENT_ORDER)
            || keys.contains(key.as_str())
    };
    if !patch.iter().all(listed) {
        return Err(StrategicError::BadRetainKeys);
    }
    original.retain(|key, _| keys.contains(key.as_str()));
    Ok(())
}

/// A list in `map` that a directive is about; absent counts as none, anything but a list is a mistake.
fn list_at(map: &Map, field: &str) -> Result<bool> {
    match map.get(field) {
        None => Ok(false),
        Some(Value::Array(_)) => Ok(true),
        Some(other) => bad_argument(GO_LIST, other),
    }
}
fn take_list(map: &mut Map, field: &str) -> Vec<Value> {
    match map.get_mut(field) {
        Some(Value::Array(items)) => std::mem::take(items),
        _ => Vec::new(),
    }
}
fn put_list(map: &mut Map, field: &str, items: Vec<Value>) {
    if let Some(slot) = map.get_mut(field) {
        *slot = Value::Array(items);
    }
}

/// `mergePatchIntoOriginal`: merges the lists for which the patch gives an order.
fn set_element_orders(original: &mut Map, patch: &mut Map, ty: &Type, mode: Mode) -> Result<()> {
    let mut merged_fields: HashSet<String> = HashSet::new();
    for (key, wanted) in take_directives(patch, SET_ELEMENT_ORDER) {
        let Value::Array(wanted) = wanted else { return bad_argument(GO_LIST, &wanted) };
        let field = directive_field(&key, SET_ELEMENT_ORDER, StrategicError::BadSetElementOrder)?;
        if mode == Mode::Combine {
            match original.get(&key) {
                Some(Value::Array(present)) if *present == wanted => {}
                Some(_) => return Err(StrategicError::BadSetElementOrder),
                None => {
                    original.insert(key.clone(), wanted.clone());
                }
            }
        }
        let (in_original, in_patch) = (list_at(original, field)?, list_at(patch, field)?);
        let meta = Meta::of(ty, field)?;
        if in_patch {
            let list = patch.get(field).and_then(Value::as_array).unwrap_or(&[]);
            check_against_order(list, &wanted, meta.merge_key)?;
        }
        if !in_original && !in_patch {
            continue;
        }
        let ours = take_list(patch, field);
        let theirs = take_list(original, field);
        let kind = item_kind(&[&theirs, &ours])?;
        if kind == Some(ItemKind::Maps) && !meta.merge_key.is_empty() {
            check_merge_keys(&wanted, meta.merge_key)?;
        }
        let server = positions(&theirs, meta.merge_key);
        let merged = match (in_original, in_patch) {
            (true, true) if meta.strategy.merge => merge_list(theirs, ours, &meta, mode)?,
            (_, true) => ours,
            _ => theirs,
        };
        if !meta.merge_key.is_empty() {
            check_merge_keys(&merged, meta.merge_key)?;
        }
        let (merged, deletions) = split_deletions(merged);
        let mut ordered = order(merged, &positions(&wanted, meta.merge_key), &server, meta.merge_key);
        ordered.extend(deletions);
        if in_original {
            put_list(original, field, ordered);
            merged_fields.insert(field.to_owned());
        } else {
            put_list(patch, field, ordered);
        }
    }
    if !merged_fields.is_empty() {
        patch.retain(|key, _| !merged_fields.contains(key.as_str()));
    }
    Ok(())
}

/// Items, and items that say `$patch: delete`, which stand last (`extractToDeleteItems`).
pub(super) fn split_deletions(items: Vec<Value>) -> (Vec<Value>, Vec<Value>) {
    items.into_iter().partition(|item| item.get(DIRECTIVE).and_then(Value::as_str) != Some("delete"))
}

/// The patch's items must stand in the given order (`validatePatchWithSetOrderList`).
fn check_against_order(patch: &[Value], wanted: &[Value], merge_key: &str) -> Result<()> {
    if patch.is_empty() || wanted.is_empty() {
        return Ok(());
    }
    if !merge_key.is_empty()
        && let Some(item) = patch.iter().find(|item| !matches!(item, Value::Object(_)))
    {
        return bad_argument(GO_MAP, item);
    }
    let mut left = wanted.iter();
    let deletion = |item: &Value| item.get(DIRECTIVE).is_some();
    for item in patch.iter().filter(|item| !deletion(item)) {
        if !merge_key.is_empty() {
            check_merge_keys(std::slice::from_ref(item), merge_key)?;
        }
        let key = Key::of_item(item, merge_key);
        if !left.any(|candidate| Key::of_item(candidate, merge_key) == key) {
            return other(format!(
                "The order in patch list:\n[{}]\n doesn't match {SET_ELEMENT_ORDER} list:\n[{}]\n",
                patch.iter().map(go_text).collect::<Vec<_>>().join(" "),
                wanted.iter().map(go_text).collect::<Vec<_>>().join(" ")
            ));
        }
    }
    Ok(())
}

/// `preprocessDeletionListForMerging` and what follows from it.
fn delete_from_lists(original: &mut Map, patch: &mut Map, ty: &Type, mode: Mode) -> Result<()> {
    for (key, gone) in take_directives(patch, DELETE_FROM_LIST) {
        if mode == Mode::Combine {
            original.insert(key, gone);
            continue;
        }
        let field = directive_field(&key, DELETE_FROM_LIST, StrategicError::BadPrimitiveList)?;
        let Value::Array(gone) = gone else { continue };
        let Some(Value::Array(items)) = original.get_mut(field) else { continue };
        let meta = Meta::of(ty, field)?;
        if !meta.strategy.merge {
            *items = gone;
            continue;
        }
        match item_kind(&[items, &gone])? {
            Some(ItemKind::Scalars) => {
                let gone: HashSet<Key> = gone.iter().filter_map(Key::of).collect();
                items.retain(|item| Key::of(item).is_none_or(|key| !gone.contains(&key)));
            }
            Some(ItemKind::Maps) => {
                let merged = merge_list(std::mem::take(items), gone, &meta, mode)?;
                put_list(original, field, merged);
            }
            None => {}
        }
    }
    Ok(())
}

/// `mergeSlice`: the union of two sets of scalars, or of two lists of objects by their merge key.
fn merge_list(original: Vec<Value>, patch: Vec<Value>, meta: &Meta<'_>, mode: Mode) -> Result<Vec<Value>> {
    let Some(kind) = item_kind(&[&original, &patch])? else { return Ok(original) };
    let merge_key = meta.merge_key;
    if kind == ItemKind::Scalars {
        if !merge_key.is_empty() {
            let first = original.first().or(patch.first()).unwrap_or(&Value::Null);
            return bad_argument(GO_MAP, first);
        }
        let (server, wanted) = (positions(&original, ""), positions(&patch, ""));
        let mut seen = HashSet::new();
        let mut union: Vec<Value> = original.into_iter().chain(patch).collect();
        union.retain(|item| Key::of(item).is_none_or(|key| seen.insert(key)));
        return Ok(order(union, &wanted, &server, ""));
    }
    if merge_key.is_empty() {
        return other(format!("cannot merge lists without merge key for type {}", go_kind(meta.item())));
    }
    let (original, patch) = obey_item_directives(original, patch, merge_key)?;
    check_merge_keys(&patch, merge_key)?;
    let (server, wanted) = (positions(&original, merge_key), positions(&patch, merge_key));
    let mut places = server.clone();
    let mut merged: Vec<Value> = original;
    for item in patch {
        let key = Key::of_item(&item, merge_key);
        match key.as_ref().and_then(|key| places.get(key)) {
            Some(&place) => {
                if let (slot @ Value::Object(_), Value::Object(item)) = (&mut merged[place], item)
                    && let Value::Object(old) = std::mem::take(slot)
                {
                    *slot = Value::Object(merge_map(old, item, meta.item(), mode)?);
                }
            }
            None => {
                // Nothing to merge with: directives inside it have nothing to act on.
                if let Some(item) = without_directives(item, mode) {
                    places.extend(key.map(|key| (key, merged.len())));
                    merged.push(item);
                }
            }
        }
    }
    check_merge_keys(&merged, merge_key)?;
    let (merged, deletions) = split_deletions(merged);
    let mut ordered = order(merged, &wanted, &server, merge_key);
    ordered.extend(deletions);
    Ok(ordered)
}

/// `mergeSliceWithSpecialElements`: items that are directives are obeyed and taken out. With `replace` the other items
/// of the patch are all that stays.
fn obey_item_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut gone = HashSet::new();
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        let map = item.as_object().cloned().unwrap_or_default();
        match directive.as_str() {
            Some("delete") => match map.get(merge_key) {
                Some(key) => gone.extend(Key::of(key)),
                None => return no_merge_key(&map, merge_key),
            },
            Some("replace") => replace = true,
            Some("merge") => return other("merging lists cannot yet be specified in the patch".to_owned()),
            _ => return other(format!("unknown patch type: {} in map: {}", go_text(directive), go_map(&map))),
        }
    }
    if replace {
        return Ok((plain, Vec::new()));
    }
    if !gone.is_empty() {
        original.retain(|item| Key::of_item(item, merge_key).is_none_or(|key| !gone.contains(&key)));
    }
    Ok((original, plain))
}
