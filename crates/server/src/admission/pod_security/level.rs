//! What a namespace asks for: levels and versions, in labels.
//!
//! Mirrors `k8s.io/pod-security-admission/api/helpers.go` and `constants.go`.

use skiff_machinery::{ErrorList, FieldError, FieldPath, Value};
use std::fmt;

/// Before every label.
const PREFIX: &str = "pod-security.kubernetes.io/";
/// The version of the policies that `latest` means; later ones are the same.
const CURRENT: u32 = 36;

/// How much a pod may do, from all to little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

const LEVELS: [(&str, Level); 3] =
    [("privileged", Level::Privileged), ("baseline", Level::Baseline), ("restricted", Level::Restricted)];

/// A level as it was in some version of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    /// The minor version; `None` is the latest.
    pub(super) version: Option<u32>,
}

impl Standard {
    const OPEN: Self = Self { level: Level::Privileged, version: None };
    /// The minor version whose checks are made.
    pub(super) fn minor(self) -> u32 {
        self.version.unwrap_or(CURRENT)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = LEVELS.iter().find(|(_, level)| *level == self.level).map_or("", |(name, _)| *name);
        match self.version {
            Some(minor) => write!(f, "{name}:v1.{minor}"),
            None => write!(f, "{name}:latest"),
        }
    }
}

/// What happens in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// Pods that do more are refused.
    pub(super) enforce: Standard,
    /// Who makes pods that do more is told.
    pub(super) warn: Standard,
}

impl Policy {
    /// Whether nothing is asked for.
    pub(super) fn is_open(&self) -> bool {
        self.enforce.level == Level::Privileged && self.warn.level == Level::Privileged
    }

    /// Of a namespace's labels; a label with a mistake counts as the strictest, and is told.
    pub(super) fn of(namespace: &Value) -> (Self, ErrorList) {
        let mut errors = ErrorList::new();
        let enforce = standard(namespace, "enforce", &mut errors);
        // Audit has no effect here (there is no audit log), but its labels are checked like upstream's.
        standard(namespace, "audit", &mut errors);
        let warn = standard(namespace, "warn", &mut errors);
        let mut policy = Self { enforce: enforce.unwrap_or(Standard::OPEN), warn: warn.unwrap_or(Standard::OPEN) };
        // Who is refused pods is told about their controllers, too.
        if warn.is_none() && policy.enforce.level > policy.warn.level {
            policy.warn = policy.enforce;
        }
        (policy, errors)
    }
}

fn standard(namespace: &Value, mode: &str, errors: &mut ErrorList) -> Option<Standard> {
    let metadata = FieldPath::new("metadata");
    let labels = metadata.child("labels");
    let label = |name: &str| namespace.at(&["metadata", "labels", name]).and_then(Value::as_str);
    let (level_key, version_key) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
    let mut found = None;
    if let Some(text) = label(&level_key) {
        let level = LEVELS.iter().find(|(name, _)| *name == text).map(|(_, level)| *level);
        if level.is_none() {
            let detail = "must be one of privileged, baseline, restricted";
            errors.push(FieldError::invalid(&labels.key(&level_key), text, detail));
        }
        found = Some(Standard { level: level.unwrap_or(Level::Restricted), version: None });
    }
    if let Some(text) = label(&version_key) {
        let version = match text {
            "latest" => Some(None),
            text => text.strip_prefix("v1.").filter(|minor| is_number(minor)).map(|minor| minor.parse().ok()),
        };
        if version.is_none() {
            let detail = "must be \"latest\" or \"v1.x\"";
            errors.push(FieldError::invalid(&labels.key(&version_key), text, detail));
        }
        if let (Some(found), Some(version)) = (&mut found, version) {
            found.version = version;
        }
    }
    found
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
}
