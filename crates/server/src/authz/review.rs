//! Questions that clients ask: SubjectAccessReview and its relatives (`pkg/registry/authorization`).
//!
//! Each function takes the created object and returns it with its status filled; nothing is stored.

use super::rbac::{Rbac, list_errors};
use super::rule::{Rule, compact};
use super::{Authorizer, Decision, Question};
use crate::request::UserInfo;
use skiff_machinery::{ApiError, ErrorList, FieldError, FieldPath, GroupKind, Map, Value};

/// `authorization.k8s.io`.
pub const GROUP: &str = "authorization.k8s.io";

/// A user as a review's spec names one.
fn user_of(spec: &Value) -> UserInfo {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap_or_default().iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec.object_at(&["extra"]).into_iter().flat_map(Map::iter);
    UserInfo {
        name: spec.str_at(&["user"]).to_owned(),
        uid: spec.str_at(&["uid"]).to_owned(),
        groups: spec.get("groups").map(texts).unwrap_or_default(),
        extra: extra.map(|(key, values)| (key.to_ascii_lowercase(), texts(values))).collect(),
    }
}

/// `SubjectAccessReview`: may somebody?
pub async fn subject_access_review(authorizer: &dyn Authorizer, mut review: Value) -> Result<Value, ApiError> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let mut errors = check_attributes(&spec);
    errors.extend(check_subject(&spec));
    refuse("SubjectAccessReview", &errors)?;
    let status = evaluate(authorizer, &user_of(&spec), &spec).await;
    set_status(&mut review, status);
    Ok(review)
}

/// `LocalSubjectAccessReview`: may somebody, in this namespace?
pub async fn local_subject_access_review(
    authorizer: &dyn Authorizer,
    namespace: &str,
    mut review: Value,
) -> Result<Value, ApiError> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let mut errors = check_attributes(&spec);
    errors.extend(check_subject(&spec));
    if spec.get("nonResourceAttributes").is_some_and(|attributes| !attributes.is_null()) {
        let path = FieldPath::new("spec");
        let detail = "disallowed on this kind of request";
        errors.push(FieldError::invalid(&path.child("nonResourceAttributes"), "", detail));
    }
    refuse("LocalSubjectAccessReview", &errors)?;
    if spec.str_at(&["resourceAttributes", "namespace"]) != namespace {
        return Err(ApiError::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {namespace}"
        )));
    }
    let status = evaluate(authorizer, &user_of(&spec), &spec).await;
    set_status(&mut review, status);
    Ok(review)
}

/// `SelfSubjectAccessReview`: may I?
pub async fn self_subject_access_review(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    mut review: Value,
) -> Result<Value, ApiError> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    refuse("SelfSubjectAccessReview", &check_attributes(&spec))?;
    let status = evaluate(authorizer, user, &spec).await;
    set_status(&mut review, status);
    Ok(review)
}

/// `SelfSubjectRulesReview`: what may I here? Only RBAC can list its rules; what Node and the privileged group add is
/// said in `evaluationError` and by the rule for everything.
pub fn self_subject_rules_review(rbac: &Rbac, user: &UserInfo, mut review: Value) -> Result<Value, ApiError> {
    let namespace = review.str_at(&["spec", "namespace"]).to_owned();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (mut rules, errors) = rbac.rules_for(user, &namespace);
    if user.in_group(super::SYSTEM_MASTERS) {
        let star = || vec!["*".to_owned()];
        rules.push(Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() });
        rules.push(Rule { verbs: star(), non_resource_urls: star(), ..Rule::default() });
    }
    let (mut resource_rules, mut url_rules) = (Vec::new(), Vec::new());
    for rule in compact(rules) {
        let mut item = Map::new();
        item.insert("verbs", rule.verbs.clone());
        if !rule.resources.is_empty() {
            let mut item = item.clone();
            item.insert("apiGroups", rule.api_groups.clone());
            item.insert("resources", rule.resources.clone());
            if !rule.resource_names.is_empty() {
                item.insert("resourceNames", rule.resource_names.clone());
            }
            resource_rules.push(item);
        }
        if !rule.non_resource_urls.is_empty() {
            item.insert("nonResourceURLs", rule.non_resource_urls.clone());
            url_rules.push(item);
        }
    }
    let mut status = Map::new();
    status.insert("resourceRules", resource_rules);
    status.insert("nonResourceRules", url_rules);
    let node = user.in_group("system:nodes");
    status.insert("incomplete", node || !errors.is_empty());
    let mut told = Vec::new();
    if node {
        told.push("node authorizer does not support user rule resolution".to_owned());
    }
    told.extend(errors);
    if !told.is_empty() {
        status.insert("evaluationError", list_errors(&told));
    }
    set_status(&mut review, status);
    Ok(review)
}

/// A review about somebody says about whom.
fn check_subject(spec: &Value) -> Option<FieldError> {
    let unnamed = spec.str_at(&["user"]).is_empty() && spec.items_at(&["groups"]).is_empty();
    let detail = "at least one of user or group must be specified";
    unnamed.then(|| FieldError::invalid(&FieldPath::new("spec").child("user"), "", detail))
}

fn check_attributes(spec: &Value) -> ErrorList {
    let present = |key: &str| spec.get(key).is_some_and(|attributes| !attributes.is_null());
    let path = FieldPath::new("spec");
    let mut errors = ErrorList::new();
    match (present("resourceAttributes"), present("nonResourceAttributes")) {
        (true, true) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            let shown = spec.get("nonResourceAttributes").cloned().unwrap_or_default();
            errors.push(FieldError::invalid(&path.child("nonResourceAttributes"), shown, detail));
        }
        (false, false) => {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid(&path.child("resourceAttributes"), Value::Null, detail));
        }
        _ => (),
    }
    errors
}

fn refuse(kind: &str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(&GroupKind::new(GROUP, kind), "", errors)) }
}

async fn evaluate(authorizer: &dyn Authorizer, user: &UserInfo, spec: &Value) -> Map {
    let resource = spec.get("resourceAttributes").filter(|attributes| !attributes.is_null());
    let path = spec.get("nonResourceAttributes");
    let of = |key: &str| resource.map_or("", |attributes| attributes.str_at(&[key]));
    // A field selector comes in pieces here; only the one that the Node authorizer looks at is put together.
    let requirements = resource.map_or(&[][..], |attributes| attributes.items_at(&["fieldSelector", "requirements"]));
    let selector: Vec<String> = requirements
        .iter()
        .filter(|one| one.str_at(&["operator"]) == "In" && one.items_at(&["values"]).len() == 1)
        .map(|one| {
            let value = one.items_at(&["values"]).first().and_then(Value::as_str).unwrap_or_default();
            format!("{}={value}", one.str_at(&["key"]))
        })
        .collect();
    let raw = resource.map_or("", |attributes| attributes.str_at(&["fieldSelector", "rawSelector"]));
    let selector = if raw.is_empty() { selector.join(",") } else { raw.to_owned() };
    let question = Question {
        user,
        verb: if resource.is_some() { of("verb") } else { path.map_or("", |attributes| attributes.str_at(&["verb"])) },
        is_resource: resource.is_some(),
        group: of("group"),
        version: of("version"),
        resource: of("resource"),
        subresource: of("subresource"),
        namespace: of("namespace"),
        name: of("name"),
        path: path.map_or("", |attributes| attributes.str_at(&["path"])),
        field_selector: &selector,
    };
    let decision = authorizer.authorize(&question).await;
    let mut status = Map::new();
    status.insert("allowed", decision.is_allowed());
    if matches!(decision, Decision::Deny(_)) {
        status.insert("denied", true);
    }
    if !decision.reason().is_empty() {
        status.insert("reason", decision.reason());
    }
    status
}

fn set_status(review: &mut Value, status: Map) {
    if let Some(map) = review.as_object_mut() {
        map.insert("status", status);
    }
}
