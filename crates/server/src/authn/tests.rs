use super::*;
use crate::authz::testing::Fake;
use skiff_base::clock::SystemClock;
use skiff_machinery::{GroupResource, Value, object};
use std::time::SystemTime;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct World {
    fake: Arc<Fake>,
    accounts: Arc<service_account::ServiceAccounts>,
    authenticator: Authenticator,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let names = skiff_base::pki::ServerNames {
        node_name: "node".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: [10, 96, 0, 1].into(),
        addresses: Vec::new(),
        names: Vec::new(),
    };
    let pki = skiff_base::pki::ensure(dir.path(), &names, SystemTime::now()).unwrap();
    let accounts = service_account::ServiceAccounts::new(
        &pki.service_account_public,
        pki.service_account_key.reveal(),
        vec![ISSUER.into()],
        Vec::new(),
        None,
    )
    .unwrap();
    let fake = Arc::new(Fake::default());
    let put = |resource: &str, object: Value| fake.put(&GroupResource::new("", resource), object);
    put("serviceaccounts", object! { "metadata": object! { "namespace": "a", "name": "bot", "uid": "u1" } });
    put(
        "pods",
        object! {
            "metadata": object! { "namespace": "a", "name": "web", "uid": "p1" },
            "spec": object! { "serviceAccountName": "bot", "nodeName": "n1" }
        },
    );
    put("nodes", object! { "metadata": object! { "name": "n1", "uid": "n-uid" } });
    let file = token_file::TokenFile::parse("secret,jane,1,\"dev,ops\"\n").unwrap();
    let options = Options {
        client_ca: None,
        token_file: Some(file),
        service_accounts: Some(Arc::clone(&accounts)),
        bootstrap_tokens: true,
        anonymous: AnonymousAccess::health_only(),
    };
    let reader = Arc::clone(&fake) as Arc<dyn Reader>;
    let authenticator = Authenticator::new(options, reader, SystemClock::shared());
    World { fake, accounts, authenticator }
}

async fn ask(world: &World, token: Option<&str>, path: &str) -> Result<Arc<UserInfo>, AuthenticationError> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    }
    headers.insert("x-remote-user", "admin".parse().unwrap());
    let outcome = world.authenticator.authenticate(&Peer::default(), &mut headers, path).await;
    assert!(headers.is_empty(), "credentials stay: {headers:?}");
    outcome
}

async fn issue(world: &World, bound: Option<Value>) -> Result<String, skiff_machinery::ApiError> {
    let mut request = object! { "spec": object! { "expirationSeconds": 600 } };
    if let Some(bound) = bound {
        request.get_mut("spec").unwrap().as_object_mut().unwrap().insert("boundObjectRef", bound);
    }
    let reader = &*world.fake;
    let answer = world.accounts.create_token(reader, "a", "bot", request, false, SystemTime::now()).await?;
    Ok(answer.str_at(&["status", "token"]).to_owned())
}

#[tokio::test]
async fn static_tokens_and_anonymous() {
    let world = world();
    let jane = ask(&world, Some("secret"), "/api").await.unwrap();
    assert_eq!((jane.name.as_str(), jane.groups.join(" ").as_str()), ("jane", "dev ops system:authenticated"));
    assert!(ask(&world, Some("wrong"), "/healthz").await.is_err(), "a bad credential is not anonymous");
    assert_eq!(ask(&world, None, "/healthz/ping").await.unwrap().name, ANONYMOUS);
    assert_eq!(ask(&world, None, "/version").await.unwrap().name, ANONYMOUS);
    for path in ["/api", "/healthzz", "/versions", "/version/x"] {
        assert!(ask(&world, None, path).await.is_err(), "{path}");
    }
}

#[tokio::test]
async fn in_process_identities_are_taken_from_the_connection_alone() {
    let world = world();
    let peer = Peer { in_process: Some(in_process("system:kube-scheduler", &[])), ..Peer::default() };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, "Bearer secret".parse().unwrap());
    let user = world.authenticator.authenticate(&peer, &mut headers, "/api").await.unwrap();
    assert_eq!(user.name, "system:kube-scheduler");
    assert!(headers.is_empty());
    let strange = Peer { in_process: Some(Arc::new(1)), ..Peer::default() };
    assert!(world.authenticator.authenticate(&strange, &mut headers, "/healthz").await.is_err());
}

#[tokio::test]
async fn bound_tokens_live_as_long_as_what_they_are_bound_to() {
    let world = world();
    let token = issue(&world, Some(object! { "kind": "Pod", "apiVersion": "v1", "name": "web" })).await.unwrap();
    let user = ask(&world, Some(&token), "/api").await.unwrap();
    assert_eq!(user.name, "system:serviceaccount:a:bot");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["web"]);
    assert_eq!(user.extra["authentication.kubernetes.io/node-uid"], ["n-uid"]);
    assert!(user.extra[CREDENTIAL_ID][0].starts_with("JTI="));

    let later = SystemTime::now() + Duration::from_secs(700);
    let check = |token: &str, audiences: Option<Vec<String>>, now| {
        let (accounts, fake, token) = (Arc::clone(&world.accounts), Arc::clone(&world.fake), token.to_owned());
        async move { accounts.authenticate(&*fake, &token, audiences.as_deref(), now).await.map_err(|e| e.to_string()) }
    };
    let now = SystemTime::now();
    assert_eq!(check(&token, None, later).await.unwrap_err(), "the token is expired");
    let foreign = Some(vec!["vault".to_owned()]);
    assert_eq!(check(&token, foreign, now).await.unwrap_err(), "the token is for other audiences");
    world.fake.put(
        &GroupResource::new("", "pods"),
        object! { "metadata": object! { "namespace": "a", "name": "web", "uid": "p2" } },
    );
    assert_eq!(check(&token, None, now).await.unwrap_err(), "pod a/web is another one by now");
    world.fake.remove(&GroupResource::new("", "pods"), "a", "web");
    assert_eq!(check(&token, None, now).await.unwrap_err(), "pod a/web does not exist");
    let unbound = issue(&world, None).await.unwrap();
    assert!(check(&unbound, None, now).await.is_ok());
    world.fake.remove(&GroupResource::new("", "serviceaccounts"), "a", "bot");
    assert_eq!(check(&unbound, None, now).await.unwrap_err(), "service account a/bot does not exist");
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let world = world();
    let token = issue(&world, None).await.unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let hmac = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"../../dev/null"}"#);
    let other = issue(&super::tests::world(), None).await.unwrap();
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let promoted = URL_SAFE_NO_PAD.encode(claims.replace("bot", "root"));
    for (what, forged) in [
        ("no algorithm", format!("{none}.{}.", parts[1])),
        ("HMAC", format!("{hmac}.{}.{}", parts[1], parts[2])),
        ("other claims", format!("{}.{promoted}.{}", parts[0], parts[2])),
        ("another cluster", other),
        ("cut", token[..token.len() - 4].to_owned()),
        ("empty", "ey..".to_owned()),
    ] {
        let error = ask(&world, Some(&forged), "/api").await.unwrap_err();
        assert!(matches!(error, AuthenticationError::Token(_)), "{what}: {error}");
    }
}

#[tokio::test]
async fn token_requests_are_checked() {
    let world = world();
    let wrong = issue(&world, Some(object! { "kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "x" })).await;
    assert_eq!(wrong.unwrap_err().code(), 409);
    let missing = issue(&world, Some(object! { "kind": "Pod", "apiVersion": "v1", "name": "none" })).await;
    assert_eq!(missing.unwrap_err().code(), 404);
    let kind = issue(&world, Some(object! { "kind": "ConfigMap", "apiVersion": "v1", "name": "none" })).await;
    assert_eq!(kind.unwrap_err().code(), 400);
    let short = object! { "spec": object! { "expirationSeconds": 599 } };
    let error =
        world.accounts.create_token(&*world.fake, "a", "bot", short, false, SystemTime::now()).await.unwrap_err();
    assert_eq!(
        error.message(),
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a \
         duration less than 10 minutes"
    );
}

#[tokio::test]
async fn bootstrap_tokens() {
    use base64::Engine;
    let world = world();
    let data = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let secret = |expiration: &str| {
        object! {
            "metadata": object! { "namespace": "kube-system", "name": "bootstrap-token-abcdef" },
            "type": "bootstrap.kubernetes.io/token",
            "data": object! {
                "token-id": data("abcdef"),
                "token-secret": data("0123456789abcdef"),
                "usage-bootstrap-authentication": data("true"),
                "auth-extra-groups": data("system:bootstrappers:kubeadm:default-node-token"),
                "expiration": data(expiration)
            }
        }
    };
    let secrets = GroupResource::new("", "secrets");
    world.fake.put(&secrets, secret("2001-01-01T00:00:00Z"));
    assert!(ask(&world, Some("abcdef.0123456789abcdef"), "/api").await.is_err(), "expired");
    world.fake.put(&secrets, secret("2999-01-01T00:00:00Z"));
    assert!(ask(&world, Some("abcdef.0123456789abcdee"), "/api").await.is_err());
    let user = ask(&world, Some("abcdef.0123456789abcdef"), "/api").await.unwrap();
    assert_eq!(user.name, "system:bootstrap:abcdef");
    assert!(user.in_group("system:bootstrappers:kubeadm:default-node-token"));
}
