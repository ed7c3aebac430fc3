//! A running watch, over bytes or over shared objects.

use crate::error::ClientError;
use http_body::Body as _;
use skiff_machinery::codec::json;
use skiff_machinery::object::{Change, ChangeKind, ChangeSource, Object};
use skiff_machinery::{ApiError, Value};
use skiff_net::Body;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Largest single watch frame that is accepted, in bytes; the server's own limit for an object is 3 MiB.
const MAX_FRAME: usize = 16 << 20;

/// A running watch. Dropping it ends the watch.
pub struct WatchStream {
    source: Source,
}

enum Source {
    InProcess(Box<dyn ChangeSource>),
    Bytes { body: Body, buffer: Vec<u8>, scanned: usize },
}

impl WatchStream {
    pub(crate) fn in_process(source: Box<dyn ChangeSource>) -> Self {
        Self { source: Source::InProcess(source) }
    }
    pub(crate) fn over_bytes(body: Body) -> Self {
        Self { source: Source::Bytes { body, buffer: Vec::new(), scanned: 0 } }
    }

    /// The next change; `None` when the server ended the watch and it can be resumed.
    pub async fn next(&mut self) -> Option<Result<Change, ClientError>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The next change, when it is there.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Change, ClientError>>> {
        match &mut self.source {
            Source::InProcess(source) => source.poll_next(context).map(|next| next.map(|r| r.map_err(Into::into))),
            Source::Bytes { body, buffer, scanned } => loop {
                if let Some(length) = memchr_newline(&buffer[*scanned..]) {
                    let end = *scanned + length;
                    let frame = read_frame(&buffer[..end]);
                    buffer.drain(..=end);
                    *scanned = 0;
                    return Poll::Ready(Some(frame));
                }
                *scanned = buffer.len();
                if buffer.len() > MAX_FRAME {
                    return Poll::Ready(Some(Err(broken("a frame is larger than 16 MiB"))));
                }
                match ready!(Pin::new(&mut *body).poll_frame(context)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            buffer.extend_from_slice(&data);
                        }
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "watch connection ended");
                        return Poll::Ready(None);
                    }
                    None => return Poll::Ready(None),
                }
            },
        }
    }
}

fn memchr_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

fn broken(what: impl Into<String>) -> ClientError {
    ClientError::Decode { method: "GET".to_owned(), path: "watch".to_owned(), what: what.into() }
}

fn read_frame(bytes: &[u8]) -> Result<Change, ClientError> {
    let mut frame = json::from_slice(bytes).map_err(|error| broken(error.to_string()))?;
    let kind = match frame.str_at(&["type"]) {
        "ADDED" => ChangeKind::Added,
        "MODIFIED" => ChangeKind::Modified,
        "DELETED" => ChangeKind::Deleted,
        "BOOKMARK" => ChangeKind::Bookmark,
        "ERROR" => {
            let status = frame.get("object").and_then(ApiError::from_status);
            return Err(status.map_or_else(|| broken("an ERROR frame without Status"), ClientError::Api));
        }
        other => return Err(broken(format!("unknown frame type {other:?}"))),
    };
    let object = frame.get_mut("object").map(std::mem::take).unwrap_or(Value::Null);
    Ok(Change { kind, object: Arc::new(Object::new(Arc::new(object))) })
}
