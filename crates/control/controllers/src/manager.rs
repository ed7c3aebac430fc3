//! Puts the controllers together: leader election around all of them, one set of informers below.

use crate::context::{Clients, Context, Informers};
use crate::{
    autoscaling, certificates, cluster_role_aggregation, cronjob, daemonset, disruption, endpoints, garbage_collector,
    job, namespace, node_ipam, node_lifecycle, pod_gc, replicaset, resource_quota, rollout, root_ca, service_account,
    service_cidr, statefulset, taint_eviction, ttl_after_finished, volume_protection, volumes,
};
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::ClientMetrics;
use skiff_client::leader::LeaderElector;
use std::sync::Arc;
use std::time::Duration;

/// What the manager is told.
pub struct Config {
    /// The candidate for the lease; `None` to lead without asking.
    pub elector: Option<Arc<LeaderElector>>,
    /// The cluster's CA, PEM, for `kube-root-ca.crt`.
    pub root_ca: Arc<str>,
    /// The authority that signs what is asked for by certificate requests; `None` to sign none.
    pub signing: Option<certificates::Signing>,
    /// Pod ranges from which nodes get their parts; empty to give none.
    pub cluster_cidrs: Vec<node_ipam::Range>,
    /// `--terminated-pod-gc-threshold`.
    pub terminated_pod_gc_threshold: usize,
    /// Time.
    pub clock: SharedClock,
}

/// Starts the manager: it waits to lead, runs the controllers, and stops them when it leads no more. `metrics` stands
/// in the registry that the component's `/metrics` renders.
pub fn spawn_measured(clients: Arc<dyn Clients>, config: Config, metrics: Arc<ClientMetrics>, supervisor: &Supervisor) {
    if let Some(elector) = &config.elector {
        metrics.leading(elector);
    }
    let owner = supervisor.clone();
    supervisor.spawn_abortable("controller manager", OnFailure::EndComponent, async move {
        let Some(elector) = config.elector.clone() else {
            start(&clients, &config, &metrics, &owner);
            return std::future::pending().await;
        };
        let identity = elector.identity();
        loop {
            elector.acquire().await;
            tracing::info!(identity, "leading");
            let controllers = owner.child("controllers");
            start(&clients, &config, &metrics, &controllers);
            tokio::select! {
                () = elector.hold() => tracing::warn!(identity, "no longer leading"),
                () = controllers.token().cancelled() => {
                    if owner.token().is_cancelled() {
                        return;
                    }
                    tracing::warn!(identity, "a controller ended: all start anew");
                }
            }
            let late = controllers.shutdown(Duration::from_secs(5)).await;
            if !late.is_empty() {
                tracing::warn!(?late, "controllers were late to stop");
            }
        }
    });
}

fn start(clients: &Arc<dyn Clients>, config: &Config, metrics: &Arc<ClientMetrics>, supervisor: &Supervisor) {
    let context = Context {
        clients: Arc::clone(clients),
        clock: Arc::clone(&config.clock),
        supervisor: supervisor.clone(),
        metrics: Arc::clone(metrics),
    };
    let mut informers = Informers::new(&context);
    service_account::spawn(&context, &mut informers);
    root_ca::spawn(&context, &mut informers, Arc::clone(&config.root_ca));
    namespace::spawn(&context, &mut informers);
    replicaset::spawn(&context, &mut informers);
    rollout::spawn(&context, &mut informers);
    daemonset::spawn(&context, &mut informers);
    job::spawn(&context, &mut informers);
    cronjob::spawn(&context, &mut informers);
    statefulset::spawn(&context, &mut informers);
    disruption::spawn(&context, &mut informers);
    ttl_after_finished::spawn(&context, &mut informers);
    volume_protection::spawn(&context, &mut informers);
    service_cidr::spawn(&context, &mut informers);
    volumes::spawn(&context, &mut informers);
    cluster_role_aggregation::spawn(&context, &mut informers);
    resource_quota::spawn(&context, &mut informers);
    endpoints::spawn(&context, &mut informers);
    autoscaling::spawn(&context, &mut informers);
    certificates::spawn(&context, &mut informers, config.signing.clone());
    if !config.cluster_cidrs.is_empty() {
        node_ipam::spawn(&context, &mut informers, config.cluster_cidrs.clone());
    }
    node_lifecycle::spawn(&context, &mut informers);
    taint_eviction::spawn(&context, &mut informers);
    pod_gc::spawn(&context, &mut informers, config.terminated_pod_gc_threshold);
    garbage_collector::spawn(&context);
    informers.spawn(supervisor);
}
