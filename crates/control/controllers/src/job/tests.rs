use super::plan::{facts, manage};
use super::*;
use skiff_client::Projection;

/// A job that began at the epoch.
pub(crate) fn job(spec: Value) -> Value {
    object! {
        "metadata": object! { "name": "job", "namespace": "ns", "uid": "job-uid" },
        "spec": spec,
        "status": object! { "startTime": "1970-01-01T00:00:00Z" },
    }
}

/// A tracked pod of the job, being put together.
#[derive(Clone)]
pub(crate) struct Made {
    name: String,
    metadata: Map,
    status: Map,
}

pub(crate) fn pod(name: &str) -> Made {
    let mut metadata = Map::new();
    metadata.insert("name", name);
    metadata.insert("finalizers", list![TRACKING]);
    metadata.insert("creationTimestamp", "1970-01-01T00:00:00Z");
    metadata.insert(
        "ownerReferences",
        list![object! {
            "apiVersion": API_VERSION, "kind": KIND, "name": "job", "uid": "job-uid", "controller": true,
        }],
    );
    let status = object! { "phase": "Pending" };
    Made { name: name.to_owned(), metadata, status: status.as_object().unwrap().clone() }
}

impl Made {
    pub(crate) fn running(mut self) -> Self {
        self.status.insert("phase", "Running");
        self
    }
    pub(crate) fn succeeded(mut self) -> Self {
        self.status.insert("phase", "Succeeded");
        self
    }
    /// Failed at the epoch.
    pub(crate) fn failed_with(mut self, code: i64) -> Self {
        self.status.insert("phase", "Failed");
        self.status.insert(
            "containerStatuses",
            list![object! {
                "name": "c", "state": object! { "terminated": object! {
                    "exitCode": code, "finishedAt": "1970-01-01T00:00:00Z",
                } },
            }],
        );
        self
    }
    pub(crate) fn deleted(mut self) -> Self {
        self.metadata.insert("deletionTimestamp", "1970-01-01T00:00:00Z");
        self
    }
    pub(crate) fn condition(mut self, ty: &str, status: &str) -> Self {
        self.status.insert("conditions", list![object! { "type": ty, "status": status }]);
        self
    }
    pub(crate) fn index(mut self, index: i64) -> Self {
        self.metadata.object_mut("annotations").insert(COMPLETION_INDEX, index.to_string());
        self
    }
    pub(crate) fn failures(mut self, count: i64) -> Self {
        self.metadata.object_mut("annotations").insert(FAILURE_COUNT, count.to_string());
        self
    }
    pub(crate) fn counted(mut self) -> Self {
        self.metadata.remove("finalizers");
        self
    }
    pub(crate) fn item(&self) -> Item<PodView> {
        let tree = object! { "metadata": self.metadata.clone(), "status": self.status.clone() };
        Item {
            key: ObjectKey::new("ns", &self.name),
            uid: self.name.as_str().into(),
            resource_version: 1,
            value: Arc::new(PodView::project(&Arc::new(tree)).unwrap()),
        }
    }
}

fn with_status(job: &Value, status: Map) -> Value {
    let mut job = job.clone();
    job.as_object_mut().unwrap().insert("status", status);
    job
}
/// One step of counting, as a sync makes it.
fn step(job: &Value, status: &Map, pods: &[Item<PodView>]) -> (Map, Vec<String>) {
    let job = with_status(job, status.clone());
    let facts = facts(&job, pods, 0);
    let tracked = pods.iter().filter(|pod| is_tracked(&pod.value)).map(|pod| Arc::clone(&pod.uid)).collect();
    let mut status = status.clone();
    count::settle(&mut status, &tracked);
    let gained = count::track(&mut status, &job, pods, &facts);
    (status, gained.release.iter().map(|pod| pod.uid.to_string()).collect())
}
fn number(status: &Map, field: &str) -> i64 {
    status.get(field).and_then(Value::as_int).unwrap_or(0)
}
fn finish_of(job: &Value, pods: &[Item<PodView>], now: i64) -> Option<(End, String)> {
    facts(job, pods, now).finish.map(|finish| (finish.end, finish.reason))
}
fn started(job: &Value, pods: &[Item<PodView>], now: i64) -> Vec<Option<i64>> {
    manage(job, pods, &facts(job, pods, now), now).create
}
fn stopped(job: &Value, pods: &[Item<PodView>]) -> Vec<String> {
    let delete = manage(job, pods, &facts(job, pods, 0), 0).delete;
    delete.iter().map(|pod| pod.key.name.to_string()).collect()
}
fn indexed(completions: i64, parallelism: i64) -> Value {
    job(object! { "completions": completions, "parallelism": parallelism, "completionMode": "Indexed" })
}
fn with(mut job: Value, field: &'static str, value: impl Into<Value>) -> Value {
    job.as_object_mut().unwrap().object_mut("spec").insert(field, value.into());
    job
}

#[test]
fn a_finished_pod_is_counted_exactly_once_through_all_steps() {
    let job = job(object! { "completions": 2 });
    let (written, release) = step(&job, &Map::new(), &[pod("a").succeeded().item(), pod("b").running().item()]);
    assert_eq!(release, ["a"]);
    assert_eq!(number(&written, "succeeded"), 0, "not counted while its finalizer stands");
    assert!(!count::nothing_uncounted(&written));
    assert_eq!(facts(&with_status(&job, written.clone()), &[pod("a").succeeded().item()], 0).succeeded, 1);
    let (repeated, _) = step(&job, &written, &[pod("a").succeeded().item()]);
    assert_eq!(repeated, written, "a crash here repeats the step");
    let (counted, _) = step(&job, &written, &[pod("a").succeeded().counted().item()]);
    assert_eq!(number(&counted, "succeeded"), 1);
    assert!(count::nothing_uncounted(&counted));
    let (later, _) = step(&job, &counted, &[pod("a").succeeded().counted().item()]);
    assert_eq!(later, counted);
    let (gone, _) = step(&job, &written, &[]);
    assert_eq!(number(&gone, "succeeded"), 1, "also when the pod itself is gone");
}

#[test]
fn completed_indexes_are_counted_by_their_number() {
    let job = indexed(5, 3);
    let pods = [pod("a").index(3).succeeded().item(), pod("b").index(0).succeeded().item()];
    let (status, release) = step(&job, &Map::new(), &pods);
    assert_eq!(release, ["b", "a"]);
    assert_eq!(status.get("completedIndexes").and_then(Value::as_str), Some("0,3"));
    assert_eq!(number(&status, "succeeded"), 2);
    let twice = [pod("c").index(3).succeeded().item(), pod("d").index(9).succeeded().item()];
    let (status, _) = step(&job, &status, &twice);
    assert_eq!(number(&status, "succeeded"), 2, "an index counts once, and only if it is the job's");
}

#[test]
fn a_pod_of_a_failed_job_fails_with_it_and_one_of_a_successful_job_does_not() {
    let running = [pod("a").running().deleted().item()];
    let failed = |job: &Value, reason: &str| {
        let conditions = list![object! { "type": reason, "status": "True", "reason": "R" }];
        let status = object! { "conditions": conditions };
        let job = with(job.clone(), "podReplacementPolicy", "Failed");
        step(&job, status.as_object().unwrap(), &running).0
    };
    let job = job(object! { "completions": 1 });
    assert!(!count::nothing_uncounted(&failed(&job, "FailureTarget")));
    assert!(count::nothing_uncounted(&failed(&job, "SuccessCriteriaMet")));
}

#[test]
fn starts_as_many_as_needed_and_allowed() {
    let job = job(object! { "completions": 5, "parallelism": 2 });
    assert_eq!(started(&job, &[], 0), [None, None]);
    let four = object! { "succeeded": 4 };
    assert_eq!(started(&with_status(&job, four.as_object().unwrap().clone()), &[], 0), [None]);
    let one = [pod("a").running().item()];
    assert_eq!(started(&job, &one, 0), [None]);
}

#[test]
fn a_work_queue_starts_no_more_after_a_success() {
    let job = job(object! { "parallelism": 3 });
    assert_eq!(started(&job, &[], 0).len(), 3);
    let pods = [pod("a").succeeded().item(), pod("b").running().item()];
    assert!(started(&job, &pods, 0).is_empty());
    assert!(plan::is_complete(&job, &facts(&job, &pods, 0), 1).is_none());
    assert!(plan::is_complete(&job, &facts(&job, &pods[..1], 0), 0).is_some());
}

#[test]
fn an_indexed_job_starts_the_lowest_indexes_that_are_missing() {
    let job = indexed(4, 2);
    let status = object! { "completedIndexes": "0,2" };
    assert_eq!(started(&with_status(&job, status.as_object().unwrap().clone()), &[], 0), [Some(1), Some(3)]);
    let pods = [pod("a").index(0).running().item()];
    assert_eq!(started(&job, &pods, 0), [Some(1)]);
}

#[test]
fn surplus_pods_and_second_pods_of_an_index_go() {
    let job = indexed(3, 2);
    let pods = [pod("a").index(0).item(), pod("b").index(0).running().item(), pod("c").index(7).running().item()];
    assert_eq!(stopped(&job, &pods), ["a", "c"]);
    let suspended = with(indexed(3, 2), "suspend", true);
    assert_eq!(stopped(&suspended, &pods).len(), 3);
}

#[test]
fn a_pod_that_is_ending_holds_its_place_only_when_failures_alone_are_replaced() {
    let ending = [pod("a").running().deleted().item()];
    let job = job(object! { "completions": 1, "parallelism": 1, "backoffLimit": 6 });
    assert_eq!(started(&job, &ending, 1_000), [None]);
    assert_eq!(facts(&job, &ending, 0).failed, 1);
    let patient = with(job, "podReplacementPolicy", "Failed");
    assert!(started(&patient, &ending, 1_000).is_empty());
    assert_eq!(facts(&patient, &ending, 0).failed, 0);
}

#[test]
fn limits_and_deadlines_fail_it() {
    let job = job(object! { "backoffLimit": 1, "activeDeadlineSeconds": 10 });
    let failed: Vec<_> = ["a", "b"].iter().map(|name| pod(name).failed_with(1).item()).collect();
    assert_eq!(finish_of(&job, &failed[..1], 0), None);
    assert_eq!(finish_of(&job, &failed, 0), Some((End::Failed, "BackoffLimitExceeded".to_owned())));
    assert_eq!(finish_of(&job, &[], 10), Some((End::Failed, "DeadlineExceeded".to_owned())));
    assert_eq!(finish_of(&with(job.clone(), "suspend", true), &[], 10), None);
    assert_eq!(facts(&job, &[], 3).deadline, Some(10));
}

#[test]
fn what_was_said_once_stands() {
    let job = job(object! { "backoffLimit": 0 });
    let conditions = list![object! {
        "type": "SuccessCriteriaMet", "status": "True", "reason": "SuccessPolicy", "message": "m",
    }];
    let job = with_status(&job, object! { "conditions": conditions }.as_object().unwrap().clone());
    let failed = [pod("a").failed_with(1).item(), pod("b").failed_with(1).item()];
    assert_eq!(finish_of(&job, &failed, 0), Some((End::Complete, "SuccessPolicy".to_owned())));
}

#[test]
fn a_pod_failure_policy_ignores_or_fails_at_once() {
    let rules = list![
        object! { "action": "FailJob", "onExitCodes": object! { "operator": "In", "values": list![42] } },
        object! { "action": "Ignore", "onExitCodes": object! { "operator": "In", "values": list![7] } },
    ];
    let job = job(object! { "backoffLimit": 0, "podFailurePolicy": object! { "rules": rules } });
    let ignored = [pod("a").failed_with(7).item()];
    assert_eq!(finish_of(&job, &ignored, 0), None);
    let (status, release) = step(&job, &Map::new(), &ignored);
    assert!(count::nothing_uncounted(&status));
    assert_eq!(release, ["a"], "it is let go all the same");
    assert_eq!(
        finish_of(&job, &[pod("a").failed_with(42).item()], 0),
        Some((End::Failed, "PodFailurePolicy".to_owned()))
    );
}

#[test]
fn indexes_fail_on_their_own() {
    let job = with(with(indexed(3, 3), "backoffLimitPerIndex", 1), "backoffLimit", i64::from(i32::MAX));
    let first = [pod("a").index(0).failures(0).failed_with(1).item()];
    let known = facts(&job, &first, 0);
    assert_eq!(known.failed_indexes.as_ref().map(ToString::to_string).as_deref(), Some(""));
    assert_eq!(known.delayed.keys().copied().collect::<Vec<_>>(), [0]);
    assert_eq!(started(&job, &first, 5), [Some(1), Some(2)], "the failed index waits, the others do not");
    assert_eq!(started(&job, &first, 10), [Some(0), Some(1), Some(2)]);
    let next = new_pod(&owner_of(&job), Some(0), &known);
    assert_eq!(next.str_at(&["metadata", "annotations", FAILURE_COUNT]), "1");
    let (status, release) = step(&job, &Map::new(), &first);
    assert!(release.is_empty(), "it carries the count until its successor is there");
    assert!(count::nothing_uncounted(&status));
    let replaced = [first[0].clone(), pod("b").index(0).failures(1).running().item()];
    assert_eq!(step(&job, &Map::new(), &replaced).1, ["a"]);
    // The second failure of index 0 is its end; the job ends when the others have.
    let ended = [pod("b").index(0).failures(1).failed_with(1).item()];
    assert_eq!(finish_of(&job, &ended, 0), None);
    assert_eq!(started(&job, &ended, 1_000), [Some(1), Some(2)]);
    let done = object! { "completedIndexes": "1,2" };
    let job = with_status(&job, done.as_object().unwrap().clone());
    assert_eq!(finish_of(&job, &ended, 0), Some((End::Failed, "FailedIndexes".to_owned())));
    let strict = with(job, "maxFailedIndexes", 0);
    assert_eq!(finish_of(&strict, &ended, 0), Some((End::Failed, "MaxFailedIndexesExceeded".to_owned())));
}

#[test]
fn pods_of_an_index_carry_it_everywhere() {
    let mut job = indexed(2, 1);
    let long = "a".repeat(63);
    job.as_object_mut().unwrap().object_mut("metadata").insert("name", long.as_str());
    let template = object! { "spec": object! { "containers": list![object! { "name": "c" }] } };
    let job = with(job, "template", template);
    let pod = new_pod(&owner_of(&job), Some(1), &Facts::default());
    assert_eq!(pod.str_at(&["metadata", "generateName"]), format!("{}-1-", "a".repeat(55)));
    assert_eq!(pod.str_at(&["metadata", "labels", COMPLETION_INDEX]), "1");
    assert_eq!(pod.str_at(&["spec", "hostname"]), format!("{long}-1"));
    assert_eq!(
        pod.items_at(&["spec", "containers"])[0].items_at(&["env"])[0].str_at(&["name"]),
        "JOB_COMPLETION_INDEX"
    );
}

#[test]
fn failures_are_followed_by_longer_and_longer_waits() {
    let job = job(object! { "completions": 5, "parallelism": 5, "backoffLimit": 6 });
    let failed = |count: usize| -> Vec<Item<PodView>> {
        (0..count).map(|number| pod(&format!("p{number}")).failed_with(1).item()).collect()
    };
    let wait = |count: usize| manage(&job, &failed(count), &facts(&job, &failed(count), 1), 1).again_at;
    assert_eq!([wait(1), wait(2), wait(3)], [Some(10), Some(20), Some(40)]);
    assert_eq!(started(&job, &failed(1), 10).len(), 5);
}
