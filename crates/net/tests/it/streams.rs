//! exec, attach and port forwarding, our client against our server, over TLS and through a proxy.

use crate::http::{Fixture, start};
use ::http::{Request, Response};
use skiff_base::task::{OnFailure, Supervisor};
use skiff_net::remotecommand::{self, Framing, Options, Outcome, TerminalSize, Version};
use skiff_net::{Body, Peer, Service, ServiceFuture, portforward, proxy};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs a "command": copies input to output in upper case, says how much it was, tells the terminal's last size.
struct Kubelet {
    supervisor: Supervisor,
}

impl Service for Kubelet {
    fn call(&self, _peer: &Peer, mut request: Request<Body>) -> ServiceFuture<'_> {
        let path = request.uri().path().to_owned();
        let supervisor = self.supervisor.clone();
        Box::pin(async move {
            match path.as_str() {
                "/exec" | "/tty" => {
                    let tty = path == "/tty";
                    let options = Options { stdin: true, stdout: true, stderr: !tty, tty };
                    let (answer, accepting) = match remotecommand::accept(&mut request, options, &supervisor) {
                        Ok(accepted) => accepted,
                        Err(refusal) => return *refusal,
                    };
                    supervisor.spawn_abortable("exec", OnFailure::Forget, async move {
                        let mut streams = accepting.streams().await.unwrap();
                        let (mut stdin, mut stdout) = (streams.stdin.take().unwrap(), streams.stdout.take().unwrap());
                        if let Some(mut sizes) = streams.resize.take() {
                            let size = sizes.recv().await.unwrap();
                            stdout.write_all(format!("{}x{}", size.width, size.height).as_bytes()).await.unwrap();
                        } else {
                            let mut text = Vec::new();
                            stdin.read_to_end(&mut text).await.unwrap();
                            stdout.write_all(&text.to_ascii_uppercase()).await.unwrap();
                            let mut stderr = streams.stderr.take().unwrap();
                            stderr.write_all(format!("{} bytes", text.len()).as_bytes()).await.unwrap();
                        }
                        drop(stdout);
                        streams.finish(&Outcome::Exit { code: 3, message: "exit code 3".into() }).await;
                    });
                    answer
                }
                "/forward" => {
                    let (answer, accepting) = match portforward::accept(&mut request, &supervisor) {
                        Ok(accepted) => accepted,
                        Err(refusal) => return *refusal,
                    };
                    let inner = supervisor.clone();
                    supervisor.spawn_abortable("forward", OnFailure::Forget, async move {
                        let mut connections = accepting.connections().await.unwrap();
                        while let Some(mut one) = connections.accept().await {
                            inner.spawn_abortable("one", OnFailure::Forget, async move {
                                if one.port == 1 {
                                    one.error.write_all(b"nobody listens").await.unwrap();
                                    return;
                                }
                                let (mut read, mut write) = tokio::io::split(one.data);
                                tokio::io::copy(&mut read, &mut write).await.unwrap();
                                write.shutdown().await.unwrap();
                            });
                        }
                    });
                    answer
                }
                "/refuse" => Response::builder().status(403).body("no".into()).unwrap(),
                _ => Response::builder().status(302).header("location", "/exec").body(Body::Empty).unwrap(),
            }
        })
    }
}

/// Passes upgrades on, as the API server does.
struct Proxy {
    supervisor: Supervisor,
    client: skiff_net::client::Client,
    back: String,
}
impl Service for Proxy {
    fn call(&self, _peer: &Peer, mut request: Request<Body>) -> ServiceFuture<'_> {
        *request.uri_mut() = format!("{}{}", self.back, request.uri()).parse().unwrap();
        request.headers_mut().remove("host");
        Box::pin(async move {
            proxy::upgrade(&self.client, request, &self.supervisor)
                .await
                .unwrap_or_else(|error| Response::builder().status(502).body(error.to_string().into()).unwrap())
        })
    }
}

struct World {
    back: Fixture,
    front: Fixture,
}

async fn world() -> World {
    let back = start(Arc::new(Kubelet { supervisor: Supervisor::new("kubelet") }));
    let client = back.client(false, true);
    let proxy = Proxy { supervisor: Supervisor::new("proxy"), client, back: back.url("") };
    World { front: start(Arc::new(proxy)), back }
}

async fn limit<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("in time")
}

#[tokio::test]
async fn exec_over_both_framings_direct_and_through_a_proxy() {
    let world = world().await;
    for (fixture, via) in [(&world.back, "direct"), (&world.front, "proxy")] {
        for framing in [Framing::WebSocket, Framing::Spdy] {
            let client = fixture.client(false, true);
            let options = Options { stdin: true, stdout: true, stderr: true, tty: false };
            let request = Request::post(fixture.url("/exec")).body(Body::Empty).unwrap();
            let mut streams =
                limit(remotecommand::connect(&client, request, options, framing, &fixture.supervisor)).await.unwrap();
            assert_eq!(streams.version, if framing == Framing::Spdy { Version::V4 } else { Version::V5 });
            // More than any pipe or window holds: both directions have to flow.
            let text = b"abcdefghij".repeat(200_000);
            let (mut stdin, mut stdout) = (streams.stdin.take().unwrap(), streams.stdout.take().unwrap());
            let mut stderr = streams.stderr.take().unwrap();
            let (sent, mut out, mut err) = (text.clone(), Vec::new(), Vec::new());
            let (_, _, _, outcome) = limit(async {
                tokio::join!(
                    async move {
                        stdin.write_all(&sent).await.unwrap();
                        stdin.shutdown().await.unwrap();
                    },
                    async { stdout.read_to_end(&mut out).await.unwrap() },
                    async { stderr.read_to_end(&mut err).await.unwrap() },
                    streams.outcome()
                )
            })
            .await;
            assert!(out == text.to_ascii_uppercase(), "{via} {framing:?}: {} bytes", out.len());
            assert_eq!(err, b"2000000 bytes");
            assert!(matches!(outcome, Outcome::Exit { code: 3, .. }), "{via} {framing:?}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn terminal_sizes_arrive() {
    let world = world().await;
    for framing in [Framing::WebSocket, Framing::Spdy] {
        let client = world.back.client(false, true);
        let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
        let request = Request::post(world.back.url("/tty")).body(Body::Empty).unwrap();
        let connecting = remotecommand::connect(&client, request, options, framing, &world.back.supervisor);
        let mut streams = limit(connecting).await.unwrap();
        streams.resize(TerminalSize { width: 80, height: 24 }).await.unwrap();
        let mut out = String::new();
        limit(streams.stdout.take().unwrap().read_to_string(&mut out)).await.unwrap();
        assert_eq!(out, "80x24");
    }
}

#[tokio::test]
async fn ports_are_forwarded_many_at_once() {
    let world = world().await;
    for fixture in [&world.back, &world.front] {
        for websocket in [false, true] {
            let client = fixture.client(false, true);
            let request = Request::post(fixture.url("/forward")).body(Body::Empty).unwrap();
            let forwarder =
                limit(portforward::connect(&client, request, websocket, &fixture.supervisor)).await.unwrap();
            let one = async |port: u16| {
                let forward = forwarder.forward(port).await.unwrap();
                let text = vec![u8::try_from(port % 251).unwrap(); 300_000];
                let (mut read, mut write) = tokio::io::split(forward.data);
                let mut back = Vec::new();
                let (sent, got) = tokio::join!(
                    async {
                        write.write_all(&text).await?;
                        write.shutdown().await
                    },
                    read.read_to_end(&mut back)
                );
                sent.unwrap();
                got.unwrap();
                assert!(back == text);
            };
            limit(async { tokio::join!(one(80), one(81), one(82), one(8080)) }).await;
            let mut failed = limit(forwarder.forward(1)).await.unwrap();
            let mut why = String::new();
            limit(failed.error.read_to_string(&mut why)).await.unwrap();
            assert_eq!(why, "nobody listens");
        }
    }
}

#[tokio::test]
async fn a_terminal_may_be_stopped_for_long() {
    let short = Duration::from_millis(200);
    let options = skiff_net::server::Options { stalled_write: short, ..Default::default() };
    let kubelet = Arc::new(Kubelet { supervisor: Supervisor::new("kubelet") });
    let fixture = crate::http::start_with(kubelet, options);
    let client = fixture.client(false, true);
    let options = Options { stdin: true, stdout: true, stderr: true, tty: false };
    let request = Request::post(fixture.url("/exec")).body(Body::Empty).unwrap();
    let connecting = remotecommand::connect(&client, request, options, Framing::WebSocket, &fixture.supervisor);
    let mut streams = limit(connecting).await.unwrap();
    let (mut stdin, mut stdout) = (streams.stdin.take().unwrap(), streams.stdout.take().unwrap());
    let mut stderr = streams.stderr.take().unwrap();
    // More than sockets and pipes hold, so that the server's writes have to wait.
    let text = vec![b'x'; 16 << 20];
    limit(async {
        stdin.write_all(&text).await.unwrap();
        stdin.shutdown().await.unwrap();
    })
    .await;
    tokio::time::timeout(4 * short, std::future::pending::<()>()).await.unwrap_err();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    limit(async { tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err), streams.outcome()) })
        .await
        .0
        .unwrap();
    assert_eq!(out.len(), text.len());
}

#[tokio::test]
async fn refusals_are_passed_on_and_redirects_are_not() {
    let world = world().await;
    let client = world.front.client(false, true);
    let ask = async |path: &str| {
        let options = Options { stdout: true, ..Options::default() };
        let request = Request::post(world.front.url(path)).body(Body::Empty).unwrap();
        let outcome = remotecommand::connect(&client, request, options, Framing::Spdy, &world.front.supervisor).await;
        match outcome {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{path} was accepted"),
        }
    };
    assert_eq!(limit(ask("/refuse")).await, "the server answered 403 Forbidden instead of changing protocols");
    assert_eq!(limit(ask("/redirect")).await, "the server answered 502 Bad Gateway instead of changing protocols");
}

#[test]
fn outcomes_are_upstreams_status() {
    let exit = Outcome::Exit { code: 3, message: "exit status 3".into() };
    assert_eq!(
        String::from_utf8(exit.encode(Version::V4)).unwrap(),
        "{\"metadata\":{},\"status\":\"Failure\",\"message\":\"command terminated with non-zero exit code: exit status 3\",\
         \"reason\":\"NonZeroExitCode\",\"details\":{\"causes\":[{\"reason\":\"ExitCode\",\"message\":\"3\"}]}}"
    );
    assert_eq!(Outcome::Success.encode(Version::V4), b"{\"metadata\":{},\"status\":\"Success\"}");
    assert!(Outcome::Success.encode(Version::V1).is_empty());
    assert!(matches!(Outcome::parse(b"", Version::V4), Outcome::Failed(_)), "an outcome that never came");
}
