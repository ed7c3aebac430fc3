//! kube-controller-manager: its flags, and its start.

use super::serving::{self, Serving};
use super::{ELECTION, Election, Entry, Place, Said, Spec, alone, flag, of_server};
use crate::usage::note;
use skiff_base::clock::SharedClock;
use skiff_base::flags::Component;
use skiff_base::task::Supervisor;
use skiff_client::ClientMetrics;
use skiff_client::leader::LeaderElector;
use skiff_controllers::certificates::Signing;
use skiff_controllers::context::Clients;
use skiff_controllers::manager;
use skiff_controllers::node_ipam::Range;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Flags.
pub(crate) const SPEC: Spec =
    Spec { component: Component::KubeControllerManager, flags: &[serving::CONNECTION, serving::FLAGS, ELECTION, OWN] };

const OWN: &[Entry] = &[
    flag("allocate-node-cidrs", "Give each node its part of the pods' addresses. In skiff server: on unless said."),
    of_server("cluster-cidr", "cluster-cidr", "Networks of pods; each node gets a part."),
    flag("node-cidr-mask-size", "Size of a node's part, when all networks are of one family."),
    flag("node-cidr-mask-size-ipv4", "Size of a node's part of an IPv4 network; 24 when absent."),
    flag("node-cidr-mask-size-ipv6", "Size of a node's part of an IPv6 network; 64 when absent."),
    alone("cluster-signing-cert-file", "Authority that signs certificate requests; with its key or not at all."),
    alone("cluster-signing-key-file", "Key of that authority."),
    flag("cluster-signing-duration", "Longest life of certificates that are signed."),
    alone("root-ca-file", "The authority that pods get (`kube-root-ca.crt`); the kubeconfig's when absent."),
    alone(
        "use-service-account-credentials",
        "Each controller under its own service account. Without it all act as the kubeconfig's user, who then needs all their roles.",
    ),
    flag("terminated-pod-gc-threshold", "How many ended pods are kept; 0 for all."),
    flag("feature-gates", "Features by name; a gate can only be given the value that it has."),
];

/// The longest life of a certificate, unless said.
const SIGNING_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What they mean.
pub(crate) struct Options {
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) election: Option<Election>,
    pub(crate) serving: Serving,
    pub(crate) allocate_node_cidrs: Option<bool>,
    pub(crate) cluster_cidrs: Vec<String>,
    pub(crate) mask_sizes: MaskSizes,
    pub(crate) root_ca: Option<PathBuf>,
    /// Certificate and key of who signs requests.
    pub(crate) signing: Option<(PathBuf, PathBuf)>,
    pub(crate) signing_duration: Duration,
    pub(crate) own_accounts: bool,
    pub(crate) terminated_pods: usize,
    pub(crate) verbosity: i64,
}

/// Sizes of a node's parts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MaskSizes {
    both: Option<u8>,
    ipv4: Option<u8>,
    ipv6: Option<u8>,
}

impl MaskSizes {
    /// Networks with parts of these sizes.
    pub(crate) fn apply(self, cidrs: &[String]) -> Result<Vec<Range>, String> {
        cidrs
            .iter()
            .map(|text| {
                let range = Range::parse(text).map_err(|error| format!("--cluster-cidr: {error}"))?;
                let size = if range.is_ipv4() { self.ipv4 } else { self.ipv6 };
                match size.or(self.both) {
                    None => Ok(range),
                    Some(size) => {
                        range.with_node_prefix(size).map_err(|error| format!("--node-cidr-mask-size: {error}"))
                    }
                }
            })
            .collect()
    }
}

impl Options {
    /// Checked; every mistake is told.
    pub(crate) fn read(said: &Said, mistakes: &mut Vec<String>) -> Self {
        said.gates(mistakes);
        let mask_sizes = MaskSizes {
            both: said.number("node-cidr-mask-size", mistakes),
            ipv4: said.number("node-cidr-mask-size-ipv4", mistakes),
            ipv6: said.number("node-cidr-mask-size-ipv6", mistakes),
        };
        let cluster_cidrs = said.list("cluster-cidr").unwrap_or_default();
        note(mask_sizes.apply(&cluster_cidrs), mistakes);
        let signing = match (said.path("cluster-signing-cert-file"), said.path("cluster-signing-key-file")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                let names = "--cluster-signing-cert-file and --cluster-signing-key-file";
                mistakes.push(format!("{names} are given together or not at all"));
                None
            }
        };
        let signing_duration = said.duration("cluster-signing-duration").unwrap_or(SIGNING_DURATION);
        if signing_duration.is_zero() {
            mistakes.push(format!("{}: must be positive", said.typed("cluster-signing-duration")));
        }
        Self {
            kubeconfig: said.path("kubeconfig"),
            election: Election::read(said, "kube-controller-manager", mistakes),
            serving: Serving::read(said, SocketAddr::from(([0, 0, 0, 0], 10257)), mistakes),
            allocate_node_cidrs: said.switch("allocate-node-cidrs"),
            cluster_cidrs,
            mask_sizes,
            root_ca: said.path("root-ca-file"),
            signing,
            signing_duration,
            own_accounts: said.switch("use-service-account-credentials").unwrap_or(false),
            terminated_pods: said.number("terminated-pod-gc-threshold", mistakes).unwrap_or(12_500),
            verbosity: said.verbosity(),
        }
    }
    /// From `--kube-controller-manager-arg`.
    pub(crate) fn in_server(arguments: Vec<String>, mistakes: &mut Vec<String>) -> Option<Self> {
        super::note_all(SPEC.parse(Place::Server, arguments), mistakes).map(|said| Self::read(&said, mistakes))
    }
}

/// What a run is made of.
pub(crate) struct Setup {
    pub(crate) clients: Arc<dyn Clients>,
    /// Networks of which nodes get parts.
    pub(crate) ranges: Vec<Range>,
    /// What pods get as `kube-root-ca.crt` (PEM).
    pub(crate) root_ca: Arc<str>,
    /// Who signs certificate requests; nobody when absent.
    pub(crate) signing: Option<Signing>,
    pub(crate) terminated_pods: usize,
    pub(crate) elector: Option<Arc<LeaderElector>>,
    pub(crate) metrics: Arc<ClientMetrics>,
    pub(crate) clock: SharedClock,
}

/// Starts it.
pub(crate) fn spawn(setup: &Setup, supervisor: &Supervisor) {
    let config = manager::Config {
        elector: setup.elector.clone(),
        root_ca: Arc::clone(&setup.root_ca),
        signing: setup.signing.clone(),
        cluster_cidrs: setup.ranges.clone(),
        terminated_pod_gc_threshold: setup.terminated_pods,
        clock: Arc::clone(&setup.clock),
    };
    manager::spawn_measured(Arc::clone(&setup.clients), config, Arc::clone(&setup.metrics), supervisor);
}
