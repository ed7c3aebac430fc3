//! Acting as somebody else: the `Impersonate-*` headers (`endpoints/filters/impersonation.go`).

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use crate::authn::service_account::ALL_ACCOUNTS;
use crate::authz::{Authorizer, Question};
use crate::request::UserInfo;
use http::{HeaderMap, HeaderName};
use skiff_machinery::{ApiError, GroupResource};
use std::collections::BTreeMap;
use std::sync::Arc;

const USER: HeaderName = HeaderName::from_static("impersonate-user");
const UID: HeaderName = HeaderName::from_static("impersonate-uid");
const GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const EXTRA_PREFIX: &str = "impersonate-extra-";

/// Whom the request wants to be; the headers are taken out. `None`: the caller as they are. Each part, user, uid, each
/// group, each extra, must be allowed to the caller by name.
pub async fn impersonate(
    authorizer: &dyn Authorizer,
    caller: &Arc<UserInfo>,
    headers: &mut HeaderMap,
) -> Result<Option<Arc<UserInfo>>, ApiError> {
    let asked = |name: &HeaderName| name.as_str().starts_with("impersonate-");
    if !headers.keys().any(asked) {
        return Ok(None);
    }
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let first = |name: &HeaderName| headers.get(name).map(text).unwrap_or_default();
    let (user, uid) = (first(&USER), first(&UID));
    let mut groups: Vec<String> = headers.get_all(&GROUP).iter().map(text).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers.iter() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            extra.entry(unescape(key)).or_default().push(text(value));
        }
    }
    let sent: Vec<HeaderName> = headers.keys().filter(|name| asked(name)).cloned().collect();
    for name in sent {
        headers.remove(name);
    }
    if user.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::internal("requested [groups, uids or extra] without impersonating a user".to_owned()));
    }
    let allow = async |resource: &str, group: &str, namespace: &str, name: &str, sub: &str| {
        let resource = GroupResource::new(group, resource);
        let question = Question::on(caller, "impersonate", &resource, namespace, name).with_subresource(sub);
        let decision = authorizer.authorize(&question).await;
        if decision.is_allowed() { Ok(()) } else { Err(question.forbidden(decision.reason())) }
    };
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => allow("serviceaccounts", "", namespace, name, "").await?,
        None => allow("users", "", "", &user, "").await?,
    }
    for group in &groups {
        allow("groups", "", "", group, "").await?;
    }
    const AUTHENTICATION: &str = "authentication.k8s.io";
    for (key, values) in &extra {
        for value in values {
            allow("userextras", AUTHENTICATION, "", value, key).await?;
        }
    }
    if !uid.is_empty() {
        allow("uids", AUTHENTICATION, "", &uid, "").await?;
    }
    if let Some((namespace, _)) = account
        && groups.is_empty()
    {
        groups = vec![ALL_ACCOUNTS.to_owned(), format!("{ALL_ACCOUNTS}:{namespace}")];
    }
    let known = groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED);
    if user == ANONYMOUS {
        if !groups.iter().any(|group| group == UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !known {
        groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Some(Arc::new(UserInfo { name: user, uid, groups, extra })))
}

/// Keys of extras may be percent-encoded; what does not decode stays as it came.
fn unescape(key: &str) -> String {
    crate::request::info::decode_path(key).unwrap_or_else(|_| key.to_owned()).to_ascii_lowercase()
}
