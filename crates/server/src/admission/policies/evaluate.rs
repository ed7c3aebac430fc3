//! What the expressions of a policy say about one request: pure, over what was collected before.
//!
//! Mirrors `apiserver/pkg/admission/plugin/policy/validating/validator.go` and `plugin/cel/condition.go`.

use super::super::conditions::{self, Asking};
use super::compile::{Compiled, Named, Validation};
use skiff_machinery::Value;
use skiff_machinery::cel::{Activation, Binding, EvalError, Output, Program};

/// What one evaluation may cost (`celconfig.PerCallLimit`).
const PER_CALL: u64 = 1_000_000;
/// What all expressions of a policy may cost for one request and parameter (`RuntimeCELCostBudget`).
const PER_REQUEST: u64 = 10_000_000;
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

    /// Whether all match conditions hold.
    pub(super) fn conditions_hold(&mut self, conditions: &'v [Named]) -> Result<bool, String> {
        let all = conditions.iter().map(|condition| (condition.name.as_str(), &condition.program));
        conditions::hold(&mut self.activation, all)
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
