//! A SPDY connection with its streams, server or client side.

use crate::io::BoxDuplex;
use crate::mux::{self, Inbox, SharedWriter, Writer};
use crate::spdy::{self, Frame, Headers, SpdyError};
use bytes::Bytes;
use parking_lot::Mutex;
use skiff_base::task::{OnFailure, Supervisor};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::io::{DuplexStream, ReadHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Streams that one connection may have open.
const MAX_STREAMS: usize = 1024;
const REFUSED: u32 = 3;
const CANCEL: u32 = 5;

/// A stream: a pipe with the headers that opened it. Shutting the pipe down sends FIN; dropping it ends the stream.
pub struct SpdyStream {
    /// Its number.
    pub id: u32,
    /// Names in lower case.
    pub headers: Headers,
    /// The bytes.
    pub io: DuplexStream,
}

impl SpdyStream {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

struct Open {
    inbox: Inbox,
    /// Told when the peer has accepted the stream.
    accepted: Option<oneshot::Sender<()>>,
}

struct Shared {
    writer: SharedWriter,
    open: Mutex<HashMap<u32, Open>>,
    next: Mutex<u32>,
    closed: CancellationToken,
    supervisor: Supervisor,
    done: Mutex<Option<mpsc::Sender<()>>>,
}

/// A SPDY connection.
pub struct Session {
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<SpdyStream>,
}

/// Opens streams on a connection whose [`Session`] is elsewhere.
#[derive(Clone)]
pub struct Opener(Arc<Shared>);

impl Session {
    /// Over a connection that has changed protocols. Its tasks belong to `supervisor`.
    pub fn new(io: BoxDuplex, server: bool, supervisor: &Supervisor) -> Self {
        let (read, write) = tokio::io::split(io);
        let writer = Writer::Spdy { writer: spdy::Writer::new(write) };
        let (done, mut all_done) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            open: Mutex::default(),
            next: Mutex::new(if server { 2 } else { 1 }),
            closed: CancellationToken::new(),
            supervisor: supervisor.clone(),
            done: Mutex::new(Some(done)),
        });
        let (sender, incoming) = mpsc::channel(64);
        let reading = Arc::clone(&shared);
        supervisor.spawn_abortable("spdy", OnFailure::Forget, async move {
            if let Err(error) = reading.clone().read(spdy::Reader::new(read), sender, server).await {
                tracing::debug!(%error, "SPDY connection ended");
            }
            // Readers see the end, openers that nobody answers.
            reading.open.lock().clear();
            reading.closed.cancel();
        });
        let ending = Arc::clone(&shared);
        supervisor.spawn_abortable("spdy end", OnFailure::Forget, async move {
            // Every stream ended, and nobody opens more: the connection ends in order.
            while all_done.recv().await.is_some() {}
            if let Err(error) = ending.writer.lock().await.close().await {
                tracing::trace!(%error, "SPDY connection was gone");
            }
        });
        Self { shared, incoming }
    }

    /// The next stream that the peer opens; `None` when the connection has ended.
    pub async fn accept(&mut self) -> Option<SpdyStream> {
        self.incoming.recv().await
    }

    /// Cancelled when the connection has ended.
    pub fn closed(&self) -> &CancellationToken {
        &self.shared.closed
    }

    /// Opens streams.
    pub fn opener(&self) -> Opener {
        Opener(Arc::clone(&self.shared))
    }

    /// No stream follows those there are: when they have ended, so does the connection.
    pub fn finish(&self) {
        self.shared.done.lock().take();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Opener {
    /// Opens a stream, and waits until the peer has accepted it: Go's end drops what comes before.
    pub async fn open(&self, headers: &[(&str, &str)]) -> Result<SpdyStream, SpdyError> {
        let gone = || SpdyError::Io(io::Error::from(io::ErrorKind::ConnectionAborted));
        let done = self.0.done.lock().clone().ok_or_else(gone)?;
        let (sender, accepted) = oneshot::channel();
        let (id, io) = {
            let mut next = self.0.next.lock();
            let id = *next;
            *next += 2;
            (id, self.0.start(id, Some(sender), done))
        };
        {
            let mut writer = self.0.writer.lock().await;
            let Writer::Spdy { writer } = &mut *writer else { return Err(gone()) };
            writer.syn_stream(id, headers).await?;
        }
        tokio::select! {
            accepted = accepted => accepted.map_err(|_| gone())?,
            () = self.0.closed.cancelled() => return Err(gone()),
        }
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(SpdyStream { id, headers, io })
    }
}

impl Shared {
    fn start(&self, id: u32, accepted: Option<oneshot::Sender<()>>, done: mpsc::Sender<()>) -> DuplexStream {
        let (io, inbox, task) = mux::stream(id, Arc::clone(&self.writer), true, true, done);
        self.open.lock().insert(id, Open { inbox, accepted });
        self.supervisor.spawn_abortable("spdy stream", OnFailure::Forget, task);
        io
    }

    async fn read(
        self: Arc<Self>,
        mut reader: spdy::Reader<ReadHalf<BoxDuplex>>,
        accepted: mpsc::Sender<SpdyStream>,
        server: bool,
    ) -> Result<(), SpdyError> {
        while let Some(frame) = reader.read().await? {
            match frame {
                Frame::SynStream { id, headers, fin } => {
                    let theirs = id % 2 == u32::from(server) && !self.open.lock().contains_key(&id);
                    let done = self.done.lock().clone();
                    let (true, Some(done)) = (theirs && self.open.lock().len() < MAX_STREAMS, done) else {
                        self.control(Control::Reset(id, REFUSED)).await?;
                        continue;
                    };
                    let io = self.start(id, None, done);
                    self.control(Control::Reply(id)).await?;
                    if fin {
                        self.end_inward(id);
                    }
                    if accepted.try_send(SpdyStream { id, headers, io }).is_err() {
                        // Nobody takes streams (any more).
                        self.open.lock().remove(&id);
                        self.control(Control::Reset(id, REFUSED)).await?;
                    }
                }
                Frame::SynReply { id, fin } => {
                    if let Some(waiting) = self.open.lock().get_mut(&id).and_then(|open| open.accepted.take()) {
                        // (The opener may have given up.)
                        let _opener_may_be_gone = waiting.send(());
                    }
                    if fin {
                        self.end_inward(id);
                    }
                }
                Frame::Data { id, bytes, fin } => {
                    self.deliver(id, bytes).await?;
                    if fin {
                        self.end_inward(id);
                    }
                }
                Frame::Reset { id, .. } => drop(self.open.lock().remove(&id)),
                Frame::Ping(id) if id % 2 == u32::from(server) => {
                    self.control(Control::Ping(id)).await?;
                }
                // After GOAWAY the peer opens nothing more; it ends the connection when its streams have ended.
                Frame::Ping(_) | Frame::GoAway | Frame::Ignored => (),
            }
        }
        Ok(())
    }

    async fn deliver(&self, id: u32, bytes: Bytes) -> Result<(), SpdyError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(inbox) = self.open.lock().get(&id).map(|open| open.inbox.clone()) else { return Ok(()) };
        if inbox.send(bytes).await.is_ok() {
            return Ok(());
        }
        self.open.lock().remove(&id);
        self.control(Control::Reset(id, CANCEL)).await
    }

    fn end_inward(&self, id: u32) {
        // Whoever waits for the inbox to end sees its end; what is queued is still read.
        self.open.lock().remove(&id);
    }

    async fn control(&self, control: Control) -> Result<(), SpdyError> {
        let Writer::Spdy { writer } = &mut *self.writer.lock().await else { return Ok(()) };
        match control {
            Control::Reply(id) => writer.syn_reply(id).await,
            Control::Reset(id, status) => writer.reset(id, status).await,
            Control::Ping(id) => writer.ping(id).await,
        }
    }
}

enum Control {
    Reply(u32),
    Reset(u32, u32),
    Ping(u32),
}
