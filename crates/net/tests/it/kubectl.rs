//! The kubectl of this machine, unmodified, against our server side: both framings, exec and port forwarding.

use crate::http::start;
use ::http::{Request, Response};
use skiff_base::pki::Client as Identity;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_net::remotecommand::{self, Options, Outcome};
use skiff_net::{Body, Peer, Service, ServiceFuture, portforward};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// As much of an API server as kubectl wants to see before it opens streams to a pod.
struct OnePod {
    supervisor: Supervisor,
}

fn json(body: &'static str) -> Response<Body> {
    Response::builder().header("content-type", "application/json").body(body.into()).unwrap()
}

impl Service for OnePod {
    fn call(&self, _peer: &Peer, mut request: Request<Body>) -> ServiceFuture<'_> {
        let supervisor = self.supervisor.clone();
        Box::pin(async move {
            match request.uri().path() {
                "/api" => json(r#"{"kind":"APIVersions","apiVersion":"v1","versions":["v1"]}"#),
                "/apis" => json(r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#),
                "/api/v1" => json(
                    r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"pods","singularName":"pod",
                    "namespaced":true,"kind":"Pod","verbs":["get"]}]}"#,
                ),
                "/api/v1/namespaces/default/pods/web" => json(
                    r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","namespace":"default"},
                    "spec":{"containers":[{"name":"c","image":"i"}]},"status":{"phase":"Running"}}"#,
                ),
                "/api/v1/namespaces/default/pods/web/exec" => {
                    let query = request.uri().query().unwrap_or_default().to_owned();
                    let has = |key: &str| query.contains(&format!("{key}=true"));
                    let options =
                        Options { stdin: has("stdin"), stdout: has("stdout"), stderr: has("stderr"), tty: has("tty") };
                    let (answer, accepting) = match remotecommand::accept(&mut request, options, &supervisor) {
                        Ok(accepted) => accepted,
                        Err(refusal) => return *refusal,
                    };
                    supervisor.spawn_abortable("exec", OnFailure::Forget, async move {
                        let mut streams = accepting.streams().await.unwrap();
                        let mut stdout = streams.stdout.take().unwrap();
                        let mut read = 0;
                        if let Some(mut stdin) = streams.stdin.take() {
                            let mut text = Vec::new();
                            stdin.read_to_end(&mut text).await.unwrap();
                            read = text.len();
                            stdout.write_all(&text.to_ascii_uppercase()).await.unwrap();
                        }
                        let mut stderr = streams.stderr.take().unwrap();
                        stderr.write_all(format!("{read} bytes, {:?}", streams.version).as_bytes()).await.unwrap();
                        drop((stdout, stderr));
                        streams.finish(&Outcome::Exit { code: 7, message: "exit status 7".into() }).await;
                    });
                    answer
                }
                "/api/v1/namespaces/default/pods/web/portforward" => {
                    let (answer, accepting) = match portforward::accept(&mut request, &supervisor) {
                        Ok(accepted) => accepted,
                        Err(refusal) => return *refusal,
                    };
                    supervisor.clone().spawn_abortable("forward", OnFailure::Forget, async move {
                        let mut connections = accepting.connections().await.unwrap();
                        while let Some(mut one) = connections.accept().await {
                            supervisor.spawn_abortable("one", OnFailure::Forget, async move {
                                let mut line = [0; 5];
                                one.data.read_exact(&mut line).await.unwrap();
                                one.data.write_all(&line.to_ascii_uppercase()).await.unwrap();
                            });
                        }
                    });
                    answer
                }
                _ => Response::builder().status(404).body(Body::Empty).unwrap(),
            }
        })
    }
}

struct Cluster {
    fixture: crate::http::Fixture,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Option<Self> {
        let found = std::process::Command::new("kubectl").args(["version", "--client"]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            println!("skipped: there is no kubectl");
            return None;
        }
        let fixture = start(Arc::new(OnePod { supervisor: Supervisor::new("pod") }));
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        fixture.pki.ensure_kubeconfig(&config, &fixture.url(""), &Identity::admin(), SystemTime::now()).unwrap();
        Some(Self { fixture, dir })
    }
    fn kubectl(&self, websocket: bool, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        let on = if websocket { "true" } else { "false" };
        command
            .arg("--kubeconfig")
            .arg(self.dir.path().join("config"))
            .arg("--cache-dir")
            .arg(self.dir.path().join("cache"))
            .args(args)
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", on)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", on)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

async fn limit<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("in time")
}

#[tokio::test]
async fn kubectl_exec() {
    let Some(cluster) = Cluster::start() else { return };
    for (websocket, version) in [(true, "V5"), (false, "V4")] {
        let mut child = cluster.kubectl(websocket, &["exec", "-i", "web", "--", "tr"]).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let text = b"some text to shout ".repeat(50_000);
        let sent = text.clone();
        let (_, output) = limit(async {
            tokio::join!(
                async move {
                    stdin.write_all(&sent).await.unwrap();
                    stdin.shutdown().await.unwrap();
                },
                child.wait_with_output()
            )
        })
        .await;
        let output = output.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout == text.to_ascii_uppercase(), "{version}: {} bytes, {stderr}", output.stdout.len());
        assert!(stderr.contains(&format!("{} bytes, {version}", text.len())), "{stderr}");
        assert_eq!(output.status.code(), Some(7), "{stderr}");
        let output = limit(cluster.kubectl(websocket, &["exec", "web", "--", "tr"]).output()).await.unwrap();
        assert_eq!(output.status.code(), Some(7), "without stdin: {}", String::from_utf8_lossy(&output.stderr));
    }
    drop(cluster.fixture);
}

#[tokio::test]
async fn kubectl_port_forward() {
    let Some(cluster) = Cluster::start() else { return };
    for websocket in [true, false] {
        let mut child = cluster.kubectl(websocket, &["port-forward", "web", ":80"]).spawn().unwrap();
        let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let line = limit(lines.next_line()).await.unwrap().expect("kubectl says where it listens");
        let address = line.split_whitespace().nth(2).unwrap().to_owned();
        for _ in 0..3 {
            let mut stream = limit(tokio::net::TcpStream::connect(&address)).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut back = Vec::new();
            limit(stream.read_to_end(&mut back)).await.unwrap();
            assert_eq!(back, b"HELLO", "websocket: {websocket}");
        }
        child.kill().await.unwrap();
    }
}
