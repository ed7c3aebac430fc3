//! Persistent volumes: claims are bound to volumes, volumes of claims that are gone are reclaimed
//! (`controller/volume/persistentvolume`), and generic ephemeral volumes get their claims (`controller/volume/ephemeral`).
//!
//! Volume and claim point at each other, and nothing else says that they are bound. The volume is written first, so that it
//! is nobody else's from there on; whatever stops half-way is finished by the next look. One worker decides about claims:
//! two never choose the same volume. What is decided is `plan`, pure, over [`skiff_machinery::storage`].
//!
//! Not here yet: volumes made or deleted by this process (there is no in-tree provisioner; those of others are asked by
//! annotation), recycling, growing, volume attributes.

mod ephemeral;
mod plan;

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::pod::PodView;
use plan::{ForClaim, ForVolume, Seen, Word};
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Client, Store, Tree, WorkQueue, WriteOptions};
use skiff_machinery::storage::{
    BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, STORAGE_PROVISIONER, annotation, class_of,
    has_no_class, is_bound_to, is_free,
};
use skiff_machinery::{Map, Value, object};
use std::sync::Arc;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

struct Controller {
    client: Client,
    claims: Arc<Store<Tree>>,
    volumes: Arc<Store<Tree>>,
    classes: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
    recorder: Recorder,
    claim_queue: WorkQueue<ObjectKey>,
    volume_queue: WorkQueue<ObjectKey>,
}

/// Builds the controllers.
pub fn spawn(context: &Context, informers: &mut Informers) {
    ephemeral::spawn(context, informers);
    let (client, claim_queue, recorder) =
        tools(context, "persistent-volume-binder", "persistentvolume-controller", "claims");
    let volume_queue = context.queue("volumes");
    informers.claims.queue_all(&claim_queue);
    informers.volumes.queue_all(&volume_queue);
    {
        // A claim that changes or goes moves its volume.
        let queue = volume_queue.clone();
        informers.claims.on_change(move |delta| {
            for claim in [delta.old, delta.new].into_iter().flatten() {
                let volume = claim.value.str_at(&["spec", "volumeName"]);
                if !volume.is_empty() {
                    queue.add(ObjectKey::new("", volume));
                }
            }
        });
    }
    {
        // A volume that nobody has may be what a claim waits for; one that changes is looked at by its claim.
        let (queue, claims) = (claim_queue.clone(), informers.claims.store());
        informers.volumes.on_change(move |delta| {
            let reference = |item: &Item<Tree>| {
                let name = item.value.str_at(&["spec", "claimRef", "name"]);
                let namespace = item.value.str_at(&["spec", "claimRef", "namespace"]);
                (!name.is_empty()).then(|| ObjectKey::new(namespace, name))
            };
            [delta.old, delta.new].into_iter().flatten().filter_map(reference).for_each(|key| queue.add(key));
            for claim in claims.list() {
                let named = claim.value.str_at(&["spec", "volumeName"]);
                let free = delta.new.is_some_and(|new| is_free(&new.value));
                if *named == *delta.key.name || (named.is_empty() && free) {
                    queue.add(claim.key);
                }
            }
        });
    }
    {
        let (queue, claims) = (claim_queue.clone(), informers.claims.store());
        informers.storage_classes.on_change(move |_| {
            claims.list().into_iter().filter(|claim| !is_bound(&claim.value)).for_each(|claim| queue.add(claim.key));
        });
    }
    let controller = Arc::new(Controller {
        client,
        claims: informers.claims.store(),
        volumes: informers.volumes.store(),
        classes: informers.storage_classes.store(),
        pods: informers.pods.store(),
        recorder,
        claim_queue: claim_queue.clone(),
        volume_queue: volume_queue.clone(),
    });
    run_controller(context, "persistentvolume-claims", &claim_queue, 1, &controller, Controller::sync_claim);
    run_controller(context, "persistentvolume-volumes", &volume_queue, 1, &controller, Controller::sync_volume);
}

fn is_bound(claim: &Value) -> bool {
    !annotation(claim, BIND_COMPLETED).is_empty()
}

fn annotate(tree: &mut Value, name: &'static str, value: &str) {
    if let Some(map) = tree.as_object_mut() {
        map.object_mut("metadata").object_mut("annotations").insert(name, value);
    }
}

impl Controller {
    async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.pods.synced().await;
    }

    fn tell(&self, about: &Reference, word: Word) {
        let ty = if word.warning { EventType::Warning } else { EventType::Normal };
        self.recorder.event(about, ty, word.reason, word.message);
    }

    async fn sync_claim(&self, key: ObjectKey) -> SyncResult {
        self.synced().await;
        let Some(item) = self.claims.get_key(&key) else { return Ok(None) };
        let claim = &*item.value.0;
        if !is_bound(claim)
            && claim.str_at(&["spec", "volumeName"]).is_empty()
            && has_no_class(claim)
            && let Some(class) = self.default_class()
        {
            // Its class is what was default when it got one, and no other (`assignDefaultStorageClass`).
            let mut updated = claim.clone();
            if let Some(map) = updated.as_object_mut() {
                map.object_mut("spec").insert("storageClassName", &*class);
            }
            self.write_claim("", &updated).await?;
            return Ok(None);
        }
        let volumes = self.volumes.list();
        let volumes: Vec<&Value> = volumes.iter().map(|volume| &*volume.value.0).collect();
        let class = self.classes.get("", class_of(claim));
        let waiting = self.waiting_pods(&key);
        let seen =
            Seen { volumes: &volumes, class: class.as_ref().map(|class| &*class.value.0), waiting_pods: &waiting };
        let about = Reference::to(claim, "v1", "PersistentVolumeClaim");
        match plan::claim(claim, &seen) {
            ForClaim::Bind(volume) => self.bind(claim, &volume).await?,
            ForClaim::Wait(word) => {
                if let Some(word) = word {
                    self.tell(&about, word);
                }
                self.say_phase(claim, "Pending").await?;
            }
            ForClaim::Provision(provisioner) => {
                if annotation(claim, STORAGE_PROVISIONER) != provisioner {
                    let mut updated = claim.clone();
                    annotate(&mut updated, STORAGE_PROVISIONER, &provisioner);
                    annotate(&mut updated, BETA_STORAGE_PROVISIONER, &provisioner);
                    self.write_claim("", &updated).await?;
                    return Ok(None);
                }
                let message = format!(
                    "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
                );
                self.tell(&about, Word { warning: false, reason: "ExternalProvisioning", message });
                self.say_phase(claim, "Pending").await?;
            }
            ForClaim::Lose(word) => {
                if claim.str_at(&["status", "phase"]) != "Lost" {
                    self.tell(&about, word);
                }
                self.say_phase(claim, "Lost").await?;
            }
        }
        Ok(None)
    }

    /// The newest of the default classes.
    fn default_class(&self) -> Option<Arc<str>> {
        let classes = self.classes.list().into_iter();
        let defaults = classes.filter(|class| annotation(&class.value, DEFAULT_CLASS) == "true");
        let age = |class: &Item<Tree>| class.value.str_at(&["metadata", "creationTimestamp"]).to_owned();
        // Of two of one second, the first by name.
        let newest = defaults.max_by(|one, other| age(one).cmp(&age(other)).then(other.key.name.cmp(&one.key.name)));
        newest.map(|class| class.key.name)
    }

    /// Pods that use the claim and have no node yet.
    fn waiting_pods(&self, key: &ObjectKey) -> Vec<String> {
        let pods = self.pods.list_namespace(&key.namespace).into_iter();
        let mut names: Vec<String> = pods
            .filter(|pod| pod.value.node_name.is_empty() && pod.value.claims.iter().any(|claim| **claim == *key.name))
            .map(|pod| pod.key.name.to_string())
            .collect();
        names.sort();
        names
    }

    /// Binds, in this order: the volume is the claim's; it says so; the claim is the volume's; it says so.
    async fn bind(&self, claim: &Value, volume: &Value) -> Result<(), SyncError> {
        let name = volume.str_at(&["metadata", "name"]).to_owned();
        let uid = claim.str_at(&["metadata", "uid"]);
        let mut volume = volume.clone();
        if volume.str_at(&["spec", "claimRef", "uid"]) != uid {
            if !is_bound_to(&volume, claim) {
                annotate(&mut volume, BOUND_BY_CONTROLLER, "yes");
            }
            let reference = object! {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.str_at(&["metadata", "namespace"]), "name": claim.str_at(&["metadata", "name"]),
                "uid": uid, "resourceVersion": claim.str_at(&["metadata", "resourceVersion"]),
            };
            if let Some(map) = volume.as_object_mut() {
                map.object_mut("spec").insert("claimRef", reference);
            }
            volume = self.write_volume("", &volume).await?;
        }
        if volume.str_at(&["status", "phase"]) != "Bound" {
            volume = self.write_volume("status", &with_phase(&volume, "Bound", "")).await?;
        }
        let mut claim = claim.clone();
        if claim.str_at(&["spec", "volumeName"]) != name || !is_bound(&claim) {
            if claim.str_at(&["spec", "volumeName"]) != name {
                annotate(&mut claim, BOUND_BY_CONTROLLER, "yes");
                if let Some(map) = claim.as_object_mut() {
                    map.object_mut("spec").insert("volumeName", name.as_str());
                }
            }
            annotate(&mut claim, BIND_COMPLETED, "yes");
            claim = self.write_claim("", &claim).await?;
        }
        let mut status = claim.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        status.insert("phase", "Bound");
        status.insert("accessModes", volume.items_at(&["spec", "accessModes"]).to_vec());
        // What has grown on the node already is not made smaller again.
        if claim.str_at(&["status", "phase"]) != "Bound" {
            status.insert("capacity", volume.object_at(&["spec", "capacity"]).cloned().unwrap_or_default());
        }
        self.write_status(&claim, status).await
    }

    async fn say_phase(&self, claim: &Value, phase: &str) -> Result<(), SyncError> {
        if claim.str_at(&["status", "phase"]) == phase {
            return Ok(());
        }
        let mut status = claim.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        status.insert("phase", phase);
        if phase == "Pending" {
            status.remove("accessModes");
            status.remove("capacity");
        }
        self.write_status(claim, status).await
    }

    async fn write_status(&self, claim: &Value, status: Map) -> Result<(), SyncError> {
        if claim.get("status").and_then(Value::as_object) == Some(&status) {
            return Ok(());
        }
        let mut updated = claim.clone();
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", status);
        }
        self.write_claim("status", &updated).await.map(drop)
    }

    async fn write_claim(&self, subresource: &str, claim: &Value) -> Result<Value, SyncError> {
        let key = ObjectKey::new(claim.str_at(&["metadata", "namespace"]), claim.str_at(&["metadata", "name"]));
        let api = self.client.namespaced("", "v1", "persistentvolumeclaims", &key.namespace);
        let written = api.replace(&key.name, subresource, claim, &WriteOptions::default()).await?;
        self.claims.wait_for(&key, &written).await;
        Ok(written)
    }

    async fn write_volume(&self, subresource: &str, volume: &Value) -> Result<Value, SyncError> {
        let key = ObjectKey::new("", volume.str_at(&["metadata", "name"]));
        let api = self.client.all("", "v1", "persistentvolumes");
        let written = api.replace(&key.name, subresource, volume, &WriteOptions::default()).await?;
        self.volumes.wait_for(&key, &written).await;
        Ok(written)
    }

    async fn sync_volume(&self, key: ObjectKey) -> SyncResult {
        self.synced().await;
        let Some(item) = self.volumes.get_key(&key) else { return Ok(None) };
        let volume = &*item.value.0;
        let reference = |field: &str| volume.str_at(&["spec", "claimRef", field]);
        let claim_key = ObjectKey::new(reference("namespace"), reference("name"));
        let mut claim = self.claims.get_key(&claim_key).map(|claim| Arc::clone(&claim.value.0));
        let uid = reference("uid");
        if !uid.is_empty() && claim.as_ref().is_none_or(|claim| claim.str_at(&["metadata", "uid"]) != uid) {
            // Only a claim that is gone for certain gives its volume up: the cache may be behind.
            let api = self.client.namespaced("", "v1", "persistentvolumeclaims", &claim_key.namespace);
            claim = api.fetch_optional(&claim_key.name).await?.map(Arc::new);
        }
        match plan::volume(volume, claim.as_deref()) {
            ForVolume::Phase(phase, word) => self.say_volume(volume, phase, word).await?,
            ForVolume::LookAtClaim(phase) => {
                if let Some(phase) = phase {
                    self.say_volume(volume, phase, None).await?;
                }
                self.claim_queue.add(claim_key);
            }
            ForVolume::Unbind => {
                let mut updated = volume.clone();
                if let Some(map) = updated.as_object_mut() {
                    if annotation(volume, BOUND_BY_CONTROLLER).is_empty() {
                        map.object_mut("spec").object_mut("claimRef").remove("uid");
                    } else {
                        map.object_mut("spec").remove("claimRef");
                        map.object_mut("metadata").object_mut("annotations").remove(BOUND_BY_CONTROLLER);
                    }
                }
                let written = self.write_volume("", &updated).await?;
                self.say_volume(&written, "Available", None).await?;
                self.volume_queue.add(key);
            }
        }
        Ok(None)
    }

    async fn say_volume(&self, volume: &Value, phase: &str, word: Option<Word>) -> Result<(), SyncError> {
        if volume.str_at(&["status", "phase"]) == phase {
            return Ok(());
        }
        let message = word.as_ref().map_or("", |word| word.message.as_str());
        self.write_volume("status", &with_phase(volume, phase, message)).await?;
        if let Some(word) = word {
            self.tell(&Reference::to(volume, "v1", "PersistentVolume"), word);
        }
        Ok(())
    }
}

fn with_phase(volume: &Value, phase: &str, message: &str) -> Value {
    let mut updated = volume.clone();
    if let Some(map) = updated.as_object_mut() {
        let status = map.object_mut("status");
        status.insert("phase", phase);
        if message.is_empty() {
            status.remove("message");
        } else {
            status.insert("message", message);
        }
    }
    updated
}
