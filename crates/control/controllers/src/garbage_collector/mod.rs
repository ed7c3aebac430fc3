//! Garbage collector: deletes what has no owner left (`controller/garbagecollector/garbagecollector.go`).
//!
//! A graph of every deletable object and its owners is kept from watches on all resources, custom ones included
//! ([`graph`]). Nothing is deleted on the graph's word: before it acts, the collector reads the object and its owners
//! live and compares uids ([`attempt`]). An owner whose kind discovery does not know right now counts as *not known to be
//! absent*, and the object is tried again later: an unreachable aggregated API must not delete anything.
//!
//! Watches of different resources run apart, so a dependent may be seen before its owner, after its owner went, or while
//! the owner's deletion is still on its way. [`graph`] says how none of them is forgotten; a watch that ended for any
//! reason is started again, and what went meanwhile is found by comparing the graph with its first list.

mod attempt;
mod graph;

use crate::context::Context;
use crate::discovery::{Discovered, Resource};
use graph::{Effects, Graph, Identity, View};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::Delta;
use skiff_client::{Client, Informer, InformerOptions, Store, WorkQueue};
use skiff_machinery::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const RESYNC: Duration = Duration::from_secs(30);
const WORKERS: usize = 20;

/// What to do about an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Task {
    /// Look whether it has an owner left.
    Delete(Arc<str>),
    /// Take it off its dependents.
    Orphan(Arc<str>),
}

struct Collector {
    client: Client,
    watcher: Client,
    clock: SharedClock,
    recorder: Recorder,
    graph: Mutex<Graph>,
    discovered: Mutex<Arc<Discovered>>,
    /// What runs each resource's watch.
    monitors: Mutex<BTreeMap<Arc<Resource>, Supervisor>>,
    queue: WorkQueue<Task>,
    supervisor: Supervisor,
}

/// Builds the controller.
pub fn spawn(context: &Context) {
    let collector = Arc::new(Collector::new(context));
    let resync = Arc::clone(&collector);
    context.supervisor.spawn_abortable("garbage-collector resync", OnFailure::EndComponent, async move {
        resync.keep_monitors().await;
    });
}

/// Whether the collector keeps an eye on a resource. Events are written all the time and owned by nobody
/// (`garbagecollector.DefaultIgnoredResources`).
fn is_monitored(resource: &Resource) -> bool {
    let is_event = resource.resource == "events" && (resource.group.is_empty() || resource.group == "events.k8s.io");
    resource.can(&["delete", "list", "watch"]) && !is_event
}

impl Collector {
    fn new(context: &Context) -> Self {
        let client = context.clients.controller("generic-garbage-collector");
        let clock = Arc::clone(&context.clock);
        let recorder = Recorder::spawn(
            client.clone(),
            "garbage-collector-controller",
            "",
            Arc::clone(&clock),
            &context.supervisor,
        );
        Self {
            client,
            watcher: context.clients.manager(),
            recorder,
            graph: Mutex::default(),
            discovered: Mutex::default(),
            monitors: Mutex::default(),
            queue: context.queue("garbage_collector_attempt_to_delete"),
            clock,
            supervisor: context.supervisor.clone(),
        }
    }

    /// Keeps a watch on every deletable resource. Workers start once the first set of watches is full.
    async fn keep_monitors(self: Arc<Self>) {
        let mut working = false;
        loop {
            let before = Arc::clone(&self.discovered.lock());
            match Discovered::fetch(&self.client, &before).await {
                Ok(found) => {
                    let found = Arc::new(found);
                    *self.discovered.lock() = Arc::clone(&found);
                    for (resource, store) in self.follow(&found) {
                        store.synced().await;
                        self.compare(&resource, &store);
                    }
                    if !working {
                        self.start_workers();
                        working = true;
                    }
                    self.clock.sleep(RESYNC).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "discovery tries again");
                    self.clock.sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Starts watches that are missing or have ended, and ends those whose resource is gone. Only a complete discovery
    /// ends any. Returns the started ones.
    fn follow(self: &Arc<Self>, found: &Discovered) -> Vec<(Arc<Resource>, Arc<Store<View>>)> {
        let wanted: Vec<&Arc<Resource>> = found.preferred.iter().filter(|resource| is_monitored(resource)).collect();
        let mut monitors = self.monitors.lock();
        let mut gone = Vec::new();
        monitors.retain(|resource, monitor| {
            let served = wanted.contains(&resource) || !found.is_complete();
            if !served {
                monitor.token().cancel();
                gone.push(Arc::clone(resource));
            }
            served && !monitor.token().is_cancelled()
        });
        let mut started = Vec::new();
        for resource in wanted {
            if monitors.contains_key(resource) {
                continue;
            }
            let api = self.watcher.all(&resource.group, &resource.version, &resource.resource);
            let supervisor = self.supervisor.child("garbage-collector monitor");
            let (shared, place) = (Arc::clone(self), Arc::clone(resource));
            let store = Informer::new(api, InformerOptions::default(), Arc::clone(&self.clock))
                .on_change(move |delta| shared.changed(&place, delta))
                .spawn(&supervisor);
            started.push((Arc::clone(resource), Arc::clone(&store)));
            monitors.insert(Arc::clone(resource), supervisor);
        }
        drop(monitors);
        for resource in gone {
            let seen = self.graph.lock().seen_of(&resource);
            seen.iter().for_each(|uid| self.enact(|graph| graph.remove(uid)));
        }
        started
    }

    /// Removes what a watch before this one had brought and what is there no more. The graph is asked under its lock and
    /// the store after it: a store is never behind what its handler has told the graph.
    fn compare(&self, resource: &Resource, store: &Store<View>) {
        self.enact(|graph| {
            let seen = graph.seen_of(resource);
            if seen.is_empty() {
                return Effects::default();
            }
            let there: std::collections::HashSet<Arc<str>> = store.list().into_iter().map(|item| item.uid).collect();
            let mut all = Effects::default();
            for uid in seen.iter().filter(|uid| !there.contains(*uid)) {
                let effects = graph.remove(uid);
                all.tasks.extend(effects.tasks);
                all.invalid.extend(effects.invalid);
            }
            all
        });
    }

    fn changed(&self, resource: &Arc<Resource>, delta: &Delta<'_, View>) {
        self.enact(|graph| match (delta.old, delta.new) {
            (_, Some(new)) => {
                let identity = Identity { resource: Arc::clone(resource), key: new.key.clone() };
                graph.set(&new.uid, identity, &new.value)
            }
            (Some(old), None) => graph.remove(&old.uid),
            (None, None) => Effects::default(),
        });
    }

    /// Changes the graph, then queues what follows and tells about references that cannot be right.
    fn enact(&self, change: impl FnOnce(&mut Graph) -> Effects) {
        let effects = change(&mut self.graph.lock());
        for task in effects.tasks {
            self.queue.add(task);
        }
        for invalid in effects.invalid {
            let (dependent, owner) = (invalid.dependent, invalid.owner);
            let about = Reference {
                api_version: dependent.resource.api_version(),
                kind: dependent.resource.kind.clone(),
                namespace: dependent.key.namespace.to_string(),
                name: dependent.key.name.to_string(),
                uid: invalid.uid.to_string(),
                field_path: String::new(),
            };
            let namespace = &about.namespace;
            let message = format!(
                "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace \"{namespace}\"",
                owner.api_version, owner.kind, owner.name, owner.uid,
            );
            self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", message);
        }
    }

    fn start_workers(self: &Arc<Self>) {
        for number in 0..WORKERS {
            let shared = Arc::clone(self);
            let name = format!("garbage-collector {number}");
            self.supervisor.spawn_abortable(name, OnFailure::EndComponent, async move {
                while let Some(work) = shared.queue.next().await {
                    match shared.sync(&work.key).await {
                        Ok(again) => {
                            let key = work.key.clone();
                            work.succeeded();
                            if let Some(delay) = again {
                                shared.queue.add_after(key, delay);
                            }
                        }
                        Err(error) => {
                            tracing::debug!(task = ?work.key, %error, "collection tries again");
                            work.failed();
                        }
                    }
                }
            });
        }
    }
}

fn has_finalizer(tree: &Value, finalizer: &str) -> bool {
    tree.items_at(&["metadata", "finalizers"]).iter().any(|known| known.as_str() == Some(finalizer))
}

#[cfg(test)]
mod tests;
