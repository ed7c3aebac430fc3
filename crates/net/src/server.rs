//! An HTTP server: TLS or plain, HTTP/2 by ALPN or HTTP/1.1, in front of a [`Service`].
//!
//! [`bind`] first, so that the address is known and errors are told before anything runs; then [`Server::spawn`]. Each
//! connection is a task of the supervisor. When the supervisor ends, nothing more is accepted, HTTP/2 connections get
//! GOAWAY, HTTP/1.1 ones `Connection: close`, requests in flight may finish within [`Options::drain`], and what is left
//! is cut.
//!
//! Limits stand in [`Options`]. A peer costs nothing that it has not paid for: handshake and header have deadlines, open
//! connections and streams are bounded, streams that are reset as fast as they are opened end the connection (h2), and a
//! peer that takes no bytes is cut.

use crate::gather::gathering;
use crate::io::{Guarded, Patience};
use crate::linger::Lingering;
use crate::{Body, Peer, Service};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Limits and deadlines of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Streams that one HTTP/2 connection may have open (`--http2-max-streams-per-connection`).
    pub max_streams: u32,
    /// Connections at once; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// Bytes of a request's header.
    pub max_header: u32,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long a header may take, and how long an HTTP/1.1 connection may idle.
    pub header: Duration,
    /// How long a write may wait for the peer to read.
    pub stalled_write: Duration,
    /// How long requests may go on after the end was asked for.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_streams: 100,
            max_connections: 10_000,
            max_header: 64 * 1024,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(32),
            stalled_write: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("{0} is in use by another process")]
    InUse(SocketAddr),
    /// The port needs rights that the process lacks.
    #[error("not allowed to listen on {0}")]
    NotAllowed(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {0}")]
    Other(SocketAddr, #[source] io::Error),
}

/// Listens on `address`; port 0 takes a free one.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        io::ErrorKind::PermissionDenied => BindError::NotAllowed(address),
        _ => BindError::Other(address, error),
    })
}

/// What a server counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections accepted since the start.
    pub accepted: AtomicU64,
    /// Handshakes that failed (`apiserver_tls_handshake_errors_total`).
    pub handshake_errors: AtomicU64,
}

/// A server that is ready to run.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Arc<dyn Service>,
    options: Options,
    clock: SharedClock,
    counts: Arc<Counts>,
}

impl Server {
    /// A server on TLS; the configuration comes from [`crate::tls::server_config`].
    pub fn tls(
        listener: TcpListener,
        config: Arc<rustls::ServerConfig>,
        service: Arc<dyn Service>,
        options: Options,
        clock: SharedClock,
    ) -> Self {
        let tls = Some(TlsAcceptor::from(config));
        Self { listener, tls, service, options, clock, counts: Arc::default() }
    }

    /// A server without TLS, for health ports: refuses an address that is not loopback.
    pub fn plain(
        listener: TcpListener,
        service: Arc<dyn Service>,
        options: Options,
        clock: SharedClock,
    ) -> Result<Self, BindError> {
        let address = listener.local_addr().map_err(|error| BindError::Other(([0, 0, 0, 0], 0).into(), error))?;
        if !address.ip().is_loopback() {
            return Err(BindError::NotAllowed(address));
        }
        Ok(Self::plain_anywhere(listener, service, options, clock))
    }

    /// A server without TLS on any address: what is said there can be read and changed on the way.
    pub fn plain_anywhere(
        listener: TcpListener,
        service: Arc<dyn Service>,
        options: Options,
        clock: SharedClock,
    ) -> Self {
        Self { listener, tls: None, service, options, clock, counts: Arc::default() }
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until the supervisor is asked to end.
    pub fn spawn(self, supervisor: &Supervisor, name: &'static str) {
        let owner = supervisor.clone();
        supervisor.spawn(name, OnFailure::EndComponent, async move { self.accept(owner).await });
    }

    async fn accept(self, supervisor: Supervisor) {
        let seats = Arc::new(Semaphore::new(self.options.max_connections));
        let token = supervisor.token().clone();
        let shared = Arc::new(Shared {
            tls: self.tls,
            service: self.service,
            http1: http1_builder(&self.options),
            http2: http2_builder(&self.options, supervisor.runtime().clone()),
            options: self.options,
            counts: self.counts,
            supervisor: supervisor.clone(),
        });
        loop {
            let next = async {
                let seat = Arc::clone(&seats).acquire_owned().await;
                (seat, self.listener.accept().await)
            };
            let (seat, accepted) = tokio::select! {
                () = token.cancelled() => return,
                next = next => next,
            };
            match accepted {
                Ok((stream, address)) => {
                    shared.counts.accepted.fetch_add(1, Ordering::Relaxed);
                    let shared = Arc::clone(&shared);
                    supervisor.spawn("connection", OnFailure::Forget, async move {
                        shared.serve(stream, address).await;
                        drop(seat);
                    });
                }
                Err(error) => {
                    // Out of descriptors, or a peer that left before it was accepted: neither ends the server.
                    tracing::warn!(%error, "cannot accept a connection");
                    self.clock.sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Runs the tasks of HTTP/2 streams.
#[derive(Clone)]
struct Streams(tokio::runtime::Handle);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

fn http1_builder(options: &Options) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(options.header)
        .max_buf_size(usize::try_from(options.max_header).unwrap_or(usize::MAX).max(8192))
        .half_close(false);
    builder
}

fn http2_builder(options: &Options, runtime: tokio::runtime::Handle) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(Streams(runtime));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(options.max_header)
        // Bodies are at most 3 MiB: a stream may send a quarter of one ahead, a connection four of them.
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_frame_size(64 * 1024)
        .max_send_buf_size(1024 * 1024)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

struct Shared {
    tls: Option<TlsAcceptor>,
    service: Arc<dyn Service>,
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
    options: Options,
    counts: Arc<Counts>,
    supervisor: Supervisor,
}

impl Shared {
    async fn serve(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        if let Err(error) = tune(&stream) {
            tracing::debug!(%address, %error, "cannot tune a connection");
        }
        let mut peer = Peer { address: Some(address), ..Peer::default() };
        let Some(tls) = &self.tls else {
            return self.speak(stream, peer, false).await;
        };
        let accepting = tls.accept(stream);
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.options.handshake, accepting) => accepted,
            () = self.supervisor.token().cancelled() => return,
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.counts.handshake_errors.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%address, %error, "TLS handshake failed");
                return;
            }
            Err(_) => {
                self.counts.handshake_errors.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%address, "TLS handshake took too long");
                return;
            }
        };
        let (_, session) = stream.get_ref();
        if let Some(chain) = session.peer_certificates() {
            peer.certificates = chain.iter().map(|one| CertificateDer::from(one.to_vec())).collect();
        }
        let http2 = session.alpn_protocol() == Some(b"h2");
        self.speak(stream, peer, http2).await;
    }

    async fn speak<T>(self: Arc<Self>, stream: T, peer: Peer, http2: bool)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let address = peer.address;
        let guarded = Guarded::new(stream, self.options.stalled_write);
        let patience = guarded.patience();
        let closing = peer.connection.closing().clone();
        let service =
            Answering { service: Arc::clone(&self.service), peer: Arc::new(peer), patience: patience.clone() };
        let ended = if http2 {
            let (gathering, mut turns) = gathering(guarded);
            let connection = pin!(self.http2.serve_connection(TokioIo::new(gathering), service));
            let turn = |connection: Pin<&mut _>, cx: &mut Context<'_>| turns.poll(connection, cx);
            self.drive(connection, turn, http2::Connection::graceful_shutdown, &closing).await
        } else {
            let io = TokioIo::new(Lingering::new(guarded, patience));
            let connection = pin!(self.http1.serve_connection(io, service).with_upgrades());
            self.drive(connection, Future::poll, http1::UpgradeableConnection::graceful_shutdown, &closing).await
        };
        match ended {
            Ok(()) => (),
            Err(error) if error.is_timeout() || error.is_incomplete_message() => {
                tracing::trace!(?address, %error, "connection ended");
            }
            Err(error) => tracing::debug!(?address, %error, "connection ended"),
        }
    }

    /// Drives a connection to its end by `turn`; when it is asked to end, within [`Options::drain`].
    async fn drive<C>(
        &self,
        mut connection: Pin<&mut C>,
        mut turn: impl FnMut(Pin<&mut C>, &mut Context<'_>) -> Poll<Result<(), hyper::Error>>,
        end: fn(Pin<&mut C>),
        closing: &tokio_util::sync::CancellationToken,
    ) -> Result<(), hyper::Error>
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        tokio::select! {
            ended = poll_fn(|cx| turn(connection.as_mut(), cx)) => return ended,
            () = self.supervisor.token().cancelled() => (),
            () = closing.cancelled() => (),
        }
        end(connection.as_mut());
        let rest = poll_fn(|cx| turn(connection.as_mut(), cx));
        tokio::time::timeout(self.options.drain, rest).await.unwrap_or(Ok(()))
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(
        &socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)),
    )
}

/// One connection's view of the service, for hyper.
struct Answering {
    service: Arc<dyn Service>,
    peer: Arc<Peer>,
    patience: Patience,
}

impl hyper::service::Service<http::Request<hyper::body::Incoming>> for Answering {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let service = Arc::clone(&self.service);
        let peer = Arc::clone(&self.peer);
        // Kept out of the way of handlers that forward headers; upgrades are asked for by HTTP/1.1 alone.
        if request.version() == http::Version::HTTP_2 {
            request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
        }
        let patience = self.patience.clone();
        Box::pin(async move {
            let answer = service.call(&peer, request.map(Body::from)).await;
            if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                patience.grant();
            }
            Ok(answer)
        })
    }
}
