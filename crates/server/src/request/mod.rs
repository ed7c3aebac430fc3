//! What a request asks for, and who asks: the facts that every later step decides on.
//!
//! [`info`] reads path and method into a [`RequestInfo`]; [`query`] the query string; [`options`] the query into the
//! `*Options` of `meta.k8s.io/v1`.

pub mod info;
pub mod options;
pub mod query;

pub use info::PathError;
pub use query::Query;

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

impl UserInfo {
    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
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
    /// Object name; empty for collections. A list or watch whose field selector is `metadata.name=NAME` has it too, so
    /// that a role limited to that name suffices.
    pub name: String,
    /// What follows the subresource in the path (`proxy/...`), without a leading slash.
    pub rest: String,
    /// `fieldSelector` of a list, watch or deletecollection, as sent. Authorizers may look at it.
    pub field_selector: String,
    /// `labelSelector` of the same.
    pub label_selector: String,
}

impl RequestInfo {
    /// Whether the answer is expected to last: watches, and streams through subresources. Such requests have no
    /// deadline and take no seat (`BasicLongRunningRequestCheck` with kube-apiserver's verbs and subresources).
    pub fn is_long_running(&self) -> bool {
        if !self.is_resource {
            return self.path.starts_with("/debug/pprof/");
        }
        matches!(self.verb.as_str(), "watch" | "proxy")
            || matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
    }

    /// Whether nothing is changed (`get`, `list`, `watch`).
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
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
