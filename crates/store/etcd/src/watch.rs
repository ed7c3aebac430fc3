//! The Watch service: many watches over one stream.
//!
//! Mirrors `server/etcdserver/api/v3rpc/watch.go`. One task reads requests; each watch has a task that turns batches into
//! responses and puts them into one bounded queue, so a client that does not read stops its own watches and nobody else,
//! and costs no memory: a watch is a cursor. All tasks of a stream end with it.

use crate::proto::etcdserverpb::{self as pb, watch_create_request::FilterType, watch_request::RequestUnion};
use crate::proto::mvccpb;
use crate::{Etcd, wire};
use bytes::Bytes;
use skiff_store::{EventKind, KeyRange, Revision, StoreError, Watch, WatchBatch, WatchRequest};
use std::collections::HashMap;
use std::pin::Pin;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// The id of a response that concerns no watch or all of them.
const NO_WATCH: i64 = -1;
/// Responses that wait for a client to read them.
const QUEUE: usize = 16;
/// Bytes of events after which a response is closed, at the end of a revision.
const RESPONSE_BYTES: usize = 1 << 20;

type Outgoing = mpsc::Sender<Result<pb::WatchResponse, Status>>;

/// A watch of the stream.
struct Running {
    range: KeyRange,
    /// Up to where everything has been put into the queue.
    reached: watch::Receiver<Revision>,
    task: AbortHandle,
}

/// One stream.
struct Session {
    etcd: Etcd,
    outgoing: Outgoing,
    watches: HashMap<i64, Running>,
    next_id: i64,
    tasks: JoinSet<()>,
}

#[tonic::async_trait]
impl pb::watch_server::Watch for Etcd {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (outgoing, responses) = mpsc::channel(QUEUE);
        let session =
            Session { etcd: self.clone(), outgoing, watches: HashMap::new(), next_id: 0, tasks: JoinSet::new() };
        // The reading task is owned by the response: when the client goes, the stream is dropped and the task with it.
        let mut reader = JoinSet::new();
        reader.spawn(session.run(request.into_inner()));
        let responses = Owned { responses: ReceiverStream::new(responses), _reader: reader };
        Ok(Response::new(Box::pin(responses)))
    }
}

/// Responses, and the task that makes them.
struct Owned {
    responses: ReceiverStream<Result<pb::WatchResponse, Status>>,
    _reader: JoinSet<()>,
}

impl Stream for Owned {
    type Item = Result<pb::WatchResponse, Status>;
    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        Pin::new(&mut self.responses).poll_next(context)
    }
}

impl Session {
    async fn run(mut self, mut requests: Streaming<pb::WatchRequest>) {
        while let Some(request) = requests.next().await {
            // What has ended must not gather on a stream that lives long.
            while self.tasks.try_join_next().is_some() {}
            let outcome = match request {
                Ok(request) => match request.request_union {
                    Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
                    Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
                    Some(RequestUnion::ProgressRequest(_)) => self.progress().await,
                    None => Ok(()),
                },
                Err(status) => Err(status),
            };
            if let Err(status) = outcome {
                // The client reads it, or is gone and does not care.
                drop(self.outgoing.send(Err(status)).await);
                return;
            }
        }
        // The client asks nothing more but may still read.
        while self.tasks.join_next().await.is_some() {}
    }

    async fn send(&self, response: pb::WatchResponse) -> Result<(), Status> {
        self.outgoing.send(Ok(response)).await.map_err(|_| Status::cancelled("the client has gone"))
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> Result<(), Status> {
        let newest = self.etcd.newest().await?;
        let header = self.etcd.header(newest);
        let id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        if self.watches.contains_key(&id) {
            let cancel_reason = "etcdserver: mvcc: watcher with duplicate ID".into();
            let response = pb::WatchResponse {
                header,
                watch_id: NO_WATCH,
                created: true,
                canceled: true,
                cancel_reason,
                ..Default::default()
            };
            return self.send(response).await;
        }
        // The smallest key stands for none.
        let key = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key.clone() };
        let range = wire::range(&key, &create.range_end);
        let start = if create.start_revision > 0 { create.start_revision } else { newest + 1 };
        let request = WatchRequest { range: range.clone(), start: Some(start), previous: create.prev_kv };
        self.send(pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() }).await?;
        let watch = match self.etcd.store.watch(request).await {
            Ok(watch) => watch,
            Err(error) => return self.send(self.etcd.canceled(id, newest, error)).await,
        };
        let (reached, reached_by) = watch::channel(start - 1);
        let filters: Vec<FilterType> = create.filters().collect();
        let deliver = Deliver {
            etcd: self.etcd.clone(),
            outgoing: self.outgoing.clone(),
            id,
            range: range.clone(),
            filters,
            notify: create.progress_notify,
            reached,
        };
        let task = self.tasks.spawn(deliver.run(watch));
        self.watches.insert(id, Running { range, reached: reached_by, task });
        Ok(())
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Status> {
        let Some(running) = self.watches.remove(&id) else { return Ok(()) };
        running.task.abort();
        let header = self.etcd.header(self.etcd.newest().await?);
        self.send(pb::WatchResponse { header, watch_id: id, canceled: true, ..Default::default() }).await
    }

    /// Answers when every watch of the stream has delivered everything up to now.
    async fn progress(&mut self) -> Result<(), Status> {
        let newest = self.etcd.newest().await?;
        let store = &self.etcd.store;
        self.watches.retain(|_, running| !running.task.is_finished());
        let waiting: Vec<_> = self.watches.values().map(|running| running.reached.clone()).collect();
        for running in self.watches.values() {
            store.request_progress(&running.range);
        }
        let (etcd, outgoing) = (self.etcd.clone(), self.outgoing.clone());
        self.tasks.spawn(async move {
            for mut reached in waiting {
                // A watch that ended has nothing left to deliver.
                drop(reached.wait_for(|reached| *reached >= newest).await);
            }
            let header = etcd.header(newest);
            drop(outgoing.send(Ok(pb::WatchResponse { header, watch_id: NO_WATCH, ..Default::default() })).await);
        });
        Ok(())
    }
}

impl Etcd {
    /// The last response of a watch.
    fn canceled(&self, id: i64, newest: Revision, error: StoreError) -> pb::WatchResponse {
        let compact_revision = match &error {
            StoreError::Compacted { horizon } => *horizon,
            _ => 0,
        };
        pb::WatchResponse {
            header: self.header(newest),
            watch_id: id,
            canceled: true,
            compact_revision,
            cancel_reason: wire::status(error).message().to_owned(),
            ..Default::default()
        }
    }
}

/// Delivers one watch.
struct Deliver {
    etcd: Etcd,
    outgoing: Outgoing,
    id: i64,
    range: KeyRange,
    filters: Vec<FilterType>,
    notify: bool,
    reached: watch::Sender<Revision>,
}

impl Deliver {
    async fn run(self, mut watch: Box<dyn Watch>) {
        let interval = self.etcd.identity.progress_interval;
        let mut next_notify = tokio::time::Instant::now() + interval;
        // Set by the timer, answered by the next progress.
        let mut asked = false;
        loop {
            let batch = tokio::select! {
                batch = watch.next() => batch,
                () = tokio::time::sleep_until(next_notify), if self.notify && !asked => {
                    asked = true;
                    self.etcd.store.request_progress(&self.range);
                    continue;
                }
                () = self.outgoing.closed() => return,
            };
            match batch {
                Ok(WatchBatch::Events(events)) => {
                    for response in self.responses(&events) {
                        if self.outgoing.send(Ok(response)).await.is_err() {
                            return;
                        }
                    }
                    if let Some(last) = events.last() {
                        self.reached.send_replace(last.kv.mod_revision);
                    }
                    next_notify = tokio::time::Instant::now() + interval;
                }
                Ok(WatchBatch::Progress(revision)) => {
                    if asked {
                        asked = false;
                        next_notify = tokio::time::Instant::now() + interval;
                        let header = self.etcd.header(revision);
                        let response = pb::WatchResponse { header, watch_id: self.id, ..Default::default() };
                        if self.outgoing.send(Ok(response)).await.is_err() {
                            return;
                        }
                    }
                    self.reached.send_replace(revision);
                }
                Err(error) => {
                    let newest = self.etcd.newest().await.unwrap_or(0);
                    drop(self.outgoing.send(Ok(self.etcd.canceled(self.id, newest, error))).await);
                    return;
                }
            }
        }
    }

    fn wanted(&self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.filters.contains(&FilterType::Noput),
            EventKind::Delete => !self.filters.contains(&FilterType::Nodelete),
        }
    }

    /// Whole revisions, few enough for one message.
    fn responses(&self, events: &[skiff_store::Event]) -> Vec<pb::WatchResponse> {
        let mut responses = Vec::new();
        let mut gathered: Vec<mvccpb::Event> = Vec::new();
        let (mut bytes, mut revision) = (0, 0);
        for event in events.iter().filter(|event| self.wanted(event.kind)) {
            if bytes >= RESPONSE_BYTES && event.kv.mod_revision != revision {
                responses.push(self.response(std::mem::take(&mut gathered), revision));
                bytes = 0;
            }
            revision = event.kv.mod_revision;
            bytes += event.kv.value.len() + event.previous.as_ref().map_or(0, |kv| kv.value.len());
            gathered.push(wire::event(event));
        }
        if !gathered.is_empty() {
            responses.push(self.response(gathered, revision));
        }
        responses
    }

    fn response(&self, events: Vec<mvccpb::Event>, revision: Revision) -> pb::WatchResponse {
        pb::WatchResponse { header: self.etcd.header(revision), watch_id: self.id, events, ..Default::default() }
    }
}
