//! A component alone: `skiff kube-scheduler --kubeconfig FILE` and its like, also by the executable's name.
//!
//! Flags to options, then clients, then the same start that the server uses; at the end tasks are ended and leases given
//! back, so that another one need not wait.

use super::serving::{Certificate, Serving, Telling};
use super::{
    Election, Place, Said, Spec, accounts::Accounts, controller_manager, kubelet, log_directives, proxy, scheduler,
};
use crate::agent;
use crate::claim;
use crate::config::{default_address, host_name};
use crate::preflight::{self, ThisMachine};
use crate::progress::human;
use crate::reach::reach;
use crate::signals::Signals;
use crate::usage::UsageError;
use anyhow::Context;
use skiff_base::clock::{SharedClock, SystemClock};
use skiff_base::flags;
use skiff_base::pki::Signer;
use skiff_base::task::Supervisor;
use skiff_client::delegated::{ClientCa, Delegated};
use skiff_client::leader::LeaderElector;
use skiff_client::transport::Transport;
use skiff_client::{Client, Kubeconfig};
use skiff_controllers::certificates::Signing;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(5);

/// The components that run alone, by upstream's names.
pub(crate) const NAMES: [&str; 4] = ["kube-scheduler", "kube-controller-manager", "kubelet", "kube-proxy"];

fn spec(name: &str) -> Option<&'static Spec> {
    [&scheduler::SPEC, &controller_manager::SPEC, &kubelet::SPEC, &proxy::SPEC]
        .into_iter()
        .find(|spec| spec.component.name() == name)
}

/// What to run.
enum Options {
    Scheduler(scheduler::Options),
    ControllerManager(controller_manager::Options),
    Kubelet(kubelet::Options),
    Proxy(proxy::Options),
}

impl Options {
    fn read(name: &str, said: &Said) -> Result<Self, UsageError> {
        let mut mistakes = Vec::new();
        let options = match name {
            "kube-scheduler" => Self::Scheduler(scheduler::Options::read(said, &mut mistakes)),
            "kube-controller-manager" => {
                let options = controller_manager::Options::read(said, &mut mistakes);
                if options.allocate_node_cidrs == Some(true) && options.cluster_cidrs.is_empty() {
                    mistakes.push("--allocate-node-cidrs needs --cluster-cidr".to_owned());
                }
                Self::ControllerManager(options)
            }
            "kubelet" => Self::Kubelet(kubelet::Options::read(said, &mut mistakes)),
            _ => Self::Proxy(proxy::Options::read(said, &mut mistakes)),
        };
        UsageError::all(mistakes).map(|()| options)
    }

    fn kubeconfig(&self) -> Option<&PathBuf> {
        match self {
            Self::Scheduler(options) => options.kubeconfig.as_ref(),
            Self::ControllerManager(options) => options.kubeconfig.as_ref(),
            Self::Kubelet(options) => options.kubeconfig.as_ref(),
            Self::Proxy(options) => options.kubeconfig.as_ref(),
        }
    }

    /// One process, one level: the component's `-v` is everybody's.
    fn log(&self) -> String {
        let verbosity = match self {
            Self::Scheduler(options) => options.verbosity,
            Self::ControllerManager(options) => options.verbosity,
            Self::Kubelet(options) => options.verbosity,
            Self::Proxy(options) => options.verbosity,
        };
        log_directives(&[(
            &[
                "skiff",
                "skiff_client",
                "skiff_scheduler",
                "skiff_controllers",
                "skiff_kubelet",
                "skiff_runtime",
                "skiff_cni",
                "skiff_image",
                "skiff_proxy",
            ],
            verbosity,
        )])
    }
}

/// Runs the component called `name` until a signal ends it.
#[expect(clippy::print_stdout, reason = "what the user asked for")]
pub(crate) fn run(name: &'static str, arguments: Vec<String>) -> anyhow::Result<()> {
    let spec = spec(name).with_context(|| format!("{name} does not run alone"))?;
    let said = spec.parse(Place::Alone, arguments).map_err(UsageError)?;
    if said.help() {
        let served: Vec<flags::Served> = spec.entries().map(|entry| entry.served).collect();
        println!("Usage: skiff {name} --kubeconfig FILE [flags]\n\n{}", flags::help(spec.component, &served));
        return Ok(());
    }
    if said.version() {
        println!("Kubernetes {}", skiff_server::version::git_version());
        return Ok(());
    }
    let options = Options::read(name, &said)?;
    let Some(path) = options.kubeconfig().cloned() else {
        return Err(UsageError::one(format!("{name}: --kubeconfig is needed to know the API server")).into());
    };
    crate::telemetry(&options.log());
    if matches!(options, Options::Kubelet(_) | Options::Proxy(_)) {
        preflight::rights()?;
    }
    let only = match &options {
        Options::Kubelet(_) => Some(claim::claim(claim::NODE, "")?),
        Options::Proxy(_) => Some(claim::claim(claim::PROXY, "")?),
        _ => None,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().thread_name(name).build()?;
    let outcome = runtime.block_on(serve(name, options, path));
    drop(only);
    outcome
}

/// The command line for whoever completes it: with the flags that the components read by themselves.
pub(crate) fn with_flags(command: clap::Command) -> clap::Command {
    NAMES.into_iter().filter_map(spec).fold(command, |command, spec| {
        let flag =
            |entry: &super::Entry| clap::Arg::new(entry.served.name).long(entry.served.name).help(entry.served.help);
        command.mut_subcommand(spec.component.name(), |component| component.args(spec.entries().map(flag)))
    })
}

/// A component on its way: what all of them have.
struct Alone {
    name: &'static str,
    kubeconfig: Kubeconfig,
    client: Client,
    clock: SharedClock,
    /// Of connections, which are needed until the lease is given back.
    owner: Supervisor,
    /// Of the component itself.
    run: Supervisor,
    telling: Telling,
}

async fn serve(name: &'static str, options: Options, path: PathBuf) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("listening to signals")?;
    let clock = SystemClock::shared();
    let owner = Supervisor::new(name);
    let kubeconfig = Kubeconfig::load(&path)?;
    let telling = Telling::new(&clock);
    let transport = counted(&kubeconfig, &telling, &clock, &owner)?;
    let client = Client::new(transport, &user_agent(name));
    let run = owner.child(name);
    let alone = Alone { name, kubeconfig, client, clock, owner, run, telling };
    let begun = alone.clock.now();
    let credentials = path.display().to_string();
    tokio::select! {
        reached = reach(&alone.client, alone.kubeconfig.server(), &credentials, &alone.clock) => reached?,
        () = signals.next() => return Ok(()),
    }
    let elector = match options {
        Options::Scheduler(options) => alone.scheduler(&options)?,
        Options::ControllerManager(options) => alone.controller_manager(&options)?,
        Options::Kubelet(options) => alone.kubelet(options).await.map(|()| None)?,
        Options::Proxy(options) => alone.proxy(&options).await.map(|()| None)?,
    };
    tracing::info!(component = name, took = human(alone.clock.now().duration_since(begun)), "ready");
    let asked = tokio::select! {
        () = alone.run.token().cancelled() => false,
        () = signals.next() => true,
    };
    let late = alone.run.shutdown(GRACE).await;
    if !late.is_empty() {
        tracing::warn!(?late, "some tasks did not end in time");
    } else if let Some(elector) = elector {
        give_back(&elector).await;
    }
    alone.owner.shutdown(GRACE).await;
    anyhow::ensure!(asked, "a part of {name} has ended; the log says which");
    Ok(())
}

fn user_agent(name: &str) -> String {
    format!("{name}/v{}", env!("CARGO_PKG_VERSION"))
}

/// A transport whose requests are counted.
fn counted(
    kubeconfig: &Kubeconfig,
    telling: &Telling,
    clock: &SharedClock,
    owner: &Supervisor,
) -> anyhow::Result<Arc<dyn Transport>> {
    let host = kubeconfig.server().trim_start_matches("https://");
    Ok(telling.client.measure(kubeconfig.transport(owner)?, host, Arc::clone(clock)))
}

/// Gives a lease back, so that whoever runs elsewhere need not wait for its end; when that cannot be told, they wait.
pub(crate) async fn give_back(elector: &LeaderElector) {
    let released = tokio::time::timeout(Duration::from_secs(1), elector.release()).await;
    if !matches!(released, Ok(Ok(()))) {
        tracing::debug!(lease = elector.name(), "not given back");
    }
}

impl Alone {
    fn elector(&self, election: Option<&Election>) -> Option<Arc<LeaderElector>> {
        let election = election?;
        let leases = self.client.namespaced("coordination.k8s.io", "v1", "leases", &election.namespace);
        let identity = format!("{}_{}", host_name(), uuid::Uuid::new_v4());
        let clock = Arc::clone(&self.clock);
        let elector = Arc::new(LeaderElector::new(leases, &election.name, &identity, election.timing, clock));
        self.telling.watch(&elector);
        Some(elector)
    }

    /// Health and metrics, whose callers are reviewed as other kubeconfigs say, or as this component.
    fn spawn_serving(&self, serving: &Serving) -> anyhow::Result<()> {
        let reviewer = |path: &Option<PathBuf>| -> anyhow::Result<Client> {
            let Some(path) = path else { return Ok(self.client.clone()) };
            let transport = counted(&Kubeconfig::load(path)?, &self.telling, &self.clock, &self.owner)?;
            Ok(Client::new(transport, &user_agent(self.name)))
        };
        let ca = match &serving.client_ca {
            None => ClientCa::FromCluster,
            Some(path) => ClientCa::Pem(read(path)?),
        };
        let (authentication, authorization) = (reviewer(&serving.authentication)?, reviewer(&serving.authorization)?);
        let delegated = Delegated::new(authentication, authorization, ca, Arc::clone(&self.clock))
            .context("--client-ca-file holds no usable authority")?;
        if let Some(port) = serving.spawn(self.name, &self.telling, delegated, &self.clock, &self.run)? {
            tracing::info!(component = self.name, port, "serving health and metrics");
        }
        Ok(())
    }

    fn scheduler(&self, options: &scheduler::Options) -> anyhow::Result<Option<Arc<LeaderElector>>> {
        let elector = self.elector(options.election.as_ref());
        self.spawn_serving(&options.serving)?;
        let metrics = scheduler::metrics(&self.telling, &self.clock);
        scheduler::spawn(self.client.clone(), elector.clone(), metrics, &self.clock, &self.run);
        Ok(elector)
    }

    fn controller_manager(&self, options: &controller_manager::Options) -> anyhow::Result<Option<Arc<LeaderElector>>> {
        let elector = self.elector(options.election.as_ref());
        self.spawn_serving(&options.serving)?;
        let anonymous = || counted(&self.kubeconfig.without_user(), &self.telling, &self.clock, &self.owner);
        let anonymous = options.own_accounts.then(anonymous).transpose()?;
        let root_ca = match &options.root_ca {
            Some(path) => String::from_utf8(read(path)?).context("--root-ca-file is not PEM")?,
            None => String::from_utf8_lossy(self.kubeconfig.authority().unwrap_or_default()).into_owned(),
        };
        let signing = options.signing.as_ref().map(|(certificate, key)| {
            let certificate =
                String::from_utf8(read(certificate)?).context("--cluster-signing-cert-file is not PEM")?;
            let pem = String::from_utf8(read(key)?).context("--cluster-signing-key-file is not PEM")?;
            let signer = Arc::new(Signer::new(key, &certificate, &pem)?);
            anyhow::Ok(Signing { signer, duration: options.signing_duration })
        });
        let wanted = options.allocate_node_cidrs.unwrap_or(false);
        let cidrs = if wanted { options.cluster_cidrs.as_slice() } else { &[] };
        let setup = controller_manager::Setup {
            clients: Arc::new(Accounts::new(self.client.clone(), anonymous, Arc::clone(&self.clock))),
            ranges: options.mask_sizes.apply(cidrs).map_err(UsageError::one)?,
            root_ca: root_ca.into(),
            signing: signing.transpose()?,
            terminated_pods: options.terminated_pods,
            elector: elector.clone(),
            metrics: Arc::clone(&self.telling.client),
            clock: Arc::clone(&self.clock),
        };
        controller_manager::spawn(&setup, &self.run);
        Ok(elector)
    }

    async fn proxy(&self, options: &proxy::Options) -> anyhow::Result<()> {
        let node_name = options.node_name.clone().unwrap_or_else(host_name);
        proxy::spawn(&self.client, options, &node_name, &self.clock, &self.run).await
    }

    async fn kubelet(&self, options: kubelet::Options) -> anyhow::Result<()> {
        if options.runtime_endpoint.is_none() {
            tracing::warn!(
                "NetworkPolicies are not enforced by a kubelet alone: only `skiff server` does so on its node"
            );
            let machine = ThisMachine::new(&options.data_dir);
            tokio::task::spawn_blocking(move || preflight::machine(&machine)).await??;
        }
        let addresses = if options.node_ips.is_empty() { vec![default_address()] } else { options.node_ips.clone() };
        let address = addresses.first().copied().unwrap_or_else(default_address);
        let client_ca = match &options.client_ca {
            Some(path) => read(path)?,
            None => {
                self.kubeconfig.authority().context("--client-ca-file is needed: the kubeconfig has none")?.to_vec()
            }
        };
        let tls = options.tls.or_else(|| kubelet::certificate_beside(options.kubeconfig.as_deref()?));
        if tls.is_none() {
            tracing::warn!(
                "no --tls-cert-file, and no kubelet.crt beside the kubeconfig: the certificate that is shown is nobody's, and an \
                 API server that looks at it cannot read logs or run commands"
            );
        }
        let certificate = Certificate::take(tls, "kubelet", address, self.clock.wall())?;
        let serving =
            agent::Serving { listener: options.listen.bind("kubelet")?, identity: certificate.identity(), client_ca };
        certificate.keep(&self.clock, &self.run);
        let config = agent::Config {
            root: options.root.unwrap_or_else(|| options.data_dir.join("kubelet")),
            data_dir: options.data_dir,
            node_name: options.node_name.unwrap_or_else(host_name),
            addresses,
            labels: options.node_labels,
            max_pods: options.max_pods,
            tuning: options.tuning,
            cgroup_root: options.cgroup_root,
            runtime_endpoint: options.runtime_endpoint,
            cluster_dns: options.cluster_dns,
            cluster_domain: options.cluster_domain.unwrap_or_default(),
            cluster_cidrs: options.cluster_cidrs,
            static_pods: options.static_pods,
        };
        agent::start(config, self.client.clone(), serving, &self.clock, &self.run).await.map(drop)
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
