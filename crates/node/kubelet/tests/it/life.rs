//! The life of pods: what is started, what is told, how it ends.

use crate::node::{TestNode, condition, container};
use skiff_client::{Patch, WriteOptions};
use skiff_machinery::{Value, list, object};
use skiff_testkit::throughout;
use std::time::Duration;

fn spec(containers: Value) -> Value {
    object! { "containers": containers, "terminationGracePeriodSeconds": 2 }
}

fn waiting_reason<'p>(pod: &'p Value, name: &str) -> &'p str {
    container(pod, name).str_at(&["state", "waiting", "reason"])
}

fn started(log: &[String]) -> Vec<&str> {
    log.iter().filter_map(|line| line.strip_prefix("start ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_tells_its_status_and_goes() {
    let node = TestNode::start().await;
    node.run("p", spec(list![object! { "name": "c", "image": "i" }])).await;
    let pod = node.pod_until("p", "ready", |pod| condition(pod, "Ready") == "True").await;
    let status = pod.get("status").unwrap();
    assert_eq!(status.str_at(&["phase"]), "Running");
    assert_eq!(status.str_at(&["hostIP"]), "192.0.2.1");
    assert!(status.str_at(&["podIP"]).starts_with("10.9.0."));
    assert_eq!(status.items_at(&["podIPs"]).len(), 1);
    assert_eq!(status.str_at(&["qosClass"]), "BestEffort");
    for ty in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&pod, ty), "True", "{ty}");
    }
    assert!(container(&pod, "c").str_at(&["containerID"]).starts_with("fake://"));
    for (reason, text) in [("Pulled", "Image size: 1000 bytes."), ("Created", "Created container: c"), ("Started", "c")]
    {
        node.event("p", reason, text).await;
    }
    node.kubelet.pods.wake(pod.str_at(&["metadata", "uid"]));
    node.stays("p", Duration::from_millis(300), "nothing changed, nothing is written").await;
    node.delete("p", 2).await;
    node.gone("p").await;
    node.event("p", "Killing", "Stopping container c").await;
    assert_eq!(node.runtime.log(), ["start c", "stop c 2"]);
    assert!(node.runtime.sandbox_configs().is_empty());
    assert!(!node.directory().join("kubelet/pods").join(pod.str_at(&["metadata", "uid"])).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashing_container_backs_off_and_keeps_its_last_state() {
    let node = TestNode::start().await;
    let crashing = object! { "name": "c", "image": "i", "command": list!["exit", "3"] };
    node.run("p", spec(list![crashing])).await;
    let pod = node.pod_until("p", "in back-off", |pod| waiting_reason(pod, "c") == "CrashLoopBackOff").await;
    let status = container(&pod, "c");
    assert_eq!(status.get("restartCount").and_then(Value::as_int), Some(1));
    let last = status.at(&["lastState", "terminated"]).unwrap();
    assert_eq!((last.get("exitCode").and_then(Value::as_int), last.str_at(&["reason"])), (Some(3), "Error"));
    let name = format!("p_default({})", pod.str_at(&["metadata", "uid"]));
    let message = format!("back-off 10s restarting failed container=c pod={name}");
    assert_eq!(status.str_at(&["state", "waiting", "message"]), message);
    assert_eq!(pod.str_at(&["status", "phase"]), "Running");
    node.event("p", "BackOff", &format!("Back-off restarting failed container c in pod {name}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasons_of_containers_that_cannot_start() {
    let node = TestNode::start().await;
    node.runtime.refuse_pull("missing:1", "no such image");
    let one = |extra: Value| {
        let mut container = object! { "name": "c", "image": "i" };
        for (key, value) in extra.as_object().unwrap().iter() {
            container.as_object_mut().unwrap().insert(key.clone(), value.clone());
        }
        spec(list![container])
    };
    let missing = object! { "configMapKeyRef": object! { "name": "none", "key": "k" } };
    let root = object! { "runAsNonRoot": true, "runAsUser": 0 };
    let cases = [
        ("pull", one(object! { "image": "missing:1" }), "ErrImagePull", "Failed", "Error: ErrImagePull"),
        (
            "never",
            one(object! { "image": "other", "imagePullPolicy": "Never" }),
            "ErrImageNeverPull",
            "ErrImageNeverPull",
            "is not present with pull policy of Never",
        ),
        (
            "invalid",
            one(object! { "image": "UPPER" }),
            "InvalidImageName",
            "InspectFailed",
            "couldn't parse image name",
        ),
        (
            "config",
            one(object! { "env": list![object! { "name": "A", "valueFrom": missing }] }),
            "CreateContainerConfigError",
            "Failed",
            "Error: configmap \"none\" not found",
        ),
        (
            "root",
            one(object! { "securityContext": root }),
            "CreateContainerConfigError",
            "Failed",
            "breaks non-root policy",
        ),
    ];
    for (name, spec, reason, event, text) in cases {
        node.run(name, spec).await;
        node.pod_until(name, reason, |pod| waiting_reason(pod, "c") == reason).await;
        node.event(name, event, text).await;
    }
    let pod = node.pod_until("pull", "in back-off", |pod| waiting_reason(pod, "c") == "ImagePullBackOff").await;
    let message = container(&pod, "c").str_at(&["state", "waiting", "message"]).to_owned();
    assert!(message.starts_with("Back-off pulling image \"missing:1\": ErrImagePull: "), "{message}");
    assert!(message.contains("no such image"), "{message}");

    node.runtime.fail_create(Some("the runtime is out of luck"));
    node.run("create", one(object! {})).await;
    let pod = node.pod_until("create", "refused", |pod| waiting_reason(pod, "c") == "CreateContainerError").await;
    assert_eq!(container(&pod, "c").str_at(&["state", "waiting", "message"]), "the runtime is out of luck");
    node.runtime.fail_create(None);
    node.runtime.fail_start(Some("exec: \"x\": not found"));
    node.run("start", one(object! {})).await;
    let pod = node.pod_until("start", "refused", |pod| waiting_reason(pod, "c") == "RunContainerError").await;
    let last = container(&pod, "c").at(&["lastState", "terminated"]).unwrap();
    assert_eq!(last.str_at(&["reason"]), "StartError");
    assert_eq!(last.get("exitCode").and_then(Value::as_int), Some(128));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_words_from_file_and_log() {
    let node = TestNode::start().await;
    let with = |name: &str, policy: &str| {
        object! { "name": name, "image": "i", "terminationMessagePolicy": policy }
    };
    let mut pod = spec(list![with("file", "File"), with("log", "FallbackToLogsOnError"), with("oom", "File")]);
    pod.as_object_mut().unwrap().insert("restartPolicy", "Never");
    node.run("p", pod).await;
    node.running("p").await;
    let mounts = node.runtime.config("file").unwrap().mounts;
    let words = mounts.iter().find(|mount| mount.container_path == "/dev/termination-log").unwrap();
    std::fs::write(&words.host_path, "from the file").unwrap();
    node.runtime.say("log", "from the log");
    node.runtime.end("file", 0, "");
    node.runtime.end("log", 1, "");
    node.runtime.end("oom", 137, "OOMKilled");
    let pod = node.pod_until("p", "Failed", |pod| pod.str_at(&["status", "phase"]) == "Failed").await;
    let ended = |name: &str| container(&pod, name).at(&["state", "terminated"]).unwrap().clone();
    assert_eq!(ended("file").str_at(&["message"]), "from the file");
    assert_eq!(ended("file").str_at(&["reason"]), "Completed");
    assert_eq!(ended("log").str_at(&["message"]), "from the log");
    assert_eq!(ended("oom").str_at(&["reason"]), "OOMKilled");
    assert_eq!(ended("oom").get("exitCode").and_then(Value::as_int), Some(137));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_end_last_and_hooks_take_from_the_grace() {
    let node = TestNode::start().await;
    let sidecar = |name: &str| object! { "name": name, "image": "i", "restartPolicy": "Always" };
    let hook = object! { "preStop": object! { "exec": object! { "command": list!["sleep", "1500"] } } };
    node.run(
        "p",
        object! {
            "terminationGracePeriodSeconds": 10,
            "initContainers": list![sidecar("first"), sidecar("second")],
            "containers": list![object! { "name": "main", "image": "i", "lifecycle": hook }],
        },
    )
    .await;
    node.pod_until("p", "ready", |pod| condition(pod, "Ready") == "True").await;
    assert_eq!(started(&node.runtime.log()), ["first", "second", "main"]);
    node.delete("p", 10).await;
    node.gone("p").await;
    let log = node.runtime.log();
    let stops: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix("stop ")).collect();
    assert_eq!(stops, ["main 9", "second 9", "first 9"], "{log:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_grace_counts_at_once() {
    let node = TestNode::start().await;
    node.run("p", spec(list![object! { "name": "c", "image": "i", "command": list!["slow"] }])).await;
    node.running("p").await;
    let begun = std::time::Instant::now();
    node.delete("p", 300).await;
    node.until("the stop", || async { node.runtime.log().contains(&"stop c 300".to_owned()) }).await;
    node.delete("p", 1).await;
    node.gone("p").await;
    assert!(begun.elapsed().as_secs() < 60);
    assert!(node.runtime.log().contains(&"stop c 1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_gate_restart_and_outlive_a_restart_of_the_kubelet() {
    let mut node = TestNode::start().await;
    let probe = |flag: &str, failures: i64| {
        object! {
            "exec": object! { "command": list!["flag", flag] }, "periodSeconds": 1, "failureThreshold": failures,
        }
    };
    let mut liveness = probe("alive", 1);
    liveness.as_object_mut().unwrap().insert("terminationGracePeriodSeconds", 1);
    node.runtime.raise("alive");
    let container_spec = object! {
        "name": "c", "image": "i", "startupProbe": probe("up", 100), "livenessProbe": liveness,
        "readinessProbe": probe("ready", 1),
    };
    node.run("p", spec(list![container_spec])).await;
    let pod = node.running("p").await;
    assert_eq!(container(&pod, "c").get("started").and_then(Value::as_bool), Some(false));
    node.event("p", "Unhealthy", "Startup probe failed: the flag is down").await;
    assert!(!node.runtime.log().iter().any(|line| line == "exec c flag ready"), "readiness waits for startup");
    node.runtime.raise("up");
    node.runtime.raise("ready");
    let pod = node.pod_until("p", "ready", |pod| condition(pod, "Ready") == "True").await;
    assert_eq!(container(&pod, "c").get("started").and_then(Value::as_bool), Some(true));

    node.runtime.lower("up");
    node.restart().await;
    node.until("the new kubelet", || async { !node.kubelet.pods.list().is_empty() }).await;
    node.stays("p", Duration::from_millis(1500), "a restart makes nobody unready").await;
    assert_eq!(condition(&node.pod("p").await.unwrap(), "Ready"), "True");

    node.runtime.lower("ready");
    node.pod_until("p", "unready", |pod| condition(pod, "Ready") == "False").await;
    node.runtime.raise("ready");
    node.runtime.lower("alive");
    node.event("p", "Killing", "Container c failed liveness probe, will be restarted").await;
    node.until("the restart", || async { started(&node.runtime.log()).len() == 2 }).await;
    assert!(node.runtime.log().contains(&"stop c 1".to_owned()), "with the probe's own grace");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_container_joins_a_running_pod() {
    let node = TestNode::start().await;
    node.run("p", spec(list![object! { "name": "c", "image": "i" }])).await;
    node.running("p").await;
    let debugger = object! {
        "name": "debug", "image": "i", "targetContainerName": "c", "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    };
    let patch = object! { "spec": object! { "ephemeralContainers": list![debugger] } };
    let pods = node.api("pods");
    pods.patch("p", "ephemeralcontainers", &Patch::Strategic(&patch), &WriteOptions::default()).await.unwrap();
    let pod = node.pod_until("p", "debugged", |pod| container(pod, "debug").at(&["state", "running"]).is_some()).await;
    assert_eq!(pod.items_at(&["status", "ephemeralContainerStatuses"]).len(), 1);
    assert_eq!(pod.items_at(&["status", "containerStatuses"]).len(), 1);
    let context = node.runtime.config("debug").unwrap().linux.unwrap().security_context.unwrap();
    assert_eq!(context.namespace_options.unwrap().target_id, node.runtime.ids("c")[0]);
    node.runtime.end("debug", 1, "");
    let pod = node
        .pod_until("p", "told of its end", |pod| container(pod, "debug").at(&["state", "terminated"]).is_some())
        .await;
    assert_eq!(condition(&pod, "Ready"), "True", "the pod is as well as before");
    assert_eq!(started(&node.runtime.log()), ["c", "debug"], "it is not restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_and_a_refusal_end_a_pod_for_good() {
    let mut node = TestNode::start().await;
    let mut late = spec(list![object! { "name": "c", "image": "i" }]);
    late.as_object_mut().unwrap().insert("activeDeadlineSeconds", 1);
    node.run("late", late).await;
    let failed = |pod: &Value| pod.str_at(&["status", "phase"]) == "Failed";
    let pod = node.pod_until("late", "Failed", failed).await;
    assert_eq!(pod.str_at(&["status", "reason"]), "DeadlineExceeded");
    let resources = object! { "requests": object! { "cpu": "1000" } };
    node.run("large", spec(list![object! { "name": "c", "image": "i", "resources": resources }])).await;
    let pod = node.pod_until("large", "refused", failed).await;
    assert_eq!(pod.str_at(&["status", "reason"]), "OutOfcpu");
    node.event("large", "OutOfcpu", "Node didn't have enough resource: cpu").await;
    node.restart().await;
    node.until("the new kubelet", || async { node.kubelet.pods.list().len() == 2 }).await;
    throughout(Duration::from_millis(500), "what has ended stays ended", async || {
        let pod = node.pod("late").await.unwrap();
        let status = ["phase", "reason"].map(|field| pod.str_at(&["status", field]).to_owned());
        if status == ["Failed", "DeadlineExceeded"] { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(started(&node.runtime.log()), ["c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_while_the_kubelet_is_away_is_ended_after() {
    let mut node = TestNode::start().await;
    node.run("p", spec(list![object! { "name": "c", "image": "i" }])).await;
    node.running("p").await;
    node.stop_kubelet().await;
    node.delete("p", 0).await;
    node.restart().await;
    node.until("the orphan to be gone", || async { node.runtime.sandbox_configs().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_image_is_not_everybodys_once_it_is_there() {
    let mut node = TestNode::start().await;
    node.runtime.make_private("r.example/private:1");
    let config = r#"{"auths":{"r.example":{"username":"u","password":"p"}}}"#;
    let secret = object! {
        "metadata": object! { "name": "pull" }, "type": "kubernetes.io/dockerconfigjson",
        "stringData": object! { ".dockerconfigjson": config },
    };
    node.api("secrets").create(&secret, &WriteOptions::default()).await.unwrap();
    let with = |policy: &str, secrets: Value| {
        let container = object! { "name": "c", "image": "r.example/private:1", "imagePullPolicy": policy };
        object! { "containers": list![container], "imagePullSecrets": secrets }
    };
    node.run("owner", with("IfNotPresent", list![object! { "name": "pull" }])).await;
    node.running("owner").await;
    node.restart().await;
    node.run("stranger", with("IfNotPresent", list![])).await;
    node.pod_until("stranger", "refused", |pod| waiting_reason(pod, "c") == "ErrImagePull").await;
    node.run("never", with("Never", list![])).await;
    node.pod_until("never", "refused", |pod| waiting_reason(pod, "c") == "ErrImageNeverPull").await;
    node.run("friend", with("Never", list![object! { "name": "pull" }])).await;
    node.running("friend").await;
}

/// A container's part of a resize.
fn amounts(cpu: &str, memory: &str) -> Value {
    object! { "requests": object! { "cpu": cpu, "memory": memory }, "limits": object! { "cpu": "500m", "memory": memory } }
}

async fn resize(node: &TestNode, resources: Value) {
    let containers = list![object! { "name": "c", "resources": resources }];
    let patch = object! { "spec": object! { "containers": containers } };
    node.api("pods").patch("p", "resize", &Patch::Strategic(&patch), &WriteOptions::default()).await.unwrap();
}

fn resize_reason(pod: &Value) -> &str {
    let conditions = pod.items_at(&["status", "conditions"]).iter();
    let mut pending = conditions.filter(|one| one.str_at(&["type"]) == "PodResizePending");
    pending.next().map_or("", |one| one.str_at(&["reason"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_resized_in_place() {
    let mut node = TestNode::start().await;
    let policy = list![object! { "resourceName": "memory", "restartPolicy": "RestartContainer" }];
    let c = object! { "name": "c", "image": "i", "resources": amounts("100m", "64Mi"), "resizePolicy": policy };
    // What fails is not started again, what is resized is.
    let spec = object! { "containers": list![c], "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 0 };
    node.run("p", spec).await;
    let pod = node.pod_until("p", "ready", |pod| condition(pod, "Ready") == "True").await;
    assert_eq!(container(&pod, "c").str_at(&["allocatedResources", "cpu"]), "100m");
    let given = |pod: &Value, list: &str, name: &str| container(pod, "c").str_at(&["resources", list, name]).to_owned();
    assert_eq!((given(&pod, "limits", "memory"), given(&pod, "requests", "cpu")), ("64Mi".into(), "100m".into()));

    resize(&node, amounts("200m", "64Mi")).await;
    let pod = node.pod_until("p", "resized", |pod| given(pod, "requests", "cpu") == "200m").await;
    assert_eq!((condition(&pod, "PodResizePending"), condition(&pod, "PodResizeInProgress")), ("", ""));
    assert_eq!(container(&pod, "c").str_at(&["allocatedResources", "cpu"]), "200m");
    assert_eq!(container(&pod, "c").get("restartCount").and_then(Value::as_int), Some(0));
    let shares = node.runtime.shares("c");
    assert_eq!(shares, 204);
    node.event("p", "ResizeStarted", "Pod resize started: {\"containers\":[{\"name\":\"c\"").await;
    node.event("p", "ResizeCompleted", "\"cpu\":\"200m\"").await;

    // More than the node will ever have: it stays as it is, also over a restart of the kubelet.
    resize(&node, amounts("200m", "4000Gi")).await;
    node.pod_until("p", "refused", |pod| resize_reason(pod) == "Infeasible").await;
    node.restart().await;
    resize(&node, amounts("200m", "5000Gi")).await;
    let wanted = (5000_i64 << 30).to_string();
    let refused = |pod: &Value| {
        let conditions = pod.items_at(&["status", "conditions"]).iter();
        let message = conditions.filter(|one| one.str_at(&["type"]) == "PodResizePending");
        message.into_iter().any(|one| one.str_at(&["message"]).contains(&wanted))
    };
    let pod = node.pod_until("p", "refused again", refused).await;
    assert_eq!(given(&pod, "limits", "memory"), "64Mi");
    assert_eq!(started(&node.runtime.log()), ["c"]);

    resize(&node, amounts("200m", "128Mi")).await;
    let pod = node.pod_until("p", "started again", |pod| given(pod, "limits", "memory") == "128Mi").await;
    let pod = match condition(&pod, "PodResizeInProgress") {
        "" => pod,
        _ => node.pod_until("p", "done", |pod| condition(pod, "PodResizeInProgress").is_empty()).await,
    };
    assert_eq!(resize_reason(&pod), "");
    assert_eq!(container(&pod, "c").get("restartCount").and_then(Value::as_int), Some(1));
    node.event("p", "Killing", "Container c resize requires restart").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_sandbox_begins_with_the_init_containers() {
    let node = TestNode::start().await;
    let init = object! { "name": "init", "image": "i", "command": list!["exit", "0"] };
    node.run(
        "p",
        object! { "initContainers": list![init], "containers": list![object! { "name": "c", "image": "i" }] },
    )
    .await;
    let before = node.pod_until("p", "ready", |pod| condition(pod, "Ready") == "True").await;
    node.runtime.reboot();
    let ip = before.str_at(&["status", "podIP"]);
    let after = node
        .pod_until("p", "ready again", |pod| {
            condition(pod, "Ready") == "True" && pod.str_at(&["status", "podIP"]) != ip
        })
        .await;
    assert_eq!(after.items_at(&["status", "podIPs"]).len(), 1, "the old address is gone");
    assert_eq!(started(&node.runtime.log()), ["init", "c", "init", "c"]);
    assert_eq!(container(&after, "c").get("restartCount").and_then(Value::as_int), Some(1));
    node.event("p", "SandboxChanged", "will be killed and re-created").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_containers_go_with_their_logs() {
    let node = TestNode::start().await;
    node.run("p", spec(list![object! { "name": "c", "image": "i" }])).await;
    let pod = node.running("p").await;
    node.runtime.end("c", 0, "");
    node.until("the second", || async { node.runtime.ids("c").len() == 2 }).await;
    node.pod_until("p", "running", |pod| container(pod, "c").at(&["state", "running"]).is_some()).await;
    // The third waits for its back-off; the first is gone as soon as a third is.
    node.runtime.end("c", 0, "");
    node.until("the third", || async { started(&node.runtime.log()).len() == 3 }).await;
    node.until("the first to be gone", || async { node.runtime.ids("c").len() == 2 }).await;
    let uid = pod.str_at(&["metadata", "uid"]);
    let logs = node.directory().join(format!("logs/default_p_{uid}/c"));
    node.until("its log to be gone", || async { !logs.join("0.log").exists() }).await;
    assert!(logs.join("1.log").exists() && logs.join("2.log").exists());
    assert_eq!(std::fs::read_dir(node.directory().join("links")).unwrap().count(), 2);
    assert_eq!(
        std::fs::read_dir(node.directory().join(format!("kubelet/pods/{uid}/containers/c"))).unwrap().count(),
        2
    );
}
