//! The real kubectl against a server on loopback.

use crate::api::{Api, context};
use skiff_base::clock::SystemClock;
use skiff_net::{Body, Peer, Service, ServiceFuture};
use skiff_server::front::{ApiRequest, Dispatch};
use skiff_server::server::Api as Dispatcher;
use std::process::Stdio;
use std::sync::Arc;

/// The dispatcher without filters: everybody is the tester.
struct Unfiltered(Dispatcher);

impl Service for Unfiltered {
    fn call(&self, peer: &Peer, request: http::Request<Body>) -> ServiceFuture<'_> {
        let peer = peer.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let context = context(&parts);
            self.0.dispatch(ApiRequest { context, parts, body, peer }).await
        })
    }
}

pub(crate) struct Kubectl {
    home: tempfile::TempDir,
    server: String,
}

impl Kubectl {
    /// Serves `api` and says where; `None` when there is no kubectl on this machine.
    pub(crate) async fn serve(api: &Api) -> Option<Self> {
        if !std::path::Path::new("/usr/bin/kubectl").exists() {
            println!("skipped: no kubectl on this machine");
            return None;
        }
        let listener = skiff_net::server::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let service = Arc::new(Unfiltered(Dispatcher::new(Arc::clone(&api.registry), address.to_string())));
        let server =
            skiff_net::server::Server::plain(listener, service, Default::default(), SystemClock::shared()).unwrap();
        server.spawn(&api.supervisor, "api");
        Some(Self { home: tempfile::tempdir().unwrap(), server: format!("http://{address}") })
    }

    /// Runs a command; standard output, or the failure's text.
    pub(crate) async fn run(&self, arguments: &str, input: &str) -> Result<String, String> {
        use tokio::io::AsyncWriteExt;
        let mut command = tokio::process::Command::new("/usr/bin/kubectl");
        command.env_clear().env("HOME", self.home.path()).env("PATH", "/usr/bin:/bin");
        command.args(["--server", &self.server, "--request-timeout=20s"]).args(arguments.split_whitespace());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output =
            tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(out) } else { Err(format!("{out}{err}")) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_shows_and_deletes() {
    let api = Api::new().await;
    let Some(kubectl) = Kubectl::serve(&api).await else { return };
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\n  namespace: default\ndata:\n  a: b\n";
    let made = kubectl.run("create --validate=false -f -", manifest).await.unwrap();
    assert_eq!(made, "configmap/one created\n");
    let shown = kubectl.run("get configmaps", "").await.unwrap();
    assert!(shown.starts_with("NAME   ") && shown.contains("\none    "), "{shown}");
    let yaml = kubectl.run("get cm one -o yaml", "").await.unwrap();
    assert!(yaml.contains("\n  a: b\n"), "{yaml}");
    let missing = kubectl.run("get cm two", "").await.unwrap_err();
    assert_eq!(missing, "Error from server (NotFound): configmaps \"two\" not found\n");
    let resources = kubectl.run("api-resources --no-headers", "").await.unwrap();
    assert!(resources.lines().count() > 50, "{resources}");
    assert_eq!(kubectl.run("label cm one x=y", "").await.unwrap(), "configmap/one labeled\n");
    assert_eq!(kubectl.run("delete cm one", "").await.unwrap(), "configmap \"one\" deleted\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn validates_explains_and_applies_by_openapi() {
    let api = Api::new().await;
    let Some(kubectl) = Kubectl::serve(&api).await else { return };
    let manifest = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: default\nspec:\n  replicas: 1\n  selector:\n    matchLabels: {app: web}\n  template:\n    metadata:\n      labels: {app: web}\n    spec:\n      containers:\n      - name: web\n        image: nginx\n";
    assert_eq!(kubectl.run("apply -f -", manifest).await.unwrap(), "deployment.apps/web created\n");
    assert_eq!(kubectl.run("apply -f -", manifest).await.unwrap(), "deployment.apps/web unchanged\n");
    let more = manifest.replace("replicas: 1", "replicas: 3");
    let diff = kubectl.run("diff -f -", &more).await.unwrap_err();
    assert!(diff.contains("+  replicas: 3"), "{diff}");
    assert_eq!(kubectl.run("apply -f -", &more).await.unwrap(), "deployment.apps/web configured\n");
    assert_eq!(
        kubectl.run("apply --server-side --force-conflicts -f -", &more).await.unwrap(),
        "deployment.apps/web serverside-applied\n"
    );
    assert_eq!(kubectl.run("scale deployment web --replicas=5", "").await.unwrap(), "deployment.apps/web scaled\n");
    let typo = manifest.replace("replicas: 1", "replicsa: 1");
    let refused = kubectl.run("apply --validate=strict -f -", &typo).await.unwrap_err();
    assert!(refused.contains("unknown field \"spec.replicsa\""), "{refused}");
    let explained = kubectl.run("explain deployment.spec.template.spec.containers.ports", "").await.unwrap();
    assert!(explained.contains("containerPort\t<integer>"), "{explained}");
    assert!(explained.contains("-required-"), "{explained}");
}
