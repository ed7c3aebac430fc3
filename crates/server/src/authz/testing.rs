//! A registry cache for tests.

use crate::admission::{Change, Reader, ReaderFuture};
use parking_lot::Mutex;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

type Objects = BTreeMap<(String, String), Arc<Value>>;

/// Objects by resource.
#[derive(Default)]
pub(crate) struct Fake {
    objects: Mutex<BTreeMap<String, (u64, Objects)>>,
}

impl Fake {
    pub(crate) fn put(&self, resource: &GroupResource, object: Value) {
        let key =
            (object.str_at(&["metadata", "namespace"]).to_owned(), object.str_at(&["metadata", "name"]).to_owned());
        let mut objects = self.objects.lock();
        let entry = objects.entry(resource.to_string()).or_default();
        entry.0 += 1;
        entry.1.insert(key, Arc::new(object));
    }
    pub(crate) fn remove(&self, resource: &GroupResource, namespace: &str, name: &str) {
        let mut objects = self.objects.lock();
        let entry = objects.entry(resource.to_string()).or_default();
        entry.0 += 1;
        entry.1.remove(&(namespace.to_owned(), name.to_owned()));
    }
}

impl Reader for Fake {
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let objects = self.objects.lock();
        objects.get(&resource.to_string())?.1.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let objects = self.objects.lock();
        let Some((_, objects)) = objects.get(&resource.to_string()) else { return Vec::new() };
        let wanted = |key: &(String, String)| namespace.is_none_or(|namespace| key.0 == namespace);
        objects.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| Arc::clone(object)).collect()
    }
    fn generation(&self, resource: &GroupResource) -> u64 {
        self.objects.lock().get(&resource.to_string()).map_or(0, |(generation, _)| *generation)
    }
    fn fetch<'a>(
        &'a self,
        resource: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> ReaderFuture<'a, Option<Arc<Value>>> {
        Box::pin(std::future::ready(Ok(self.get(resource, namespace, name))))
    }
    fn update<'a>(
        &'a self,
        resource: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
        mut change: Change<'a>,
    ) -> ReaderFuture<'a, Arc<Value>> {
        let found = self.get(resource, namespace, name).ok_or_else(|| ApiError::not_found(resource, name));
        let outcome = found.and_then(|object| match change(&object)? {
            None => Ok(object),
            Some(next) => {
                self.put(resource, next.clone());
                Ok(Arc::new(next))
            }
        });
        Box::pin(std::future::ready(outcome))
    }
    fn create<'a>(&'a self, resource: &'a GroupResource, object: Value) -> ReaderFuture<'a, Arc<Value>> {
        let (namespace, name) = (object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]));
        let outcome = match self.get(resource, namespace, name) {
            Some(_) => Err(ApiError::already_exists(resource, name)),
            None => {
                self.put(resource, object.clone());
                Ok(Arc::new(object))
            }
        };
        Box::pin(std::future::ready(outcome))
    }
    fn delete<'a>(&'a self, resource: &'a GroupResource, _namespace: &'a str, name: &'a str) -> ReaderFuture<'a, ()> {
        Box::pin(std::future::ready(Err(ApiError::internal(format!("{resource} {name}: this fake deletes nothing")))))
    }
}
