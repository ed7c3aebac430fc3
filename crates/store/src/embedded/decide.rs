//! What a transaction would change and answer: a function of the state, without changing it.
//!
//! Mirrors `server/etcdserver/txn/txn.go` and `checkTxnRequest` of `server/etcdserver/api/v3rpc/key.go`. All compares,
//! those of nested transactions too, look at the state before the transaction; ranges see the steps before them.

use super::index::{Index, Version};
use super::lease::Leases;
use crate::{
    Compare, Condition, KeyRange, KeyValue, Op, OpResponse, Ordering, RangeRequest, RangeResponse, Revision,
    StoreError, Txn, TxnResponse,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What a decision looks at.
pub(crate) struct View<'a> {
    pub(crate) index: &'a Index,
    pub(crate) leases: &'a Leases,
    /// Newest revision it may see.
    pub(crate) newest: Revision,
    pub(crate) horizon: Revision,
}

/// One change of one key.
#[derive(Debug)]
pub(crate) struct KeyEdit {
    pub(crate) key: Bytes,
    pub(crate) before: Option<Version>,
    /// The new version, or a tombstone.
    pub(crate) after: Version,
}

/// What a transaction does.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) edits: Vec<KeyEdit>,
    pub(crate) response: TxnResponse,
}

/// Whether no branch of `txn` can write.
pub(crate) fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match op {
        Op::Put { .. } | Op::Delete { .. } => false,
        Op::Range(_) => true,
        Op::Txn(nested) => is_read_only(nested),
    })
}

/// Refuses what no state can make right: empty keys, keys written twice, too much nesting.
pub(crate) fn check(txn: &Txn, max_bytes: usize) -> Result<(), StoreError> {
    let mut bytes = 0;
    check_branches(txn, 0, &mut bytes)?;
    if bytes > max_bytes {
        return Err(StoreError::Invalid("etcdserver: request is too large".into()));
    }
    Ok(())
}

#[derive(Default)]
struct Written {
    puts: BTreeSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Written {
    fn put(&mut self, key: &Bytes) -> Result<(), StoreError> {
        if self.deletes.iter().any(|range| range.contains(key)) || !self.puts.insert(key.clone()) {
            return Err(StoreError::DuplicateKey);
        }
        Ok(())
    }
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() { Err(StoreError::Invalid("etcdserver: key is not provided".into())) } else { Ok(()) }
}

fn check_branches(txn: &Txn, depth: usize, bytes: &mut usize) -> Result<(Written, Written), StoreError> {
    const MAX_DEPTH: usize = 32;
    if depth > MAX_DEPTH {
        return Err(StoreError::Invalid("etcdserver: too deeply nested txn request".into()));
    }
    for compare in &txn.compares {
        check_key(&compare.key)?;
        *bytes += compare.key.len() + if let Condition::Value(_, value) = &compare.condition { value.len() } else { 8 };
    }
    Ok((check_ops(&txn.success, depth, bytes)?, check_ops(&txn.failure, depth, bytes)?))
}

/// Mirrors `checkIntervals`: deletes of this level first, then the nested transactions, then this level's puts.
fn check_ops(ops: &[Op], depth: usize, bytes: &mut usize) -> Result<Written, StoreError> {
    let mut written = Written::default();
    for op in ops {
        if let Op::Delete { range, .. } = op {
            *bytes += range.start.len();
            written.deletes.push(range.clone());
        }
    }
    for op in ops {
        let Op::Txn(nested) = op else { continue };
        let (success, failure) = check_branches(nested, depth + 1, bytes)?;
        for key in &success.puts {
            written.put(key)?;
        }
        // Only one of the branches runs, so they may write the same key.
        for key in failure.puts.difference(&success.puts) {
            written.put(key)?;
        }
        written.deletes.extend(success.deletes);
        written.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Op::Put { key, value, .. } = op {
            check_key(key)?;
            *bytes += key.len() + value.len();
            written.put(key)?;
        }
    }
    Ok(written)
}

/// Decides a checked transaction.
pub(crate) fn decide(view: &View<'_>, txn: &Txn) -> Result<Decision, StoreError> {
    let mut path = Vec::new();
    choose(view, txn, &mut path);
    let mut run = Run { view, edits: Vec::new(), by_key: BTreeMap::new(), revision: view.newest + 1 };
    run.check(txn, &mut path.iter().copied())?;
    let response = run.txn(txn, &mut path.iter().copied())?;
    Ok(Decision { edits: run.edits, response })
}

/// Evaluates the compares of `txn` and of the nested transactions in the branch that will run, in running order.
fn choose(view: &View<'_>, txn: &Txn, path: &mut Vec<bool>) {
    let holds = txn.compares.iter().all(|compare| compare_holds(view, compare));
    path.push(holds);
    for op in branch(txn, holds) {
        if let Op::Txn(nested) = op {
            choose(view, nested, path);
        }
    }
}

fn branch(txn: &Txn, holds: bool) -> &[Op] {
    if holds { &txn.success } else { &txn.failure }
}

/// Mirrors `applyCompare`: a key that does not exist has zeros and no value; comparing its value never holds.
fn compare_holds(view: &View<'_>, compare: &Compare) -> bool {
    let found = view.index.get(&compare.key, view.newest).map(|(_, version)| version);
    let number =
        |ordering: Ordering, stored: Option<i64>, wanted: i64| orders(ordering, stored.unwrap_or(0).cmp(&wanted));
    match &compare.condition {
        Condition::ModRevision(ordering, wanted) => number(*ordering, found.map(|v| v.mod_revision), *wanted),
        Condition::CreateRevision(ordering, wanted) => number(*ordering, found.map(|v| v.create_revision), *wanted),
        Condition::Version(ordering, wanted) => number(*ordering, found.map(|v| v.version), *wanted),
        Condition::Lease(ordering, wanted) => number(*ordering, found.map(|v| v.lease), *wanted),
        Condition::Value(ordering, wanted) => found.is_some_and(|v| orders(*ordering, v.value[..].cmp(&wanted[..]))),
    }
}

fn orders(wanted: Ordering, found: std::cmp::Ordering) -> bool {
    match wanted {
        Ordering::Equal => found.is_eq(),
        Ordering::NotEqual => found.is_ne(),
        Ordering::Less => found.is_lt(),
        Ordering::Greater => found.is_gt(),
    }
}

struct Run<'a> {
    view: &'a View<'a>,
    edits: Vec<KeyEdit>,
    /// Newest edit of each key written so far.
    by_key: BTreeMap<Bytes, usize>,
    /// The revision that the transaction makes if it changes something.
    revision: Revision,
}

impl Run<'_> {
    /// Everything that can fail is looked at before anything is done.
    fn check(&self, txn: &Txn, path: &mut impl Iterator<Item = bool>) -> Result<(), StoreError> {
        for op in branch(txn, path.next().unwrap_or(false)) {
            match op {
                Op::Put { lease, .. } if *lease != 0 && !self.view.leases.exists(*lease) => {
                    return Err(StoreError::LeaseNotFound);
                }
                Op::Put { .. } | Op::Delete { .. } => {}
                Op::Range(request) => {
                    read_revision(request.revision, self.view.newest, self.view.horizon)?;
                }
                Op::Txn(nested) => self.check(nested, path)?,
            }
        }
        Ok(())
    }

    fn txn(&mut self, txn: &Txn, path: &mut dyn Iterator<Item = bool>) -> Result<TxnResponse, StoreError> {
        let succeeded = path.next().unwrap_or(false);
        let mut responses = Vec::new();
        for op in branch(txn, succeeded) {
            responses.push(match op {
                Op::Put { key, value, lease, previous } => OpResponse::Put(self.put(key, value, *lease, *previous)),
                Op::Delete { range, previous } => self.delete(range, *previous),
                Op::Range(request) => OpResponse::Range(self.range(request)?),
                Op::Txn(nested) => OpResponse::Txn(self.txn(nested, path)?),
            });
        }
        Ok(TxnResponse { revision: self.now(), succeeded, responses })
    }

    fn now(&self) -> Revision {
        if self.edits.is_empty() { self.view.newest } else { self.revision }
    }

    /// The key as the steps so far left it.
    fn current(&self, key: &[u8]) -> Option<&Version> {
        match self.by_key.get(key) {
            Some(edit) => Some(&self.edits[*edit].after).filter(|version| !version.is_tombstone()),
            None => self.view.index.get(key, self.view.newest).map(|(_, version)| version),
        }
    }

    fn edit(&mut self, key: Bytes, before: Option<Version>, after: Version) {
        self.by_key.insert(key.clone(), self.edits.len());
        self.edits.push(KeyEdit { key, before, after });
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: i64, previous: bool) -> Option<KeyValue> {
        let before = self.current(key).cloned();
        let after = Version {
            value: value.clone(),
            create_revision: before.as_ref().map_or(self.revision, |before| before.create_revision),
            mod_revision: self.revision,
            version: before.as_ref().map_or(1, |before| before.version + 1),
            lease,
        };
        let key = self.view.index.key(key).unwrap_or(key).clone();
        let answer = before.as_ref().filter(|_| previous).map(|before| before.with_key(&key));
        self.edit(key, before, after);
        answer
    }

    fn delete(&mut self, range: &KeyRange, previous: bool) -> OpResponse {
        let doomed = self.collect(range);
        let count = doomed.len();
        let mut values = Vec::new();
        for (key, before) in doomed {
            if previous {
                values.push(before.with_key(&key));
            }
            let revision = self.revision;
            self.edit(key, Some(before), Version::tombstone(revision));
        }
        OpResponse::Delete(count, values)
    }

    /// Keys of a range as the steps so far left them.
    fn collect(&self, range: &KeyRange) -> BTreeMap<Bytes, Version> {
        let stored = self.view.index.range(range, self.view.newest);
        let mut found: BTreeMap<Bytes, Version> = stored.map(|(key, version)| (key.clone(), version.clone())).collect();
        for (key, edit) in &self.by_key {
            if range.contains(key) {
                let after = &self.edits[*edit].after;
                if after.is_tombstone() {
                    found.remove(key);
                } else {
                    found.insert(key.clone(), after.clone());
                }
            }
        }
        found
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let explicit = read_revision(request.revision, self.view.newest, self.view.horizon)?;
        let mut answer = Answer::new(request);
        match explicit {
            Some(revision) => {
                for (key, version) in self.view.index.range(&request.range, revision) {
                    answer.add(key, version);
                }
            }
            None if self.by_key.is_empty() => {
                for (key, version) in self.view.index.range(&request.range, self.view.newest) {
                    answer.add(key, version);
                }
            }
            None => {
                for (key, version) in &self.collect(&request.range) {
                    answer.add(key, version);
                }
            }
        }
        Ok(answer.finish(self.now()))
    }
}

/// The revision a read names, if it names one that can be read. As for etcd, 0 and less mean the newest.
pub(crate) fn read_revision(
    wanted: Option<Revision>,
    newest: Revision,
    horizon: Revision,
) -> Result<Option<Revision>, StoreError> {
    match wanted {
        Some(revision) if revision > newest => Err(StoreError::FutureRevision { newest }),
        Some(revision) if revision > 0 && revision < horizon => Err(StoreError::Compacted { horizon }),
        Some(revision) if revision > 0 => Ok(Some(revision)),
        _ => Ok(None),
    }
}

/// Gathers the answer to a range request.
pub(crate) struct Answer<'a> {
    request: &'a RangeRequest,
    kvs: Vec<KeyValue>,
    count: usize,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(request: &'a RangeRequest) -> Self {
        Self { request, kvs: Vec::new(), count: 0 }
    }

    pub(crate) fn add(&mut self, key: &Bytes, version: &Version) {
        self.count += 1;
        if self.request.count_only || (self.request.limit > 0 && self.count > self.request.limit) {
            return;
        }
        self.kvs.push(if self.request.keys_only { version.without_value(key) } else { version.with_key(key) });
    }

    pub(crate) fn finish(self, revision: Revision) -> RangeResponse {
        let more = !self.request.count_only && self.count > self.kvs.len();
        RangeResponse { revision, kvs: self.kvs, more, count: self.count }
    }
}
