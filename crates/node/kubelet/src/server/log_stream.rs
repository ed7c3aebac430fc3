//! A log as an answer: read in blocks, never as a whole; followed as it grows and across its rotation.

use crate::logs::{LogOptions, parse, tail_start};
use crate::pod::state::Instance;
use crate::shared::Shared;
use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::StreamBody;
use skiff_base::task::OnFailure;
use skiff_cri::v1;
use skiff_net::Body;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const BLOCK: usize = 64 << 10;
/// A longer line is passed on in pieces.
const MAX_LINE: usize = 1 << 20;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

struct Reader {
    shared: Arc<Shared>,
    options: LogOptions,
    path: PathBuf,
    id: String,
    file: std::fs::File,
    /// Bytes read that are not a whole line yet.
    rest: Vec<u8>,
    sent: usize,
}

/// Opens without following a link at the end (RELIABILITY row 38).
fn open(path: &PathBuf) -> io::Result<std::fs::File> {
    let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    std::fs::OpenOptions::new().read(true).custom_flags(no_follow).open(path)
}

/// The log of a container as an answer.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    instance: &Instance,
    options: LogOptions,
) -> io::Result<Response<Body>> {
    let path = PathBuf::from(&instance.status.log_path);
    let lines = options.tail_lines;
    let file = {
        let path = path.clone();
        let opened = shared.blocking(move || -> io::Result<std::fs::File> {
            let mut file = open(&path)?;
            let start = match lines {
                Some(0) => file.metadata()?.len(),
                Some(lines) => tail_start(&mut file, lines)?,
                None => 0,
            };
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        });
        opened.await.map_err(io::Error::other)??
    };
    let reader =
        Reader { shared: Arc::clone(shared), options, path, id: instance.id.clone(), file, rest: Vec::new(), sent: 0 };
    let (sender, receiver) = mpsc::channel::<io::Result<Frame<Bytes>>>(4);
    shared.supervisor.spawn_abortable("log", OnFailure::Forget, reader.run(sender));
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (frame, receiver))
    });
    let mut answer = Response::new(Body::stream(StreamBody::new(SyncStream(std::sync::Mutex::new(Box::pin(stream))))));
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(answer)
}

/// Bodies have to be `Sync`; a stream is only ever polled by its one owner, so the lock is never waited for.
struct SyncStream<S>(std::sync::Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures_util::Stream> futures_util::Stream for SyncStream<S> {
    type Item = S::Item;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        let stream = self.get_mut().0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        stream.as_mut().poll_next(context)
    }
}

impl Reader {
    async fn run(mut self, sender: mpsc::Sender<io::Result<Frame<Bytes>>>) {
        let mut ended = false;
        loop {
            match self.block() {
                Ok(Some(bytes)) => {
                    if !bytes.is_empty() && sender.send(Ok(Frame::data(bytes))).await.is_err() {
                        return;
                    }
                    if self.options.limit_bytes.is_some_and(|limit| self.sent >= limit) {
                        return;
                    }
                }
                Ok(None) if !self.options.follow || ended => return,
                Ok(None) => {
                    match self.reopen() {
                        Ok(true) => continue,
                        Ok(false) => (),
                        Err(error) => tracing::debug!(%error, "log not opened again"),
                    }
                    tokio::select! {
                        () = sender.closed() => return,
                        () = self.shared.clock.sleep(LOOK_AGAIN) => (),
                    }
                    // What was written between the last read and the end is read once more.
                    ended = !self.is_running().await;
                }
                Err(error) => {
                    // The receiver may be gone already; then nobody needs to know.
                    sender.send(Err(error)).await.unwrap_or_default();
                    return;
                }
            }
        }
    }

    /// The next lines, rendered; `None` at the end of the file. Reads one block from the page cache or disk.
    fn block(&mut self) -> io::Result<Option<Bytes>> {
        let mut block = vec![0; BLOCK];
        let read = self.file.read(&mut block)?;
        if read == 0 {
            return Ok(None);
        }
        self.rest.extend_from_slice(&block[..read]);
        let mut out = Vec::new();
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            if let Some(line) = parse(&self.rest[start..start + length]) {
                self.options.write(&line, &mut out);
            }
            start += length + 1;
        }
        self.rest.drain(..start);
        if self.rest.len() > MAX_LINE {
            self.rest.clear();
        }
        if let Some(limit) = self.options.limit_bytes {
            out.truncate(limit.saturating_sub(self.sent));
        }
        self.sent += out.len();
        Ok(Some(out.into()))
    }

    /// Goes on with the file that has taken this one's place, if one has. The new file is there once its writer has let
    /// go of the old one, so what was written to that after the last read is read first.
    fn reopen(&mut self) -> io::Result<bool> {
        let now = match std::fs::symlink_metadata(&self.path) {
            // Renamed a moment ago; the runtime has not begun the new one yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        let here = self.file.metadata()?;
        if now.ino() == here.ino() {
            return Ok(false);
        }
        if self.file.stream_position()? < here.len() {
            return Ok(true);
        }
        self.file = open(&self.path)?;
        self.rest.clear();
        Ok(true)
    }

    async fn is_running(&self) -> bool {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), ..Default::default() };
        let status = self.shared.runtime.container_status(request).await;
        let running = i32::from(v1::ContainerState::ContainerRunning);
        status.is_ok_and(|answer| answer.status.is_some_and(|status| status.state == running))
    }
}
