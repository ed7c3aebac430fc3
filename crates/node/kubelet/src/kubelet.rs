//! The running kubelet: informers feed actors, the node reports.

use crate::node::{Machine, Node};
use crate::pod::container;
use crate::pod::spec::Pod;
use crate::shared::Shared;
use crate::source::{Pods, static_pod};
use crate::volumes::Volumes;
use parking_lot::{Mutex, RwLock};
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::events::Recorder;
use skiff_client::{Client, Informer, InformerOptions, Tree, WriteOptions};
use skiff_cri::{ImageService, RuntimeService, v1};
use skiff_machinery::Value;
use skiff_machinery::codec::yaml;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a kubelet is told.
pub struct Config {
    /// Name of the node.
    pub node_name: String,
    /// Root directory (`--root-dir`).
    pub root: PathBuf,
    /// Directory of static pods; `None` for none.
    pub static_pods: Option<PathBuf>,
    /// Addresses of the node.
    pub node_ips: Vec<String>,
    /// Labels of the node beside the usual.
    pub node_labels: Vec<(String, String)>,
    /// DNS of the cluster.
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Root of the pods' cgroups.
    pub cgroup_root: String,
    /// Most pods.
    pub max_pods: i64,
    /// Port of the kubelet's server.
    pub port: u16,
    /// Version, as `v1.36.0`.
    pub version: String,
    /// Directory of pod logs.
    pub log_root: String,
    /// Time.
    pub clock: SharedClock,
}

/// Why a kubelet does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine cannot be read, or a directory not be made.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The runtime does not answer.
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[from] skiff_cri::CriError),
}

/// A kubelet that runs.
pub struct Kubelet {
    /// For its server.
    pub shared: Arc<Shared>,
    /// Its pods.
    pub pods: Arc<Pods>,
}

/// DNS of the host, from `/etc/resolv.conf`.
pub fn host_dns(text: &str) -> v1::DnsConfig {
    let mut dns = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let list = match words.next() {
            Some("nameserver") => &mut dns.servers,
            Some("search") => {
                dns.searches.clear();
                &mut dns.searches
            }
            Some("options") => &mut dns.options,
            _ => continue,
        };
        list.extend(words.map(str::to_owned));
    }
    dns
}

impl Kubelet {
    /// Starts a kubelet over a runtime under `supervisor`.
    pub async fn start(
        client: Client,
        runtime: Arc<dyn RuntimeService>,
        images: Arc<dyn ImageService>,
        config: Config,
        supervisor: &Supervisor,
    ) -> Result<Self, StartError> {
        let io = |step: &str| {
            let step = step.to_owned();
            move |source| StartError::Io { step, source }
        };
        crate::volumes::make_directory(&config.root, 0o750).map_err(io("making the root directory"))?;
        crate::volumes::make_directory(&config.root.join("pods"), 0o750).map_err(io("making the root directory"))?;
        let machine = Machine::read(&config.root, config.max_pods).map_err(io("reading the machine"))?;
        let version = runtime.version(v1::VersionRequest { version: "v1".to_owned() }).await?;
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let services = Informer::<Tree>::new(
            client.all("", "v1", "services"),
            InformerOptions::default(),
            Arc::clone(&config.clock),
        )
        .spawn(supervisor);
        let recorder =
            Recorder::spawn(client.clone(), "kubelet", &config.node_name, Arc::clone(&config.clock), supervisor);
        let shared = Arc::new(Shared {
            client: client.clone(),
            node_name: config.node_name.clone(),
            clock: Arc::clone(&config.clock),
            supervisor: supervisor.clone(),
            runtime,
            images,
            runtime_name: version.runtime_name.clone(),
            node: container::Node {
                log_root: config.log_root.clone(),
                cgroup_root: config.cgroup_root.clone(),
                memory_bytes: machine.memory_bytes,
                cluster_dns: config.cluster_dns.clone(),
                cluster_domain: config.cluster_domain.clone(),
                host_dns: host_dns(&resolv),
            },
            volumes: Volumes::new(&config.root),
            recorder,
            services,
            host_ips: RwLock::new(config.node_ips.clone()),
            allocatable: (machine.cpus * 1000, machine.memory_bytes),
            tokens: Mutex::default(),
        });
        let pods = Pods::new(Arc::clone(&shared));
        let runtime_version = format!("{}://{}", version.runtime_name, version.runtime_version);
        let node = Node::new(
            Arc::clone(&shared),
            machine,
            config.node_labels.clone(),
            config.version.clone(),
            runtime_version,
            config.port,
        );
        supervisor.spawn_abortable("node status", OnFailure::EndComponent, node.run());
        supervisor.spawn_abortable("runtime events", OnFailure::EndComponent, Arc::clone(&pods).follow_runtime());
        follow_api(&client, &config, &shared, &pods, supervisor);
        Ok(Self { shared, pods })
    }
}

/// Watches the pods that are bound here, and static manifests; then ends what nobody wants.
fn follow_api(client: &Client, config: &Config, shared: &Arc<Shared>, pods: &Arc<Pods>, supervisor: &Supervisor) {
    let options =
        InformerOptions { field_selector: format!("spec.nodeName={}", config.node_name), ..InformerOptions::default() };
    let mirrors = Arc::new(tokio::sync::Notify::new());
    let handler = {
        let (pods, mirrors, shared) = (Arc::clone(pods), Arc::clone(&mirrors), Arc::clone(shared));
        move |delta: &skiff_client::informer::Delta<'_, Tree>| {
            let pod = |item: &skiff_client::informer::Item<Tree>| Pod(Arc::clone(&item.value.0));
            if [delta.old, delta.new].into_iter().flatten().any(|item| pod(item).is_mirror()) {
                mirrors.notify_one();
                return;
            }
            // The first list may arrive before Services are known, and variables would miss them.
            if !shared.services.is_synced()
                && delta.new.is_some_and(|new| new.value.at(&["status", "startTime"]).is_none())
            {
                tracing::debug!(pod = %delta.key, "services are not known yet");
            }
            match (delta.old, delta.new) {
                (_, Some(new)) => pods.set(pod(new)),
                (Some(old), None) => pods.gone(pod(old)),
                (None, None) => (),
            }
        }
    };
    let bound = Informer::<Tree>::new(client.all("", "v1", "pods"), options, Arc::clone(&config.clock))
        .on_change(handler)
        .spawn(supervisor);
    let statics = StaticPods {
        directory: config.static_pods.clone(),
        node_name: config.node_name.clone(),
        shared: Arc::clone(shared),
        pods: Arc::clone(pods),
        known: BTreeMap::new(),
    };
    let (shared, pods) = (Arc::clone(shared), Arc::clone(pods));
    supervisor.spawn_abortable("pod sources", OnFailure::EndComponent, async move {
        let mut statics = statics;
        statics.read();
        bound.synced().await;
        while let Err(error) = pods.end_orphans().await {
            tracing::warn!(%error, "orphaned pods not ended yet");
            shared.clock.sleep(Duration::from_secs(2)).await;
        }
        loop {
            statics.read();
            statics.mirror(&bound).await;
            tokio::select! {
                () = mirrors.notified() => (),
                () = shared.clock.sleep(Duration::from_secs(if statics.directory.is_some() { 2 } else { 60 })) => (),
            }
        }
    });
}

/// Static pods of a directory and their mirrors.
struct StaticPods {
    directory: Option<PathBuf>,
    node_name: String,
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    known: BTreeMap<String, Value>,
}

impl StaticPods {
    /// Reads the directory and directs the actors. A file that cannot be read keeps its pod as it was.
    fn read(&mut self) {
        let Some(directory) = self.directory.clone() else { return };
        let mut found = BTreeSet::new();
        for path in manifests(&directory) {
            let source = path.to_string_lossy().into_owned();
            let pod = std::fs::read(&path)
                .map_err(|error| error.to_string())
                .and_then(|bytes| yaml::from_slice(&bytes).map_err(|error| error.to_string()))
                .and_then(|tree| static_pod(&tree, &source, &self.node_name));
            match pod {
                Ok(pod) => {
                    let uid = pod.str_at(&["metadata", "uid"]).to_owned();
                    if !self.known.contains_key(&uid) {
                        self.pods.set(Pod(Arc::new(pod.clone())));
                        self.known.insert(uid.clone(), pod);
                    }
                    found.insert(uid);
                }
                Err(error) => {
                    tracing::warn!(path = source, error, "static pod not read");
                    return;
                }
            }
        }
        let gone: Vec<String> = self.known.keys().filter(|uid| !found.contains(*uid)).cloned().collect();
        for uid in gone {
            if let Some(pod) = self.known.remove(&uid) {
                self.pods.gone(Pod(Arc::new(pod)));
            }
        }
    }

    /// Brings the mirrors in the API to the static pods.
    async fn mirror(&self, bound: &skiff_client::Store<Tree>) {
        let mirrors: Vec<Pod> =
            bound.list().into_iter().map(|item| Pod(Arc::clone(&item.value.0))).filter(Pod::is_mirror).collect();
        for mirror in &mirrors {
            let current = self.known.values().any(|pod| {
                pod.str_at(&["metadata", "uid"]) == mirror.annotation(crate::names::CONFIG_MIRROR)
                    && pod.str_at(&["metadata", "name"]) == mirror.name()
            });
            if !current || mirror.is_deleted() {
                self.delete_mirror(mirror).await;
            }
        }
        for pod in self.known.values() {
            let name = pod.str_at(&["metadata", "name"]);
            let namespace = pod.str_at(&["metadata", "namespace"]);
            if !mirrors.iter().any(|mirror| mirror.name() == name && mirror.namespace() == namespace) {
                self.create_mirror(pod).await;
            }
        }
    }

    async fn create_mirror(&self, pod: &Value) {
        let nodes = self.shared.client.all("", "v1", "nodes");
        let node = match nodes.fetch(&self.node_name).await {
            Ok(node) => node,
            Err(error) => {
                tracing::debug!(%error, "mirror pod waits for its node");
                return;
            }
        };
        let mut mirror = pod.clone();
        let hash = pod.str_at(&["metadata", "uid"]).to_owned();
        if let Some(map) = mirror.as_object_mut() {
            let metadata = map.object_mut("metadata");
            metadata.remove("uid");
            metadata.object_mut("annotations").insert(crate::names::CONFIG_MIRROR, hash);
            let owner = skiff_machinery::object! {
                "apiVersion": "v1", "kind": "Node", "name": self.node_name.as_str(),
                "uid": node.str_at(&["metadata", "uid"]), "controller": true,
            };
            metadata.insert("ownerReferences", vec![owner]);
        }
        let pods = self.shared.client.namespaced("", "v1", "pods", pod.str_at(&["metadata", "namespace"]));
        match pods.create(&mirror, &WriteOptions::default()).await {
            Ok(_) => (),
            Err(error) if error.is_already_exists() => (),
            Err(error) => tracing::warn!(pod = pod.str_at(&["metadata", "name"]), %error, "mirror pod not made"),
        }
    }

    async fn delete_mirror(&self, mirror: &Pod) {
        let mut options = skiff_client::api::delete_options(mirror.uid(), "");
        if let Some(map) = options.as_object_mut() {
            map.insert("gracePeriodSeconds", 0);
        }
        let pods = self.shared.client.namespaced("", "v1", "pods", mirror.namespace());
        if let Err(error) = pods.delete(mirror.name(), Some(&options)).await
            && !error.is_not_found()
        {
            tracing::warn!(pod = mirror.name(), %error, "mirror pod not deleted");
        }
    }
}

fn manifests(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.is_file() && !hidden(path)).collect();
    paths.sort();
    paths
}
