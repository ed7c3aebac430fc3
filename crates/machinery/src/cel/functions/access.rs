//! `authorizer`: whether somebody may do something (`apiserver/pkg/cel/library/authz.go`).

use super::super::eval::Machine;
use super::super::value::{Outcome, Val, failed, text};
use super::super::{AccessAnswer, AccessQuestion};
use std::rc::Rc;

/// What one question costs.
const CHECK: u64 = 350_000;

/// How far a question has been put together.
#[derive(Clone, Debug)]
pub(in crate::cel) enum AccessStep {
    Authorizer(AccessQuestion),
    Path(AccessQuestion),
    Group(AccessQuestion),
    Resource(AccessQuestion),
    Decision(AccessAnswer),
}

impl AccessStep {
    pub(in crate::cel) fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Path(_) => "kubernetes.authorization.PathCheck",
            Self::Group(_) => "kubernetes.authorization.GroupCheck",
            Self::Resource(_) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}

fn step<'v>(step: AccessStep) -> Outcome<'v> {
    Ok(Val::Access(Rc::new(step)))
}

pub(super) fn call<'v>(machine: &mut Machine<'v>, name: &str, args: &[Val<'v>]) -> Option<Outcome<'v>> {
    if let ("jsonpatch.escapeKey", [Val::Str(key)]) = (name, args) {
        return Some(Ok(text(key.replace('~', "~0").replace('/', "~1"))));
    }
    let [Val::Access(receiver), rest @ ..] = args else { return None };
    let mut words = Vec::with_capacity(rest.len());
    for argument in rest {
        let Val::Str(word) = argument else { return None };
        words.push(word.clone().into_owned());
    }
    Some(match (&**receiver, name, words.as_mut_slice()) {
        (AccessStep::Authorizer(asked), "serviceAccount", [namespace, name]) => {
            let who = Some((std::mem::take(namespace), std::mem::take(name)));
            step(AccessStep::Authorizer(AccessQuestion { service_account: who, ..asked.clone() }))
        }
        (AccessStep::Authorizer(asked), "path", [path]) => {
            if path.is_empty() {
                return Some(failed("path must not be empty"));
            }
            step(AccessStep::Path(AccessQuestion { path: std::mem::take(path), ..asked.clone() }))
        }
        (AccessStep::Authorizer(asked), "group", [group]) => {
            step(AccessStep::Group(AccessQuestion { group: std::mem::take(group), ..asked.clone() }))
        }
        (AccessStep::Group(asked), "resource", [resource]) => {
            if resource.is_empty() {
                return Some(failed("resource must not be empty"));
            }
            step(AccessStep::Resource(AccessQuestion { resource: std::mem::take(resource), ..asked.clone() }))
        }
        (AccessStep::Resource(asked), _, [word]) if name != "check" => {
            let mut asked = asked.clone();
            let word = std::mem::take(word);
            match name {
                "subresource" => asked.subresource = word,
                "namespace" => asked.namespace = word,
                "name" => asked.name = word,
                "fieldSelector" => asked.field_selector = word,
                "labelSelector" => asked.label_selector = word,
                _ => return None,
            }
            step(AccessStep::Resource(asked))
        }
        (AccessStep::Path(asked) | AccessStep::Resource(asked), "check", [verb]) => {
            if let Err(error) = machine.spend(CHECK) {
                return Some(Err(error));
            }
            let asked = AccessQuestion { verb: std::mem::take(verb), ..asked.clone() };
            match machine.decide(&asked) {
                Some(answer) => step(AccessStep::Decision(answer)),
                None => failed("there is no authorizer here"),
            }
        }
        (AccessStep::Decision(answer), "allowed", []) => Ok(Val::Bool(answer.allowed)),
        (AccessStep::Decision(answer), "reason", []) => Ok(text(answer.reason.clone())),
        (AccessStep::Decision(answer), "errored", []) => Ok(Val::Bool(answer.error.is_some())),
        (AccessStep::Decision(answer), "error", []) => Ok(text(answer.error.clone().unwrap_or_default())),
        _ => return None,
    })
}
