//! Nobody grants what they do not have (`pkg/registry/rbac/validation/rule.go`, `pkg/registry/rbac/*/policybased`).

use super::rbac::{GROUP, Rbac, list_errors};
use super::rule::{Rule, compact, uncovered};
use super::{Decide, Question};
use crate::request::UserInfo;
use skiff_machinery::error::quote;
use skiff_machinery::{ApiError, GroupResource, Value};

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
