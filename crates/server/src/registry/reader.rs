//! What admission, authorizers and allocators read and change: the caches themselves, past the pipeline.

use super::Registry;
use super::respond::Scope;
use crate::admission::Reader;
use skiff_machinery::{ApiError, GroupResource, Value};
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

impl Registry {
    /// Creates an object past the pipeline, in the storage version, with what the server sets and the kind prepares:
    /// for the objects a new cluster begins with. `Ok(false)` when it is there already.
    pub async fn bootstrap(&self, resource: &GroupResource, mut object: Value) -> Result<bool, ApiError> {
        let Some(scope) = self.scope_of(resource) else {
            return Err(ApiError::not_found(resource, super::meta::text(&object, "name")));
        };
        let now = wire_now(self);
        let namespace = super::meta::text(&object, "namespace").to_owned();
        let name = super::meta::text(&object, "name").to_owned();
        let key = scope.key(&namespace, &name);
        if scope.cache.get(&key).is_some() {
            return Ok(false);
        }
        scope.resource.strategy.default(&scope.resource.storage, &mut object);
        super::meta::fill_system_fields(&mut object, &now);
        let entry = Arc::new(self.prepare(&scope, key, object));
        self.put(&entry, 0, 0).await
    }
}

fn wire_now(registry: &Registry) -> String {
    super::wire::rfc3339(registry.clock.wall())
}
