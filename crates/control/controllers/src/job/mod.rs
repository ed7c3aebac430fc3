//! Job: runs pods until enough have succeeded (`controller/job/job_controller.go`).
//!
//! No finished pod is ever counted twice or lost: each carries the finalizer `batch.kubernetes.io/job-tracking`. A
//! finished pod's uid is first written to `status.uncountedTerminatedPods`, then its finalizer is removed, then it moves
//! from there into the counters, in this order, so that a crash between any two steps repeats the step and not the count.
//!
//! Not here yet: pod failure policy, success policy, back-off limit per index. A job with one of them is left alone and
//! an event says so.
//!
//! Decisions are in [`count`] (what has finished) and [`plan`] (what to start, stop and say).

mod count;
mod plan;

use crate::context::{Context, Informers, SyncError, SyncResult, run_workers, tools};
use crate::pod::{Phase, PodView, from_template};
use crate::workload::{Owner, claim_pods, create_pods, delete_pods, epoch_seconds, int_at};
use count::Tally;
use plan::Finish;
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder};
use skiff_client::informer::{Delta, Item, ObjectKey};
use skiff_client::leader::time;
use skiff_client::{Client, Patch, Store, Tree, WorkQueue, WriteOptions};
use skiff_machinery::{Map, Value, list, object};
use std::sync::Arc;
use std::time::Duration;

const API_VERSION: &str = "batch/v1";
const KIND: &str = "Job";
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
pub(crate) const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";

#[derive(Clone)]
struct Controller {
    client: Client,
    clock: SharedClock,
    jobs: Arc<Store<Tree>>,
    pods: Arc<Store<PodView>>,
    recorder: Recorder,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(context, "job-controller", "job-controller", "job");
    let jobs = informers.jobs.store();
    {
        let queue = queue.clone();
        informers.jobs.on_change(move |delta| queue.add(delta.key.clone()));
    }
    {
        let (queue, jobs) = (queue.clone(), Arc::clone(&jobs));
        informers.pods.on_change(move |delta| pod_changed(&queue, &jobs, delta));
    }
    let controller =
        Controller { client, clock: Arc::clone(&context.clock), jobs, pods: informers.pods.store(), recorder };
    run_workers(context, "job", &queue, 5, move |key| {
        let controller = controller.clone();
        async move { controller.sync(key).await }
    });
}

fn pod_changed(queue: &WorkQueue<ObjectKey>, jobs: &Store<Tree>, delta: &Delta<'_, PodView>) {
    for item in [delta.old, delta.new].into_iter().flatten() {
        match &item.value.controller {
            Some(owner) if owner.kind == KIND => queue.add(ObjectKey::new(&item.key.namespace, &owner.name)),
            Some(_) => (),
            None => {
                for job in jobs.list_namespace(&item.key.namespace) {
                    let owner = Owner { tree: &job.value, api_version: API_VERSION, kind: KIND };
                    if owner.selector().is_ok_and(|selector| selector.matches(&item.value.labels)) {
                        queue.add(job.key);
                    }
                }
            }
        }
    }
}

pub(crate) fn is_finished(job: &Value) -> bool {
    job.items_at(&["status", "conditions"]).iter().any(|condition| {
        matches!(condition.str_at(&["type"]), "Complete" | "Failed") && condition.str_at(&["status"]) == "True"
    })
}

/// Fields that change what a job does and that nothing here honours yet: such a job is not run, rather than run wrongly.
fn unbuilt_field(job: &Value) -> Option<&'static str> {
    ["podFailurePolicy", "successPolicy", "backoffLimitPerIndex"]
        .into_iter()
        .find(|field| job.at(&["spec", field]).is_some_and(|value| !value.is_null()))
}

fn has_tracking(pod: &PodView) -> bool {
    pod.finalizers.iter().any(|finalizer| finalizer == TRACKING)
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.pods.synced().await;
        let Some(item) = self.jobs.get_key(&key) else {
            self.release_orphans(&key).await?;
            return Ok(None);
        };
        let owner = Owner { tree: &item.value, api_version: API_VERSION, kind: KIND };
        let managed_by = item.value.str_at(&["spec", "managedBy"]);
        if !managed_by.is_empty() && managed_by != "kubernetes.io/job-controller" {
            return Ok(None);
        }
        if let Some(field) = unbuilt_field(owner.tree) {
            let message = format!("spec.{field} is not supported yet: the job is left alone");
            self.recorder.event(&owner.reference(), EventType::Warning, "FieldNotSupported", message);
            return Ok(None);
        }
        let selector = owner.selector()?;
        let pods = claim_pods(&self.client, &self.pods, &owner, &selector).await?;
        if is_finished(owner.tree) {
            return self.let_go(&owner, &pods).await.map(|()| None);
        }
        let now = epoch_seconds(self.clock.wall());
        let tally = count::tally(owner.tree, &pods);
        // First what has finished is written down; only then is it let go, and only then is anything started.
        let job = self.write_uncounted(&owner, &tally).await?;
        let owner = Owner { tree: &job, ..owner };
        self.remove_finalizers(&owner, &tally.finished_tracked).await?;
        let pods: Vec<Item<PodView>> = pods.iter().filter_map(|pod| self.pods.get_key(&pod.key)).collect();
        let tally = count::tally(owner.tree, &pods);
        let decision = plan::decide(owner.tree, &pods, &tally, now);
        self.enact(&owner, &pods, &tally, decision, now).await
    }

    /// Pods of a job that is gone keep no finalizer of ours.
    async fn release_orphans(&self, key: &ObjectKey) -> Result<(), SyncError> {
        for pod in self.pods.list_namespace(&key.namespace) {
            let ours =
                pod.value.controller.as_ref().is_some_and(|owner| owner.kind == KIND && *owner.name == *key.name);
            if ours && has_tracking(&pod.value) {
                self.remove_finalizer(&pod).await?;
            }
        }
        Ok(())
    }

    async fn let_go(&self, owner: &Owner<'_>, pods: &[Item<PodView>]) -> Result<(), SyncError> {
        let tracked: Vec<Item<PodView>> = pods.iter().filter(|pod| has_tracking(&pod.value)).cloned().collect();
        self.remove_finalizers(owner, &tracked).await?;
        let active: Vec<Item<PodView>> = pods.iter().filter(|pod| pod.value.is_active()).cloned().collect();
        delete_pods(&self.client, &self.pods, &self.recorder, owner, &active).await?;
        Ok(())
    }

    /// Writes `startTime` and the uids of finished pods that still carry the finalizer, and moves those that do not
    /// into the counters. Returns the job as it stands afterwards.
    async fn write_uncounted(&self, owner: &Owner<'_>, tally: &Tally) -> Result<Value, SyncError> {
        let mut status = owner.tree.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        let suspended = plan::is_suspended(owner.tree);
        if !suspended && status.get("startTime").is_none() {
            status.insert("startTime", time(self.clock.wall()));
        }
        count::move_counts(&mut status, tally, owner.tree);
        self.write_status(owner, status).await
    }

    /// Writes the status when it differs; returns the job with it.
    async fn write_status(&self, owner: &Owner<'_>, status: Map) -> Result<Value, SyncError> {
        let status = Value::Object(status);
        if owner.tree.get("status").unwrap_or(&Value::Object(Map::new())) == &status {
            return Ok(owner.tree.clone());
        }
        let mut updated = owner.tree.clone();
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", status);
        }
        let api = self.client.namespaced("batch", "v1", "jobs", owner.namespace());
        let written = api.replace(owner.name(), "status", &updated, &WriteOptions::default()).await?;
        self.jobs.wait_for(&ObjectKey::new(owner.namespace(), owner.name()), &written).await;
        Ok(written)
    }

    async fn remove_finalizers(&self, _owner: &Owner<'_>, pods: &[Item<PodView>]) -> Result<(), SyncError> {
        for pod in pods {
            self.remove_finalizer(pod).await?;
        }
        Ok(())
    }

    async fn remove_finalizer(&self, pod: &Item<PodView>) -> Result<(), SyncError> {
        let patch = object! {
            "metadata": object! {
                "uid": &*pod.uid,
                "$deleteFromPrimitiveList/finalizers": list![TRACKING],
            },
        };
        let api = self.client.namespaced("", "v1", "pods", &pod.key.namespace);
        match api.patch(&pod.key.name, "", &Patch::Strategic(&patch), &WriteOptions::default()).await {
            Ok(written) => {
                self.pods.wait_for(&pod.key, &written).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn enact(
        &self,
        owner: &Owner<'_>,
        pods: &[Item<PodView>],
        tally: &Tally,
        decision: plan::Decision,
        now: i64,
    ) -> SyncResult {
        let by_name = |names: &[Arc<str>]| -> Vec<Item<PodView>> {
            pods.iter().filter(|pod| names.contains(&pod.key.name)).cloned().collect()
        };
        let doomed = by_name(&decision.delete);
        // A pod that we end ourselves must not wait for its own finalizer.
        delete_pods(&self.client, &self.pods, &self.recorder, owner, &doomed).await?;
        let new: Vec<Value> = decision.create.iter().map(|index| new_pod(owner, *index)).collect();
        let (_, error) = create_pods(&self.client, &self.pods, &self.recorder, owner, new).await;
        let current: Vec<Item<PodView>> = self
            .pods
            .by_index(crate::context::BY_CONTROLLER, owner.uid())
            .into_iter()
            .filter(|pod| pod.value.is_active())
            .collect();
        let mut status = owner.tree.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        let ready = current.iter().filter(|pod| pod.value.is_ready()).count();
        set_count(&mut status, "active", current.len());
        status.insert("ready", i64::try_from(ready).unwrap_or(i64::MAX));
        let terminating = pods.iter().filter(|pod| pod.value.deleted.is_some() && !pod.value.is_finished()).count();
        status.insert("terminating", i64::try_from(terminating).unwrap_or(i64::MAX));
        let timestamp = time(self.clock.wall());
        plan::set_conditions(&mut status, &decision, &timestamp);
        // A job ends only when nothing of it is left to count or to run.
        let all_ended = current.is_empty() && tally.finished_tracked.is_empty() && terminating == 0;
        if let Some(finish) = decision.finish.as_ref().filter(|_| all_ended && count::nothing_uncounted(&status)) {
            plan::finish(&mut status, finish, &timestamp);
            self.tell_finish(owner, finish);
        }
        self.tell(owner, &decision);
        self.write_status(owner, status).await?;
        match error {
            Some(error) if !crate::workload::is_namespace_terminating(&error) => Err(error.into()),
            _ => Ok(decision.again_at.map(|at| Duration::from_secs(u64::try_from(at - now).unwrap_or(0).max(1)))),
        }
    }

    fn tell(&self, owner: &Owner<'_>, decision: &plan::Decision) {
        let event = |ty, reason: &str, message: &str| self.recorder.event(&owner.reference(), ty, reason, message);
        match decision.suspension {
            Some(true) => event(EventType::Normal, "Suspended", "Job suspended"),
            Some(false) => event(EventType::Normal, "Resumed", "Job resumed"),
            None => (),
        }
    }

    fn tell_finish(&self, owner: &Owner<'_>, finish: &Finish) {
        match finish {
            Finish::Complete { .. } => {
                self.recorder.event(&owner.reference(), EventType::Normal, "Completed", "Job completed");
            }
            Finish::Failed { reason, message } => {
                self.recorder.event(&owner.reference(), EventType::Warning, reason, message.as_str());
            }
        }
    }
}

impl PodView {
    /// Whether it has ended.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

pub(crate) fn set_count(status: &mut Map, name: &'static str, count: usize) {
    if count == 0 {
        status.remove(name);
    } else {
        status.insert(name, i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// A pod of the job, for a completion index if the job is indexed.
fn new_pod(owner: &Owner<'_>, index: Option<i64>) -> Value {
    let template = owner.tree.at(&["spec", "template"]).cloned().unwrap_or_default();
    let prefix = match index {
        Some(index) => format!("{}-{index}-", owner.name()),
        None => format!("{}-", owner.name()),
    };
    let mut pod = from_template(&template, owner.controller_reference(), &prefix, false);
    let Some(map) = pod.as_object_mut() else { return pod };
    let metadata = map.object_mut("metadata");
    let mut finalizers = metadata.get("finalizers").and_then(Value::as_array).unwrap_or(&[]).to_vec();
    if !finalizers.iter().any(|known| known.as_str() == Some(TRACKING)) {
        finalizers.push(TRACKING.into());
    }
    metadata.insert("finalizers", finalizers);
    let Some(index) = index else { return pod };
    metadata.object_mut("annotations").insert(COMPLETION_INDEX, index.to_string());
    metadata.object_mut("labels").insert(COMPLETION_INDEX, index.to_string());
    let spec = map.object_mut("spec");
    if spec.get("hostname").is_none() {
        spec.insert("hostname", format!("{}-{index}", owner.name()));
    }
    for group in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(group).and_then(Value::as_array_mut) else { continue };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            add_index_variable(container);
        }
    }
    pod
}

fn add_index_variable(container: &mut Map) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let mut env = container.get("env").and_then(Value::as_array).unwrap_or(&[]).to_vec();
    if env.iter().any(|known| known.str_at(&["name"]) == NAME) {
        return;
    }
    let path = format!("metadata.labels['{COMPLETION_INDEX}']");
    env.push(object! { "name": NAME, "valueFrom": object! { "fieldRef": object! { "fieldPath": path } } });
    container.insert("env", env);
}

pub(crate) fn completions(job: &Value) -> Option<i64> {
    job.at(&["spec", "completions"]).and_then(Value::as_int)
}

pub(crate) fn parallelism(job: &Value) -> i64 {
    int_at(job, &["spec", "parallelism"], 1)
}

pub(crate) fn is_indexed(job: &Value) -> bool {
    job.str_at(&["spec", "completionMode"]) == "Indexed"
}
