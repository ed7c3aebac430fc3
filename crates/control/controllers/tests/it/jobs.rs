//! Jobs from their creation to their last condition.

use crate::cluster::{Cluster, job};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Value, list, object};

/// The true conditions of a job with their reasons, in order.
fn conditions(job: &Value) -> Vec<(String, String)> {
    let of = |condition: &Value| (condition.str_at(&["type"]).to_owned(), condition.str_at(&["reason"]).to_owned());
    let conditions = job.items_at(&["status", "conditions"]).iter();
    conditions.filter(|condition| condition.str_at(&["status"]) == "True").map(of).collect()
}
fn number(job: &Value, field: &str) -> i64 {
    job.at(&["status", field]).and_then(Value::as_int).unwrap_or(0)
}
fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

/// Waits for the job's last word.
async fn ended(cluster: &Cluster, name: &str) -> Value {
    let jobs = cluster.jobs();
    cluster
        .until(&format!("{name} to end"), || async {
            let job = jobs.fetch(name).await.unwrap();
            conditions(&job).iter().any(|(ty, _)| ty == "Complete" || ty == "Failed")
        })
        .await;
    jobs.fetch(name).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_complete_and_fail_as_upstream_says() {
    let cluster = Cluster::with_controllers().await;
    let jobs = cluster.jobs();
    cluster.create(&jobs, job("plain", "0", object! { "completions": 3, "parallelism": 2 })).await;
    let done = ended(&cluster, "plain").await;
    let complete = pairs(&[("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")]);
    assert_eq!(conditions(&done), complete);
    assert_eq!((number(&done, "succeeded"), number(&done, "active"), number(&done, "terminating")), (3, 0, 0));
    assert!(!done.str_at(&["status", "completionTime"]).is_empty());
    assert!(done.items_at(&["status", "uncountedTerminatedPods", "succeeded"]).is_empty());
    for pod in cluster.items(&cluster.pods()).await {
        assert!(pod.items_at(&["metadata", "finalizers"]).is_empty(), "nothing holds the pods of an ended job");
    }

    let limit = object! { "completions": 1, "backoffLimit": 0 };
    cluster.create(&jobs, job("failing", "1", limit)).await;
    let failed = ended(&cluster, "failing").await;
    let expected = pairs(&[("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]);
    assert_eq!(conditions(&failed), expected);
    assert_eq!(number(&failed, "failed"), 1);

    let indexed = object! {
        "completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0,
    };
    cluster.create(&jobs, job("indexed", "0,1,0", indexed)).await;
    let failed = ended(&cluster, "indexed").await;
    assert_eq!(conditions(&failed), pairs(&[("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]));
    assert_eq!(failed.str_at(&["status", "completedIndexes"]), "0,2");
    assert_eq!(failed.str_at(&["status", "failedIndexes"]), "1");
    assert_eq!((number(&failed, "succeeded"), number(&failed, "failed")), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_end_jobs_early() {
    let cluster = Cluster::with_controllers().await;
    let jobs = cluster.jobs();
    let rule = object! { "action": "FailJob", "onExitCodes": object! { "operator": "In", "values": list![42] } };
    let policy = object! {
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 6,
        "podFailurePolicy": object! { "rules": list![rule] },
    };
    cluster.create(&jobs, job("policy", "never,42", policy)).await;
    let failed = ended(&cluster, "policy").await;
    assert_eq!(conditions(&failed), pairs(&[("FailureTarget", "PodFailurePolicy"), ("Failed", "PodFailurePolicy")]));
    let message = failed.items_at(&["status", "conditions"])[0].str_at(&["message"]);
    assert!(message.ends_with("failed with exit code 42 matching FailJob rule at index 0"), "{message}");
    assert_eq!(number(&failed, "failed"), 2, "the pod that still ran has failed with its job");

    let rules = object! { "rules": list![object! { "succeededIndexes": "1" }] };
    let success = object! {
        "completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": rules,
    };
    cluster.create(&jobs, job("success", "never,0,never", success)).await;
    let done = ended(&cluster, "success").await;
    assert_eq!(conditions(&done), pairs(&[("SuccessCriteriaMet", "SuccessPolicy"), ("Complete", "SuccessPolicy")]));
    assert_eq!((number(&done, "succeeded"), number(&done, "failed")), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_suspended_and_resumed_and_foreign_ones_are_left_alone() {
    let cluster = Cluster::with_controllers().await;
    let (jobs, pods) = (cluster.jobs(), cluster.pods());
    cluster.create(&jobs, job("foreign", "0", object! { "managedBy": "example.com/other" })).await;
    cluster.create(&jobs, job("sleepy", "never", object! { "suspend": true, "parallelism": 2 })).await;
    let status =
        |job: Value| (conditions(&job), number(&job, "active"), !job.str_at(&["status", "startTime"]).is_empty());
    let state = || async { status(jobs.fetch("sleepy").await.unwrap()) };
    let suspended = pairs(&[("Suspended", "JobSuspended")]);
    cluster.until("suspension", || async { state().await == (suspended.clone(), 0, false) }).await;
    assert!(cluster.items(&pods).await.is_empty());
    let patch = |suspend: bool| object! { "spec": object! { "suspend": suspend } };
    let options = WriteOptions::default();
    jobs.patch("sleepy", "", &Patch::Merge(&patch(false)), &options).await.unwrap();
    cluster.until("two pods", || async { state().await == (Vec::new(), 2, true) }).await;
    jobs.patch("sleepy", "", &Patch::Merge(&patch(true)), &options).await.unwrap();
    cluster.until("no pods", || async { state().await == (suspended.clone(), 0, false) }).await;
    cluster.until("pods to be gone", || async { cluster.items(&pods).await.is_empty() }).await;
    let foreign = jobs.fetch("foreign").await.unwrap();
    assert!(foreign.object_at(&["status"]).is_none_or(|status| status.is_empty()));
    let background = skiff_client::api::delete_options("", "Background");
    jobs.delete("sleepy", Some(&background)).await.unwrap();
    cluster.until("the job to be gone", || async { jobs.fetch_optional("sleepy").await.unwrap().is_none() }).await;
}

/// A job that is deleted while its pods run leaves none behind, in spite of their finalizer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_deleted_job_go() {
    let cluster = Cluster::with_controllers().await;
    let (jobs, pods) = (cluster.jobs(), cluster.pods());
    for policy in ["Background", "Foreground"] {
        cluster.create(&jobs, job("doomed", "never", object! { "parallelism": 3, "completions": 9 })).await;
        cluster.until("three pods", || async { cluster.items(&pods).await.len() == 3 }).await;
        jobs.delete("doomed", Some(&skiff_client::api::delete_options("", policy))).await.unwrap();
        cluster
            .until("everything to be gone", || async {
                cluster.items(&pods).await.is_empty() && cluster.items(&jobs).await.is_empty()
            })
            .await;
    }
}
