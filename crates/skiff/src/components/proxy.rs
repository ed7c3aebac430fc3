//! kube-proxy: its flags, and its start.

use super::{Entry, Place, Said, Spec, alone, fixed, flag, of_server};
use crate::ports::Listen;
use anyhow::Context;
use skiff_base::clock::SharedClock;
use skiff_base::flags::Component;
use skiff_base::task::Supervisor;
use skiff_client::Client;
use skiff_proxy::model::ProxyConfig;
use skiff_proxy::server::{ProxyOptions, ProxyServer};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Flags.
pub(crate) const SPEC: Spec = Spec { component: Component::KubeProxy, flags: &[OWN] };

const OWN: &[Entry] = &[
    alone("kubeconfig", "How to reach the API server, and as whom."),
    of_server("hostname-override", "node-name", "Name of this machine in the cluster."),
    of_server(
        "cluster-cidr",
        "cluster-cidr",
        "Networks of pods: what comes from elsewhere to a service is masqueraded.",
    ),
    fixed("proxy-mode", "nftables", "The only one that is built."),
    flag("masquerade-all", "Masquerade all traffic to service addresses."),
    flag("nodeport-addresses", "Addresses that accept node ports; `primary` (the node's own) when absent."),
    flag("healthz-bind-address", "Address and port of health. A default that is taken moves to a free port."),
    flag("metrics-bind-address", "Address and port of metrics. A default that is taken moves to a free port."),
    flag("bind-address-hard-fail", "A default port that is taken is an error, too."),
    flag("feature-gates", "Features by name; a gate can only be given the value that it has."),
];

/// What they mean.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) node_name: Option<String>,
    pub(crate) cluster_cidrs: Vec<(IpAddr, u8)>,
    node_port_addresses: Vec<IpAddr>,
    masquerade_all: bool,
    health: Listen,
    metrics: Listen,
    pub(crate) verbosity: i64,
}

/// `10.244.0.0/16`.
pub(crate) fn cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("{text} is no network: expected ADDRESS/LENGTH");
    let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
    let (address, bits): (IpAddr, u8) = (address.parse().map_err(|_| wrong())?, bits.parse().map_err(|_| wrong())?);
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(format!("{text} has too many bits"));
    }
    Ok((address, bits))
}

/// One address: networks of several are not built.
fn single_address(text: &str) -> Result<IpAddr, String> {
    let (address, bits) = cidr(text)?;
    if bits != if address.is_ipv4() { 32 } else { 128 } {
        return Err(format!("{text}: only single addresses (/32, /128) and primary are built"));
    }
    Ok(address)
}

impl Options {
    /// Checked; every mistake is told.
    pub(crate) fn read(said: &Said, mistakes: &mut Vec<String>) -> Self {
        said.gates(mistakes);
        let all = |name: &str, read: fn(&str) -> Result<(IpAddr, u8), String>, mistakes: &mut Vec<String>| {
            let texts = said.list(name).unwrap_or_default();
            let read = texts.iter().map(|text| read(text).map_err(|error| format!("{}: {error}", said.typed(name))));
            read.filter_map(|one| crate::usage::note(one, mistakes)).collect::<Vec<_>>()
        };
        let hard = said.switch("bind-address-hard-fail").unwrap_or(false);
        let mut listen = |name: &str, default: SocketAddr| {
            let asked =
                said.parsed(name, |text| text.parse::<SocketAddr>().map_err(|_| "expected ADDRESS:PORT"), mistakes);
            Listen { at: asked.unwrap_or(default), asked: asked.is_some() || hard, flag: said.typed(name) }
        };
        let health = listen("healthz-bind-address", SocketAddr::from(([0, 0, 0, 0], 10256)));
        let metrics = listen("metrics-bind-address", SocketAddr::from(([127, 0, 0, 1], 10249)));
        let node_ports = said.get("nodeport-addresses").filter(|text| *text != "primary");
        let node_port_addresses = match node_ports {
            None => Vec::new(),
            Some(_) => {
                let read = |text: &str| single_address(text).map(|address| (address, 0));
                all("nodeport-addresses", read, mistakes).into_iter().map(|(address, _)| address).collect()
            }
        };
        Self {
            kubeconfig: said.path("kubeconfig"),
            node_name: said.get("hostname-override").map(str::to_owned),
            cluster_cidrs: all("cluster-cidr", cidr, mistakes),
            node_port_addresses,
            masquerade_all: said.switch("masquerade-all").unwrap_or(false),
            health,
            metrics,
            verbosity: said.verbosity(),
        }
    }
    /// From `--kube-proxy-arg`.
    pub(crate) fn in_server(arguments: Vec<String>, mistakes: &mut Vec<String>) -> Option<Self> {
        super::note_all(SPEC.parse(Place::Server, arguments), mistakes).map(|said| Self::read(&said, mistakes))
    }
}

/// Starts the proxy for the addresses of services on this node: rules at once, then its ports.
pub(crate) async fn spawn(
    client: &Client,
    options: &Options,
    node_name: &str,
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let config = ProxyConfig {
        node_name: node_name.to_owned(),
        cluster_cidrs: options.cluster_cidrs.clone(),
        node_port_addresses: options.node_port_addresses.clone(),
        masquerade_all: options.masquerade_all,
        ..Default::default()
    };
    let server = ProxyServer::spawn(client, ProxyOptions::new(config), supervisor, clock.clone());
    let server = server.map_err(|error| anyhow::anyhow!("{error}")).context("starting kube-proxy")?;
    serve(&server, options, clock, supervisor).await
}

/// Health and metrics. A default port that is taken moves: nobody else depends on it.
async fn serve(
    server: &ProxyServer,
    options: &Options,
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let (mut metrics, mut health) = (options.metrics.at, options.health.at);
    loop {
        match skiff_proxy::http::spawn(server, metrics, health, supervisor, clock.clone()).await {
            Ok((metrics, health)) => {
                tracing::debug!(%metrics, %health, "kube-proxy serves");
                return Ok(());
            }
            Err(error) if error.source.kind() == std::io::ErrorKind::AddrInUse => {
                let (at, listen) = if error.address == metrics {
                    (&mut metrics, &options.metrics)
                } else {
                    (&mut health, &options.health)
                };
                if listen.asked || at.port() == 0 {
                    let error = skiff_net::server::BindError::InUse(*at);
                    return Err(listen.explain("kube-proxy", error).into());
                }
                tracing::info!(taken = at.port(), "kube-proxy: the default port is taken: another one");
                at.set_port(0);
            }
            Err(error) => return Err(error).context("kube-proxy: see --healthz-bind-address, --metrics-bind-address"),
        }
    }
}

/// Whether the ports that somebody asked for can be had: told before the proxy is started, as an error of the start.
pub(crate) fn check_ports(options: &Options) -> Result<(), crate::ports::PortError> {
    for listen in [&options.metrics, &options.health] {
        if listen.asked {
            listen.bind("kube-proxy")?;
        }
    }
    Ok(())
}
