//! Generic ephemeral volumes (`controller/volume/ephemeral`): each is a claim of the pod's own, named after pod and volume,
//! which goes with the pod.

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::ownership::{controller_of, controller_reference};
use crate::pod::{PodView, claim_of};
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::ObjectKey;
use skiff_client::{Client, Store, Tree, WriteOptions};
use skiff_machinery::{Value, object};
use std::sync::Arc;

struct Controller {
    client: Client,
    pods: Arc<Store<PodView>>,
    claims: Arc<Store<Tree>>,
    recorder: Recorder,
}

pub(super) fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) =
        tools(context, "ephemeral-volume-controller", "ephemeral_volume", "ephemeral_volume");
    informers.pods.queue_by(&queue, |queue, delta| {
        // Specs of pods do not change: once is enough.
        let new = delta.new.filter(|_| delta.old.is_none());
        if new.is_some_and(|new| !new.value.claims.is_empty() && new.value.deleted.is_none()) {
            queue.add(delta.key.clone());
        }
    });
    let claims = informers.claims.store();
    informers.claims.queue_by(&queue, |queue, delta| {
        // A claim of ours that goes is made again while its pod is there.
        let gone = delta.old.filter(|_| delta.new.is_none());
        if let Some(owner) = gone.and_then(|gone| controller_of(&gone.value)).filter(|it| it.str_at(&["kind"]) == "Pod")
        {
            queue.add(ObjectKey::new(&delta.key.namespace, owner.str_at(&["name"])));
        }
    });
    let controller = Arc::new(Controller { client, pods: informers.pods.store(), claims, recorder });
    run_controller(context, "ephemeral-volume", &queue, 5, &controller, Controller::sync);
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.pods.synced().await;
        self.claims.synced().await;
        let Some(view) = self.pods.get_key(&key).filter(|pod| pod.value.deleted.is_none()) else { return Ok(None) };
        if view.value.claims.iter().all(|claim| self.claims.get(&key.namespace, claim).is_some()) {
            return Ok(None);
        }
        let pods = self.client.namespaced("", "v1", "pods", &key.namespace);
        let Some(pod) = pods.fetch_optional(&key.name).await? else { return Ok(None) };
        if pod.str_at(&["metadata", "uid"]) != &*view.uid {
            return Ok(None);
        }
        for volume in pod.items_at(&["spec", "volumes"]) {
            if volume.get("ephemeral").is_some_and(|ephemeral| !ephemeral.is_null()) {
                self.ensure(&key, &pod, volume).await?;
            }
        }
        Ok(None)
    }

    async fn ensure(&self, key: &ObjectKey, pod: &Value, volume: &Value) -> Result<(), SyncError> {
        let Some(name) = claim_of(pod, volume) else { return Ok(()) };
        if let Some(standing) = self.claims.get(&key.namespace, &name) {
            let owner = controller_of(&standing.value).map(|owner| owner.str_at(&["uid"]));
            if owner != Some(pod.str_at(&["metadata", "uid"])) {
                return Err(SyncError::Object(format!(
                    "PVC {}/{name} was not created for pod {key} (pod is not owner)",
                    key.namespace
                )));
            }
            return Ok(());
        }
        let template = volume.at(&["ephemeral", "volumeClaimTemplate"]).cloned().unwrap_or_default();
        let mut claim = object! {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": object! {
                "name": name.as_str(), "namespace": &*key.namespace,
                "ownerReferences": vec![controller_reference(pod, "v1", "Pod")],
            },
            "spec": template.get("spec").cloned().unwrap_or_default(),
        };
        if let Some(map) = claim.as_object_mut() {
            for field in ["labels", "annotations"] {
                if let Some(said) = template.object_at(&["metadata", field]) {
                    map.object_mut("metadata").insert(field, said.clone());
                }
            }
        }
        let api = self.client.namespaced("", "v1", "persistentvolumeclaims", &key.namespace);
        match api.create(&claim, &WriteOptions::default()).await {
            Ok(written) => {
                self.claims.wait_for(&ObjectKey::new(&key.namespace, &name), &written).await;
                Ok(())
            }
            Err(error) if crate::workload::is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("ephemeral volume controller failed to create PVC {name}: {error}");
                let about = Reference::to(pod, "v1", "Pod");
                self.recorder.event(&about, EventType::Warning, "FailedBinding", message);
                Err(error.into())
            }
        }
    }
}
