//! CronJobs: a start that is due becomes a job, and what has ended is cleaned up.

use crate::cluster::{Cluster, job};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Value, object};

fn cron_job(name: &str, ends: &str, extra: Value) -> Value {
    let mut spec = extra;
    let template = job("unused", ends, object! { "completions": 1 });
    let map = spec.as_object_mut().unwrap();
    map.insert("schedule", "@every 1s");
    map.insert("jobTemplate", object! { "spec": template.get("spec").cloned().unwrap() });
    object! { "apiVersion": "batch/v1", "kind": "CronJob", "metadata": object! { "name": name }, "spec": spec }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_due_start_becomes_a_job_once_and_history_is_bounded() {
    let cluster = Cluster::with_controllers().await;
    let cron_jobs = cluster.api("batch", "v1", "cronjobs", "shop");
    let jobs = cluster.jobs();
    cluster.create(&cron_jobs, cron_job("runs", "never", object! { "concurrencyPolicy": "Forbid" })).await;
    cluster.create(&cron_jobs, cron_job("sleeps", "0", object! { "suspend": true })).await;
    cluster.until("a job", || async { !cluster.items(&jobs).await.is_empty() }).await;
    let of_runs = || async {
        let all = cluster.items(&jobs).await;
        all.into_iter().filter(|job| job.str_at(&["metadata", "name"]).starts_with("runs-")).collect::<Vec<_>>()
    };
    let made = of_runs().await[0].clone();
    let minute = made.str_at(&["metadata", "name"]).strip_prefix("runs-").unwrap().parse::<i64>().unwrap();
    assert!(minute > 29_000_000, "the minute in which it was due");
    let owner = &made.items_at(&["metadata", "ownerReferences"])[0];
    assert_eq!((owner.str_at(&["kind"]), owner.str_at(&["name"])), ("CronJob", "runs"));
    assert!(!made.str_at(&["metadata", "annotations", "batch.kubernetes.io/cronjob-scheduled-timestamp"]).is_empty());
    let runs = || async { cron_jobs.fetch("runs").await.unwrap() };
    cluster.until("it to be active", || async { runs().await.items_at(&["status", "active"]).len() == 1 }).await;
    // It ends well; without history it goes, and the time of its success stays.
    let pods = cluster.pods();
    cluster.until("its pod", || async { !cluster.items(&pods).await.is_empty() }).await;
    let patch = object! { "spec": object! { "suspend": true, "successfulJobsHistoryLimit": 0 } };
    cron_jobs.patch("runs", "", &Patch::Merge(&patch), &WriteOptions::default()).await.unwrap();
    for pod in cluster.items(&pods).await {
        cluster.set_status(&pods, pod.str_at(&["metadata", "name"]), crate::cluster::ended(0)).await;
    }
    cluster.until("the job to go", || async { of_runs().await.is_empty() }).await;
    cluster
        .until("the status to say so", || async {
            let runs = runs().await;
            runs.items_at(&["status", "active"]).is_empty()
                && !runs.str_at(&["status", "lastSuccessfulTime"]).is_empty()
                && !runs.str_at(&["status", "lastScheduleTime"]).is_empty()
        })
        .await;
    assert!(cluster.items(&jobs).await.is_empty(), "a suspended one starts nothing");
    cron_jobs.delete("runs", Some(&skiff_client::api::delete_options("", "Background"))).await.unwrap();
    cluster.until("its pods to go", || async { cluster.items(&pods).await.is_empty() }).await;
}
