//! What the expressions of a policy say about one request: pure, over what was collected before.
//!
//! Mirrors `apiserver/pkg/admission/plugin/policy/validating/validator.go` and `plugin/cel/condition.go`.

use super::super::Attributes;
use super::compile::{Compiled, Named, Validation};
use crate::authz::{Authorizer, Question};
use crate::request::UserInfo;
use futures_util::FutureExt;
use skiff_machinery::cel::{Access, AccessAnswer, AccessQuestion, Activation, Binding, EvalError, Output, Program};
use skiff_machinery::{GroupResource, Value};

/// What one evaluation may cost (`celconfig.PerCallLimit`).
const PER_CALL: u64 = 1_000_000;
/// What all expressions of a policy may cost for one request and parameter (`RuntimeCELCostBudget`).
const PER_REQUEST: u64 = 10_000_000;
/// What match conditions may cost (`RuntimeCELCostBudgetMatchConditions`).
const CONDITIONS: u64 = 2_500_000;
/// Longest message that an expression makes (`MaxEvaluatedMessageExpressionSizeBytes`).
const LONGEST_MESSAGE: usize = 5 * 1024;

/// What expressions see.
pub(super) struct Seen<'a> {
    pub(super) object: &'a Value,
    pub(super) old: &'a Value,
    pub(super) request: &'a Value,
    pub(super) namespace: &'a Value,
    /// Null when the policy takes none.
    pub(super) params: &'a Value,
}

/// A failure of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) message: String,
    /// Empty: `Invalid`.
    pub(super) reason: String,
    /// The policy could not be asked, rather than said no.
    pub(super) error: bool,
}

impl Failure {
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self { message: message.into(), reason: String::new(), error: true }
    }
}

/// The server's authorizers, asked at once: they decide from what is in memory.
pub(super) struct Asking<'a> {
    pub(super) authorizer: &'a dyn Authorizer,
    pub(super) attributes: &'a Attributes<'a>,
}

impl Access for Asking<'_> {
    fn decide(&self, asked: &AccessQuestion) -> AccessAnswer {
        let account = asked.service_account.as_ref().map(|(namespace, name)| UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")],
            ..UserInfo::default()
        });
        let user = account.as_ref().unwrap_or(&self.attributes.context.user);
        let resource = GroupResource::new(asked.group.as_str(), asked.resource.as_str());
        let question = Question::on(user, &asked.verb, &resource, &asked.namespace, &asked.name);
        let question = Question {
            is_resource: asked.path.is_empty(),
            path: &asked.path,
            subresource: &asked.subresource,
            field_selector: &asked.field_selector,
            ..question
        };
        match self.authorizer.authorize(&question).now_or_never() {
            Some(decision) => {
                AccessAnswer { allowed: decision.is_allowed(), reason: decision.reason().to_owned(), error: None }
            }
            None => {
                let error = Some("the authorizer does not decide at once".to_owned());
                AccessAnswer { error, ..AccessAnswer::default() }
            }
        }
    }

    fn request_resource(&self) -> AccessQuestion {
        let attributes = self.attributes;
        AccessQuestion {
            group: attributes.resource.name.group.clone(),
            resource: attributes.resource.name.resource.clone(),
            subresource: attributes.subresource.to_owned(),
            namespace: attributes.namespace.to_owned(),
            name: attributes.name.to_owned(),
            ..AccessQuestion::default()
        }
    }
}

/// The expressions of one policy over one request.
pub(super) struct Session<'v> {
    activation: Activation<'v>,
    budget: u64,
}

impl<'v> Session<'v> {
    pub(super) fn new(compiled: &'v Compiled, seen: &Seen<'v>, asking: &'v Asking<'_>) -> Result<Self, EvalError> {
        let binding = |name, value| Binding { name, value: Some(value), shape: None, optional: false };
        let bindings = [
            binding("object", seen.object),
            binding("oldObject", seen.old),
            binding("request", seen.request),
            binding("namespaceObject", seen.namespace),
            binding("params", seen.params),
        ];
        let activation = Activation::new(&bindings)?.composing(&compiled.variables).asking(asking);
        Ok(Self { activation, budget: PER_REQUEST })
    }

    /// One expression, within what is left. `told` is how it is called in errors.
    pub(super) fn evaluate(&mut self, program: &'v Program, told: &str) -> Result<Output, String> {
        if self.budget == 0 {
            let out = "validation failed due to running out of cost budget, no further validation rules will be run";
            return Err(out.to_owned());
        }
        let allowance = self.budget.min(PER_CALL);
        let mut left = allowance;
        let found = self.activation.evaluate(program, &mut left);
        self.budget -= allowance - left;
        found.map_err(|error| format!("expression '{told}' resulted in error: {error}"))
    }

    /// Whether all conditions hold. One that does not is enough, whatever others fail with.
    pub(super) fn conditions_hold(&mut self, conditions: &'v [Named]) -> Result<bool, String> {
        let mut budget = CONDITIONS;
        let mut errors = Vec::new();
        for condition in conditions {
            match self.activation.evaluate(&condition.program, &mut budget) {
                Ok(Output::Bool(false)) => return Ok(false),
                Ok(Output::Bool(true)) => {}
                Ok(_) => errors.push(format!("{}: no bool", condition.name)),
                Err(error) => errors.push(format!("expression '{}' resulted in error: {error}", condition.name)),
            }
        }
        if errors.is_empty() { Ok(true) } else { Err(errors.join(", ")) }
    }

    /// What a failed validation says: its expression for messages, its message, or the expression itself.
    fn message(&mut self, validation: &'v Validation) -> String {
        let made = validation.message_expression.as_ref().and_then(|program| {
            match self.evaluate(program, "messageExpression") {
                Ok(Output::String(text)) => Some(text.trim().to_owned()),
                Ok(_) => None,
                Err(error) => {
                    tracing::debug!(error, "a message expression failed, the message takes its place");
                    None
                }
            }
        });
        let fits = |text: &String| !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n');
        if let Some(text) = made.filter(fits) {
            return text;
        }
        match validation.message.trim() {
            "" => format!("failed expression: {}", validation.expression.trim()),
            message => message.to_owned(),
        }
    }

    /// Everything that is wrong with the request.
    pub(super) fn validate(&mut self, validations: &'v [Validation]) -> Vec<Failure> {
        let mut failures = Vec::new();
        for validation in validations {
            match self.evaluate(&validation.program, &validation.expression) {
                Ok(Output::Bool(true)) => {}
                Ok(_) => {
                    let message = self.message(validation);
                    failures.push(Failure { message, reason: validation.reason.clone(), error: false });
                }
                Err(message) => failures.push(Failure::error(message)),
            }
        }
        failures
    }

    /// Values for the audit log. There is none yet, but a value that cannot be made is a failure.
    pub(super) fn annotate(&mut self, annotations: &'v [Named]) -> Vec<Failure> {
        let mut failures = Vec::new();
        for annotation in annotations {
            if let Err(message) = self.evaluate(&annotation.program, &annotation.name) {
                failures.push(Failure::error(message));
            }
        }
        failures
    }
}
