//! Configurations as they are used: parsed once for each state of the stored objects.
//!
//! Mirrors `apiserver/pkg/admission/configuration`, `plugin/webhook/accessors.go` and `predicates/rules/rules.go`.

use super::super::matching::{Constraints, is_exempt, texts};
use super::super::{Attributes, Operation, Reader};
use crate::callout::Remote;
use crate::kinds::tree::Tree;
use skiff_machinery::cel::{CompileError, Environment, Program, Variable, Wanted};
use skiff_machinery::{GroupResource, Value};
use std::sync::Arc;
use std::time::Duration;

/// One webhook.
pub(super) struct Hook {
    /// Tells webhooks of one name apart: the configuration's, and which one there.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) configuration: String,
    pub(super) remote: Remote,
    /// Requests are refused when it cannot be asked.
    pub(super) fail: bool,
    matches: Constraints,
    pub(super) conditions: Vec<(String, Program)>,
    pub(super) reinvoke: bool,
    /// Of `AdmissionReview`.
    pub(super) review: &'static str,
    /// Whether it may be asked on a dry run.
    pub(super) harmless: bool,
}

/// Versions of `AdmissionReview` that are spoken here, the webhook's order decides.
pub(crate) const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// Compiles a match condition, with all that it may speak of.
pub(crate) fn compile_condition(source: &str) -> Result<Program, CompileError> {
    let variables = ["object", "oldObject", "request"].map(|name| Variable { name, shape: None, optional: false });
    let environment = Environment { variables: &variables, authorizer: true, ..Environment::default() };
    Program::compile_in(source, &environment, Wanted::Bool).map(|(program, _)| program)
}

fn hook(configuration: &str, index: usize, value: &Value) -> Result<Hook, String> {
    let timeout = Duration::from_secs(value.int("timeoutSeconds").and_then(|s| u64::try_from(s).ok()).unwrap_or(10));
    let remote = Remote::of(value.get("clientConfig").unwrap_or(&Value::Null), timeout)?;
    let name = value.text("name");
    let conditions = value.items("matchConditions").iter().map(|condition| {
        let program = compile_condition(condition.text("expression"));
        let name = condition.text("name").to_owned();
        program.map(|program| (name, program)).map_err(|error| error.to_string())
    });
    let known = |version: &String| REVIEWS.iter().find(|known| **known == version.as_str()).copied();
    Ok(Hook {
        id: format!("{configuration}/{name}/{index}"),
        name: name.to_owned(),
        configuration: configuration.to_owned(),
        remote,
        fail: value.text("failurePolicy") != "Ignore",
        matches: Constraints::of(value, "rules", "")?,
        conditions: conditions.collect::<Result<_, _>>()?,
        reinvoke: value.text("reinvocationPolicy") == "IfNeeded",
        review: texts(value, "admissionReviewVersions").iter().find_map(known).unwrap_or("v1"),
        harmless: matches!(value.text("sideEffects"), "None" | "NoneOnDryRun"),
    })
}

/// Every webhook of one kind of configuration, by the configurations' names.
pub(super) fn hooks(reader: &dyn Reader, resource: &GroupResource) -> Vec<Arc<Hook>> {
    let mut all = reader.list(resource, None);
    all.sort_by(|left, right| left.str_at(&["metadata", "name"]).cmp(right.str_at(&["metadata", "name"])));
    let mut out = Vec::new();
    for configuration in all {
        let name = configuration.str_at(&["metadata", "name"]);
        for (index, value) in configuration.items("webhooks").iter().enumerate() {
            match hook(name, index, value) {
                Ok(hook) => out.push(Arc::new(hook)),
                // It was checked when it came; what an older server stored may still not be usable.
                Err(error) => tracing::error!(
                    configuration = name,
                    webhook = value.text("name"),
                    error,
                    "a webhook cannot be used"
                ),
            }
        }
    }
    out
}

impl Hook {
    /// In which version the webhook wants to see a request; `None`: not at all.
    pub(super) fn wants(&self, attributes: &Attributes<'_>, namespace: Option<&Value>) -> Option<usize> {
        if is_exempt(attributes) || !self.matches.has_rules() {
            return None;
        }
        self.matches.matches(attributes, namespace)
    }
}

impl Operation {
    /// Whether webhooks can be asked about it.
    pub(super) fn is_reviewed(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Delete | Self::Connect)
    }
}
