//! Informers say what changed, one blocking task at a time brings the kernel there.
//!
//! Handlers only note the newest state of an object under its key, so what waits is bounded by the number of objects.
//! Nothing is programmed before all three lists are complete: half of the peers would cut off the other half. When the API
//! is away, what is programmed stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::{Client, Informer, InformerOptions};
use skiff_linux::netlink::Error;
use skiff_machinery::Map;
use tokio::sync::Notify;

use crate::decide::decide;
use crate::enforcer::Enforcer;
use crate::model::{Cluster, Pod, Policy};
use crate::objects::{NamespaceObject, PodObject, PolicyObject};

/// Shortest time between two looks: a burst of pods is one change.
const PAUSE: Duration = Duration::from_millis(10);
/// After a failure.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody else changed the table.
const VERIFY: Duration = Duration::from_secs(2);

/// What changed since the last look.
#[derive(Default)]
struct Pending {
    policies: HashMap<String, Option<Arc<Policy>>>,
    pods: HashMap<String, Option<Arc<Pod>>>,
    namespaces: HashMap<String, Option<Arc<Map>>>,
}

#[derive(Default)]
struct Noted {
    pending: Mutex<Pending>,
    changed: Notify,
}

/// Enforces policies on the pods of `node`, in this process' network namespace, under `supervisor`. `client` may read pods,
/// namespaces and policies of the whole cluster.
pub fn spawn(client: &Client, node: &str, clock: SharedClock, supervisor: &Supervisor) -> Result<(), Error> {
    let enforcer = Enforcer::open()?;
    let noted = Arc::new(Noted::default());
    let told = Arc::clone(&noted);
    let api = client.all("networking.k8s.io", "v1", "networkpolicies");
    let policies = Informer::<PolicyObject>::new(api, InformerOptions::default(), Arc::clone(&clock))
        .on_change(move |delta| {
            let key = format!("{}/{}", delta.key.namespace, delta.key.name);
            told.pending.lock().policies.insert(key, delta.new.map(|item| Arc::clone(&item.value.0)));
            told.changed.notify_one();
        })
        .spawn(supervisor);
    let told = Arc::clone(&noted);
    let pods = Informer::<PodObject>::new(client.all("", "v1", "pods"), InformerOptions::default(), Arc::clone(&clock))
        .on_change(move |delta| {
            let pod = delta.new.and_then(|item| item.value.0.clone());
            // Most of what pods tell is none of ours.
            if delta.old.and_then(|item| item.value.0.as_ref()) != pod.as_ref() {
                let key = format!("{}/{}", delta.key.namespace, delta.key.name);
                told.pending.lock().pods.insert(key, pod);
                told.changed.notify_one();
            }
        })
        .spawn(supervisor);
    let told = Arc::clone(&noted);
    let api = client.all("", "v1", "namespaces");
    let namespaces = Informer::<NamespaceObject>::new(api, InformerOptions::default(), Arc::clone(&clock))
        .on_change(move |delta| {
            let labels = delta.new.map(|item| Arc::clone(&item.value.0));
            told.pending.lock().namespaces.insert(delta.key.name.to_string(), labels);
            told.changed.notify_one();
        })
        .spawn(supervisor);
    let node = node.to_owned();
    supervisor.spawn_abortable("network policies", OnFailure::EndComponent, async move {
        policies.synced().await;
        pods.synced().await;
        namespaces.synced().await;
        run(&noted, enforcer, &node, &clock).await;
    });
    Ok(())
}

fn take<T>(all: &mut std::collections::BTreeMap<String, T>, changes: HashMap<String, Option<T>>) {
    for (key, value) in changes {
        match value {
            Some(value) => all.insert(key, value),
            None => all.remove(&key),
        };
    }
}

async fn run(noted: &Noted, mut enforcer: Enforcer, node: &str, clock: &SharedClock) {
    let mut cluster = Cluster::default();
    let mut told: Option<String> = None;
    // At once: a table of an earlier run may be there.
    let mut look = true;
    loop {
        if !look {
            tokio::select! {
                () = noted.changed.notified() => (),
                () = clock.sleep(VERIFY) => (),
            }
        }
        look = false;
        let pending = std::mem::take(&mut *noted.pending.lock());
        take(&mut cluster.policies, pending.policies);
        take(&mut cluster.pods, pending.pods);
        take(&mut cluster.namespaces, pending.namespaces);
        // Blocks on netlink; one at a time, so both move there and back.
        let of = node.to_owned();
        let step = tokio::task::spawn_blocking(move || {
            let outcome = enforcer.verify().and_then(|whole| {
                if !whole {
                    tracing::warn!("somebody else changed the table of network policies: it is made anew");
                }
                enforcer.apply(decide(&of, &cluster))
            });
            (cluster, enforcer, outcome)
        });
        let outcome = match step.await {
            Ok((cluster_back, enforcer_back, outcome)) => {
                (cluster, enforcer) = (cluster_back, enforcer_back);
                outcome
            }
            // It panicked (told by the panic hook already), or the runtime is ending: the supervisor sees this task end.
            Err(error) => {
                tracing::error!(%error, "network policies are not enforced any more");
                return;
            }
        };
        match outcome {
            Ok(changed) => {
                told = None;
                if changed {
                    tracing::debug!("network policies programmed");
                }
                clock.sleep(PAUSE).await;
            }
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::error!(error = text, "network policies could not be programmed; trying again");
                }
                told = Some(text);
                look = true;
                clock.sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}
