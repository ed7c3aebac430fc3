//! WebSocket (RFC 6455): handshake and frames, server and client side.
//!
//! Messages are bounded; pings are answered by whoever reads; a fragmented message arrives whole.

use crate::Body;
use crate::io::BoxDuplex;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Request, Response, StatusCode};
use ring::rand::SecureRandom;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

/// Largest message that is read.
pub const MAX_MESSAGE: usize = 32 * 1024 * 1024;
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What went wrong on a WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// The connection broke.
    #[error("the WebSocket connection broke")]
    Io(#[from] io::Error),
    /// The other end does not keep to the protocol.
    #[error("the WebSocket peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// A message larger than [`MAX_MESSAGE`].
    #[error("the WebSocket message is too large")]
    TooLarge,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Bytes.
    Binary(Bytes),
    /// Text; whether it is UTF-8 is for the reader.
    Text(Bytes),
    /// Asks for a pong.
    Ping(Bytes),
    /// Answers a ping.
    Pong(Bytes),
    /// Ends the connection, with a code.
    Close(Option<u16>),
}

/// Whether a header list holds a token, without regard to case.
pub fn header_has(headers: &HeaderMap, name: http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(token)))
}

/// Whether a request asks for a WebSocket.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    header_has(headers, CONNECTION, "upgrade") && header_has(headers, UPGRADE, "websocket")
}

/// The sub-protocols that a request offers, in its order.
pub fn protocols(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|one| one.trim().to_owned())
        .filter(|one| !one.is_empty())
        .collect()
}

fn accept_key(key: &[u8]) -> String {
    let mut text = key.to_vec();
    text.extend_from_slice(GUID.as_bytes());
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &text))
}

/// The `101` for a request, with the sub-protocol that was chosen; `Err` is the refusal to send.
pub fn accept<B>(request: &Request<B>, protocol: Option<&str>) -> Result<Response<Body>, Box<Response<Body>>> {
    let refuse = |why: &'static str| {
        let mut answer = Response::new(Body::from(why));
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        Box::new(answer)
    };
    let headers = request.headers();
    if !is_websocket(headers) || request.method() != http::Method::GET {
        return Err(refuse("not a WebSocket handshake\n"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(refuse("missing or bad WebSocket Version\n"));
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(refuse("mismatch challenge/response\n"));
    };
    let mut answer = Response::new(Body::Empty);
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = answer.headers_mut();
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let accepted = HeaderValue::from_str(&accept_key(key.as_bytes())).map_err(|_| refuse("bad WebSocket Key\n"))?;
    out.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    if let Some(protocol) = protocol {
        let value = HeaderValue::from_str(protocol).map_err(|_| refuse("bad WebSocket Protocol\n"))?;
        out.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(answer)
}

/// Makes a request ask for a WebSocket with one of these sub-protocols. Returns what the server has to answer in
/// `Sec-WebSocket-Accept`.
pub fn ask(headers: &mut HeaderMap, protocols: &[&str]) -> String {
    let mut random = [0; 16];
    fill_random(&mut random);
    let key = STANDARD.encode(random);
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if let Ok(value) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, value);
    }
    if let Ok(value) = HeaderValue::from_str(&protocols.join(", "))
        && !protocols.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    accept_key(key.as_bytes())
}

fn fill_random(bytes: &mut [u8]) {
    // A kernel without randomness cannot have come this far; zeros would only weaken the masking of our own frames.
    if ring::rand::SystemRandom::new().fill(bytes).is_err() {
        tracing::warn!("the kernel gives no randomness");
    }
}

/// Which end we are: clients mask what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Role {
    Server,
    Client,
}

/// Reads messages.
pub struct Reader<R = ReadHalf<BoxDuplex>> {
    io: R,
    buffer: BytesMut,
    role: Role,
    partial: Option<(bool, BytesMut)>,
}

/// Writes messages.
pub struct Writer<W = WriteHalf<BoxDuplex>> {
    io: W,
    role: Role,
}

/// Both halves over a connection that has changed protocols.
pub fn split(io: BoxDuplex, role: Role) -> (Reader, Writer) {
    let (read, write) = tokio::io::split(io);
    (Reader { io: read, buffer: BytesMut::with_capacity(16 * 1024), role, partial: None }, Writer { io: write, role })
}

struct Head {
    fin: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    length: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// The next message; `None` when the connection ended without a close frame.
    pub async fn read(&mut self) -> Result<Option<Message>, WebSocketError> {
        loop {
            let Some(head) = self.head().await? else { return Ok(None) };
            self.fill(head.length).await?;
            let mut payload = self.buffer.split_to(head.length);
            if let Some(mask) = head.mask {
                for (index, byte) in payload.iter_mut().enumerate() {
                    *byte ^= mask[index & 3];
                }
            }
            if let Some(message) = self.frame(&head, payload)? {
                return Ok(Some(message));
            }
        }
    }

    fn frame(&mut self, head: &Head, payload: BytesMut) -> Result<Option<Message>, WebSocketError> {
        let protocol = |why| Err(WebSocketError::Protocol(why));
        if head.opcode >= 8 {
            if !head.fin || payload.len() > 125 {
                return protocol("a control frame is fragmented or too long");
            }
            let payload = payload.freeze();
            return Ok(Some(match head.opcode {
                8 => Message::Close(payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]))),
                9 => Message::Ping(payload),
                10 => Message::Pong(payload),
                _ => return protocol("unknown control frame"),
            }));
        }
        let (binary, whole) = match (head.opcode, self.partial.take()) {
            (0, Some((binary, mut partial))) => {
                if partial.len() + payload.len() > MAX_MESSAGE {
                    return Err(WebSocketError::TooLarge);
                }
                partial.extend_from_slice(&payload);
                (binary, partial)
            }
            (1 | 2, None) => (head.opcode == 2, payload),
            _ => return protocol("fragments out of order"),
        };
        if !head.fin {
            self.partial = Some((binary, whole));
            return Ok(None);
        }
        let whole = whole.freeze();
        Ok(Some(if binary { Message::Binary(whole) } else { Message::Text(whole) }))
    }

    async fn head(&mut self) -> Result<Option<Head>, WebSocketError> {
        if self.buffer.is_empty() && self.io.read_buf(&mut self.buffer).await? == 0 {
            return Ok(None);
        }
        self.fill(2).await?;
        let (first, second) = (self.buffer[0], self.buffer[1]);
        if first & 0x70 != 0 {
            return Err(WebSocketError::Protocol("reserved bits are set"));
        }
        let masked = second & 0x80 != 0;
        if masked != (self.role == Role::Server) {
            return Err(WebSocketError::Protocol("wrong masking"));
        }
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let size = 2 + extended + if masked { 4 } else { 0 };
        self.fill(size).await?;
        let head = self.buffer.split_to(size);
        let length = match extended {
            0 => u64::from(second & 0x7f),
            _ => head[2..2 + extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_MESSAGE);
        let length = length.ok_or(WebSocketError::TooLarge)?;
        let mask = masked.then(|| [head[size - 4], head[size - 3], head[size - 2], head[size - 1]]);
        Ok(Some(Head { fin: first & 0x80 != 0, opcode: first & 0xf, mask, length }))
    }

    /// Reads until `length` bytes are there. Memory grows with what arrives, not with what was announced.
    async fn fill(&mut self, length: usize) -> Result<(), WebSocketError> {
        while self.buffer.len() < length {
            self.buffer.reserve((length - self.buffer.len()).min(64 * 1024));
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(())
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes a message as one frame.
    pub async fn write(&mut self, message: &Message) -> Result<(), WebSocketError> {
        match message {
            Message::Binary(bytes) => self.frame(2, &[bytes]).await,
            Message::Text(bytes) => self.frame(1, &[bytes]).await,
            Message::Ping(bytes) => self.frame(9, &[bytes]).await,
            Message::Pong(bytes) => self.frame(10, &[bytes]).await,
            Message::Close(None) => self.frame(8, &[]).await,
            Message::Close(Some(code)) => self.frame(8, &[&code.to_be_bytes()]).await,
        }
    }

    /// Writes a binary message of several pieces.
    pub async fn binary(&mut self, parts: &[&[u8]]) -> Result<(), WebSocketError> {
        self.frame(2, parts).await
    }

    /// Writes a text message.
    pub async fn text(&mut self, parts: &[&[u8]]) -> Result<(), WebSocketError> {
        self.frame(1, parts).await
    }

    async fn frame(&mut self, opcode: u8, parts: &[&[u8]]) -> Result<(), WebSocketError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut out = Vec::with_capacity(length + 14);
        out.push(0x80 | opcode);
        let masked = if self.role == Role::Client { 0x80 } else { 0 };
        match length {
            0..=125 => out.push(masked | u8::try_from(length).unwrap_or(0)),
            126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&u16::try_from(length).unwrap_or(0).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let mut mask = [0; 4];
        if masked != 0 {
            fill_random(&mut mask);
            out.extend_from_slice(&mask);
        }
        let start = out.len();
        for part in parts {
            out.extend_from_slice(part);
        }
        if masked != 0 {
            for (index, byte) in out[start..].iter_mut().enumerate() {
                *byte ^= mask[index & 3];
            }
        }
        self.io.write_all(&out).await?;
        self.io.flush().await?;
        Ok(())
    }

    /// Ends the connection below.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_key_is_the_rfcs() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    async fn read(role: Role, bytes: &[u8]) -> Result<Option<Message>, WebSocketError> {
        let (mut far, near) = tokio::io::duplex(1024);
        far.write_all(bytes).await.unwrap();
        drop(far);
        split(Box::new(near), role).0.read().await
    }

    #[tokio::test]
    async fn reads_the_rfcs_examples() {
        let hello = Some(Message::Text("Hello".into()));
        assert_eq!(read(Role::Client, &[0x81, 5, 0x48, 0x65, 0x6c, 0x6c, 0x6f]).await.unwrap(), hello);
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(read(Role::Server, &masked).await.unwrap(), hello);
        assert_eq!(read(Role::Client, &[1, 3, 0x48, 0x65, 0x6c, 0x80, 2, 0x6c, 0x6f]).await.unwrap(), hello);
        assert_eq!(read(Role::Client, &[]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn refuses_what_breaks_the_protocol() {
        let huge = [0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert!(matches!(read(Role::Client, &huge).await, Err(WebSocketError::TooLarge)));
        for (what, bytes) in [
            ("unmasked to a server", &[0x81u8, 1, 0x48][..]),
            ("reserved bit", &[0xc1, 0x81, 0, 0, 0, 0, 0][..]),
            ("continuation first", &[0x80, 0x80, 0, 0, 0, 0][..]),
            ("fragmented ping", &[0x09, 0x80, 0, 0, 0, 0][..]),
            ("cut", &[0x82, 0x85, 1][..]),
        ] {
            assert!(read(Role::Server, bytes).await.is_err(), "{what}");
        }
    }
}
