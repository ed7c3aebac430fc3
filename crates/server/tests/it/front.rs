//! The first filters over TLS, with a stand-in behind them.

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use skiff_base::clock::SystemClock;
use skiff_base::health::Health;
use skiff_base::pki::{self, Client as Identity, Pki, ServerNames};
use skiff_base::task::Supervisor;
use skiff_machinery::{ApiError, GroupResource, Value};
use skiff_net::client::{Client, Options as ClientOptions};
use skiff_net::server::{self, Server};
use skiff_net::tls::{self, ServerTrust};
use skiff_net::{Body, Service};
use skiff_server::admission::{Change, Reader, ReaderFuture};
use skiff_server::authn::{AnonymousAccess, Authenticator, token_file::TokenFile};
use skiff_server::authz::{Chain, Privileged, SYSTEM_MASTERS};
use skiff_server::front::{ApiRequest, Dispatch, DispatchFuture, Front, Options, Parts};
use skiff_server::metrics::Metrics;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A registry without objects.
struct Nothing;
impl Reader for Nothing {
    fn get(&self, _: &GroupResource, _: &str, _: &str) -> Option<Arc<Value>> {
        None
    }
    fn list(&self, _: &GroupResource, _: Option<&str>) -> Vec<Arc<Value>> {
        Vec::new()
    }
    fn generation(&self, _: &GroupResource) -> u64 {
        0
    }
    fn fetch<'a>(&'a self, _: &'a GroupResource, _: &'a str, _: &'a str) -> ReaderFuture<'a, Option<Arc<Value>>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    fn update<'a>(
        &'a self,
        resource: &'a GroupResource,
        _: &'a str,
        name: &'a str,
        _: Change<'a>,
    ) -> ReaderFuture<'a, Arc<Value>> {
        Box::pin(std::future::ready(Err(ApiError::not_found(resource, name))))
    }
    fn create<'a>(&'a self, resource: &'a GroupResource, _: Value) -> ReaderFuture<'a, Arc<Value>> {
        Box::pin(std::future::ready(Err(ApiError::not_found(resource, ""))))
    }
    fn delete<'a>(&'a self, resource: &'a GroupResource, _: &'a str, name: &'a str) -> ReaderFuture<'a, ()> {
        Box::pin(std::future::ready(Err(ApiError::not_found(resource, name))))
    }
}

/// Says who asked for what, as the filters found it.
struct Mirror;
impl Dispatch for Mirror {
    fn dispatch(&self, mut request: ApiRequest) -> DispatchFuture<'_> {
        Box::pin(async move {
            let info = Arc::clone(&request.context.info);
            match info.name.as_str() {
                "panic" => panic!("on purpose"),
                "slow" => std::future::pending::<()>().await,
                _ => (),
            }
            let body = match request.read_body().await {
                Ok(body) => body,
                Err(error) => return skiff_server::answer::error(&error, &request.parts.headers),
            };
            let user = &request.context.user;
            assert!(request.parts.headers.get("authorization").is_none());
            let text = format!("{} {} {} by {} body={}", info.verb, info.resource, info.name, user.name, body.len());
            http::Response::new(text.into())
        })
    }
}

struct World {
    supervisor: Supervisor,
    address: SocketAddr,
    pki: Pki,
    health: Arc<Health>,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    // Anonymous reaches health by RBAC in a cluster; here the group decides everything.
    world_with(Chain(vec![Arc::new(Privileged(SYSTEM_MASTERS)), Arc::new(Privileged("system:unauthenticated"))]))
}

fn world_with(authorizer: Chain) -> World {
    let dir = tempfile::tempdir().unwrap();
    let names = ServerNames {
        node_name: "node".into(),
        cluster_domain: "cluster.local".into(),
        service_ip: [10, 96, 0, 1].into(),
        addresses: Vec::new(),
        names: Vec::new(),
    };
    let pki = pki::ensure(dir.path(), &names, SystemTime::now()).unwrap();
    let options = skiff_server::authn::Options {
        client_ca: Some(tls::ClientTrust::from_pem(pki.ca.as_bytes()).unwrap()),
        token_file: Some(TokenFile::parse("t-jane,jane,1\nt-root,root,0,system:masters").unwrap()),
        service_accounts: None,
        bootstrap_tokens: false,
        anonymous: AnonymousAccess::health_only(),
    };
    let clock = SystemClock::shared();
    let health = Arc::new(Health::new());
    let parts = Parts {
        authenticator: Arc::new(Authenticator::new(options, Arc::new(Nothing), Arc::clone(&clock))),
        authorizer: Arc::new(authorizer),
        dispatch: Arc::new(Mirror),
        health: Arc::clone(&health),
        metrics: Arc::new(Metrics::new(SystemTime::now())),
        clock: Arc::clone(&clock),
    };
    let front = Front::new(parts, Options { request_timeout: Duration::from_millis(500), ..Options::default() });
    let supervisor = Supervisor::new("test");
    let identity = tls::Identity::from_pem(pki.apiserver.certificate.as_bytes(), pki.apiserver.key.as_bytes()).unwrap();
    let config = tls::server_config(identity, Some(pki.ca.as_bytes()), true).unwrap();
    let listener = server::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let server = Server::tls(listener, config, front as Arc<dyn Service>, server::Options::default(), clock);
    let address = server.local_addr().unwrap();
    server.spawn(&supervisor, "https");
    World { supervisor, address, pki, health, _dir: dir }
}

impl World {
    fn client(&self, identity: Option<(&Pki, Identity)>) -> Client {
        let identity = identity.map(|(pki, who)| {
            let pair = pki.client(&who, SystemTime::now()).unwrap();
            tls::Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap()
        });
        let trust = ServerTrust::Authority(self.pki.ca.clone().into_bytes());
        let tls = Some(tls::client_config(&trust, identity, true).unwrap());
        Client::new(ClientOptions { tls, ..ClientOptions::default() }, self.supervisor.clone())
    }
    async fn ask(&self, client: &Client, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let mut request = Request::get(format!("https://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = client.send(request.body(Body::Empty).unwrap()).await.unwrap();
        assert!(answer.headers().contains_key("audit-id"));
        assert_eq!(answer.headers()["cache-control"], "no-cache, private");
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }
}

const ROOT: (&str, &str) = ("authorization", "Bearer t-root");
const JANE: (&str, &str) = ("authorization", "Bearer t-jane");

#[tokio::test]
async fn who_may_what() {
    let world = world();
    let nobody = world.client(None);
    let (status, body) = world.ask(&nobody, "/api/v1/pods", &[]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        body,
        "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"Unauthorized\",\
         \"reason\":\"Unauthorized\",\"code\":401}\n"
    );
    assert_eq!(world.ask(&nobody, "/healthz", &[]).await, (StatusCode::OK, "ok".to_owned()));
    let (status, version) = world.ask(&nobody, "/version", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(version.contains("\"gitVersion\": \"v1.36.2+skiff-"), "{version}");
    assert_eq!(
        world.ask(&nobody, "/api/v1/namespaces/a/pods/x?y=1", &[ROOT]).await,
        (StatusCode::OK, "get pods x by root body=0".to_owned())
    );
    let (status, body) = world.ask(&nobody, "/apis/apps/v1/namespaces/a/deployments", &[JANE]).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        body.contains(
            "\"message\":\"deployments.apps is forbidden: User \\\"jane\\\" cannot list resource \\\"deployments\\\" in API \
             group \\\"apps\\\" in the namespace \\\"a\\\"\",\"reason\":\"Forbidden\",\"details\":{\"group\":\"apps\",\
             \"kind\":\"deployments\"},\"code\":403}"
        ),
        "{body}"
    );
    let admin = world.client(Some((&world.pki, Identity::admin())));
    for _ in 0..2 {
        let (_, body) = world.ask(&admin, "/api/v1/pods?watch=1", &[]).await;
        assert_eq!(body, "watch pods  by kubernetes-admin body=0");
    }
    let elsewhere = self::world();
    let stranger = world.client(Some((&elsewhere.pki, Identity::admin())));
    assert_eq!(world.ask(&stranger, "/api/v1/pods", &[]).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(world.ask(&stranger, "/healthz", &[]).await.0, StatusCode::UNAUTHORIZED, "a bad credential is refused");
}

#[tokio::test]
async fn impersonation_is_asked_for_and_checked() {
    let world = world();
    let client = world.client(None);
    let (status, body) = world.ask(&client, "/api/v1/pods", &[ROOT, ("impersonate-user", "jane")]).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    assert!(body.contains("User \\\"jane\\\" cannot list"), "{body}");
    let headers = [ROOT, ("impersonate-user", "jane"), ("impersonate-group", "system:masters")];
    assert_eq!(world.ask(&client, "/api/v1/pods", &headers).await.1, "list pods  by jane body=0");
    let (status, body) = world.ask(&client, "/api/v1/pods", &[JANE, ("impersonate-user", "root")]).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(
        body.contains("users \\\"root\\\" is forbidden: User \\\"jane\\\" cannot impersonate resource \\\"users\\\"")
    );
}

#[tokio::test]
async fn a_panic_and_a_slow_answer_end_the_request_alone() {
    let world = world();
    let client = world.client(None);
    assert_eq!(world.ask(&client, "/api/v1/nodes/slow?timeout=20ms", &[ROOT]).await.0, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(world.ask(&client, "/api/v1/nodes/slow?timeout=x", &[ROOT]).await.0, StatusCode::BAD_REQUEST);
    let request = Request::get(format!("https://{}/api/v1/nodes/panic", world.address)).header(ROOT.0, ROOT.1);
    let answer = client.send(request.body(Body::Empty).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(world.ask(&client, "/api/v1/nodes/x", &[ROOT]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn bodies_and_paths_have_limits() {
    let world = world();
    let client = world.client(None);
    let post = async |length: usize| {
        let request = Request::post(format!("https://{}/api/v1/namespaces", world.address)).header(ROOT.0, ROOT.1);
        let answer = client.send(request.body(Body::from(vec![b' '; length])).unwrap()).await.unwrap();
        let status = answer.status();
        (status, answer.into_body().collect().await.unwrap().to_bytes())
    };
    assert_eq!(post(3 << 20).await.0, StatusCode::OK);
    let (status, body) = post((3 << 20) + 1).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(String::from_utf8_lossy(&body).contains("Request entity too large: limit is 3145728"));
    for path in ["/api/v1/namespaces/%2e%2e/pods", "/api/v1/pods/%00", "/api/v1/pods/%zz"] {
        assert_eq!(world.ask(&client, path, &[ROOT]).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn readiness_and_metrics() {
    let world = world();
    let hook = world.health.add_readiness("poststarthook/start", skiff_base::health::Part::Ready);
    let client = world.client(None);
    let (status, body) = world.ask(&client, "/readyz", &[]).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.ends_with("readyz check failed\n"));
    hook.set();
    let (_, body) = world.ask(&client, "/readyz?verbose", &[]).await;
    assert_eq!(body, "[+]ping ok\n[+]poststarthook/start ok\nreadyz check passed\n");
    world.ask(&client, "/api/v1/nodes/x", &[ROOT]).await;
    let (_, metrics) = world.ask(&client, "/metrics", &[ROOT]).await;
    assert!(
        metrics
            .contains("apiserver_request_total{verb=\"GET\",dry_run=\"\",group=\"\",version=\"v1\",resource=\"nodes\"")
    );
    assert!(metrics.contains("apiserver_current_inflight_requests{request_kind=\"readOnly\"} "));
}

/// Everything is allowed to `jane` but to create.
struct NoCreate;
impl skiff_server::authz::Decide for NoCreate {
    fn decide(&self, question: &skiff_server::authz::Question<'_>) -> skiff_server::authz::Decision {
        if question.user.name == "jane" && question.verb != "create" {
            skiff_server::authz::Decision::Allow(String::new())
        } else {
            skiff_server::authz::Decision::NoOpinion(String::new())
        }
    }
}

#[tokio::test]
async fn reading_a_pod_does_not_run_commands_in_it() {
    let world = world_with(Chain(vec![Arc::new(Privileged(SYSTEM_MASTERS)), Arc::new(NoCreate)]));
    let client = world.client(None);
    let pod = "/api/v1/namespaces/a/pods/x";
    assert_eq!(world.ask(&client, pod, &[JANE]).await.0, StatusCode::OK);
    assert_eq!(world.ask(&client, &format!("{pod}/log"), &[JANE]).await.0, StatusCode::OK);
    for stream in ["exec?command=id", "attach", "portforward"] {
        let (status, body) = world.ask(&client, &format!("{pod}/{stream}"), &[JANE]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{stream}");
        assert!(body.contains("User \\\"jane\\\" cannot create resource \\\"pods/"), "{body}");
        assert_eq!(world.ask(&client, &format!("{pod}/{stream}"), &[ROOT]).await.0, StatusCode::OK);
    }
}
