//! What may stand as a name, label, port name, variable name, key or path segment.
//!
//! Mirrors `k8s.io/apimachinery/pkg/util/validation` and `.../pkg/api/validate/content`, message for message: clients and
//! the conformance suite match on them. Each function returns the mistakes it found and an empty list (which costs no
//! allocation) when there are none. The regular expressions stand in messages only; the matching is by hand, because
//! these functions run for every label of every object written.

mod address;

pub use address::{
    Cidr, is_valid_cidr, is_valid_interface_address, is_valid_ip, is_valid_ipv4_address, is_valid_ipv6_address,
    parse_cidr_sloppy, parse_ip_sloppy, warnings_for_cidr, warnings_for_ip,
};

use crate::error::{ErrorList, FieldError};
use crate::field::FieldPath;

/// Longest DNS label.
pub const DNS1123_LABEL_MAX_LENGTH: usize = 63;
/// Longest DNS subdomain.
pub const DNS1123_SUBDOMAIN_MAX_LENGTH: usize = 253;
/// Longest RFC 1035 label.
pub const DNS1035_LABEL_MAX_LENGTH: usize = 63;
/// Longest label value.
pub const LABEL_VALUE_MAX_LENGTH: usize = 63;
/// Longest name part of a label key.
const QUALIFIED_NAME_MAX_LENGTH: usize = 63;

macro_rules! label_fmt {
    () => {
        "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    };
}
macro_rules! label_underscore_fmt {
    () => {
        "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
    };
}
macro_rules! subdomain_fmt {
    () => {
        concat!(label_fmt!(), "(\\.", label_fmt!(), ")*")
    };
}
macro_rules! qualified_name_fmt {
    () => {
        "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
    };
}

/// `MaxLenError`.
pub fn max_len_error(length: usize) -> String {
    format!("must be no more than {length} characters")
}
/// `EmptyError`.
pub const fn empty_error() -> &'static str {
    "must be non-empty"
}
/// `InclusiveRangeError`.
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}
/// `RegexError`: what the rule is, examples that satisfy it, and the expression.
pub fn regex_error(message: &str, expression: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{expression}')");
    }
    let quoted: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{expression}')", quoted.join(" or "))
}

fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether text is not empty, begins with `first`, ends with `last` and has only `middle` between.
fn framed(text: &[u8], first: impl Fn(u8) -> bool, middle: impl Fn(u8) -> bool, last: impl Fn(u8) -> bool) -> bool {
    match text {
        [] => false,
        [only] => first(*only),
        [start, inner @ .., end] => first(*start) && last(*end) && inner.iter().all(|&byte| middle(byte)),
    }
}
fn matches_dns1123_label(text: &[u8]) -> bool {
    framed(text, lower_alnum, |byte| lower_alnum(byte) || byte == b'-', lower_alnum)
}
fn matches_dns1123_subdomain(text: &str) -> bool {
    text.as_bytes().split(|&byte| byte == b'.').all(matches_dns1123_label)
}
fn matches_underscore_label(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"_").unwrap_or(text);
    framed(text, lower_alnum, |byte| lower_alnum(byte) || byte == b'-' || byte == b'_', lower_alnum)
}
fn matches_qualified_name(text: &str) -> bool {
    let alnum = |byte: u8| byte.is_ascii_alphanumeric();
    framed(text.as_bytes(), alnum, |byte| alnum(byte) || matches!(byte, b'-' | b'_' | b'.'), alnum)
}
fn all_bytes(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(allowed)
}

/// `IsDNS1123Label`.
pub fn is_dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_LABEL_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_LABEL_MAX_LENGTH));
    }
    if !matches_dns1123_label(value.as_bytes()) {
        if matches_dns1123_subdomain(value) {
            errors.push("must not contain dots".to_owned());
        } else {
            errors.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                label_fmt!(),
                &["my-name", "123-abc"],
            ));
        }
    }
    errors
}

/// `IsDNS1123Subdomain`.
pub fn is_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX_LENGTH));
    }
    if !matches_dns1123_subdomain(value) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            subdomain_fmt!(),
            &["example.com"],
        ));
    }
    errors
}

/// `IsDNS1123SubdomainWithUnderscore`.
pub fn is_dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX_LENGTH));
    }
    if !value.as_bytes().split(|&byte| byte == b'.').all(matches_underscore_label) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            concat!(label_underscore_fmt!(), "(\\.", label_underscore_fmt!(), ")*"),
            &["example.com"],
        ));
    }
    errors
}

/// `IsDNS1035Label`.
pub fn is_dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1035_LABEL_MAX_LENGTH {
        errors.push(max_len_error(DNS1035_LABEL_MAX_LENGTH));
    }
    let good = framed(
        value.as_bytes(),
        |byte| byte.is_ascii_lowercase(),
        |byte| lower_alnum(byte) || byte == b'-',
        lower_alnum,
    );
    if !good {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// `IsWildcardDNS1123Subdomain`: `*.` and a subdomain.
pub fn is_wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX_LENGTH));
    }
    if !value.strip_prefix("*.").is_some_and(matches_dns1123_subdomain) {
        errors.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            concat!("\\*\\.", subdomain_fmt!()),
            &["*.example.com"],
        ));
    }
    errors
}

const QUALIFIED_NAME_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `IsQualifiedName`, since 1.35 an alias of `IsLabelKey`: an optional DNS subdomain, `/`, and a name.
pub fn is_qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let expression_error =
        || regex_error(QUALIFIED_NAME_MESSAGE, qualified_name_fmt!(), &["MyName", "my.name", "123-abc"]);
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            errors.push(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                expression_error()
            ));
            return errors;
        }
        Some(("", name)) => {
            errors.push(format!("prefix part {}", empty_error()));
            name
        }
        Some((prefix, name)) => {
            errors.extend(is_dns1123_subdomain(prefix).into_iter().map(|error| format!("prefix part {error}")));
            name
        }
    };
    if name.is_empty() {
        errors.push(format!("name part {}", empty_error()));
    } else if name.len() > QUALIFIED_NAME_MAX_LENGTH {
        errors.push(format!("name part {}", max_len_error(QUALIFIED_NAME_MAX_LENGTH)));
    }
    if !matches_qualified_name(name) {
        errors.push(format!("name part {}", expression_error()));
    }
    errors
}

/// `IsPrefixedLabelKey`: a label key that has its prefix.
pub fn is_prefixed_label_key(value: &str) -> Vec<String> {
    let errors = is_qualified_name(value);
    if errors.is_empty() && !value.contains('/') {
        return vec!["must include a prefix (e.g. 'example.com/key')".to_owned()];
    }
    errors
}

/// `IsValidLabelValue`.
pub fn is_valid_label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_VALUE_MAX_LENGTH {
        errors.push(max_len_error(LABEL_VALUE_MAX_LENGTH));
    }
    if !value.is_empty() && !matches_qualified_name(value) {
        errors.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            concat!("(", qualified_name_fmt!(), ")?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// `IsCIdentifier`.
pub fn is_c_identifier(value: &str) -> Vec<String> {
    let starts_well = value.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if starts_well && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Vec::new();
    }
    vec![regex_error(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// `IsInRange`.
pub fn is_in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) { Vec::new() } else { vec![inclusive_range_error(low, high)] }
}
/// `IsValidPortNum`.
pub fn is_valid_port_num(port: i64) -> Vec<String> {
    is_in_range(port, 1, 65535)
}
/// `IsValidGroupID`.
pub fn is_valid_group_id(gid: i64) -> Vec<String> {
    is_in_range(gid, 0, i64::from(u32::MAX))
}
/// `IsValidUserID`.
pub fn is_valid_user_id(uid: i64) -> Vec<String> {
    is_in_range(uid, 0, i64::from(u32::MAX))
}

/// `IsValidPortName`: an IANA service name, in lower case.
pub fn is_valid_port_name(port: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if port.len() > 15 {
        errors.push(max_len_error(15));
    }
    if !all_bytes(port, |byte| lower_alnum(byte) || byte == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !port.bytes().any(|byte| byte.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if port.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if port.starts_with('-') || port.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// `IsValidPercent`: digits and `%`.
pub fn is_valid_percent(percent: &str) -> Vec<String> {
    if percent.strip_suffix('%').is_some_and(|digits| all_bytes(digits, |byte| byte.is_ascii_digit())) {
        return Vec::new();
    }
    vec![regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// `IsHTTPHeaderName`.
pub fn is_http_header_name(value: &str) -> Vec<String> {
    if all_bytes(value, |byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// Names that would leave or name the directory when used as a file name.
fn chdir_prefix(value: &str) -> Option<String> {
    let message = match value {
        "." => "must not be '.'",
        ".." => "must not be '..'",
        longer if longer.starts_with("..") => "must not start with '..'",
        _ => return None,
    };
    Some(message.to_owned())
}

/// `IsEnvVarName`: the strict rule, for `envFrom` prefixes and old objects.
pub fn is_env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if !all_bytes(value, allowed) || value.starts_with(|first: char| first.is_ascii_digit()) {
        errors.push(regex_error(
            "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit",
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    errors.extend(chdir_prefix(value));
    errors
}

/// `IsRelaxedEnvVarName`: printable ASCII without `=`.
pub fn is_relaxed_env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec![format!("environment variable name {}", empty_error())];
    }
    if value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// `IsConfigMapKey`: a key of a ConfigMap or Secret, which becomes a file name.
pub fn is_config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX_LENGTH {
        errors.push(max_len_error(DNS1123_SUBDOMAIN_MAX_LENGTH));
    }
    if !all_bytes(value, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    errors.extend(chdir_prefix(value));
    errors
}

/// `IsValidPathSegmentName`: what may stand between slashes of a URL and of a storage key.
pub fn is_valid_path_segment_name(name: &str) -> Vec<String> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        _ => is_valid_path_segment_prefix(name),
    }
}

/// `IsValidPathSegmentPrefix`: the same for a prefix to which something is appended.
pub fn is_valid_path_segment_prefix(name: &str) -> Vec<String> {
    ['/', '%'].into_iter().filter(|&bad| name.contains(bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// `maskTrailingDash`: a `generateName` may end in the dash before the random suffix.
fn mask_trailing_dash(name: &str) -> String {
    let mut masked = name.to_owned();
    if masked.len() > 1 && masked.ends_with('-') {
        masked.truncate(masked.len() - 2);
        // What stood before the dash may have been part of a longer character; such a name is refused by its first byte.
        masked.push('a');
    }
    masked
}

/// How a kind's `metadata.name` is checked (`k8s.io/apimachinery/pkg/api/validation/generic.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// `NameIsDNSSubdomain`, for most kinds.
    DnsSubdomain,
    /// `NameIsDNSLabel`, for namespaces and services of 1.36.
    DnsLabel,
    /// `NameIsDNS1035Label`.
    Dns1035Label,
    /// `path.ValidatePathSegmentName`, for RBAC.
    PathSegment,
}

impl NameRule {
    /// Mistakes in a name, or in a `generateName` when `prefix`.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        if self == Self::PathSegment {
            return if prefix { is_valid_path_segment_prefix(name) } else { is_valid_path_segment_name(name) };
        }
        let masked;
        let name = if prefix && name.is_char_boundary(name.len().saturating_sub(2)) {
            masked = mask_trailing_dash(name);
            &masked
        } else {
            name
        };
        match self {
            Self::DnsSubdomain => is_dns1123_subdomain(name),
            Self::DnsLabel => is_dns1123_label(name),
            Self::Dns1035Label | Self::PathSegment => is_dns1035_label(name),
        }
    }
}

/// `IsFullyQualifiedName`: a domain of at least three segments, such as a signer's or an API service's.
pub fn is_fully_qualified_name(path: &FieldPath<'_>, name: &str) -> ErrorList {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let errors = is_dns1123_subdomain(name);
    if !errors.is_empty() {
        return vec![FieldError::invalid(path, name, errors.join(","))];
    }
    if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        return vec![FieldError::invalid(path, name, detail)];
    }
    Vec::new()
}

/// `IsFullyQualifiedDomainName`: at least two segments, each a label; a trailing dot is accepted.
pub fn is_fully_qualified_domain_name(path: &FieldPath<'_>, name: &str) -> ErrorList {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let errors = is_dns1123_subdomain(name);
    if !errors.is_empty() {
        return vec![FieldError::invalid(path, name, errors.join(","))];
    }
    if name.split('.').count() < 2 {
        let detail = "should be a domain with at least two segments separated by dots";
        return vec![FieldError::invalid(path, name, detail)];
    }
    for label in name.split('.') {
        let errors = is_dns1123_label(label);
        if !errors.is_empty() {
            return vec![FieldError::invalid(path, label, errors.join(","))];
        }
    }
    Vec::new()
}

/// `IsDomainPrefixedPath`: `acme.io/foo`, a domain and an HTTP path.
pub fn is_domain_prefixed_path(path: &FieldPath<'_>, value: &str) -> ErrorList {
    if value.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let Some((host, rest)) = value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        return vec![FieldError::invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")")];
    };
    let mut errors: ErrorList =
        is_dns1123_subdomain(host).iter().map(|error| FieldError::invalid(path, host, error)).collect();
    if !all_bytes(rest, |byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte)) {
        let detail = regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
        errors.push(FieldError::invalid(path, rest, detail));
    }
    errors
}

/// `IsDomainPrefixedKey`: a label key with its prefix.
pub fn is_domain_prefixed_key(path: &FieldPath<'_>, key: &str) -> ErrorList {
    if key.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let errors: ErrorList = is_qualified_name(key).iter().map(|error| FieldError::invalid(path, key, error)).collect();
    if errors.is_empty() && !key.contains('/') {
        return vec![FieldError::invalid(path, key, "must be a domain-prefixed key (such as \"acme.io/foo\")")];
    }
    errors
}

#[cfg(test)]
mod tests;
