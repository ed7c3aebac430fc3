//! Errors as clients see them: field errors, and the one [`ApiError`] that becomes a `metav1.Status`.
//!
//! Constructors carry upstream's names (`k8s.io/apimachinery/pkg/api/errors/errors.go`), and messages upstream's shape,
//! because clients match on them. No code reads meaning back out of a message: it asks [`ApiError::reason`].

use crate::field::FieldPath;
use crate::meta::{GroupKind, GroupResource};
use crate::value::{Map, Value};
use std::fmt;

/// `metav1.StatusReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants are upstream's constants, letter for letter")]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// The text in `status.reason`; empty for `Unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::StoreReadError => "StorageReadError",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::Expired => "Expired",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }

    /// From the text in a `Status` that another server sent.
    pub fn parse(text: &str) -> Self {
        const ALL: [Reason; 19] = [
            Reason::Unauthorized,
            Reason::Forbidden,
            Reason::NotFound,
            Reason::AlreadyExists,
            Reason::Conflict,
            Reason::Gone,
            Reason::Invalid,
            Reason::ServerTimeout,
            Reason::StoreReadError,
            Reason::Timeout,
            Reason::TooManyRequests,
            Reason::BadRequest,
            Reason::MethodNotAllowed,
            Reason::NotAcceptable,
            Reason::RequestEntityTooLarge,
            Reason::UnsupportedMediaType,
            Reason::InternalError,
            Reason::Expired,
            Reason::ServiceUnavailable,
        ];
        ALL.into_iter().find(|reason| reason.as_str() == text).unwrap_or(Self::Unknown)
    }
}

/// The kinds of field error (`field.ErrorType`), in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are upstream's constants, letter for letter")]
pub enum FieldErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl FieldErrorType {
    /// The text in `details.causes[].reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
    fn prefix(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One mistake in one field (`field.Error`).
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What sort of mistake.
    pub kind: FieldErrorType,
    /// The field's path, as printed.
    pub field: String,
    /// What followed the path: value and detail, already in upstream's shape.
    body: String,
}

/// Every mistake found in an object (`field.ErrorList`).
pub type ErrorList = Vec<FieldError>;

/// How a bad value is shown in a field error: strings quoted as Go does, scalars plain, structures as JSON.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => crate::codec::scalar::go_float(*number),
        Value::String(text) => quote(text),
        structure => crate::codec::json::to_string(structure),
    }
}

/// Quotes text as Go's `%q` does for printable text.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for symbol in text.chars() {
        match symbol {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", control as u32));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

impl FieldError {
    fn with_value(kind: FieldErrorType, path: &FieldPath<'_>, value: &Value, detail: &str) -> Self {
        let mut body = format!("{}: {}", kind.prefix(), show(value));
        if !detail.is_empty() {
            body.push_str(": ");
            body.push_str(detail);
        }
        Self { kind, field: path.to_string(), body }
    }
    fn without_value(kind: FieldErrorType, path: &FieldPath<'_>, detail: &str) -> Self {
        let body = if detail.is_empty() { kind.prefix().to_owned() } else { format!("{}: {detail}", kind.prefix()) };
        Self { kind, field: path.to_string(), body }
    }
    /// A value that cannot be accepted, and why.
    pub fn invalid(path: &FieldPath<'_>, value: impl Into<Value>, detail: impl AsRef<str>) -> Self {
        Self::with_value(FieldErrorType::Invalid, path, &value.into(), detail.as_ref())
    }
    /// A value that cannot be accepted and is not shown (`field.OmitValueType`).
    pub fn invalid_hidden(path: &FieldPath<'_>, detail: impl AsRef<str>) -> Self {
        Self::without_value(FieldErrorType::Invalid, path, detail.as_ref())
    }
    /// A value of the wrong type.
    pub fn type_invalid(path: &FieldPath<'_>, value: impl Into<Value>, detail: impl AsRef<str>) -> Self {
        Self::with_value(FieldErrorType::TypeInvalid, path, &value.into(), detail.as_ref())
    }
    /// A value that is missing.
    pub fn required(path: &FieldPath<'_>, detail: impl AsRef<str>) -> Self {
        Self::without_value(FieldErrorType::Required, path, detail.as_ref())
    }
    /// A value that occurs twice where it must be unique.
    pub fn duplicate(path: &FieldPath<'_>, value: impl Into<Value>) -> Self {
        Self::with_value(FieldErrorType::Duplicate, path, &value.into(), "")
    }
    /// A reference to something that does not exist.
    pub fn not_found(path: &FieldPath<'_>, value: impl Into<Value>) -> Self {
        Self::with_value(FieldErrorType::NotFound, path, &value.into(), "")
    }
    /// A field that may not be set here.
    pub fn forbidden(path: &FieldPath<'_>, detail: impl AsRef<str>) -> Self {
        Self::without_value(FieldErrorType::Forbidden, path, detail.as_ref())
    }
    /// A value outside an enumeration; `supported` is listed sorted and quoted, as upstream does.
    pub fn not_supported<S: AsRef<str>>(path: &FieldPath<'_>, value: impl Into<Value>, supported: &[S]) -> Self {
        let mut names: Vec<String> = supported.iter().map(|name| quote(name.as_ref())).collect();
        names.sort();
        let detail = if names.is_empty() { String::new() } else { format!("supported values: {}", names.join(", ")) };
        Self::with_value(FieldErrorType::NotSupported, path, &value.into(), &detail)
    }
    /// The same with `supported` listed as it stands, as upstream does for values that a schema lists.
    pub fn not_supported_in_order<S: AsRef<str>>(
        path: &FieldPath<'_>,
        value: impl Into<Value>,
        supported: &[S],
    ) -> Self {
        let names: Vec<String> = supported.iter().map(|name| quote(name.as_ref())).collect();
        let detail = if names.is_empty() { String::new() } else { format!("supported values: {}", names.join(", ")) };
        Self::with_value(FieldErrorType::NotSupported, path, &value.into(), &detail)
    }
    /// Text longer than `max` bytes; the value itself is not shown.
    pub fn too_long(path: &FieldPath<'_>, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::without_value(FieldErrorType::TooLong, path, &format!("may not be more than {max} {unit}"))
    }
    /// A list longer than `max` items.
    pub fn too_many(path: &FieldPath<'_>, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        let body = format!("{}: {actual}: must have at most {max} {unit}", FieldErrorType::TooMany.prefix());
        Self { kind: FieldErrorType::TooMany, field: path.to_string(), body }
    }
    /// A check that could not be made.
    pub fn internal(path: &FieldPath<'_>, detail: impl AsRef<str>) -> Self {
        Self::without_value(FieldErrorType::Internal, path, detail.as_ref())
    }
    /// The message without the field's path, as in `details.causes[].message`.
    pub fn body(&self) -> &str {
        &self.body
    }
}
impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.body)
    }
}

/// `metav1.StatusCause`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// Machine-readable cause.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field, when one is meant.
    pub field: String,
}

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its resource or kind, as upstream fills it for this error.
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// Single causes.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; 0 when not said.
    pub retry_after_seconds: i32,
}

/// An answer that is not what was asked for. The one error type of the request pipeline; its [`ApiError::to_status`]
/// is the only place where a failure `Status` is made.
#[derive(Clone, PartialEq)]
pub struct ApiError(Box<Inner>);

#[derive(Clone, PartialEq)]
struct Inner {
    code: u16,
    reason: Reason,
    message: String,
    details: Option<Details>,
    /// The inconsistent continue token that a 410 for an expired list carries.
    continue_token: Option<String>,
    /// Whether a write may have been committed although this error is returned.
    outcome_unknown: bool,
}

impl fmt::Debug for ApiError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ApiError({} {}: {})", self.0.code, self.0.reason.as_str(), self.0.message)
    }
}
impl fmt::Display for ApiError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.message)
    }
}
impl std::error::Error for ApiError {}

impl ApiError {
    /// From its parts; the named constructors below are for almost every use.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            reason,
            message: message.into(),
            details: None,
            continue_token: None,
            outcome_unknown: false,
        }))
    }
    /// With details.
    pub fn with_details(mut self, details: Details) -> Self {
        self.0.details = Some(details);
        self
    }
    fn on(self, resource: &GroupResource, name: &str) -> Self {
        self.with_details(Details {
            name: name.to_owned(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        })
    }
    /// 404: no such object.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{resource} {} not found", quote(name))).on(resource, name)
    }
    /// 404 for a path that nothing serves, in upstream's words.
    pub fn generic_not_found() -> Self {
        Self::new(404, Reason::NotFound, "the server could not find the requested resource")
            .with_details(Details::default())
    }
    /// 409: the name is taken.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{resource} {} already exists", quote(name))).on(resource, name)
    }
    /// 409: somebody else changed the object.
    pub fn conflict(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", quote(name));
        Self::new(409, Reason::Conflict, message).on(resource, name)
    }
    /// 409 with upstream's advice to read again.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }
    /// 409 of server-side apply, with one cause per field.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        Self::new(409, Reason::Conflict, message).with_details(Details { causes, ..Details::default() })
    }
    /// 422: the object has mistakes. `kind` is the object's kind.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let list = match texts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{kind} {} is invalid: {list}", quote(name));
        let causes = errors
            .iter()
            .map(|error| Cause {
                reason: error.kind.reason().to_owned(),
                message: error.body.clone(),
                field: error.field.clone(),
            })
            .collect();
        Self::new(422, Reason::Invalid, message).with_details(Details {
            name: name.to_owned(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes,
            ..Details::default()
        })
    }
    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }
    /// 401, always in the same words: an answer that says more helps an attacker.
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }
    /// 403 on an object.
    pub fn forbidden(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", quote(name))
        };
        Self::new(403, Reason::Forbidden, message).on(resource, name)
    }
    /// 403 on a path.
    pub fn forbidden_path(message: impl Into<String>) -> Self {
        Self::new(403, Reason::Forbidden, message).with_details(Details::default())
    }
    /// 405.
    pub fn method_not_supported(resource: &GroupResource, verb: &str) -> Self {
        Self::new(
            405,
            Reason::MethodNotAllowed,
            format!("{verb} is not supported on resources of kind {}", quote(&resource.to_string())),
        )
        .on(resource, "")
    }
    /// 406.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, Reason::NotAcceptable, message)
    }
    /// 410: the revision asked for is behind the API horizon.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }
    /// The same, with the token that continues the list inconsistently.
    pub fn with_continue(mut self, token: String) -> Self {
        self.0.continue_token = Some(token);
        self
    }
    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, message)
    }
    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, Reason::UnsupportedMediaType, message)
    }
    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(429, Reason::TooManyRequests, message)
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }
    /// 500. `what` goes to the client: it must hold no secret.
    pub fn internal(what: impl fmt::Display) -> Self {
        let cause = Cause { reason: String::new(), message: what.to_string(), field: String::new() };
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {what}"))
            .with_details(Details { causes: vec![cause], ..Details::default() })
    }
    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }
    /// 504: not done in time. With `outcome_unknown` a write may have happened.
    pub fn timeout(message: impl Into<String>, outcome_unknown: bool) -> Self {
        let mut error = Self::new(504, Reason::Timeout, format!("Timeout: {}", message.into()));
        error.0.outcome_unknown = outcome_unknown;
        error
    }

    /// HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.code
    }
    /// Machine-readable reason.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }
    /// The message for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// The inconsistent continue token of a 410, when it carries one.
    pub fn continue_token(&self) -> Option<&str> {
        self.0.continue_token.as_deref()
    }
    /// Details, when there are any.
    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }
    /// Whether a write may have been committed all the same.
    pub fn outcome_unknown(&self) -> bool {
        self.0.outcome_unknown
    }
    /// Seconds for a `Retry-After` header, when the error asks for one.
    pub fn retry_after_seconds(&self) -> Option<i32> {
        self.0.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
    }
    /// Whether the reason is `NotFound`.
    pub fn is_not_found(&self) -> bool {
        self.0.reason == Reason::NotFound
    }
    /// Whether the reason is `Conflict`.
    pub fn is_conflict(&self) -> bool {
        self.0.reason == Reason::Conflict
    }
    /// Whether the reason is `AlreadyExists`.
    pub fn is_already_exists(&self) -> bool {
        self.0.reason == Reason::AlreadyExists
    }

    /// The `metav1.Status` object.
    pub fn to_status(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.0.continue_token {
            metadata.insert("continue", token.as_str());
        }
        let mut status = Map::new();
        status.insert("kind", "Status");
        status.insert("apiVersion", "v1");
        status.insert("metadata", metadata);
        status.insert("status", "Failure");
        status.insert("message", self.0.message.as_str());
        if self.0.reason != Reason::Unknown {
            status.insert("reason", self.0.reason.as_str());
        }
        if let Some(details) = &self.0.details {
            status.insert("details", details.to_value());
        }
        status.insert("code", i64::from(self.0.code));
        Value::Object(status)
    }

    /// Reads a `Status` that a server answered; `None` when `status` is not a failure `Status`.
    pub fn from_status(status: &Value) -> Option<Self> {
        if status.str_at(&["kind"]) != "Status" || status.str_at(&["status"]) == "Success" {
            return None;
        }
        let code = u16::try_from(status.get("code").and_then(Value::as_int).unwrap_or(500)).unwrap_or(500);
        let mut error = Self::new(code, Reason::parse(status.str_at(&["reason"])), status.str_at(&["message"]));
        error.0.details = status.get("details").map(Details::from_value);
        error.0.continue_token = status.at(&["metadata", "continue"]).and_then(Value::as_str).map(str::to_owned);
        Some(error)
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut details = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                details.insert(key, text.as_str());
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self.causes.iter().map(Cause::to_value).collect();
            details.insert("causes", causes);
        }
        if self.retry_after_seconds != 0 {
            details.insert("retryAfterSeconds", i64::from(self.retry_after_seconds));
        }
        Value::Object(details)
    }
    fn from_value(details: &Value) -> Self {
        let text = |key: &str| details.str_at(&[key]).to_owned();
        let seconds = details.get("retryAfterSeconds").and_then(Value::as_int).unwrap_or(0);
        Self {
            name: text("name"),
            group: text("group"),
            kind: text("kind"),
            uid: text("uid"),
            causes: details.items_at(&["causes"]).iter().map(Cause::from_value).collect(),
            retry_after_seconds: i32::try_from(seconds).unwrap_or(i32::MAX),
        }
    }
}
impl Cause {
    fn to_value(&self) -> Value {
        [("reason", &self.reason), ("message", &self.message), ("field", &self.field)]
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(key, text)| (key, text.as_str()))
            .collect::<Map>()
            .into()
    }
    fn from_value(cause: &Value) -> Self {
        let text = |key: &str| cause.str_at(&[key]).to_owned();
        Self { reason: text("reason"), message: text("message"), field: text("field") }
    }
}
