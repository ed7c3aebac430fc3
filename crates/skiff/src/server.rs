//! `skiff server`: a validated [`Config`], then build (take the directory, keys, ports), spawn, serve, drain.
//!
//! The order of building matters. The store comes first, because its lock proves that no other server writes below the
//! data directory; then keys; then the API server, which binds its port before it reads anything; then what talks to it.

use crate::claim;
use crate::components::alone::give_back;
use crate::components::serving::Telling;
use crate::components::{Election, controller_manager, proxy, scheduler};
use crate::config::{Config, Controllers, Flags, Node};
use crate::inprocess::Door;
use crate::keep::keep;
use crate::preflight::{self, ThisMachine};
use crate::progress::{human, waited};
use crate::renewal::{Kept, KubeletServing, Renewal, Shown};
use crate::signals::Signals;
use crate::usage::UsageError;
use crate::{addons, agent};
use anyhow::Context;
use parking_lot::Mutex;
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::pki::{self, Client as PkiClient, Pair, Pki, PkiError, ServerNames};
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::Client;
use skiff_client::delegated::{ClientCa, Delegated};
use skiff_client::leader::LeaderElector;
use skiff_controllers::certificates::Signing;
use skiff_machinery::Value;
use skiff_net::tls::Identity;
use skiff_server::registry::Registry;
use skiff_server::server::{ApiServer, Identities, ServerConfig, ServerError};
use skiff_store::StoreError;
use skiff_store::embedded::{Embedded, Options as StoreOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads pods, namespaces and policies for the pod network; its ClusterRole is `skiff:network-policy`.
const POLICY_USER: &str = "skiff:network-policy";

/// Threads by purpose: a flood of LISTs on the API's cannot make a controller miss its lease.
struct Runtimes {
    api: tokio::runtime::Runtime,
    control: tokio::runtime::Runtime,
    node: tokio::runtime::Runtime,
}

fn runtime(name: &'static str, threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().thread_name(name).build()
}

/// Runs until a signal ends it.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    let config = Config::new(flags)?;
    crate::telemetry(&config.log);
    let mut only = Vec::new();
    if let Some(node) = &config.node {
        preflight::rights()?;
        only.push(claim::claim(claim::NODE, ", or leave it out here with --disable-agent")?);
        if node.proxy.is_some() {
            only.push(claim::claim(claim::PROXY, ", or leave it out here with --disable kube-proxy")?);
        }
    }
    let runtimes = Runtimes { api: runtime("api", 2)?, control: runtime("control", 2)?, node: runtime("node", 2)? };
    let owners = Owners::new(&runtimes);
    let outcome = runtimes.api.block_on(serve(config, owners));
    drop(only);
    outcome
}

/// Who owns the tasks of each floor. The API's ends last, because the others give back their leases through it.
struct Owners {
    api: Supervisor,
    control: Supervisor,
    node: Supervisor,
}

impl Owners {
    fn new(runtimes: &Runtimes) -> Self {
        let token = tokio_util::sync::CancellationToken::new();
        let below = || token.child_token();
        Self {
            api: Supervisor::on("server", runtimes.api.handle().clone(), token.clone()),
            control: Supervisor::on("control", runtimes.control.handle().clone(), below()),
            node: Supervisor::on("node", runtimes.node.handle().clone(), below()),
        }
    }
}

async fn serve(config: Config, owners: Owners) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("listening to signals")?;
    // Asked to end before it is ready: nobody counts on it, and what there is of it is found again by the next start.
    let electors = tokio::select! {
        electors = start(config, &owners) => electors?,
        () = signals.next() => return Ok(()),
    };
    let asked = tokio::select! {
        () = owners.api.token().cancelled() => false,
        () = owners.node.token().cancelled() => false,
        () = owners.control.token().cancelled() => false,
        () = signals.next() => true,
    };
    tracing::info!("shutting down");
    tokio::select! {
        () = drain(&owners, &electors) => (),
        () = signals.next() => tracing::warn!("a second signal: ending at once"),
    }
    anyhow::ensure!(asked, "a part that everything stands on has ended; the log says which");
    Ok(())
}

/// Builds and starts everything, says that it is ready, and gives the leases that are to be given back at the end.
async fn start(config: Config, owners: &Owners) -> anyhow::Result<Vec<Arc<LeaderElector>>> {
    let clock = SystemClock::shared();
    let begun = clock.now();
    let machine = probe(&config);
    let plane = waited(&clock, "the API server", Plane::build(config, clock.clone(), &owners.api)).await?;
    let electors = plane.spawn_control(&owners.control)?;
    let mut kubelet = None;
    if let Some(node) = &plane.config.node {
        if let Some(machine) = machine {
            machine.await.context("looking at this machine")??;
        }
        kubelet = Some(waited(&clock, "the node", plane.spawn_node(node, &owners.node)).await?);
    }
    plane.write_kubeconfigs()?;
    plane.renewal(kubelet).spawn(&clock, &owners.api);
    plane.say_ready(begun);
    plane.follow_node(begun, &owners.api);
    Ok(electors)
}

/// Looks at the machine beside everything else: a start does not wait for it.
fn probe(config: &Config) -> Option<tokio::task::JoinHandle<Result<(), preflight::NotANode>>> {
    let node = config.node.as_ref()?;
    // Another runtime brings what it needs.
    if node.kubelet.runtime_endpoint.is_some() {
        return None;
    }
    let machine = ThisMachine::new(&config.data_dir);
    Some(tokio::task::spawn_blocking(move || preflight::machine(&machine)))
}

/// The node first, then control, then the API that both talk to.
async fn drain(owners: &Owners, electors: &[Arc<LeaderElector>]) {
    let mut late = owners.node.shutdown(Duration::from_secs(5)).await;
    let late_control = owners.control.shutdown(Duration::from_secs(5)).await;
    if late_control.is_empty() {
        for elector in electors {
            give_back(elector).await;
        }
    }
    late.extend(late_control);
    late.extend(owners.api.shutdown(Duration::from_secs(15)).await);
    if !late.is_empty() {
        tracing::warn!(?late, "some tasks did not end in time");
    }
}

/// The control plane as built.
struct Plane {
    config: Config,
    clock: SharedClock,
    pki: Pki,
    names: ServerNames,
    door: Door,
    address: SocketAddr,
    identities: Identities,
    identity: String,
}

impl Plane {
    async fn build(config: Config, clock: SharedClock, owner: &Supervisor) -> anyhow::Result<Self> {
        let store = open_store(&config.data_dir, &clock, owner)?;
        let names = ServerNames {
            node_name: config.node_name.clone(),
            cluster_domain: config.cluster_domain.clone(),
            service_ip: config.service_ip,
            addresses: vec![config.advertise],
            names: Vec::new(),
        };
        let pki = pki::ensure(&config.data_dir.join("pki"), &names, clock.wall()).map_err(explain_pki)?;
        let mut config = config;
        let server = build_api(&mut config, store, &pki, &clock, owner).await?;
        let plane = Self {
            address: server.address(),
            door: Door::new(Arc::clone(server.front()) as _),
            identities: server.identities().clone(),
            identity: identity(&config.data_dir, &config.node_name)?,
            names,
            pki,
            clock,
            config,
        };
        server.spawn(owner);
        Ok(plane)
    }

    fn elector(&self, client: &Client, election: Option<&Election>, telling: &Telling) -> Option<Arc<LeaderElector>> {
        let election = election?;
        let leases = client.namespaced("coordination.k8s.io", "v1", "leases", &election.namespace);
        let clock = Arc::clone(&self.clock);
        let elector = Arc::new(LeaderElector::new(leases, &election.name, &self.identity, election.timing, clock));
        telling.watch(&elector);
        Some(elector)
    }

    /// A component of this process on its way: what it tells, and the door at which its requests are counted.
    fn component(&self) -> (Telling, Door) {
        let telling = Telling::new(&self.clock);
        let host = self.url().trim_start_matches("https://").to_owned();
        let door = self.door.counted(&telling.client, host, &self.clock);
        (telling, door)
    }

    /// Who is let to a component's server is asked under its own name.
    fn delegated(&self, client: &Client) -> anyhow::Result<Delegated> {
        let ca = ClientCa::Pem(self.pki.ca.clone().into_bytes());
        Ok(Delegated::new(client.clone(), client.clone(), ca, Arc::clone(&self.clock))?)
    }

    /// Starts scheduler and controllers, and gives the leases that are to be given back.
    fn spawn_control(&self, owner: &Supervisor) -> anyhow::Result<Vec<Arc<LeaderElector>>> {
        let _on_its_threads = owner.runtime().enter();
        let scheduler = self.config.scheduler.as_ref().map(|options| self.spawn_scheduler(options, owner));
        let controllers =
            self.config.controllers.as_ref().map(|controllers| self.spawn_controllers(controllers, owner));
        let electors = [scheduler.transpose()?, controllers.transpose()?];
        Ok(electors.into_iter().flatten().flatten().collect())
    }

    fn spawn_scheduler(
        &self,
        options: &scheduler::Options,
        owner: &Supervisor,
    ) -> anyhow::Result<Option<Arc<LeaderElector>>> {
        let (telling, door) = self.component();
        let client = door.client("system:kube-scheduler", &[], "kube-scheduler");
        let elector = self.elector(&client, options.election.as_ref(), &telling);
        options.serving.spawn("kube-scheduler", &telling, self.delegated(&client)?, &self.clock, owner)?;
        let (started, clock) = (elector.clone(), Arc::clone(&self.clock));
        let metrics = scheduler::metrics(&telling, &clock);
        keep(owner, "kube-scheduler", &self.clock, move |run| {
            scheduler::spawn(client.clone(), started.clone(), Arc::clone(&metrics), &clock, &run);
            std::future::ready(Ok(()))
        });
        Ok(elector)
    }

    fn spawn_controllers(
        &self,
        controllers: &Controllers,
        owner: &Supervisor,
    ) -> anyhow::Result<Option<Arc<LeaderElector>>> {
        let (telling, door) = self.component();
        let client = door.client("system:kube-controller-manager", &[], "kube-controller-manager");
        let options = &controllers.options;
        let elector = self.elector(&client, options.election.as_ref(), &telling);
        options.serving.spawn("kube-controller-manager", &telling, self.delegated(&client)?, &self.clock, owner)?;
        let setup = controller_manager::Setup {
            clients: Arc::new(door),
            ranges: controllers.ranges.clone(),
            root_ca: self.pki.ca.as_str().into(),
            signing: self
                .pki
                .signer()?
                .map(|signer| Signing { signer: Arc::new(signer), duration: options.signing_duration }),
            terminated_pods: options.terminated_pods,
            elector: elector.clone(),
            metrics: Arc::clone(&telling.client),
            clock: Arc::clone(&self.clock),
        };
        keep(owner, "kube-controller-manager", &self.clock, move |run| {
            controller_manager::spawn(&setup, &run);
            std::future::ready(Ok(()))
        });
        Ok(elector)
    }

    /// Starts kubelet, proxy and DNS, and gives what the kubelet's server shows.
    async fn spawn_node(&self, node: &Node, owner: &Supervisor) -> anyhow::Result<(Pair, Arc<Identity>)> {
        let options = &node.kubelet;
        let now = self.clock.wall();
        let dir = self.config.data_dir.join("kubelet/pki");
        let addresses = [self.config.advertise];
        let pair = match &options.tls {
            Some((certificate, key)) => crate::components::serving::read_pair(certificate, key)?,
            None => self.pki.kubelet_server(&dir, &self.config.node_name, &addresses, now).map_err(explain_pki)?,
        };
        let identity = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes())?;
        // All ports before anything is made on the machine: one that cannot be had leaves nothing behind.
        if let Some(proxy) = &node.proxy {
            proxy::check_ports(proxy)?;
        }
        let serving = {
            let _on_its_threads = owner.runtime().enter();
            agent::Serving {
                listener: options.listen.bind("kubelet")?,
                identity: Arc::clone(&identity),
                client_ca: self.pki.ca.clone().into_bytes(),
            }
        };
        let dns = vec![self.config.dns_ip.to_string()];
        let config = agent::Config {
            data_dir: self.config.data_dir.clone(),
            root: self.config.data_dir.join("kubelet"),
            node_name: self.config.node_name.clone(),
            addresses: addresses.to_vec(),
            labels: options.node_labels.clone(),
            max_pods: options.max_pods,
            tuning: options.tuning.clone(),
            cgroup_root: options.cgroup_root.clone(),
            runtime_endpoint: options.runtime_endpoint.clone(),
            cluster_dns: if options.cluster_dns.is_empty() { dns } else { options.cluster_dns.clone() },
            cluster_domain: self.config.cluster_domain.clone(),
            cluster_cidrs: self.config.cluster_cidrs.clone(),
            static_pods: options.static_pods.clone(),
        };
        let user = format!("system:node:{}", self.config.node_name);
        let client = self.door.client(&user, &["system:nodes"], "kubelet");
        // Started on the node's own threads, so that all its tasks live there.
        let (clock, tasks) = (Arc::clone(&self.clock), owner.clone());
        let started = owner.runtime().spawn(async move { agent::start(config, client, serving, &clock, &tasks).await });
        let own_image = started.await.context("starting the node")??;
        if let Some(options) = &node.proxy {
            let client = self.door.client("system:kube-proxy", &[], "kube-proxy");
            let options = Arc::new(options.clone());
            let (name, clock) = (self.config.node_name.clone(), Arc::clone(&self.clock));
            keep(owner, "kube-proxy", &self.clock, move |run| {
                let (client, options, name, clock) =
                    (client.clone(), Arc::clone(&options), name.clone(), Arc::clone(&clock));
                async move { proxy::spawn(&client, &options, &name, &clock, &run).await }
            });
        }
        // Another runtime has a pod network of its own, whose matter policies are.
        if options.runtime_endpoint.is_none() {
            let client = self.door.client(POLICY_USER, &[], "network-policy");
            let (name, clock) = (self.config.node_name.clone(), Arc::clone(&self.clock));
            keep(owner, "network policies", &self.clock, move |run| {
                let (client, name, clock) = (client.clone(), name.clone(), Arc::clone(&clock));
                async move { skiff_policy::server::spawn(&client, &name, clock, &run).map_err(Into::into) }
            });
        }
        if node.dns {
            self.install_dns(&own_image).await?;
        }
        Ok((pair, identity))
    }

    async fn install_dns(&self, image: &str) -> anyhow::Result<()> {
        let client = self.door.client("system:admin", &["system:masters"], "skiff");
        let api = SocketAddr::new(self.config.advertise, self.address.port()).to_string();
        let dns = self.config.dns_ip.to_string();
        addons::install_dns(&client, image, &dns, &self.config.cluster_domain, &api).await.context("installing DNS")
    }

    /// Where people and components on this machine reach the API server.
    fn url(&self) -> String {
        let bound = self.address.ip();
        let reached = if bound.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { bound };
        format!("https://{}", SocketAddr::new(reached, self.address.port()))
    }

    /// The administrator's, and one for each component that is left out here.
    fn kubeconfigs(&self) -> Vec<Kept> {
        let kept = |path, client| Kept { path, url: self.url(), client };
        let mut all = vec![kept(self.config.kubeconfig.clone(), PkiClient::admin())];
        for name in self.config.left_out() {
            // kubeadm's file names.
            let (file, client) = match name {
                "kube-scheduler" => ("scheduler.conf", PkiClient::scheduler()),
                "kube-controller-manager" => ("controller-manager.conf", PkiClient::controller_manager()),
                "kube-proxy" => ("kube-proxy.conf", PkiClient::proxy()),
                _ => ("kubelet.conf", PkiClient::kubelet(&self.config.node_name)),
            };
            all.push(kept(self.kubeconfig_dir().join(file), client));
        }
        all
    }

    fn write_kubeconfigs(&self) -> anyhow::Result<()> {
        for kept in self.kubeconfigs() {
            let written = self.pki.ensure_kubeconfig(&kept.path, &kept.url, &kept.client, self.clock.wall());
            let flag = if kept.path == self.config.kubeconfig { "--write-kubeconfig" } else { "--data-dir" };
            written.with_context(|| {
                format!("cannot write the kubeconfig {}; choose another place with {flag}", kept.path.display())
            })?;
        }
        if self.config.node.is_none() {
            // What a kubelet elsewhere shows: this server believes none but its own authority's.
            let (dir, now) = (self.kubeconfig_dir(), self.clock.wall());
            let addresses = [self.config.advertise];
            self.pki.kubelet_server(&dir, &self.config.node_name, &addresses, now).map_err(explain_pki)?;
        }
        Ok(())
    }

    /// Of components that are left out.
    fn kubeconfig_dir(&self) -> PathBuf {
        self.config.data_dir.join("kubeconfig")
    }

    fn renewal(&self, kubelet: Option<(Pair, Arc<Identity>)>) -> Renewal {
        // Files that somebody gave are theirs to renew.
        let given = self.config.node.as_ref().is_some_and(|node| node.kubelet.tls.is_some());
        let dir = match &self.config.node {
            Some(_) => self.config.data_dir.join("kubelet/pki"),
            None => self.kubeconfig_dir(),
        };
        Renewal {
            dir: self.pki.dir.clone(),
            names: self.names.clone(),
            serving: Arc::clone(&self.identities.serving),
            kubelet_client: Arc::clone(&self.identities.kubelet_client),
            front_proxy_client: Arc::clone(&self.identities.front_proxy_client),
            shown: Shown::of(&self.pki, kubelet.as_ref().map(|(pair, _)| pair)),
            kubelet: (!given).then(|| KubeletServing {
                dir,
                node: self.config.node_name.clone(),
                addresses: vec![self.config.advertise],
                identity: kubelet.map(|(_, identity)| identity),
            }),
            kubeconfigs: self.kubeconfigs(),
        }
    }

    /// Says on standard output what to type next.
    #[expect(clippy::print_stdout, reason = "what the user waits for")]
    fn say_ready(&self, begun: Instant) {
        let took = human(self.clock.now().duration_since(begun));
        tracing::info!(url = self.url(), took, "ready");
        let next = if self.config.node.is_some() { "nodes" } else { "namespaces" };
        println!(
            "skiff is ready ({took}). Next:\n  export KUBECONFIG={}\n  kubectl get {next}",
            self.config.kubeconfig.display()
        );
        for name in self.config.left_out() {
            tracing::debug!(component = name, "left out; its kubeconfig is below the data directory, in kubeconfig/");
        }
    }

    /// Says when node and DNS are ready, and what they wait for.
    fn follow_node(&self, begun: Instant, owner: &Supervisor) {
        let Some(node) = &self.config.node else { return };
        let client = self.door.client("system:admin", &["system:masters"], "skiff");
        let (clock, name, dns) = (Arc::clone(&self.clock), self.config.node_name.clone(), node.dns);
        owner.spawn_abortable("progress", OnFailure::Forget, async move {
            waited(&clock, "node ready", until_ready(&clock, || node_is_ready(&client, &name))).await;
            tracing::info!(node = name, took = human(clock.now().duration_since(begun)), "the node is ready");
            if dns {
                waited(&clock, "DNS ready", until_ready(&clock, || dns_is_ready(&client))).await;
                tracing::info!(took = human(clock.now().duration_since(begun)), "DNS is ready");
            }
        });
    }
}

/// Asks until it is so: often at first, then once a second.
async fn until_ready<F: Future<Output = bool>>(clock: &SharedClock, ask: impl Fn() -> F) {
    let mut pause = Duration::from_millis(50);
    while !ask().await {
        clock.sleep(pause).await;
        pause = (pause * 5 / 4).min(Duration::from_secs(1));
    }
}

fn condition(object: &Value, ty: &str) -> bool {
    let conditions = object.items_at(&["status", "conditions"]);
    conditions.iter().any(|one| one.str_at(&["type"]) == ty && one.str_at(&["status"]) == "True")
}

async fn node_is_ready(client: &Client, name: &str) -> bool {
    // An answer that does not come is asked for again.
    matches!(client.all("", "v1", "nodes").fetch_optional(name).await, Ok(Some(node)) if condition(&node, "Ready"))
}

async fn dns_is_ready(client: &Client) -> bool {
    let deployments = client.namespaced("apps", "v1", "deployments", "kube-system");
    matches!(deployments.fetch_optional(addons::DNS_NAME).await, Ok(Some(found)) if condition(&found, "Available"))
}

fn open_store(data_dir: &Path, clock: &SharedClock, owner: &Supervisor) -> anyhow::Result<Embedded> {
    let options = StoreOptions { clock: Arc::clone(clock), supervisor: Some(owner.clone()), ..StoreOptions::default() };
    Embedded::open(&data_dir.join("store"), options).map_err(|error| {
        let hint = match &error {
            StoreError::InUse { .. } => {
                "end that one, or give this one a directory and a port of its own: --data-dir, --secure-port"
            }
            _ => "see --data-dir",
        };
        anyhow::Error::new(error).context(format!("cannot open the store in {}; {hint}", data_dir.display()))
    })
}

async fn build_api(
    config: &mut Config,
    store: Embedded,
    pki: &Pki,
    clock: &SharedClock,
    owner: &Supervisor,
) -> anyhow::Result<ApiServer> {
    let unknown = Arc::new(Mutex::new(Vec::new()));
    let api = Arc::new(config.api.clone());
    let mut connections = skiff_net::server::Options::default();
    if let Some(streams) = api.max_streams {
        connections.max_streams = streams;
    }
    let server_config = ServerConfig {
        store: Arc::new(store),
        pki: pki.clone(),
        listen: config.listen.at,
        advertise_address: config.advertise,
        service_cidrs: config.service_cidrs.clone(),
        node_ports: api.node_ports,
        kubernetes_service_ip: config.service_ip,
        issuers: api.issuers.clone(),
        audiences: api.audiences.clone(),
        token_file: config.token_file.take(),
        anonymous: api.anonymous.clone(),
        runtime_config: config.runtime_config.clone(),
        limits: api.limits,
        front: api.front.clone(),
        connections,
        admission: {
            let (clock, unknown, api) = (Arc::clone(clock), Arc::clone(&unknown), Arc::clone(&api));
            let tasks = owner.clone();
            Box::new(move |registry: &Arc<Registry>| {
                let reader = Arc::clone(registry) as _;
                let all = skiff_server::admission::default_plugins(&reader, &clock);
                let all = skiff_server::admission::with_webhooks(all, &reader, &tasks);
                let (chosen, names) = api.choose_plugins(all);
                *unknown.lock() = names;
                chosen
            })
        },
        clock: Arc::clone(clock),
    };
    let server = ApiServer::build(server_config, owner).await.map_err(|error| explain_api(error, config, pki))?;
    let unknown = unknown.lock();
    let wrong = unknown
        .iter()
        .map(|name| format!("--kube-apiserver-arg: {name:?} is no admission plug-in that is built and can be chosen"));
    UsageError::all(wrong.collect())?;
    Ok(server)
}

fn explain_api(error: ServerError, config: &Config, pki: &Pki) -> anyhow::Error {
    match error {
        ServerError::Bind(error) => config.listen.explain("the API server", error).into(),
        ServerError::RuntimeConfig(_) => UsageError::one(error.to_string()).into(),
        ServerError::ServiceAccountKeys(_) => anyhow::Error::new(error).context(format!(
            "{dir}/sa.key and {dir}/sa.pub are no usable pair of keys; put the right ones there, or move them away to \
             have them made again (every service account token is then void)",
            dir = pki.dir.display()
        )),
        ServerError::Tls(_) => anyhow::Error::new(error).context(format!(
            "a certificate in {dir} cannot be used; move apiserver.* and apiserver-kubelet-client.* away from there to \
             have them made again",
            dir = pki.dir.display()
        )),
        error => error.into(),
    }
}

fn explain_pki(error: PkiError) -> anyhow::Error {
    let hint = match &error {
        PkiError::File { .. } => "keys and certificates cannot be kept; see --data-dir",
        PkiError::Broken { .. } => {
            "a key or certificate is damaged or not this cluster's; nothing was changed, so the right file can be put back"
        }
        _ => "keys and certificates cannot be brought in order",
    };
    anyhow::Error::new(error).context(hint)
}

/// Identity for leader election: the node's name and a UUID kept in the data directory. A restarted server takes its own
/// leases back at once; the directory's lock proves that its predecessor is dead.
fn identity(data_dir: &Path, node_name: &str) -> anyhow::Result<String> {
    let path = data_dir.join("identity");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(format!("{node_name}_{}", text.trim())),
        Ok(_) => (),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let fresh = uuid::Uuid::new_v4().to_string();
    std::fs::write(&path, &fresh).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(format!("{node_name}_{fresh}"))
}

/// Waits for a signal that asks for an end; for a process that is done when it comes.
pub(crate) async fn signalled() {
    match Signals::listen() {
        Ok(mut signals) => signals.next().await,
        // Without handlers the default action ends the process, which is what was asked for.
        Err(_) => std::future::pending().await,
    }
}
