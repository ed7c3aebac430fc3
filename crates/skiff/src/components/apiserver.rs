//! kube-apiserver's own flags, for `skiff server --kube-apiserver-arg`. It does not run alone yet.

use super::{Entry, InServer, Place, Said, Spec, flag, of_server};
use skiff_base::flags::{Component, Served, parse_duration};
use skiff_server::admission::Plugin;
use skiff_server::authn::AnonymousAccess;
use skiff_server::front;
use skiff_server::kinds::core::ranges::PortRange;
use skiff_server::registry::Limits;
use std::sync::Arc;

/// Flags.
pub(crate) const SPEC: Spec = Spec { component: Component::KubeApiserver, flags: &[OWN] };

const OWN: &[Entry] = &[
    of_server("advertise-address", "advertise-address", "Address under which others reach this server."),
    of_server("bind-address", "bind-address", "Address to listen on."),
    of_server("secure-port", "secure-port", "Port to listen on."),
    of_server("service-cluster-ip-range", "service-cidr", "Networks of cluster addresses of services."),
    of_server("token-auth-file", "token-auth-file", "Static tokens."),
    of_server("runtime-config", "runtime-config", "Further API versions."),
    Entry {
        served: Served::upstream(
            "anonymous-auth",
            "Requests without a credential. true: as upstream, RBAC decides; false: none.",
        )
        .holding("health, version, what joining needs"),
        server: InServer::Same,
        only: None,
    },
    flag("service-account-issuer", "Who tokens say has made them; the first signs."),
    flag("api-audiences", "For whom tokens are good; the first issuer when absent."),
    flag("max-requests-inflight", "Reading requests at once."),
    flag("max-mutating-requests-inflight", "Writing requests at once."),
    flag("request-timeout", "How long a request may take."),
    flag("http2-max-streams-per-connection", "Streams of one connection; 100 when absent."),
    flag("service-node-port-range", "Ports for services of type NodePort."),
    flag("event-ttl", "How long events are kept."),
    flag("etcd-compaction-interval", "How often old revisions are given up."),
    flag("disable-admission-plugins", "Plug-ins to leave out."),
    flag("enable-admission-plugins", "Plug-ins that have to run: all that are built do, others are refused."),
    flag("feature-gates", "Features by name; a gate can only be given the value that it has."),
];

/// What they mean.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) anonymous: AnonymousAccess,
    pub(crate) issuers: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) front: front::Options,
    pub(crate) limits: Limits,
    pub(crate) max_streams: Option<u32>,
    pub(crate) node_ports: PortRange,
    pub(crate) without_plugins: Vec<String>,
    pub(crate) with_plugins: Vec<String>,
    pub(crate) verbosity: i64,
}

impl Options {
    /// From `--kube-apiserver-arg`. `issuer` signs tokens unless another is named.
    pub(crate) fn in_server(arguments: Vec<String>, issuer: &str, mistakes: &mut Vec<String>) -> Option<Self> {
        super::note_all(SPEC.parse(Place::Server, arguments), mistakes).map(|said| Self::read(&said, issuer, mistakes))
    }

    fn read(said: &Said, issuer: &str, mistakes: &mut Vec<String>) -> Self {
        said.gates(mistakes);
        let mut front = front::Options::default();
        if let Some(requests) = said.number("max-requests-inflight", mistakes) {
            front.max_requests_inflight = requests;
        }
        if let Some(requests) = said.number("max-mutating-requests-inflight", mistakes) {
            front.max_mutating_requests_inflight = requests;
        }
        let positive = |text: &str| match parse_duration(text) {
            Some(duration) if !duration.is_zero() => Ok(duration),
            _ => Err("has to be greater than zero"),
        };
        if let Some(timeout) = said.parsed("request-timeout", positive, mistakes) {
            front.request_timeout = timeout;
        }
        let mut limits = Limits::default();
        if let Some(lifetime) = said.parsed("event-ttl", positive, mistakes) {
            limits.event_ttl = lifetime;
        }
        if let Some(interval) = said.parsed("etcd-compaction-interval", positive, mistakes) {
            limits.compaction_interval = interval;
        }
        Self {
            anonymous: match said.switch("anonymous-auth") {
                None => AnonymousAccess::health_only(),
                Some(true) => AnonymousAccess::Everywhere,
                Some(false) => AnonymousAccess::Never,
            },
            issuers: said.list("service-account-issuer").unwrap_or_else(|| vec![issuer.to_owned()]),
            audiences: said.list("api-audiences").unwrap_or_default(),
            front,
            limits,
            max_streams: said.number("http2-max-streams-per-connection", mistakes).filter(|streams| *streams > 0),
            node_ports: said.parsed("service-node-port-range", str::parse, mistakes).unwrap_or_default(),
            without_plugins: said.list("disable-admission-plugins").unwrap_or_default(),
            with_plugins: said.list("enable-admission-plugins").unwrap_or_default(),
            verbosity: said.verbosity(),
        }
    }

    /// Which of the plug-ins run, and the names that are not among them.
    pub(crate) fn choose_plugins(&self, plugins: Vec<Arc<dyn Plugin>>) -> (Vec<Arc<dyn Plugin>>, Vec<String>) {
        let known: Vec<&'static str> = plugins.iter().map(|plugin| plugin.name()).collect();
        let named = self.without_plugins.iter().chain(&self.with_plugins);
        let unknown = named.filter(|name| !known.contains(&name.as_str())).cloned().collect();
        let kept = |plugin: &Arc<dyn Plugin>| !self.without_plugins.iter().any(|name| name == plugin.name());
        (plugins.into_iter().filter(kept).collect(), unknown)
    }
}
