//! Words of the protocol and words of the trait.
//!
//! Messages and codes are etcd's (`api/v3rpc/rpctypes/error.go`), because clients compare them.

use crate::proto::{etcdserverpb as pb, mvccpb};
use bytes::Bytes;
use skiff_store::{Compare, Condition, Event, EventKind, KeyRange, KeyValue, Op, Ordering, StoreError};
use tonic::Status;

/// `[key, end)` as the protocol writes it: no end is one key, an end of one zero byte is no end.
pub(crate) fn range(key: &Bytes, end: &Bytes) -> KeyRange {
    match &end[..] {
        [] => KeyRange::key(key.clone()),
        [0] => KeyRange { start: key.clone(), end: None },
        _ => KeyRange { start: key.clone(), end: Some(end.clone()) },
    }
}

/// The other way. A single key is an interval too.
pub(crate) fn unrange(range: &KeyRange) -> (Bytes, Bytes) {
    // The protocol has no empty first key.
    let start = if range.start.is_empty() { Bytes::from_static(&[0]) } else { range.start.clone() };
    (start, range.end.clone().unwrap_or_else(|| Bytes::from_static(&[0])))
}

pub(crate) fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    let KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
    mvccpb::KeyValue { key, create_revision, mod_revision, version, value, lease }
}

pub(crate) fn un_key_value(kv: mvccpb::KeyValue) -> KeyValue {
    let mvccpb::KeyValue { key, create_revision, mod_revision, version, value, lease } = kv;
    KeyValue { key, value, create_revision, mod_revision, version, lease }
}

pub(crate) fn event(event: &Event) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv.clone())),
        prev_kv: event.previous.clone().map(key_value),
    }
}

/// A condition on one key.
pub(crate) fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    if !compare.range_end.is_empty() {
        return Err(Status::unimplemented("comparing a range of keys is not supported"));
    }
    let ordering = match compare.result() {
        CompareResult::Equal => Ordering::Equal,
        CompareResult::NotEqual => Ordering::NotEqual,
        CompareResult::Less => Ordering::Less,
        CompareResult::Greater => Ordering::Greater,
    };
    // As etcd reads them: a value that is not there is 0 or empty.
    let condition = match (compare.target(), compare.target_union.clone()) {
        (CompareTarget::Version, union) => {
            Condition::Version(ordering, if let Some(TargetUnion::Version(number)) = union { number } else { 0 })
        }
        (CompareTarget::Create, union) => Condition::CreateRevision(
            ordering,
            if let Some(TargetUnion::CreateRevision(number)) = union { number } else { 0 },
        ),
        (CompareTarget::Mod, union) => Condition::ModRevision(
            ordering,
            if let Some(TargetUnion::ModRevision(number)) = union { number } else { 0 },
        ),
        (CompareTarget::Lease, union) => {
            Condition::Lease(ordering, if let Some(TargetUnion::Lease(number)) = union { number } else { 0 })
        }
        (CompareTarget::Value, union) => {
            Condition::Value(ordering, if let Some(TargetUnion::Value(value)) = union { value } else { Bytes::new() })
        }
    };
    Ok(Compare { key: compare.key, condition })
}

/// The other way.
pub(crate) fn un_compare(compare: Compare) -> pb::Compare {
    use pb::compare::{CompareTarget, TargetUnion};
    let (target, ordering, union) = match compare.condition {
        Condition::Version(ordering, number) => (CompareTarget::Version, ordering, TargetUnion::Version(number)),
        Condition::CreateRevision(ordering, number) => {
            (CompareTarget::Create, ordering, TargetUnion::CreateRevision(number))
        }
        Condition::ModRevision(ordering, number) => (CompareTarget::Mod, ordering, TargetUnion::ModRevision(number)),
        Condition::Lease(ordering, number) => (CompareTarget::Lease, ordering, TargetUnion::Lease(number)),
        Condition::Value(ordering, value) => (CompareTarget::Value, ordering, TargetUnion::Value(value)),
    };
    let result = match ordering {
        Ordering::Equal => pb::compare::CompareResult::Equal,
        Ordering::NotEqual => pb::compare::CompareResult::NotEqual,
        Ordering::Less => pb::compare::CompareResult::Less,
        Ordering::Greater => pb::compare::CompareResult::Greater,
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key: compare.key,
        target_union: Some(union),
        range_end: Bytes::new(),
    }
}

pub(crate) fn put(put: &pb::PutRequest) -> Op {
    Op::Put { key: put.key.clone(), value: put.value.clone(), lease: put.lease, previous: put.prev_kv }
}

pub(crate) fn delete(delete: &pb::DeleteRangeRequest) -> Op {
    Op::Delete { range: range(&delete.key, &delete.range_end), previous: delete.prev_kv }
}

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
const LEASE_EXISTS: &str = "etcdserver: lease already exists";
const LEASE_TTL: &str = "too large lease TTL";
const DUPLICATE_KEY: &str = "etcdserver: duplicate key given in txn request";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const TIMED_OUT: &str = "etcdserver: request timed out";
pub(crate) const KEY_NOT_FOUND: &str = "etcdserver: key not found";
pub(crate) const VALUE_PROVIDED: &str = "etcdserver: value is provided";
pub(crate) const LEASE_PROVIDED: &str = "etcdserver: lease is provided";
pub(crate) const EMPTY_KEY: &str = "etcdserver: key is not provided";
pub(crate) const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";

/// What a client of etcd gets to see of an error.
pub(crate) fn status(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => Status::out_of_range(COMPACTED),
        StoreError::FutureRevision { .. } => Status::out_of_range(FUTURE),
        StoreError::LeaseNotFound => Status::not_found(LEASE_NOT_FOUND),
        StoreError::LeaseExists => Status::failed_precondition(LEASE_EXISTS),
        StoreError::DuplicateKey => Status::invalid_argument(DUPLICATE_KEY),
        StoreError::Invalid(words) if words.contains(LEASE_TTL) => {
            Status::out_of_range(format!("etcdserver: {LEASE_TTL}"))
        }
        StoreError::Invalid(words) => Status::invalid_argument(words),
        StoreError::NoSpace => Status::resource_exhausted(NO_SPACE),
        StoreError::OutcomeUnknown(_) => Status::unavailable(TIMED_OUT),
        error @ StoreError::Unavailable(_) => Status::unavailable(error.to_string()),
        error @ (StoreError::Corrupt { .. }
        | StoreError::Io { .. }
        | StoreError::InUse { .. }
        | StoreError::Format { .. }) => Status::internal(error.to_string()),
    }
}

/// The other way. `wrote` says that a write may have reached the other side before the failure.
pub(crate) fn un_status(status: &Status, wrote: bool) -> StoreError {
    use tonic::Code;
    match (status.code(), status.message()) {
        (_, COMPACTED) => StoreError::Compacted { horizon: 0 },
        (_, FUTURE) => StoreError::FutureRevision { newest: 0 },
        (_, LEASE_NOT_FOUND) => StoreError::LeaseNotFound,
        (_, LEASE_EXISTS) => StoreError::LeaseExists,
        (_, DUPLICATE_KEY) => StoreError::DuplicateKey,
        (_, NO_SPACE) => StoreError::NoSpace,
        (Code::ResourceExhausted | Code::OutOfRange, words) if words.contains("larger than max") => {
            StoreError::Invalid("etcdserver: request is too large".into())
        }
        (Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented, words) => {
            StoreError::Invalid(words.to_owned())
        }
        (Code::FailedPrecondition | Code::PermissionDenied | Code::Unauthenticated, words) => {
            StoreError::Unavailable(words.to_owned())
        }
        (_, words) if wrote => StoreError::OutcomeUnknown(words.to_owned()),
        (_, words) => StoreError::Unavailable(words.to_owned()),
    }
}
