//! `exec` and `attach`: standard streams, terminal size and outcome over one upgraded connection
//! (`k8s.io/streaming`, `kubelet/pkg/cri/streaming/remotecommand`, `client-go/tools/remotecommand`).
//!
//! Server side: [`accept`] answers the handshake, whichever framing the client chose; [`Accepting::streams`] then gives
//! the streams. Client side: [`connect`]. Versions: `channel.k8s.io` and `v2` to `v4` over SPDY; the same and `v5`
//! (which can end standard input alone) over WebSocket, and the base64 forms for browsers.

use crate::Body;
use crate::client::{Client, ClientError};
use crate::io::BoxDuplex;
use crate::mux::{self, CLOSE_CHANNEL, Inbox, SharedWriter, Writer};
use crate::session::Session;
use crate::websocket::{self, Message, Role};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use skiff_base::task::{OnFailure, Supervisor};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Names the version over SPDY.
pub const STREAM_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Told in a refusal.
pub const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// Header of a SPDY stream: what it is.
pub const STREAM_TYPE: &str = "streamtype";
/// How long a client may take to open its streams.
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Why no streams came about.
#[derive(Debug, thiserror::Error)]
pub enum RemoteCommandError {
    /// The connection did not change protocols.
    #[error("the connection did not change protocols")]
    Upgrade(#[from] hyper::Error),
    /// The client opened fewer streams than it asked for.
    #[error("timed out waiting for the client to create its streams")]
    StreamCreation,
    /// The connection could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server answered something that is no agreement.
    #[error("the server did not agree on a protocol: {0}")]
    Negotiation(String),
    /// A stream could not be opened.
    #[error("cannot open a stream")]
    Open(#[from] crate::spdy::SpdyError),
}

/// Which streams there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields of PodExecOptions")]
pub struct Options {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Options {
    /// A terminal has one output.
    fn stderr(self) -> bool {
        self.stderr && !self.tty
    }
}

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Version {
    V1 = 1,
    V2,
    V3,
    V4,
    V5,
}

impl Version {
    fn parse(name: &str) -> Option<(Self, bool)> {
        Some(match name {
            "" | "channel.k8s.io" => (Self::V1, false),
            "v2.channel.k8s.io" => (Self::V2, false),
            "v3.channel.k8s.io" => (Self::V3, false),
            "v4.channel.k8s.io" => (Self::V4, false),
            "v5.channel.k8s.io" => (Self::V5, false),
            "base64.channel.k8s.io" => (Self::V1, true),
            "v4.base64.channel.k8s.io" => (Self::V4, true),
            _ => return None,
        })
    }
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(rename = "Width", default)]
    pub width: u16,
    /// Rows.
    #[serde(rename = "Height", default)]
    pub height: u16,
}

/// How a command ended, as the error stream tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With exit code 0.
    Success,
    /// With another exit code.
    Exit {
        /// The code.
        code: i32,
        /// For people.
        message: String,
    },
    /// Not at all.
    Failed(String),
}

#[derive(Deserialize, Serialize)]
struct Status {
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(default, skip_serializing_if = "is_zero")]
    code: u16,
}
#[derive(Deserialize, Serialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}
#[derive(Deserialize, Serialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(code: &u16) -> bool {
    *code == 0
}

impl Outcome {
    /// What goes into the error stream. Before v4 only failures are told, as plain text.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        if version < Version::V4 {
            return match self {
                Self::Success => Vec::new(),
                Self::Exit { message, .. } | Self::Failed(message) => message.clone().into_bytes(),
            };
        }
        let mut status = Status {
            metadata: serde_json::Map::new(),
            status: "Failure".to_owned(),
            message: String::new(),
            reason: String::new(),
            details: None,
            code: 0,
        };
        match self {
            Self::Success => status.status = "Success".to_owned(),
            Self::Exit { code, message } => {
                status.message = format!("command terminated with non-zero exit code: {message}");
                status.reason = "NonZeroExitCode".to_owned();
                let cause = Cause { reason: "ExitCode".to_owned(), message: code.to_string() };
                status.details = Some(Details { causes: vec![cause] });
            }
            Self::Failed(message) => {
                status.message = format!("Internal error occurred: {message}");
                status.reason = "InternalError".to_owned();
                let cause = Cause { reason: String::new(), message: message.clone() };
                status.details = Some(Details { causes: vec![cause] });
                status.code = 500;
            }
        }
        // (Strings and numbers always serialise.)
        serde_json::to_vec(&status).unwrap_or_default()
    }

    /// Reads what came in the error stream.
    pub fn parse(bytes: &[u8], version: Version) -> Self {
        if version < Version::V4 {
            return match bytes {
                [] => Self::Success,
                text => Self::Failed(String::from_utf8_lossy(text).into_owned()),
            };
        }
        let Ok(status) = serde_json::from_slice::<Status>(bytes) else {
            return match bytes {
                [] => Self::Failed("the connection ended before the command did".to_owned()),
                text => Self::Failed(format!("unexpected outcome: {}", String::from_utf8_lossy(text))),
            };
        };
        if status.status == "Success" {
            return Self::Success;
        }
        let causes = status.details.map(|details| details.causes).unwrap_or_default();
        let code = causes.iter().find(|cause| cause.reason == "ExitCode").and_then(|cause| cause.message.parse().ok());
        match code {
            Some(code) if status.reason == "NonZeroExitCode" => Self::Exit { code, message: status.message },
            _ => Self::Failed(status.message),
        }
    }
}

/// The server's ends of the streams. Dropping all of them, outcome told, ends the connection.
pub struct ServerStreams {
    /// What the client types.
    pub stdin: Option<DuplexStream>,
    /// What the client reads.
    pub stdout: Option<DuplexStream>,
    /// What the client reads apart.
    pub stderr: Option<DuplexStream>,
    /// Terminal sizes, newest last.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
    error: DuplexStream,
    /// Version agreed on.
    pub version: Version,
    /// Cancelled when the client is gone.
    pub closed: CancellationToken,
}

impl ServerStreams {
    /// Tells how the command ended, and ends the connection once everything written has been sent.
    pub async fn finish(mut self, outcome: &Outcome) {
        let told = async {
            self.error.write_all(&outcome.encode(self.version)).await?;
            self.error.shutdown().await
        };
        if let Err(error) = told.await {
            tracing::debug!(%error, "the client left before the command's outcome");
        }
    }
}

/// A handshake that was answered; the connection follows.
pub struct Accepting {
    upgrade: OnUpgrade,
    options: Options,
    version: Version,
    base64: bool,
    websocket: bool,
    supervisor: Supervisor,
}

fn text(status: StatusCode, body: impl Into<Body>) -> Box<Response<Body>> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    Box::new(answer)
}

/// Whether a request asks to speak SPDY.
pub fn is_spdy(headers: &HeaderMap) -> bool {
    websocket::header_has(headers, CONNECTION, "upgrade") && websocket::header_has(headers, UPGRADE, "spdy/3.1")
}

/// The `101` that changes to SPDY with the newest version that both know; `Err` is the refusal.
pub(crate) fn accept_spdy(
    headers: &HeaderMap,
    served: &[&'static str],
) -> Result<(Response<Body>, &'static str), Box<Response<Body>>> {
    let offered: Vec<&str> = headers
        .get_all(STREAM_PROTOCOL_VERSION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let chosen = if offered.is_empty() {
        // Clients from before versions had names.
        ""
    } else {
        let found = offered.iter().find_map(|one| served.iter().find(|own| *own == one));
        match found {
            Some(found) => found,
            None => {
                let message = format!(
                    "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {served:?}\n"
                );
                let mut refusal = text(StatusCode::FORBIDDEN, message);
                for own in served {
                    refusal.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(own));
                }
                return Err(refusal);
            }
        }
    };
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = answer.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    if !chosen.is_empty() {
        out.insert(STREAM_PROTOCOL_VERSION, HeaderValue::from_static(chosen));
    }
    Ok((answer, chosen))
}

/// Answers a handshake for these streams. Send the answer, then await [`Accepting::streams`] in a task.
pub fn accept(
    request: &mut Request<Body>,
    options: Options,
    supervisor: &Supervisor,
) -> Result<(Response<Body>, Accepting), Box<Response<Body>>> {
    if !(options.stdin || options.stdout || options.stderr) {
        return Err(text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr\n"));
    }
    let headers = request.headers();
    let websocket = websocket::is_websocket(headers);
    let (answer, version, base64) = if websocket {
        let offered = websocket::protocols(headers);
        let chosen = offered.iter().find_map(|one| Some((one.as_str(), Version::parse(one)?)));
        match chosen {
            Some((name, (version, base64))) => (websocket::accept(request, Some(name))?, version, base64),
            None if offered.is_empty() => (websocket::accept(request, None)?, Version::V1, false),
            None => return Err(text(StatusCode::BAD_REQUEST, "no WebSocket sub-protocol in common\n")),
        }
    } else if is_spdy(headers) {
        const SERVED: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
        let (answer, name) = accept_spdy(headers, &SERVED)?;
        let (version, _) = Version::parse(name).unwrap_or((Version::V1, false));
        (answer, version, false)
    } else {
        return Err(text(StatusCode::BAD_REQUEST, "unable to upgrade: missing upgrade headers in request\n"));
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(text(StatusCode::BAD_REQUEST, "unable to upgrade: this connection cannot change protocols\n"));
    };
    let supervisor = supervisor.clone();
    Ok((answer, Accepting { upgrade, options, version, base64, websocket, supervisor }))
}

impl Accepting {
    /// The streams, once the connection has changed protocols and the client has opened them.
    pub async fn streams(self) -> Result<ServerStreams, RemoteCommandError> {
        let io: BoxDuplex = Box::new(TokioIo::new(self.upgrade.await?));
        if self.websocket {
            let channels = Channels::start(io, Role::Server, self.options, self.version, self.base64, &self.supervisor);
            return Ok(channels.server(self.version, &self.supervisor).await);
        }
        let mut session = Session::new(io, true, &self.supervisor);
        let closed = session.closed().clone();
        let Options { stdin, stdout, tty, .. } = self.options;
        let resize = tty && self.version >= Version::V3;
        let mut found: [Option<DuplexStream>; 5] = Default::default();
        let wanted = [stdin, stdout, self.options.stderr(), true, resize];
        let collecting = async {
            while (0..5).any(|index| wanted[index] && found[index].is_none()) {
                let Some(stream) = session.accept().await else { return false };
                let index = match stream.header(STREAM_TYPE) {
                    Some("stdin") => STDIN,
                    Some("stdout") => STDOUT,
                    Some("stderr") => STDERR,
                    Some("error") => ERROR,
                    Some("resize") => RESIZE,
                    other => {
                        tracing::debug!(?other, "unexpected stream");
                        continue;
                    }
                };
                found[usize::from(index)] = Some(stream.io);
            }
            true
        };
        if !tokio::time::timeout(STREAM_CREATION_TIMEOUT, collecting).await.unwrap_or(false) {
            return Err(RemoteCommandError::StreamCreation);
        }
        drop(session);
        let [stdin, stdout, stderr, error, resize] = found;
        let error = error.ok_or(RemoteCommandError::StreamCreation)?;
        let resize = resize.map(|io| sizes(io, &self.supervisor));
        Ok(ServerStreams { stdin, stdout, stderr, resize, error, version: self.version, closed })
    }
}

/// Terminal sizes out of a stream of JSON values. Only the newest counts: an older one that nobody took is dropped.
fn sizes(mut io: DuplexStream, supervisor: &Supervisor) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(8);
    supervisor.spawn_abortable("terminal size", OnFailure::Forget, async move {
        const MAX: usize = 4096;
        let mut buffer = Vec::new();
        let mut piece = [0; 256];
        loop {
            let read = tokio::select! {
                read = io.read(&mut piece) => read,
                // The stream ends with its user, else the connection never would.
                () = sender.closed() => return,
            };
            let Ok(size @ 1..) = read else { return };
            buffer.extend_from_slice(&piece[..size]);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'}') {
                let value: Vec<u8> = buffer.drain(..=end).collect();
                match serde_json::from_slice::<TerminalSize>(&value) {
                    Ok(size) => {
                        if let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(size) {
                            return;
                        }
                    }
                    Err(error) => tracing::debug!(%error, "not a terminal size"),
                }
            }
            if buffer.len() > MAX {
                return;
            }
        }
    });
    receiver
}

/// WebSocket channels, either side.
struct Channels {
    ends: [Option<DuplexStream>; 5],
    writer: SharedWriter,
    closed: CancellationToken,
}

impl Channels {
    fn start(
        io: BoxDuplex,
        role: Role,
        options: Options,
        version: Version,
        base64: bool,
        supervisor: &Supervisor,
    ) -> Self {
        let (reader, writer) = websocket::split(io, role);
        // Only clients can say that a stream has ended: nobody reads the signal on their side.
        let half_close = version == Version::V5 && role == Role::Client;
        let writer: SharedWriter = Arc::new(tokio::sync::Mutex::new(Writer::WebSocket { writer, base64, half_close }));
        let (done, mut all_done) = mpsc::channel(1);
        let wanted = [options.stdin, options.stdout, options.stderr(), true, options.tty];
        let mut ends: [Option<DuplexStream>; 5] = Default::default();
        let mut inboxes: [Option<Inbox>; 5] = Default::default();
        for index in [STDIN, STDOUT, STDERR, ERROR, RESIZE] {
            let at = usize::from(index);
            if !wanted[at] {
                continue;
            }
            let to_server = matches!(index, STDIN | RESIZE);
            let incoming = to_server == (role == Role::Server);
            let writer = Arc::clone(&writer);
            let (end, inbox, task) = mux::stream(index.into(), writer, incoming, !incoming, done.clone());
            (ends[at], inboxes[at]) = (Some(end), Some(inbox));
            supervisor.spawn_abortable("channel", OnFailure::Forget, task);
        }
        drop(done);
        let closed = CancellationToken::new();
        let (pongs, ended) = (Arc::clone(&writer), closed.clone());
        supervisor.spawn_abortable("channels", OnFailure::Forget, async move {
            read_channels(reader, inboxes, &pongs, base64, version).await;
            ended.cancel();
        });
        let ending = Arc::clone(&writer);
        supervisor.spawn_abortable("channels end", OnFailure::Forget, async move {
            while all_done.recv().await.is_some() {}
            if let Err(error) = ending.lock().await.close().await {
                tracing::trace!(%error, "WebSocket connection was gone");
            }
        });
        Self { ends, writer, closed }
    }

    async fn server(self, version: Version, supervisor: &Supervisor) -> ServerStreams {
        // An empty message on the first channel that we write tells the client that the connection stands.
        let first = [STDOUT, STDERR, ERROR].into_iter().find(|index| self.ends[usize::from(*index)].is_some());
        if let Some(first) = first
            && let Err(error) = self.writer.lock().await.data(first.into(), &[]).await
        {
            tracing::debug!(%error, "the client is gone");
        }
        let [stdin, stdout, stderr, error, resize] = self.ends;
        let resize = resize.map(|io| sizes(io, supervisor));
        let error = error.expect("the error channel is always made");
        ServerStreams { stdin, stdout, stderr, resize, error, version, closed: self.closed }
    }
}

async fn read_channels(
    mut reader: websocket::Reader,
    mut inboxes: [Option<Inbox>; 5],
    writer: &SharedWriter,
    base64: bool,
    version: Version,
) {
    loop {
        let message = match reader.read().await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "WebSocket connection ended");
                return;
            }
        };
        let (channel, bytes) = match message {
            Message::Ping(payload) => {
                if let Writer::WebSocket { writer, .. } = &mut *writer.lock().await
                    && let Err(error) = writer.write(&Message::Pong(payload)).await
                {
                    tracing::debug!(%error, "cannot answer a ping");
                    return;
                }
                continue;
            }
            Message::Pong(_) => continue,
            Message::Close(_) => return,
            Message::Binary(bytes) | Message::Text(bytes) => {
                let Some(first) = bytes.first().copied() else { continue };
                let rest = bytes.slice(1..);
                if !base64 {
                    (first, rest)
                } else {
                    let Ok(decoded) = STANDARD.decode(&rest) else { return };
                    (first.wrapping_sub(b'0'), decoded.into())
                }
            }
        };
        if channel == CLOSE_CHANNEL && version == Version::V5 {
            if let Some(inbox) = bytes.first().and_then(|channel| inboxes.get_mut(usize::from(*channel))) {
                *inbox = None;
            }
            continue;
        }
        if let Some(Some(inbox)) = inboxes.get(usize::from(channel))
            && !bytes.is_empty()
            && inbox.send(bytes).await.is_err()
        {
            inboxes[usize::from(channel)] = None;
        }
    }
}

/// The client's ends of the streams.
pub struct ClientStreams {
    /// To the command. Shutting it down ends its standard input (v5 and SPDY).
    pub stdin: Option<DuplexStream>,
    /// From the command.
    pub stdout: Option<DuplexStream>,
    /// From the command, apart.
    pub stderr: Option<DuplexStream>,
    resize: Option<DuplexStream>,
    error: DuplexStream,
    /// Version agreed on.
    pub version: Version,
}

impl ClientStreams {
    /// Tells the size of the terminal.
    pub async fn resize(&mut self, size: TerminalSize) -> std::io::Result<()> {
        let Some(stream) = &mut self.resize else { return Ok(()) };
        let mut text = serde_json::to_vec(&size)?;
        text.push(b'\n');
        stream.write_all(&text).await
    }

    /// Waits until the command has ended. Read the outputs meanwhile.
    pub async fn outcome(&mut self) -> Outcome {
        let mut bytes = Vec::new();
        match (&mut self.error).take(1 << 20).read_to_end(&mut bytes).await {
            Ok(_) => Outcome::parse(&bytes, self.version),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

/// Which framing a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Framing {
    WebSocket,
    Spdy,
}

/// Asks a server for these streams. `request` has the URI and headers (a POST becomes a GET for WebSocket).
pub async fn connect(
    client: &Client,
    mut request: Request<Body>,
    options: Options,
    framing: Framing,
    supervisor: &Supervisor,
) -> Result<ClientStreams, RemoteCommandError> {
    const OFFERED: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
    if framing == Framing::WebSocket {
        *request.method_mut() = http::Method::GET;
        let accept = websocket::ask(request.headers_mut(), &["v5.channel.k8s.io", "v4.channel.k8s.io"]);
        let (answer, io) = client.upgrade(request).await?;
        let header = |name: HeaderName| {
            answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        if header(http::header::SEC_WEBSOCKET_ACCEPT) != accept {
            return Err(RemoteCommandError::Negotiation("wrong Sec-WebSocket-Accept".to_owned()));
        }
        let name = header(http::header::SEC_WEBSOCKET_PROTOCOL);
        let known = Version::parse(&name).filter(|(version, base64)| *version >= Version::V4 && !base64);
        let (version, _) = known.ok_or(RemoteCommandError::Negotiation(name))?;
        let channels = Channels::start(Box::new(io), Role::Client, options, version, false, supervisor);
        let [stdin, stdout, stderr, error, resize] = channels.ends;
        let error = error.expect("the error channel is always made");
        return Ok(ClientStreams { stdin, stdout, stderr, resize, error, version });
    }
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    for version in OFFERED {
        headers.append(STREAM_PROTOCOL_VERSION, HeaderValue::from_static(version));
    }
    let (answer, io) = client.upgrade(request).await?;
    let name = answer.headers().get(STREAM_PROTOCOL_VERSION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (version, _) = Version::parse(name).ok_or_else(|| RemoteCommandError::Negotiation(name.to_owned()))?;
    let session = Session::new(Box::new(io), false, supervisor);
    let opener = session.opener();
    let open = async |wanted: bool, kind: &str| {
        if !wanted {
            return Ok(None);
        }
        opener.open(&[(STREAM_TYPE, kind)]).await.map(|stream| Some(stream.io))
    };
    let error = opener.open(&[(STREAM_TYPE, "error")]).await?.io;
    let stdin = open(options.stdin, "stdin").await?;
    let stdout = open(options.stdout, "stdout").await?;
    let stderr = open(options.stderr(), "stderr").await?;
    let resize = open(options.tty && version >= Version::V3, "resize").await?;
    Ok(ClientStreams { stdin, stdout, stderr, resize, error, version })
}
