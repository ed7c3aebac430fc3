//! What is told to the API about a pod (`kubelet_pods.go: generateAPIPodStatus`), pure.

use super::plan::{Backoffs, Plan, restarts};
use super::resize::{self, Pending, Resources};
use super::spec::{Container, Pod, Role};
use super::state::{Instance, State};
use skiff_machinery::{Map, Value, object};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

/// An end that came from outside the pod's own run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// `status.reason`: `Evicted`, `DeadlineExceeded`, `OutOfcpu`.
    pub reason: &'static str,
    /// `status.message`.
    pub message: String,
    /// Grace in seconds; the pod's own when not said.
    pub grace: Option<i64>,
    /// Whether it is a disruption that the pod's controller need not count as a failure (`DisruptionTarget`).
    pub disruption: bool,
}

impl Ending {
    /// An end that is the pod's own doing.
    pub fn new(reason: &'static str, message: impl Into<String>, grace: Option<i64>) -> Self {
        Self { reason, message: message.into(), grace, disruption: false }
    }
}

/// Where a resize of the pod is.
#[derive(Clone, Copy)]
pub struct ResizeFacts<'a> {
    /// Why what is wanted is not allocated.
    pub pending: Option<&'a Pending>,
    /// Containers are not all given what is allocated; the error of the last try, or nothing.
    pub in_progress: Option<&'a str>,
    /// What running containers were given, by runtime id; the pod itself under the empty name.
    pub given: &'a BTreeMap<String, Resources>,
}

/// What the actor knows beside the runtime's state.
pub struct Facts<'a> {
    /// The status that the API has: what was decided there for good stays.
    pub known: &'a Value,
    /// Names of containers whose readiness probe passes (or that have none).
    pub ready: &'a BTreeSet<String>,
    /// Names of containers whose startup probe has passed (or that have none).
    pub started: &'a BTreeSet<String>,
    /// Containers that cannot be started: reason and message.
    pub problems: &'a BTreeMap<String, (String, String)>,
    /// The last plan, for those in back-off.
    pub plan: &'a Plan,
    /// Back-offs.
    pub backoffs: &'a Backoffs,
    /// Termination messages by runtime id.
    pub messages: &'a BTreeMap<String, String>,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// What ended the pod from outside.
    pub ended_by: Option<&'a Ending>,
    /// Resizing.
    pub resize: ResizeFacts<'a>,
    /// Volumes are mounted.
    pub volumes_ready: bool,
    /// Now, for conditions that change.
    pub now: SystemTime,
}

fn time_of(nanoseconds: i64) -> Value {
    if nanoseconds <= 0 {
        return Value::Null;
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds.unsigned_abs());
    skiff_client::leader::time(at).into()
}

fn terminated(instance: &Instance, messages: &BTreeMap<String, String>) -> Value {
    let status = &instance.status;
    let reason = match status.reason.as_str() {
        "" if status.exit_code == 0 => "Completed",
        "" => "Error",
        said => said,
    };
    let mut state = Map::new();
    state.insert("exitCode", i64::from(status.exit_code));
    state.insert("reason", reason);
    state.insert("startedAt", time_of(status.started_at));
    state.insert("finishedAt", time_of(status.finished_at));
    state.insert("containerID", instance.id.as_str());
    let message = messages.get(&instance.id).map_or(status.message.as_str(), String::as_str);
    if !message.is_empty() {
        state.insert("message", message);
    }
    object! { "terminated": state }
}

fn waiting(reason: &str, message: &str) -> Value {
    let mut state = Map::new();
    state.insert("reason", reason);
    if !message.is_empty() {
        state.insert("message", message);
    }
    object! { "waiting": state }
}

/// Whether none of the pod's containers is started again, whatever its policy says.
fn is_over(pod: &Pod, facts: &Facts<'_>) -> bool {
    pod.is_deleted() || facts.ended_by.is_some() || matches!(facts.known.str_at(&["phase"]), "Succeeded" | "Failed")
}

/// The last state that the API has of the container with this id.
fn last_state_of(container: &Container<'_>, id: &str, known: &Value) -> Option<Value> {
    let list = match container.role {
        Role::Init | Role::Sidecar => "initContainerStatuses",
        Role::Main => "containerStatuses",
        Role::Ephemeral => return None,
    };
    let status = known.items_at(&[list]).iter().find(|known| known.str_at(&["name"]) == container.name())?;
    let same = status.str_at(&["containerID"]).split_once("://").is_some_and(|(_, known)| known == id);
    status.get("lastState").filter(|_| same).cloned()
}

/// What a container waits with that nobody has tried to start yet.
fn waiting_at_first(pod: &Pod) -> Value {
    let has_init = pod.containers().any(|other| other.role.is_init());
    waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, "")
}

/// Backoff in Go's notation of durations, as in the message that people search for.
fn go_duration(wait: Duration) -> String {
    let seconds = wait.as_secs();
    if seconds >= 60 { format!("{}m{}s", seconds / 60, seconds % 60) } else { format!("{seconds}s") }
}

/// One container's status.
fn container_status(pod: &Pod, container: &Container<'_>, state: &State, facts: &Facts<'_>, runtime: &str) -> Value {
    let name = container.name();
    let instances = state.containers.get(name).map(Vec::as_slice).unwrap_or(&[]);
    let newest = instances.first();
    let mut last = instances.get(1).filter(|instance| instance.has_exited());
    let mut restart_count = newest.map_or(0, Instance::restart_count);
    let problem = facts.problems.get(name);
    let running = newest.filter(|instance| instance.is_running());
    let current = match newest {
        Some(instance) if instance.is_running() => {
            object! { "running": object! { "startedAt": time_of(instance.status.started_at) } }
        }
        Some(instance) if instance.has_exited() => {
            if let Some((reason, message)) = problem {
                last = Some(instance);
                waiting(reason, message)
            } else if instance.lost && !is_over(pod, facts) && restarts(pod, container, instance.status.exit_code) {
                last = Some(instance);
                waiting_at_first(pod)
            } else if facts.plan.waiting.contains_key(name) {
                last = Some(instance);
                let wait = go_duration(facts.backoffs.wait(name));
                let message = format!(
                    "back-off {wait} restarting failed container={name} pod={}_{}({})",
                    pod.name(),
                    pod.namespace(),
                    pod.uid()
                );
                waiting("CrashLoopBackOff", &message)
            } else {
                terminated(instance, facts.messages)
            }
        }
        _ => match problem {
            Some((reason, message)) => waiting(reason, message),
            None => waiting_at_first(pod),
        },
    };
    if newest.is_some_and(Instance::is_created) {
        restart_count = newest.map_or(0, Instance::restart_count);
    }
    let started = running.is_some() && facts.started.contains(name);
    let ready = match container.role {
        Role::Init => newest.is_some_and(|instance| instance.has_exited() && instance.status.exit_code == 0),
        Role::Sidecar | Role::Main => started && facts.ready.contains(name),
        Role::Ephemeral => false,
    };
    let mut status = Map::new();
    status.insert("name", name);
    status.insert("state", current);
    let none = || Value::Object(Map::new());
    let last = match (last, newest) {
        (Some(instance), _) => with_runtime(terminated(instance, facts.messages), runtime),
        // The one before it may be gone, and was the one before it all the same.
        (None, Some(instance)) => last_state_of(container, &instance.id, facts.known).unwrap_or_else(none),
        (None, None) => none(),
    };
    status.insert("lastState", last);
    status.insert("ready", ready);
    status.insert("restartCount", i64::from(restart_count));
    let image = newest.and_then(|instance| instance.status.image.as_ref());
    let image = image
        .map(|image| if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image });
    status.insert("image", image.map_or(container.tree.str_at(&["image"]), String::as_str));
    status.insert("imageID", newest.map_or("", |instance| instance.status.image_ref.as_str()));
    if let Some(instance) = newest {
        status.insert("containerID", format!("{runtime}://{}", instance.id));
    }
    if container.role != Role::Ephemeral {
        status.insert("started", if container.role == Role::Init { running.is_some() } else { started });
    }
    if let Some(instance) = newest.filter(|_| container.role != Role::Ephemeral) {
        let given = facts.resize.given.get(&instance.id).filter(|_| running.is_some());
        insert_resources(&mut status, &resize::of_container(container), given);
    }
    if let Some(user) = newest.and_then(|instance| instance.status.user.as_ref()?.linux.as_ref()) {
        let groups: Vec<Value> = user.supplemental_groups.iter().map(|group| Value::from(*group)).collect();
        status.insert(
            "user",
            object! { "linux": object! { "uid": user.uid, "gid": user.gid, "supplementalGroups": groups } },
        );
    }
    let mounts: Vec<Value> = container.tree.items_at(&["volumeMounts"]).iter().map(mount_status).collect();
    if newest.is_some() && !mounts.is_empty() {
        status.insert("volumeMounts", mounts);
    }
    if let Some(state) = status.get_mut("state") {
        *state = with_runtime(std::mem::take(state), runtime);
    }
    Value::Object(status)
}

/// `resources` and `allocatedResources`, of a container or of the pod.
fn insert_resources(status: &mut Map, allocated: &Resources, given: Option<&Resources>) {
    if let Some(requests) = allocated.get("requests") {
        status.insert("allocatedResources", requests.clone());
    }
    status.insert("resources", resize::value_of(given.unwrap_or(allocated)));
}

/// How a volume is mounted (`VolumeMountStatus`). What is mounted below a read-only one is not made so.
fn mount_status(mount: &Value) -> Value {
    let mut status = Map::new();
    for field in ["name", "mountPath"] {
        status.insert(field, mount.str_at(&[field]));
    }
    if mount.get("readOnly").and_then(Value::as_bool) == Some(true) {
        status.insert("readOnly", true);
        status.insert("recursiveReadOnly", "Disabled");
    }
    Value::Object(status)
}

/// Container ids in the API carry the runtime's name.
fn with_runtime(mut state: Value, runtime: &str) -> Value {
    if let Some(terminated) = state.get_mut("terminated").and_then(Value::as_object_mut) {
        let id = terminated.get("containerID").and_then(Value::as_str).unwrap_or_default().to_owned();
        terminated.insert("containerID", format!("{runtime}://{id}"));
    }
    state
}

/// Phase of a pod (`getPhase`).
fn phase(pod: &Pod, state: &State, facts: &Facts<'_>) -> &'static str {
    // A pod that has ended stays ended, whatever is left of its containers.
    match facts.known.str_at(&["phase"]) {
        "Succeeded" => return "Succeeded",
        "Failed" => return "Failed",
        _ => (),
    }
    if facts.ended_by.is_some() && !state.any_running() {
        return "Failed";
    }
    let main: Vec<Container<'_>> = pod.containers().filter(|container| container.role == Role::Main).collect();
    let init_pending = pod.containers().filter(|container| container.role == Role::Init).any(|container| {
        !state.newest(container.name()).is_some_and(|instance| instance.has_exited() && instance.status.exit_code == 0)
    });
    if super::plan::has_ended(pod, state) {
        let counts = |container: &Container<'_>| matches!(container.role, Role::Init | Role::Main);
        let failed = pod.containers().filter(counts).any(|container| {
            state
                .newest(container.name())
                .is_some_and(|instance| instance.has_exited() && instance.status.exit_code != 0)
        });
        return if failed { "Failed" } else { "Succeeded" };
    }
    let started =
        main.iter().all(|container| state.newest(container.name()).is_some_and(|instance| !instance.is_created()));
    let any_main = main.iter().any(|container| state.newest(container.name()).is_some());
    if (init_pending && !any_main) || !started { "Pending" } else { "Running" }
}

fn condition(known: &Value, ty: &str, truth: bool, reason: &str, message: &str, now: &str, generation: i64) -> Value {
    let status = if truth { "True" } else { "False" };
    let before = known.items_at(&["conditions"]).iter().find(|known| known.str_at(&["type"]) == ty);
    let since =
        before.filter(|known| known.str_at(&["status"]) == status).and_then(|known| known.get("lastTransitionTime"));
    let mut condition = Map::new();
    condition.insert("type", ty);
    condition.insert("status", status);
    condition.insert("lastProbeTime", Value::Null);
    condition.insert("lastTransitionTime", since.cloned().unwrap_or_else(|| now.into()));
    if generation > 0 {
        condition.insert("observedGeneration", generation);
    }
    if !reason.is_empty() {
        condition.insert("reason", reason);
        condition.insert("message", message);
    }
    Value::Object(condition)
}

fn has_ended(phase: &str) -> bool {
    phase == "Succeeded" || phase == "Failed"
}

fn generation(pod: &Pod) -> i64 {
    pod.0.at(&["metadata", "generation"]).and_then(Value::as_int).unwrap_or(0)
}

/// Our conditions, by the statuses of init and main containers, and then those of others, which are kept.
fn conditions(pod: &Pod, state: &State, facts: &Facts<'_>, phase: &str, init: &[Value], main: &[Value]) -> Vec<Value> {
    let now = skiff_client::leader::time(facts.now);
    let generation = generation(pod);
    let make = |ty: &str, truth: bool, reason: &str, message: &str| {
        condition(facts.known, ty, truth, reason, message, &now, generation)
    };
    let unready = |statuses: &[Value]| -> Vec<String> {
        let names = statuses.iter().filter(|status| status.get("ready").and_then(Value::as_bool) != Some(true));
        names.map(|status| status.str_at(&["name"]).to_owned()).collect()
    };
    let sidecars: Vec<Value> = init
        .iter()
        .filter(|status| pod.container(status.str_at(&["name"])).is_some_and(|found| found.role == Role::Sidecar))
        .cloned()
        .collect();
    let mut not_ready = unready(main);
    not_ready.extend(unready(&sidecars));
    let gates = failing_gates(&pod.0, facts.known);
    let containers_ready = not_ready.is_empty() && !has_ended(phase);
    let list = |names: &[String]| format!("containers with unready status: [{}]", names.join(" "));
    let plain_init = init
        .iter()
        .filter(|status| pod.container(status.str_at(&["name"])).is_some_and(|found| found.role == Role::Init));
    let incomplete: Vec<String> = unready(&plain_init.cloned().collect::<Vec<_>>());
    let any_main =
        pod.containers().any(|container| container.role == Role::Main && state.newest(container.name()).is_some());
    let initialized = incomplete.is_empty() || any_main;
    let mut conditions = Vec::new();
    conditions.push(make(
        "PodReadyToStartContainers",
        state.ready_sandbox().is_some_and(|_| facts.volumes_ready),
        "",
        "",
    ));
    conditions.push(if initialized {
        make("Initialized", true, if phase == "Succeeded" { "PodCompleted" } else { "" }, "")
    } else {
        make(
            "Initialized",
            false,
            "ContainersNotInitialized",
            &format!("containers with incomplete status: [{}]", incomplete.join(" ")),
        )
    });
    let (reason, message) = if phase == "Succeeded" {
        ("PodCompleted", String::new())
    } else if phase == "Failed" {
        ("PodFailed", String::new())
    } else if !containers_ready {
        ("ContainersNotReady", list(&not_ready))
    } else {
        ("", String::new())
    };
    conditions.push(match (containers_ready, gates.is_empty()) {
        (true, false) => make("Ready", false, "ReadinessGatesNotReady", &gates.join(", ")),
        (ready, _) => make("Ready", ready, reason, &message),
    });
    conditions.push(make("ContainersReady", containers_ready, reason, &message));
    conditions.push(make("PodScheduled", true, "", ""));
    if let Some(ending) = facts.ended_by.filter(|ending| ending.disruption) {
        conditions.push(make("DisruptionTarget", true, "TerminationByKubelet", &ending.message));
    }
    if let Some(pending) = facts.resize.pending {
        conditions.push(make(resize::PENDING, true, pending.reason, &pending.message));
    }
    if let Some(error) = facts.resize.in_progress {
        conditions.push(make(resize::IN_PROGRESS, true, if error.is_empty() { "" } else { "Error" }, error));
    }
    let ours: Vec<String> = conditions.iter().map(|condition| condition.str_at(&["type"]).to_owned()).collect();
    let others = facts
        .known
        .items_at(&["conditions"])
        .iter()
        .filter(|known| ![resize::PENDING, resize::IN_PROGRESS].contains(&known.str_at(&["type"])))
        .filter(|known| !ours.iter().any(|ty| ty == known.str_at(&["type"])));
    conditions.extend(others.cloned());
    conditions
}

/// The whole status. `runtime` is the runtime's name, for container ids. Conditions of others are kept.
pub fn of(pod: &Pod, state: &State, facts: &Facts<'_>, runtime: &str) -> Value {
    let now = skiff_client::leader::time(facts.now);
    let statuses = |list: &str| -> Vec<Value> {
        pod.containers()
            .filter(|container| container.role.list() == list)
            .map(|container| container_status(pod, &container, state, facts, runtime))
            .collect()
    };
    let (init, main, ephemeral) = (statuses("initContainers"), statuses("containers"), statuses("ephemeralContainers"));
    let phase = phase(pod, state, facts);
    let mut status = Map::new();
    status.insert("phase", phase);
    status.insert("conditions", conditions(pod, state, facts, phase, &init, &main));
    let generation = generation(pod);
    if generation > 0 {
        status.insert("observedGeneration", generation);
    }
    match facts.ended_by {
        Some(ending) => {
            status.insert("reason", ending.reason);
            status.insert("message", ending.message.as_str());
        }
        // Told by whoever ended it, perhaps a kubelet before this one.
        None if has_ended(phase) => {
            for field in ["reason", "message"] {
                let said = facts.known.str_at(&[field]);
                if !said.is_empty() {
                    status.insert(field, said);
                }
            }
        }
        None => (),
    }
    if let Some(first) = facts.host_ips.first() {
        status.insert("hostIP", first.as_str());
        status.insert("hostIPs", addresses(facts.host_ips));
    }
    let ips = if pod.flag("hostNetwork") { facts.host_ips.to_vec() } else { state.ips() };
    if let Some(first) = ips.first() {
        status.insert("podIP", first.as_str());
        status.insert("podIPs", addresses(&ips));
    }
    let started = facts.known.get("startTime").filter(|time| !time.is_null()).cloned();
    status.insert("startTime", started.unwrap_or_else(|| now.as_str().into()));
    if !init.is_empty() {
        status.insert("initContainerStatuses", init);
    }
    status.insert("containerStatuses", main);
    if !ephemeral.is_empty() {
        status.insert("ephemeralContainerStatuses", ephemeral);
    }
    if let Some(own) = resize::of_whole(pod) {
        insert_resources(&mut status, &own, facts.resize.given.get(resize::POD));
    }
    status.insert("qosClass", pod.qos().as_str());
    Value::Object(status)
}

fn addresses(ips: &[String]) -> Vec<Value> {
    ips.iter().map(|ip| object! { "ip": ip.as_str() }).collect()
}

/// Readiness gates whose condition is not true, as upstream words them.
fn failing_gates(pod: &Value, known: &Value) -> Vec<String> {
    let gates = pod.items_at(&["spec", "readinessGates"]).iter().map(|gate| gate.str_at(&["conditionType"]));
    let conditions = known.items_at(&["conditions"]);
    gates
        .filter_map(|gate| match conditions.iter().find(|condition| condition.str_at(&["type"]) == gate) {
            None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
            Some(condition) if condition.str_at(&["status"]) != "True" => Some(format!(
                "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                condition.str_at(&["status"])
            )),
            Some(_) => None,
        })
        .collect()
}
