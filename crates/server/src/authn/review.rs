//! `TokenReview` and `SelfSubjectReview` (`pkg/registry/authentication`).

use super::Authenticator;
use crate::request::UserInfo;
use skiff_machinery::{ApiError, Map, Value};

/// A user as the API shows one.
pub fn user_value(user: &UserInfo) -> Map {
    let mut map = Map::new();
    for (key, text) in [("username", &user.name), ("uid", &user.uid)] {
        if !text.is_empty() {
            map.insert(key, text.as_str());
        }
    }
    if !user.groups.is_empty() {
        map.insert("groups", user.groups.clone());
    }
    if !user.extra.is_empty() {
        let extra: Map = user.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone()))).collect();
        map.insert("extra", extra);
    }
    map
}

/// `TokenReview`: whose token is this?
pub async fn token_review(authenticator: &Authenticator, mut review: Value) -> Result<Value, ApiError> {
    let token = review.str_at(&["spec", "token"]).to_owned();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let asked: Vec<String> =
        review.items_at(&["spec", "audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let own = authenticator.service_accounts().map(|accounts| accounts.audiences().to_vec()).unwrap_or_default();
    let audiences = (!asked.is_empty()).then_some(asked.as_slice());
    let mut status = Map::new();
    match authenticator.token(&token, audiences).await {
        Ok(user) => {
            status.insert("authenticated", true);
            status.insert("user", user_value(&user));
            // Only what was asked for and holds: the token is for one of those asked, or for this server.
            let shown = if asked.is_empty() { own } else { intersection(&token, &asked, &own) };
            if !shown.is_empty() {
                status.insert("audiences", shown);
            }
        }
        Err(error) => {
            status.insert("user", Map::new());
            status.insert("error", error.to_string());
        }
    }
    if let Some(map) = review.as_object_mut() {
        map.insert("status", status);
    }
    Ok(review)
}

/// The audiences asked for that the (already verified) token has; a token that names none is for this server.
fn intersection(token: &str, asked: &[String], own: &[String]) -> Vec<String> {
    let claims = super::jwt::unverified_payload(token).ok();
    let claims = claims.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let named: Vec<String> = match claims.as_ref().and_then(|claims| claims.get("aud")) {
        Some(serde_json::Value::String(one)) => vec![one.clone()],
        Some(serde_json::Value::Array(many)) => many.iter().filter_map(|one| one.as_str()).map(str::to_owned).collect(),
        _ => own.to_vec(),
    };
    asked.iter().filter(|one| named.contains(one)).cloned().collect()
}

/// `SelfSubjectReview`: who am I?
pub fn self_subject_review(user: &UserInfo, mut review: Value) -> Value {
    let mut status = Map::new();
    status.insert("userInfo", user_value(user));
    if let Some(map) = review.as_object_mut() {
        map.insert("status", status);
    }
    review
}
