//! The rows of requests and of the watch: the load of `api-load` and `watch-load`, on any API server.

use crate::error::BenchError;
use crate::rows::{Figure, Requests, Unit};
use crate::sample;
use crate::subject::Subject;
use crate::wire::{Call, Connection, Load, closed_loop};
use bytes::Bytes;
use http_body_util::BodyExt;
use skiff_base::task::OnFailure;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Pods that a list holds.
const LISTED: usize = 2000;
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// How long all watchers may take to see the last event.
const EVENTS: Duration = Duration::from_secs(120);

/// A ConfigMap of 1 KiB.
fn configmap() -> Bytes {
    let data: Vec<String> = (0..14).map(|number| format!("\"k{number}\":\"{}\"", "v".repeat(64))).collect();
    let head = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"c-","labels":{"app":"load"}}"#;
    format!("{head},\"data\":{{{}}}}}", data.join(",")).into()
}

/// A pod as a Deployment makes them. No scheduler takes it.
const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"p-","labels":{"app":"load","tier":"web","pod-template-hash":"5d4f8c7b9"}},"spec":{"schedulerName":"nobody","containers":[{"name":"web","image":"registry.example/web:1.2.3","ports":[{"containerPort":8080,"name":"http"}],"env":[{"name":"A","value":"1"},{"name":"POD","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],"resources":{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"cpu":"1","memory":"128Mi"}},"readinessProbe":{"httpGet":{"path":"/healthz","port":"http"},"periodSeconds":5},"volumeMounts":[{"name":"cfg","mountPath":"/etc/cfg"}]}],"volumes":[{"name":"cfg","configMap":{"name":"cfg"}}]}}"#;

/// The load on one server: what was made there so far.
pub struct ApiLoad {
    namespace: String,
    /// Requests of the largest row.
    requests: usize,
    pods: usize,
}

impl ApiLoad {
    /// In a namespace of its own; `requests` scales all rows but the lists.
    pub async fn new(subject: &Subject, requests: usize) -> Result<Self, BenchError> {
        Ok(Self { namespace: subject.namespace().await?, requests, pods: 0 })
    }

    fn path(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }

    /// Creates pods until there are so many.
    async fn fill(&mut self, subject: &Subject, pods: usize) -> Result<(), BenchError> {
        if self.pods < pods {
            let load = Load { requests: pods - self.pods, connections: 4, streams: 8 };
            closed_loop(subject.wire(), load, &Call::post(self.path("pods"), POD)).await?;
            self.pods = pods;
        }
        Ok(())
    }

    async fn one_pod(&mut self, subject: &Subject) -> Result<String, BenchError> {
        self.fill(subject, 1).await?;
        let call = Call::get(self.path("pods?limit=1"));
        let list = subject.control().value(&call).await?;
        let name = list.items_at(&["items"]).first().map_or("", |pod| pod.str_at(&["metadata", "name"]));
        Ok(self.path(&format!("pods/{name}")))
    }

    /// Measures one row of requests.
    pub async fn measure(&mut self, subject: &Subject, requests: Requests) -> Result<Vec<Figure>, BenchError> {
        let all = self.requests;
        let load = |requests: usize, connections, streams| Load { requests: requests.max(1), connections, streams };
        let lists = (all / 40).clamp(8, 100);
        let (load, call) = match requests {
            Requests::CreateConfigMapAlone => (load(all / 8, 1, 1), Call::post(self.path("configmaps"), configmap())),
            Requests::CreateConfigMap => (load(all, 4, 8), Call::post(self.path("configmaps"), configmap())),
            Requests::CreatePod => (load(all / 2, 4, 8), Call::post(self.path("pods"), POD)),
            Requests::GetPod => (load(all * 2, 4, 8), Call::get(self.one_pod(subject).await?)),
            Requests::PatchPod => {
                let patch = r#"{"metadata":{"annotations":{"a":"b"}}}"#;
                let call = Call::merge(self.one_pod(subject).await?, patch);
                // The first one has an effect.
                subject.control().exchange(&call).await?;
                (load(all / 2, 4, 8), call)
            }
            Requests::ListJson => (load(lists, 4, 1), Call::get(self.path("pods?resourceVersion=0"))),
            Requests::ListProtobuf => {
                (load(lists, 4, 1), Call::get(self.path("pods?resourceVersion=0")).accept(PROTOBUF))
            }
            Requests::ListConsistent => (load(lists, 4, 1), Call::get(self.path("pods"))),
            Requests::ListPages => (load(lists * 2, 4, 1), Call::get(self.path("pods?limit=500"))),
        };
        let list = matches!(requests, Requests::ListJson | Requests::ListProtobuf | Requests::ListConsistent);
        if list || requests == Requests::ListPages {
            self.fill(subject, LISTED).await?;
            let expected = if list { self.pods } else { 500 };
            check_list(subject.control(), &call, expected).await?;
        }
        let figures = measured(subject, load, &call).await?;
        if requests == Requests::CreatePod {
            self.pods += load.requests;
        }
        Ok(figures)
    }

    /// Watches ConfigMaps with `watchers` watches and writes `writes` of them, one after the other.
    pub async fn watch(&self, subject: &Subject, watchers: usize, writes: usize) -> Result<Vec<Figure>, BenchError> {
        let watch = Call::get(self.path("configmaps?watch=1&labelSelector=fan%3D1"));
        let (sender, mut seen) = mpsc::channel(watchers);
        let mut connection = subject.wire().connection();
        for number in 0..watchers {
            // Servers allow about a hundred streams on a connection.
            if number % 50 == 0 {
                connection = subject.wire().connection();
            }
            let answer = connection.open(&watch).await?;
            if !answer.status().is_success() {
                let (request, status) = ("a watch".to_owned(), answer.status());
                return Err(BenchError::Refused { request, status, body: String::new() });
            }
            let sender = sender.clone();
            subject.wire().supervisor().spawn_abortable("watcher", OnFailure::Forget, async move {
                // Nobody listens any more when the row was given up.
                let _ = sender.send(Watcher::default().follow(answer.into_body(), writes).await).await;
            });
        }
        drop(sender);
        let clock = Instant::now();
        EPOCH.get_or_init(|| clock);
        let cpu = subject.cpu_time();
        for _ in 0..writes {
            subject.control().exchange(&Call::post(self.path("configmaps"), fan())).await?;
        }
        let mut latencies: Vec<f64> = Vec::with_capacity(watchers * writes);
        let all = async {
            while let Some(outcome) = seen.recv().await {
                latencies.extend(outcome?);
            }
            Ok::<(), BenchError>(())
        };
        match tokio::time::timeout(EVENTS, all).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                let what = "not all events arrived".to_owned();
                return Err(BenchError::Late { what, seconds: EVENTS.as_secs() });
            }
        }
        let (elapsed, cpu) = (clock.elapsed(), sample::micros_each(cpu, subject.cpu_time(), latencies.len()));
        Ok(figures(subject, latencies.len() as f64 / elapsed.as_secs_f64(), cpu, &mut latencies))
    }
}

/// Whether the list holds what it should: an empty list is fast. Protobuf lists are asked for in JSON here.
async fn check_list(control: &Connection, call: &Call, expected: usize) -> Result<(), BenchError> {
    let json = call.clone().accept("application/json");
    let found = control.value(&json).await?.items_at(&["items"]).len();
    if found == expected {
        return Ok(());
    }
    let what = format!("{found} pods instead of {expected}");
    Err(BenchError::Content { request: format!("{} {}", call.method, call.path), what })
}

async fn measured(subject: &Subject, load: Load, call: &Call) -> Result<Vec<Figure>, BenchError> {
    let before = subject.cpu_time();
    let mut run = closed_loop(subject.wire(), load, call).await?;
    let cpu = sample::micros_each(before, subject.cpu_time(), load.requests);
    Ok(figures(subject, run.rate(), cpu, &mut run.latencies))
}

fn figures(subject: &Subject, rate: f64, cpu: f64, latencies: &mut [f64]) -> Vec<Figure> {
    let (median, p99) = sample::median_and_p99(latencies);
    let mut figures = vec![Figure { unit: Unit::PerSecond, value: rate }];
    if subject.is_visible() {
        figures.push(Figure { unit: Unit::Cpu, value: cpu });
    }
    figures.push(Figure { unit: Unit::Median, value: median });
    figures.push(Figure { unit: Unit::P99, value: p99 });
    figures
}

/// When writes began: events tell how long after it they were sent.
static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

fn since_epoch() -> u128 {
    EPOCH.get().map_or(0, |epoch| epoch.elapsed().as_nanos())
}

/// A ConfigMap that says when it was sent.
fn fan() -> String {
    let (sent, pad) = (since_epoch(), "v".repeat(900));
    format!(r#"{{"metadata":{{"generateName":"f-","labels":{{"fan":"1"}}}},"data":{{"sent":"{sent}","pad":"{pad}"}}}}"#)
}

/// One watcher: lines of events, put together from frames.
#[derive(Default)]
struct Watcher {
    line: Vec<u8>,
    latencies: Vec<f64>,
}

impl Watcher {
    async fn follow(mut self, mut body: skiff_net::Body, events: usize) -> Result<Vec<f64>, BenchError> {
        let broken = |source| BenchError::BrokenOff { request: "a watch".to_owned(), source };
        while self.latencies.len() < events {
            let Some(frame) = body.frame().await else {
                return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
            };
            if let Ok(bytes) = frame.map_err(broken)?.into_data() {
                self.take(&bytes, since_epoch());
            }
        }
        Ok(self.latencies)
    }

    fn take(&mut self, bytes: &[u8], now: u128) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                if let Some(sent) = sent(&self.line) {
                    self.latencies.push(now.saturating_sub(sent) as f64 / 1e6);
                }
                self.line.clear();
            }
        }
    }
}

/// When an event's object was sent.
fn sent(line: &[u8]) -> Option<u128> {
    let mark = br#""sent":""#;
    let at = line.windows(mark.len()).position(|window| window == mark)? + mark.len();
    let digits = line[at..].split(|byte| *byte == b'"').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_frames() {
        let mut watcher = Watcher::default();
        watcher.take(br#"{"type":"ADDED","object":{"data":{"sent":"10000"#, 0);
        assert!(watcher.latencies.is_empty());
        watcher.take(b"00\"}}}\n{\"type\":\"BOOKMARK\"}\n{\"data\":{\"sent\":\"2000000\"}}\n{\"da", 5_000_000);
        assert_eq!(watcher.latencies, [4.0, 3.0]);
    }

    #[test]
    fn bodies_are_json() {
        let configmap = skiff_machinery::codec::json::from_slice(&configmap()).expect("JSON");
        assert_eq!(configmap.object_at(&["data"]).map(|data| data.len()), Some(14));
        assert!(skiff_machinery::codec::json::from_slice(POD.as_bytes()).is_ok());
        assert!(skiff_machinery::codec::json::from_slice(fan().as_bytes()).is_ok());
    }
}
