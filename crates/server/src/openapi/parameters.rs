//! Parameters of operations.

use skiff_machinery::schema::{Type, builtin};
use skiff_machinery::{Map, Value, object};

/// Name, type and what it is for.
pub(super) type Known = (&'static str, &'static str, &'static str);

/// A parameter.
pub(super) fn parameter(place: &str, name: &str, ty: &str, description: &str) -> Value {
    let mut parameter = Map::new();
    parameter.insert("in", place);
    parameter.insert("name", name);
    if !description.is_empty() {
        parameter.insert("description", description);
    }
    parameter.insert("schema", object! { "type": ty, "uniqueItems": true });
    if place == "path" {
        parameter.insert("required", true);
    }
    Value::Object(parameter)
}

/// Query parameters.
pub(super) fn query(names: &[Known]) -> Vec<Value> {
    names.iter().map(|(name, ty, said)| parameter("query", name, ty, said)).collect()
}

pub(super) fn pretty() -> Value {
    parameter("query", "pretty", "string", "If 'true', the answer is indented for people.")
}

pub(super) fn namespace() -> Value {
    parameter("path", "namespace", "string", "object name and auth scope, such as for teams and projects")
}

pub(super) fn name(kind: &str) -> Value {
    parameter("path", "name", "string", &format!("name of the {kind}"))
}

/// In the order in which documents have them.
pub(super) fn sort(parameters: &mut [Value]) {
    parameters.sort_by(|a, b| {
        let key = |value: &Value| (value.str_at(&["name"]).to_owned(), value.str_at(&["in"]).to_owned());
        key(a).cmp(&key(b))
    });
}

/// What the options of a connection are called in its query, from the fields of their kind.
pub(super) fn options(group: &str, version: &str, kind: &str) -> Vec<Value> {
    let Some(ty) = builtin::by_kind(group, version, kind) else { return Vec::new() };
    let name = |ty: &Type| match ty {
        Type::Bool => "boolean",
        Type::Int32 | Type::Int64 => "integer",
        // A list is given by repeating the parameter.
        Type::List(item) if matches!(**item, Type::Int32) => "integer",
        _ => "string",
    };
    let fields = ty.fields.iter();
    // `sinceTime` is read, but upstream does not list what is no plain value.
    let plain = fields.filter(|field| {
        !matches!(field.name.as_str(), "kind" | "apiVersion") && !matches!(field.ty, Type::Time | Type::Struct(_))
    });
    plain.map(|field| parameter("query", &field.name, name(&field.ty), "")).collect()
}

/// Verb in discovery and method of a connection. `HEAD` and `OPTIONS` have no verb and are there where everything is
/// passed on.
pub(super) const CONNECT: &[(&str, &str)] = &[
    ("get", "get"),
    ("create", "post"),
    ("update", "put"),
    ("patch", "patch"),
    ("delete", "delete"),
    ("", "head"),
    ("", "options"),
];

const CONTINUE: Known = (
    "continue",
    "string",
    "Where to go on: what the last answer's metadata said. Answered with 410 when it is too old.",
);
const DRY_RUN: Known = ("dryRun", "string", "'All': everything is done but the last step, nothing is stored.");
const FIELD_MANAGER: Known =
    ("fieldManager", "string", "Who is noted as owner of the fields that change; at most 128 printable characters.");
const FIELD_SELECTOR: Known = ("fieldSelector", "string", "Which objects, by their fields. All when absent.");
const FIELD_VALIDATION: Known = (
    "fieldValidation",
    "string",
    "What unknown and duplicate fields get: 'Ignore' drops them, 'Warn' (the default) says so in a header, 'Strict' refuses the request.",
);
const GRACE: Known = (
    "gracePeriodSeconds",
    "integer",
    "Seconds until the object is deleted; 0 is at once. The kind's own period when absent.",
);
const IGNORE_READ_ERROR: Known = (
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Delete an object that cannot be read any more, without looking at finalizers or preconditions. Dangerous.",
);
const LABEL_SELECTOR: Known = ("labelSelector", "string", "Which objects, by their labels. All when absent.");
const LIMIT: Known = (
    "limit",
    "integer",
    "At most so many objects; when there are more, the metadata says where to continue. All answers of one list show one state.",
);
const ORPHAN: Known = ("orphanDependents", "boolean", "Deprecated: use propagationPolicy.");
const PROPAGATION: Known =
    ("propagationPolicy", "string", "What happens to dependents: 'Orphan', 'Background' or 'Foreground'.");
const RESOURCE_VERSION: Known = (
    "resourceVersion",
    "string",
    "Which state is wanted: at least, exactly or after this version, by verb and resourceVersionMatch.",
);
const RESOURCE_VERSION_MATCH: Known =
    ("resourceVersionMatch", "string", "How resourceVersion is meant: 'NotOlderThan' or 'Exact'.");
const SEND_INITIAL: Known = (
    "sendInitialEvents",
    "boolean",
    "A watch begins with what is there, and says by a bookmark when that is complete. Asks for resourceVersionMatch=NotOlderThan.",
);
const SHARD_SELECTOR: Known = ("shardSelector", "string", "Which part of the objects, by a hash. Has no effect here.");
const TIMEOUT: Known = ("timeoutSeconds", "integer", "Time limit of a list or a watch.");

/// Of lists and watches.
pub(super) const LIST: &[Known] = &[
    ("allowWatchBookmarks", "boolean", "A watch may send bookmarks, which say how far it has come."),
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL,
    SHARD_SELECTOR,
    TIMEOUT,
    ("watch", "boolean", "Changes as they happen, instead of a list."),
];
/// Of creates and updates.
pub(super) const WRITE: &[Known] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
/// Of patches.
pub(super) const PATCH: &[Known] = &[
    DRY_RUN,
    FIELD_MANAGER,
    FIELD_VALIDATION,
    ("force", "boolean", "An apply takes fields over from other managers instead of answering with a conflict."),
];
/// Of deletes.
pub(super) const DELETE: &[Known] = &[DRY_RUN, GRACE, IGNORE_READ_ERROR, ORPHAN, PROPAGATION];
/// Of deletes of many.
pub(super) const DELETE_COLLECTION: &[Known] = &[
    CONTINUE,
    DRY_RUN,
    FIELD_SELECTOR,
    GRACE,
    IGNORE_READ_ERROR,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL,
    SHARD_SELECTOR,
    TIMEOUT,
];
