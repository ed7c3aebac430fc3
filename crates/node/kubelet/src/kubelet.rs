//! The running kubelet: informers feed actors, the node reports.

use crate::cgroups::{self, PodCgroupError, PodCgroups};
use crate::images_gc::{self, ImageCollector};
use crate::metrics::Metrics;
use crate::node::{Machine, Node};
use crate::pod::container;
use crate::pod::resources::Requests;
use crate::pod::spec::Pod;
use crate::pressure::{Observe, Pressure, Rules};
use crate::pull_records::PullRecords;
use crate::rotation;
use crate::shared::Shared;
use crate::source::Pods;
use crate::static_pods::{self, StaticPods};
use crate::stats::Rates;
use crate::volumes::Volumes;
use parking_lot::{Mutex, RwLock};
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::events::Recorder;
use skiff_client::{Client, Informer, InformerOptions, Tree};
use skiff_cri::{ImageService, RuntimeService, v1};
use skiff_linux::cgroup::Hierarchy;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the directory of static pods is looked at: one `stat` for each file.
const STATIC_PODS: Duration = Duration::from_secs(1);

/// How often what nobody wants is looked for.
const ORPHANS: Duration = Duration::from_secs(60);

/// How much blocking work is done at once.
const BLOCKING: usize = 8;

/// What a kubelet is told. [`Config::default`] has upstream's defaults.
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
    /// Directory of links to the logs of containers; `None` for none.
    pub log_links: Option<PathBuf>,
    /// Rotation of logs.
    pub log_rotation: rotation::Policy,
    /// The machine's cgroups; `None` where pods get none of their own from the kubelet.
    pub cgroups: Option<Hierarchy>,
    /// Most processes of a pod (`podPidsLimit`); negative is unlimited. Upstream's default is unlimited: a fork bomb
    /// would take the whole node.
    pub pod_pids_limit: i64,
    /// When pods are evicted.
    pub eviction: Rules,
    /// What of the machine is not for pods (`systemReserved` and `kubeReserved` together).
    pub reserved: Requests,
    /// When images are collected.
    pub image_gc: images_gc::Policy,
    /// Says what there is of the node's resources; `None` looks at the machine.
    pub observe: Option<Observe>,
    /// Sysctls that pods may set beyond the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Time.
    pub clock: SharedClock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            root: PathBuf::from("/var/lib/kubelet"),
            static_pods: None,
            node_ips: Vec::new(),
            node_labels: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            cgroup_root: "/kubepods".to_owned(),
            max_pods: 110,
            port: 10250,
            version: String::new(),
            log_root: "/var/log/pods".to_owned(),
            log_links: Some(PathBuf::from("/var/log/containers")),
            log_rotation: rotation::Policy::default(),
            cgroups: None,
            pod_pids_limit: 4096,
            eviction: Rules::default(),
            reserved: Requests::default(),
            image_gc: images_gc::Policy::default(),
            observe: None,
            allowed_unsafe_sysctls: Vec::new(),
            clock: SystemClock::shared(),
        }
    }
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
    /// The pods' cgroups cannot be made.
    #[error("making the cgroups of pods: {0}")]
    Cgroups(#[from] PodCgroupError),
    /// More is reserved than there is.
    #[error("{0} is reserved than the machine has: see --kube-reserved, --system-reserved, --eviction-hard")]
    Reserved(String),
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
        let pull_records = PullRecords::open(&config.root).map_err(io("reading the records of pulled images"))?;
        let mut machine = Machine::read(&config.root, config.max_pods).map_err(io("reading the machine"))?;
        machine.reserve(config.reserved, &config.eviction.thresholds).map_err(StartError::Reserved)?;
        let for_pods = machine.without_reserved();
        let version = runtime.version(v1::VersionRequest { version: "v1".to_owned() }).await?;
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let services = Informer::<Tree>::new(
            client.all("", "v1", "services"),
            InformerOptions::default(),
            Arc::clone(&config.clock),
        )
        .spawn(supervisor);
        let cgroups = match &config.cgroups {
            Some(hierarchy) if cgroups::driver_is_ours(&*runtime).await => {
                let cgroups = PodCgroups::new(hierarchy.clone(), &config.cgroup_root, config.pod_pids_limit);
                cgroups.prepare(for_pods.milli_cpu, for_pods.memory)?;
                Some(cgroups)
            }
            Some(_) => {
                tracing::warn!("the runtime uses systemd's cgroups: limits of pods as a whole are not set");
                None
            }
            None => None,
        };
        let capacity = machine.pod_capacity();
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
                log_links: config.log_links.clone(),
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
            allocatable: (capacity.allocatable.milli_cpu, capacity.allocatable.memory),
            capacity: RwLock::new(capacity),
            admitted: Mutex::default(),
            host_ports: Mutex::default(),
            unsafe_sysctls: config.allowed_unsafe_sysctls.clone(),
            cgroups: cgroups.clone(),
            blocking: Arc::new(tokio::sync::Semaphore::new(BLOCKING)),
            pull_records: Arc::new(pull_records),
            metrics: Metrics::new(&config.node_name),
            rates: Rates::default(),
            node_changed: tokio::sync::Notify::new(),
            configuration: crate::server::configuration(&config),
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
        supervisor.spawn_abortable(
            "log rotation",
            OnFailure::EndComponent,
            rotation::run(Arc::clone(&shared), config.log_rotation),
        );
        let images = Arc::new(ImageCollector::new(Arc::clone(&shared), Arc::clone(&pods), config.image_gc));
        let collect = Arc::clone(&images).run();
        supervisor.spawn_abortable("image collection", OnFailure::EndComponent, collect);
        let (rules, observe) = (config.eviction.clone(), config.observe.clone());
        let pressure = Pressure::new(Arc::clone(&shared), Arc::clone(&pods), images, rules, observe);
        supervisor.spawn_abortable("eviction", OnFailure::EndComponent, pressure.run());
        let known = Arc::new(tokio::sync::Notify::new());
        if let Some(cgroups) = cgroups {
            let (keeper, known) = (Arc::clone(&pods), Arc::clone(&known));
            supervisor.spawn_abortable("pod cgroups", OnFailure::EndComponent, async move {
                // Until the sources are known, the cgroup of every running pod looks like nobody's.
                known.notified().await;
                keeper.keep_cgroups(cgroups).await;
            });
        }
        follow_api(&client, &config, &shared, &pods, known, supervisor);
        Ok(Self { shared, pods })
    }
}

/// Watches the pods that are bound here, and static manifests; then ends what nobody wants and notifies `known`.
fn follow_api(
    client: &Client,
    config: &Config,
    shared: &Arc<Shared>,
    pods: &Arc<Pods>,
    known: Arc<tokio::sync::Notify>,
    supervisor: &Supervisor,
) {
    let options =
        InformerOptions { field_selector: format!("spec.nodeName={}", config.node_name), ..InformerOptions::default() };
    let mirrors = Arc::new(tokio::sync::Notify::new());
    let handler = {
        let (pods, mirrors) = (Arc::clone(pods), Arc::clone(&mirrors));
        move |delta: &skiff_client::informer::Delta<'_, Tree>| {
            let pod = |item: &skiff_client::informer::Item<Tree>| Pod(Arc::clone(&item.value.0));
            if [delta.old, delta.new].into_iter().flatten().any(|item| pod(item).is_mirror()) {
                mirrors.notify_one();
                return;
            }
            match (delta.old, delta.new) {
                (Some(old), Some(new)) if pod(old).uid() != pod(new).uid() => {
                    // Deleted and made again while nobody looked.
                    pods.gone(pod(old));
                    pods.set(pod(new));
                }
                (_, Some(new)) => pods.set(pod(new)),
                (Some(old), None) => pods.gone(pod(old)),
                (None, None) => (),
            }
        }
    };
    let bound = Informer::<Tree>::new(client.all("", "v1", "pods"), options, Arc::clone(&config.clock))
        .on_change(handler)
        .spawn(supervisor);
    let mut statics = StaticPods::new(config.static_pods.clone(), Arc::clone(shared), Arc::clone(pods));
    let (shared, pods) = (Arc::clone(shared), Arc::clone(pods));
    supervisor.spawn_abortable("pod sources", OnFailure::EndComponent, async move {
        // Static pods do not wait for the API: it may be one of them.
        statics.read(&BTreeMap::new());
        let interval = if statics.is_used() { STATIC_PODS } else { Duration::from_secs(60) };
        let mut changes = pods.changes();
        let mut orphans: Option<Instant> = None;
        loop {
            if bound.is_synced() {
                pods.set_known();
                let now = shared.clock.now();
                if orphans.is_none_or(|at| now.duration_since(at) >= ORPHANS) {
                    match pods.end_orphans().await {
                        Ok(()) => {
                            orphans = Some(now);
                            known.notify_one();
                        }
                        Err(error) => tracing::warn!(%error, "orphaned pods not ended yet"),
                    }
                }
                statics.mirror(&bound).await;
            }
            tokio::select! {
                () = mirrors.notified() => (),
                () = bound.synced(), if !bound.is_synced() => (),
                Ok(()) = changes.changed() => (),
                () = shared.clock.sleep(interval) => (),
            }
            statics.read(&static_pods::mirrors(&bound));
        }
    });
}
