//! The CRI as others use it: gRPC on the socket, then the URLs that it answers, over SPDY and WebSocket, to real
//! containers.
#![expect(clippy::unwrap_used, reason = "tests: a failed step fails the test")]

use std::sync::Arc;

use http::Request;
use skiff_base::clock::SystemClock;
use skiff_cri::streaming::StreamUrls;
use skiff_cri::v1::*;
use skiff_cri::{Code, CriServer, GrpcRuntime, ImageService, RuntimeService};
use skiff_net::client::{Client, Options as ClientOptions};
use skiff_net::remotecommand::{self, ClientStreams, Framing, Options, Outcome, TerminalSize};
use skiff_net::{Body, portforward};
use skiff_streaming::StreamingServer;
use skiff_testkit::runtime::{Fixture, shell};
use skiff_testkit::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct World {
    fixture: Fixture,
    runtime: Arc<dyn RuntimeService>,
    images: Arc<dyn ImageService>,
    server: Arc<StreamingServer>,
    client: Client,
}

impl World {
    async fn new() -> Option<Self> {
        let fixture = Fixture::new().await?;
        let tasks = fixture.tasks.clone();
        let streaming = Arc::new(fixture.runtime.clone());
        let server =
            StreamingServer::start(([127, 0, 0, 1], 0).into(), streaming, SystemClock::shared(), &tasks).unwrap();
        fixture.runtime.serve_urls(&server);
        let socket = fixture.root.join("../cri.sock");
        let bound = CriServer::bind(&socket).unwrap();
        let (services, token) = (Arc::new(fixture.runtime.clone()), tasks.token().clone());
        tasks.spawn("cri", skiff_base::task::OnFailure::Forget, async move {
            let images: Arc<dyn ImageService> = services.clone();
            bound.serve(services, images, token.cancelled_owned()).await.unwrap();
        });
        let connected = GrpcRuntime::connect(&format!("unix://{}", socket.display())).await.unwrap();
        Some(Self {
            runtime: Arc::new(connected.runtime()),
            images: Arc::new(connected.images()),
            client: Client::new(ClientOptions::default(), tasks),
            server,
            fixture,
        })
    }

    async fn dial(&self, url: &str, options: Options, framing: Framing) -> ClientStreams {
        let request = Request::post(url).body(Body::Empty).unwrap();
        remotecommand::connect(&self.client, request, options, framing, &self.fixture.tasks).await.unwrap()
    }

    async fn exec(&self, container: &str, line: &str, options: Options, framing: Framing) -> ClientStreams {
        let request = ExecRequest {
            container_id: container.to_owned(),
            cmd: ["sh", "-c", line].map(str::to_owned).to_vec(),
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            tty: options.tty,
        };
        let url = self.runtime.exec(request).await.unwrap().url;
        assert!(url.starts_with(&format!("http://{}/exec/", self.server.address())), "{url}");
        self.dial(&url, options, framing).await
    }
}

async fn text(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut text = String::new();
    stream.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

const ALL: Options = Options { stdin: true, stdout: true, stderr: true, tty: false };

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_by_url_over_both_framings() {
    let Some(world) = World::new().await else { return };
    let pod = world.fixture.pod("exec").await;
    let id = world.fixture.started(&pod, shell("c", "sleep 1000")).await;
    for framing in [Framing::Spdy, Framing::WebSocket] {
        let line = "cat; echo err >&2; exit 7";
        let mut streams = world.exec(&id, line, ALL, framing).await;
        let mut stdin = streams.stdin.take().unwrap();
        stdin.write_all(b"hello\n").await.unwrap();
        stdin.shutdown().await.unwrap();
        let (out, err) = (streams.stdout.take(), streams.stderr.take());
        let ((out, err), outcome) = tokio::join!(async { tokio::join!(text(out), text(err)) }, streams.outcome());
        assert_eq!((out.as_str(), err.as_str()), ("hello\n", "err\n"), "{framing:?}");
        assert!(matches!(outcome, Outcome::Exit { code: 7, .. }), "{framing:?} {outcome:?}");

        let terminal = Options { stdin: true, stdout: true, stderr: false, tty: true };
        let line = "while ! stty size 2>/dev/null | grep -q '43 132'; do sleep 0.02; done; echo sized";
        let mut streams = world.exec(&id, line, terminal, framing).await;
        streams.resize(TerminalSize { width: 132, height: 43 }).await.unwrap();
        let out = streams.stdout.take();
        let (out, outcome) = tokio::join!(text(out), streams.outcome());
        assert_eq!((out.trim_end(), outcome), ("sized", Outcome::Success), "{framing:?}");
    }
    // Something big comes whole, and the end of it before the exit code.
    let mut streams =
        world.exec(&id, "head -c 3000000 /dev/zero", Options { stdin: false, ..ALL }, Framing::Spdy).await;
    let mut bytes = Vec::new();
    streams.stdout.take().unwrap().read_to_end(&mut bytes).await.unwrap();
    assert_eq!((bytes.len(), streams.outcome().await), (3_000_000, Outcome::Success));
    world.fixture.remove(&pod.0).await;
    world.fixture.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_own_program_is_joined_by_url() {
    let Some(world) = World::new().await else { return };
    let pod = world.fixture.pod("attach").await;
    let config = ContainerConfig { stdin: true, ..shell("c", "while read line; do echo got $line; done; exit 4") };
    let id = world.fixture.started(&pod, config).await;
    let request = AttachRequest { container_id: id, stdin: true, stdout: true, stderr: true, tty: false };
    let url = world.runtime.attach(request).await.unwrap().url;
    let mut streams = world.dial(&url, ALL, Framing::WebSocket).await;
    let mut stdin = streams.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    let mut answer = [0; 8];
    streams.stdout.as_mut().unwrap().read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"got one\n");
    drop((stdin, streams));
    world.fixture.remove(&pod.0).await;
    world.fixture.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_reached_by_url() {
    let Some(world) = World::new().await else { return };
    let pod = world.fixture.pod("forward").await;
    let id = world.fixture.started(&pod, shell("c", "while :; do echo answer | nc -l -p 8080; done")).await;
    for websocket in [false, true] {
        let listens = "cat /proc/net/tcp /proc/net/tcp6 | grep -q ':1F90 .* 0A '";
        until("a listener", async || world.fixture.exec(&id, listens).await.unwrap().0 == 0).await;
        let request = PortForwardRequest { pod_sandbox_id: pod.0.clone(), port: vec![8080] };
        let url = world.runtime.port_forward(request).await.unwrap().url;
        let request = Request::post(&url).body(Body::Empty).unwrap();
        let forwarder = portforward::connect(&world.client, request, websocket, &world.fixture.tasks).await.unwrap();
        let mut forward = forwarder.forward(8080).await.unwrap();
        let mut answer = [0; 7];
        forward.data.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer\n", "websocket {websocket}");
        // Nobody listens there.
        let refused = forwarder.forward(8081).await.unwrap();
        let reason = text(Some(refused.error)).await;
        assert!(reason.contains("failed to connect to localhost:8081") && reason.contains("refused"), "{reason}");
    }
    world.fixture.remove(&pod.0).await;
    world.fixture.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_streamed_gets_no_url() {
    let Some(world) = World::new().await else { return };
    let pod = world.fixture.pod("refused").await;
    let id = world.fixture.create(&pod, shell("c", "sleep 1000")).await.unwrap();
    let exec = ExecRequest { container_id: id.clone(), cmd: vec!["true".into()], stdout: true, ..Default::default() };
    assert_eq!(world.runtime.exec(exec.clone()).await.unwrap_err().code, Code::FailedPrecondition);
    world.fixture.start(&id).await.unwrap();
    let none = ExecRequest { stdout: false, ..exec.clone() };
    let refused = world.runtime.exec(none).await.unwrap_err();
    assert_eq!(refused.message, "one of stdin, stdout, or stderr must be set");
    let both = ExecRequest { tty: true, stderr: true, ..exec.clone() };
    assert_eq!(world.runtime.exec(both).await.unwrap_err().message, "tty and stderr cannot both be true");
    let nobody = PortForwardRequest { pod_sandbox_id: "nobody".into(), port: vec![1] };
    assert!(world.runtime.port_forward(nobody).await.unwrap_err().is_not_found());
    assert_eq!(
        StreamUrls::port_forward(&*world.server, PortForwardRequest::default()).unwrap_err().message,
        "missing required pod_sandbox_id"
    );

    // A URL is good once, for what it was given for, and only with an upgrade.
    let url = world.runtime.exec(exec.clone()).await.unwrap().url;
    let get = |url: String| world.client.send(Request::get(url).body(Body::Empty).unwrap());
    assert_eq!(get(url.replace("/exec/", "/attach/")).await.unwrap().status(), 404);
    assert_eq!(get(url).await.unwrap().status(), 404, "spent");
    let url = world.runtime.exec(exec).await.unwrap().url;
    assert_eq!(get(url).await.unwrap().status(), 400);
    let image = ImageSpec { image: "busybox".into(), ..Default::default() };
    let status = world.images.image_status(ImageStatusRequest { image: Some(image), verbose: false }).await.unwrap();
    assert!(status.image.is_some());
    world.fixture.remove(&pod.0).await;
    world.fixture.assert_nothing_left().await;
}
