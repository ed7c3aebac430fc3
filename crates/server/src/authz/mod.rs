//! May they: RBAC, Node, access reviews.
//!
//! Authorizers are asked one after the other ([`Chain`]) until one allows or denies; if none does, the answer is no.
//! They read the registry's caches ([`crate::admission::Reader`]), never the API.
//!
//! Not here yet: the webhook authorizer and the `AuthorizationConfiguration` file.

pub mod escalation;
pub mod node;
pub mod rbac;
pub mod review;
pub mod rule;
#[cfg(test)]
pub(crate) mod testing;

use crate::request::{RequestInfo, UserInfo};
use skiff_machinery::error::quote;
use skiff_machinery::{ApiError, GroupResource};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The group that may do everything.
pub const SYSTEM_MASTERS: &str = "system:masters";

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
    /// Field selector of a list, watch or deletecollection, as sent; empty for none.
    pub field_selector: &'a str,
}

impl<'a> Question<'a> {
    /// What a request asks.
    pub fn of(user: &'a UserInfo, info: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: &info.verb,
            is_resource: info.is_resource,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
            field_selector: &info.field_selector,
        }
    }
    /// Whether a user may `verb` objects of a resource.
    pub fn on(
        user: &'a UserInfo,
        verb: &'a str,
        resource: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> Self {
        Self {
            user,
            verb,
            is_resource: true,
            group: &resource.group,
            version: "*",
            resource: &resource.resource,
            subresource: "",
            namespace,
            name,
            path: "",
            field_selector: "",
        }
    }
    /// With a subresource.
    pub fn with_subresource(mut self, subresource: &'a str) -> Self {
        self.subresource = subresource;
        self
    }
    /// Whether nothing is changed.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// What is refused, in upstream's words (`forbiddenMessage`, endpoints/handlers/responsewriters/errors.go).
    fn refusal(&self) -> String {
        let user = quote(&self.user.name);
        if !self.is_resource {
            return format!("User {user} cannot {} path {}", self.verb, quote(self.path));
        }
        let resource = if self.subresource.is_empty() {
            quote(self.resource)
        } else {
            quote(&format!("{}/{}", self.resource, self.subresource))
        };
        let group = quote(self.group);
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", quote(self.namespace))
        };
        format!("User {user} cannot {} resource {resource} in API group {group} {place}", self.verb)
    }

    /// The 403 for a refused question.
    pub fn forbidden(&self, reason: &str) -> ApiError {
        // Upstream escapes what a browser could take for markup.
        let escaped = self.refusal().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let why = if reason.is_empty() { escaped } else { format!("{escaped}: {reason}") };
        if self.is_resource {
            ApiError::forbidden(&GroupResource::new(self.group, self.resource), self.name, why)
        } else {
            ApiError::forbidden_path(format!("forbidden: {why}"))
        }
    }
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

impl Decision {
    /// Whether the answer is yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::Deny(reason) | Self::NoOpinion(reason) => reason,
        }
    }
}

/// What an authorizer's word is awaited as.
pub type DecisionFuture<'a> = Pin<Box<dyn Future<Output = Decision> + Send + 'a>>;

/// Decides whether a user may do something. An authorizer that fails refuses.
pub trait Authorizer: Send + Sync {
    /// Decides.
    fn authorize<'a>(&'a self, question: &'a Question<'a>) -> DecisionFuture<'a>;
}

/// Decides at once, from what is in memory. Every authorizer of ours is one.
pub trait Decide: Send + Sync {
    /// Decides.
    fn decide(&self, question: &Question<'_>) -> Decision;
}

/// Members of one group may do everything (`authorizerfactory.NewPrivilegedGroups`).
#[derive(Clone, Copy, Debug)]
pub struct Privileged(pub &'static str);
impl Decide for Privileged {
    fn decide(&self, question: &Question<'_>) -> Decision {
        if question.user.in_group(self.0) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

/// Everything is allowed (`--authorization-mode=AlwaysAllow`).
#[derive(Clone, Copy, Debug)]
pub struct AlwaysAllow;
impl Decide for AlwaysAllow {
    fn decide(&self, _question: &Question<'_>) -> Decision {
        Decision::Allow(String::new())
    }
}

/// Everything is denied (`--authorization-mode=AlwaysDeny`).
#[derive(Clone, Copy, Debug)]
pub struct AlwaysDeny;
impl Decide for AlwaysDeny {
    fn decide(&self, _question: &Question<'_>) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".to_owned())
    }
}

/// Authorizers in the order in which they are asked (`union.New`).
#[derive(Clone)]
pub struct Chain(pub Vec<Arc<dyn Decide>>);

impl Chain {
    /// Upstream's default: `system:masters`, then Node, then RBAC.
    pub fn standard(node: Arc<node::NodeAuthorizer>, rbac: Arc<rbac::Rbac>) -> Self {
        Self(vec![Arc::new(Privileged(SYSTEM_MASTERS)), node, rbac])
    }
}

impl Decide for Chain {
    fn decide(&self, question: &Question<'_>) -> Decision {
        let mut reasons: Vec<String> = Vec::new();
        for authorizer in &self.0 {
            match authorizer.decide(question) {
                Decision::NoOpinion(reason) if reason.is_empty() => (),
                Decision::NoOpinion(reason) => reasons.push(reason),
                word => return word,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

impl Authorizer for Chain {
    fn authorize<'a>(&'a self, question: &'a Question<'a>) -> DecisionFuture<'a> {
        Box::pin(std::future::ready(self.decide(question)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_in_upstreams_words() {
        let user = UserInfo { name: "jane".into(), ..UserInfo::default() };
        let pods = GroupResource::new("", "pods");
        let list = Question::on(&user, "list", &pods, "y", "").forbidden("");
        assert_eq!(
            list.message(),
            "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\""
        );
        let scale = GroupResource::new("apps", "deployments");
        let get = Question::on(&user, "get", &scale, "", "web").with_subresource("scale").forbidden("because");
        assert_eq!(
            get.message(),
            "deployments.apps \"web\" is forbidden: User \"jane\" cannot get resource \"deployments/scale\" in API group \
             \"apps\" at the cluster scope: because"
        );
        let path = Question { is_resource: false, path: "/logs", ..Question::on(&user, "get", &pods, "", "") };
        assert_eq!(path.forbidden("").message(), "forbidden: User \"jane\" cannot get path \"/logs\"");
    }
}
