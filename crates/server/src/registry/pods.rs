//! Binding a pod to a node, and evicting one: writes of pods under rules of their own.
//!
//! Mirrors `BindingREST` and `EvictionREST` (pkg/registry/core/pod/storage).

use super::create::Write;
use super::respond::Scope;
use super::update::Rules;
use super::{Registry, meta};
use crate::admission::Reader;
use crate::request::RequestContext;
use crate::request::options::DeleteOptions;
use skiff_machinery::error::{Cause, Details};
use skiff_machinery::selector::Selector;
use skiff_machinery::{ApiError, FieldError, FieldPath, GroupResource, Map, Reason, Value};

/// How many pods a budget remembers as disrupted (`MaxDisruptedPodSize`).
const MAX_DISRUPTED: usize = 2000;

impl Registry {
    /// Gives a pod its node, once.
    pub(super) async fn bind(
        &self,
        context: &RequestContext,
        scope: &Scope,
        namespace: &str,
        name: &str,
        binding: &Value,
    ) -> Result<Map, ApiError> {
        let node = binding.str_at(&["target", "name"]);
        let kind = binding.str_at(&["target", "kind"]);
        let path = FieldPath::new("target");
        let mut errors = Vec::new();
        if !kind.is_empty() && kind != "Node" {
            errors.push(FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
        }
        if node.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(&skiff_machinery::GroupKind::new("", "Binding"), name, &errors));
        }
        let uid = meta::text(binding, "uid");
        let make = |old: super::update::Existing<'_>| {
            let Some(old) = old else { return Err(ApiError::not_found(&scope.resource.name, name)) };
            assign(old, name, node, uid, binding, &context.now)
        };
        let write = Write {
            scope,
            context,
            namespace,
            name,
            subresource: "binding",
            strategy: &Unchecked(&*scope.resource.strategy),
            options: None,
        };
        self.update(&write, Rules::default(), &make).await?;
        Ok(Map::new())
    }

    /// Deletes a pod unless a disruption budget says no.
    pub(super) async fn evict(
        &self,
        context: &RequestContext,
        scope: &Scope,
        namespace: &str,
        name: &str,
        eviction: Value,
    ) -> Result<Map, ApiError> {
        let stated = meta::text(&eviction, "name");
        if !stated.is_empty() && stated != name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = match eviction.get("deleteOptions") {
            Some(options) => DeleteOptions::from_value(options)?,
            None => DeleteOptions::default(),
        };
        let mut context = context.clone();
        context.dry_run |= options.dry_run;
        let entry = self.get_entry(scope, namespace, name, "").await?;
        let pod = entry.tree(scope.cache.codec())?;
        if !needs_no_budget(&pod) {
            self.take_disruption(&context, &pod, namespace, name).await?;
            options.precondition_resource_version = None;
        }
        if !context.dry_run {
            self.mark_disrupted(&context, namespace, name, &mut options).await?;
        }
        let strategy = &*scope.resource.strategy;
        let write =
            Write { scope, context: &context, namespace, name, subresource: "eviction", strategy, options: None };
        self.delete_unasked(&write, &options).await?;
        Ok(Map::new())
    }

    /// Says why the pod goes, for its controller to read, before it goes (`addConditionAndDeletePod`).
    async fn mark_disrupted(
        &self,
        context: &RequestContext,
        namespace: &str,
        name: &str,
        options: &mut DeleteOptions,
    ) -> Result<(), ApiError> {
        let pods = GroupResource::new("", "pods");
        let (uid, revision) = (options.precondition_uid.clone(), options.precondition_resource_version.clone());
        let change = Box::new(|pod: &Value| {
            for (what, field, wanted) in [("UID", "uid", &uid), ("ResourceVersion", "resourceVersion", &revision)] {
                let found = meta::text(pod, field);
                if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != found) {
                    let why = format!(
                        "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                    );
                    return Err(ApiError::conflict(&GroupResource::new("", "pods"), name, why));
                }
            }
            Ok(Some(disrupted(pod, &context.now)))
        });
        let marked = Reader::update(self, &pods, namespace, name, change).await?;
        if revision.is_some() {
            options.precondition_resource_version = Some(meta::text(&marked, "resourceVersion").to_owned());
        }
        Ok(())
    }

    /// Counts the eviction against the budget of the pod, if it has one.
    async fn take_disruption(
        &self,
        context: &RequestContext,
        pod: &Value,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let budgets = GroupResource::new("policy", "poddisruptionbudgets");
        self.barrier().await?;
        let matching: Vec<_> = Reader::list(self, &budgets, Some(namespace))
            .into_iter()
            .filter(|budget| {
                // Upstream: a budget whose selector cannot be read matches nothing.
                Selector::from_label_selector(budget.at(&["spec", "selector"]))
                    .is_ok_and(|selector| selector.matches_object(pod))
            })
            .collect();
        let budget = match matching.as_slice() {
            [] => return Ok(()),
            [one] => meta::text(one, "name").to_owned(),
            _ => {
                return Err(ApiError::new(
                    500,
                    Reason::InternalError,
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        // An unready pod of a healthy application may always go under `AlwaysAllow`; else only when the budget is met.
        if !is_ready(pod) && unhealthy_may_go(&matching[0]) {
            return Ok(());
        }
        let dry_run = context.dry_run;
        let now = context.now.clone();
        let pod_name = name.to_owned();
        let change = Box::new(move |budget: &Value| {
            let next = count_disruption(budget, &pod_name, &now)?;
            Ok(if dry_run { None } else { Some(next) })
        });
        Reader::update(self, &budgets, namespace, &budget, change).await.map(|_| ())
    }
}

/// A pod that is not running, or leaves already, disturbs nobody (`canIgnorePDB`).
fn needs_no_budget(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending")
        || !meta::text(pod, "deletionTimestamp").is_empty()
}

fn is_ready(pod: &Value) -> bool {
    let ready = pod.items_at(&["status", "conditions"]).iter().find(|condition| condition.str_at(&["type"]) == "Ready");
    ready.is_some_and(|condition| condition.str_at(&["status"]) == "True")
}

fn number(object: &Value, path: &[&str]) -> i64 {
    object.at(path).and_then(Value::as_int).unwrap_or(0)
}

fn unhealthy_may_go(budget: &Value) -> bool {
    match budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) {
        "AlwaysAllow" => true,
        _ => {
            let desired = number(budget, &["status", "desiredHealthy"]);
            desired > 0 && number(budget, &["status", "currentHealthy"]) >= desired
        }
    }
}

/// The pod with the condition of an eviction; one that said so before keeps its time.
fn disrupted(pod: &Value, now: &str) -> Value {
    const TYPE: &str = "DisruptionTarget";
    let mut marked = pod.clone();
    let standing = pod.items_at(&["status", "conditions"]).iter().find(|known| known.str_at(&["type"]) == TYPE);
    let since =
        standing.filter(|known| known.str_at(&["status"]) == "True").map(|known| known.str_at(&["lastTransitionTime"]));
    let condition = skiff_machinery::object! {
        "type": TYPE,
        "observedGeneration": number(pod, &["metadata", "generation"]),
        "status": "True",
        "lastTransitionTime": since.filter(|since| !since.is_empty()).unwrap_or(now),
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    };
    let others = pod.items_at(&["status", "conditions"]).iter().filter(|known| known.str_at(&["type"]) != TYPE);
    let conditions: Vec<Value> = others.cloned().chain([condition]).collect();
    if let Some(map) = marked.as_object_mut() {
        map.object_mut("status").insert("conditions", conditions);
    }
    marked
}

/// `checkAndDecrement`.
fn count_disruption(budget: &Value, pod: &str, now: &str) -> Result<Value, ApiError> {
    let name = meta::text(budget, "name");
    let too_many = |message: &str, retry: i32, cause: String| {
        ApiError::new(429, Reason::TooManyRequests, message).with_details(Details {
            causes: vec![Cause { reason: "DisruptionBudget".to_owned(), message: cause, field: String::new() }],
            retry_after_seconds: retry,
            ..Details::default()
        })
    };
    if number(budget, &["status", "observedGeneration"]) < number(budget, &["metadata", "generation"]) {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Err(too_many("Cannot evict pod as it would violate the pod's disruption budget.", 10, cause));
    }
    let allowed = number(budget, &["status", "disruptionsAllowed"]);
    let disrupted = budget.object_at(&["status", "disruptedPods"]).map_or(0, Map::len);
    if allowed < 0 {
        return Err(ApiError::forbidden(
            &GroupResource::new("policy", "poddisruptionbudget"),
            name,
            "pdb disruptions allowed is negative",
        ));
    }
    if disrupted > MAX_DISRUPTED {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), name, why));
    }
    if allowed == 0 {
        let cause = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number(budget, &["status", "desiredHealthy"]),
            number(budget, &["status", "currentHealthy"])
        );
        return Err(too_many("Cannot evict pod as it would violate the pod's disruption budget.", 0, cause));
    }
    let mut next = budget.clone();
    if let Some(map) = next.as_object_mut() {
        let status = map.object_mut("status");
        status.insert("disruptionsAllowed", allowed - 1);
        status.object_mut("disruptedPods").insert(pod.to_owned(), now);
    }
    Ok(next)
}

/// `assignPod` and `setPodHostAndAnnotations`.
fn assign(old: &Value, name: &str, node: &str, uid: &str, binding: &Value, now: &str) -> Result<Value, ApiError> {
    let conflict = |why: String| Err(ApiError::conflict(&GroupResource::new("", "pods/binding"), name, why));
    if !uid.is_empty() && uid != meta::text(old, "uid") {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::text(old, "uid")
        ));
    }
    if !meta::text(old, "deletionTimestamp").is_empty() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let assigned = old.str_at(&["spec", "nodeName"]);
    if !assigned.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {}", skiff_machinery::error::quote(assigned)));
    }
    if !old.items_at(&["spec", "schedulingGates"]).is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = old.clone();
    let generation = number(old, &["metadata", "generation"]);
    let Some(map) = pod.as_object_mut() else { return Err(ApiError::internal("a pod is no object")) };
    map.object_mut("spec").insert("nodeName", node);
    for field in ["annotations", "labels"] {
        if let Some(own) = binding.object_at(&["metadata", field]) {
            let target = map.object_mut("metadata").object_mut(field);
            for (key, value) in own.iter() {
                target.insert(key.clone(), value.clone());
            }
        }
    }
    let conditions = map.object_mut("status").entry("conditions", || Value::Array(Vec::new()));
    if let Some(conditions) = conditions.as_array_mut() {
        let scheduled = conditions.iter_mut().find(|condition| condition.str_at(&["type"]) == "PodScheduled");
        let condition = skiff_machinery::object! {
            "type": "PodScheduled",
            "observedGeneration": generation,
            "status": "True",
            "lastTransitionTime": now,
        };
        match scheduled {
            Some(found) => *found = condition,
            None => conditions.push(condition),
        }
    }
    Ok(pod)
}

/// The pod's own strategy without the rules for clients: what a binding sets (node, condition) no other update may.
struct Unchecked<'a>(&'a dyn crate::kinds::Strategy);

impl crate::kinds::Strategy for Unchecked<'_> {
    fn default(&self, version: &skiff_machinery::GroupVersion, object: &mut Value) {
        self.0.default(version, object);
    }
    fn prepare_for_create(&self, _: &RequestContext, _: &mut Value) {}
    // A binding is written past the pod's strategy upstream, so the generation does not count it.
    fn prepare_for_update(&self, _: &RequestContext, _: &mut Value, _: &Value) {}
    fn validate(&self, _: &RequestContext, _: &Value) -> skiff_machinery::ErrorList {
        Vec::new()
    }
    fn validate_update(&self, _: &RequestContext, _: &Value, _: &Value) -> skiff_machinery::ErrorList {
        Vec::new()
    }
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        self.0.validate_name(name, prefix)
    }
}
