//! The scheduling row: nodes and pods are there, then the scheduler starts, and the clock runs until the last pod has its
//! node. The load of `sched-load`.

use crate::error::BenchError;
use crate::rows::{Figure, Unit};
use crate::sample;
use crate::subject::{Place, Start, Subject};
use crate::wire::{Call, Load, closed_loop};
use skiff_base::task::Supervisor;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const NODE: &str = r#"{"apiVersion":"v1","kind":"Node","metadata":{"generateName":"sim-","labels":{"kubernetes.io/os":"linux","topology.kubernetes.io/zone":"z1","sim":"1"}},"spec":{},"status":{"capacity":{"cpu":"32","memory":"256Gi","pods":"110"},"allocatable":{"cpu":"32","memory":"256Gi","pods":"110"},"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady","lastHeartbeatTime":"2026-11-21T00:00:00Z","lastTransitionTime":"2026-11-21T00:00:00Z"}]}}"#;
const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"s-","labels":{"app":"sched"}},"spec":{"automountServiceAccountToken":false,"tolerations":[{"operator":"Exists"}],"containers":[{"name":"c","image":"registry.example/pause:1","resources":{"requests":{"cpu":"100m","memory":"128Mi"}}}]}}"#;

/// How many.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes.
    pub nodes: usize,
    /// Pods.
    pub pods: usize,
}

/// How long the last pod may take.
const LIMIT: Duration = Duration::from_secs(240);

/// A server that was left out its scheduler, for [`on_own`].
pub const WITHOUT_SCHEDULER: Start = Start { node: false, without: &["kube-scheduler"] };

async fn backlog(subject: &Subject, size: Size) -> Result<String, BenchError> {
    let namespace = subject.namespace().await?;
    let load = |requests| Load { requests, connections: 4, streams: 8 };
    // Deleted by their label at the end: a name for each would be a thousand requests.
    subject.made("/api/v1/nodes?labelSelector=sim%3D1".to_owned());
    closed_loop(subject.wire(), load(size.nodes), &Call::post("/api/v1/nodes", NODE)).await?;
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    closed_loop(subject.wire(), load(size.pods), &Call::post(pods.as_str(), POD)).await?;
    Ok(pods)
}

/// Waits until no pod is left without a node. Asking for one such pod is cheap for any server.
async fn bound(subject: &Subject, pods: &str) -> Result<(), BenchError> {
    let left = Call::get(format!("{pods}?fieldSelector=spec.nodeName%3D&limit=1"));
    let none = |list: &skiff_machinery::Value| list.items_at(&["items"]).is_empty();
    subject.control().until(&left, "not all pods were scheduled", LIMIT, none).await.map(drop)
}

/// `cpu` is what the server had used when the clock started.
fn figures(subject: &Subject, size: Size, elapsed: Duration, cpu: Duration) -> Vec<Figure> {
    let mut figures = vec![Figure { unit: Unit::PerSecond, value: size.pods as f64 / elapsed.as_secs_f64() }];
    if subject.is_visible() {
        let cpu = sample::micros_each(cpu, subject.cpu_time(), size.pods);
        figures.push(Figure { unit: Unit::Cpu, value: cpu });
        figures.push(Figure { unit: Unit::Mebibytes, value: subject.mebibytes() });
    }
    figures
}

/// On a server of one's own, which is started again with its scheduler: the time counts from exec, with the start of
/// everything else and the reading of all objects in it.
pub async fn on_own(
    subject: &Subject,
    size: Size,
    supervisor: &Supervisor,
    keep: impl FnOnce(Subject) -> std::sync::Arc<Subject>,
) -> Result<Vec<Figure>, BenchError> {
    let pods = backlog(subject, size).await?;
    let place: Option<Place> = subject.stop().await;
    let place = place.ok_or_else(|| BenchError::Flags("the server is not one of our own".to_owned()))?;
    let (again, _) = Subject::start(place, Start::default(), supervisor).await?;
    let again = keep(again);
    bound(&again, &pods).await?;
    Ok(figures(&again, size, again.began().elapsed(), Duration::ZERO))
}

/// Ends what it holds when it is dropped.
struct Foreign(Child);
impl Drop for Foreign {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// On a server elsewhere, whose scheduler `command` starts (and is: it ends with the row).
pub async fn elsewhere(subject: &Subject, size: Size, command: &str) -> Result<Vec<Figure>, BenchError> {
    let pods = backlog(subject, size).await?;
    let (began, cpu) = (Instant::now(), subject.cpu_time());
    // `exec`, so that the scheduler is what is ended, and not a shell beside it.
    let spawned = Command::new("sh").arg("-c").arg(format!("exec {command}")).stdin(Stdio::null()).spawn();
    let spawn = |source| BenchError::Spawn { program: command.into(), source };
    let _scheduler = Foreign(spawned.map_err(spawn)?);
    bound(subject, &pods).await?;
    Ok(figures(subject, size, began.elapsed(), cpu))
}
