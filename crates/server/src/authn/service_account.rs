//! Service account tokens: bound ones (`TokenRequest`) and the old ones in Secrets (`pkg/serviceaccount`).
//!
//! A bound token is good while the account, and the pod, secret or node that it names, exist with the uids that it names;
//! an object that is being deleted keeps its tokens alive for a minute, so that it can end in order.

use super::CREDENTIAL_ID;
use super::jwt::{self, JwtError, PublicKey, SigningKey};
use crate::admission::Reader;
use crate::request::UserInfo;
use serde::{Deserialize, Serialize};
use skiff_machinery::error::quote;
use skiff_machinery::{ApiError, ErrorList, FieldError, FieldPath, GroupKind, GroupResource, Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Group of every service account.
pub const ALL_ACCOUNTS: &str = "system:serviceaccounts";
const LEEWAY: i64 = 60;
const MIN_EXPIRATION: i64 = 600;
const MAX_EXPIRATION: i64 = 1 << 32;
/// Tokens that kubelets mount for an hour live a year, and warn when they are used after the hour
/// (`--service-account-extend-token-expiration`).
const EXTENDED_EXPIRATION: i64 = 365 * 24 * 60 * 60;
const MOUNTED_EXPIRATION: i64 = 60 * 60 + 7;
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// Why a service account token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token itself.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// From somebody else.
    #[error("the issuer is not ours")]
    Issuer,
    /// Too old or too young.
    #[error("the token is {0}")]
    Time(&'static str),
    /// For somebody else.
    #[error("the token is for other audiences")]
    Audience,
    /// What it names is gone, or is another of the same name.
    #[error("{what} {namespace}/{name} {why}")]
    Bound {
        /// `service account`, `pod`, `secret`, `node`.
        what: &'static str,
        /// Where.
        namespace: String,
        /// Which.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The registry could not tell.
    #[error("cannot read what the token is bound to")]
    Read(#[source] ApiError),
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Reference {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Private {
    #[serde(default)]
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    #[serde(default)]
    serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    aud: Option<Audience>,
    exp: Option<i64>,
    nbf: Option<i64>,
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    private: Option<Private>,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    legacy_namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    legacy_secret: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    legacy_name: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    legacy_uid: Option<String>,
}

/// Claims as they are signed, in Go's order of map keys.
#[derive(Serialize)]
struct Issued<'a> {
    aud: &'a [String],
    exp: i64,
    iat: i64,
    iss: &'a str,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    private: Private,
    nbf: i64,
    sub: String,
}

/// What service account tokens are made and checked with.
pub struct ServiceAccounts {
    keys: Vec<PublicKey>,
    signer: SigningKey,
    issuers: Vec<String>,
    audiences: Vec<String>,
    max_expiration: Option<i64>,
}

impl ServiceAccounts {
    /// `issuers`: the first signs, all are accepted (`--service-account-issuer`). `audiences`: what this server answers
    /// to (`--api-audiences`; the first issuer when empty). `max_expiration`:
    /// `--service-account-max-token-expiration`.
    pub fn new(
        public_pem: &str,
        private_pem: &str,
        issuers: Vec<String>,
        audiences: Vec<String>,
        max_expiration: Option<Duration>,
    ) -> Result<Arc<Self>, JwtError> {
        let keys = PublicKey::all_from_pem(public_pem)?;
        let signer = SigningKey::from_pem(private_pem, &keys)?;
        if issuers.is_empty() {
            return Err(JwtError::Key("no issuer".to_owned()));
        }
        let audiences = if audiences.is_empty() { vec![issuers[0].clone()] } else { audiences };
        let max_expiration = max_expiration.map(|max| i64::try_from(max.as_secs()).unwrap_or(i64::MAX));
        Ok(Arc::new(Self { keys, signer, issuers, audiences, max_expiration }))
    }

    /// What this server answers to.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Who issues.
    pub fn issuer(&self) -> &str {
        &self.issuers[0]
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> String {
        let keys: Vec<String> = self.keys.iter().filter_map(PublicKey::to_jwk).collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    /// Whose token it is. `audiences`: one of them must be the token's (`None`: this server's).
    pub async fn authenticate(
        &self,
        reader: &dyn Reader,
        token: &str,
        audiences: Option<&[String]>,
        now: SystemTime,
    ) -> Result<UserInfo, TokenError> {
        let claims = |bytes: &[u8]| serde_json::from_slice::<Claims>(bytes).map_err(|_| JwtError::Malformed);
        let issuer = claims(&jwt::unverified_payload(token)?)?.iss;
        let legacy = issuer == LEGACY_ISSUER;
        if !legacy && !self.issuers.contains(&issuer) {
            return Err(TokenError::Issuer);
        }
        let claims = claims(&jwt::verify(token, &self.keys)?)?;
        let now = seconds(now);
        if claims.exp.is_some_and(|exp| now > exp + LEEWAY) {
            return Err(TokenError::Time("expired"));
        }
        if claims.nbf.is_some_and(|nbf| now < nbf - LEEWAY) {
            return Err(TokenError::Time("not valid yet"));
        }
        let wanted = audiences.unwrap_or(&self.audiences);
        if legacy {
            // The old tokens name no audience: they are this server's.
            if !wanted.iter().any(|one| self.audiences.contains(one)) {
                return Err(TokenError::Audience);
            }
            return self.legacy(reader, token, &claims, now).await;
        }
        let meant = match &claims.aud {
            Some(Audience::One(one)) => wanted.contains(one),
            Some(Audience::Many(many)) => many.iter().any(|one| wanted.contains(one)),
            None => false,
        };
        if !meant {
            return Err(TokenError::Audience);
        }
        self.bound(reader, claims, now).await
    }

    async fn bound(&self, reader: &dyn Reader, claims: Claims, now: i64) -> Result<UserInfo, TokenError> {
        let private = claims.private.ok_or(JwtError::Malformed)?;
        let (namespace, account) = (&private.namespace, &private.serviceaccount);
        if claims.exp.is_none()
            || claims.sub != super::super::authz::rbac::service_account_user(namespace, &account.name)
        {
            return Err(JwtError::Malformed.into());
        }
        let check = |what, resource, namespace, reference| exists(reader, what, resource, namespace, reference, now);
        check("service account", "serviceaccounts", namespace, account).await?;
        let mut extra = BTreeMap::new();
        let mut say = |key: &str, text: &str| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![text.to_owned()]);
        };
        if !claims.jti.is_empty() {
            say("credential-id", &format!("JTI={}", claims.jti));
        }
        if let Some(secret) = &private.secret {
            check("secret", "secrets", namespace, secret).await?;
        }
        if let Some(pod) = &private.pod {
            check("pod", "pods", namespace, pod).await?;
            say("pod-name", &pod.name);
            say("pod-uid", &pod.uid);
        }
        if let Some(node) = &private.node {
            // A node beside a pod only tells where it ran; alone it is what the token is bound to.
            if private.pod.is_none() {
                check("node", "nodes", "", node).await?;
            }
            say("node-name", &node.name);
            if !node.uid.is_empty() {
                say("node-uid", &node.uid);
            }
        }
        Ok(user(namespace, &account.name, &account.uid, extra))
    }

    async fn legacy(
        &self,
        reader: &dyn Reader,
        token: &str,
        claims: &Claims,
        now: i64,
    ) -> Result<UserInfo, TokenError> {
        let text = |field: &Option<String>| field.clone().filter(|text| !text.is_empty()).ok_or(JwtError::Malformed);
        let namespace = text(&claims.legacy_namespace)?;
        let account = Reference { name: text(&claims.legacy_name)?, uid: text(&claims.legacy_uid)? };
        let secret = Reference { name: text(&claims.legacy_secret)?, uid: String::new() };
        if claims.sub != super::super::authz::rbac::service_account_user(&namespace, &account.name) {
            return Err(JwtError::Malformed.into());
        }
        let object = exists(reader, "secret", "secrets", &namespace, &secret, now).await?;
        use base64::Engine;
        let stored = base64::engine::general_purpose::STANDARD.decode(object.str_at(&["data", "token"]));
        let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
        if !stored.is_ok_and(|stored| digest(&stored).as_ref() == digest(token.as_bytes()).as_ref()) {
            let why = "does not hold this token";
            return Err(TokenError::Bound { what: "secret", namespace, name: secret.name, why });
        }
        if object
            .object_at(&["metadata", "labels"])
            .is_some_and(|labels| labels.contains_key("kubernetes.io/legacy-token-invalid-since"))
        {
            let why = "was marked invalid for not being used";
            return Err(TokenError::Bound { what: "secret", namespace, name: secret.name, why });
        }
        exists(reader, "service account", "serviceaccounts", &namespace, &account, now).await?;
        Ok(user(&namespace, &account.name, &account.uid, BTreeMap::new()))
    }

    /// Makes the token that a `TokenRequest` on `serviceaccounts/token` asks for, and returns the request with its
    /// status (`pkg/registry/core/serviceaccount/storage/token.go`). `dry_run` makes none.
    pub async fn create_token(
        &self,
        reader: &dyn Reader,
        namespace: &str,
        name: &str,
        mut request: Value,
        dry_run: bool,
        now: SystemTime,
    ) -> Result<Value, ApiError> {
        let accounts = GroupResource::new("", "serviceaccounts");
        let account = match reader.fetch(&accounts, namespace, name).await? {
            Some(account) => account,
            None => return Err(ApiError::not_found(&accounts, name)),
        };
        let spec = request.get("spec").cloned().unwrap_or_default();
        let mut seconds_asked = spec.get("expirationSeconds").and_then(Value::as_int).unwrap_or(3600);
        check_request(&spec, seconds_asked)?;
        let mut audiences: Vec<String> =
            spec.items_at(&["audiences"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences = self.audiences.clone();
        }
        let mut private =
            Private { namespace: namespace.to_owned(), serviceaccount: reference(&account), ..Private::default() };
        if let Some(object) = spec.get("boundObjectRef").filter(|object| !object.is_null()) {
            bind(reader, namespace, name, object, &mut private).await?;
        }
        if let Some(max) = self.max_expiration {
            seconds_asked = seconds_asked.min(max);
        }
        let now = seconds(now);
        let told = now + seconds_asked;
        // A kubelet's own request for this server: lives longer, so that pods which never read the file again go on.
        let mut expires = told;
        if private.pod.is_some() && seconds_asked == MOUNTED_EXPIRATION && audiences == self.audiences {
            private.warnafter = Some(told);
            expires = now + self.max_expiration.map_or(EXTENDED_EXPIRATION, |max| EXTENDED_EXPIRATION.min(max));
        }
        let sub = super::super::authz::rbac::service_account_user(namespace, name);
        let jti = uuid::Uuid::new_v4().to_string();
        let claims =
            Issued { aud: &audiences, exp: expires, iat: now, iss: self.issuer(), jti, private, nbf: now, sub };
        let claims = serde_json::to_string(&claims).map_err(ApiError::internal)?;
        let token = if dry_run { String::new() } else { self.signer.sign(&claims).map_err(ApiError::internal)? };
        let mut status = Map::new();
        status.insert("token", token);
        let shown = jiff::Timestamp::from_second(told).map_err(ApiError::internal)?;
        status.insert("expirationTimestamp", shown.to_string());
        let root = request.object_at(&[]).is_some();
        if root && let Some(map) = request.as_object_mut() {
            map.object_mut("spec").insert("expirationSeconds", seconds_asked);
            map.object_mut("spec").insert("audiences", audiences);
            map.insert("status", status);
            let metadata = map.object_mut("metadata");
            metadata.insert("name", name);
            metadata.insert("namespace", namespace);
            metadata.insert(
                "creationTimestamp",
                jiff::Timestamp::from_second(now).map_err(ApiError::internal)?.to_string(),
            );
        }
        Ok(request)
    }
}

fn seconds(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn user(namespace: &str, name: &str, uid: &str, extra: BTreeMap<String, Vec<String>>) -> UserInfo {
    debug_assert!(
        extra.keys().all(|key| key.starts_with("authentication.kubernetes.io/")),
        "{CREDENTIAL_ID} and its kin"
    );
    UserInfo {
        name: super::super::authz::rbac::service_account_user(namespace, name),
        uid: uid.to_owned(),
        groups: vec![ALL_ACCOUNTS.to_owned(), format!("{ALL_ACCOUNTS}:{namespace}")],
        extra,
    }
}

fn reference(object: &Value) -> Reference {
    Reference {
        name: object.str_at(&["metadata", "name"]).to_owned(),
        uid: object.str_at(&["metadata", "uid"]).to_owned(),
    }
}

/// That what a token names is there, is the same, and is not long gone. From the cache when it knows the object, else
/// from the store: a token may be used right after its pod was made.
async fn exists(
    reader: &dyn Reader,
    what: &'static str,
    resource: &str,
    namespace: &str,
    wanted: &Reference,
    now: i64,
) -> Result<Arc<Value>, TokenError> {
    let resource = GroupResource::new("", resource);
    let failed = |why| TokenError::Bound { what, namespace: namespace.to_owned(), name: wanted.name.clone(), why };
    let same = |object: &Value| wanted.uid.is_empty() || object.str_at(&["metadata", "uid"]) == wanted.uid;
    let object = match reader.get(&resource, namespace, &wanted.name).filter(|object| same(object)) {
        Some(object) => object,
        None => {
            let fetched = reader.fetch(&resource, namespace, &wanted.name).await.map_err(TokenError::Read)?;
            fetched.ok_or_else(|| failed("does not exist"))?
        }
    };
    if !same(&object) {
        return Err(failed("is another one by now"));
    }
    let deleted = object.str_at(&["metadata", "deletionTimestamp"]);
    if let Ok(time) = deleted.parse::<jiff::Timestamp>()
        && time.as_second() < now - LEEWAY
    {
        return Err(failed("is being deleted"));
    }
    Ok(object)
}

fn check_request(spec: &Value, seconds: i64) -> Result<(), ApiError> {
    let path = FieldPath::new("spec");
    let field = path.child("expirationSeconds");
    let mut errors = ErrorList::new();
    if seconds < MIN_EXPIRATION {
        errors.push(FieldError::invalid(&field, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > MAX_EXPIRATION {
        errors.push(FieldError::invalid(&field, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    if spec.as_object().is_none() && !spec.is_null() {
        errors.push(FieldError::invalid(&path, "", "must be an object"));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&GroupKind::new("authentication.k8s.io", "TokenRequest"), "", &errors))
}

/// Binds to the pod, secret or node that the request names, after a look at it.
async fn bind(
    reader: &dyn Reader,
    namespace: &str,
    account: &str,
    object: &Value,
    private: &mut Private,
) -> Result<(), ApiError> {
    let (kind, name, uid) = (object.str_at(&["kind"]), object.str_at(&["name"]), object.str_at(&["uid"]));
    let (resource, scope) = match (object.str_at(&["apiVersion"]), kind) {
        ("v1", "Pod") => ("pods", namespace),
        ("v1", "Secret") => ("secrets", namespace),
        ("v1", "Node") => ("nodes", ""),
        (version, kind) => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {}",
                GroupKind::new(version.split_once('/').map_or("", |(group, _)| group), kind)
            )));
        }
    };
    let resource = GroupResource::new("", resource);
    let found = match reader.get(&resource, scope, name) {
        Some(found) => found,
        None => reader.fetch(&resource, scope, name).await?.ok_or_else(|| ApiError::not_found(&resource, name))?,
    };
    let own = reference(&found);
    if !uid.is_empty() && uid != own.uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        return Err(ApiError::conflict(&resource, name, why));
    }
    match kind {
        "Pod" => {
            let used = found.str_at(&["spec", "serviceAccountName"]);
            if used != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                    quote(account)
                )));
            }
            let node = found.str_at(&["spec", "nodeName"]);
            if !node.is_empty() {
                let known = reader.get(&GroupResource::new("", "nodes"), "", node);
                private.node = Some(match known {
                    Some(node) => reference(&node),
                    None => Reference { name: node.to_owned(), uid: String::new() },
                });
            }
            private.pod = Some(own);
        }
        "Secret" => private.secret = Some(own),
        _ => private.node = Some(own),
    }
    Ok(())
}
