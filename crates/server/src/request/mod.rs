//! What a request asks for, and who asks: the facts that every later step decides on.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A caller's identity (`user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name.
    pub name: String,
    /// Unique id; may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Extra facts, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request asks for (`request.RequestInfo`, apiserver/pkg/endpoints/request/requestinfo.go).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource (`/api/...`, `/apis/GROUP/VERSION/...`) and not, say, `/healthz`.
    pub is_resource: bool,
    /// The path, decoded once.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the HTTP
    /// method in lower case.
    pub verb: String,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace; empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// Resource, such as `pods`.
    pub resource: String,
    /// Subresource, such as `status`; empty for none.
    pub subresource: String,
    /// Object name; empty for collections.
    pub name: String,
    /// What follows the subresource in the path (`proxy/...`).
    pub rest: String,
}

/// Everything about one request that admission and strategies may look at.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// What is asked.
    pub info: Arc<RequestInfo>,
    /// Nothing is to be stored.
    pub dry_run: bool,
    /// Wall clock at the request's start, as RFC 3339 seconds: the one timestamp of everything the request writes.
    pub now: String,
}
