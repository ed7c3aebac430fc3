//! ResourceQuota: counts what a namespace really has, so that what was deleted is free again
//! (`controller/resourcequota/resource_quota_controller.go`, `resource_quota_monitor.go`).
//!
//! Admission charges every write that costs something; this controller writes `status.used` when quotas change, when
//! something that they count goes or costs less (*replenishment*), and every five minutes. Objects are listed when they are
//! counted and not kept: only their going is watched, of pods and Services by the shared informers, of other kinds by
//! informers that hold nothing and are started when the first quota names the kind.

use crate::context::{Context, Informers, SyncError, SyncResult, run_workers, tools};
use crate::discovery::{Discovered, Resource};
use crate::pod::PodView;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::informer::{Delta, ObjectKey};
use skiff_client::leader::time;
use skiff_client::{Client, Informer, InformerOptions, ListOptions, Projection, Store, Tree, WorkQueue, WriteOptions};
use skiff_machinery::quota::{self, Evaluator};
use skiff_machinery::resources::{Amounts, add, amounts};
use skiff_machinery::{GroupResource, Map, Value, object};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_secs(300);
/// Deletions that follow each other this closely are counted together.
const GATHER: Duration = Duration::from_millis(100);

struct Controller {
    client: Client,
    watcher: Client,
    clock: SharedClock,
    supervisor: Supervisor,
    quotas: Arc<Store<Tree>>,
    queue: WorkQueue<ObjectKey>,
    discovered: Mutex<Arc<Discovered>>,
    /// Kinds whose going is watched.
    watched: Mutex<BTreeSet<String>>,
}

/// What is kept of an object whose going matters: nothing.
struct Nothing;

impl Projection for Nothing {
    fn project(_tree: &Arc<Value>) -> Result<Self, String> {
        Ok(Self)
    }
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, _) =
        tools(context, "resourcequota-controller", "resourcequota-controller", "resourcequota_primary");
    let quotas = informers.resource_quotas.store();
    informers.resource_quotas.queue_by(&queue, |queue, delta| {
        // Admission writes the status with every charge: only another spec is a reason to count.
        let spec =
            |item: Option<&skiff_client::informer::Item<Tree>>| item.and_then(|item| item.value.get("spec").cloned());
        if spec(delta.old) != spec(delta.new) {
            queue.add(delta.key.clone());
        }
    });
    {
        let (queue, quotas) = (queue.clone(), Arc::clone(&quotas));
        informers.pods.on_change(move |delta| {
            if pod_costs_less(delta) {
                replenish(&queue, &quotas, &Evaluator::Pods, &delta.key.namespace);
            }
        });
    }
    {
        let (queue, quotas) = (queue.clone(), Arc::clone(&quotas));
        informers.services.on_change(move |delta| {
            let costs = |item: &skiff_client::informer::Item<Tree>| Evaluator::Services.usage(&item.value, "");
            let less = delta.old.is_some_and(|old| delta.new.is_none_or(|new| costs(old) != costs(new)));
            if less {
                replenish(&queue, &quotas, &Evaluator::Services, &delta.key.namespace);
            }
        });
    }
    let controller = Arc::new(Controller {
        client,
        watcher: context.clients.manager(),
        clock: Arc::clone(&context.clock),
        supervisor: context.supervisor.clone(),
        quotas,
        queue: queue.clone(),
        discovered: Mutex::default(),
        watched: Mutex::new(["pods", "services"].map(str::to_owned).into()),
    });
    let resync = Arc::clone(&controller);
    context.supervisor.spawn_abortable("resourcequota resync", OnFailure::EndComponent, async move {
        loop {
            resync.clock.sleep(RESYNC).await;
            resync.quotas.list().into_iter().for_each(|quota| resync.queue.add(quota.key));
        }
    });
    run_workers(context, "resourcequota", &queue, 5, move |key| {
        let controller = Arc::clone(&controller);
        async move { controller.sync(key).await }
    });
}

/// A pod that went, ended, or will never be ended by anybody takes its resources no more.
fn pod_costs_less(delta: &Delta<'_, PodView>) -> bool {
    match (delta.old, delta.new) {
        (Some(_), None) => true,
        (Some(old), Some(new)) => {
            (!old.value.is_finished() && new.value.is_finished())
                || (old.value.deleted.is_none() && new.value.deleted.is_some())
        }
        _ => false,
    }
}

/// Queues the quotas of a namespace that count a kind.
fn replenish(queue: &WorkQueue<ObjectKey>, quotas: &Store<Tree>, evaluator: &Evaluator, namespace: &str) {
    for quota in quotas.list_namespace(namespace) {
        let hard = quota.value.object_at(&["spec", "hard"]);
        if hard.is_some_and(|hard| hard.keys().any(|name| evaluator.counts(name))) {
            queue.add_after(quota.key, GATHER);
        }
    }
}

/// The kinds that a quota counts.
fn evaluators(hard: &Amounts) -> Vec<Evaluator> {
    let mut found: Vec<Evaluator> = Vec::new();
    for name in hard.keys() {
        let evaluator = Evaluator::of_name(name);
        if !found.contains(&evaluator) {
            found.push(evaluator);
        }
    }
    found
}

impl Controller {
    async fn sync(self: &Arc<Self>, key: ObjectKey) -> SyncResult {
        if self.quotas.get_key(&key).is_none() {
            return Ok(None);
        }
        // Read before the objects are: a charge that comes in between makes the write below fail, and it is counted anew.
        let api = self.client.namespaced("", "v1", "resourcequotas", &key.namespace);
        let Some(quota) = self.fetch(&key).await? else { return Ok(None) };
        let hard = amounts(quota.at(&["spec", "hard"]));
        let now = time(self.clock.wall());
        let old = amounts(quota.at(&["status", "used"]));
        let mut used: Amounts = old
            .iter()
            .filter(|(name, _)| hard.contains_key(*name))
            .map(|(name, amount)| (name.clone(), *amount))
            .collect();
        for evaluator in evaluators(&hard) {
            let Some(resource) = self.find(&evaluator.resource()).await? else { continue };
            self.watch(&resource, &evaluator);
            let list = self.watcher.namespaced(&resource.group, &resource.version, &resource.resource, &key.namespace);
            let objects = list.list(&ListOptions::default()).await?;
            let names = hard.iter().filter(|(name, _)| evaluator.counts(name));
            let mut counted: Amounts = names
                .map(|(name, limit)| (name.clone(), skiff_machinery::quantity::Quantity::zero(limit.format())))
                .collect();
            for object in objects.items.iter().filter(|object| quota::matches(&quota, &evaluator, object.tree())) {
                let mut usage = evaluator.usage(object.tree(), &now);
                usage.retain(|name, _| counted.contains_key(name));
                add(&mut counted, &usage);
            }
            used.extend(counted);
        }
        if amounts(quota.at(&["status", "hard"])) == hard && old == used && quota.at(&["status", "used"]).is_some() {
            return Ok(None);
        }
        let list = |amounts: &Amounts| -> Map {
            amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect()
        };
        let mut updated = quota;
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", object! { "hard": list(&hard), "used": list(&used) });
        }
        match api.replace(&key.name, "status", &updated, &WriteOptions::default()).await {
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The quota as it is. The controller's own role may list, not get.
    async fn fetch(&self, key: &ObjectKey) -> Result<Option<Value>, SyncError> {
        let api = self.client.namespaced("", "v1", "resourcequotas", &key.namespace);
        let field_selector = format!("metadata.name={}", key.name);
        let page = api.list(&ListOptions { field_selector, ..ListOptions::default() }).await?;
        Ok(page.items.first().map(|quota| Value::clone(quota.tree())))
    }

    /// The resource of a kind that a quota names; `None` while nobody serves it.
    async fn find(&self, wanted: &GroupResource) -> Result<Option<Arc<Resource>>, SyncError> {
        let find = |discovered: &Discovered| {
            let is_it = |one: &&Arc<Resource>| one.group == wanted.group && one.resource == wanted.resource;
            discovered.preferred.iter().find(is_it).filter(|one| one.namespaced && one.can(&["list"])).cloned()
        };
        let before = Arc::clone(&self.discovered.lock());
        if let Some(found) = find(&before) {
            return Ok(Some(found));
        }
        let fresh = Arc::new(Discovered::fetch(&self.client, &before).await?);
        *self.discovered.lock() = Arc::clone(&fresh);
        Ok(find(&fresh))
    }

    /// Begins to watch the going of a kind's objects.
    fn watch(self: &Arc<Self>, resource: &Arc<Resource>, evaluator: &Evaluator) {
        if !resource.can(&["watch"]) || !self.watched.lock().insert(resource.group_resource()) {
            return;
        }
        let api = self.watcher.all(&resource.group, &resource.version, &resource.resource);
        let (queue, quotas, evaluator) = (self.queue.clone(), Arc::clone(&self.quotas), evaluator.clone());
        Informer::<Nothing>::new(api, InformerOptions::default(), Arc::clone(&self.clock))
            .on_change(move |delta| {
                // A claim may have become smaller, or be of another class now.
                let changed = evaluator == Evaluator::Claims && delta.old.is_some();
                if delta.new.is_none() || changed {
                    replenish(&queue, &quotas, &evaluator, &delta.key.namespace);
                }
            })
            .spawn(&self.supervisor.child("resourcequota monitor"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_once() {
        let hard = amounts(Some(&object! {
            "pods": "3", "requests.cpu": "1", "count/deployments.apps": "2", "services.nodeports": "1", "configmaps": "5",
        }));
        let resources: Vec<String> = evaluators(&hard).iter().map(|one| one.resource().to_string()).collect();
        assert_eq!(resources, ["configmaps", "deployments.apps", "pods", "services"]);
    }
}
