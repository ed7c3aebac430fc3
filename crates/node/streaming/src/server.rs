//! The CRI's streaming server (upstream: cri-streaming/pkg/streaming/server.go, request_cache.go).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response, StatusCode};
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_cri::streaming::{StreamUrls, Streaming};
use skiff_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use skiff_cri::{Code, CriError};
use skiff_net::remotecommand::Options;
use skiff_net::server::{BindError, Options as ServerOptions, Server};
use skiff_net::{Body, Peer, Service, ServiceFuture, portforward, remotecommand};

use crate::join;

/// How long a URL is good.
const TOKEN_TTL: Duration = Duration::from_secs(60);
/// Most URLs that nobody has dialled yet.
const MAX_IN_FLIGHT: usize = 1000;
/// Random bytes of a URL's word; eight letters.
const TOKEN_BYTES: usize = 6;

/// What a URL stands for.
#[derive(Clone)]
enum Asked {
    Exec(ExecRequest),
    Attach(AttachRequest),
    PortForward(PortForwardRequest),
}

/// URLs that were given out and not dialled. Each is taken at most once.
#[derive(Default)]
struct Tokens {
    asked: BTreeMap<String, Asked>,
    /// Oldest first; those that were taken are in it still.
    order: VecDeque<(Instant, String)>,
}

impl Tokens {
    fn forget_old(&mut self, now: Instant) {
        while let Some((since, token)) = self.order.front() {
            let taken = !self.asked.contains_key(token);
            if !taken && now.saturating_duration_since(*since) < TOKEN_TTL {
                return;
            }
            self.asked.remove(token);
            self.order.pop_front();
        }
    }

    fn insert(&mut self, now: Instant, asked: Asked) -> Result<String, CriError> {
        self.forget_old(now);
        if self.asked.len() >= MAX_IN_FLIGHT {
            let message = "maximum number of in-flight requests exceeded";
            return Err(CriError::new(Code::ResourceExhausted, message));
        }
        loop {
            let mut bytes = [0u8; TOKEN_BYTES];
            getrandom::fill(&mut bytes).map_err(|error| CriError::unknown(format!("no random token: {error}")))?;
            let token = URL_SAFE_NO_PAD.encode(bytes);
            if !self.asked.contains_key(&token) {
                self.asked.insert(token.clone(), asked);
                self.order.push_back((now, token.clone()));
                return Ok(token);
            }
        }
    }

    fn take(&mut self, now: Instant, token: &str) -> Option<Asked> {
        self.forget_old(now);
        self.asked.remove(token)
    }
}

/// Gives out URLs and serves them.
pub struct StreamingServer {
    address: SocketAddr,
    tokens: Mutex<Tokens>,
    streaming: Arc<dyn Streaming>,
    supervisor: Supervisor,
    clock: SharedClock,
}

fn invalid(message: &str) -> CriError {
    CriError::invalid_argument(message)
}

fn check_streams(container: &str, streams: Options) -> Result<(), CriError> {
    if container.is_empty() {
        return Err(invalid("missing required container_id"));
    }
    if streams.tty && streams.stderr {
        return Err(invalid("tty and stderr cannot both be true"));
    }
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return Err(invalid("one of stdin, stdout, or stderr must be set"));
    }
    Ok(())
}

fn exec_streams(request: &ExecRequest) -> Options {
    Options { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty }
}

fn attach_streams(request: &AttachRequest) -> Options {
    Options { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty }
}

fn plain(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer
}

impl StreamingServer {
    /// Serves the streams of `streaming` on `address`, which has to be loopback.
    pub fn start(
        address: SocketAddr,
        streaming: Arc<dyn Streaming>,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, BindError> {
        let listener = skiff_net::server::bind(address)?;
        let address = listener.local_addr().map_err(|error| BindError::Other(address, error))?;
        let server = Arc::new(Self {
            address,
            tokens: Mutex::default(),
            streaming,
            supervisor: supervisor.clone(),
            clock: Arc::clone(&clock),
        });
        let service = Arc::new(Serving(Arc::clone(&server)));
        Server::plain(listener, service, ServerOptions::default(), clock)?.spawn(supervisor, "CRI streaming server");
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn url(&self, what: &str, asked: Asked) -> Result<String, CriError> {
        let token = self.tokens.lock().insert(self.clock.now(), asked)?;
        Ok(format!("http://{}/{what}/{token}", self.address))
    }

    fn answer(self: &Arc<Self>, mut request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let not_found = || plain(StatusCode::NOT_FOUND, "404 page not found\n");
        let Some((what, token)) = path.split_once('/') else { return not_found() };
        // Taken whatever comes of it: a URL is good once.
        let Some(asked) = self.tokens.lock().take(self.clock.now(), token) else { return not_found() };
        match (what, asked) {
            ("exec", Asked::Exec(exec)) => {
                let streams = exec_streams(&exec);
                self.command(&mut request, streams, "exec", move |streaming| {
                    Box::pin(async move { streaming.exec(exec).await })
                })
            }
            ("attach", Asked::Attach(attach)) => {
                let streams = attach_streams(&attach);
                self.command(&mut request, streams, "attach", move |streaming| {
                    Box::pin(async move { streaming.attach(attach).await })
                })
            }
            ("portforward", Asked::PortForward(forward)) => self.forward(&mut request, forward),
            _ => not_found(),
        }
    }

    fn command(
        &self,
        request: &mut Request<Body>,
        streams: Options,
        what: &'static str,
        begin: impl FnOnce(Arc<dyn Streaming>) -> skiff_cri::CriFuture<'static, skiff_cri::streaming::Session>
        + Send
        + 'static,
    ) -> Response<Body> {
        let (answer, accepting) = match remotecommand::accept(request, streams, &self.supervisor) {
            Ok(accepted) => accepted,
            Err(refusal) => return *refusal,
        };
        let streaming = Arc::clone(&self.streaming);
        self.supervisor.spawn_abortable(what, OnFailure::Forget, async move {
            match accepting.streams().await {
                Ok(streams) => join::program(begin(streaming).await, streams).await,
                Err(error) => tracing::debug!(%error, what, "the client opened no streams"),
            }
        });
        answer
    }

    fn forward(&self, request: &mut Request<Body>, asked: PortForwardRequest) -> Response<Body> {
        let (answer, accepting) = match portforward::accept(request, &self.supervisor) {
            Ok(accepted) => accepted,
            Err(refusal) => return *refusal,
        };
        let (streaming, supervisor) = (Arc::clone(&self.streaming), self.supervisor.clone());
        self.supervisor.spawn_abortable("port-forward", OnFailure::Forget, async move {
            let mut connections = match accepting.connections().await {
                Ok(connections) => connections,
                Err(error) => return tracing::debug!(%error, "the client forwards nothing"),
            };
            while let Some(forward) = connections.accept().await {
                let (streaming, sandbox) = (Arc::clone(&streaming), asked.pod_sandbox_id.clone());
                supervisor.spawn_abortable("forwarded connection", OnFailure::Forget, async move {
                    join::connection(&*streaming, &sandbox, forward).await;
                });
            }
        });
        answer
    }
}

impl StreamUrls for StreamingServer {
    fn exec(&self, request: ExecRequest) -> Result<String, CriError> {
        check_streams(&request.container_id, exec_streams(&request))?;
        self.url("exec", Asked::Exec(request))
    }
    fn attach(&self, request: AttachRequest) -> Result<String, CriError> {
        check_streams(&request.container_id, attach_streams(&request))?;
        self.url("attach", Asked::Attach(request))
    }
    fn port_forward(&self, request: PortForwardRequest) -> Result<String, CriError> {
        if request.pod_sandbox_id.is_empty() {
            return Err(invalid("missing required pod_sandbox_id"));
        }
        self.url("portforward", Asked::PortForward(request))
    }
}

/// The server as a service: its answers outlive a request.
struct Serving(Arc<StreamingServer>);

impl Service for Serving {
    fn call(&self, _: &Peer, request: Request<Body>) -> ServiceFuture<'_> {
        Box::pin(std::future::ready(self.0.answer(request)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked::PortForward(PortForwardRequest::default())
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let first = tokens.insert(now, asked()).unwrap();
        assert_eq!(first.len(), 8);
        assert!(tokens.take(now, &first).is_some() && tokens.take(now, &first).is_none());
        let second = tokens.insert(now, asked()).unwrap();
        assert!(tokens.take(now + TOKEN_TTL, &second).is_none());
        assert!(tokens.take(now, "").is_none());
    }

    #[test]
    fn tokens_are_bounded_and_taken_ones_make_room() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let all: Vec<String> = (0..MAX_IN_FLIGHT).map(|_| tokens.insert(now, asked()).unwrap()).collect();
        assert_eq!(tokens.insert(now, asked()).unwrap_err().code, Code::ResourceExhausted);
        tokens.take(now, &all[500]).unwrap();
        tokens.insert(now, asked()).unwrap();
        assert!(tokens.insert(now, asked()).is_err());
        assert!(tokens.insert(now + TOKEN_TTL, asked()).is_ok());
        assert_eq!((tokens.asked.len(), tokens.order.len()), (1, 1));
    }
}
