//! Port forwarding: many connections over one, each a pair of SPDY streams
//! (`kubelet/pkg/cri/streaming/portforward`, `client-go/tools/portforward`).
//!
//! A client may also tunnel SPDY through WebSocket messages (`SPDY/3.1+portforward.k8s.io`); [`tunnel`] is that, and
//! [`accept`] takes both.

use crate::Body;
use crate::client::Client;
use crate::io::BoxDuplex;
use crate::remotecommand::{RemoteCommandError, STREAM_PROTOCOL_VERSION, STREAM_TYPE, accept_spdy, is_spdy};
use crate::session::{Opener, Session, SpdyStream};
use crate::websocket::{self, Message, Role};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skiff_base::task::{OnFailure, Supervisor};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// The protocol's name over SPDY.
pub const PROTOCOL: &str = "portforward.k8s.io";
/// Its name over WebSocket.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
const PORT: &str = "port";
const REQUEST_ID: &str = "requestid";
/// Pairs of which one half is still missing.
const MAX_HALVES: usize = 64;

/// One forwarded connection.
pub struct Forward {
    /// To which port.
    pub port: u16,
    /// The bytes.
    pub data: DuplexStream,
    /// Where the server tells why it failed; the client only reads.
    pub error: DuplexStream,
}

/// A handshake that was answered; the connection follows.
pub struct Accepting {
    upgrade: OnUpgrade,
    websocket: bool,
    supervisor: Supervisor,
}

/// Answers a handshake. Send the answer, then await [`Accepting::connections`] in a task.
pub fn accept(
    request: &mut Request<Body>,
    supervisor: &Supervisor,
) -> Result<(Response<Body>, Accepting), Box<Response<Body>>> {
    let refuse = |why: &'static str| {
        let mut answer = Response::new(Body::from(why));
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        Box::new(answer)
    };
    let headers = request.headers();
    let websocket = websocket::is_websocket(headers);
    let answer = if websocket {
        if !websocket::protocols(headers).iter().any(|one| one == TUNNEL_PROTOCOL) {
            return Err(refuse("port forwarding over WebSocket needs SPDY/3.1+portforward.k8s.io\n"));
        }
        websocket::accept(request, Some(TUNNEL_PROTOCOL))?
    } else if is_spdy(headers) {
        accept_spdy(headers, &[PROTOCOL])?.0
    } else {
        return Err(refuse("unable to upgrade: missing upgrade headers in request\n"));
    };
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| refuse("unable to upgrade: this connection cannot change protocols\n"))?;
    Ok((answer, Accepting { upgrade, websocket, supervisor: supervisor.clone() }))
}

/// Connections as the client opens them.
pub struct Connections {
    session: Session,
    halves: BTreeMap<String, SpdyStream>,
}

impl Accepting {
    /// The connections, once the protocol has changed.
    pub async fn connections(self) -> Result<Connections, RemoteCommandError> {
        let io: BoxDuplex = Box::new(TokioIo::new(self.upgrade.await?));
        let io = if self.websocket { Box::new(tunnel(io, Role::Server, &self.supervisor)) } else { io };
        Ok(Connections { session: Session::new(io, true, &self.supervisor), halves: BTreeMap::new() })
    }
}

impl Connections {
    /// The next connection; `None` when the client is gone.
    pub async fn accept(&mut self) -> Option<Forward> {
        loop {
            let stream = self.session.accept().await?;
            let error = match stream.header(STREAM_TYPE) {
                Some("error") => true,
                Some("data") => false,
                other => {
                    tracing::debug!(?other, "unexpected stream");
                    continue;
                }
            };
            let Some(port) = stream.header(PORT).and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0)
            else {
                tracing::debug!(port = ?stream.header(PORT), "not a port");
                continue;
            };
            // Old clients send no id: they open the error stream first and the data stream right after it.
            let first = if error { stream.id } else { stream.id.saturating_sub(2) };
            let id = stream.header(REQUEST_ID).map_or_else(|| format!("#{first}"), str::to_owned);
            let Some(other) = self.halves.remove(&id) else {
                if self.halves.len() >= MAX_HALVES {
                    self.halves.pop_first();
                }
                self.halves.insert(id, stream);
                continue;
            };
            if (other.header(STREAM_TYPE) == Some("error")) == error {
                continue;
            }
            let (error, data) = if error { (stream, other) } else { (other, stream) };
            return Some(Forward { port, data: data.io, error: error.io });
        }
    }
}

/// Bytes through binary WebSocket messages.
pub fn tunnel(io: BoxDuplex, role: Role, supervisor: &Supervisor) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (mut from_user, mut to_user) = tokio::io::split(far);
    let (mut reader, writer) = websocket::split(io, role);
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let pongs = Arc::clone(&writer);
    supervisor.spawn_abortable("tunnel in", OnFailure::Forget, async move {
        loop {
            let outcome = match reader.read().await {
                Ok(Some(Message::Binary(bytes) | Message::Text(bytes))) => to_user.write_all(&bytes).await,
                Ok(Some(Message::Ping(payload))) => {
                    let sent = pongs.lock().await.write(&Message::Pong(payload)).await;
                    sent.map_err(std::io::Error::other)
                }
                Ok(Some(Message::Pong(_))) => Ok(()),
                Ok(Some(Message::Close(_)) | None) => break,
                Err(error) => Err(std::io::Error::other(error)),
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "tunnel ended");
                break;
            }
        }
        // (A pipe whose user is gone cannot fail to end.)
        let _user_may_be_gone = to_user.shutdown().await;
    });
    supervisor.spawn_abortable("tunnel out", OnFailure::Forget, async move {
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(size @ 1..) = from_user.read(&mut buffer).await {
            if let Err(error) = writer.lock().await.binary(&[&buffer[..size]]).await {
                tracing::debug!(%error, "tunnel ended");
                return;
            }
        }
        let mut writer = writer.lock().await;
        if let Err(error) = writer.write(&Message::Close(Some(1000))).await {
            tracing::trace!(%error, "tunnel was gone");
        }
        // (The peer may have gone first.)
        let _peer_may_be_gone = writer.shutdown().await;
    });
    near
}

/// Opens forwarded connections.
pub struct Forwarder {
    opener: Opener,
    session: Session,
    next: AtomicU64,
}

/// Asks a server to forward. `request` has the URI and headers; with `websocket` SPDY goes through WebSocket messages.
pub async fn connect(
    client: &Client,
    mut request: Request<Body>,
    websocket: bool,
    supervisor: &Supervisor,
) -> Result<Forwarder, RemoteCommandError> {
    let io: BoxDuplex = if websocket {
        *request.method_mut() = http::Method::GET;
        let accept = websocket::ask(request.headers_mut(), &[TUNNEL_PROTOCOL]);
        let (answer, io) = client.upgrade(request).await?;
        let header = |name| answer.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let agreed = header(http::header::SEC_WEBSOCKET_ACCEPT) == Some(accept.as_str())
            && header(http::header::SEC_WEBSOCKET_PROTOCOL) == Some(TUNNEL_PROTOCOL);
        if !agreed {
            return Err(RemoteCommandError::Negotiation("the WebSocket handshake does not fit".to_owned()));
        }
        Box::new(tunnel(Box::new(io), Role::Client, supervisor))
    } else {
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.insert(STREAM_PROTOCOL_VERSION, HeaderValue::from_static(PROTOCOL));
        Box::new(client.upgrade(request).await?.1)
    };
    let session = Session::new(io, false, supervisor);
    Ok(Forwarder { opener: session.opener(), session, next: AtomicU64::new(0) })
}

impl Forwarder {
    /// Opens a connection to a port.
    pub async fn forward(&self, port: u16) -> Result<Forward, RemoteCommandError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let number = port.to_string();
        let common = [(PORT, number.as_str()), (REQUEST_ID, id.as_str())];
        let mut error = self.opener.open(&[(STREAM_TYPE, "error"), common[0], common[1]]).await?.io;
        // Nothing goes that way: its end is told at once, as Go does.
        error.shutdown().await.map_err(crate::spdy::SpdyError::from)?;
        let data = self.opener.open(&[(STREAM_TYPE, "data"), common[0], common[1]]).await?.io;
        Ok(Forward { port, data, error })
    }

    /// Ends when the connection has ended.
    pub async fn closed(&self) {
        self.session.closed().cancelled().await;
    }
}
