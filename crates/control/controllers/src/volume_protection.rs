//! Volume protection: lets go of claims and volumes that are being deleted once nobody uses them
//! (`controller/volume/pvcprotection`, `controller/volume/pvprotection`). Admission puts the finalizers on.

use crate::context::{Context, Informers, SyncError, SyncResult, run_workers, tools};
use crate::pod::PodView;
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Api, Store, Tree, WriteOptions};
use skiff_machinery::Value;
use std::sync::Arc;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// Builds both controllers.
pub fn spawn(context: &Context, informers: &mut Informers) {
    spawn_claims(context, informers);
    spawn_volumes(context, informers);
}

fn waits_for(item: &Item<Tree>, finalizer: &str) -> bool {
    let finalizers = item.value.items_at(&["metadata", "finalizers"]);
    item.value.at(&["metadata", "deletionTimestamp"]).is_some()
        && finalizers.iter().any(|known| known.as_str() == Some(finalizer))
}

/// Whether a pod keeps a claim. One without a node does not: the kubelet would not start it with a claim that goes.
fn uses(pod: &PodView, claim: &str) -> bool {
    !pod.node_name.is_empty() && pod.claims.iter().any(|used| **used == *claim)
}

fn spawn_claims(context: &Context, informers: &mut Informers) {
    let account = "pvc-protection-controller";
    let (client, queue, _) = tools(context, account, account, "pvcprotection");
    let (claims, pods) = (informers.claims.store(), informers.pods.store());
    informers.claims.queue_by(&queue, |queue, delta| {
        if delta.new.is_some_and(|new| waits_for(new, CLAIM)) {
            queue.add(delta.key.clone());
        }
    });
    informers.pods.queue_by(&queue, |queue, delta| {
        // Only a pod that goes sets a claim free.
        for claim in delta.old.filter(|_| delta.new.is_none()).into_iter().flat_map(|pod| pod.value.claims.iter()) {
            queue.add(ObjectKey::new(&delta.key.namespace, claim));
        }
    });
    run_workers(context, "pvc-protection", &queue, 5, move |key| {
        let (client, claims, pods) = (client.clone(), Arc::clone(&claims), Arc::clone(&pods));
        async move {
            claims.synced().await;
            pods.synced().await;
            let Some(claim) = claims.get_key(&key).filter(|claim| waits_for(claim, CLAIM)) else { return Ok(None) };
            if pods.list_namespace(&key.namespace).iter().any(|pod| uses(&pod.value, &key.name)) {
                return Ok(None);
            }
            // The cache may not have a pod yet that was bound a moment ago.
            let list = client.namespaced("", "v1", "pods", &key.namespace).list(&Default::default()).await?;
            let used = |tree: &Value| {
                let volumes = tree.items_at(&["spec", "volumes"]).iter();
                !tree.str_at(&["spec", "nodeName"]).is_empty()
                    && volumes
                        .into_iter()
                        .any(|volume| crate::pod::claim_of(tree, volume).as_deref() == Some(&*key.name))
            };
            if list.items.iter().any(|pod| used(pod.tree())) {
                return Ok(None);
            }
            let api = client.namespaced("", "v1", "persistentvolumeclaims", &key.namespace);
            let_go(&api, &claims, &claim, CLAIM).await
        }
    });
}

fn spawn_volumes(context: &Context, informers: &mut Informers) {
    let account = "pv-protection-controller";
    let (client, queue, _) = tools(context, account, account, "pvprotection");
    let volumes = informers.volumes.store();
    informers.volumes.queue_by(&queue, |queue, delta| {
        if delta.new.is_some_and(|new| waits_for(new, VOLUME)) {
            queue.add(delta.key.clone());
        }
    });
    run_workers(context, "pv-protection", &queue, 1, move |key| {
        let (client, volumes) = (client.clone(), Arc::clone(&volumes));
        async move {
            let Some(volume) = volumes.get_key(&key).filter(|volume| waits_for(volume, VOLUME)) else {
                return Ok(None);
            };
            if volume.value.str_at(&["status", "phase"]) == "Bound" {
                return Ok(None);
            }
            let_go(&client.all("", "v1", "persistentvolumes"), &volumes, &volume, VOLUME).await
        }
    });
}

async fn let_go(api: &Api, store: &Store<Tree>, item: &Item<Tree>, finalizer: &str) -> SyncResult {
    let mut updated = Value::clone(&item.value);
    if let Some(finalizers) =
        updated.get_mut("metadata").and_then(|metadata| metadata.get_mut("finalizers")).and_then(Value::as_array_mut)
    {
        finalizers.retain(|known| known.as_str() != Some(finalizer));
    }
    match api.replace(&item.key.name, "", &updated, &WriteOptions::default()).await {
        Ok(written) => {
            store.wait_for(&item.key, &written).await;
            Ok(None)
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(SyncError::from(error)),
    }
}
