//! Components alone against a server that leaves them out.

use crate::running::{Running, client, eventually, free_port, last_words, skiff, unchecked};
use skiff_base::task::Supervisor;
use skiff_client::{Client, ListOptions, WriteOptions};
use skiff_machinery::Value;
use skiff_machinery::codec::yaml;
use std::os::unix::process::CommandExt;
use std::path::Path;

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: hollow}
status:
  capacity: {cpu: '8', memory: 16Gi, pods: '110'}
  allocatable: {cpu: '8', memory: 16Gi, pods: '110'}
  conditions: [{type: Ready, status: 'True', reason: KubeletReady}]
";

fn deployment(name: &str, replicas: u32) -> Value {
    let text = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  replicas: \
         {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
         spec:\n      containers: [{{name: c, image: example.invalid/none}}]\n"
    );
    yaml::from_slice(text.as_bytes()).unwrap()
}

/// Pods of a Deployment, and to which node each is bound.
async fn bound(api: &Client, app: &str) -> Vec<String> {
    let options = ListOptions { label_selector: format!("app={app}"), ..ListOptions::default() };
    let page = api.namespaced("", "v1", "pods", "default").list(&options).await.unwrap();
    page.items.iter().map(|pod| pod.tree().str_at(&["spec", "nodeName"]).to_owned()).collect()
}

async fn all_bound(api: &Client, app: &str, count: usize) -> Option<()> {
    let bound = bound(api, app).await;
    (bound.len() == count && bound.iter().all(|node| node == "hollow")).then_some(())
}

async fn holder(api: &Client, lease: &str) -> Option<String> {
    let leases = api.namespaced("coordination.k8s.io", "v1", "leases", "kube-system");
    let lease = leases.fetch_optional(lease).await.unwrap()?;
    Some(lease.str_at(&["spec", "holderIdentity"]).to_owned())
}

fn server(dir: &Path) -> std::process::Command {
    let mut command = skiff();
    command.args(["server", "--disable-agent", "--secure-port=0", "--bind-address=127.0.0.1", "--node-name=hollow"]);
    command.arg(format!("--data-dir={}", dir.join("data").display()));
    command.arg(format!("--write-kubeconfig={}", dir.join("admin.conf").display()));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduler_and_controllers_alone_bring_a_deployment_to_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Supervisor::new("test");
    let mut command = server(dir.path());
    command.args(["--disable", "kube-scheduler,kube-controller-manager"]);
    let (server, said) = Running::server(&mut command, &dir.path().join("server.log"));
    assert!(said.contains(&format!("export KUBECONFIG={}", dir.path().join("admin.conf").display())), "{said}");
    for file in ["kube-proxy.conf", "kubelet.conf", "kubelet.crt", "kubelet.key"] {
        assert!(dir.path().join("data/kubeconfig").join(file).exists(), "{file} of a node elsewhere");
    }
    let api = client(&dir.path().join("admin.conf"), &owner);
    api.all("", "v1", "nodes")
        .create(&yaml::from_slice(NODE.as_bytes()).unwrap(), &WriteOptions::default())
        .await
        .unwrap();
    let deployments = api.namespaced("apps", "v1", "deployments", "default");
    deployments.create(&deployment("first", 3), &WriteOptions::default()).await.unwrap();

    let conf = |file: &str| format!("--kubeconfig={}", dir.path().join("data/kubeconfig").join(file).display());
    let health = free_port();
    let mut command = skiff();
    command.args(["kube-controller-manager", &conf("controller-manager.conf"), "--use-service-account-credentials"]);
    command.args([&format!("--secure-port={health}"), "--bind-address=127.0.0.1", "-v=4"]);
    let manager = Running::start(&mut command, &dir.path().join("manager.log"));
    eventually("pods of the Deployment", &[&server, &manager], async || {
        (bound(&api, "first").await.len() == 3).then_some(())
    })
    .await;
    assert!(bound(&api, "first").await.iter().all(String::is_empty), "nobody schedules yet");
    let accounts = api.namespaced("", "v1", "serviceaccounts", "kube-system");
    assert!(accounts.fetch_optional("replicaset-controller").await.unwrap().is_some(), "each acts as itself");

    let mut command = skiff();
    command.args(["kube-scheduler", &conf("scheduler.conf"), "--secure-port=0", "--leader-elect-lease-duration=12s"]);
    let scheduler = Running::start(&mut command, &dir.path().join("scheduler.log"));
    eventually("bound pods", &[&server, &scheduler], async || all_bound(&api, "first", 3).await).await;
    let first_holder = holder(&api, "kube-scheduler").await.unwrap();
    assert!(!first_holder.is_empty());

    // Its lease is given back at the end, and one by the executable's name takes over.
    assert!(scheduler.terminate().success());
    assert_eq!(holder(&api, "kube-scheduler").await.as_deref(), Some(""), "given back");
    deployments.create(&deployment("second", 2), &WriteOptions::default()).await.unwrap();
    let mut command = skiff();
    command.arg0("/usr/bin/kube-scheduler").args([&conf("scheduler.conf"), "--secure-port=0"]);
    let scheduler = Running::start(&mut command, &dir.path().join("second.log"));
    eventually("bound pods", &[&server, &manager, &scheduler], async || all_bound(&api, "second", 2).await).await;
    assert_ne!(holder(&api, "kube-scheduler").await, Some(first_holder));

    // The lonely manager tells its health to everybody and its metrics to whom the API server lets.
    let token = |account: &'static str| {
        let request =
            yaml::from_slice(b"{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}").unwrap();
        let accounts = api.namespaced("", "v1", "serviceaccounts", "default");
        async move {
            let made = accounts.create_subresource(account, "token", &request, &WriteOptions::default()).await.unwrap();
            made.str_at(&["status", "token"]).to_owned()
        }
    };
    let token = token("default").await;
    let nobody = unchecked(dir.path(), health, &token, &owner);
    let wrong = unchecked(dir.path(), health, "wrong", &owner);
    assert_eq!(nobody.get_text("/healthz").await.unwrap(), "ok");
    let told = nobody.get_text("/livez?verbose").await.unwrap();
    assert_eq!(told, "[+]ping ok\n[+]leaderElection ok\nlivez check passed\n");
    let refused = nobody.get_text("/metrics").await.unwrap_err();
    assert!(refused.to_string().contains("system:serviceaccount:default:default"), "{refused}");
    assert!(wrong.get_text("/metrics").await.unwrap_err().to_string().contains("Unauthorized"));
    let rules = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reads-metrics}
rules: [{nonResourceURLs: [/metrics], verbs: [get]}]
";
    let binding = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reads-metrics}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reads-metrics}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
";
    for (resource, text) in [("clusterroles", rules), ("clusterrolebindings", binding)] {
        let object = yaml::from_slice(text.as_bytes()).unwrap();
        let objects = api.all("rbac.authorization.k8s.io", "v1", resource);
        objects.create(&object, &WriteOptions::default()).await.unwrap();
    }
    let metrics = eventually("metrics", &[&manager], async || nobody.get_text("/metrics").await.ok()).await;
    assert!(metrics.contains("leader_election_master_status{name=\"kube-controller-manager\"} 1"), "{metrics}");
    assert!(metrics.contains("process_resident_memory_bytes"), "{metrics}");
    assert!(metrics.contains("workqueue_adds_total{name=\"replicaset\"}"), "{metrics}");
    assert!(metrics.contains("rest_client_requests_total{code=\"201\",host=\"127.0.0.1:"), "{metrics}");

    assert!(manager.terminate().success());
    assert!(server.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_takes_its_components_flags_and_two_servers_live_side_by_side() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let owner = Supervisor::new("test");
    let port = free_port();
    let mut command = server(first.path());
    command.arg(format!("--kube-scheduler-arg=secure-port={port}"));
    command.args([
        "--kube-scheduler-arg",
        "leader-elect-resource-name=mine",
        "--kube-apiserver-arg=anonymous-auth=false",
    ]);
    let (one, _) = Running::server(&mut command, &first.path().join("log"));
    let (two, _) = Running::server(&mut server(second.path()), &second.path().join("log"));
    let api = client(&first.path().join("admin.conf"), &owner);
    eventually("the scheduler's own lease", &[&one], async || holder(&api, "mine").await).await;
    assert_eq!(holder(&api, "kube-scheduler").await, None);
    let nobody = unchecked(first.path(), port, "", &owner);
    assert_eq!(nobody.get_text("/healthz").await.unwrap(), "ok");
    let other = client(&second.path().join("admin.conf"), &owner);
    eventually("the other's lease", &[&two], async || holder(&other, "kube-scheduler").await).await;
    assert!(one.terminate().success() && two.terminate().success());
}

/// A kubeconfig with the words of one cluster and, for some of its keys, those of another.
fn mixed(of: &Path, with: &Path, keys: &[&str], to: &Path) {
    let other = std::fs::read_to_string(with).unwrap();
    let said = |key: &str| other.lines().find(|line| line.trim_start().starts_with(key)).unwrap().to_owned();
    let text = std::fs::read_to_string(of).unwrap();
    let lines = text.lines().map(|line| match keys.iter().find(|key| line.trim_start().starts_with(**key)) {
        Some(key) => said(key),
        None => line.to_owned(),
    });
    std::fs::write(to, lines.collect::<Vec<_>>().join("\n")).unwrap();
}

#[test]
fn credentials_of_another_cluster_end_a_component_with_what_to_do() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, _) = Running::server(&mut server(first.path()), &first.path().join("log"));
    let (two, _) = Running::server(&mut server(second.path()), &second.path().join("log"));
    let conf = |dir: &Path| dir.join("admin.conf");
    let (stranger, unknown) = (first.path().join("stranger.conf"), first.path().join("unknown.conf"));
    mixed(&conf(first.path()), &conf(second.path()), &["server:"], &stranger);
    let user = ["client-certificate-data:", "client-key-data:"];
    mixed(&conf(first.path()), &conf(second.path()), &user, &unknown);
    let why = [
        (stranger, "its certificate is of another authority; use the kubeconfig of that cluster"),
        (unknown, "does not accept the user of"),
    ];
    let listen = format!("--listen=127.0.0.1:{}", free_port());
    for component in
        [&["kube-scheduler", "--secure-port=0"], &["kube-controller-manager", "--secure-port=0"], &["dns", &listen]]
    {
        for (file, words) in &why {
            let (code, said) = last_words(skiff().args(component).arg(format!("--kubeconfig={}", file.display())));
            assert!(said.contains(words) && said.contains(&file.display().to_string()), "{component:?}: {said}");
            assert_eq!(code, 1, "{said}");
        }
    }
    assert!(one.terminate().success() && two.terminate().success());
}
