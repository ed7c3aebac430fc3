//! `ResourceQuota`: what a namespace may have altogether. Every write that costs something is charged to the quotas of its
//! namespace with compare-and-set before it is stored, so that writers at the same time cannot exceed them together.
//!
//! The resource quota controller counts what is really there and writes it to `status.used`. The plug-in counts too, from
//! the caches, when a quota's status does not belong to its spec yet, and before it refuses: what was deleted a moment ago
//! is then free again.
//!
//! Mirrors apiserver/pkg/admission/plugin/resourcequota (`CheckRequest` above all).

#[cfg(test)]
mod tests;

use super::attributes::named;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::core::pod::resources::{Amounts, add, amounts};
use crate::kinds::tree::Tree;
use hashbrown::HashMap;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_machinery::quota::{self, Evaluator};
use skiff_machinery::{ApiError, GroupResource, Map, Value};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A charged write may take this long to be in the caches; before, counting would miss it.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// The plug-in.
pub(super) struct ResourceQuota {
    reader: Arc<dyn Reader>,
    clock: SharedClock,
    quotas: GroupResource,
    /// When a quota (namespace and name) was charged last; entries go once that is settled.
    charged: Mutex<HashMap<(String, String), Instant>>,
}

/// One write, as quotas see it.
struct Cost<'a> {
    attributes: &'a Attributes<'a>,
    evaluator: Evaluator,
}

impl ResourceQuota {
    pub(super) fn new(reader: Arc<dyn Reader>, clock: SharedClock) -> Self {
        Self { reader, clock, quotas: named("", "resourcequotas"), charged: Mutex::default() }
    }

    async fn review(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let namespace = attributes.namespace;
        let Some(evaluator) = Evaluator::of(&attributes.resource.name) else { return Ok(()) };
        if namespace.is_empty() || !may_cost(&evaluator, attributes.operation, attributes.subresource) {
            return Ok(());
        }
        let quotas = self.reader.list(&self.quotas, Some(namespace));
        let cost = Cost { attributes, evaluator };
        // All of them agree before the first one is charged.
        let mut concerned = Vec::new();
        for quota in &quotas {
            if self.charge(quota, &cost)?.is_some() {
                concerned.push(quota.str_at(&["metadata", "name"]));
            }
        }
        if attributes.context.dry_run {
            return Ok(());
        }
        for name in concerned {
            let change = Box::new(|quota: &Value| self.charge(quota, &cost));
            match self.reader.update(&self.quotas, namespace, name, change).await {
                Ok(_) => self.remember(namespace, name),
                // Deleted meanwhile: it limits nothing any more.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn remember(&self, namespace: &str, name: &str) {
        let now = self.clock.now();
        let mut charged = self.charged.lock();
        charged.retain(|_, at| now.saturating_duration_since(*at) < SETTLED_AFTER);
        charged.insert((namespace.to_owned(), name.to_owned()), now);
    }

    fn is_settled(&self, namespace: &str, name: &str) -> bool {
        let charged = self.charged.lock();
        let at = charged.get(&(namespace.to_owned(), name.to_owned()));
        at.is_none_or(|at| self.clock.now().saturating_duration_since(*at) >= SETTLED_AFTER)
    }

    /// The quota after the write; `None` when the write costs it nothing.
    fn charge(&self, quota: &Value, cost: &Cost<'_>) -> Result<Option<Value>, ApiError> {
        let Cost { attributes, evaluator } = cost;
        let object = attributes.new_object();
        let name = quota.str_at(&["metadata", "name"]);
        let hard = amounts(quota.at(&["spec", "hard"]));
        let restricted: Vec<&str> = hard.keys().map(String::as_str).filter(|name| evaluator.counts(name)).collect();
        if restricted.is_empty() || !quota::matches(quota, evaluator, object) {
            return Ok(None);
        }
        evaluator
            .constraint(&restricted, object)
            .map_err(|why| attributes.forbidden(format!("failed quota: {name}: {why}")))?;
        let requested = self.requested(quota, cost, &hard)?;
        if requested.is_empty() {
            return Ok(None);
        }
        let known = amounts(quota.at(&["status", "hard"])) == hard;
        let used = amounts(quota.at(&["status", "used"]));
        let counted = known && hard.keys().all(|name| used.contains_key(name));
        let exceeded = |used: &Amounts| exceeded(&requested, used, &hard);
        let used = match exceeded(&used) {
            None if counted => used,
            Some(why) if counted && !self.is_settled(attributes.namespace, name) => {
                return Err(attributes.forbidden(why.text(name)));
            }
            _ => {
                let used = self.count(quota, &hard, attributes);
                if let Some(why) = exceeded(&used) {
                    return Err(attributes.forbidden(why.text(name)));
                }
                used
            }
        };
        let mut used = used;
        add(&mut used, &requested);
        let mut quota = quota.clone();
        let status = quota.make("status");
        status.set("hard", list(&hard));
        status.set("used", list(&used));
        Ok(Some(quota))
    }

    /// What the write adds to what this quota limits.
    fn requested(&self, quota: &Value, cost: &Cost<'_>, hard: &Amounts) -> Result<Amounts, ApiError> {
        let Cost { attributes, evaluator } = cost;
        let now = &attributes.context.now;
        let mut usage = evaluator.usage(attributes.new_object(), now);
        let negative: Vec<&str> =
            usage.iter().filter(|(_, amount)| amount.sign() < 0).map(|(name, _)| name.as_str()).collect();
        if !negative.is_empty() {
            let why = format!("quota usage is negative for resource(s): {}", negative.join(","));
            return Err(attributes.forbidden(why));
        }
        if attributes.operation == Operation::Update
            && let Some(old) = &attributes.old
            && quota::matches(quota, evaluator, old)
        {
            let before = evaluator.usage(old, now);
            for (name, amount) in &mut usage {
                if let Some(before) = before.get(name) {
                    amount.sub(*before);
                }
            }
        }
        usage.retain(|name, amount| amount.sign() > 0 && hard.contains_key(name));
        Ok(usage)
    }

    /// What is there, from the caches (`CalculateUsage`).
    fn count(&self, quota: &Value, hard: &Amounts, attributes: &Attributes<'_>) -> Amounts {
        let mut evaluators: Vec<Evaluator> = Vec::new();
        for name in hard.keys() {
            let evaluator = Evaluator::of_name(name);
            if !evaluators.contains(&evaluator) {
                evaluators.push(evaluator);
            }
        }
        let mut used: Amounts = hard
            .iter()
            .map(|(name, amount)| (name.clone(), skiff_machinery::quantity::Quantity::zero(amount.format())))
            .collect();
        for evaluator in evaluators {
            for object in self.reader.list(&evaluator.resource(), Some(attributes.namespace)) {
                if quota::matches(quota, &evaluator, &object) {
                    let mut usage = evaluator.usage(&object, &attributes.context.now);
                    usage.retain(|name, _| hard.contains_key(name));
                    add(&mut used, &usage);
                }
            }
        }
        used
    }
}

/// Whether a write may cost anything.
fn may_cost(evaluator: &Evaluator, operation: Operation, subresource: &str) -> bool {
    matches!(
        (evaluator, subresource, operation),
        (_, "", Operation::Create)
            | (Evaluator::Services | Evaluator::Claims, "", Operation::Update)
            | (Evaluator::Pods, "resize", Operation::Update)
    )
}

/// What does not fit.
struct Exceeded {
    requested: Amounts,
    used: Amounts,
    limited: Amounts,
}

impl Exceeded {
    fn text(&self, quota: &str) -> String {
        let [requested, used, limited] = [&self.requested, &self.used, &self.limited].map(|list| {
            let parts: Vec<String> = list.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
            parts.join(",")
        });
        format!("exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}")
    }
}

fn exceeded(requested: &Amounts, used: &Amounts, hard: &Amounts) -> Option<Exceeded> {
    let mut found = Exceeded { requested: Amounts::new(), used: Amounts::new(), limited: Amounts::new() };
    for (name, more) in requested {
        let Some(limit) = hard.get(name) else { continue };
        let mut total = *more;
        let before = used.get(name);
        if let Some(before) = before {
            total.add(*before);
        }
        if total > *limit {
            found.requested.insert(name.clone(), *more);
            found.limited.insert(name.clone(), *limit);
            found.used.extend(before.map(|before| (name.clone(), *before)));
        }
    }
    (!found.requested.is_empty()).then_some(found)
}

fn list(amounts: &Amounts) -> Map {
    amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect()
}

impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.review(attributes))
    }
}
