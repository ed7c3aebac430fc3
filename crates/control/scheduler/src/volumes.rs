//! Binds the volumes of a pod before the pod: what was chosen is written, then everybody else is waited for
//! (`volumebinding/binder.go`: `BindPodVolumes`).

use crate::cluster::Cluster;
use crate::model::Pod;
use crate::run::Shared;
use crate::storage::Bindings;
use skiff_client::{ClientError, WriteOptions};
use skiff_machinery::storage::{BOUND_BY_CONTROLLER, SELECTED_NODE, annotation, is_bound_to};
use skiff_machinery::{Map, Value, object};
use std::time::Duration;

/// How long claims may take to be bound (`bindTimeoutSeconds`).
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a pod did not get its node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// A call failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The pod's volumes were not bound.
    #[error("binding volumes: {0}")]
    Volumes(String),
}

impl BindError {
    /// Whether the pod is gone.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Client(error) if error.is_not_found())
    }
}

/// What the pod's claims take on the node that was chosen; volumes are promised from here on.
pub(crate) fn promise(cluster: &mut Cluster, pod: &Pod, node: &str) -> Bindings {
    let found = cluster.node(node).map(|node| &node.facts).filter(|_| !pod.claims.is_empty()).and_then(|facts| {
        let claims = cluster.storage().claims_of(pod).ok()?;
        cluster.storage().find(&claims, facts).ok()
    });
    let bindings = found.unwrap_or_default();
    cluster.storage_mut().promise(&bindings);
    bindings
}

impl Shared {
    /// Writes the choices and waits until every claim is bound.
    pub(crate) async fn bind_volumes(&self, bindings: &Bindings, node: &str) -> Result<(), BindError> {
        if bindings.is_empty() {
            return Ok(());
        }
        let failed = |error: ClientError| BindError::Volumes(error.to_string());
        for (claim, volume) in &bindings.chosen {
            if !is_bound_to(volume, claim) || volume.str_at(&["spec", "claimRef", "uid"]).is_empty() {
                let volumes = self.client.all("", "v1", "persistentvolumes");
                let name = volume.str_at(&["metadata", "name"]);
                let updated = claimed(volume, claim);
                volumes.replace(name, "", &updated, &WriteOptions::default()).await.map_err(failed)?;
            }
        }
        for claim in bindings.provision.iter().filter(|claim| annotation(claim, SELECTED_NODE) != node) {
            let namespace = claim.str_at(&["metadata", "namespace"]);
            let claims = self.client.namespaced("", "v1", "persistentvolumeclaims", namespace);
            let mut updated = Value::clone(claim);
            if let Some(map) = updated.as_object_mut() {
                map.object_mut("metadata").object_mut("annotations").insert(SELECTED_NODE, node);
            }
            let name = claim.str_at(&["metadata", "name"]);
            claims.replace(name, "", &updated, &WriteOptions::default()).await.map_err(failed)?;
        }
        self.volumes_bound(bindings, node).await
    }

    async fn volumes_bound(&self, bindings: &Bindings, node: &str) -> Result<(), BindError> {
        let deadline = self.now() + PATIENCE;
        // The caches may not show what was just written: a choice that is missing is believed to be on its way for a while.
        let settled = self.now() + Duration::from_secs(5);
        loop {
            let moved = self.storage_moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let now = self.now();
            let state = {
                let state = self.state.lock();
                let Some(node) = state.cluster.node(node) else {
                    return Err(BindError::Volumes(format!("node \"{node}\" is gone")));
                };
                state.cluster.storage().are_bound(bindings, &node.facts)
            };
            match state {
                Ok(true) => return Ok(()),
                Err(why) if now >= settled => return Err(BindError::Volumes(why)),
                Ok(false) | Err(_) if now >= deadline => {
                    return Err(BindError::Volumes("timed out waiting for claims to be bound".to_owned()));
                }
                Ok(false) | Err(_) => (),
            }
            let next = if now < settled { settled } else { deadline };
            tokio::select! {
                () = moved => (),
                () = self.config.clock.sleep_until(next) => (),
            }
        }
    }
}

/// The volume as this claim's (`GetBindVolumeToClaim`).
fn claimed(volume: &Value, claim: &Value) -> Value {
    let mut updated = volume.clone();
    let ours = is_bound_to(volume, claim);
    let reference = object! {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": claim.str_at(&["metadata", "namespace"]), "name": claim.str_at(&["metadata", "name"]),
        "uid": claim.str_at(&["metadata", "uid"]), "resourceVersion": claim.str_at(&["metadata", "resourceVersion"]),
    };
    if let Some(map) = updated.as_object_mut() {
        map.object_mut("spec").insert("claimRef", reference);
        if !ours {
            let annotations: &mut Map = map.object_mut("metadata").object_mut("annotations");
            annotations.insert(BOUND_BY_CONTROLLER, "yes");
        }
    }
    updated
}
