//! `MutatingAdmissionWebhook` and `ValidatingAdmissionWebhook`: what others add to a write, and what they refuse.
//!
//! Both find the webhooks whose rules, selectors and conditions want a request. Mutating ones are asked one after the
//! other, each sees what the last one made; when one has changed something, everything that changes objects runs once
//! more, and of the webhooks those that asked for it (`reinvocationPolicy: IfNeeded`). Validating ones are asked at the
//! same time. A webhook that cannot be asked refuses the request or is passed over, by its `failurePolicy`.
//!
//! Mirrors `apiserver/pkg/admission/plugin/webhook/{mutating,validating}/dispatcher.go` and `matchconditions`.
//!
//! Not here yet: the `authorizer` variable of match conditions (conditions that use it are refused), audit annotations
//! (there is no audit log), metrics, the `Scale` object for the subresource of that name (its webhooks see the parent).

mod call;
mod config;
#[cfg(test)]
mod tests;

pub(crate) use config::{REVIEWS, condition_variables};

use super::attributes::named;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::SubresourceBehaviour;
use crate::kinds::tree::Tree;
use base64::Engine;
use call::{CallError, Caller};
use config::Hook;
use futures_util::future::join_all;
use parking_lot::Mutex;
use skiff_base::task::Supervisor;
use skiff_machinery::cel::{Binding, Output};
use skiff_machinery::codec::{FieldValidation, json};
use skiff_machinery::error::quote;
use skiff_machinery::patch::JsonPatch;
use skiff_machinery::{ApiError, GroupResource, Map, Reason, Value, object};
use std::sync::Arc;

/// What all match conditions of one webhook may cost (`RuntimeCELCostBudgetMatchConditions`).
const CONDITION_BUDGET: u64 = 2_500_000;

/// What a mutating pass has to remember for the next one.
#[derive(Debug, Default)]
pub struct Reinvocation {
    /// Something was changed that others may want to see.
    needed: bool,
    second_pass: bool,
    /// Webhooks that were asked and want to be asked again when something changes after them.
    asked: Vec<String>,
    /// Those of them after which something changed.
    again: Vec<String>,
    /// What the last webhook left.
    last: Option<Value>,
}

impl Reinvocation {
    /// Whether everything that changes objects has to run once more; asked after a pass.
    pub fn begin_second_pass(&mut self) -> bool {
        let begins = self.needed && !self.second_pass;
        self.second_pass |= begins;
        begins
    }

    fn changed(&mut self) {
        self.again.append(&mut self.asked);
        self.needed = true;
    }
}

/// The webhooks of one state of the configurations, and which state.
#[derive(Default)]
struct Known {
    generation: Option<u64>,
    hooks: Arc<Vec<Arc<Hook>>>,
}

/// Configurations of one kind, read again when one changes.
struct Source {
    reader: Arc<dyn Reader>,
    resource: GroupResource,
    namespaces: GroupResource,
    known: Mutex<Known>,
    caller: Caller,
}

/// A webhook that wants a request, and in which version.
struct Wanting {
    hook: Arc<Hook>,
    version: usize,
}

impl Source {
    fn new(resource: &str, reader: Arc<dyn Reader>, supervisor: &Supervisor) -> Self {
        Self {
            caller: Caller::new(Arc::clone(&reader), supervisor.clone()),
            resource: named("admissionregistration.k8s.io", resource),
            namespaces: named("", "namespaces"),
            known: Mutex::default(),
            reader,
        }
    }

    fn hooks(&self) -> Arc<Vec<Arc<Hook>>> {
        let generation = self.reader.generation(&self.resource);
        let mut known = self.known.lock();
        if known.generation != Some(generation) {
            let hooks = Arc::new(config::hooks(&*self.reader, &self.resource));
            *known = Known { generation: Some(generation), hooks };
        }
        Arc::clone(&known.hooks)
    }

    /// The webhooks that want a request.
    async fn wanting(&self, attributes: &Attributes<'_>) -> Result<Vec<Wanting>, ApiError> {
        let hooks = self.hooks();
        if hooks.is_empty() || !attributes.operation.is_reviewed() {
            return Ok(Vec::new());
        }
        let namespace = self.namespace(attributes).await?;
        let wanted = |hook: &Arc<Hook>| {
            let version = hook.wants(attributes, namespace.as_deref())?;
            Some(Wanting { hook: Arc::clone(hook), version })
        };
        Ok(hooks.iter().filter_map(wanted).collect())
    }

    /// The namespace that a request is in, or is about.
    async fn namespace(&self, attributes: &Attributes<'_>) -> Result<Option<Arc<Value>>, ApiError> {
        if attributes.is_of("", "namespaces") && attributes.subresource.is_empty() {
            let new = attributes.object.clone().filter(|object| !object.is_null()).map(Arc::new);
            return Ok(new.or_else(|| attributes.old.clone()));
        }
        if attributes.namespace.is_empty() {
            return Ok(None);
        }
        if let Some(found) = self.reader.get(&self.namespaces, "", attributes.namespace) {
            return Ok(Some(found));
        }
        match self.reader.fetch(&self.namespaces, "", attributes.namespace).await? {
            Some(found) => Ok(Some(found)),
            None => Err(ApiError::not_found(&self.namespaces, attributes.namespace)),
        }
    }

    /// Asks one webhook; `None` when it is passed over.
    async fn ask(&self, wanting: &Wanting, attributes: &Attributes<'_>) -> Result<Option<Value>, ApiError> {
        let hook = &wanting.hook;
        let request = request(attributes, wanting.version);
        if !conditions_hold(hook, &request, attributes)? {
            return Ok(None);
        }
        if attributes.context.dry_run && !hook.harmless {
            let why = format!("admission webhook {} does not support dry run", quote(&hook.name));
            return Err(ApiError::bad_request(why));
        }
        match self.caller.ask(hook, &request).await {
            Ok(response) => Ok(Some(response)),
            Err(error) => failed(hook, &error).map(|()| None),
        }
    }
}

/// What becomes of a request when a webhook fails.
fn failed(hook: &Hook, error: &CallError) -> Result<(), ApiError> {
    if hook.fail {
        return Err(ApiError::internal(format!("failed calling webhook {}: {error}", quote(&hook.name))));
    }
    let configuration = &hook.configuration;
    tracing::warn!(webhook = hook.name, configuration, %error, "failed calling webhook, failing open");
    Ok(())
}

/// A refusal by a webhook, in its words (`ToStatusErr`).
fn denied(hook: &Hook, response: &Value) -> ApiError {
    let status = response.get("status").unwrap_or(&Value::Null);
    let denied = format!("admission webhook {} denied the request", quote(&hook.name));
    let (message, reason) = (status.text("message"), status.text("reason"));
    let text = match (message, reason) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status.int("code").and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    let reason = if reason.is_empty() { Reason::Unknown } else { Reason::parse(reason) };
    ApiError::new(code.unwrap_or(403), reason, text)
}

/// Whether a request fulfils all conditions of a webhook. One that does not is enough, whatever others fail with.
fn conditions_hold(hook: &Hook, request: &Value, attributes: &Attributes<'_>) -> Result<bool, ApiError> {
    let null = Value::Null;
    let part = |field: &str| request.get(field).unwrap_or(&null);
    let bindings = [("object", part("object")), ("oldObject", part("oldObject")), ("request", request)]
        .map(|(name, value)| Binding { name, value: Some(value), shape: None, optional: false });
    let mut budget = CONDITION_BUDGET;
    let mut errors = Vec::new();
    for (name, program) in &hook.conditions {
        match program.evaluate(&bindings, &mut budget) {
            Ok(Output::Bool(false)) => return Ok(false),
            Ok(Output::Bool(true)) => {}
            Ok(_) => errors.push(format!("{name}: no bool")),
            Err(error) => errors.push(format!("expression '{name}' resulted in error: {error}")),
        }
    }
    if errors.is_empty() {
        return Ok(true);
    }
    let why = errors.join(", ");
    if hook.fail {
        return Err(
            attributes.forbidden(format!("failed evaluating match conditions of webhook {}: {why}", quote(&hook.name)))
        );
    }
    tracing::warn!(webhook = hook.name, why, "a match condition failed, failing open");
    Ok(false)
}

/// Whether the object of a request is the kind itself (or a view of it), rather than one of a subresource's own.
fn is_own_kind(attributes: &Attributes<'_>) -> bool {
    let sub = attributes.resource.subresources.iter().find(|sub| sub.name == attributes.subresource);
    match sub.map(|sub| &sub.behaviour) {
        None | Some(SubresourceBehaviour::View(_) | SubresourceBehaviour::Scale(_)) => true,
        Some(SubresourceBehaviour::Action(_) | SubresourceBehaviour::Connect(_)) => false,
    }
}

/// An object as a version of its kind shows it.
fn shown(attributes: &Attributes<'_>, object: &Value, version: usize) -> Value {
    let mut object = object.clone();
    if is_own_kind(attributes) && !object.is_null() {
        let resource = attributes.resource;
        let version = &resource.versions[version];
        if let Some(conversion) = &version.conversion {
            conversion.to_served(&mut object);
        }
        object.set("apiVersion", version.group_version.to_string());
        object.set("kind", resource.kind.as_str());
    }
    object
}

/// `AdmissionRequest`.
fn request(attributes: &Attributes<'_>, version: usize) -> Value {
    let resource = attributes.resource;
    let asked = config::request_version(attributes);
    let kind = |version: usize| {
        let (group, version, kind) = config::kind_of(attributes, version);
        object! { "group": group, "version": version, "kind": kind }
    };
    let of = |version: usize| {
        let gv = &resource.versions[version].group_version;
        object! { "group": gv.group.as_str(), "version": gv.version.as_str(), "resource": resource.name.resource.as_str() }
    };
    let user = &attributes.context.user;
    let mut user_info = Map::new();
    user_info.insert("username", user.name.as_str());
    if !user.uid.is_empty() {
        user_info.insert("uid", user.uid.as_str());
    }
    let list = |items: &[String]| Value::Array(items.iter().map(|item| item.as_str().into()).collect());
    if !user.groups.is_empty() {
        user_info.insert("groups", list(&user.groups));
    }
    if !user.extra.is_empty() {
        let extra: Map = user.extra.iter().map(|(key, values)| (key.clone(), list(values))).collect();
        user_info.insert("extra", extra);
    }
    let part = |object: Option<&Value>| object.map_or(Value::Null, |object| shown(attributes, object, version));
    let mut request = Map::new();
    request.insert("uid", uuid::Uuid::new_v4().to_string());
    request.insert("kind", kind(version));
    request.insert("resource", of(version));
    request.insert("requestKind", kind(asked));
    request.insert("requestResource", of(asked));
    if !attributes.subresource.is_empty() {
        request.insert("subResource", attributes.subresource);
        request.insert("requestSubResource", attributes.subresource);
    }
    for (field, text) in [("name", attributes.name), ("namespace", attributes.namespace)] {
        if !text.is_empty() {
            request.insert(field, text);
        }
    }
    request.insert("operation", attributes.operation.as_str());
    request.insert("userInfo", user_info);
    request.insert("object", part(attributes.object.as_ref()));
    request.insert("oldObject", part(attributes.old.as_deref()));
    request.insert("dryRun", attributes.context.dry_run);
    request.insert("options", attributes.options.clone().unwrap_or_default());
    Value::Object(request)
}

fn add_warnings(attributes: &Attributes<'_>, response: &Value) {
    for warning in response.items("warnings").iter().filter_map(Value::as_str) {
        attributes.warn(warning.to_owned());
    }
}

/// The object after a webhook's patch, in the storage version again.
fn patched(
    attributes: &Attributes<'_>,
    hook: &Hook,
    version: usize,
    response: &Value,
) -> Result<Option<Value>, ApiError> {
    let text = response.text("patch");
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |why: String| ApiError::internal(format!("failed calling webhook {}: {why}", quote(&hook.name)));
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| wrong(error.to_string()))?;
    let document = json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let (patch, _) =
        JsonPatch::decode(document, FieldValidation::Ignore).map_err(|error| wrong(error.message().to_owned()))?;
    let Some(current) = attributes.object.as_ref().filter(|object| !object.is_null()) else {
        let why = format!(
            "admission webhook {} attempted to modify the object, which is not supported for this operation",
            quote(&hook.name)
        );
        return Err(ApiError::internal(why));
    };
    let before = shown(attributes, current, version);
    let mut after = patch.apply(before.clone()).map_err(|error| wrong(error.to_string()))?;
    if after == before {
        return Ok(None);
    }
    if is_own_kind(attributes) {
        let resource = attributes.resource;
        let version = &resource.versions[version];
        let (kind, api_version) = (after.text("kind"), after.text("apiVersion"));
        if kind != resource.kind || api_version != version.group_version.to_string() {
            return Err(wrong(format!("the patch made another kind of the object: {api_version}, Kind={kind}")));
        }
        // What was put in has defaults like anything a client sends.
        resource.strategy.default(&version.group_version, &mut after);
        if let Some(conversion) = &version.conversion {
            conversion.to_storage(&mut after);
        }
        after.set("apiVersion", resource.storage.to_string());
    }
    Ok(Some(after))
}

/// The plug-in that changes.
pub(super) struct MutatingAdmissionWebhook(Source);

impl MutatingAdmissionWebhook {
    pub(super) fn new(reader: Arc<dyn Reader>, supervisor: &Supervisor) -> Self {
        Self(Source::new("mutatingwebhookconfigurations", reader, supervisor))
    }

    async fn review(&self, attributes: &mut Attributes<'_>) -> Result<(), ApiError> {
        if attributes.reinvocation.second_pass && attributes.reinvocation.last != attributes.object {
            // What runs before has changed it since.
            attributes.reinvocation.changed();
        }
        for wanting in self.0.wanting(attributes).await? {
            let hook = &wanting.hook;
            let memory = &attributes.reinvocation;
            if memory.second_pass && !memory.again.contains(&hook.id) {
                continue;
            }
            let Some(response) = self.0.ask(&wanting, attributes).await? else { continue };
            add_warnings(attributes, &response);
            if !response.flag("allowed") {
                return Err(denied(hook, &response));
            }
            match patched(attributes, hook, wanting.version, &response) {
                Ok(Some(after)) => {
                    attributes.object = Some(after);
                    attributes.reinvocation.changed();
                }
                Ok(None) => {}
                Err(error) if hook.fail => return Err(error),
                Err(error) => {
                    tracing::warn!(webhook = hook.name, %error, "a webhook's patch could not be applied, failing open");
                }
            }
            if hook.reinvoke && !attributes.reinvocation.second_pass {
                attributes.reinvocation.asked.push(hook.id.clone());
            }
        }
        if attributes.reinvocation.needed {
            attributes.reinvocation.last = attributes.object.clone();
        }
        Ok(())
    }
}

impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation.is_reviewed()
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.review(attributes))
    }
}

/// The plug-in that refuses.
pub(super) struct ValidatingAdmissionWebhook(Source);

impl ValidatingAdmissionWebhook {
    pub(super) fn new(reader: Arc<dyn Reader>, supervisor: &Supervisor) -> Self {
        Self(Source::new("validatingwebhookconfigurations", reader, supervisor))
    }

    async fn review(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let wanting = self.0.wanting(attributes).await?;
        let answers = join_all(wanting.iter().map(|wanting| self.0.ask(wanting, attributes))).await;
        let mut refusal = None;
        for (wanting, answer) in wanting.iter().zip(answers) {
            let error = match answer {
                Ok(None) => continue,
                Ok(Some(response)) => {
                    add_warnings(attributes, &response);
                    if response.flag("allowed") {
                        continue;
                    }
                    denied(&wanting.hook, &response)
                }
                Err(error) => error,
            };
            // The first of them is told.
            refusal.get_or_insert(error);
        }
        refusal.map_or(Ok(()), Err)
    }
}

impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation.is_reviewed()
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.review(attributes))
    }
}

/// The plug-ins of a server with those that ask webhooks, which stand before the quota: what they add counts.
pub fn with_webhooks(
    mut plugins: Vec<Arc<dyn Plugin>>,
    reader: &Arc<dyn Reader>,
    supervisor: &Supervisor,
) -> Vec<Arc<dyn Plugin>> {
    let quota = plugins.iter().position(|plugin| plugin.name() == "ResourceQuota").unwrap_or(plugins.len());
    plugins.insert(quota, Arc::new(ValidatingAdmissionWebhook::new(Arc::clone(reader), supervisor)));
    plugins.insert(quota, Arc::new(MutatingAdmissionWebhook::new(Arc::clone(reader), supervisor)));
    plugins
}
