//! An etcd as a store (`--etcd-servers`).
//!
//! Every watch has a stream of its own, so one that is slow holds nobody up. What the protocol does not say in an answer
//! (where the horizon is, what the newest revision is) is asked for when an error needs it.

use crate::proto::etcdserverpb::{self as pb, request_op, response_op, watch_request::RequestUnion};
use crate::wire;
use bytes::Bytes;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use skiff_store::{
    Event, EventKind, KeyRange, KeyValue, Lease, LeaseId, Op, OpResponse, RangeRequest, RangeResponse, Revision, Store,
    StoreError, StoreFuture, StoreStatus, Txn, TxnResponse, Watch, WatchBatch, WatchRequest,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Deepest nesting of transactions that is sent.
const MAX_DEPTH: usize = 32;

type Name = (Bytes, Option<Bytes>);
type Requests = mpsc::Sender<pb::WatchRequest>;
/// Who can be asked for progress, by range.
type Watches = Arc<Mutex<HashMap<Name, Vec<(u64, Requests)>>>>;

/// A store behind etcd's protocol.
#[derive(Clone)]
pub struct EtcdStore {
    channel: Channel,
    watches: Watches,
}

impl EtcdStore {
    /// Over a channel, which may have TLS and several endpoints.
    pub fn new(channel: Channel) -> Self {
        Self { channel, watches: Arc::default() }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    /// An error with what it should name.
    async fn error(&self, status: Status, wrote: bool) -> StoreError {
        match wire::un_status(&status, wrote) {
            StoreError::Compacted { .. } => match self.horizon().await {
                Ok(horizon) => StoreError::Compacted { horizon },
                Err(error) => error,
            },
            StoreError::FutureRevision { .. } => match self.newest().await {
                Ok(newest) => StoreError::FutureRevision { newest },
                Err(error) => error,
            },
            other => other,
        }
    }

    async fn newest(&self) -> Result<Revision, StoreError> {
        let status = MaintenanceClient::new(self.channel.clone()).status(pb::StatusRequest {}).await;
        let answer = status.map_err(|status| wire::un_status(&status, false))?.into_inner();
        Ok(answer.header.unwrap_or_default().revision)
    }

    /// Only a watch that is refused names the horizon, and only a read says soon whether there is one.
    async fn horizon(&self) -> Result<Revision, StoreError> {
        match self.kv().range(range_request(&probe(1))).await {
            Ok(_) => return Ok(0),
            Err(status) => match wire::un_status(&status, false) {
                StoreError::Compacted { .. } => {}
                StoreError::FutureRevision { .. } => return Ok(0),
                error => return Err(error),
            },
        }
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            start_revision: 1,
            ..pb::WatchCreateRequest::default()
        };
        let (_requests, mut responses) = self.open(create).await?;
        loop {
            let response = next(&mut responses).await?;
            if response.canceled {
                return Ok(response.compact_revision);
            }
        }
    }

    /// Opens a stream with one watch on it.
    async fn open(
        &self,
        create: pb::WatchCreateRequest,
    ) -> Result<(Requests, Streaming<pb::WatchResponse>), StoreError> {
        let (requests, stream) = mpsc::channel(4);
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.map_err(|_| closed())?;
        let mut client = WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let responses = client.watch(ReceiverStream::new(stream)).await;
        let responses = responses.map_err(|status| wire::un_status(&status, false))?.into_inner();
        Ok((requests, responses))
    }

    async fn run_range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        match self.kv().range(range_request(&request)).await {
            Ok(answer) => Ok(range_response(answer.into_inner())),
            Err(status) => Err(self.error(status, false).await),
        }
    }

    async fn run_txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let request = txn_request(txn, 0)?;
        match self.kv().txn(request).await {
            Ok(answer) => Ok(txn_response(answer.into_inner())),
            Err(status) => Err(self.error(status, true).await),
        }
    }

    async fn run_watch(&self, request: WatchRequest) -> Result<Box<dyn Watch>, StoreError> {
        if let Some(start) = request.start.filter(|start| *start > 0) {
            // A refusal of the watch itself comes too late to be this call's answer.
            match self.run_range(probe(start)).await {
                Ok(_) | Err(StoreError::FutureRevision { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let (key, range_end) = unrange(&request.range);
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: request.start.unwrap_or(0),
            prev_kv: request.previous,
            ..pb::WatchCreateRequest::default()
        };
        let (requests, mut responses) = self.open(create).await?;
        while !next(&mut responses).await?.created {}
        let name = (request.range.start, request.range.end);
        let id = {
            let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            let same = watches.entry(name.clone()).or_default();
            let id = same.last().map_or(0, |(id, _)| id + 1);
            same.push((id, requests));
            id
        };
        Ok(Box::new(EtcdWatch { responses, name, id, watches: Arc::clone(&self.watches) }))
    }

    async fn run_keep_alive(&self, id: LeaseId) -> Result<Lease, StoreError> {
        let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let answers = self.lease().lease_keep_alive(request).await;
        let mut answers = answers.map_err(|status| wire::un_status(&status, false))?.into_inner();
        let answer = answers.message().await.map_err(|status| wire::un_status(&status, false))?;
        match answer {
            Some(answer) if answer.ttl > 0 => Ok(Lease { id, granted_ttl: answer.ttl, ttl: answer.ttl }),
            Some(_) => Err(StoreError::LeaseNotFound),
            None => Err(closed()),
        }
    }

    async fn run_time_to_live(&self, id: LeaseId, keys: bool) -> Result<(Lease, Vec<Bytes>), StoreError> {
        let answer = self.lease().lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys }).await;
        let answer = answer.map_err(|status| wire::un_status(&status, false))?.into_inner();
        if answer.ttl < 0 && answer.granted_ttl == 0 {
            return Err(StoreError::LeaseNotFound);
        }
        Ok((Lease { id, granted_ttl: answer.granted_ttl, ttl: answer.ttl }, answer.keys))
    }

    async fn run_status(&self) -> Result<StoreStatus, StoreError> {
        let status = MaintenanceClient::new(self.channel.clone()).status(pb::StatusRequest {}).await;
        let answer = status.map_err(|status| wire::un_status(&status, false))?.into_inner();
        Ok(StoreStatus {
            revision: answer.header.unwrap_or_default().revision,
            compacted: self.horizon().await?,
            size_on_disk: u64::try_from(answer.db_size).unwrap_or(0),
            size_in_use: u64::try_from(answer.db_size_in_use).unwrap_or(0),
            alarm: answer.errors.into_iter().next(),
        })
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("etcd closed the stream".into())
}

async fn next(responses: &mut Streaming<pb::WatchResponse>) -> Result<pb::WatchResponse, StoreError> {
    match responses.message().await {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err(closed()),
        Err(status) => Err(wire::un_status(&status, false)),
    }
}

/// An interval whose end is the empty key holds nothing; the protocol would read it as a single key.
fn unrange(range: &KeyRange) -> (Bytes, Bytes) {
    let (start, end) = wire::unrange(range);
    if end.is_empty() { (start.clone(), start) } else { (start, end) }
}

/// The cheapest read that fails when `revision` cannot be read.
fn probe(revision: Revision) -> RangeRequest {
    let range = KeyRange::key(Bytes::from_static(b"\0"));
    RangeRequest { range, revision: Some(revision), limit: 1, keys_only: true, count_only: true }
}

fn range_request(request: &RangeRequest) -> pb::RangeRequest {
    let (key, range_end) = unrange(&request.range);
    pb::RangeRequest {
        key,
        range_end,
        limit: i64::try_from(request.limit).unwrap_or(i64::MAX),
        revision: request.revision.unwrap_or(0),
        keys_only: request.keys_only,
        count_only: request.count_only,
        ..pb::RangeRequest::default()
    }
}

fn range_response(answer: pb::RangeResponse) -> RangeResponse {
    RangeResponse {
        revision: answer.header.unwrap_or_default().revision,
        kvs: answer.kvs.into_iter().map(wire::un_key_value).collect(),
        more: answer.more,
        count: usize::try_from(answer.count).unwrap_or(0),
    }
}

fn txn_request(txn: Txn, depth: usize) -> Result<pb::TxnRequest, StoreError> {
    if depth > MAX_DEPTH {
        // What is nested too deep to be sent would overflow the stack being dropped one by one as well.
        return Err(StoreError::Invalid("etcdserver: too deeply nested txn request".into()));
    }
    let ops = |ops: Vec<Op>| -> Result<Vec<pb::RequestOp>, StoreError> {
        ops.into_iter().map(|op| Ok(pb::RequestOp { request: Some(request_op(op, depth)?) })).collect()
    };
    Ok(pb::TxnRequest {
        compare: txn.compares.into_iter().map(wire::un_compare).collect(),
        success: ops(txn.success)?,
        failure: ops(txn.failure)?,
    })
}

fn request_op(op: Op, depth: usize) -> Result<request_op::Request, StoreError> {
    Ok(match op {
        Op::Put { key, value, lease, previous } => request_op::Request::RequestPut(pb::PutRequest {
            key,
            value,
            lease,
            prev_kv: previous,
            ..pb::PutRequest::default()
        }),
        Op::Delete { range, previous } => {
            let (key, range_end) = unrange(&range);
            let delete = pb::DeleteRangeRequest { key, range_end, prev_kv: previous };
            request_op::Request::RequestDeleteRange(delete)
        }
        Op::Range(range) => request_op::Request::RequestRange(range_request(&range)),
        Op::Txn(nested) => request_op::Request::RequestTxn(txn_request(nested, depth + 1)?),
    })
}

fn txn_response(answer: pb::TxnResponse) -> TxnResponse {
    let revision = answer.header.unwrap_or_default().revision;
    let responses = answer.responses.into_iter().filter_map(|response| response.response);
    let responses = responses
        .map(|response| match response {
            response_op::Response::ResponsePut(put) => OpResponse::Put(put.prev_kv.map(wire::un_key_value)),
            response_op::Response::ResponseDeleteRange(delete) => OpResponse::Delete(
                usize::try_from(delete.deleted).unwrap_or(0),
                delete.prev_kvs.into_iter().map(wire::un_key_value).collect(),
            ),
            response_op::Response::ResponseRange(range) => OpResponse::Range(range_response(range)),
            response_op::Response::ResponseTxn(nested) => OpResponse::Txn(txn_response(nested)),
        })
        .collect();
    TxnResponse { revision, succeeded: answer.succeeded, responses }
}

struct EtcdWatch {
    responses: Streaming<pb::WatchResponse>,
    name: Name,
    id: u64,
    watches: Watches,
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> StoreFuture<'_, WatchBatch> {
        Box::pin(async move {
            let response = next(&mut self.responses).await?;
            if response.canceled {
                return Err(match response.compact_revision {
                    0 => StoreError::Unavailable(response.cancel_reason),
                    horizon => StoreError::Compacted { horizon },
                });
            }
            if response.events.is_empty() {
                return Ok(WatchBatch::Progress(response.header.unwrap_or_default().revision));
            }
            Ok(WatchBatch::Events(response.events.into_iter().map(event).collect()))
        })
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = watches.get_mut(&self.name) {
            same.retain(|(id, _)| *id != self.id);
            if same.is_empty() {
                watches.remove(&self.name);
            }
        }
    }
}

fn event(event: crate::proto::mvccpb::Event) -> Event {
    let kind = match event.r#type() {
        crate::proto::mvccpb::event::EventType::Put => EventKind::Put,
        crate::proto::mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    let kv: KeyValue = wire::un_key_value(event.kv.unwrap_or_default());
    Event { kind, kv, previous: event.prev_kv.map(wire::un_key_value) }
}

impl Store for EtcdStore {
    fn range(&self, request: RangeRequest) -> StoreFuture<'_, RangeResponse> {
        Box::pin(self.run_range(request))
    }
    fn txn(&self, txn: Txn) -> StoreFuture<'_, TxnResponse> {
        Box::pin(self.run_txn(txn))
    }
    fn watch(&self, request: WatchRequest) -> StoreFuture<'_, Box<dyn Watch>> {
        Box::pin(self.run_watch(request))
    }
    fn compact(&self, revision: Revision) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            match self.kv().compact(pb::CompactionRequest { revision, physical: false }).await {
                Ok(_) => Ok(()),
                Err(status) => Err(self.error(status, true).await),
            }
        })
    }
    fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> StoreFuture<'_, Lease> {
        Box::pin(async move {
            let answer = self.lease().lease_grant(pb::LeaseGrantRequest { ttl: ttl_seconds, id }).await;
            let answer = answer.map_err(|status| wire::un_status(&status, true))?.into_inner();
            Ok(Lease { id: answer.id, granted_ttl: answer.ttl, ttl: answer.ttl })
        })
    }
    fn lease_revoke(&self, id: LeaseId) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let answer = self.lease().lease_revoke(pb::LeaseRevokeRequest { id }).await;
            answer.map(drop).map_err(|status| wire::un_status(&status, true))
        })
    }
    fn lease_keep_alive(&self, id: LeaseId) -> StoreFuture<'_, Lease> {
        Box::pin(self.run_keep_alive(id))
    }
    fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> StoreFuture<'_, (Lease, Vec<Bytes>)> {
        Box::pin(self.run_time_to_live(id, keys))
    }
    fn leases(&self) -> StoreFuture<'_, Vec<LeaseId>> {
        Box::pin(async move {
            let answer = self.lease().lease_leases(pb::LeaseLeasesRequest {}).await;
            let answer = answer.map_err(|status| wire::un_status(&status, false))?.into_inner();
            Ok(answer.leases.into_iter().map(|lease| lease.id).collect())
        })
    }
    fn status(&self) -> StoreFuture<'_, StoreStatus> {
        Box::pin(self.run_status())
    }
    fn request_progress(&self, range: &KeyRange) {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, requests) in watches.get(&(range.start.clone(), range.end.clone())).into_iter().flatten() {
            let ask =
                pb::WatchRequest { request_union: Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})) };
            // A full queue holds requests for progress already; a closed one has a watch that is about to say so.
            drop(requests.try_send(ask));
        }
    }
}
