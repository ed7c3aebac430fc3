//! `MutatingAdmissionWebhook` and `ValidatingAdmissionWebhook`: what others add to a write, and what they refuse.
//!
//! Both find the webhooks whose rules, selectors and conditions want a request. Mutating ones are asked one after the
//! other, each sees what the last one made; when one has changed something, everything that changes objects runs once
//! more, and of the webhooks those that asked for it (`reinvocationPolicy: IfNeeded`). Validating ones are asked at the
//! same time. A webhook that cannot be asked refuses the request or is passed over, by its `failurePolicy`.
//!
//! Mirrors `apiserver/pkg/admission/plugin/webhook/{mutating,validating}/dispatcher.go` and `matchconditions`.
//!
//! Not here yet: audit annotations
//! (there is no audit log), the `Scale` object for the subresource of that name (its webhooks see the parent).

mod call;
mod config;
mod metrics;
#[cfg(test)]
mod tests;

pub(crate) use config::{REVIEWS, compile_condition};

use super::attributes::named;
use super::conditions::{self, Asking};
use super::review::{self, request, returned, shown};
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::authz::Authorizer;
use crate::callout::{CallError, Caller};
use crate::kinds::tree::Tree;
use base64::Engine;
use config::Hook;
use futures_util::future::join_all;
use metrics::{Outcome, WebhookMetrics};
use parking_lot::Mutex;
use skiff_base::metrics::Collect;
use skiff_base::task::Supervisor;
use skiff_machinery::cel::{Activation, Binding};
use skiff_machinery::codec::{FieldValidation, json};
use skiff_machinery::error::quote;
use skiff_machinery::patch::JsonPatch;
use skiff_machinery::{ApiError, GroupResource, Reason, Value};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

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

    /// What has run before may want to run again.
    pub(super) fn changed(&mut self) {
        self.again.append(&mut self.asked);
        self.needed = true;
    }

    /// Before a plug-in's second pass: what runs before it may have changed the object since.
    pub(super) fn notice(&mut self, object: Option<&Value>) {
        if self.second_pass && self.last.as_ref() != object {
            self.changed();
        }
    }

    /// Whether one of a plug-in's own is not asked in this pass.
    pub(super) fn passes_over(&self, id: &str) -> bool {
        self.second_pass && !self.again.iter().any(|again| again == id)
    }

    /// One was asked that wants to be asked again when something changes.
    pub(super) fn wants_more(&mut self, id: String) {
        if !self.second_pass {
            self.asked.push(id);
        }
    }

    /// After a plug-in's pass.
    pub(super) fn end(&mut self, object: Option<&Value>) {
        if self.needed {
            self.last = object.cloned();
        }
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
    known: Mutex<Known>,
    caller: Caller,
    /// `admit` or `validating`, in metrics.
    kind: &'static str,
    metrics: Arc<WebhookMetrics>,
    /// For match conditions.
    authorizer: OnceLock<Arc<dyn Authorizer>>,
}

/// A webhook that wants a request, and in which version.
struct Wanting {
    hook: Arc<Hook>,
    version: usize,
}

impl Source {
    fn new(
        (resource, kind): (&str, &'static str),
        reader: Arc<dyn Reader>,
        supervisor: &Supervisor,
        metrics: Arc<WebhookMetrics>,
    ) -> Self {
        Self {
            kind,
            metrics,
            authorizer: OnceLock::new(),
            caller: Caller::new(Arc::clone(&reader), supervisor.clone()),
            resource: named("admissionregistration.k8s.io", resource),
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

    fn set_authorizer(&self, authorizer: &Arc<dyn Authorizer>) {
        if self.authorizer.set(Arc::clone(authorizer)).is_err() {
            tracing::error!("the authorizer was told twice; the first one stays");
        }
    }

    /// The webhooks that want a request.
    async fn wanting(&self, attributes: &Attributes<'_>) -> Result<Vec<Wanting>, ApiError> {
        let hooks = self.hooks();
        if hooks.is_empty() || !attributes.operation.is_reviewed() {
            return Ok(Vec::new());
        }
        let namespace = review::namespace(&*self.reader, attributes).await?;
        let wanted = |hook: &Arc<Hook>| {
            let version = hook.wants(attributes, namespace.as_deref())?;
            Some(Wanting { hook: Arc::clone(hook), version })
        };
        Ok(hooks.iter().filter_map(wanted).collect())
    }

    /// Asks one webhook; `None` when it is passed over.
    async fn ask(&self, wanting: &Wanting, attributes: &Attributes<'_>) -> Result<Option<Value>, ApiError> {
        let hook = &wanting.hook;
        let request = request(attributes, wanting.version)?;
        let authorizer = self.authorizer.get().map(|authorizer| &**authorizer);
        if !conditions_hold(hook, &request, attributes, authorizer)? {
            return Ok(None);
        }
        if attributes.context.dry_run && !hook.harmless {
            let why = format!("admission webhook {} does not support dry run", quote(&hook.name));
            return Err(ApiError::bad_request(why));
        }
        let begun = Instant::now();
        let asked = call::ask(&self.caller, hook, &request).await;
        let outcome = match &asked {
            Ok(response) if response.flag("allowed") => Outcome::Allowed,
            Ok(response) => Outcome::Denied(denied(hook, response).code()),
            Err(_) if hook.fail => Outcome::Failed,
            Err(_) => Outcome::Ignored,
        };
        self.metrics.observe(hook, self.kind, attributes, outcome, begun.elapsed());
        match asked {
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
fn conditions_hold(
    hook: &Hook,
    request: &Value,
    attributes: &Attributes<'_>,
    authorizer: Option<&dyn Authorizer>,
) -> Result<bool, ApiError> {
    if hook.conditions.is_empty() {
        return Ok(true);
    }
    let null = Value::Null;
    let part = |field: &str| request.get(field).unwrap_or(&null);
    let bindings = [("object", part("object")), ("oldObject", part("oldObject")), ("request", request)]
        .map(|(name, value)| Binding { name, value: Some(value), shape: None, optional: false });
    let asking = authorizer.map(|authorizer| Asking { authorizer, attributes });
    let held = Activation::new(&bindings).map_err(|error| error.to_string()).and_then(|mut activation| {
        if let Some(asking) = &asking {
            activation = activation.asking(asking);
        }
        conditions::hold(&mut activation, hook.conditions.iter().map(|(name, program)| (name.as_str(), program)))
    });
    let why = match held {
        Ok(held) => return Ok(held),
        Err(why) => why,
    };
    if hook.fail {
        return Err(
            attributes.forbidden(format!("failed evaluating match conditions of webhook {}: {why}", quote(&hook.name)))
        );
    }
    tracing::warn!(webhook = hook.name, why, "a match condition failed, failing open");
    Ok(false)
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
    let before = shown(attributes, current, version)?;
    let after = patch.apply(before.clone()).map_err(|error| wrong(error.to_string()))?;
    if after == before {
        return Ok(None);
    }
    returned(attributes, version, after).map(Some).map_err(wrong)
}

/// The plug-in that changes.
pub(super) struct MutatingAdmissionWebhook(Source);

impl MutatingAdmissionWebhook {
    fn new(reader: Arc<dyn Reader>, supervisor: &Supervisor, metrics: Arc<WebhookMetrics>) -> Self {
        Self(Source::new(("mutatingwebhookconfigurations", "admit"), reader, supervisor, metrics))
    }

    async fn review(&self, attributes: &mut Attributes<'_>) -> Result<(), ApiError> {
        attributes.reinvocation.notice(attributes.object.as_ref());
        for wanting in self.0.wanting(attributes).await? {
            let hook = &wanting.hook;
            if attributes.reinvocation.passes_over(&hook.id) {
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
            if hook.reinvoke {
                attributes.reinvocation.wants_more(hook.id.clone());
            }
        }
        attributes.reinvocation.end(attributes.object.as_ref());
        Ok(())
    }
}

impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }
    fn set_authorizer(&self, authorizer: &Arc<dyn Authorizer>) {
        self.0.set_authorizer(authorizer);
    }
    fn metrics(&self) -> Vec<Arc<dyn Collect>> {
        // Those of both plug-ins.
        self.0.metrics.families()
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
    fn new(reader: Arc<dyn Reader>, supervisor: &Supervisor, metrics: Arc<WebhookMetrics>) -> Self {
        Self(Source::new(("validatingwebhookconfigurations", "validating"), reader, supervisor, metrics))
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
    fn set_authorizer(&self, authorizer: &Arc<dyn Authorizer>) {
        self.0.set_authorizer(authorizer);
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
    let (metrics, both) = (WebhookMetrics::new(), || Arc::clone(reader));
    plugins.insert(quota, Arc::new(ValidatingAdmissionWebhook::new(both(), supervisor, Arc::clone(&metrics))));
    plugins.insert(quota, Arc::new(MutatingAdmissionWebhook::new(both(), supervisor, metrics)));
    plugins
}
