//! What the cluster adds to a write, and what it refuses (`admission.Interface`).
//!
//! Mutating plug-ins run first, in their fixed order, then validating ones; every kind passes them, custom resources
//! included. [`default_plugins`] has the plug-ins and their order; each is a module here, under upstream's name.

pub(crate) mod attributes;
mod certificates;
mod conditions;
mod limit_ranger;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod nodes;
mod order;
mod pod_security;
pub(crate) mod policies;
mod priority;
mod quota;
mod review;
mod runtime_class;
mod service_account;
mod small;
#[cfg(test)]
mod testing;
mod tolerations;
pub(crate) mod webhooks;

pub use certificates::certificate_plugins;
pub use order::default_plugins;
pub use policies::with_policies;
pub use webhooks::{Reinvocation, with_webhooks};

use crate::kinds::Resource;
use crate::request::RequestContext;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What a plug-in's answer is awaited as.
pub type AdmissionFuture<'a> = Pin<Box<dyn Future<Output = Result<(), ApiError>> + Send + 'a>>;

/// Operation under review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are upstream's constants")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// A write under review (`admission.Attributes`).
pub struct Attributes<'a> {
    /// Who asks for what.
    pub context: &'a RequestContext,
    /// The kind.
    pub resource: &'a Resource,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace; empty for cluster scope.
    pub namespace: &'a str,
    /// Name; may be empty at creation with `generateName`.
    pub name: &'a str,
    /// What is done.
    pub operation: Operation,
    /// The new object in the storage version; `None` for deletes.
    pub object: Option<Value>,
    /// The object before; `None` for creates.
    pub old: Option<Arc<Value>>,
    /// Options object of the request (`CreateOptions`, `DeleteOptions`, `PodExecOptions`, ...).
    pub options: Option<Value>,
    /// For `Warning:` headers.
    pub warnings: Warnings,
    /// For the second pass of those that change objects.
    pub reinvocation: Reinvocation,
}

/// What plug-ins tell the client although they let it pass; those that only look may, too.
#[derive(Debug, Default)]
pub struct Warnings(parking_lot::Mutex<Vec<String>>);

impl Warnings {
    /// What has been said since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// A plug-in.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// Who decides who may do what, told once before the first write (`WantsAuthorizer`).
    fn set_authorizer(&self, _authorizer: &Arc<dyn crate::authz::Authorizer>) {}
    /// What it counts.
    fn metrics(&self) -> Vec<Arc<dyn skiff_base::metrics::Collect>> {
        Vec::new()
    }
    /// Whether it wants to see this operation.
    fn handles(&self, operation: Operation) -> bool;
    /// May change the object, or refuse.
    fn admit<'a>(&'a self, _attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// May refuse.
    fn validate<'a>(&'a self, _attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What a [`Reader`]'s answer is awaited as.
pub type ReaderFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// The new object instead of the one that is there; `None` when nothing needs to be written.
pub type Change<'a> = Box<dyn FnMut(&Value) -> Result<Option<Value>, ApiError> + Send + 'a>;

/// What the server's own admission, authorizers and allocators read and write: the registry itself, never the client
/// (a client call would wait for a seat that the caller holds).
pub trait Reader: Send + Sync {
    /// An object from the watch cache, in the storage version. Not a consistent read.
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>>;
    /// Objects from the watch cache, in the storage version.
    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<Arc<Value>>;
    /// Objects whose selectable field (`spec.nodeName`) has this value. The registry finds them by what it keeps of every
    /// object; only they are decoded.
    fn list_by_field(&self, resource: &GroupResource, field: &str, value: &str) -> Vec<Arc<Value>> {
        let path: Vec<&str> = field.split('.').collect();
        let mut found = self.list(resource, None);
        found.retain(|object| object.str_at(&path) == value);
        found
    }
    /// A number that changes whenever anything of this resource does, so that readers can keep what they derived.
    fn generation(&self, resource: &GroupResource) -> u64;
    /// The kind of this name, and which of its versions it is, when that is served.
    fn kind(&self, _group: &str, _version: &str, _kind: &str) -> Option<(Arc<Resource>, usize)> {
        None
    }
    /// A consistent read from the store.
    fn fetch<'a>(
        &'a self,
        resource: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> ReaderFuture<'a, Option<Arc<Value>>>;
    /// Changes an object with compare-and-set, trying again while others are faster; `change` may refuse. Used by quota
    /// and allocators, past admission.
    fn update<'a>(
        &'a self,
        resource: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
        change: Change<'a>,
    ) -> ReaderFuture<'a, Arc<Value>>;
    /// Creates an object in the storage version, past admission and strategy: what allocators hold. `AlreadyExists` when
    /// it is there.
    fn create<'a>(&'a self, resource: &'a GroupResource, object: Value) -> ReaderFuture<'a, Arc<Value>>;
    /// Removes an object at once, past admission, finalizers and grace: what allocators give back.
    fn delete<'a>(&'a self, resource: &'a GroupResource, namespace: &'a str, name: &'a str) -> ReaderFuture<'a, ()>;
}
