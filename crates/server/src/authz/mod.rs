//! May they: RBAC, Node, access reviews.

use crate::request::UserInfo;
use std::future::Future;
use std::pin::Pin;

/// A question to an authorizer (`authorizer.Attributes`).
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Who.
    pub user: &'a UserInfo,
    /// Verb.
    pub verb: &'a str,
    /// Whether a resource is meant; else `path` counts.
    pub is_resource: bool,
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Resource.
    pub resource: &'a str,
    /// Subresource; empty for none.
    pub subresource: &'a str,
    /// Namespace; empty for cluster scope.
    pub namespace: &'a str,
    /// Name; empty for collections.
    pub name: &'a str,
    /// Path of a request that names no resource.
    pub path: &'a str,
}

/// An authorizer's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, for this reason.
    Allow(String),
    /// No, and nobody else is asked.
    Deny(String),
    /// Not for me to say.
    NoOpinion(String),
}

/// Decides whether a user may do something. An authorizer that fails refuses.
pub trait Authorizer: Send + Sync {
    /// Decides.
    fn authorize<'a>(&'a self, question: &'a Question<'a>) -> Pin<Box<dyn Future<Output = Decision> + Send + 'a>>;
}
