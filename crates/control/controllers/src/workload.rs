//! What the workload controllers share: pods of an owner, creating and deleting them in growing batches, metadata.

use crate::context::SyncError;
use crate::ownership::{Claim, adopt_with, decide_claim, release_with};
use crate::pod::PodView;
use futures_util::future::join_all;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::{Delta, Item, ObjectKey};
use skiff_client::{Api, Client, ClientError, Store, Tree, WorkQueue, WriteOptions};
use skiff_machinery::selector::Selector;
use skiff_machinery::{Reason, Value};
use std::time::SystemTime;

/// Most pods created or deleted in one sync (`BurstReplicas`).
pub const BURST_REPLICAS: usize = 500;

/// The workload that acts.
pub struct Owner<'a> {
    /// Its tree.
    pub tree: &'a Value,
    /// Its `apiVersion`.
    pub api_version: &'static str,
    /// Its kind.
    pub kind: &'static str,
}

impl Owner<'_> {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.tree.str_at(&["metadata", "namespace"])
    }
    /// Its name.
    pub fn name(&self) -> &str {
        self.tree.str_at(&["metadata", "name"])
    }
    /// Its uid.
    pub fn uid(&self) -> &str {
        self.tree.str_at(&["metadata", "uid"])
    }
    /// Whether its deletion has begun.
    pub fn is_dying(&self) -> bool {
        self.tree.at(&["metadata", "deletionTimestamp"]).is_some()
    }
    /// Its resource.
    pub fn api(&self, client: &Client) -> Api {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", self.api_version));
        client.namespaced(group, version, &format!("{}s", self.kind.to_lowercase()), self.namespace())
    }
    /// Whether it may adopt anything: it is still what the cache says, and nobody has begun to delete it
    /// (`RecheckDeletionTimestamp`). A controller that has not heard of its owner's end would take the orphans back.
    pub async fn may_adopt(&self, client: &Client) -> Result<(), SyncError> {
        let live = self.api(client).fetch_optional(self.name()).await?;
        let name = format!("{} {}/{}", self.kind, self.namespace(), self.name());
        match live.filter(|live| live.str_at(&["metadata", "uid"]) == self.uid()) {
            None => Err(SyncError::Object(format!("original {name} is gone"))),
            Some(live) if live.at(&["metadata", "deletionTimestamp"]).is_some() => {
                Err(SyncError::Object(format!("{name} has just been deleted")))
            }
            Some(_) => Ok(()),
        }
    }
    /// For events.
    pub fn reference(&self) -> Reference {
        Reference::to(self.tree, self.api_version, self.kind)
    }
    /// For what it owns.
    pub fn controller_reference(&self) -> Value {
        crate::ownership::controller_reference(self.tree, self.api_version, self.kind)
    }
    /// `spec.selector`; an empty one selects nothing.
    pub fn selector(&self) -> Result<Selector, SyncError> {
        selector_of(self.kind, self.tree)
    }
}

/// `spec.selector` of a workload: a label selector, for a ReplicationController a set of labels.
pub fn selector_of(kind: &str, tree: &Value) -> Result<Selector, SyncError> {
    let said = tree.at(&["spec", "selector"]);
    if kind == "ReplicationController"
        && let Some(labels) = said.and_then(Value::as_object).filter(|labels| !labels.is_empty())
    {
        return Ok(Selector::from_set(labels));
    }
    let said = said.filter(|_| kind != "ReplicationController");
    Selector::from_label_selector(said).map_err(|error| SyncError::Object(format!("spec.selector: {error}")))
}

/// Queues the workload that a pod belongs to, before and after; for an orphan, those that might adopt it.
pub fn queue_owners(
    kind: &'static str,
    queue: &WorkQueue<ObjectKey>,
    workloads: &Store<Tree>,
    delta: &Delta<'_, PodView>,
) {
    let mut orphan = false;
    for item in [delta.old, delta.new].into_iter().flatten() {
        match &item.value.controller {
            Some(owner) if owner.kind == kind => queue.add(ObjectKey::new(&item.key.namespace, &owner.name)),
            Some(_) => (),
            None => orphan = true,
        }
    }
    let Some(new) = delta.new.filter(|new| orphan && new.value.controller.is_none()) else { return };
    for workload in workloads.list_namespace(&new.key.namespace) {
        if selector_of(kind, &workload.value).is_ok_and(|selector| selector.matches(&new.value.labels)) {
            queue.add(workload.key);
        }
    }
}

/// Now, in seconds since the epoch.
pub fn epoch_seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// An integer of a tree, or `default`.
pub fn int_at(tree: &Value, path: &[&str], default: i64) -> i64 {
    tree.at(path).and_then(Value::as_int).unwrap_or(default)
}

/// How pods are taken in.
#[derive(Clone, Copy, Default)]
pub struct Adoption {
    /// A finalizer that every pod of the owner carries: put on when it is adopted, taken off when it is let go.
    pub finalizer: Option<&'static str>,
    /// Only pods whose name is the owner's with an ordinal.
    pub by_name: bool,
}

/// The pods that the owner controls, after adopting and releasing (`PodControllerRefManager.ClaimPods`).
pub async fn claim_pods(
    client: &Client,
    pods: &Store<PodView>,
    owner: &Owner<'_>,
    selector: &Selector,
    adoption: Adoption,
) -> Result<Vec<Item<PodView>>, SyncError> {
    let mut asked = false;
    let api = client.namespaced("", "v1", "pods", owner.namespace());
    let mut claimed = Vec::new();
    for item in pods.list_namespace(owner.namespace()) {
        let pod = &item.value;
        let owner_uid = pod.controller.as_ref().map(|owner| &*owner.uid);
        if owner_uid.is_some_and(|uid| uid != owner.uid()) {
            continue;
        }
        let named = !adoption.by_name || crate::statefulset::is_member(owner.name(), &item.key.name);
        let matches = named && selector.matches(&pod.labels);
        match decide_claim(owner_uid, owner.uid(), matches, pod.deleted.is_some(), owner.is_dying()) {
            Claim::Keep => claimed.push(item),
            Claim::Ignore => (),
            Claim::Release => {
                release_with(&api, &item.key.name, &item.uid, owner.uid(), adoption.finalizer).await?;
            }
            Claim::Adopt => {
                if !std::mem::replace(&mut asked, true) {
                    owner.may_adopt(client).await?;
                }
                let reference = owner.controller_reference();
                match adopt_with(&api, &item.key.name, &item.uid, reference, adoption.finalizer).await {
                    Ok(_) => claimed.push(item),
                    Err(error) if error.is_not_found() => (),
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Ok(claimed)
}

/// How often a controller waits for its cache to show a pod that it has written, five seconds each: upstream's
/// `ExpectationsTimeout` of five minutes. Whoever decided earlier would make the pod a second time.
const PATIENCE: usize = 60;

/// Waits until the cache holds a pod as it was written.
pub async fn seen(store: &Store<PodView>, key: &ObjectKey, written: &Value) {
    for _ in 0..PATIENCE {
        if store.wait_for(key, written).await {
            return;
        }
        tracing::debug!(pod = %key, "the cache does not show the pod yet");
    }
    tracing::warn!(pod = %key, "the cache has not shown the pod for five minutes");
}

/// Creates pods in batches of 1, 2, 4, ...: what fails once (a quota, a refused spec) fails once and not 500 times
/// (`slowStartBatch`). Waits until the cache holds what was created. The first error is returned after its batch.
pub async fn create_pods(
    client: &Client,
    store: &Store<PodView>,
    recorder: &Recorder,
    owner: &Owner<'_>,
    pods: Vec<Value>,
) -> (usize, Option<ClientError>) {
    let api = client.namespaced("", "v1", "pods", owner.namespace());
    let mut created = 0;
    let mut batch_size = 1;
    let mut rest = pods.as_slice();
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(batch_size.min(rest.len()));
        rest = after;
        let options = WriteOptions::default();
        let outcomes = join_all(batch.iter().map(|pod| api.create(pod, &options))).await;
        let mut first_error = None;
        for outcome in outcomes {
            match outcome {
                Ok(pod) => {
                    created += 1;
                    let name = pod.str_at(&["metadata", "name"]);
                    recorder.event(
                        &owner.reference(),
                        EventType::Normal,
                        "SuccessfulCreate",
                        format!("Created pod: {name}"),
                    );
                    seen(store, &ObjectKey::new(owner.namespace(), name), &pod).await;
                }
                Err(error) => {
                    if !is_namespace_terminating(&error) {
                        let message = format!("Error creating: {error}");
                        recorder.event(&owner.reference(), EventType::Warning, "FailedCreate", message);
                    }
                    first_error.get_or_insert(error);
                }
            }
        }
        if first_error.is_some() {
            return (created, first_error);
        }
        batch_size *= 2;
    }
    (created, None)
}

/// Whether a create failed because the namespace goes away: nothing to tell anybody.
pub fn is_namespace_terminating(error: &ClientError) -> bool {
    error.api().is_some_and(|api| {
        api.reason() == Reason::Forbidden
            && api
                .details()
                .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    })
}

/// Deletes pods and waits until the cache has seen it. A pod that is gone already is what was wanted.
pub async fn delete_pods(
    client: &Client,
    store: &Store<PodView>,
    recorder: &Recorder,
    owner: &Owner<'_>,
    pods: &[Item<PodView>],
) -> Result<(), ClientError> {
    let api = client.namespaced("", "v1", "pods", owner.namespace());
    let delete = |item: &Item<PodView>| {
        let options = skiff_client::api::delete_options(&item.uid, "");
        let (api, name) = (api.clone(), item.key.name.to_string());
        async move { api.delete(&name, Some(&options)).await }
    };
    let outcomes = join_all(pods.iter().map(delete)).await;
    let mut first_error = None;
    for (item, outcome) in pods.iter().zip(outcomes) {
        match outcome {
            Ok(answer) => {
                let message = format!("Deleted pod: {}", item.key.name);
                recorder.event(&owner.reference(), EventType::Normal, "SuccessfulDelete", message);
                if answer.str_at(&["kind"]) == "Pod" {
                    seen(store, &item.key, &answer).await;
                }
            }
            Err(error) if error.is_not_found() => (),
            Err(error) => {
                let message = format!("Error deleting: {error}");
                recorder.event(&owner.reference(), EventType::Warning, "FailedDelete", message);
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// The new list of conditions with `condition` in it: an equal status keeps its transition time.
pub fn set_condition(conditions: &[Value], mut condition: Value) -> Vec<Value> {
    let ty = condition.str_at(&["type"]).to_owned();
    let mut out: Vec<Value> = Vec::with_capacity(conditions.len() + 1);
    let mut placed = false;
    for old in conditions {
        if old.str_at(&["type"]) != ty {
            out.push(old.clone());
            continue;
        }
        if old.str_at(&["status"]) == condition.str_at(&["status"])
            && let (Some(time), Some(map)) = (old.get("lastTransitionTime"), condition.as_object_mut())
        {
            map.insert("lastTransitionTime", time.clone());
        }
        let same = old.str_at(&["status"]) == condition.str_at(&["status"])
            && old.str_at(&["reason"]) == condition.str_at(&["reason"])
            && old.str_at(&["message"]) == condition.str_at(&["message"]);
        out.push(if same { old.clone() } else { std::mem::take(&mut condition) });
        placed = true;
    }
    if !placed {
        out.push(condition);
    }
    out
}

/// Takes the condition `ty` out.
pub fn without_condition(conditions: &[Value], ty: &str) -> Vec<Value> {
    conditions.iter().filter(|condition| condition.str_at(&["type"]) != ty).cloned().collect()
}
