//! What admission, authorizers and allocators read and change: the caches themselves, past the pipeline.

use super::respond::Scope;
use super::{Registry, meta, store_error, wire};
use crate::admission::Reader;
use crate::bootstrap::{self, Desired};
use skiff_machinery::{ApiError, GroupResource, Value};
use skiff_store::{Compare, Condition, Op, Ordering, Txn};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
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

    fn generation(&self, resource: &GroupResource) -> u64 {
        self.scope_of(resource).map_or(0, |scope| scope.cache.generation())
    }

    fn fetch<'a>(
        &'a self,
        resource: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Arc<Value>>, ApiError>> + Send + 'a>> {
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
        mut change: Box<dyn FnMut(&Value) -> Result<Option<Value>, ApiError> + Send + 'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Value>, ApiError>> + Send + 'a>> {
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
                if self.put(&entry, current.revision(), 0).await? {
                    return entry.tree(scope.cache.codec());
                }
            }
        })
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
