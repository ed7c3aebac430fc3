//! `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy`: rules in CEL, kept as objects, over every write.
//!
//! A policy says what it wants to see and what has to hold; a binding puts it to use, with parameters and with what becomes
//! of a failure. Policies without a binding are not compiled. Mutating ones run one after the other and each sees what the
//! last one made; when one has changed something, everything that changes objects runs once more (see `webhooks`).
//!
//! `compile` makes policies of objects, `params` finds parameters, `evaluate` and `mutate` are what the expressions say
//! (pure), `status` tells what types say against an expression, and this file is what follows from it.
//!
//! Mirrors `apiserver/pkg/admission/plugin/policy/{generic,validating,mutating}`.
//!
//! Not here yet: audit annotations and the action `Audit` (there is no audit log; values are evaluated all the same), metrics,
//! the estimate of an expression's cost when it is created: one that is too dear fails when it runs.

pub(crate) mod compile;
mod evaluate;
mod mutate;
mod params;
pub(crate) mod status;

use super::attributes::named;
use super::conditions::Asking;
use super::matching::is_exempt;
use super::review;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::authz::Authorizer;
use crate::kinds::tree::Tree;
use compile::{Actions, Bound, Compiled, Policy, Rules};
use evaluate::{Failure, Seen, Session};
use parking_lot::Mutex;
use skiff_machinery::error::{Cause, Details};
use skiff_machinery::{ApiError, GroupResource, Map, Reason, Value};
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";

/// Requests that are answered and not kept; a policy in their way may lock everybody out
/// (`kubeapiserver/admission/exclusion`).
const EXCLUDED: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// The policies of one state of the stored objects, and which state.
#[derive(Default)]
struct Known {
    generations: Option<(u64, u64)>,
    policies: Arc<Vec<Arc<Policy>>>,
}

/// Policies of one kind, compiled again when one or a binding changes.
struct Source {
    reader: Arc<dyn Reader>,
    authorizer: Arc<dyn Authorizer>,
    kind: &'static str,
    policies: GroupResource,
    bindings: GroupResource,
    known: Mutex<Known>,
}

/// A policy that wants a request, the version it wants it in, and the bindings that do.
struct Wanting {
    policy: Arc<Policy>,
    version: usize,
    bindings: Vec<usize>,
}

impl Source {
    fn new(kind: &'static str, policies: &str, reader: &Arc<dyn Reader>, authorizer: &Arc<dyn Authorizer>) -> Self {
        let bindings = format!("{}bindings", policies.replace("policies", "policy"));
        Self {
            reader: Arc::clone(reader),
            authorizer: Arc::clone(authorizer),
            kind,
            policies: named(GROUP, policies),
            bindings: named(GROUP, &bindings),
            known: Mutex::default(),
        }
    }

    fn policies(&self) -> Arc<Vec<Arc<Policy>>> {
        let generations = (self.reader.generation(&self.policies), self.reader.generation(&self.bindings));
        let mut known = self.known.lock();
        if known.generations != Some(generations) {
            let (policies, bindings) = (self.reader.list(&self.policies, None), self.reader.list(&self.bindings, None));
            let policies = Arc::new(compile::policies(self.kind, policies, bindings));
            *known = Known { generations: Some(generations), policies };
        }
        Arc::clone(&known.policies)
    }

    /// The policies that a request concerns, and its namespace. A policy that cannot be used at all is told by `broken`.
    async fn wanting(&self, attributes: &Attributes<'_>) -> Result<(Vec<Wanting>, Option<Arc<Value>>), ApiError> {
        let policies = self.policies();
        let name = &attributes.resource.name;
        let excluded = EXCLUDED.iter().any(|(group, resource)| name.group == *group && name.resource == *resource);
        if policies.is_empty() || excluded || is_exempt(attributes) {
            return Ok((Vec::new(), None));
        }
        let namespace = review::namespace(&*self.reader, attributes).await?;
        let mut wanting = Vec::new();
        for policy in policies.iter() {
            let version = match &policy.matches {
                Ok(matches) => matches.matches(attributes, namespace.as_deref()),
                Err(_) => Some(super::matching::request_version(attributes)),
            };
            let Some(version) = version else { continue };
            let fits = |binding: &Bound| {
                binding.matches.as_ref().is_none_or(|own| own.matches(attributes, namespace.as_deref()).is_some())
            };
            let bindings: Vec<usize> =
                (0..policy.bindings.len()).filter(|index| fits(&policy.bindings[*index])).collect();
            if !bindings.is_empty() {
                wanting.push(Wanting { policy: Arc::clone(policy), version, bindings });
            }
        }
        Ok((wanting, namespace))
    }
}

/// What expressions see of a namespace (`CreateNamespaceObject`); null for what is in none, and for namespaces.
fn namespace_object(attributes: &Attributes<'_>, namespace: Option<&Value>) -> Value {
    let Some(namespace) = namespace.filter(|_| !attributes.is_of("", "namespaces")) else { return Value::Null };
    const METADATA: [&str; 11] = [
        "name",
        "generateName",
        "namespace",
        "labels",
        "annotations",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ];
    let mut metadata = Map::new();
    for (key, value) in namespace.map("metadata").into_iter().flat_map(Map::iter) {
        if METADATA.contains(&key.as_str()) {
            metadata.insert(key.clone(), value.clone());
        }
    }
    let mut shown = Map::new();
    shown.insert("metadata", metadata);
    for part in ["spec", "status"] {
        if let Some(value) = namespace.get(part) {
            shown.insert(part, value.clone());
        }
    }
    Value::Object(shown)
}

/// The name of one object's parameter in errors and in the memory of reinvocations.
fn label(policy: &Policy, binding: &Bound, param: &Value) -> String {
    let metadata = |field| param.str_at(&["metadata", field]);
    format!("{}/{}/{}/{}", policy.name, binding.name, metadata("namespace"), metadata("name"))
}

/// A refusal (`reasonToCode`).
fn denied(attributes: &Attributes<'_>, message: String, reason: &str) -> ApiError {
    let (code, reason) = match reason {
        "Unauthorized" => (401, Reason::Unauthorized),
        "Forbidden" => (403, Reason::Forbidden),
        "RequestEntityTooLarge" => (413, Reason::parse("RequestEntityTooLarge")),
        _ => (422, Reason::Invalid),
    };
    let forbidden = attributes.forbidden(&message);
    let mut details = forbidden.details().cloned().unwrap_or_else(Details::default);
    details.causes.push(Cause { reason: String::new(), message, field: String::new() });
    ApiError::new(code, reason, forbidden.message().to_owned()).with_details(details)
}

/// The plug-in that refuses.
struct ValidatingAdmissionPolicy(Source);

impl ValidatingAdmissionPolicy {
    async fn review(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let (wanting, namespace) = self.0.wanting(attributes).await?;
        let mut refusals: Vec<(String, String)> = Vec::new();
        for wanting in &wanting {
            let policy = &wanting.policy;
            let refuse = |binding: Option<&Bound>, failure: &Failure| {
                let name = &policy.name;
                let text = match binding {
                    Some(binding) => format!(
                        "ValidatingAdmissionPolicy '{name}' with binding '{}' denied request: {}",
                        binding.name, failure.message
                    ),
                    None => format!("ValidatingAdmissionPolicy '{name}' denied request: {}", failure.message),
                };
                (text, failure.reason.clone())
            };
            let compiled = match (&policy.matches, &policy.compiled) {
                (Ok(_), Ok(compiled)) => compiled,
                (Err(error), _) | (_, Err(error)) => {
                    if policy.fail {
                        let failure = Failure::error(format!("failed to configure policy: {error}"));
                        refusals.push(refuse(None, &failure));
                    }
                    continue;
                }
            };
            for binding in wanting.bindings.iter().map(|index| &policy.bindings[*index]) {
                let params = match params::collect(&*self.0.reader, policy, binding, attributes.namespace) {
                    Ok(params) => params,
                    Err(error) => {
                        if policy.fail {
                            let failure = Failure::error(format!("failed to configure binding: {error}"));
                            refusals.push(refuse(Some(binding), &failure));
                        }
                        continue;
                    }
                };
                let failures = self.failures(attributes, wanting.version, compiled, &params, namespace.as_deref());
                for failure in failures.iter().filter(|failure| policy.fail || !failure.error) {
                    let Actions { deny, warn } = binding.actions;
                    if deny {
                        refusals.push(refuse(Some(binding), failure));
                    }
                    if warn {
                        attributes.warn(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                            policy.name, binding.name, failure.message
                        ));
                    }
                }
            }
        }
        match refusals.into_iter().next() {
            // The first of them is told.
            Some((message, reason)) => Err(denied(attributes, message, &reason)),
            None => Ok(()),
        }
    }

    fn failures(
        &self,
        attributes: &Attributes<'_>,
        version: usize,
        compiled: &Compiled,
        params: &[Value],
        namespace: Option<&Value>,
    ) -> Vec<Failure> {
        let Rules::Validating { validations, annotations } = &compiled.rules else { return Vec::new() };
        let shown = |object: Option<&Value>| {
            review::shown_or_null(attributes, object, version).map_err(|error| Failure::error(error.message()))
        };
        let (object, old) = match (shown(attributes.object.as_ref()), shown(attributes.old.as_deref())) {
            (Ok(object), Ok(old)) => (object, old),
            (Err(failure), _) | (_, Err(failure)) => return vec![failure],
        };
        let (request, namespace) = (review::facts(attributes, version), namespace_object(attributes, namespace));
        let asking = Asking { authorizer: &*self.0.authorizer, attributes };
        let mut failures = Vec::new();
        for params in params {
            let seen = Seen { object: &object, old: &old, request: &request, namespace: &namespace, params };
            let mut session = match Session::new(compiled, &seen, &asking) {
                Ok(session) => session,
                Err(error) => {
                    failures.push(Failure::error(error.to_string()));
                    continue;
                }
            };
            match session.conditions_hold(&compiled.conditions) {
                Ok(true) => {
                    failures.extend(session.validate(validations));
                    failures.extend(session.annotate(annotations));
                }
                Ok(false) => {}
                Err(error) => failures.push(Failure::error(error)),
            }
        }
        failures
    }
}

impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }
    fn handles(&self, _: Operation) -> bool {
        true
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.review(attributes))
    }
}

/// The plug-in that changes.
struct MutatingAdmissionPolicy(Source);

impl MutatingAdmissionPolicy {
    async fn review(&self, attributes: &mut Attributes<'_>) -> Result<(), ApiError> {
        if attributes.object.as_ref().is_none_or(Value::is_null) {
            return Ok(());
        }
        let (wanting, namespace) = self.0.wanting(attributes).await?;
        if !wanting.is_empty() {
            attributes.reinvocation.notice(attributes.object.as_ref());
        }
        for wanting in &wanting {
            let policy = &wanting.policy;
            let refuse = |attributes: &Attributes<'_>, binding: Option<&Bound>, why: &str| {
                let name = &policy.name;
                let text = match binding {
                    Some(binding) => format!("policy '{name}' with binding '{}' denied request: {why}", binding.name),
                    None => format!("policy '{name}' denied request: {why}"),
                };
                denied(attributes, text, "")
            };
            let compiled = match (&policy.matches, &policy.compiled) {
                (Ok(_), Ok(compiled)) => compiled,
                (Err(error), _) | (_, Err(error)) if policy.fail => {
                    return Err(refuse(attributes, None, &format!("failed to configure policy: {error}")));
                }
                _ => continue,
            };
            let Rules::Mutating { mutations, reinvoke } = &compiled.rules else { continue };
            for binding in wanting.bindings.iter().map(|index| &policy.bindings[*index]) {
                let params = match params::collect(&*self.0.reader, policy, binding, attributes.namespace) {
                    Ok(params) => params,
                    Err(error) if policy.fail => {
                        let why = format!("failed to configure binding: {error}");
                        return Err(refuse(attributes, Some(binding), &why));
                    }
                    Err(_) => continue,
                };
                for param in &params {
                    let id = label(policy, binding, param);
                    if attributes.reinvocation.passes_over(&id) {
                        continue;
                    }
                    let around = mutate::Around {
                        authorizer: &*self.0.authorizer,
                        namespace: &namespace_object(attributes, namespace.as_deref()),
                        params: param,
                        version: wanting.version,
                    };
                    match mutate::apply(attributes, compiled, mutations, &around) {
                        Ok(Some(after)) if attributes.object.as_ref() != Some(&after) => {
                            attributes.object = Some(after);
                            attributes.reinvocation.changed();
                        }
                        Ok(_) => {}
                        Err(why) if policy.fail => return Err(refuse(attributes, Some(binding), &why)),
                        Err(why) => {
                            let (policy, binding) = (&policy.name, &binding.name);
                            tracing::warn!(policy, binding, why, "a mutating policy failed, failing open");
                        }
                    }
                    if *reinvoke {
                        attributes.reinvocation.wants_more(id);
                    }
                }
            }
        }
        if !wanting.is_empty() {
            attributes.reinvocation.end(attributes.object.as_ref());
        }
        Ok(())
    }
}

impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }
    fn handles(&self, _: Operation) -> bool {
        true
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.review(attributes))
    }
}

/// The plug-ins of a server with those of policies, each before the one that asks webhooks; without that, before the quota.
pub fn with_policies(
    mut plugins: Vec<Arc<dyn Plugin>>,
    reader: &Arc<dyn Reader>,
    authorizer: &Arc<dyn Authorizer>,
) -> Vec<Arc<dyn Plugin>> {
    let place = |plugins: &[Arc<dyn Plugin>], before: &str| {
        let at = |name: &str| plugins.iter().position(|plugin| plugin.name() == name);
        at(before).or_else(|| at("ResourceQuota")).unwrap_or(plugins.len())
    };
    let source = |kind, policies| Source::new(kind, policies, reader, authorizer);
    let mutating = MutatingAdmissionPolicy(source("MutatingAdmissionPolicy", "mutatingadmissionpolicies"));
    plugins.insert(place(&plugins, "MutatingAdmissionWebhook"), Arc::new(mutating));
    let validating = ValidatingAdmissionPolicy(source("ValidatingAdmissionPolicy", "validatingadmissionpolicies"));
    plugins.insert(place(&plugins, "ValidatingAdmissionWebhook"), Arc::new(validating));
    plugins
}
