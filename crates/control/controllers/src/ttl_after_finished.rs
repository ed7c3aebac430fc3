//! TTL after finished: deletes jobs so long after they ended as they say
//! (`controller/ttlafterfinished/ttlafterfinished_controller.go`).

use crate::context::{Context, Informers, SyncResult, run_workers, tools};
use crate::job::{condition_is_true, is_finished};
use crate::pod::{condition, seconds};
use crate::workload::epoch_seconds;
use skiff_machinery::Value;
use std::sync::Arc;
use std::time::Duration;

/// Builds the controller.
pub fn spawn(context: &Context, informers: &mut Informers) {
    let (client, queue, _) =
        tools(context, "ttl-after-finished-controller", "ttl-after-finished-controller", "ttl_jobs_to_delete");
    let jobs = informers.jobs.store();
    informers.jobs.queue_by(&queue, |queue, delta| {
        if delta.new.is_some_and(|new| expiry(&new.value).is_some()) {
            queue.add(delta.key.clone());
        }
    });
    let clock = Arc::clone(&context.clock);
    run_workers(context, "ttl-after-finished", &queue, 5, move |key| {
        let (client, jobs, clock) = (client.clone(), Arc::clone(&jobs), Arc::clone(&clock));
        async move {
            let Some(job) = jobs.get_key(&key) else { return Ok(None) };
            if let Some(left) = left(&job.value, epoch_seconds(clock.wall())) {
                return later(left);
            }
            // The cache may be old: what is deleted is judged as it is now.
            let api = client.namespaced("batch", "v1", "jobs", &key.namespace);
            let Some(fresh) = api.fetch_optional(&key.name).await? else { return Ok(None) };
            if let Some(left) = left(&fresh, epoch_seconds(clock.wall())) {
                return later(left);
            }
            let options = skiff_client::api::delete_options(fresh.str_at(&["metadata", "uid"]), "Foreground");
            match api.delete(&key.name, Some(&options)).await {
                Ok(_) => Ok(None),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
    });
}

/// When a job may go, in seconds since the epoch; `None` when never, or when it is going.
fn expiry(job: &Value) -> Option<i64> {
    let ttl = job.at(&["spec", "ttlSecondsAfterFinished"]).and_then(Value::as_int)?;
    if !is_finished(job) || job.at(&["metadata", "deletionTimestamp"]).is_some() {
        return None;
    }
    let last = ["Complete", "Failed"].into_iter().find(|ty| condition_is_true(job, ty))?;
    Some(seconds(condition(job, last)?, &["lastTransitionTime"])? + ttl)
}

/// How long a job still stays; `None` when it may go.
fn left(job: &Value, now: i64) -> Option<Option<u64>> {
    match expiry(job) {
        None => Some(None),
        Some(at) => u64::try_from(at - now).ok().filter(|left| *left > 0).map(Some),
    }
}

fn later(left: Option<u64>) -> SyncResult {
    Ok(left.map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};

    #[test]
    fn only_an_ended_job_with_a_ttl_goes_and_not_before_its_time() {
        let job = |ty: &str, status: &str| {
            object! {
                "spec": object! { "ttlSecondsAfterFinished": 10 },
                "status": object! { "conditions": list![object! {
                    "type": ty, "status": status, "lastTransitionTime": "1970-01-01T00:01:00Z",
                }] },
            }
        };
        assert_eq!(expiry(&job("Complete", "True")), Some(70));
        assert_eq!(expiry(&job("Failed", "True")), Some(70));
        assert_eq!(expiry(&job("FailureTarget", "True")), None);
        assert_eq!(expiry(&job("Complete", "False")), None);
        assert_eq!(left(&job("Complete", "True"), 69), Some(Some(1)));
        assert_eq!(left(&job("Complete", "True"), 70), None);
        assert_eq!(left(&object! { "spec": object! {} }, 70), Some(None));
    }
}
