//! Ending containers: hooks, signals, grace, order (`kuberuntime_container.go: killContainer`, `kuberuntime_termination_order.go`).

use super::probe;
use super::spec::{Pod, Role};
use super::state::{Instance, State};
use super::worker::Desired;
use crate::shared::Shared;
use skiff_client::events::EventType;
use skiff_cri::{CriError, v1};
use skiff_machinery::Value;
use std::time::Duration;
use tokio::sync::watch;

/// `minimumGracePeriodInSeconds`: what is left for the container itself after its hook.
const LEAST_GRACE: i64 = 2;

fn duration(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A hook: a handler of a probe, or a pause.
pub(super) async fn run_hook(
    shared: &Shared,
    container: &Value,
    hook: &Value,
    id: &str,
    ip: &str,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(seconds) = hook.at(&["sleep", "seconds"]).and_then(Value::as_int) {
        shared.clock.sleep(duration(seconds).min(timeout)).await;
        return Ok(());
    }
    probe::ask(shared, container, hook, id, ip, timeout).await
}

/// What a container is stopped with: the pod's address for hooks, and the grace in seconds.
#[derive(Clone, Copy)]
pub(super) struct Terms<'t> {
    pub(super) ip: &'t str,
    pub(super) grace: i64,
}

/// Stops one container: its preStop hook, then its signal, both within the grace.
pub(super) async fn container(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    instance: &Instance,
    terms: Terms<'_>,
) -> Result<(), CriError> {
    let begun = shared.clock.now();
    let allowed = duration(terms.grace);
    let hook = pod.container(name).and_then(|container| {
        let hook = container.tree.at(&["lifecycle", "preStop"]).filter(|hook| !hook.is_null())?;
        Some((container.tree, hook))
    });
    if let Some((tree, hook)) = hook.filter(|_| terms.grace > 0) {
        let hooked = run_hook(shared, tree, hook, &instance.id, terms.ip, allowed);
        let outcome = tokio::select! {
            outcome = hooked => outcome,
            () = shared.clock.sleep(allowed) => Err("it took longer than the grace period".to_owned()),
        };
        if let Err(message) = outcome {
            let text = format!("PreStopHook failed: {message}");
            shared.event(pod, Some(name), EventType::Warning, "FailedPreStopHook", text);
        }
    }
    let left = allowed.saturating_sub(shared.clock.now().duration_since(begun));
    // Rounded up: what is left of a second is a second.
    let left = i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
    let timeout = if terms.grace == 0 { 0 } else { left.max(LEAST_GRACE.min(terms.grace)) };
    let request = v1::StopContainerRequest { container_id: instance.id.clone(), timeout };
    match shared.runtime.stop_container(request).await {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Everything that runs in the order in which it is stopped: main, plain init and ephemeral containers together, then
/// each sidecar alone, the last started first.
fn order(pod: &Pod, state: &State) -> Vec<Vec<(String, Instance)>> {
    let sidecar = |name: &str| pod.container(name).is_some_and(|container| container.role == Role::Sidecar);
    let running = state.instances().filter(|(_, instance)| instance.is_running());
    let (mut sidecars, rest): (Vec<_>, Vec<_>) =
        running.map(|(name, instance)| (name.to_owned(), instance.clone())).partition(|(name, _)| sidecar(name));
    let place = |wanted: &str| pod.containers().position(|container| container.name() == wanted);
    sidecars.sort_by_key(|(name, _)| std::cmp::Reverse(place(name)));
    let groups = std::iter::once(rest).chain(sidecars.into_iter().map(|sidecar| vec![sidecar]));
    groups.filter(|group| !group.is_empty()).collect()
}

/// Stops everything that runs. The grace is one for the whole pod. A shorter one that arrives meanwhile
/// (`kubectl delete --force`) counts at once.
pub(super) async fn all(
    shared: &Shared,
    pod: &Pod,
    state: &State,
    grace: i64,
    desired: &mut watch::Receiver<Desired>,
) -> Result<(), CriError> {
    let ip = state.ips().into_iter().next().unwrap_or_default();
    let mut deadline = shared.clock.now() + duration(grace);
    let mut grace = grace;
    for group in order(pod, state) {
        for (name, _) in &group {
            shared.event(pod, Some(name), EventType::Normal, "Killing", format!("Stopping container {name}"));
        }
        loop {
            let left = deadline.saturating_duration_since(shared.clock.now()).as_millis().div_ceil(1000);
            let left = i64::try_from(left).unwrap_or(i64::MAX).max(i64::from(grace > 0)).min(grace);
            let terms = Terms { ip: &ip, grace: left };
            let stops = group.iter().map(|(name, instance)| container(shared, pod, name, instance, terms));
            let stopping = futures_util::future::join_all(stops);
            let outcomes = tokio::select! {
                outcomes = stopping => outcomes,
                shorter = shorter_grace(desired, left) => {
                    // The hooks have had their time: what is running is stopped again, with what it still has.
                    grace = shorter;
                    deadline = shared.clock.now() + duration(shorter);
                    continue;
                }
            };
            for outcome in outcomes {
                outcome?;
            }
            break;
        }
    }
    Ok(())
}

/// Waits for a grace below `current`; never ends when the pod is not directed any more.
async fn shorter_grace(desired: &mut watch::Receiver<Desired>, current: i64) -> i64 {
    loop {
        if desired.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let said = desired.borrow_and_update().pod().grace_seconds();
        if said < current {
            return said;
        }
    }
}
