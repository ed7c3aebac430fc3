//! Bootstrap tokens: Secrets of `kube-system` that let a machine join (`plugin/pkg/auth/authenticator/token/bootstrap`).

use crate::admission::Reader;
use crate::request::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skiff_machinery::{GroupResource, Value};
use std::time::{SystemTime, UNIX_EPOCH};

const GROUP: &str = "system:bootstrappers";

/// Whose token it is; `Ok(None)` when it has not the form of a bootstrap token. A refusal does not say more than that.
pub async fn authenticate(reader: &dyn Reader, token: &str, now: SystemTime) -> Result<Option<UserInfo>, &'static str> {
    let Some((id, secret)) = token.split_once('.') else { return Ok(None) };
    let plain = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    if !plain(id, 6) || !plain(secret, 16) {
        return Ok(None);
    }
    let secrets = GroupResource::new("", "secrets");
    let name = format!("bootstrap-token-{id}");
    let object = match reader.get(&secrets, "kube-system", &name) {
        Some(object) => object,
        None => reader
            .fetch(&secrets, "kube-system", &name)
            .await
            .map_err(|_| "the Secret cannot be read")?
            .ok_or("there is no such Secret")?,
    };
    if object.at(&["metadata", "deletionTimestamp"]).is_some_and(|time| !time.is_null()) {
        return Err("the Secret is being deleted");
    }
    if object.str_at(&["type"]) != "bootstrap.kubernetes.io/token" {
        return Err("the Secret is of another type");
    }
    let data = |key: &str| decode(&object, key);
    // By digests: how long the comparison takes says nothing about the secret.
    let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let expected = data("token-secret").filter(|text| !text.is_empty()).ok_or("the Secret holds no token")?;
    if digest(&expected).as_ref() != digest(secret).as_ref() {
        return Err("the token does not match");
    }
    if data("token-id").as_deref() != Some(id) {
        return Err("the Secret is of another token");
    }
    if let Some(text) = data("expiration") {
        let end: jiff::Timestamp = text.parse().map_err(|_| "the expiration cannot be read")?;
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if end.as_second() <= i64::try_from(now).unwrap_or(i64::MAX) {
            return Err("the token has expired");
        }
    }
    if data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err("the token is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').filter(|group| !group.is_empty()) {
        if !group.starts_with("system:bootstrappers:") {
            return Err("an extra group is not a bootstrappers' group");
        }
        groups.push(group.to_owned());
    }
    Ok(Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() }))
}

/// One entry of a Secret's data, which trees hold as base64.
fn decode(secret: &Value, key: &str) -> Option<String> {
    let encoded = secret.at(&["data", key])?.as_str()?;
    String::from_utf8(STANDARD.decode(encoded).ok()?).ok()
}
