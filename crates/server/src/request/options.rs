//! The query as `*Options` of `meta.k8s.io/v1`, checked as upstream checks them
//! (apimachinery/pkg/apis/meta/v1/validation/validation.go).

use super::Query;
use skiff_machinery::codec::FieldValidation;
use skiff_machinery::schema::{Type, builtin};
use skiff_machinery::{ApiError, ErrorList, FieldError, FieldPath, GroupKind, Map, Value};

/// `ListOptions`, for list, watch and deletecollection. Selectors are text here: who knows the kind parses them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields of metav1.ListOptions")]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub watch: bool,
    pub allow_watch_bookmarks: bool,
    pub resource_version: String,
    pub resource_version_match: String,
    pub timeout_seconds: Option<i64>,
    pub limit: i64,
    pub continue_token: String,
    pub send_initial_events: Option<bool>,
}

/// `resourceVersionMatch: Exact`.
pub const RESOURCE_VERSION_MATCH_EXACT: &str = "Exact";
/// `resourceVersionMatch: NotOlderThan`.
pub const RESOURCE_VERSION_MATCH_NOT_OLDER_THAN: &str = "NotOlderThan";

impl ListOptions {
    /// Reads and checks the query (`ValidateListOptions`). `watch_list` says whether `sendInitialEvents` is served.
    pub fn parse(query: &Query<'_>, watch_list: bool) -> Result<Self, ApiError> {
        let text = |key: &str| query.get(key).unwrap_or_default().to_owned();
        let options = Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            watch: query.flag("watch"),
            allow_watch_bookmarks: query.flag("allowWatchBookmarks"),
            resource_version: text("resourceVersion"),
            resource_version_match: text("resourceVersionMatch"),
            timeout_seconds: integer(query, "timeoutSeconds")?,
            limit: integer(query, "limit")?.unwrap_or(0),
            continue_token: text("continue"),
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
        };
        let errors = options.validate(watch_list);
        if errors.is_empty() { Ok(options) } else { Err(invalid("ListOptions", &errors)) }
    }

    fn validate(&self, watch_list: bool) -> ErrorList {
        if self.watch {
            return self.validate_watch(watch_list);
        }
        let mut errors = ErrorList::new();
        let path = FieldPath::new("resourceVersionMatch");
        if self.send_initial_events.is_some() {
            let detail = "sendInitialEvents is forbidden for list";
            errors.push(FieldError::forbidden(&FieldPath::new("sendInitialEvents"), detail));
        }
        let kind = self.resource_version_match.as_str();
        if kind.is_empty() {
            return errors;
        }
        if self.resource_version.is_empty() {
            let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(&path, detail));
        }
        if !self.continue_token.is_empty() {
            let detail = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(&path, detail));
        }
        if kind != RESOURCE_VERSION_MATCH_EXACT && kind != RESOURCE_VERSION_MATCH_NOT_OLDER_THAN {
            let supported = [RESOURCE_VERSION_MATCH_EXACT, RESOURCE_VERSION_MATCH_NOT_OLDER_THAN, ""];
            errors.push(FieldError::not_supported_in_order(&path, kind, &supported));
        }
        if kind == RESOURCE_VERSION_MATCH_EXACT && self.resource_version == "0" {
            let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(&path, detail));
        }
        errors
    }

    fn validate_watch(&self, watch_list: bool) -> ErrorList {
        let mut errors = ErrorList::new();
        let match_path = FieldPath::new("resourceVersionMatch");
        let events_path = FieldPath::new("sendInitialEvents");
        let kind = self.resource_version_match.as_str();
        match self.send_initial_events {
            None => {
                if !kind.is_empty() {
                    let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                    errors.push(FieldError::forbidden(&match_path, detail));
                }
            }
            Some(_) if !watch_list => {
                let detail = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
                errors.push(FieldError::forbidden(&events_path, detail));
            }
            Some(_) => {
                if kind.is_empty() {
                    let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                    errors.push(FieldError::forbidden(&match_path, detail));
                } else if kind != RESOURCE_VERSION_MATCH_NOT_OLDER_THAN {
                    let supported = [RESOURCE_VERSION_MATCH_NOT_OLDER_THAN];
                    errors.push(FieldError::not_supported(&match_path, kind, &supported));
                }
                if !self.continue_token.is_empty() {
                    let detail = "resourceVersionMatch is forbidden when continue is provided";
                    errors.push(FieldError::forbidden(&match_path, detail));
                }
            }
        }
        errors
    }
}

/// `CreateOptions`, `UpdateOptions` and `PatchOptions`: what they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// `dryRun=All`.
    pub dry_run: bool,
    /// Who owns the fields.
    pub field_manager: String,
    /// What to do with unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// `force` of an apply patch.
    pub force: Option<bool>,
}

/// Which write it is, for the checks that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Write {
    Create,
    Update,
    Patch,
    Apply,
}

impl WriteOptions {
    /// Reads and checks the query.
    pub fn parse(query: &Query<'_>, write: Write) -> Result<Self, ApiError> {
        let mut errors = ErrorList::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let patch = matches!(write, Write::Patch | Write::Apply);
        let force = if patch { query.get("force").map(|_| query.flag("force")) } else { None };
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        let manager_path = FieldPath::new("fieldManager");
        if write == Write::Apply && field_manager.is_empty() {
            errors.push(FieldError::required(&manager_path, "is required for apply patch"));
        }
        if write == Write::Patch && force.is_some() {
            errors.push(FieldError::forbidden(&FieldPath::new("force"), "may not be specified for non-apply patch"));
        }
        check_field_manager(&manager_path, &field_manager, &mut errors);
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported_in_order(&FieldPath::new("fieldValidation"), other, &supported));
                FieldValidation::Strict
            }
        };
        if errors.is_empty() {
            return Ok(Self { dry_run, field_manager, field_validation, force });
        }
        Err(invalid(write.kind(), &errors))
    }

    /// The object that admission is shown; `given` is what the query said, since what it left out has no place in it.
    pub fn to_object(&self, write: Write, query: &Query<'_>) -> Value {
        let mut object = bare_options(write.kind(), self.dry_run);
        for (field, text) in [
            ("fieldManager", self.field_manager.as_str()),
            ("fieldValidation", query.get("fieldValidation").unwrap_or_default()),
        ] {
            if !text.is_empty() {
                object.insert(field, text);
            }
        }
        if let Some(force) = self.force {
            object.insert("force", force);
        }
        Value::Object(object)
    }
}

impl Write {
    fn kind(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

/// An options object with what all kinds of them have.
fn bare_options(kind: &str, dry_run: bool) -> Map {
    let mut object = Map::new();
    object.insert("kind", kind);
    object.insert("apiVersion", "meta.k8s.io/v1");
    if dry_run {
        object.insert("dryRun", skiff_machinery::list!["All"]);
    }
    object
}

/// The options of a connection (`PodExecOptions` and their like) from the query, as admission is shown them.
pub fn connect_object(kind: &str, query: &Query<'_>) -> Option<Value> {
    let ty = builtin::by_kind("", "v1", kind)?;
    let mut object = Map::new();
    object.insert("kind", kind);
    object.insert("apiVersion", "v1");
    for field in ty.fields.iter() {
        let name = field.name.as_str();
        let Some(text) = query.get(name) else { continue };
        let value = match &field.ty {
            Type::Bool => Value::Bool(query.flag(name)),
            Type::Int32 | Type::Int64 => match text.parse() {
                Ok(number) => Value::Int(number),
                Err(_) => continue,
            },
            Type::String => Value::from(text),
            Type::List(item) if matches!(**item, Type::String) => {
                Value::Array(query.all(name).map(Value::from).collect())
            }
            _ => continue,
        };
        object.insert(field.name.clone(), value);
    }
    Some(Value::Object(object))
}

/// `ValidateFieldManager`: short and printable.
fn check_field_manager(path: &FieldPath<'_>, manager: &str, errors: &mut ErrorList) {
    const MAX: usize = 128;
    if manager.len() > MAX {
        errors.push(FieldError::too_long(path, MAX));
    }
    if manager.chars().any(char::is_control) {
        errors.push(FieldError::invalid(path, manager, "should only contain printable characters"));
    }
}

/// `DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields of metav1.DeleteOptions")]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub precondition_uid: Option<String>,
    pub precondition_resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation_policy: Option<String>,
    pub dry_run: bool,
    pub ignore_store_read_error: bool,
}

impl DeleteOptions {
    /// From the query: upstream reads it only when the request has no body.
    pub fn parse(query: &Query<'_>) -> Result<Self, ApiError> {
        let mut errors = ErrorList::new();
        let options = Self {
            grace_period_seconds: integer(query, "gracePeriodSeconds")?,
            orphan_dependents: query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
            propagation_policy: query.get("propagationPolicy").filter(|text| !text.is_empty()).map(str::to_owned),
            dry_run: dry_run(query.all("dryRun"), &mut errors),
            ignore_store_read_error: query.flag("ignoreStoreReadErrorWithClusterBreakingPotential"),
            ..Self::default()
        };
        options.check(errors)
    }

    /// From a decoded body.
    pub fn from_value(body: &Value) -> Result<Self, ApiError> {
        let mut errors = ErrorList::new();
        let text = |path: &[&str]| body.at(path).and_then(Value::as_str).map(str::to_owned);
        let options = Self {
            grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_int),
            precondition_uid: text(&["preconditions", "uid"]),
            precondition_resource_version: text(&["preconditions", "resourceVersion"]),
            orphan_dependents: body.get("orphanDependents").and_then(Value::as_bool),
            propagation_policy: text(&["propagationPolicy"]),
            dry_run: dry_run(body.items_at(&["dryRun"]).iter().filter_map(Value::as_str), &mut errors),
            ignore_store_read_error: body
                .get("ignoreStoreReadErrorWithClusterBreakingPotential")
                .and_then(Value::as_bool)
                .unwrap_or(false),
        };
        options.check(errors)
    }

    /// The object that admission is shown.
    pub fn to_object(&self) -> Value {
        let mut object = bare_options("DeleteOptions", self.dry_run);
        let mut put = |field: &'static str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(field, value);
            }
        };
        put("gracePeriodSeconds", self.grace_period_seconds.map(Value::Int));
        put("orphanDependents", self.orphan_dependents.map(Value::Bool));
        put("propagationPolicy", self.propagation_policy.as_deref().map(Value::from));
        put(
            "ignoreStoreReadErrorWithClusterBreakingPotential",
            self.ignore_store_read_error.then_some(Value::Bool(true)),
        );
        let mut preconditions = Map::new();
        for (field, text) in [("uid", &self.precondition_uid), ("resourceVersion", &self.precondition_resource_version)]
        {
            if let Some(text) = text {
                preconditions.insert(field, text.as_str());
            }
        }
        put("preconditions", (!preconditions.is_empty()).then_some(Value::Object(preconditions)));
        Value::Object(object)
    }

    /// `ValidateDeleteOptions`.
    fn check(self, mut errors: ErrorList) -> Result<Self, ApiError> {
        let path = FieldPath::new("propagationPolicy");
        if let Some(policy) = &self.propagation_policy {
            if self.orphan_dependents.is_some() {
                let detail = "orphanDependents and deletionPropagation cannot be both set";
                errors.push(FieldError::invalid(&path, policy.as_str(), detail));
            }
            if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported_in_order(&path, policy.as_str(), &supported));
            }
        }
        if errors.is_empty() { Ok(self) } else { Err(invalid("DeleteOptions", &errors)) }
    }
}

/// `ValidateDryRun`: `All` is the only value.
fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut ErrorList) -> bool {
    let mut asked = false;
    for value in values {
        asked = true;
        if value != "All" {
            errors.push(FieldError::not_supported(&FieldPath::new("dryRun"), value, &["All"]));
        }
    }
    asked
}

fn integer(query: &Query<'_>, key: &str) -> Result<Option<i64>, ApiError> {
    match query.get(key) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", quoted(text)))),
    }
}

fn quoted(text: &str) -> String {
    skiff_machinery::error::quote(text)
}

fn invalid(kind: &str, errors: &[FieldError]) -> ApiError {
    ApiError::invalid(&GroupKind::new("meta.k8s.io", kind), "", errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_options_are_checked() {
        let list = |query: &str| ListOptions::parse(&Query::parse(query), true).map_err(|error| error.to_string());
        assert_eq!(list("limit=500&resourceVersion=0").unwrap().limit, 500);
        assert_eq!(
            list("resourceVersionMatch=Exact").unwrap_err(),
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden unless resourceVersion is provided"
        );
        assert_eq!(list("limit=x").unwrap_err(), "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert!(list("watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan").is_ok());
        assert!(list("watch=1&sendInitialEvents=true").is_err());
    }

    #[test]
    fn write_options_are_checked() {
        let write = |query: &str, kind| WriteOptions::parse(&Query::parse(query), kind);
        assert!(write("dryRun=All", Write::Create).unwrap().dry_run);
        let error = write("dryRun=Some", Write::Create).unwrap_err();
        assert_eq!(error.code(), 422);
        assert_eq!(
            error.message(),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\""
        );
        assert!(write("force=true", Write::Patch).is_err());
        assert!(write("force=true", Write::Apply).is_err(), "no field manager");
        assert_eq!(write("force=true&fieldManager=me", Write::Apply).unwrap().force, Some(true));
    }
}
