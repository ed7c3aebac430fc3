//! The rows of pods on a node: the load of `pod-load`.

use crate::error::BenchError;
use crate::rows::{Figure, Unit};
use crate::sample;
use crate::subject::Subject;
use crate::wire::Call;
use http_body_util::BodyExt;
use skiff_base::task::OnFailure;
use skiff_machinery::Value;
use skiff_machinery::codec::json;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a pod may take to get where it should.
const LIMIT: Duration = Duration::from_secs(180);
/// Pods one after the other.
const ALONE: usize = 10;

/// What the pods of these rows run.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The image; it is on the node already.
    pub image: String,
    /// Arguments of its entry point.
    pub args: Vec<String>,
}

/// What all three rows saw.
#[derive(Clone, Debug)]
pub struct Pods {
    /// Milliseconds from create to Running, each alone.
    pub alone: Vec<f64>,
    /// From the first create to the last Running.
    pub together: Duration,
    /// From the first delete to the last gone.
    pub gone: Duration,
}

impl Pods {
    /// The first row's figures.
    pub fn alone(&self) -> Vec<Figure> {
        let (median, p99) = sample::median_and_p99(&mut self.alone.clone());
        vec![Figure { unit: Unit::Median, value: median }, Figure { unit: Unit::P99, value: p99 }]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reached {
    Running,
    Gone,
}

/// What a watch of the namespace's pods tells, in order.
struct Seen {
    events: mpsc::Receiver<(Reached, String, Instant)>,
    known: HashMap<(Reached, String), Instant>,
}

impl Seen {
    async fn wait(&mut self, reached: Reached, name: &str) -> Result<Instant, BenchError> {
        let key = (reached, name.to_owned());
        let waiting = async {
            loop {
                if let Some(at) = self.known.get(&key) {
                    return Some(*at);
                }
                let (reached, name, at) = self.events.recv().await?;
                self.known.entry((reached, name)).or_insert(at);
            }
        };
        let what = || format!("pod {name} was not seen {reached:?}");
        let late = || BenchError::Late { what: what(), seconds: LIMIT.as_secs() };
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(Some(at)) => Ok(at),
            Ok(None) => Err(BenchError::Content { request: "watch of pods".to_owned(), what: "it ended".to_owned() }),
            Err(_) => Err(late()),
        }
    }
}

fn reached(event: &Value) -> Option<(Reached, String)> {
    let name = event.str_at(&["object", "metadata", "name"]).to_owned();
    match (event.str_at(&["type"]), event.str_at(&["object", "status", "phase"])) {
        ("DELETED", _) => Some((Reached::Gone, name)),
        (_, "Running") => Some((Reached::Running, name)),
        _ => None,
    }
}

async fn watch(subject: &Subject, pods: &str) -> Result<Seen, BenchError> {
    let call = Call::get(format!("{pods}?watch=1"));
    let answer = subject.wire().connection().open(&call).await?;
    if !answer.status().is_success() {
        let (request, status) = (call.path, answer.status());
        return Err(BenchError::Refused { request, status, body: String::new() });
    }
    let (sender, events) = mpsc::channel(1024);
    let mut body = answer.into_body();
    subject.wire().supervisor().spawn_abortable("watch of pods", OnFailure::Forget, async move {
        let mut line = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(bytes) = frame.into_data() else { continue };
            for part in bytes.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(part);
                if part.ends_with(b"\n") {
                    let event = json::from_slice(&line).ok().as_ref().and_then(reached);
                    line.clear();
                    if let Some((reached, name)) = event
                        && sender.send((reached, name, Instant::now())).await.is_err()
                    {
                        return;
                    }
                }
            }
        }
    });
    Ok(Seen { events, known: HashMap::new() })
}

/// Runs pods on the cluster's node: ten one after the other, `count` at once, and deletes those at once.
pub async fn pods(subject: &Subject, count: usize, workload: &Workload) -> Result<Pods, BenchError> {
    let namespace = subject.namespace().await?;
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut seen = watch(subject, &path).await?;
    let create = |name: String| {
        let call = Call::post(path.as_str(), pod(&name, workload));
        async move { subject.control().exchange(&call).await.map(|()| name) }
    };
    seen.wait(Reached::Running, &create("warm".to_owned()).await?).await?;
    let mut alone = Vec::new();
    for number in 0..ALONE {
        let began = Instant::now();
        let name = create(format!("one-{number}")).await?;
        alone.push((seen.wait(Reached::Running, &name).await? - began).as_secs_f64() * 1e3);
    }
    let began = Instant::now();
    let mut names = HashSet::new();
    for number in 0..count {
        names.insert(create(format!("all-{number}")).await?);
    }
    let mut last = began;
    for name in &names {
        last = last.max(seen.wait(Reached::Running, name).await?);
    }
    let together = last - began;
    let began = Instant::now();
    for name in &names {
        subject.control().exchange(&Call::delete(format!("{path}/{name}"))).await?;
    }
    let mut last = began;
    for name in &names {
        last = last.max(seen.wait(Reached::Gone, name).await?);
    }
    Ok(Pods { alone, together, gone: last - began })
}

fn pod(name: &str, workload: &Workload) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": true,
            "containers": [{
                "name": "c",
                "image": workload.image,
                "args": workload.args,
                "imagePullPolicy": "IfNotPresent",
            }],
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Option<(Reached, String)> {
        reached(&json::from_slice(text.as_bytes()).expect("JSON"))
    }

    #[test]
    fn only_running_and_gone_count() {
        let running = r#"{"type":"MODIFIED","object":{"metadata":{"name":"a"},"status":{"phase":"Running"}}}"#;
        assert_eq!(event(running), Some((Reached::Running, "a".to_owned())));
        let gone = r#"{"type":"DELETED","object":{"metadata":{"name":"a"},"status":{"phase":"Running"}}}"#;
        assert_eq!(event(gone), Some((Reached::Gone, "a".to_owned())));
        assert_eq!(event(r#"{"type":"ADDED","object":{"metadata":{"name":"a"},"status":{}}}"#), None);
    }
}
