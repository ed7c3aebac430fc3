//! JSON patch (RFC 6902) as upstream applies it: `gopkg.in/evanphx/json-patch.v4`, with negative array indices, and the
//! limits of `k8s.io/apiserver/pkg/endpoints/handlers/patch.go`.
//!
//! Beyond upstream's limits there are three more, since a request must not cost seconds: the elements that insertions
//! and removals push aside are counted, a document may not become deeper than any document that is read, and a path has
//! no more steps than that.

use crate::codec::FieldValidation;
use crate::error::{ApiError, quote};
use crate::value::{Map, Value};

/// Most operations in one patch (`maxJSONPatchOperations`).
pub const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that `copy` operations of one patch may add (`JSONPatchMaxCopyBytes`).
pub const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;
/// Deepest tree that a patch may leave.
const MAX_DEPTH: usize = crate::codec::MAX_TREE_DEPTH;
/// Most entries that insertions and removals of one patch may push aside.
const MAX_SHIFTED: usize = 32 * 1024 * 1024;
/// How often the true depth is measured before a patch that keeps deepening the document is refused.
const MAX_DEPTH_MEASUREMENTS: usize = 16;

/// What one operation does.
#[derive(Clone, Debug, PartialEq)]
enum Action {
    Add(Value),
    Remove,
    Replace(Value),
    Move(Option<String>),
    Copy(Option<String>),
    Test(Value),
    /// Refused when its turn comes, as upstream does.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq)]
struct Operation {
    action: Action,
    path: Option<String>,
}

/// A patch that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPatch {
    operations: Vec<Operation>,
}

/// The operation that could not be done, in the words of upstream's library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonPatchError {
    /// The path does not lead to anything.
    #[error("{0}: missing value")]
    Missing(String),
    /// An index is outside the list.
    #[error("{0}: invalid index referenced")]
    Index(String),
    /// `test` found another value.
    #[error("testing value {0} failed: test failed")]
    TestFailed(String),
    /// `op` is none of the six.
    #[error("Unexpected kind: {0}")]
    UnknownOperation(String),
    /// The document would be replaced by something that is no object or list.
    #[error("replace operation value must be object or array")]
    NotADocument,
    /// A key of a list is no number.
    #[error("{0}")]
    NotAnIndex(String),
    /// Copies add too much.
    #[error("Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the limit {1}")]
    CopiedTooMuch(usize, usize),
    /// Insertions and removals in large lists and maps push too many entries aside.
    #[error("the patch moves more than {MAX_SHIFTED} entries of lists and maps")]
    ShiftedTooMuch,
    /// The document becomes too deep.
    #[error("the patch makes the document deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

impl From<JsonPatchError> for ApiError {
    fn from(_: JsonPatchError) -> Self {
        super::unprocessable()
    }
}

/// What Go calls the JSON kind in decoding errors.
fn go_json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl JsonPatch {
    /// Reads a decoded patch document. Besides the patch come the strict errors (`json patch unknown field "[0].x"`) that
    /// the caller reports according to `validation`; with `Ignore` nothing is looked for.
    pub fn decode(document: Value, validation: FieldValidation) -> Result<(Self, Vec<String>), ApiError> {
        let lenient = validation == FieldValidation::Ignore;
        let mistyped = |value: &Value, place: &str, lenient_type: &str| {
            let kind = go_json_kind(value);
            ApiError::bad_request(if lenient {
                format!("json: cannot unmarshal {kind} into Go value of type {lenient_type}")
            } else {
                format!("error decoding patch: json: cannot unmarshal {kind} into Go {place}")
            })
        };
        let items = match document {
            Value::Array(items) => items,
            Value::Null => Vec::new(),
            other => return Err(mistyped(&other, "value of type []handlers.jsonPatchOp", "jsonpatch.Patch")),
        };
        if items.len() > MAX_OPERATIONS {
            return Err(ApiError::too_large(format!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                items.len()
            )));
        }
        let mut strict = Vec::new();
        let mut operations = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let fields = match item {
                Value::Object(fields) => fields,
                Value::Null => Map::new(),
                other => return Err(mistyped(&other, "value of type handlers.jsonPatchOp", "jsonpatch.Operation")),
            };
            let (mut op, mut path, mut from, mut value) = (None, None, None, Value::Null);
            for (key, field) in fields {
                let slot = match key.as_str() {
                    "op" => &mut op,
                    "path" => &mut path,
                    "from" => &mut from,
                    "value" => {
                        value = field;
                        continue;
                    }
                    unknown if !lenient => {
                        strict.push(format!("json patch unknown field {}", quote(&format!("[{index}].{unknown}"))));
                        continue;
                    }
                    _ => continue,
                };
                match field {
                    Value::String(text) => *slot = Some(text),
                    Value::Null => {}
                    // Upstream's lenient decoding only notices when the operation's turn comes.
                    _ if lenient => {}
                    other => {
                        let place = format!("struct field jsonPatchOp.{key} of type string");
                        return Err(mistyped(&other, &place, ""));
                    }
                }
            }
            let action = match op.as_deref() {
                Some("add") => Action::Add(value),
                Some("remove") => Action::Remove,
                Some("replace") => Action::Replace(value),
                Some("move") => Action::Move(from),
                Some("copy") => Action::Copy(from),
                Some("test") => Action::Test(value),
                Some(other) => Action::Unknown(other.to_owned()),
                None => Action::Unknown("unknown".to_owned()),
            };
            operations.push(Operation { action, path });
        }
        Ok((Self { operations }, strict))
    }

    /// Applies every operation in order; the first that fails ends it.
    pub fn apply(&self, mut document: Value) -> Result<Value, JsonPatchError> {
        let mut budget = Budget { copied: 0, shifted: 0, measured: 0, depth: None };
        for operation in &self.operations {
            operation.apply(&mut document, &mut budget)?;
        }
        Ok(document)
    }
}

/// What a patch has cost so far.
struct Budget {
    copied: usize,
    shifted: usize,
    measured: usize,
    /// An upper bound of the document's depth; `None` until an operation could deepen it.
    depth: Option<usize>,
}

impl Budget {
    fn shift(&mut self, entries: usize) -> Result<(), JsonPatchError> {
        self.shifted = self.shifted.saturating_add(entries);
        if self.shifted > MAX_SHIFTED { Err(JsonPatchError::ShiftedTooMuch) } else { Ok(()) }
    }
    /// Refuses to put `value` under a path of `steps` steps when the document would become too deep. What is moved is
    /// not measured (that would cost its size each time) but taken to be as deep as the document may be; only when that
    /// crosses the limit is everything measured.
    fn deepen(&mut self, document: &Value, steps: usize, value: &Value, moved: bool) -> Result<(), JsonPatchError> {
        let bound = match self.depth {
            Some(bound) => bound,
            None => depth(document).max(if moved { depth(value) } else { 0 }),
        };
        let mut reached = bound.max(steps.saturating_add(if moved { bound } else { depth(value) }));
        if reached > MAX_DEPTH {
            self.measured += 1;
            reached = depth(document).max(steps.saturating_add(depth(value)));
            if self.measured > MAX_DEPTH_MEASUREMENTS || reached > MAX_DEPTH {
                return Err(JsonPatchError::TooDeep);
            }
        }
        self.depth = Some(reached);
        Ok(())
    }
}

/// Levels of a tree. Recursion is bounded because every tree here was read with a limit or passed [`Budget::deepen`].
fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    match value {
        Value::Array(items) => {
            for item in items {
                deepest = depth(item).max(deepest);
            }
        }
        Value::Object(map) => {
            for (_, value) in map.iter() {
                deepest = depth(value).max(deepest);
            }
        }
        _ => {}
    }
    deepest + 1
}

/// How many bytes a value takes as JSON.
fn json_length(value: &Value) -> usize {
    fn text(text: &str) -> usize {
        let escapes: usize = text
            .bytes()
            .map(|byte| match byte {
                b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
                0..0x20 | b'<' | b'>' | b'&' => 5,
                _ => 0,
            })
            .sum();
        text.len() + 2 + escapes
    }
    match value {
        Value::Null => 4,
        Value::Bool(flag) => 5 - usize::from(*flag),
        Value::Int(number) => itoa::Buffer::new().format(*number).len(),
        Value::Float(number) => number.to_string().len(),
        Value::String(string) => text(string),
        Value::Array(items) => {
            let mut length = 2 + items.len().saturating_sub(1);
            for item in items {
                length += json_length(item);
            }
            length
        }
        Value::Object(map) => {
            let mut length = 2 + map.len().saturating_sub(1);
            for (key, value) in map.iter() {
                length += text(key) + 1 + json_length(value);
            }
            length
        }
    }
}

/// One step of a pointer, unescaped (`decodePatchKey`).
fn step(text: &str) -> String {
    text.replace("~1", "/").replace("~0", "~")
}

/// `strconv.Atoi`, with its error text.
fn atoi(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("strconv.Atoi: parsing {}: invalid syntax", quote(text)));
    }
    text.parse().map_err(|_| format!("strconv.Atoi: parsing {}: value out of range", quote(text)))
}

/// The index meant by `number` in a list of `length`; negative ones count from the end.
fn index(number: i64, length: usize) -> Option<usize> {
    if number < 0 {
        length.checked_sub(usize::try_from(number.unsigned_abs()).ok()?)
    } else {
        usize::try_from(number).ok().filter(|&index| index < length)
    }
}
fn bad_index(number: i64) -> JsonPatchError {
    JsonPatchError::Index(format!("Unable to access invalid index: {number}"))
}

impl JsonPatchError {
    /// Puts what was being done before the cause, as Go's `errors.Wrapf` does.
    fn within(self, what: impl FnOnce() -> String) -> Self {
        let join = |cause: String| format!("{}: {cause}", what());
        match self {
            Self::Missing(cause) => Self::Missing(join(cause)),
            Self::Index(cause) => Self::Index(join(cause)),
            Self::NotAnIndex(cause) => Self::NotAnIndex(join(cause)),
            other => other,
        }
    }
}

/// The list or object that holds the last step of a path, and that step (`findObject`).
fn find<'v>(document: &'v mut Value, path: &str) -> Option<(&'v mut Value, String)> {
    let (_, steps) = path.split_once('/')?;
    let (parents, last) = steps.rsplit_once('/').map_or((None, steps), |(parents, last)| (Some(parents), last));
    let mut node = document;
    for part in parents.into_iter().flat_map(|parents| parents.split('/')) {
        node = member_mut(node, &step(part)).ok()?;
    }
    matches!(node, Value::Array(_) | Value::Object(_)).then(|| (node, step(last)))
}

fn member_mut<'v>(container: &'v mut Value, key: &str) -> Result<&'v mut Value, JsonPatchError> {
    match container {
        Value::Object(map) => {
            map.get_mut(key).ok_or_else(|| JsonPatchError::Missing(format!("unable to get nonexistent key: {key}")))
        }
        Value::Array(items) => {
            let number = atoi(key).map_err(JsonPatchError::NotAnIndex)?;
            let position = index(number, items.len()).ok_or_else(|| bad_index(number))?;
            items.get_mut(position).ok_or_else(|| bad_index(number))
        }
        _ => Err(JsonPatchError::Missing(format!("unable to get nonexistent key: {key}"))),
    }
}

fn add_member(container: &mut Value, key: String, value: Value, budget: &mut Budget) -> Result<(), JsonPatchError> {
    match container {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let number = atoi(&key).map_err(|error| {
                JsonPatchError::NotAnIndex(format!("value was not a proper array index: '{key}': {error}"))
            })?;
            let position = index(number, items.len() + 1).ok_or_else(|| bad_index(number))?;
            budget.shift(items.len() - position)?;
            items.insert(position, value);
        }
        Value::Object(map) => {
            if let Some(slot) = map.get_mut(&key) {
                *slot = value;
            } else {
                budget.shift(map.len())?;
                map.insert(key, value);
            }
        }
        _ => {}
    }
    Ok(())
}

fn remove_member(container: &mut Value, key: &str, budget: &mut Budget) -> Result<Value, JsonPatchError> {
    match container {
        Value::Array(items) => {
            let number = atoi(key).map_err(JsonPatchError::NotAnIndex)?;
            let position = index(number, items.len()).ok_or_else(|| bad_index(number))?;
            budget.shift(items.len() - position)?;
            Ok(items.remove(position))
        }
        Value::Object(map) => {
            budget.shift(map.len())?;
            map.remove(key).ok_or_else(|| JsonPatchError::Missing(format!("Unable to remove nonexistent key: {key}")))
        }
        _ => Ok(Value::Null),
    }
}

fn steps(path: &str) -> usize {
    path.bytes().filter(|&byte| byte == b'/').count()
}

impl Operation {
    fn apply(&self, document: &mut Value, budget: &mut Budget) -> Result<(), JsonPatchError> {
        let name = match &self.action {
            Action::Add(_) => "add",
            Action::Remove => "remove",
            Action::Replace(_) => "replace",
            Action::Move(_) => "move",
            Action::Copy(_) => "copy",
            Action::Test(_) => "test",
            Action::Unknown(kind) => return Err(JsonPatchError::UnknownOperation(kind.clone())),
        };
        let no_field = |field: &str| JsonPatchError::Missing(format!("{name} operation failed to decode {field}"));
        let path = || self.path.as_deref().ok_or_else(|| no_field("path"));
        let from = |from: &'_ Option<String>| from.clone().ok_or_else(|| no_field("from"));
        match &self.action {
            Action::Add(value) => add(document, path()?, value, budget),
            Action::Remove => remove(document, path()?, budget),
            Action::Replace(value) => replace(document, path()?, value, budget),
            Action::Move(source) => {
                let source = from(source)?;
                let value = take(document, &source, budget)?;
                let path = path()?;
                budget.deepen(document, steps(path), &value, true)?;
                let (container, key) = find(document, path).ok_or_else(|| {
                    JsonPatchError::Missing(format!(
                        "move operation does not apply: doc is missing destination path: {path}"
                    ))
                })?;
                add_member(container, key, value, budget)
                    .map_err(|error| error.within(|| format!("error in move for path: '{path}'")))
            }
            Action::Copy(source) => copy(document, &from(source)?, path()?, budget),
            Action::Test(value) => test(document, path()?, value),
            Action::Unknown(kind) => Err(JsonPatchError::UnknownOperation(kind.clone())),
        }
    }
}

fn add(document: &mut Value, path: &str, value: &Value, budget: &mut Budget) -> Result<(), JsonPatchError> {
    budget.deepen(document, steps(path), value, false)?;
    let (container, key) = find(document, path).ok_or_else(|| {
        JsonPatchError::Missing(format!("add operation does not apply: doc is missing path: {}", quote(path)))
    })?;
    add_member(container, key, value.clone(), budget)
        .map_err(|error| error.within(|| format!("error in add for path: '{path}'")))
}

fn remove(document: &mut Value, path: &str, budget: &mut Budget) -> Result<(), JsonPatchError> {
    let (container, key) = find(document, path).ok_or_else(|| {
        JsonPatchError::Missing(format!("remove operation does not apply: doc is missing path: {}", quote(path)))
    })?;
    remove_member(container, &key, budget)
        .map(drop)
        .map_err(|error| error.within(|| format!("error in remove for path: '{path}'")))
}

fn replace(document: &mut Value, path: &str, value: &Value, budget: &mut Budget) -> Result<(), JsonPatchError> {
    if path.is_empty() {
        if !matches!(value, Value::Array(_) | Value::Object(_)) {
            return Err(JsonPatchError::NotADocument);
        }
        *document = value.clone();
        budget.depth = None;
        return Ok(());
    }
    budget.deepen(document, steps(path), value, false)?;
    let (container, key) = find(document, path).ok_or_else(|| {
        JsonPatchError::Missing(format!("replace operation does not apply: doc is missing path: {path}"))
    })?;
    let slot = member_mut(container, &key).map_err(|_| {
        JsonPatchError::Missing(format!("replace operation does not apply: doc is missing key: {path}"))
    })?;
    *slot = value.clone();
    Ok(())
}

/// Takes out what `move` moves.
fn take(document: &mut Value, from: &str, budget: &mut Budget) -> Result<Value, JsonPatchError> {
    let (container, key) = find(document, from).ok_or_else(|| {
        JsonPatchError::Missing(format!("move operation does not apply: doc is missing from path: {from}"))
    })?;
    let within = |error: JsonPatchError| error.within(|| format!("error in move for path: '{key}'"));
    member_mut(container, &key).map_err(within)?;
    remove_member(container, &key, budget).map_err(within)
}

fn copy(document: &mut Value, from: &str, path: &str, budget: &mut Budget) -> Result<(), JsonPatchError> {
    let (container, key) = find(document, from).ok_or_else(|| {
        JsonPatchError::Missing(format!("copy operation does not apply: doc is missing from path: {from}"))
    })?;
    let value =
        member_mut(container, &key).map_err(|error| error.within(|| format!("error in copy for from: '{from}'")))?;
    // Counted before anything is copied, so that the last copy cannot be the one that fills memory.
    budget.copied += json_length(value);
    if budget.copied > MAX_COPIED_BYTES {
        return Err(JsonPatchError::CopiedTooMuch(budget.copied, MAX_COPIED_BYTES));
    }
    let value = value.clone();
    budget.deepen(document, steps(path), &value, false)?;
    let (container, key) = find(document, path).ok_or_else(|| {
        JsonPatchError::Missing(format!("copy operation does not apply: doc is missing destination path: {path}"))
    })?;
    add_member(container, key, value, budget)
        .map_err(|error| error.within(|| "error while adding value during copy".to_owned()))
}

fn test(document: &mut Value, path: &str, expected: &Value) -> Result<(), JsonPatchError> {
    let failed = || JsonPatchError::TestFailed(path.to_owned());
    if path.is_empty() {
        return if document == expected { Ok(()) } else { Err(failed()) };
    }
    let (container, key) = find(document, path)
        .ok_or_else(|| JsonPatchError::Missing(format!("test operation does not apply: is missing path: {path}")))?;
    match member_mut(container, &key) {
        Ok(found) if found == expected => Ok(()),
        // An absent member is as good as null.
        Err(JsonPatchError::Missing(_)) if expected.is_null() => Ok(()),
        Ok(_) | Err(JsonPatchError::Missing(_)) => Err(failed()),
        Err(error) => Err(error.within(|| format!("error in test for path: '{path}'"))),
    }
}
