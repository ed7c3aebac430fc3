//! An HTTP client: pooled connections, TLS or plain or a unix socket, HTTP/2 where the server offers it, upgrades.
//!
//! Redirects are **never followed**: a server that could send our credentials elsewhere would. Names are looked up once
//! per connection and the address that was checked is the one that is dialled ([`Resolve`] decides what may be).

use crate::Body;
use crate::tls;
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use skiff_base::task::{OnFailure, Supervisor};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Why a request got no answer. A step each.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URI names no host, or a scheme that is neither `http` nor `https`.
    #[error("cannot send a request to {0}")]
    Target(Uri),
    /// The name leads to no address, or to one that may not be dialled.
    #[error("cannot find the address of {host}")]
    Resolve {
        /// Who.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No address took the connection.
    #[error("cannot connect to {to}")]
    Connect {
        /// Whom.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server could not be trusted, or speaks no TLS that we do.
    #[error("cannot agree on TLS with {to}")]
    Handshake {
        /// Whom.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS is wanted but was not configured, or the name cannot be checked.
    #[error("cannot set up TLS")]
    Tls(#[from] tls::TlsError),
    /// The client has no TLS configuration.
    #[error("{0} wants TLS, and this client has none")]
    NoTls(Uri),
    /// The connection broke, before or after the request was sent. `sent` says whether the server may have seen it.
    #[error("the request was not answered")]
    Exchange {
        /// Whether the server may have acted on it.
        sent: bool,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// Not done in time.
    #[error("cannot connect to {0} in time")]
    Timeout(String),
    /// The server did not change protocols; here is its answer.
    #[error("the server answered {} instead of changing protocols", .0.status())]
    NotUpgraded(Box<Response<Body>>),
    /// The connection broke while changing protocols.
    #[error("the connection broke while changing protocols")]
    Upgrade(#[source] hyper::Error),
}

impl ClientError {
    /// Whether the server cannot have seen the request, so that it may be sent again whatever its method.
    pub fn is_unsent(&self) -> bool {
        !matches!(self, Self::Exchange { sent: true, .. } | Self::NotUpgraded(_) | Self::Upgrade(_))
    }
}

/// What a look-up is awaited as.
pub type ResolveFuture<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Turns a host into addresses, in the order in which to try them. Where requests are sent for others, it refuses
/// addresses that they must not reach.
pub trait Resolve: Send + Sync + 'static {
    /// Looks a name up. `host` may be a literal address.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> ResolveFuture<'a>;
}

/// The host's own resolver (on a blocking thread).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;
impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> ResolveFuture<'a> {
        Box::pin(async move {
            if let Ok(address) = host.trim_matches(['[', ']']).parse() {
                return Ok(vec![SocketAddr::new(address, port)]);
            }
            Ok(tokio::net::lookup_host((host, port)).await?.collect())
        })
    }
}

/// Keeps requests that are sent for others away from this host and its link: loopback, unspecified, link-local (where
/// clouds serve credentials) and multicast addresses, however they are written, are refused (CVE-2020-8555, -8562,
/// CVE-2022-3294). The addresses that were checked are the ones dialled.
pub struct NoLocal<R>(pub R);
impl<R: Resolve> Resolve for NoLocal<R> {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> ResolveFuture<'a> {
        Box::pin(async move {
            let found = self.0.resolve(host, port).await?;
            if let Some(address) = found.iter().find(|address| is_local(address.ip())) {
                let why = format!("{} may not be reached through this server", address.ip());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            Ok(found)
        })
    }
}

/// Whether an address means this host or its link.
pub fn is_local(address: std::net::IpAddr) -> bool {
    match address.to_canonical() {
        std::net::IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_unspecified()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.octets()[0] == 0
        }
        std::net::IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()
        }
    }
}

/// Where connections go.
#[derive(Clone)]
pub enum Dial {
    /// To the host that the URI names.
    Host(Arc<dyn Resolve>),
    /// To this address whatever the URI names (it still names whom TLS has to find there).
    Address(SocketAddr),
    /// To a unix socket.
    Unix(PathBuf),
}

/// How a client connects.
#[derive(Clone)]
pub struct Options {
    /// Where to.
    pub dial: Dial,
    /// For `https`; `None`: such requests are refused. Made by [`tls::client_config`].
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Name to find in the server's certificate, when it is not the host.
    pub server_name: Option<String>,
    /// How long dialling and handshake may take together.
    pub connect_timeout: Duration,
    /// Idle HTTP/1.1 connections that are kept for each host; 0: every request gets a connection of its own, and nothing
    /// is remembered about hosts.
    pub max_idle: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dial: Dial::Host(Arc::new(SystemResolver)),
            tls: None,
            server_name: None,
            connect_timeout: Duration::from_secs(30),
            max_idle: 8,
        }
    }
}

/// A client with its pool. Clones share it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    /// For upgrades: the same trust without HTTP/2.
    tls_http1: Option<Arc<rustls::ClientConfig>>,
    pool: Mutex<HashMap<PoolKey, Pooled>>,
    dialling: Mutex<HashMap<PoolKey, Arc<tokio::sync::Mutex<()>>>>,
    supervisor: Supervisor,
}

type PoolKey = (bool, String);

#[derive(Default)]
struct Pooled {
    http2: Option<http2::SendRequest<Body>>,
    idle: Vec<http1::SendRequest<Body>>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// Runs the tasks of HTTP/2 connections.
#[derive(Clone)]
struct Tasks(tokio::runtime::Handle);
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Client {
    /// A client whose connections are tasks of `supervisor`.
    pub fn new(options: Options, supervisor: Supervisor) -> Self {
        let tls_http1 = options.tls.as_ref().map(|config| {
            let mut config = rustls::ClientConfig::clone(config);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        });
        let shared = Shared { options, tls_http1, pool: Mutex::default(), dialling: Mutex::default(), supervisor };
        Self { shared: Arc::new(shared) }
    }

    /// Sends a request and returns its answer as soon as the header is there; the body follows. The URI is absolute.
    /// A connection that was found broken before the request went out is replaced once.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let key = target(request.uri())?;
        for _ in 0..2 {
            let sender = self.sender(&key, request.uri()).await?;
            match self.exchange(&key, sender, request).await {
                Ok(answer) => return Ok(answer),
                Err((_, Some(unsent))) => request = *unsent,
                Err((error, None)) => return Err(error),
            }
        }
        // Twice a pooled connection was gone: now a fresh one, and its error counts.
        let sender = self.connect(&key, request.uri(), true).await?;
        self.exchange(&key, sender, request).await.map_err(|(error, _)| error)
    }

    /// Sends a request that asks to change protocols, on a connection of its own. Returns the `101` answer and the
    /// stream behind it.
    pub async fn upgrade(
        &self,
        request: Request<Body>,
    ) -> Result<(Response<()>, TokioIo<hyper::upgrade::Upgraded>), ClientError> {
        let key = target(request.uri())?;
        let Sender::Http1(mut sender) = self.connect(&key, request.uri(), false).await? else {
            return Err(ClientError::Target(request.uri().clone()));
        };
        let answer = sender
            .send_request(origin_form(request))
            .await
            .map_err(|source| ClientError::Exchange { sent: true, source })?;
        if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(ClientError::NotUpgraded(Box::new(answer.map(Body::from))));
        }
        let (parts, body) = answer.into_parts();
        let head = (parts.status, parts.headers.clone());
        let upgraded = hyper::upgrade::on(Response::from_parts(parts, body)).await.map_err(ClientError::Upgrade)?;
        let mut plain = Response::new(());
        (*plain.status_mut(), *plain.headers_mut()) = head;
        Ok((plain, TokioIo::new(upgraded)))
    }

    async fn sender(&self, key: &PoolKey, uri: &Uri) -> Result<Sender, ClientError> {
        if self.shared.options.max_idle == 0 {
            return self.connect(key, uri, false).await;
        }
        if let Some(sender) = self.pooled(key) {
            return Ok(sender);
        }
        // One dials, the others wait: the connection may turn out to be HTTP/2, and then one is enough for all.
        let lock = Arc::clone(self.shared.dialling.lock().entry(key.clone()).or_default());
        let _turn = lock.lock().await;
        if let Some(sender) = self.pooled(key) {
            return Ok(sender);
        }
        let sender = self.connect(key, uri, true).await?;
        if let Sender::Http2(shared) = &sender {
            self.shared.pool.lock().entry(key.clone()).or_default().http2 = Some(shared.clone());
        }
        Ok(sender)
    }

    fn pooled(&self, key: &PoolKey) -> Option<Sender> {
        let mut pool = self.shared.pool.lock();
        let entry = pool.get_mut(key)?;
        if let Some(http2) = &entry.http2 {
            if !http2.is_closed() {
                return Some(Sender::Http2(http2.clone()));
            }
            entry.http2 = None;
        }
        while let Some(idle) = entry.idle.pop() {
            if idle.is_ready() {
                return Some(Sender::Http1(idle));
            }
        }
        None
    }

    async fn exchange(
        &self,
        key: &PoolKey,
        sender: Sender,
        request: Request<Body>,
    ) -> Result<Response<Body>, (ClientError, Option<Box<Request<Body>>>)> {
        let failed = |mut error: hyper::client::conn::TrySendError<Request<Body>>| {
            let unsent = error.take_message().map(Box::new);
            (ClientError::Exchange { sent: unsent.is_none(), source: error.into_error() }, unsent)
        };
        match sender {
            Sender::Http2(mut sender) => {
                let answer = sender.try_send_request(request).await.map_err(failed)?;
                Ok(answer.map(Body::from))
            }
            Sender::Http1(mut sender) => {
                let absolute = request.uri().clone();
                let answer = sender.try_send_request(origin_form(request)).await.map_err(|error| {
                    let (error, unsent) = failed(error);
                    let unsent = unsent.map(|mut request| {
                        *request.uri_mut() = absolute;
                        request
                    });
                    (error, unsent)
                })?;
                if self.shared.options.max_idle == 0 {
                    return Ok(answer.map(Body::from));
                }
                // The connection is free again once the answer's body was read; a task waits for that.
                let client = self.clone();
                let key = key.clone();
                self.shared.supervisor.spawn_abortable("idle connection", OnFailure::Forget, async move {
                    if sender.ready().await.is_ok() {
                        let mut pool = client.shared.pool.lock();
                        let entry = pool.entry(key).or_default();
                        if entry.idle.len() < client.shared.options.max_idle {
                            entry.idle.push(sender);
                        }
                    }
                });
                Ok(answer.map(Body::from))
            }
        }
    }

    async fn connect(&self, key: &PoolKey, uri: &Uri, http2: bool) -> Result<Sender, ClientError> {
        let connecting = self.connect_untimed(key, uri, http2);
        match tokio::time::timeout(self.shared.options.connect_timeout, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClientError::Timeout(key.1.clone())),
        }
    }

    async fn connect_untimed(&self, (secure, to): &PoolKey, uri: &Uri, http2: bool) -> Result<Sender, ClientError> {
        let options = &self.shared.options;
        let host = uri.host().unwrap_or_default();
        let failed = |source| ClientError::Connect { to: to.clone(), source };
        let tls = if *secure {
            let config = if http2 { options.tls.as_ref() } else { self.shared.tls_http1.as_ref() };
            let config = config.ok_or_else(|| ClientError::NoTls(uri.clone()))?;
            let name = tls::server_name(options.server_name.as_deref().unwrap_or(host))?;
            Some((TlsConnector::from(Arc::clone(config)), name))
        } else {
            None
        };
        let addresses = match &options.dial {
            Dial::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                return self.over(tls, stream, to).await;
            }
            Dial::Address(address) => vec![*address],
            Dial::Host(resolver) => {
                let port = uri.port_u16().unwrap_or(if *secure { 443 } else { 80 });
                let resolved = resolver.resolve(host, port).await;
                resolved.map_err(|source| ClientError::Resolve { host: host.to_owned(), source })?
            }
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(failed)?;
                    return self.over(tls, stream, to).await;
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    async fn over<T>(
        &self,
        tls: Option<(TlsConnector, rustls::pki_types::ServerName<'static>)>,
        stream: T,
        to: &str,
    ) -> Result<Sender, ClientError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some((connector, name)) = tls else { return self.speak(stream, false).await };
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|source| ClientError::Handshake { to: to.to_owned(), source })?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.speak(stream, http2).await
    }

    async fn speak<T>(&self, stream: T, http2: bool) -> Result<Sender, ClientError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let supervisor = &self.shared.supervisor;
        let io = TokioIo::new(stream);
        let unsent = |source| ClientError::Exchange { sent: false, source };
        if http2 {
            let (sender, connection) = http2::Builder::new(Tasks(supervisor.runtime().clone()))
                .timer(TokioTimer::new())
                .initial_stream_window_size(4 * 1024 * 1024)
                .initial_connection_window_size(16 * 1024 * 1024)
                .max_frame_size(1024 * 1024)
                .max_header_list_size(64 * 1024)
                .keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(15))
                .handshake(io)
                .await
                .map_err(unsent)?;
            supervisor.spawn_abortable("connection", OnFailure::Forget, async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(unsent)?;
        supervisor.spawn_abortable("connection", OnFailure::Forget, async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(Sender::Http1(sender))
    }
}

fn target(uri: &Uri) -> Result<PoolKey, ClientError> {
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(ClientError::Target(uri.clone())),
    };
    let authority = uri.authority().ok_or_else(|| ClientError::Target(uri.clone()))?;
    Ok((secure, authority.as_str().to_owned()))
}

/// HTTP/1.1 sends the path alone, and the host as a header.
fn origin_form(mut request: Request<Body>) -> Request<Body> {
    if let Some(authority) = request.uri().authority().cloned() {
        if !request.headers().contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_are_kept_from_this_host() {
        let resolver = NoLocal(SystemResolver);
        for host in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "169.254.169.254",
            "[fe80::1]",
            "224.0.0.1",
        ] {
            let error = resolver.resolve(host, 80).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{host}");
        }
        assert!(resolver.resolve("localhost", 80).await.is_err());
        assert_eq!(resolver.resolve("10.0.0.1", 80).await.unwrap(), [([10, 0, 0, 1], 80).into()]);
    }
}
