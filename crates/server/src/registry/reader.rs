//! What admission, authorizers and allocators read and change: the caches themselves, past the pipeline.

use super::create::Write;
use super::delete::Deleted;
use super::respond::Scope;
use super::{Registry, meta, store_error, wire};
use crate::admission::{Change, Reader, ReaderFuture};
use crate::bootstrap::{self, Desired};
use crate::kinds::Resource;
use crate::request::RequestContext;
use crate::request::options::DeleteOptions;
use skiff_machinery::{ApiError, GroupResource, Value};
use skiff_store::{Compare, Condition, Op, Ordering, Txn};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Registry {
    /// A resource in its storage version or, when that is not served, in its first.
    pub(super) fn scope_of(&self, name: &GroupResource) -> Option<Scope> {
        let resource = Arc::clone(self.resources().named(name)?);
        let cache = self.cache_of(&resource)?;
        let version =
            resource.versions.iter().position(|version| version.group_version == resource.storage).unwrap_or(0);
        let slot = cache.codec().slot(&resource, version);
        Some(Scope { resource, version, cache, slot })
    }
}

impl Reader for Registry {
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let scope = self.scope_of(resource)?;
        let entry = scope.cache.get(&scope.key(namespace, name))?;
        // `decode` logs what it cannot read; for the reader the object does not exist, so checks on it fail closed.
        entry.tree(scope.cache.codec()).ok()
    }

    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let Some(scope) = self.scope_of(resource) else { return Vec::new() };
        let prefix = scope.key_prefix(namespace.unwrap_or_default());
        let snapshot = scope.cache.snapshot(self.feed.applied());
        snapshot.range(&prefix, &prefix).filter_map(|entry| entry.tree(scope.cache.codec()).ok()).collect()
    }

    fn list_by_field(&self, resource: &GroupResource, field: &str, value: &str) -> Vec<Arc<Value>> {
        let Some(scope) = self.scope_of(resource) else { return Vec::new() };
        let codec = scope.cache.codec();
        let Some(index) = codec.fields().iter().position(|own| own.name == field) else { return Vec::new() };
        let prefix = scope.key_prefix("");
        let snapshot = scope.cache.snapshot(self.feed.applied());
        snapshot
            .range(&prefix, &prefix)
            .filter(|entry| {
                entry.facts(codec).is_ok_and(|facts| facts.fields.get(index).is_some_and(|own| **own == *value))
            })
            .filter_map(|entry| entry.tree_once(codec).ok())
            .collect()
    }

    fn generation(&self, resource: &GroupResource) -> u64 {
        self.scope_of(resource).map_or(0, |scope| scope.cache.generation())
    }

    fn kind(&self, group: &str, version: &str, kind: &str) -> Option<(Arc<Resource>, usize)> {
        let resources = self.resources();
        let mut of_kind =
            resources.all().iter().filter(|resource| resource.kind == kind && resource.name.group == group);
        of_kind.find_map(|resource| {
            let served = |own: &crate::kinds::Version| own.served && own.group_version.version == version;
            resource.versions.iter().position(served).map(|place| (Arc::clone(resource), place))
        })
    }

    fn fetch<'a>(
        &'a self,
        resource: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> ReaderFuture<'a, Option<Arc<Value>>> {
        Box::pin(async move {
            let Some(scope) = self.scope_of(resource) else { return Ok(None) };
            self.barrier().await?;
            match scope.cache.get(&scope.key(namespace, name)) {
                Some(entry) => entry.tree(scope.cache.codec()).map(Some),
                None => Ok(None),
            }
        })
    }

    fn update<'a>(
        &'a self,
        resource: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
        mut change: Change<'a>,
    ) -> ReaderFuture<'a, Arc<Value>> {
        Box::pin(async move {
            let not_found = || ApiError::not_found(resource, name);
            let scope = self.scope_of(resource).ok_or_else(not_found)?;
            let key = scope.key(namespace, name);
            loop {
                self.barrier().await?;
                let current = scope.cache.get(&key).ok_or_else(not_found)?;
                let tree = current.tree(scope.cache.codec())?;
                let Some(object) = change(&tree)? else { return Ok(tree) };
                let entry = Arc::new(self.prepare(&scope, key.clone(), object));
                if entry.stored() == current.stored() {
                    return Ok(tree);
                }
                if self.put(&scope, &entry, current.revision()).await? {
                    return entry.tree(scope.cache.codec());
                }
            }
        })
    }

    fn create<'a>(&'a self, resource: &'a GroupResource, mut object: Value) -> ReaderFuture<'a, Arc<Value>> {
        Box::pin(async move {
            let name = meta::text(&object, "name").to_owned();
            let scope = self.scope_of(resource).ok_or_else(|| ApiError::not_found(resource, &name))?;
            let key = scope.key(meta::text(&object, "namespace"), &name);
            meta::fill_system_fields(&mut object, &wire::rfc3339(self.clock.wall()));
            let entry = Arc::new(self.prepare(&scope, key, object));
            if self.put(&scope, &entry, 0).await? {
                return entry.tree(scope.cache.codec());
            }
            Err(ApiError::already_exists(resource, &name))
        })
    }

    fn delete<'a>(&'a self, resource: &'a GroupResource, namespace: &'a str, name: &'a str) -> ReaderFuture<'a, ()> {
        Box::pin(async move {
            let not_found = || ApiError::not_found(resource, name);
            let scope = self.scope_of(resource).ok_or_else(not_found)?;
            let key = scope.key(namespace, name);
            loop {
                self.barrier().await?;
                let current = scope.cache.get(&key).ok_or_else(not_found)?;
                if self.remove(key.clone(), current.revision()).await?.is_some() {
                    return Ok(());
                }
            }
        })
    }
}

impl Registry {
    /// Time.
    pub(crate) fn clock(&self) -> &skiff_base::clock::SharedClock {
        &self.clock
    }
    /// The wall clock as objects show it.
    pub(crate) fn now(&self) -> String {
        wire::rfc3339(self.clock.wall())
    }

    /// Marks or deletes every object of a kind, past the pipeline, finalizers respected; how many are left.
    pub(crate) async fn delete_all(&self, resource: &GroupResource) -> Result<usize, ApiError> {
        let Some(scope) = self.scope_of(resource) else { return Ok(0) };
        self.barrier().await?;
        let snapshot = scope.cache.snapshot(self.feed.applied());
        let context = RequestContext { user: Arc::default(), info: Arc::default(), dry_run: false, now: self.now() };
        let mut left = 0;
        for entry in snapshot.range(scope.cache.prefix(), scope.cache.prefix()) {
            let write = Write {
                scope: &scope,
                context: &context,
                namespace: entry.namespace(),
                name: entry.name(),
                subresource: "",
                strategy: &*scope.resource.strategy,
                options: None,
            };
            match self.delete_unasked(&write, &DeleteOptions::default()).await {
                Ok(Deleted::Pending(_)) => left += 1,
                Ok(Deleted::Gone(_)) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    /// Deletes an object that is marked and has no finalizers left.
    pub(crate) async fn remove_finished(&self, resource: &GroupResource, name: &str) -> Result<(), ApiError> {
        let Some(scope) = self.scope_of(resource) else { return Ok(()) };
        self.barrier().await?;
        let key = scope.key("", name);
        let Some(entry) = scope.cache.get(&key) else { return Ok(()) };
        let tree = entry.tree(scope.cache.codec())?;
        let finished = !meta::text(&tree, "deletionTimestamp").is_empty() && meta::finalizers(&tree).next().is_none();
        if finished {
            // Somebody who was faster leaves it to the next look.
            self.remove(key, entry.revision()).await?;
        }
        Ok(())
    }
}

/// Writes in one transaction; etcd's own limit is 128.
const BOOTSTRAP_CHUNK: usize = 100;

impl Registry {
    /// Writes the objects that a cluster begins with, where they are missing or behind, past the pipeline. Nobody is
    /// asked, so a server is ready without asking itself.
    pub async fn bootstrap(&self, desired: Vec<Desired>) -> Result<(), ApiError> {
        // Another server may do the same at the same time: then everything is looked at again.
        for _ in 0..5 {
            self.barrier().await?;
            let mut found = BTreeMap::new();
            for Desired { resource, object, .. } in &desired {
                let (namespace, name) = (meta::text(object, "namespace"), meta::text(object, "name"));
                if let Some(tree) = Reader::get(self, resource, namespace, name) {
                    found.insert((resource.clone(), namespace.to_owned(), name.to_owned()), tree);
                }
            }
            let changes = bootstrap::reconcile(desired.clone(), |resource, namespace, name| {
                found.get(&(resource.clone(), namespace.to_owned(), name.to_owned())).map(|tree| &**tree)
            });
            if changes.is_empty() || self.write_changes(changes).await? {
                return self.barrier().await.map(|_| ());
            }
        }
        Err(ApiError::internal("other writers were faster each time"))
    }

    /// `Ok(false)`: somebody else wrote in between.
    async fn write_changes(&self, changes: Vec<bootstrap::Change>) -> Result<bool, ApiError> {
        let now = wire::rfc3339(self.clock.wall());
        let mut txns: Vec<Txn> = Vec::new();
        for bootstrap::Change { resource, mut object } in changes {
            let Some(scope) = self.scope_of(&resource) else { continue };
            let key = scope.key(meta::text(&object, "namespace"), meta::text(&object, "name"));
            let mut expected = 0;
            if meta::text(&object, "uid").is_empty() {
                let generation = object.at(&["metadata", "generation"]).cloned();
                meta::fill_system_fields(&mut object, &now);
                if let Some(generation) = generation {
                    meta::metadata_mut(&mut object).insert("generation", generation);
                }
            } else {
                expected = scope.cache.get(&key).map_or(0, |entry| entry.revision());
            }
            let value = scope.cache.codec().encode_stored(&mut object);
            if txns.last().is_none_or(|txn| txn.success.len() >= BOOTSTRAP_CHUNK) {
                txns.push(Txn::default());
            }
            if let Some(txn) = txns.last_mut() {
                let condition = Condition::ModRevision(Ordering::Equal, expected);
                txn.compares.push(Compare { key: key.clone(), condition });
                txn.success.push(Op::Put { key, value, lease: 0, previous: false });
            }
        }
        for txn in txns {
            if !self.store.txn(txn).await.map_err(store_error)?.succeeded {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
