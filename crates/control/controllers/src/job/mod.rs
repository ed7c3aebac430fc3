//! Job: runs pods until enough have succeeded (`controller/job/job_controller.go`).
//!
//! No finished pod is ever counted twice or lost: each carries the finalizer `batch.kubernetes.io/job-tracking`. A
//! finished pod's uid is first written to `status.uncountedTerminatedPods`, then its finalizer is removed, then it moves
//! from there into the counters, in this order, so that a crash between any two steps repeats the step and not the count.
//! A job that ends says so in an interim condition (`SuccessCriteriaMet`, `FailureTarget`) before any pod is let go, and
//! in the final one when all its pods have ended and are counted.
//!
//! Decisions are in [`policy`] (what one pod means), [`plan`] (what to start, stop and say) and [`count`] (what has been
//! counted). Nothing is remembered between syncs: back-off is computed from the pods that are there.

mod count;
mod indexes;
mod plan;
mod policy;

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::pod::{PodView, condition, from_template};
use crate::workload::{
    Adoption, Owner, claim_pods, create_pods, delete_pods, epoch_seconds, queue_owners, set_condition,
};
use plan::{End, Facts, Finish};
use policy::{failures_after, is_tracked};
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::leader::time;
use skiff_client::{Client, Patch, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, list, object};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const API_VERSION: &str = "batch/v1";
const KIND: &str = "Job";
const MANAGER: &str = "kubernetes.io/job-controller";
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
pub(crate) const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(crate) const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
pub(crate) const IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Longest `generateName` of a pod: five characters come behind it (`names.MaxGeneratedNameLength`).
const LONGEST_PREFIX: usize = 58;

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
    informers.jobs.queue_all(&queue);
    let all = Arc::clone(&jobs);
    informers.pods.queue_by(&queue, move |queue, delta| queue_owners(KIND, queue, &all, delta));
    let controller = Arc::new(Controller {
        client,
        clock: Arc::clone(&context.clock),
        jobs,
        pods: informers.pods.store(),
        recorder,
    });
    run_controller(context, "job", &queue, 5, &controller, Controller::sync);
}

fn owner_of(job: &Value) -> Owner<'_> {
    Owner { tree: job, api_version: API_VERSION, kind: KIND }
}

/// Whether a job has said its last word (`IsJobFinished`).
pub(crate) fn is_finished(job: &Value) -> bool {
    condition_is_true(job, "Complete") || condition_is_true(job, "Failed")
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.pods.synced().await;
        let job = self.jobs.get_key(&key);
        self.release_orphans(&key, job.as_ref().map(|job| &*job.uid)).await?;
        let Some(item) = job else { return Ok(None) };
        let mut job = Value::clone(&item.value);
        let managed_by = job.str_at(&["spec", "managedBy"]);
        if !managed_by.is_empty() && managed_by != MANAGER {
            return Ok(None);
        }
        if !matches!(job.str_at(&["spec", "completionMode"]), "" | "NonIndexed" | "Indexed") {
            let message = "Skipped Job sync because completion mode is unknown";
            self.recorder.event(&owner_of(&job).reference(), EventType::Warning, "UnknownCompletionMode", message);
            return Ok(None);
        }
        let owner = owner_of(&job);
        let selector = owner.selector()?;
        let adoption = Adoption { finalizer: Some(TRACKING), ..Adoption::default() };
        let pods = claim_pods(&self.client, &self.pods, &owner, &selector, adoption).await?;
        if is_finished(&job) {
            return self.remove_finalizers(&pods).await.map(|_| None);
        }
        let now = epoch_seconds(self.clock.wall());
        let timestamp = time(self.clock.wall());
        begin(&mut job, &timestamp);
        let facts = plan::facts(&job, &pods, now);
        let owner = owner_of(&job);
        let managed = self.manage(&owner, &pods, &facts, now).await;
        let mut status = job.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        set_count(&mut status, "active", managed.active);
        status.insert("ready", count_value(managed.ready));
        status.insert("terminating", count_value(managed.terminating));
        let finish = facts.finish.clone().or_else(|| plan::is_complete(&job, &facts, managed.active));
        if finish.is_none() {
            self.say_suspension(&owner, &mut status, &timestamp);
        }
        let facts = Facts { finish, ..facts };
        let full = self.track(&job, status, &pods, &facts, managed.terminating).await?;
        if full {
            return Ok(Some(Duration::from_secs(1)));
        }
        managed.outcome?;
        let next = [managed.again_at, facts.deadline].into_iter().flatten().min();
        Ok(next.map(|at| Duration::from_secs(u64::try_from(at - now).unwrap_or(0).max(1))))
    }

    /// Pods that name a job which is gone, or was another one of this name, keep no finalizer of ours (`syncOrphanPod`).
    async fn release_orphans(&self, key: &ObjectKey, uid: Option<&str>) -> Result<(), SyncError> {
        let is_orphan = |pod: &Item<PodView>| {
            let owner = pod.value.controller.as_ref().filter(|owner| owner.kind == KIND && *owner.name == *key.name);
            owner.is_some_and(|owner| Some(&*owner.uid) != uid) && is_tracked(&pod.value)
        };
        let orphans: Vec<Item<PodView>> =
            self.pods.list_namespace(&key.namespace).into_iter().filter(is_orphan).collect();
        self.remove_finalizers(&orphans).await.map(drop)
    }

    /// Stops and starts pods.
    async fn manage(&self, owner: &Owner<'_>, pods: &[Item<PodView>], facts: &Facts, now: i64) -> Managed {
        let ready = facts.active.iter().filter(|pod| pod.value.is_ready()).count();
        let terminating = pods.iter().filter(|pod| pod.value.is_terminating()).count();
        let mut managed = Managed { active: facts.active.len(), ready, terminating, again_at: None, outcome: Ok(()) };
        let plan = if facts.finish.is_some() {
            plan::Manage { delete: facts.active.clone(), ..plan::Manage::default() }
        } else if owner.is_dying() {
            plan::Manage::default()
        } else {
            plan::manage(owner.tree, pods, facts, now)
        };
        managed.again_at = plan.again_at;
        if !plan.delete.is_empty() {
            managed.outcome =
                delete_pods(&self.client, &self.pods, &self.recorder, owner, &plan.delete).await.map_err(Into::into);
            // What the cache says now is what was deleted.
            for pod in &plan.delete {
                let left = self.pods.get_key(&pod.key).filter(|left| left.uid == pod.uid);
                if left.as_ref().is_some_and(|left| left.value.is_active()) {
                    continue;
                }
                managed.active -= 1;
                managed.ready -= usize::from(pod.value.is_ready());
                managed.terminating += usize::from(left.is_some());
            }
            return managed;
        }
        let new = plan.create.iter().map(|index| new_pod(owner, *index, facts)).collect();
        let (created, error) = create_pods(&self.client, &self.pods, &self.recorder, owner, new).await;
        managed.active += created;
        if let Some(error) = error.filter(|error| !crate::workload::is_namespace_terminating(error)) {
            managed.outcome = Err(error.into());
        }
        managed
    }

    /// Suspension that begins or ends. Only a job that goes on says so.
    fn say_suspension(&self, owner: &Owner<'_>, status: &mut Map, timestamp: &str) {
        if owner.is_dying() || is_suspended(owner.tree) == condition_is_true(owner.tree, "Suspended") {
            return;
        }
        let event = |reason, message| self.recorder.event(&owner.reference(), EventType::Normal, reason, message);
        if is_suspended(owner.tree) {
            place(status, "Suspended", "True", "JobSuspended", "Job suspended", timestamp);
            event("Suspended", "Job suspended");
            status.remove("startTime");
        } else {
            place(status, "Suspended", "False", "JobResumed", "Job resumed", timestamp);
            event("Resumed", "Job resumed");
            // The deadline counts from the resumption.
            status.insert("startTime", timestamp);
        }
    }

    /// Writes down what has finished, lets it go, counts it, and ends the job when nothing is left of it.
    async fn track(
        &self,
        job: &Value,
        mut status: Map,
        pods: &[Item<PodView>],
        facts: &Facts,
        terminating: usize,
    ) -> Result<bool, SyncError> {
        let timestamp = time(self.clock.wall());
        let mut tracked: BTreeSet<Arc<str>> =
            pods.iter().filter(|pod| is_tracked(&pod.value)).map(|pod| Arc::clone(&pod.uid)).collect();
        count::settle(&mut status, &tracked);
        let gained = count::track(&mut status, job, pods, facts);
        if let Some(finish) = &facts.finish {
            place(&mut status, finish.interim(), "True", &finish.reason, &finish.message, &timestamp);
        }
        // First what has finished is written down; only then is it let go.
        let job = self.write_status(job, status).await?;
        let mut status = job.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        let outcome = self.remove_finalizers(&gained.release).await;
        let (released, failure) = match outcome {
            Ok(released) => (released, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        released.iter().for_each(|uid| {
            tracked.remove(uid);
        });
        count::settle(&mut status, &tracked);
        // A job ends only when nothing of it is left to count or to run.
        let over = failure.is_none() && !gained.full && terminating == 0 && count::nothing_uncounted(&status);
        let finish = facts.finish.as_ref().filter(|_| over);
        if let Some(finish) = finish {
            place(&mut status, finish.last(), "True", &finish.reason, &finish.message, &timestamp);
            if finish.end == End::Complete {
                status.insert("completionTime", timestamp.as_str());
            }
        }
        let job = self.write_status(&job, status).await?;
        if let Some(finish) = finish {
            self.say_finish(&owner_of(&job), finish);
        }
        failure.map_or(Ok(gained.full), Err)
    }

    fn say_finish(&self, owner: &Owner<'_>, finish: &Finish) {
        let event = |ty, reason: &str, message: &str| self.recorder.event(&owner.reference(), ty, reason, message);
        if finish.end == End::Failed {
            return event(EventType::Warning, &finish.reason, &finish.message);
        }
        let succeeded = owner.tree.at(&["status", "succeeded"]).and_then(Value::as_int).unwrap_or(0);
        if completions(owner.tree).is_some_and(|wanted| succeeded > wanted) {
            let message = "Too many succeeded pods running after completion count reached";
            event(EventType::Warning, "TooManySucceededPods", message);
        }
        event(EventType::Normal, "Completed", "Job completed");
    }

    /// Writes the status when it differs; returns the job with it.
    async fn write_status(&self, job: &Value, status: Map) -> Result<Value, SyncError> {
        let owner = owner_of(job);
        let status = Value::Object(status);
        let cached = self.jobs.get(owner.namespace(), owner.name());
        let standing = cached.filter(|cached| &*cached.uid == owner.uid());
        if standing.is_some_and(|standing| standing.value.get("status") == Some(&status)) {
            return Ok(job.clone());
        }
        let mut updated = job.clone();
        if let Some(map) = updated.as_object_mut() {
            map.insert("status", status);
        }
        let written =
            owner.api(&self.client).replace(owner.name(), "status", &updated, &WriteOptions::default()).await?;
        self.jobs.wait_for(&ObjectKey::new(owner.namespace(), owner.name()), &written).await;
        Ok(written)
    }

    /// Takes the finalizer off; returns the uids of those that have it no more.
    async fn remove_finalizers(&self, pods: &[Item<PodView>]) -> Result<Vec<Arc<str>>, SyncError> {
        let mut released = Vec::new();
        for pod in pods.iter().filter(|pod| is_tracked(&pod.value)) {
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
                }
                // Gone, or another pod has the name.
                Err(error) if error.is_not_found() || error.api().is_some_and(|api| api.code() == 422) => (),
                Err(error) => return Err(error.into()),
            }
            released.push(Arc::clone(&pod.uid));
        }
        Ok(released)
    }
}

/// What is running after a sync has stopped and started pods.
struct Managed {
    active: usize,
    ready: usize,
    terminating: usize,
    again_at: Option<i64>,
    outcome: Result<(), SyncError>,
}

/// What a status has from the first sync on.
fn begin(job: &mut Value, timestamp: &str) {
    let suspended = is_suspended(job);
    let Some(map) = job.as_object_mut() else { return };
    let status = map.object_mut("status");
    if !suspended && status.get("startTime").is_none() {
        status.insert("startTime", timestamp);
    }
    status.object_mut("uncountedTerminatedPods");
}

fn count_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn set_count(status: &mut Map, name: &'static str, count: usize) {
    if count == 0 {
        status.remove(name);
    } else {
        status.insert(name, count_value(count));
    }
}

fn place(status: &mut Map, ty: &str, value: &str, reason: &str, message: &str, timestamp: &str) {
    let condition = object! {
        "type": ty, "status": value, "reason": reason, "message": message,
        "lastProbeTime": timestamp, "lastTransitionTime": timestamp,
    };
    let known = status.get("conditions").and_then(Value::as_array).unwrap_or(&[]);
    let conditions = set_condition(known, condition);
    status.insert("conditions", conditions);
}

/// A pod of the job, for a completion index if the job is indexed.
fn new_pod(owner: &Owner<'_>, index: Option<i64>, facts: &Facts) -> Value {
    let template = owner.tree.at(&["spec", "template"]).cloned().unwrap_or_default();
    let prefix = match index {
        Some(index) => {
            let tail = format!("-{index}-");
            let room = LONGEST_PREFIX.saturating_sub(tail.len()).min(owner.name().len());
            format!("{}{tail}", owner.name().get(..room).unwrap_or_default())
        }
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
    let annotations = metadata.object_mut("annotations");
    annotations.insert(COMPLETION_INDEX, index.to_string());
    if policy::limit_per_index(owner.tree).is_some() {
        let (counted, ignored) = facts.delayed.get(&index).map_or((0, 0), |failed| failures_after(owner.tree, failed));
        annotations.insert(FAILURE_COUNT, counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURE_COUNT, ignored.to_string());
        }
    }
    metadata.object_mut("labels").insert(COMPLETION_INDEX, index.to_string());
    let spec = map.object_mut("spec");
    spec.insert("hostname", format!("{}-{index}", owner.name()));
    for group in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(group).and_then(Value::as_array_mut) else { continue };
        containers.iter_mut().filter_map(Value::as_object_mut).for_each(add_index_variable);
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

pub(crate) fn is_indexed(job: &Value) -> bool {
    job.str_at(&["spec", "completionMode"]) == "Indexed"
}

pub(crate) fn is_suspended(job: &Value) -> bool {
    job.at(&["spec", "suspend"]).and_then(Value::as_bool).unwrap_or(false)
}

pub(crate) fn condition_is_true(job: &Value, ty: &str) -> bool {
    condition(job, ty).is_some_and(|condition| condition.str_at(&["status"]) == "True")
}

#[cfg(test)]
mod tests;
