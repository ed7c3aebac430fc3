//! `skiff dns`: the cluster's DNS server, as the container of an ordinary Deployment runs it.

use crate::reach::reach;
use anyhow::Context;
use clap::Args;
use parking_lot::RwLock;
use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_client::{Client, Kubeconfig};
use skiff_dns::{DnsConfig, DnsServer, Zone};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Flags of `skiff dns`.
#[derive(Args)]
pub(crate) struct Flags {
    /// How to reach the API; the pod's own service account when absent.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    domain: String,
    /// Address to answer on, UDP and TCP.
    #[arg(long, default_value = "0.0.0.0:53")]
    listen: SocketAddr,
    /// Where other names are asked for; from /etc/resolv.conf when absent.
    #[arg(long)]
    upstream: Vec<SocketAddr>,
    /// Addresses under which the cluster reaches this server: never asked, though /etc/resolv.conf may name them.
    #[arg(long, value_delimiter = ',')]
    cluster_ip: Vec<IpAddr>,
}

/// Runs until a signal ends it.
pub(crate) fn run(flags: Flags) -> anyhow::Result<()> {
    crate::telemetry("info");
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve(flags))
}

/// Whom to ask for other names. Not this server itself: a node whose names are resolved by the cluster, or by a resolver on
/// its loopback (which in a pod is the pod's own), would send each question round and round.
fn upstreams(found: &[String], cluster: &[IpAddr]) -> Vec<SocketAddr> {
    let parsed = found.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
    let others = parsed.filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !cluster.contains(ip));
    others.map(|ip| SocketAddr::new(ip, 53)).collect()
}

async fn serve(flags: Flags) -> anyhow::Result<()> {
    let supervisor = Supervisor::new("dns");
    let clock = SystemClock::shared();
    let kubeconfig = match &flags.kubeconfig {
        Some(path) => Kubeconfig::load(path),
        None => Kubeconfig::in_cluster(),
    };
    let kubeconfig = kubeconfig?;
    let credentials = match &flags.kubeconfig {
        Some(path) => path.display().to_string(),
        None => "this pod's service account".to_owned(),
    };
    let transport = kubeconfig.transport(&supervisor)?;
    let client = Client::new(transport, concat!("skiff-dns/v", env!("CARGO_PKG_VERSION")));
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let found = skiff_kubelet::kubelet::host_dns(&text).servers;
    let upstreams = if flags.upstream.is_empty() { upstreams(&found, &flags.cluster_ip) } else { flags.upstream };
    if upstreams.is_empty() {
        tracing::warn!(?found, "nobody can be asked for names outside of the cluster");
    }
    let any = |port| Some(SocketAddr::from(([0, 0, 0, 0], port)));
    let config = DnsConfig {
        listen: vec![flags.listen],
        health: any(8080),
        ready: any(8181),
        metrics: any(9153),
        domain: flags.domain.clone(),
        upstreams,
        ..DnsConfig::default()
    };
    let zone = Arc::new(RwLock::new(Zone::default()));
    let server = DnsServer::bind(&config, Arc::clone(&zone), Arc::clone(&clock)).await.context("cannot listen")?;
    skiff_dns::spawn_feed(&client, &zone, server.resolver(), &supervisor, Arc::clone(&clock));
    server.spawn(&supervisor);
    let (reached, address) = (reach(&client, kubeconfig.server(), &credentials, &clock), kubeconfig.server());
    tracing::info!(listen = %flags.listen, api = address, "serving");
    tokio::select! {
        Err(error) = reached => return Err(error.into()),
        () = supervisor.token().cancelled() => anyhow::bail!("a part of the DNS server ended early"),
        () = crate::server::signalled() => (),
    }
    let late = supervisor.shutdown(Duration::from_secs(5)).await;
    if !late.is_empty() {
        tracing::warn!(?late, "some tasks did not end in time");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_does_not_ask_itself() {
        let found = ["10.96.0.10", "127.0.0.53", "::1", "::ffff:10.96.0.10", "0.0.0.0", "192.0.2.1", "odd", "fd00::1"];
        let found: Vec<String> = found.map(str::to_owned).to_vec();
        let asked = upstreams(&found, &["10.96.0.10".parse().unwrap()]);
        assert_eq!(asked, ["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
        assert!(upstreams(&found[..2], &["10.96.0.10".parse().unwrap()]).is_empty());
    }
}
