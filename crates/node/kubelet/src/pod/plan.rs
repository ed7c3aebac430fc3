//! The next step of a living pod (`kuberuntime_manager.go: computePodActions`), pure.
//!
//! Init containers run one after the other; a sidecar counts as done once it has started (its startup probe, if any,
//! has passed). Main containers start together after the last of them. A container that ended is started again by its
//! restart policy, after a back-off that doubles from 10 s to 5 min and is forgotten after 10 min of health.

use super::spec::{Container, Pod, Role};
use super::state::{Instance, State};
use skiff_machinery::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const INITIAL_BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_secs(300);
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Why a running container is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Runtime id.
    pub id: String,
    /// Container name.
    pub name: String,
    /// For the event.
    pub message: String,
    /// Grace in seconds, when it is not the pod's (a probe may say its own).
    pub grace: Option<i64>,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The sandbox has to be made (again): everything that runs is stopped first.
    pub new_sandbox: bool,
    /// Containers to stop.
    pub kill: Vec<Kill>,
    /// Names of containers to start, with their restart count.
    pub start: Vec<(String, u32)>,
    /// Containers that wait for their back-off, and until when.
    pub waiting: BTreeMap<String, Instant>,
    /// The pod has run to its end: stop what is left (sidecars).
    pub ended: bool,
}

/// Back-off of each container, kept by the pod's actor.
#[derive(Clone, Debug, Default)]
pub struct Backoffs(BTreeMap<String, Backoff>);

#[derive(Clone, Debug)]
struct Backoff {
    wait: Duration,
    until: Instant,
    /// Exit that caused it, so that one exit counts once.
    exit: i64,
}

impl Backoffs {
    /// Until when a container that ended at `finished_at` (runtime's nanoseconds) waits; counts the exit on first sight.
    fn until(&mut self, name: &str, finished_at: i64, now: Instant) -> Instant {
        match self.0.get_mut(name) {
            Some(known) if known.exit == finished_at => known.until,
            Some(known) => {
                let healthy = now.duration_since(known.until.min(now)) >= FORGET_AFTER;
                known.wait = if healthy { INITIAL_BACKOFF } else { (known.wait * 2).min(MAX_BACKOFF) };
                known.exit = finished_at;
                known.until = now + known.wait;
                known.until
            }
            None => {
                // The first restart is immediate, as upstream's is.
                let first = Backoff { wait: INITIAL_BACKOFF / 2, until: now, exit: finished_at };
                self.0.insert(name.to_owned(), first);
                now
            }
        }
    }
    /// Until when this container waits. One that was ended to be resized has not failed.
    fn of(&mut self, name: &str, instance: &Instance, now: Instant) -> Instant {
        if instance.starts_again { now } else { self.until(name, instance.status.finished_at, now) }
    }
    /// The wait that is running, for the message `back-off 10s restarting failed container`.
    pub fn wait(&self, name: &str) -> Duration {
        self.0.get(name).map_or(INITIAL_BACKOFF, |backoff| backoff.wait)
    }
}

/// Why a container has to be restarted: a liveness or startup probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhealthy {
    /// For the event.
    pub message: String,
    /// `terminationGracePeriodSeconds` of the probe.
    pub grace: Option<i64>,
}

/// What probes say of containers, by name.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Liveness or startup probes that failed, by container id.
    pub unhealthy: BTreeMap<String, Unhealthy>,
    /// Names of containers whose startup probe has passed (or that have none) since they run.
    pub started: std::collections::BTreeSet<String>,
}

enum InitStep<'p> {
    /// All init containers are done.
    Done,
    /// This one runs: wait.
    Running,
    /// This one is next.
    Start(Container<'p>, u32),
    /// It waits for its back-off.
    Wait(&'p str, Instant),
    /// It failed and is not to be tried again: so has the pod.
    Failed,
}

/// Whether a container that has ended is started again.
pub(super) fn restarts(pod: &Pod, container: &Container<'_>, exit_code: i32) -> bool {
    let policy = match container.tree.str_at(&["restartPolicy"]) {
        "" => pod.restart_policy(),
        own => own,
    };
    let restarted_by_rule = exit_code != 0 || container.role == Role::Main;
    if restarted_by_rule && rule_restarts(container, exit_code) {
        return true;
    }
    match container.role {
        Role::Ephemeral => false,
        Role::Sidecar => true,
        // An init container that succeeded is done; one that failed is repeated unless the pod says never.
        Role::Init => exit_code != 0 && policy != "Never",
        Role::Main => match policy {
            "Never" => false,
            "OnFailure" => exit_code != 0,
            _ => true,
        },
    }
}

/// The same of a certain container.
fn is_restarted(pod: &Pod, container: &Container<'_>, instance: &Instance) -> bool {
    instance.starts_again || restarts(pod, container, instance.status.exit_code)
}

/// Whether one of the container's own rules says that it restarts after this exit code (`restartPolicyRules`).
fn rule_restarts(container: &Container<'_>, exit_code: i32) -> bool {
    let first = container.tree.items_at(&["restartPolicyRules"]).iter().find(|rule| {
        let codes = rule.items_at(&["exitCodes", "values"]).iter().filter_map(Value::as_int);
        let listed = codes.into_iter().any(|code| code == i64::from(exit_code));
        match rule.str_at(&["exitCodes", "operator"]) {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    });
    first.is_some_and(|rule| rule.str_at(&["action"]) == "Restart")
}

/// Decides the next step.
pub fn decide(pod: &Pod, state: &State, health: &Health, backoffs: &mut Backoffs, now: Instant) -> Plan {
    let mut plan = Plan::default();
    if has_ended(pod, state) {
        plan.ended = true;
        return plan;
    }
    let Some(sandbox) = state.ready_sandbox() else {
        // A pod that is not to restart and whose containers have run does not get a new sandbox.
        let ran = state.instances().any(|(_, instance)| instance.has_exited());
        let all_done = pod.restart_policy() == "Never" && ran && !state.sandboxes.is_empty();
        plan.new_sandbox = !all_done;
        plan.ended = all_done;
        return plan;
    };
    for container in pod.containers().filter(|container| container.role != Role::Ephemeral) {
        stop_if_wrong(&container, state, health, &mut plan);
    }
    // Somebody wants to look at the pod, whatever state it is in: nothing is waited for.
    for container in pod.containers().filter(|container| container.role == Role::Ephemeral) {
        if state.newest(container.name()).is_none() {
            plan.start.push((container.name().to_owned(), 0));
        }
    }
    let main_started = pod
        .containers()
        .filter(|container| container.role == Role::Main)
        .any(|container| state.newest(container.name()).is_some_and(|instance| instance.sandbox == sandbox.id));
    match init_step(pod, state, health, backoffs, now, main_started, &mut plan) {
        InitStep::Done => start_main(pod, state, backoffs, now, &mut plan),
        InitStep::Start(container, count) => plan.start.push((container.name().to_owned(), count)),
        InitStep::Wait(name, until) => {
            plan.waiting.insert(name.to_owned(), until);
        }
        InitStep::Running | InitStep::Failed => (),
    }
    plan
}

fn stop_if_wrong(container: &Container<'_>, state: &State, health: &Health, plan: &mut Plan) {
    let Some(instance) = state.newest(container.name()).filter(|instance| instance.is_running()) else { return };
    let wrong = if instance.hash() != container.hash() {
        let message = format!("Container {} definition changed, will be restarted", container.name());
        Some(Unhealthy { message, grace: None })
    } else {
        health.unhealthy.get(&instance.id).cloned()
    };
    if let Some(Unhealthy { message, grace }) = wrong {
        plan.kill.push(Kill { id: instance.id.clone(), name: container.name().to_owned(), message, grace });
    }
}

fn init_step<'p>(
    pod: &'p Pod,
    state: &State,
    health: &Health,
    backoffs: &mut Backoffs,
    now: Instant,
    main_started: bool,
    plan: &mut Plan,
) -> InitStep<'p> {
    for container in pod.containers().filter(|container| container.role.is_init()) {
        let name = container.name();
        let Some(instance) = state.newest(name) else {
            // After a new sandbox plain init containers run again; once main containers run they are over.
            if main_started && container.role == Role::Init {
                continue;
            }
            return InitStep::Start(container, 0);
        };
        if instance.is_running() {
            if container.role == Role::Sidecar && (main_started || health.started.contains(name)) {
                continue;
            }
            return InitStep::Running;
        }
        if instance.is_created() {
            return InitStep::Start(container, instance.restart_count() + 1);
        }
        let exit_code = instance.status.exit_code;
        if container.role == Role::Init && (exit_code == 0 || main_started) {
            continue;
        }
        if !is_restarted(pod, &container, instance) {
            return InitStep::Failed;
        }
        let until = backoffs.of(name, instance, now);
        let next = instance.restart_count() + 1;
        if until > now {
            if container.role == Role::Sidecar && main_started {
                plan.waiting.insert(name.to_owned(), until);
                continue;
            }
            return InitStep::Wait(name, until);
        }
        if container.role == Role::Sidecar && main_started {
            plan.start.push((name.to_owned(), next));
            continue;
        }
        return InitStep::Start(container, next);
    }
    InitStep::Done
}

fn start_main(pod: &Pod, state: &State, backoffs: &mut Backoffs, now: Instant, plan: &mut Plan) {
    for container in pod.containers().filter(|container| container.role == Role::Main) {
        let name = container.name();
        let Some(instance) = state.newest(name) else {
            plan.start.push((name.to_owned(), 0));
            continue;
        };
        if instance.is_running() {
            continue;
        }
        if instance.is_created() {
            plan.start.push((name.to_owned(), instance.restart_count() + 1));
            continue;
        }
        if !is_restarted(pod, &container, instance) {
            continue;
        }
        let until = backoffs.of(name, instance, now);
        if until > now {
            plan.waiting.insert(name.to_owned(), until);
        } else {
            plan.start.push((name.to_owned(), instance.restart_count() + 1));
        }
    }
}

/// Whether the pod has run to its end: every main container ended and none is started again, or an init container
/// failed for good.
pub fn has_ended(pod: &Pod, state: &State) -> bool {
    let over = |container: &Container<'_>| {
        state
            .newest(container.name())
            .is_some_and(|instance| instance.has_exited() && !is_restarted(pod, container, instance))
    };
    let mut main = pod.containers().filter(|container| container.role == Role::Main).peekable();
    if main.peek().is_some() && main.all(|container| over(&container)) {
        return true;
    }
    pod.containers().filter(|container| container.role == Role::Init).any(|container| {
        over(&container) && state.newest(container.name()).is_some_and(|instance| instance.status.exit_code != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_cri::v1;
    use skiff_machinery::{list, object};
    use std::sync::Arc;

    fn pod(policy: &str) -> Pod {
        Pod(Arc::new(object! { "spec": object! {
            "restartPolicy": policy,
            "initContainers": list![
                object! { "name": "init", "image": "i" },
                object! { "name": "side", "image": "i", "restartPolicy": "Always" },
            ],
            "containers": list![object! { "name": "main", "image": "i" }],
        } }))
    }
    fn with(state: &mut State, pod: &Pod, name: &str, phase: v1::ContainerState, code: i32) {
        let container = pod.container(name).unwrap();
        let status = v1::ContainerStatus {
            state: phase.into(),
            exit_code: code,
            finished_at: 5,
            annotations: [(crate::names::CONTAINER_HASH.to_owned(), container.hash())].into(),
            ..Default::default()
        };
        state.containers.insert(
            name.to_owned(),
            vec![Instance { id: name.to_owned(), sandbox: String::new(), status, lost: false, starts_again: false }],
        );
    }
    fn ready() -> State {
        State { sandboxes: vec![v1::PodSandboxStatus::default()], ..State::default() }
    }
    fn next(pod: &Pod, state: &State, health: &Health) -> Plan {
        decide(pod, state, health, &mut Backoffs::default(), Instant::now())
    }
    use v1::ContainerState::{ContainerExited as Exited, ContainerRunning as Running};

    #[test]
    fn init_then_sidecar_then_main() {
        let pod = pod("Always");
        let mut health = Health::default();
        assert!(next(&pod, &State::default(), &health).new_sandbox);
        let mut state = ready();
        assert_eq!(next(&pod, &state, &health).start, [("init".to_owned(), 0)]);
        with(&mut state, &pod, "init", Running, 0);
        assert_eq!(next(&pod, &state, &health), Plan::default());
        with(&mut state, &pod, "init", Exited, 0);
        assert_eq!(next(&pod, &state, &health).start, [("side".to_owned(), 0)]);
        with(&mut state, &pod, "side", Running, 0);
        assert_eq!(next(&pod, &state, &health), Plan::default(), "its startup is awaited");
        health.started.insert("side".to_owned());
        assert_eq!(next(&pod, &state, &health).start, [("main".to_owned(), 0)]);
    }

    #[test]
    fn restart_policies() {
        for (policy, code, again) in
            [("Always", 0, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 1, false)]
        {
            let pod = Pod(Arc::new(object! { "spec": object! {
                "restartPolicy": policy, "containers": list![object! { "name": "main", "image": "i" }],
            } }));
            let mut state = ready();
            with(&mut state, &pod, "main", Exited, code);
            let plan = next(&pod, &state, &Health::default());
            assert_eq!(!plan.start.is_empty(), again, "{policy} {code}");
            assert_eq!(plan.ended, !again, "{policy} {code}");
        }
    }

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_wait_longer() {
        let mut backoffs = Backoffs::default();
        let now = Instant::now();
        assert_eq!(backoffs.until("c", 1, now), now);
        assert_eq!(backoffs.until("c", 2, now), now + Duration::from_secs(10));
        assert_eq!(backoffs.until("c", 2, now), now + Duration::from_secs(10), "one exit counts once");
        assert_eq!(backoffs.until("c", 3, now), now + Duration::from_secs(20));
    }

    #[test]
    fn a_failed_init_container_ends_a_pod_that_never_restarts() {
        let pod = pod("Never");
        let mut state = ready();
        with(&mut state, &pod, "init", Exited, 1);
        assert!(has_ended(&pod, &state));
    }

    #[test]
    fn an_unhealthy_or_changed_container_is_stopped() {
        let pod = pod("Always");
        let mut state = ready();
        with(&mut state, &pod, "main", Running, 0);
        let mut health = Health::default();
        let unhealthy = Unhealthy { message: "liveness".to_owned(), grace: Some(3) };
        health.unhealthy.insert("main".to_owned(), unhealthy);
        let plan = next(&pod, &state, &health);
        assert_eq!((plan.kill[0].message.as_str(), plan.kill[0].grace), ("liveness", Some(3)));
    }

    #[test]
    fn a_containers_own_rules_stand_over_the_policy() {
        let rule = |operator: &str| {
            object! { "action": "Restart", "exitCodes": object! { "operator": operator, "values": list![42] } }
        };
        for (operator, code, again) in [("In", 42, true), ("In", 1, false), ("NotIn", 1, true), ("NotIn", 42, false)] {
            let container = object! { "name": "main", "image": "i", "restartPolicyRules": list![rule(operator)] };
            let pod = Pod(Arc::new(object! { "spec": object! {
                "restartPolicy": "Never", "containers": list![container],
            } }));
            let mut state = ready();
            with(&mut state, &pod, "main", Exited, code);
            assert_eq!(!next(&pod, &state, &Health::default()).start.is_empty(), again, "{operator} {code}");
        }
    }

    #[test]
    fn ephemeral_containers_start_at_once_and_once() {
        let pod = Pod(Arc::new(object! { "spec": object! {
            "initContainers": list![object! { "name": "init", "image": "i" }],
            "containers": list![object! { "name": "main", "image": "i" }],
            "ephemeralContainers": list![object! { "name": "debug", "image": "i" }],
        } }));
        let mut state = ready();
        with(&mut state, &pod, "init", Running, 0);
        assert_eq!(next(&pod, &state, &Health::default()).start, [("debug".to_owned(), 0)]);
        with(&mut state, &pod, "debug", Exited, 1);
        assert!(next(&pod, &state, &Health::default()).start.is_empty());
        with(&mut state, &pod, "init", Exited, 0);
        with(&mut state, &pod, "main", Exited, 0);
        assert!(!has_ended(&pod, &state));
    }
}
