//! The KV service.
//!
//! Mirrors `server/etcdserver/api/v3rpc/key.go` (what is refused) and `server/etcdserver/txn` (sorting and filters).

use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{self as pb, request_op, response_op};
use crate::{Etcd, MAX_TXN_OPS, wire};
use skiff_store::{
    Compare, Condition, KeyValue, Op, OpResponse, Ordering, RangeRequest, RangeResponse, Revision, Txn, TxnResponse,
};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

fn filters(request: &pb::RangeRequest) -> bool {
    [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision]
        .iter()
        .any(|revision| *revision != 0)
}

fn sorts(request: &pb::RangeRequest) -> bool {
    request.sort_order() != SortOrder::None || request.sort_target() != SortTarget::Key
}

/// What the store is asked. Sorting and filtering need everything, so their limit is applied afterwards.
fn range_request(request: &pb::RangeRequest) -> Result<RangeRequest, Status> {
    if request.key.is_empty() {
        return Err(Status::invalid_argument(wire::EMPTY_KEY));
    }
    let later = sorts(request) || filters(request);
    Ok(RangeRequest {
        range: wire::range(&request.key, &request.range_end),
        revision: (request.revision > 0).then_some(request.revision),
        limit: if later { 0 } else { usize::try_from(request.limit).unwrap_or(0) },
        keys_only: request.keys_only && request.sort_target() != SortTarget::Value,
        count_only: request.count_only,
    })
}

fn range_response(etcd: &Etcd, request: &pb::RangeRequest, answer: RangeResponse) -> pb::RangeResponse {
    let RangeResponse { revision, mut kvs, mut more, count } = answer;
    if filters(request) {
        kvs.retain(|kv| {
            let within = |revision: Revision, least: Revision, most: Revision| {
                revision >= least && (most == 0 || revision <= most)
            };
            within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
        });
    }
    if sorts(request) {
        sort(&mut kvs, request.sort_target(), request.sort_order());
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if limit > 0 && kvs.len() > limit {
        kvs.truncate(limit);
        more = true;
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = bytes::Bytes::new());
    }
    pb::RangeResponse {
        header: etcd.header(revision),
        kvs: kvs.into_iter().map(wire::key_value).collect(),
        more,
        count: i64::try_from(count).unwrap_or(i64::MAX),
    }
}

fn sort(kvs: &mut [KeyValue], target: SortTarget, order: SortOrder) {
    match target {
        SortTarget::Key => kvs.sort_by(|one, other| one.key.cmp(&other.key)),
        SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
        SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
        SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
        SortTarget::Value => kvs.sort_by(|one, other| one.value.cmp(&other.value)),
    }
    if order == SortOrder::Descend {
        kvs.reverse();
    }
}

fn check_put(put: &pb::PutRequest) -> Result<(), Status> {
    if put.key.is_empty() {
        return Err(Status::invalid_argument(wire::EMPTY_KEY));
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(Status::invalid_argument(wire::VALUE_PROVIDED));
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Status::invalid_argument(wire::LEASE_PROVIDED));
    }
    Ok(())
}

fn check_delete(delete: &pb::DeleteRangeRequest) -> Result<(), Status> {
    if delete.key.is_empty() { Err(Status::invalid_argument(wire::EMPTY_KEY)) } else { Ok(()) }
}

fn txn(request: &pb::TxnRequest) -> Result<Txn, Status> {
    let most = request.compare.len().max(request.success.len()).max(request.failure.len());
    if most > MAX_TXN_OPS {
        return Err(Status::invalid_argument(wire::TOO_MANY_OPS));
    }
    let compares: Result<Vec<_>, _> = request.compare.iter().cloned().map(wire::compare).collect();
    let ops = |ops: &[pb::RequestOp]| ops.iter().map(op).collect::<Result<Vec<_>, _>>();
    Ok(Txn { compares: compares?, success: ops(&request.success)?, failure: ops(&request.failure)? })
}

fn op(op: &pb::RequestOp) -> Result<Op, Status> {
    match &op.request {
        Some(request_op::Request::RequestRange(range)) => range_request(range).map(Op::Range),
        Some(request_op::Request::RequestPut(put)) => {
            check_put(put)?;
            if put.ignore_value || put.ignore_lease {
                return Err(Status::unimplemented("ignore_value and ignore_lease are not supported in a transaction"));
            }
            Ok(wire::put(put))
        }
        Some(request_op::Request::RequestDeleteRange(delete)) => {
            check_delete(delete)?;
            Ok(wire::delete(delete))
        }
        Some(request_op::Request::RequestTxn(nested)) => txn(nested).map(Op::Txn),
        None => Err(Status::invalid_argument("etcdserver: an operation of a txn request is empty")),
    }
}

fn txn_response(etcd: &Etcd, request: &pb::TxnRequest, answer: TxnResponse) -> pb::TxnResponse {
    let asked = if answer.succeeded { &request.success } else { &request.failure };
    let header = || etcd.header(answer.revision);
    let responses = asked
        .iter()
        .zip(answer.responses)
        .map(|(asked, response)| {
            let response = match (&asked.request, response) {
                (Some(request_op::Request::RequestRange(range)), OpResponse::Range(answer)) => {
                    response_op::Response::ResponseRange(range_response(etcd, range, answer))
                }
                (Some(request_op::Request::RequestTxn(nested)), OpResponse::Txn(answer)) => {
                    response_op::Response::ResponseTxn(txn_response(etcd, nested, answer))
                }
                (_, OpResponse::Put(previous)) => response_op::Response::ResponsePut(pb::PutResponse {
                    header: header(),
                    prev_kv: previous.map(wire::key_value),
                }),
                (_, OpResponse::Delete(count, previous)) => {
                    response_op::Response::ResponseDeleteRange(delete_response(header(), count, previous))
                }
                // The store answers each step with its own kind.
                (_, OpResponse::Range(_) | OpResponse::Txn(_)) => return pb::ResponseOp { response: None },
            };
            pb::ResponseOp { response: Some(response) }
        })
        .collect();
    pb::TxnResponse { header: header(), succeeded: answer.succeeded, responses }
}

fn delete_response(
    header: Option<pb::ResponseHeader>,
    count: usize,
    previous: Vec<KeyValue>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header,
        deleted: i64::try_from(count).unwrap_or(i64::MAX),
        prev_kvs: previous.into_iter().map(wire::key_value).collect(),
    }
}

impl Etcd {
    /// A put that keeps the key's value or lease: read, then write if nobody wrote in between.
    async fn put_keeping(&self, mut put: pb::PutRequest) -> Result<TxnResponse, Status> {
        loop {
            let current = RangeRequest {
                range: skiff_store::KeyRange::key(put.key.clone()),
                revision: None,
                limit: 0,
                keys_only: false,
                count_only: false,
            };
            let answer = self.store.range(current).await.map_err(wire::status)?;
            let Some(kv) = answer.kvs.into_iter().next() else {
                return Err(Status::invalid_argument(wire::KEY_NOT_FOUND));
            };
            if put.ignore_value {
                put.value = kv.value;
            }
            if put.ignore_lease {
                put.lease = kv.lease;
            }
            let unchanged = Condition::ModRevision(Ordering::Equal, kv.mod_revision);
            let txn = Txn {
                compares: vec![Compare { key: put.key.clone(), condition: unchanged }],
                success: vec![wire::put(&put)],
                failure: Vec::new(),
            };
            let answer = self.store.txn(txn).await.map_err(wire::status)?;
            if answer.succeeded {
                return Ok(answer);
            }
        }
    }
}

#[tonic::async_trait]
impl pb::kv_server::Kv for Etcd {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        let request = request.into_inner();
        let answer = self.store.range(range_request(&request)?).await.map_err(wire::status)?;
        Ok(Response::new(range_response(self, &request, answer)))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        let put = request.into_inner();
        check_put(&put)?;
        let answer = if put.ignore_value || put.ignore_lease {
            self.put_keeping(put).await?
        } else {
            let txn = Txn { success: vec![wire::put(&put)], ..Txn::default() };
            self.store.txn(txn).await.map_err(wire::status)?
        };
        let header = self.header(answer.revision);
        let prev_kv = match answer.responses.into_iter().next() {
            Some(OpResponse::Put(previous)) => previous.map(wire::key_value),
            _ => None,
        };
        Ok(Response::new(pb::PutResponse { header, prev_kv }))
    }

    async fn delete_range(&self, request: Request<pb::DeleteRangeRequest>) -> Answer<pb::DeleteRangeResponse> {
        let delete = request.into_inner();
        check_delete(&delete)?;
        let txn = Txn { success: vec![wire::delete(&delete)], ..Txn::default() };
        let answer = self.store.txn(txn).await.map_err(wire::status)?;
        let (count, previous) = match answer.responses.into_iter().next() {
            Some(OpResponse::Delete(count, previous)) => (count, previous),
            _ => (0, Vec::new()),
        };
        Ok(Response::new(delete_response(self.header(answer.revision), count, previous)))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        let request = request.into_inner();
        let answer = self.store.txn(txn(&request)?).await.map_err(wire::status)?;
        Ok(Response::new(txn_response(self, &request, answer)))
    }

    async fn compact(&self, request: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        self.store.compact(request.into_inner().revision).await.map_err(wire::status)?;
        Ok(Response::new(pb::CompactionResponse { header: self.newest_header().await? }))
    }
}
