//! Rows of pods and of what makes pods (`printPod` and its neighbours, pkg/printers/internalversion/printers.go).

use super::cells::{self, NONE, age, containers, human, int, label_selector, labels, name, or_none, seconds};
use crate::kinds::tree::Tree;
use skiff_machinery::{Map, Value};

fn is_sidecar(container: &Value) -> bool {
    container.text("restartPolicy") == "Always"
}

/// The words of the Status column, ready containers, restarts, and when the last restart was.
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<i64>,
}

/// A condition of an object.
fn condition<'o>(object: &'o Value, kind: &str) -> Option<&'o Value> {
    object.items_at(&["status", "conditions"]).iter().find(|condition| condition.text("type") == kind)
}

fn terminated_reason(terminated: &Value) -> String {
    let reason = terminated.text("reason");
    let signal = terminated.int("signal").unwrap_or(0);
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", terminated.int("exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn finished_at(status: &Value) -> Option<i64> {
    seconds(status.at(&["lastState", "terminated", "finishedAt"]))
}

fn summary(pod: &Value) -> Summary {
    let init_specs = pod.items_at(&["spec", "initContainers"]);
    let sidecars = init_specs.iter().filter(|container| is_sidecar(container)).count();
    let mut sum = Summary {
        reason: pod.str_at(&["status", "phase"]).to_owned(),
        ready: 0,
        total: pod.items_at(&["spec", "containers"]).len() + sidecars,
        restarts: 0,
        last_restart: None,
    };
    let stated = pod.str_at(&["status", "reason"]);
    if !stated.is_empty() {
        sum.reason = stated.to_owned();
    }
    if condition(pod, "PodScheduled").is_some_and(|condition| condition.text("reason") == "SchedulingGated") {
        sum.reason = "SchedulingGated".to_owned();
    }
    let initializing = init_containers(pod, init_specs, &mut sum);
    if !initializing || condition(pod, "Initialized").is_some_and(|condition| condition.text("status") == "True") {
        main_containers(pod, sidecars, &mut sum);
    }
    if !pod.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
        let lost = pod.str_at(&["status", "reason"]) == "NodeLost";
        let ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
        if lost {
            sum.reason = "Unknown".to_owned();
        } else if !ended {
            sum.reason = "Terminating".to_owned();
        }
    }
    sum
}

/// Goes through init containers up to the first that is not done; whether there is one.
fn init_containers(pod: &Value, specs: &[Value], sum: &mut Summary) -> bool {
    let sidecar = |name: &str| specs.iter().any(|container| container.text("name") == name && is_sidecar(container));
    for (index, status) in pod.items_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        let runs_on = sidecar(status.text("name"));
        sum.restarts += status.int("restartCount").unwrap_or(0);
        sum.last_restart = sum.last_restart.max(finished_at(status));
        let terminated = status.at(&["state", "terminated"]).filter(|state| !state.is_null());
        if terminated.is_some_and(|state| state.int("exitCode").unwrap_or(0) == 0) {
            continue;
        }
        if runs_on && status.flag("started") {
            if status.flag("ready") {
                sum.ready += 1;
            }
            continue;
        }
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        sum.reason = if let Some(state) = terminated {
            format!("Init:{}", terminated_reason(state))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", specs.len())
        };
        return true;
    }
    false
}

/// The last container (in reverse order: the first) that says something decides.
fn main_containers(pod: &Value, sidecars: usize, sum: &mut Summary) {
    if sidecars == 0 {
        sum.restarts = 0;
        sum.last_restart = None;
    } else {
        let specs = pod.items_at(&["spec", "initContainers"]);
        let statuses = pod.items_at(&["status", "initContainerStatuses"]).iter();
        let of_sidecars = statuses
            .filter(|status| specs.iter().any(|spec| spec.text("name") == status.text("name") && is_sidecar(spec)));
        (sum.restarts, sum.last_restart) = of_sidecars.fold((0, None), |(count, last), status| {
            (count + status.int("restartCount").unwrap_or(0), last.max(finished_at(status)))
        });
    }
    let mut running = false;
    for status in pod.items_at(&["status", "containerStatuses"]).iter().rev() {
        sum.restarts += status.int("restartCount").unwrap_or(0);
        sum.last_restart = sum.last_restart.max(finished_at(status));
        let waiting = status.str_at(&["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            sum.reason = waiting.to_owned();
        } else if let Some(state) = status.at(&["state", "terminated"]).filter(|state| !state.is_null()) {
            sum.reason = terminated_reason(state);
        } else if status.flag("ready") && status.at(&["state", "running"]).is_some() {
            running = true;
            sum.ready += 1;
        }
    }
    if sum.reason == "Completed" && running {
        let ready = condition(pod, "Ready").is_some_and(|condition| condition.text("status") == "True");
        sum.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

pub(super) fn pod(pod: &Value, now: i64) -> Vec<Value> {
    let sum = summary(pod);
    let restarts = match sum.last_restart {
        Some(then) if sum.restarts != 0 => format!("{} ({} ago)", sum.restarts, human(now - then)),
        _ => sum.restarts.to_string(),
    };
    let ip = match pod.items_at(&["status", "podIPs"]).first() {
        Some(first) => first.text("ip"),
        None => pod.str_at(&["status", "podIP"]),
    };
    let gates = pod.items_at(&["spec", "readinessGates"]);
    let met = gates.iter().filter(|gate| {
        condition(pod, gate.text("conditionType")).is_some_and(|condition| condition.text("status") == "True")
    });
    let gates = if gates.is_empty() { NONE.to_owned() } else { format!("{}/{}", met.count(), gates.len()) };
    vec![
        name(pod),
        format!("{}/{}", sum.ready, sum.total).into(),
        sum.reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(ip),
        or_none(pod.str_at(&["spec", "nodeName"])),
        or_none(pod.str_at(&["status", "nominatedNodeName"])),
        gates.into(),
    ]
}

pub(super) fn pod_template(object: &Value, _: i64) -> Vec<Value> {
    let (names, images) = containers(object.at(&["template", "spec"]));
    vec![name(object), names, images, labels(object.object_at(&["template", "metadata", "labels"]))]
}

fn replicas(object: &Value, now: i64, selector: Value) -> Vec<Value> {
    let (names, images) = containers(object.at(&["spec", "template", "spec"]));
    vec![
        name(object),
        int(object, &["spec", "replicas"]).into(),
        int(object, &["status", "replicas"]).into(),
        int(object, &["status", "readyReplicas"]).into(),
        age(object, now),
        names,
        images,
        selector,
    ]
}

pub(super) fn replication_controller(object: &Value, now: i64) -> Vec<Value> {
    replicas(object, now, labels(object.object_at(&["spec", "selector"])))
}

pub(super) fn replica_set(object: &Value, now: i64) -> Vec<Value> {
    replicas(object, now, label_selector(object.at(&["spec", "selector"])))
}

pub(super) fn deployment(object: &Value, now: i64) -> Vec<Value> {
    let (names, images) = containers(object.at(&["spec", "template", "spec"]));
    let ready = int(object, &["status", "readyReplicas"]);
    vec![
        name(object),
        format!("{ready}/{}", int(object, &["spec", "replicas"])).into(),
        int(object, &["status", "updatedReplicas"]).into(),
        int(object, &["status", "availableReplicas"]).into(),
        age(object, now),
        names,
        images,
        label_selector(object.at(&["spec", "selector"])),
    ]
}

pub(super) fn stateful_set(object: &Value, now: i64) -> Vec<Value> {
    let (names, images) = containers(object.at(&["spec", "template", "spec"]));
    let ready = int(object, &["status", "readyReplicas"]);
    vec![
        name(object),
        format!("{ready}/{}", int(object, &["spec", "replicas"])).into(),
        age(object, now),
        names,
        images,
    ]
}

pub(super) fn daemon_set(object: &Value, now: i64) -> Vec<Value> {
    let (names, images) = containers(object.at(&["spec", "template", "spec"]));
    let status = |key: &str| Value::from(int(object, &["status", key]));
    vec![
        name(object),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        labels(object.object_at(&["spec", "template", "spec", "nodeSelector"])),
        age(object, now),
        names,
        images,
        label_selector(object.at(&["spec", "selector"])),
    ]
}

pub(super) fn job(object: &Value, now: i64) -> Vec<Value> {
    let succeeded = int(object, &["status", "succeeded"]);
    let completions = match object.at(&["spec", "completions"]).and_then(Value::as_int) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match int(object, &["spec", "parallelism"]) {
            parallelism if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let duration =
        match (seconds(object.at(&["status", "startTime"])), seconds(object.at(&["status", "completionTime"]))) {
            (None, _) => String::new(),
            (Some(start), Some(end)) => human(end - start),
            (Some(start), None) => human(now - start),
        };
    let holds = |kind: &str| condition(object, kind).is_some_and(|condition| condition.text("status") == "True");
    let status = if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if !object.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let (names, images) = containers(object.at(&["spec", "template", "spec"]));
    vec![
        name(object),
        status.into(),
        completions.into(),
        duration.into(),
        age(object, now),
        names,
        images,
        label_selector(object.at(&["spec", "selector"])),
    ]
}

pub(super) fn cron_job(object: &Value, now: i64) -> Vec<Value> {
    let last = object.at(&["status", "lastScheduleTime"]).filter(|time| !time.is_null());
    let template = object.at(&["spec", "jobTemplate", "spec"]);
    let (names, images) = containers(template.and_then(|spec| spec.at(&["template", "spec"])));
    let zone = object.str_at(&["spec", "timeZone"]);
    vec![
        name(object),
        object.str_at(&["spec", "schedule"]).into(),
        or_none(zone),
        cells::text(object.at(&["spec", "suspend"]).or(Some(&Value::Bool(false))))
            .replace("true", "True")
            .replace("false", "False")
            .into(),
        i64::try_from(object.items_at(&["status", "active"]).len()).unwrap_or(i64::MAX).into(),
        last.map_or_else(|| NONE.into(), |time| cells::since(Some(time), now).into()),
        age(object, now),
        names,
        images,
        label_selector(template.and_then(|spec| spec.get("selector"))),
    ]
}

/// Whether a map has entries.
pub(super) fn count(map: Option<&Map>) -> i64 {
    i64::try_from(map.map_or(0, Map::len)).unwrap_or(i64::MAX)
}
