//! Byte streams over one connection: what WebSocket channels and SPDY streams have in common.
//!
//! A stream is a pipe. One task per connection reads frames and hands them to the stream's task, one task per stream
//! moves bytes between pipe and frames. A reader that is slow stops its own stream at [`QUEUE`] frames, and then the
//! connection, as Go's implementation does; nothing is dropped and nothing grows.

use crate::{spdy, websocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::sync::{Mutex, mpsc};

/// Frames that wait for one stream.
pub(crate) const QUEUE: usize = 16;
const PIPE: usize = 64 * 1024;

/// Largest piece that is sent as one frame.
const PIECE: usize = 32 * 1024;

/// What went wrong on a connection of streams.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MuxError {
    /// On a WebSocket.
    #[error(transparent)]
    WebSocket(#[from] websocket::WebSocketError),
    /// On SPDY.
    #[error(transparent)]
    Spdy(#[from] spdy::SpdyError),
}

/// Writes frames of streams.
pub(crate) enum Writer {
    WebSocket { writer: websocket::Writer, base64: bool, half_close: bool },
    Spdy { writer: spdy::Writer<WriteHalf<crate::io::BoxDuplex>> },
}

pub(crate) type SharedWriter = Arc<Mutex<Writer>>;

/// Channel of the close signal of `v5.channel.k8s.io`.
pub(crate) const CLOSE_CHANNEL: u8 = 255;

impl Writer {
    pub(crate) async fn data(&mut self, id: u32, bytes: &[u8]) -> Result<(), MuxError> {
        match self {
            Self::WebSocket { writer, base64: false, .. } => {
                writer.binary(&[&[u8::try_from(id).unwrap_or(0)], bytes]).await?;
            }
            Self::WebSocket { writer, base64: true, .. } => {
                let digit = [b'0' + u8::try_from(id % 10).unwrap_or(0)];
                writer.text(&[&digit, STANDARD.encode(bytes).as_bytes()]).await?;
            }
            Self::Spdy { writer } => writer.data(id, bytes, false).await?,
        }
        Ok(())
    }

    /// Nothing more comes on this stream.
    pub(crate) async fn finish(&mut self, id: u32) -> Result<(), MuxError> {
        match self {
            Self::WebSocket { writer, half_close: true, .. } => {
                writer.binary(&[&[CLOSE_CHANNEL, u8::try_from(id).unwrap_or(0)]]).await?;
            }
            // Older versions cannot say it.
            Self::WebSocket { .. } => (),
            Self::Spdy { writer } => writer.data(id, &[], true).await?,
        }
        Ok(())
    }

    /// Ends the connection in order.
    pub(crate) async fn close(&mut self) -> Result<(), MuxError> {
        let ended: io::Result<()> = match self {
            Self::WebSocket { writer, .. } => {
                writer.write(&websocket::Message::Close(Some(1000))).await?;
                writer.shutdown().await
            }
            Self::Spdy { writer } => {
                writer.go_away(0).await?;
                writer.shutdown().await
            }
        };
        // The peer may have gone first; then there is nothing to end.
        if let Err(error) = ended {
            tracing::trace!(%error, "connection was gone");
        }
        Ok(())
    }
}

/// What reaches a stream.
pub(crate) type Inbox = mpsc::Sender<Bytes>;

/// Makes a stream: the pipe for its user, the inbox for the connection, and the task that joins them. `outgoing` and
/// `incoming` say which directions exist. `done` is dropped when the user has ended the stream and that was sent.
pub(crate) fn stream(
    id: u32,
    writer: SharedWriter,
    incoming: bool,
    outgoing: bool,
    done: mpsc::Sender<()>,
) -> (DuplexStream, Inbox, impl Future<Output = ()> + Send + 'static) {
    let (near, far) = tokio::io::duplex(PIPE);
    let (inbox, mut frames) = mpsc::channel::<Bytes>(QUEUE);
    let task = async move {
        let (mut from_user, mut to_user) = tokio::io::split(far);
        let inward = async {
            while let Some(bytes) = frames.recv().await {
                if !incoming || to_user.write_all(&bytes).await.is_err() {
                    // Nobody reads: what still comes is taken and forgotten, so that other streams go on.
                    while frames.recv().await.is_some() {}
                }
            }
            // (A pipe whose user is gone cannot fail to end.)
            let _user_may_be_gone = to_user.shutdown().await;
        };
        let outward = async {
            let mut buffer = vec![0; PIECE];
            loop {
                let size = match from_user.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(size) => size,
                };
                if outgoing && let Err(error) = writer.lock().await.data(id, &buffer[..size]).await {
                    tracing::debug!(stream = id, %error, "cannot send");
                    return;
                }
            }
            if outgoing && let Err(error) = writer.lock().await.finish(id).await {
                tracing::debug!(stream = id, %error, "cannot end");
            }
            drop(done);
        };
        tokio::join!(inward, outward);
    };
    (near, inbox, task)
}
