//! CronJob: starts jobs at times (`controller/cronjob/cronjob_controllerv2.go`).
//!
//! The name of a job is made of the time it was due, so that a start that was made and not written down is found again
//! and not made twice.

mod plan;
mod schedule;

use crate::context::{Context, Informers, SyncError, SyncResult, run_controller, tools};
use crate::job::{condition_is_true, is_finished};
use crate::ownership::{controller_of, controller_reference};
use crate::workload::is_namespace_terminating;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use schedule::Schedule;
use skiff_base::clock::SharedClock;
use skiff_client::events::{EventType, Recorder, Reference};
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::{Api, Client, Store, Tree, WriteOptions};
use skiff_machinery::{Map, Value, object};
use std::sync::Arc;

const API_VERSION: &str = "batch/v1";
const KIND: &str = "CronJob";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    client: Client,
    clock: SharedClock,
    cron_jobs: Arc<Store<Tree>>,
    jobs: Arc<Store<Tree>>,
    recorder: Recorder,
}

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, recorder) = tools(context, "cronjob-controller", "cronjob-controller", "cronjob");
    informers.cron_jobs.queue_all(&queue);
    informers.jobs.queue_by(&queue, |queue, delta| {
        for job in [delta.old, delta.new].into_iter().flatten() {
            if let Some(owner) = controller_of(&job.value).filter(|owner| owner.str_at(&["kind"]) == KIND) {
                queue.add(ObjectKey::new(&job.key.namespace, owner.str_at(&["name"])));
            }
        }
    });
    let controller = Arc::new(Controller {
        client,
        clock: Arc::clone(&context.clock),
        cron_jobs: informers.cron_jobs.store(),
        jobs: informers.jobs.store(),
        recorder,
    });
    run_controller(context, "cronjob", &queue, 5, &controller, Controller::sync);
}

/// One sync of one CronJob: the object as it is going to be written, and how to tell about it.
struct Turn<'a> {
    controller: &'a Controller,
    cron_job: Value,
    about: Reference,
    jobs: Api,
    /// Whether the status has to be written.
    changed: bool,
}

fn name_of(tree: &Value) -> &str {
    tree.str_at(&["metadata", "name"])
}
fn uid_of(tree: &Value) -> &str {
    tree.str_at(&["metadata", "uid"])
}

impl Controller {
    async fn sync(&self, key: ObjectKey) -> SyncResult {
        self.jobs.synced().await;
        let Some(item) = self.cron_jobs.get_key(&key) else { return Ok(None) };
        let mut turn = Turn {
            controller: self,
            cron_job: Value::clone(&item.value),
            about: Reference::to(&item.value, API_VERSION, KIND),
            jobs: self.client.namespaced("batch", "v1", "jobs", &key.namespace),
            changed: false,
        };
        let children = self.jobs.by_index(crate::context::BY_CONTROLLER, &item.uid);
        turn.review(&children).await?;
        let outcome = turn.start(&children).await;
        let cleaned = turn.clean_up(&children).await;
        turn.write().await?;
        cleaned?;
        outcome
    }
}

impl Turn<'_> {
    fn tell(&self, ty: EventType, reason: &str, message: impl Into<String>) {
        self.controller.recorder.event(&self.about, ty, reason, message);
    }
    /// Changes a field of the status; `None` takes it away.
    fn set(&mut self, field: &'static str, value: Option<Value>) {
        self.changed = true;
        let Some(map) = self.cron_job.as_object_mut() else { return };
        let status = map.object_mut("status");
        match value {
            Some(value) => status.insert(field, value),
            None => status.remove(field),
        };
    }
    fn active(&self) -> Vec<Value> {
        self.cron_job.items_at(&["status", "active"]).to_vec()
    }
    fn is_active(&self, uid: &str) -> bool {
        self.cron_job.items_at(&["status", "active"]).iter().any(|job| job.str_at(&["uid"]) == uid)
    }
    fn set_active(&mut self, active: Vec<Value>) {
        self.set("active", (!active.is_empty()).then(|| active.into()));
    }
    fn forget(&mut self, uid: &str) {
        let active = self.active().into_iter().filter(|job| job.str_at(&["uid"]) != uid).collect();
        self.set_active(active);
    }

    /// Brings the list of active jobs in line with the jobs that are there.
    async fn review(&mut self, children: &[Item<Tree>]) -> Result<(), SyncError> {
        for job in children {
            let known = self.is_active(&job.uid);
            if !known && !is_finished(&job.value) {
                let message = format!("Saw a job that the controller did not create or forgot: {}", job.key.name);
                self.tell(EventType::Warning, "UnexpectedJob", message);
            } else if known && is_finished(&job.value) {
                self.forget(&job.uid);
                let condition = if condition_is_true(&job.value, "Complete") { "Complete" } else { "Failed" };
                let message = format!("Saw completed job: {}, condition: {condition}", job.key.name);
                self.tell(EventType::Normal, "SawCompletedJob", message);
            }
            let completed = job.value.str_at(&["status", "completionTime"]);
            // RFC 3339 in UTC with whole seconds: text order is time order.
            if condition_is_true(&job.value, "Complete")
                && completed > self.cron_job.str_at(&["status", "lastSuccessfulTime"])
            {
                self.set("lastSuccessfulTime", Some(completed.into()));
            }
        }
        for job in self.active() {
            let uid = job.str_at(&["uid"]);
            if children.iter().any(|child| &*child.uid == uid) {
                continue;
            }
            // The cache may not have it yet.
            if self.jobs.fetch_optional(job.str_at(&["name"])).await?.is_none_or(|live| uid_of(&live) != uid) {
                self.tell(
                    EventType::Normal,
                    "MissingJob",
                    format!("Active job went missing: {}", job.str_at(&["name"])),
                );
                self.forget(uid);
            }
        }
        Ok(())
    }

    /// Starts a job when one is due.
    async fn start(&mut self, children: &[Item<Tree>]) -> SyncResult {
        let stopped = self.cron_job.at(&["metadata", "deletionTimestamp"]).is_some()
            || self.cron_job.at(&["spec", "suspend"]).and_then(Value::as_bool) == Some(true);
        let Some(schedule) = self.schedule().filter(|_| !stopped) else { return Ok(None) };
        // Out of jiff's range (year 9999) only on a broken clock.
        let now = Timestamp::try_from(self.controller.clock.wall()).unwrap_or(Timestamp::UNIX_EPOCH);
        let due = match plan::due(&self.cron_job, now, &schedule, true) {
            Ok(due) => due,
            Err(error) => {
                let text = self.cron_job.str_at(&["spec", "schedule"]);
                self.tell(
                    EventType::Warning,
                    "InvalidSchedule",
                    format!("invalid schedule schedule: {text} : {error}"),
                );
                return Ok(None);
            }
        };
        if due.too_many_missed {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(EventType::Warning, "TooManyMissedTimes", message);
        }
        let later = |turn: &Self| Ok(Some(plan::until_next(&turn.cron_job, now, &schedule)));
        let Some(at) = due.at else { return later(self) };
        if plan::starting_deadline(&self.cron_job).is_some_and(|deadline| at + deadline < now) {
            let time = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
            self.tell(EventType::Warning, "MissSchedule", format!("Missed scheduled time to start a job: {time}"));
            return later(self);
        }
        let name = format!("{}-{}", name_of(&self.cron_job), at.as_second() / 60);
        let done = self.active().iter().any(|job| job.str_at(&["name"]) == name)
            || self.cron_job.str_at(&["status", "lastScheduleTime"]) == at.to_string();
        if done {
            return later(self);
        }
        let policy = self.cron_job.str_at(&["spec", "concurrencyPolicy"]).to_owned();
        if policy == "Forbid" && !self.active().is_empty() {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.tell(EventType::Normal, "JobAlreadyActive", message);
            return later(self);
        }
        if policy == "Replace" {
            for job in self.active() {
                self.delete(job.str_at(&["name"]), job.str_at(&["uid"])).await?;
            }
        }
        self.create(&name, at, &schedule, children).await?;
        later(self)
    }

    /// The schedule; `None` after an event when it cannot be read. Another spec is looked at again.
    fn schedule(&self) -> Option<Schedule> {
        let zone = match self.cron_job.at(&["spec", "timeZone"]).and_then(Value::as_str) {
            None => TimeZone::system(),
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(error) => {
                    let message = format!("invalid timeZone: \"{name}\": {error}");
                    self.tell(EventType::Warning, "UnknownTimeZone", message);
                    return None;
                }
            },
        };
        let text = self.cron_job.str_at(&["spec", "schedule"]);
        match Schedule::parse(text, zone) {
            Ok(schedule) => Some(schedule),
            Err(error) => {
                let message = format!("unparseable schedule: \"{text}\" : {error}");
                self.tell(EventType::Warning, "UnparseableSchedule", message);
                None
            }
        }
    }

    async fn create(
        &mut self,
        name: &str,
        at: Timestamp,
        schedule: &Schedule,
        children: &[Item<Tree>],
    ) -> Result<(), SyncError> {
        let job = new_job(&self.cron_job, name, at, schedule);
        let created = match self.jobs.create(&job, &WriteOptions::default()).await {
            Ok(created) => {
                self.tell(EventType::Normal, "SuccessfulCreate", format!("Created job {name}"));
                let key = ObjectKey::new(self.cron_job.str_at(&["metadata", "namespace"]), name);
                self.controller.jobs.wait_for(&key, &created).await;
                created
            }
            Err(error) if error.is_already_exists() => {
                // Made before and not written down, or somebody else's.
                let known =
                    children.iter().find(|child| *child.key.name == *name).map(|child| Value::clone(&child.value));
                let live = match known {
                    Some(known) => Some(known),
                    None => self.jobs.fetch_optional(name).await?,
                };
                let ours = |job: &Value| {
                    controller_of(job).is_some_and(|owner| owner.str_at(&["uid"]) == uid_of(&self.cron_job))
                };
                match live.filter(|live| ours(live) && !self.is_active(uid_of(live)) && !is_finished(live)) {
                    Some(live) => live,
                    None => {
                        self.set("lastScheduleTime", Some(at.to_string().into()));
                        return Ok(());
                    }
                }
            }
            Err(error) => {
                if !is_namespace_terminating(&error) {
                    self.tell(EventType::Warning, "FailedCreate", format!("Error creating job: {error}"));
                }
                return Err(error.into());
            }
        };
        let mut active = self.active();
        active.push(object! {
            "apiVersion": API_VERSION, "kind": "Job", "name": name,
            "namespace": created.str_at(&["metadata", "namespace"]), "uid": uid_of(&created),
            "resourceVersion": created.str_at(&["metadata", "resourceVersion"]),
        });
        self.set_active(active);
        self.set("lastScheduleTime", Some(at.to_string().into()));
        Ok(())
    }

    async fn delete(&mut self, name: &str, uid: &str) -> Result<(), SyncError> {
        let options = skiff_client::api::delete_options(uid, "Background");
        match self.jobs.delete(name, Some(&options)).await {
            Ok(_) => (),
            Err(error) if error.is_not_found() => (),
            Err(error) => {
                self.tell(EventType::Warning, "FailedDelete", format!("Deleted job: {error}"));
                return Err(error.into());
            }
        }
        self.tell(EventType::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
        if self.is_active(uid) {
            self.forget(uid);
        }
        Ok(())
    }

    async fn clean_up(&mut self, children: &[Item<Tree>]) -> Result<(), SyncError> {
        let trees: Vec<&Value> = children.iter().map(|child| &*child.value.0).collect();
        for name in plan::beyond_history(&self.cron_job, &trees) {
            if let Some(job) = children.iter().find(|child| *child.key.name == *name) {
                self.delete(&name, &job.uid).await?;
            }
        }
        Ok(())
    }

    async fn write(&self) -> Result<(), SyncError> {
        if !self.changed {
            return Ok(());
        }
        let namespace = self.cron_job.str_at(&["metadata", "namespace"]);
        let api = self.controller.client.namespaced("batch", "v1", "cronjobs", namespace);
        let name = name_of(&self.cron_job);
        match api.replace(name, "status", &self.cron_job, &WriteOptions::default()).await {
            Ok(written) => {
                self.controller.cron_jobs.wait_for(&ObjectKey::new(namespace, name), &written).await;
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn new_job(cron_job: &Value, name: &str, at: Timestamp, schedule: &Schedule) -> Value {
    let template = cron_job.at(&["spec", "jobTemplate"]).cloned().unwrap_or_default();
    let mut metadata = Map::new();
    for field in ["labels", "annotations"] {
        if let Some(value) = template.at(&["metadata", field]).filter(|value| !value.is_null()) {
            metadata.insert(field, value.clone());
        }
    }
    let local = at.to_zoned(schedule.zone().clone());
    let zone = if local.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    metadata.object_mut("annotations").insert(SCHEDULED, local.strftime(zone).to_string());
    metadata.insert("name", name);
    metadata.insert("ownerReferences", vec![controller_reference(cron_job, API_VERSION, KIND)]);
    object! {
        "apiVersion": API_VERSION,
        "kind": "Job",
        "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_default(),
    }
}
