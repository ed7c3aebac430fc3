//! What match conditions of webhooks and expressions of policies share: whether all conditions hold, and `authorizer`.
//!
//! Mirrors `apiserver/pkg/admission/plugin/webhook/matchconditions/matcher.go`.

use super::Attributes;
use crate::authz::{Authorizer, Question};
use crate::request::UserInfo;
use futures_util::FutureExt;
use skiff_machinery::GroupResource;
use skiff_machinery::cel::{Access, AccessAnswer, AccessQuestion, Activation, Output, Program};

/// What all match conditions of one webhook or policy may cost (`RuntimeCELCostBudgetMatchConditions`).
const BUDGET: u64 = 2_500_000;

/// Whether all conditions hold. One that does not is enough, whatever others fail with.
pub(super) fn hold<'v>(
    activation: &mut Activation<'v>,
    conditions: impl Iterator<Item = (&'v str, &'v Program)>,
) -> Result<bool, String> {
    let mut budget = BUDGET;
    let mut errors = Vec::new();
    for (name, program) in conditions {
        match activation.evaluate(program, &mut budget) {
            Ok(Output::Bool(false)) => return Ok(false),
            Ok(Output::Bool(true)) => {}
            Ok(_) => errors.push(format!("{name}: no bool")),
            Err(error) => errors.push(format!("expression '{name}' resulted in error: {error}")),
        }
    }
    if errors.is_empty() { Ok(true) } else { Err(errors.join(", ")) }
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
