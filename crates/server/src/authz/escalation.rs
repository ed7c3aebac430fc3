//! Nobody grants what they do not have (`pkg/registry/rbac/validation/rule.go`, `pkg/registry/rbac/*/policybased`), and
//! nobody creates by a detour what they may only change.

use super::rbac::{GROUP, Rbac, list_errors};
use super::rule::{Rule, compact, uncovered};
use super::{Decide, Question};
use crate::admission::{AdmissionFuture, Attributes, Operation, Plugin};
use crate::request::UserInfo;
use skiff_machinery::error::quote;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::sync::Arc;

/// Whether the user holds every one of `rules` in `namespace`; if not, upstream's words for it (`ConfirmNoEscalation`).
pub fn confirm_no_escalation(rbac: &Rbac, user: &UserInfo, namespace: &str, rules: &[Rule]) -> Result<(), String> {
    let (owned, errors) = rbac.rules_for(user, namespace);
    let missing = uncovered(&owned, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = compact(missing).iter().map(Rule::to_string).collect();
    lines.sort();
    let groups: Vec<String> = user.groups.iter().map(|group| quote(group)).collect();
    let mut message = format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        quote(&user.name),
        groups.join(" "),
        lines.join("\n")
    );
    if !errors.is_empty() {
        message.push_str(&format!("; resolution errors: {}", list_errors(&errors)));
    }
    Err(message)
}

fn exempt(user: &UserInfo) -> bool {
    user.in_group(super::SYSTEM_MASTERS)
}

/// Whether the user may write this Role or ClusterRole: holds its rules, or may `escalate` it. `object` is the new one.
pub fn check_role(
    rbac: &Rbac,
    authorizer: &dyn Decide,
    user: &UserInfo,
    resource: &GroupResource,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let rules = Rule::all(object);
    let unchanged = old
        .is_some_and(|old| Rule::all(old) == rules && old.at(&["aggregationRule"]) == object.at(&["aggregationRule"]));
    let name = object.str_at(&["metadata", "name"]);
    if unchanged
        || exempt(user)
        || authorizer.decide(&Question::on(user, "escalate", resource, namespace, name)).is_allowed()
    {
        return Ok(());
    }
    // An aggregated role takes in whatever carries its labels: only who holds everything may say that.
    if object.at(&["aggregationRule"]).is_some_and(|rule| !rule.is_null()) {
        let all = full_authority();
        if let Err(why) = confirm_no_escalation(rbac, user, namespace, &all) {
            return Err(ApiError::forbidden(
                resource,
                name,
                format!("must have cluster-admin privileges to use the aggregationRule: {why}"),
            ));
        }
    }
    confirm_no_escalation(rbac, user, namespace, &rules).map_err(|why| ApiError::forbidden(resource, name, why))
}

fn full_authority() -> [Rule; 2] {
    let star = || vec!["*".to_owned()];
    [
        Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() },
        Rule { verbs: star(), non_resource_urls: star(), ..Rule::default() },
    ]
}

/// Whether the user may write this binding: holds the role's rules, or may `bind` the role.
pub fn check_binding(
    rbac: &Rbac,
    authorizer: &dyn Decide,
    user: &UserInfo,
    resource: &GroupResource,
    namespace: &str,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let unchanged = old.is_some_and(|old| {
        old.at(&["roleRef"]) == object.at(&["roleRef"]) && old.at(&["subjects"]) == object.at(&["subjects"])
    });
    if unchanged || exempt(user) {
        return Ok(());
    }
    let (kind, role) = (object.str_at(&["roleRef", "kind"]), object.str_at(&["roleRef", "name"]));
    let roles = GroupResource::new(GROUP, if kind == "Role" { "roles" } else { "clusterroles" });
    if authorizer.decide(&Question::on(user, "bind", &roles, namespace, role)).is_allowed() {
        return Ok(());
    }
    let name = object.str_at(&["metadata", "name"]);
    let Some(rules) = rbac.role_rules(kind, namespace, role) else {
        return Err(ApiError::not_found(&roles, role));
    };
    confirm_no_escalation(rbac, user, namespace, &rules).map_err(|why| ApiError::forbidden(resource, name, why))
}

/// The checks as a step of admission, after all plug-ins: upstream makes them in the storage of the four RBAC kinds
/// (`policybased`), where the object is as it will be stored.
pub struct Guard {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Decide>,
}

impl Guard {
    /// With the authorizer that decides about `bind` and `escalate`.
    pub fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Decide>) -> Self {
        Self { rbac, authorizer }
    }

    fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        self.check_create_on_update(attributes)?;
        let resource = &attributes.resource.name;
        let Some(object) = attributes.object.as_ref().filter(|_| resource.group == GROUP) else { return Ok(()) };
        let (user, namespace, old) = (&attributes.context.user, attributes.namespace, attributes.old.as_deref());
        match resource.resource.as_str() {
            "roles" | "clusterroles" => {
                check_role(&self.rbac, &*self.authorizer, user, resource, namespace, object, old)
            }
            "rolebindings" | "clusterrolebindings" => {
                check_binding(&self.rbac, &*self.authorizer, user, resource, namespace, object, old)
            }
            _ => Ok(()),
        }
    }
}

impl Guard {
    /// A PUT or an apply that creates needs the right to create as well (`withAuthorization`,
    /// apiserver/pkg/endpoints/handlers/create.go).
    fn check_create_on_update(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let info = &attributes.context.info;
        if attributes.operation != Operation::Create || !matches!(info.verb.as_str(), "update" | "patch") {
            return Ok(());
        }
        let question = Question { verb: "create", ..Question::of(&attributes.context.user, info) };
        let decision = self.authorizer.decide(&question);
        if decision.is_allowed() { Ok(()) } else { Err(question.forbidden(decision.reason())) }
    }
}

impl Plugin for Guard {
    fn name(&self) -> &'static str {
        "rbac/policybased"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(std::future::ready(self.check(attributes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Reader;
    use crate::authz::testing::Fake;
    use skiff_machinery::{list, object};

    fn rules(verbs: &[&str], resource: &str) -> Value {
        let verbs: Vec<Value> = verbs.iter().map(|verb| Value::from(*verb)).collect();
        list![object! { "verbs": verbs, "apiGroups": list![""], "resources": list![resource] }]
    }

    fn world() -> (Arc<Rbac>, UserInfo) {
        let fake = Arc::new(Fake::default());
        let put = |resource: &str, object: Value| fake.put(&GroupResource::new(GROUP, resource), object);
        let role = |name: &str, rules: Value| object! { "metadata": object! { "name": name }, "rules": rules };
        put("clusterroles", role("view", rules(&["get", "list"], "pods")));
        put("clusterroles", role("root", rules(&["*"], "*")));
        put(
            "clusterrolebindings",
            object! {
                "metadata": object! { "name": "jane" },
                "roleRef": object! { "kind": "ClusterRole", "name": "view" },
                "subjects": list![object! { "kind": "User", "name": "jane" }]
            },
        );
        let jane = UserInfo { name: "jane".into(), groups: vec!["dev".into()], ..UserInfo::default() };
        (Arc::new(Rbac::new(fake as Arc<dyn Reader>)), jane)
    }

    #[test]
    fn roles_hold_no_more_than_their_writer() {
        let (rbac, jane) = world();
        let resource = GroupResource::new(GROUP, "roles");
        let write = |rules: Value, old: Option<&Value>| {
            let role = object! { "metadata": object! { "name": "x" }, "rules": rules };
            check_role(&rbac, &*rbac, &jane, &resource, "a", &role, old).map_err(|error| error.message().to_owned())
        };
        assert_eq!(write(rules(&["get"], "pods"), None), Ok(()));
        assert_eq!(
            write(rules(&["get", "delete", "watch"], "pods"), None).unwrap_err(),
            "roles.rbac.authorization.k8s.io \"x\" is forbidden: user \"jane\" (groups=[\"dev\"]) is attempting to grant RBAC \
             permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}"
        );
        let old = object! { "metadata": object! { "name": "x" }, "rules": rules(&["*"], "*") };
        assert_eq!(write(rules(&["*"], "*"), Some(&old)), Ok(()), "what changes nothing grants nothing");
    }

    #[test]
    fn bindings_grant_no_more_than_their_writer_has() {
        let (rbac, jane) = world();
        let resource = GroupResource::new(GROUP, "rolebindings");
        let write = |user: &UserInfo, role: &str| {
            let binding = object! {
                "metadata": object! { "name": "b" },
                "roleRef": object! { "kind": "ClusterRole", "name": role },
                "subjects": list![object! { "kind": "User", "name": "jane" }]
            };
            check_binding(&rbac, &*rbac, user, &resource, "a", &binding, None).map_err(|error| error.code())
        };
        assert_eq!(write(&jane, "view"), Ok(()));
        assert_eq!(write(&jane, "root"), Err(403));
        assert_eq!(write(&jane, "none"), Err(404));
        let admin = UserInfo { groups: vec![crate::authz::SYSTEM_MASTERS.into()], ..UserInfo::default() };
        assert_eq!(write(&admin, "root"), Ok(()));
    }
}
