//! Scheduler and controllers beside the API server, on threads of their own, so that a flood of requests cannot delay
//! them nor they the requests.

use crate::inprocess::Door;
use anyhow::Context;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_controllers::{manager, node_ipam};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// A component that can be left out with `--disable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Component {
    /// The scheduler.
    KubeScheduler,
    /// The controllers.
    KubeControllerManager,
    /// Service addresses on this node.
    KubeProxy,
    /// The cluster's DNS.
    Dns,
}

/// Identity for leader election: the node's name and a UUID kept in the data directory. A restarted server takes its own
/// leases back at once; the directory's lock proves that its predecessor is dead.
pub(crate) fn identity(data_dir: &Path, node_name: &str) -> anyhow::Result<String> {
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

/// Starts the scheduler.
pub(crate) fn spawn_scheduler(door: &Door, identity: &str, clock: &SharedClock, supervisor: &Supervisor) {
    let client = door.client("system:kube-scheduler", &[], "kube-scheduler");
    let config = skiff_scheduler::run::Config {
        name: "default-scheduler".to_owned(),
        identity: Some(identity.to_owned()),
        clock: Arc::clone(clock),
    };
    skiff_scheduler::run::spawn(client, config, &supervisor.child("kube-scheduler"));
}

/// Starts the controllers.
pub(crate) fn spawn_controllers(
    door: &Door,
    identity: &str,
    root_ca: &str,
    cluster_cidrs: &[String],
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let ranges: Result<Vec<_>, String> = cluster_cidrs.iter().map(|cidr| node_ipam::Range::parse(cidr)).collect();
    let config = manager::Config {
        identity: Some(identity.to_owned()),
        root_ca: root_ca.into(),
        cluster_cidrs: ranges.map_err(|error| anyhow::anyhow!("--cluster-cidr: {error}"))?,
        terminated_pod_gc_threshold: 12_500,
        clock: Arc::clone(clock),
    };
    manager::spawn(Arc::new(door.clone()), config, &supervisor.child("kube-controller-manager"));
    Ok(())
}

/// Starts the proxy for the addresses of services on this node.
pub(crate) fn spawn_proxy(
    door: &Door,
    node_name: &str,
    cluster_cidrs: &[String],
    clock: &SharedClock,
    supervisor: &Supervisor,
) -> anyhow::Result<()> {
    let parse = |text: &String| {
        let (address, bits) = text.split_once('/')?;
        Some((address.parse().ok()?, bits.parse().ok()?))
    };
    let cidrs: Option<Vec<_>> = cluster_cidrs.iter().map(parse).collect();
    let config = skiff_proxy::model::ProxyConfig {
        node_name: node_name.to_owned(),
        cluster_cidrs: cidrs.context("--cluster-cidr is no network")?,
        ..Default::default()
    };
    let client = door.client("system:kube-proxy", &[], "kube-proxy");
    let options = skiff_proxy::server::ProxyOptions::new(config);
    let tasks = supervisor.child("kube-proxy");
    let _enter = tasks.runtime().enter();
    let server = skiff_proxy::server::ProxyServer::spawn(&client, options, &tasks, Arc::clone(clock))
        .map_err(|error| anyhow::anyhow!("kube-proxy: {error}"))?;
    let (owner, clock) = (tasks.clone(), Arc::clone(clock));
    tasks.spawn_abortable("proxy ports", OnFailure::Forget, async move {
        let (metrics, health) = (SocketAddr::from(([127, 0, 0, 1], 10249)), SocketAddr::from(([0, 0, 0, 0], 10256)));
        // The proxy works without them: another server on this machine may hold the ports.
        if let Err(error) = skiff_proxy::http::spawn(&server, metrics, health, &owner, clock).await {
            tracing::warn!(%error, "kube-proxy serves neither metrics nor health");
        }
    });
    Ok(())
}
