//! A cluster in memory: the API server behind its first filter, the controllers under their own identities, and a node
//! that runs nothing but says what a kubelet would say.

use skiff_base::clock::SystemClock;
use skiff_base::pki::Signer;
use skiff_base::task::OnFailure;
use skiff_client::{Api, Client, Informer, InformerOptions, Patch, Tree, WriteOptions};
use skiff_controllers::certificates::Signing;
use skiff_controllers::context::Clients;
use skiff_controllers::manager;
use skiff_machinery::{Value, list, object};
use skiff_testkit::cluster::Door;
use skiff_testkit::until;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

struct Identities(Door);

impl Clients for Identities {
    fn manager(&self) -> Client {
        self.0.client("system:kube-controller-manager", &[])
    }
    fn controller(&self, name: &'static str) -> Client {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        self.0.client(&format!("system:serviceaccount:kube-system:{name}"), &groups)
    }
}

/// A running cluster; it ends when it is dropped.
pub(crate) struct Cluster(skiff_testkit::cluster::Cluster);

impl Deref for Cluster {
    type Target = skiff_testkit::cluster::Cluster;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Cluster {
    /// The API server alone.
    pub(crate) async fn start() -> Self {
        Self(skiff_testkit::cluster::Cluster::start().await)
    }

    /// With all controllers and a node `n1`, and with the namespace `shop`.
    pub(crate) async fn with_controllers() -> Self {
        let cluster = Self::start().await;
        cluster.spawn_controllers();
        cluster.spawn_node("n1").await;
        cluster.namespace("shop").await;
        cluster
    }

    /// The authority that the server believes.
    fn signer(&self) -> Signer {
        let read = |file: &str| std::fs::read_to_string(self.directory.path().join("pki").join(file)).unwrap();
        Signer::new(Path::new("ca.key"), &read("ca.crt"), &read("ca.key")).unwrap()
    }

    pub(crate) fn spawn_controllers(&self) {
        let config = manager::Config {
            elector: None,
            root_ca: "-----BEGIN CERTIFICATE-----".into(),
            signing: Some(Signing { signer: Arc::new(self.signer()), duration: Duration::from_secs(24 * 60 * 60) }),
            cluster_cidrs: Vec::new(),
            terminated_pod_gc_threshold: 12_500,
            clock: SystemClock::shared(),
        };
        let metrics = skiff_client::ClientMetrics::register(&skiff_base::metrics::Registry::new());
        manager::spawn_measured(
            Arc::new(Identities(self.door())),
            config,
            metrics,
            &self.supervisor.child("controllers"),
        );
    }

    /// A namespace, once it has its default account.
    pub(crate) async fn namespace(&self, name: &str) {
        self.create(&self.all("", "v1", "namespaces"), object! { "metadata": object! { "name": name } }).await;
        let accounts = self.api("", "v1", "serviceaccounts", name);
        self.until("the default account", || async { accounts.fetch_optional("default").await.unwrap().is_some() })
            .await;
    }

    pub(crate) fn pods(&self) -> Api {
        self.api("", "v1", "pods", "shop")
    }
    pub(crate) fn jobs(&self) -> Api {
        self.api("batch", "v1", "jobs", "shop")
    }

    /// Waits until it holds.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFnMut() -> bool) {
        until(what, holds).await;
    }

    /// A node that binds every pod to itself, says that it is ready, and lets it go when it is deleted. A pod with the
    /// annotation `test/ends: 0,1,never` ends with the exit code for its index instead.
    pub(crate) async fn spawn_node(&self, name: &'static str) {
        let node = object! {
            "metadata": object! { "name": name, "labels": object! { "kubernetes.io/hostname": name } },
        };
        self.create(&self.all("", "v1", "nodes"), node).await;
        let ready = list![object! { "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z" }];
        self.set_status(&self.all("", "v1", "nodes"), name, object! { "conditions": ready }).await;
        let (told, mut changes) = tokio::sync::mpsc::unbounded_channel::<Arc<Value>>();
        let all = self.all("", "v1", "pods");
        Informer::<Tree>::new(all.clone(), InformerOptions::default(), SystemClock::shared())
            .on_change(move |delta| {
                if let Some(new) = delta.new {
                    // The receiver lives as long as the cluster.
                    drop(told.send(Arc::clone(&new.value.0)));
                }
            })
            .spawn(&self.supervisor);
        let client = self.client.clone();
        self.supervisor.spawn_abortable("node", OnFailure::EndComponent, async move {
            let mut next = 0u32;
            while let Some(pod) = changes.recv().await {
                next += 1;
                let pods = client.namespaced("", "v1", "pods", pod.str_at(&["metadata", "namespace"]));
                // A pod that changed meanwhile comes again.
                if let Err(error) = live(&pods, &pod, name, next).await
                    && !error.is_not_found()
                    && !error.is_conflict()
                {
                    panic!("node {name}: {error}");
                }
            }
        });
    }
}

/// One step of a pod's life on the node.
async fn live(pods: &Api, pod: &Value, node: &str, number: u32) -> Result<(), skiff_client::ClientError> {
    let pod_name = pod.str_at(&["metadata", "name"]);
    let options = WriteOptions::default();
    let bound = pod.str_at(&["spec", "nodeName"]);
    if pod.at(&["metadata", "deletionTimestamp"]).is_some() {
        let mut now = skiff_client::api::delete_options(pod.str_at(&["metadata", "uid"]), "");
        now.as_object_mut().unwrap().insert("gracePeriodSeconds", 0);
        return pods.delete(pod_name, Some(&now)).await.map(drop);
    }
    if bound.is_empty() {
        let binding = object! {
            "apiVersion": "v1", "kind": "Binding", "metadata": object! { "name": pod_name },
            "target": object! { "kind": "Node", "name": node },
        };
        return pods.create_subresource(pod_name, "binding", &binding, &options).await.map(drop);
    }
    if bound != node || pod.str_at(&["status", "phase"]) != "Pending" {
        return Ok(());
    }
    let index: usize =
        pod.str_at(&["metadata", "labels", "batch.kubernetes.io/job-completion-index"]).parse().unwrap_or(0);
    let codes: Vec<&str> = pod.str_at(&["metadata", "annotations", "test/ends"]).split(',').collect();
    let status = match codes[index.min(codes.len() - 1)] {
        "" | "never" => running(number),
        code => ended(code.parse().unwrap()),
    };
    let patch = object! { "metadata": object! { "uid": pod.str_at(&["metadata", "uid"]) }, "status": status };
    pods.patch(pod_name, "status", &Patch::Merge(&patch), &options).await.map(drop)
}

pub(crate) fn running(number: u32) -> Value {
    let ip = format!("10.0.{}.{}", number / 250 % 250, number % 250 + 1);
    object! {
        "phase": "Running", "podIP": ip.as_str(), "podIPs": list![object! { "ip": ip.as_str() }],
        "conditions": list![object! {
            "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }
}

/// The status of a pod whose container `c` ended with `code`.
pub(crate) fn ended(code: i64) -> Value {
    object! {
        "phase": if code == 0 { "Succeeded" } else { "Failed" },
        "containerStatuses": list![object! {
            "name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": object! { "terminated": object! {
                "exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
                "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z",
            } },
        }],
    }
}

/// A template whose pods carry `app: NAME`.
pub(crate) fn template(app: &str) -> Value {
    object! {
        "metadata": object! { "labels": object! { "app": app } },
        "spec": object! { "containers": list![object! { "name": "c", "image": "i" }] },
    }
}

/// A Job with `spec`, whose pods end as `ends` says.
pub(crate) fn job(name: &str, ends: &str, spec: Value) -> Value {
    let mut spec = spec;
    let template = object! {
        "metadata": object! { "annotations": object! { "test/ends": ends } },
        "spec": object! { "restartPolicy": "Never", "containers": list![object! { "name": "c", "image": "i" }] },
    };
    spec.as_object_mut().unwrap().insert("template", template);
    object! { "apiVersion": "batch/v1", "kind": "Job", "metadata": object! { "name": name }, "spec": spec }
}

/// A Deployment of `replicas` pods.
pub(crate) fn deployment(name: &str, replicas: i64) -> Value {
    object! {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": object! { "name": name },
        "spec": object! {
            "replicas": replicas,
            "selector": object! { "matchLabels": object! { "app": name } },
            "template": template(name),
        },
    }
}
