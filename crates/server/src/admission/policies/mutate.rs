//! What a mutating policy makes of an object (`apiserver/pkg/admission/plugin/policy/mutating/patch`).

use super::super::Attributes;
use super::super::conditions::Asking;
use super::super::review;
use super::compile::{Compiled, Mutation};
use super::evaluate::{Seen, Session};
use crate::authz::Authorizer;
use crate::kinds::tree::Tree;
use skiff_machinery::apply::merge_configuration;
use skiff_machinery::cel::Output;
use skiff_machinery::codec::FieldValidation;
use skiff_machinery::patch::JsonPatch;
use skiff_machinery::schema::Type;
use skiff_machinery::{ApiError, Value};

/// What stands around the object.
pub(super) struct Around<'a> {
    pub(super) authorizer: &'a dyn Authorizer,
    pub(super) namespace: &'a Value,
    pub(super) params: &'a Value,
    pub(super) version: usize,
}

/// The object after all mutations, in the storage version; `None` when the policy does not want it.
pub(super) fn apply(
    attributes: &Attributes<'_>,
    compiled: &Compiled,
    mutations: &[Mutation],
    around: &Around<'_>,
) -> Result<Option<Value>, String> {
    let Some(object) = attributes.object.as_ref().filter(|object| !object.is_null()) else { return Ok(None) };
    let version = around.version;
    let asking = Asking { authorizer: around.authorizer, attributes };
    let request = review::facts(attributes, version);
    let told = |error: ApiError| error.message().to_owned();
    let old = review::shown_or_null(attributes, attributes.old.as_deref(), version).map_err(told)?;
    let before = review::shown(attributes, object, version).map_err(told)?;
    let mut object = before.clone();
    for (index, mutation) in mutations.iter().enumerate() {
        let output = {
            let seen = Seen {
                object: &object,
                old: &old,
                request: &request,
                namespace: around.namespace,
                params: around.params,
            };
            let mut session = Session::new(compiled, &seen, &asking).map_err(|error| error.to_string())?;
            if index == 0 && !session.conditions_hold(&compiled.conditions)? {
                return Ok(None);
            }
            session.evaluate(&mutation.program, &mutation.expression)?
        };
        let Output::Other(made) = output else {
            return Err(format!("expression '{}' made no patch", mutation.expression));
        };
        object = if mutation.applies {
            configured(attributes, version, object, made)?
        } else {
            let (patch, _) =
                JsonPatch::decode(made, FieldValidation::Ignore).map_err(|error| error.message().to_owned())?;
            patch.apply(object).map_err(|error| format!("JSON Patch: {error}"))?
        };
    }
    if object == before {
        return Ok(None);
    }
    review::returned(attributes, version, object).map(Some)
}

/// The object with an apply configuration laid over it.
fn configured(attributes: &Attributes<'_>, version: usize, object: Value, mut made: Value) -> Result<Value, String> {
    for field in ["apiVersion", "kind"] {
        if made.has(field) {
            return Err(format!("patch must not set {field}"));
        }
    }
    for field in ["apiVersion", "kind"] {
        let stated = object.text(field).to_owned();
        made.set(field, stated);
    }
    match &attributes.resource.versions[version].schema {
        Type::Struct(entry) => merge_configuration(object, &made, entry),
        _ => Err("this kind has no schema to apply over".to_owned()),
    }
}
