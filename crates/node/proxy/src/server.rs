//! The running proxy: informers say what changed, one blocking task at a time brings the kernel there.
//!
//! Handlers only note the newest state of an object under its key, so what waits is bounded by the number of objects and
//! a burst is one sync. Nothing is programmed before all three lists are complete: a half-known cluster would cut
//! services off. Every second the table is verified ([`Proxier::verify`]), so a flush from outside heals by itself; when
//! the API is away, what is programmed stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::{Client, Informer, InformerOptions};
use tokio::sync::Notify;

use crate::model::{EndpointSlice, ProxyConfig, Service, ServiceName};
use crate::objects::{NodeObject, SELECTOR, ServiceObject, SliceObject};
use crate::proxier::{Proxier, ProxyError, SyncOutcome};

/// How the proxy runs, beside what [`ProxyConfig`] says of rules.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// The rules' side. Node port addresses and zone are taken from the Node object unless given here.
    pub config: ProxyConfig,
    /// Shortest time between two syncs.
    pub min_sync_period: Duration,
    /// How often the table is verified.
    pub verify_period: Duration,
}

impl ProxyOptions {
    /// Defaults for a node.
    pub fn new(config: ProxyConfig) -> Self {
        Self { config, min_sync_period: Duration::from_millis(50), verify_period: Duration::from_secs(1) }
    }
}

#[derive(Default)]
struct Pending {
    services: HashMap<ServiceName, Option<Service>>,
    slices: HashMap<String, Option<EndpointSlice>>,
    node: Option<Option<Arc<NodeObject>>>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Notify,
    status: Mutex<Status>,
}

/// How the proxy fares.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Last good sync.
    pub last_sync: Option<SystemTime>,
    /// What the last sync did.
    pub last_outcome: SyncOutcome,
    /// The last failure, until a sync succeeds.
    pub failure: Option<String>,
    /// The Node is not being deleted.
    pub node_eligible: bool,
    /// Prometheus text.
    pub metrics: String,
    /// Health check node ports with the number of endpoints on this node.
    pub health_check_ports: Vec<(u16, ServiceName, usize)>,
}

/// A started proxy, to be asked how it fares.
#[derive(Clone)]
pub struct ProxyServer {
    shared: Arc<Shared>,
}

impl ProxyServer {
    /// Starts informers and the sync loop under `supervisor`, for the network namespace of this process. `client` is
    /// the identity `system:kube-proxy`.
    pub fn spawn(
        client: &Client,
        options: ProxyOptions,
        supervisor: &Supervisor,
        clock: SharedClock,
    ) -> Result<Self, ProxyError> {
        let proxier = Proxier::open(options.config.clone())?;
        Ok(Self::spawn_with(proxier, client, options, supervisor, clock))
    }

    /// The same for a proxier that is open already.
    pub fn spawn_with(
        proxier: Proxier,
        client: &Client,
        options: ProxyOptions,
        supervisor: &Supervisor,
        clock: SharedClock,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let selected = || InformerOptions { label_selector: SELECTOR.into(), ..InformerOptions::default() };

        let noted = Arc::clone(&shared);
        let services = Informer::<ServiceObject>::new(client.all("", "v1", "services"), selected(), Arc::clone(&clock))
            .on_change(move |delta| {
                let name = ServiceName::new(&delta.key.namespace, &delta.key.name);
                let service = delta.new.and_then(|item| item.value.0.clone());
                noted.pending.lock().services.insert(name, service);
                noted.changed.notify_one();
            })
            .spawn(supervisor);
        let noted = Arc::clone(&shared);
        let api = client.all("discovery.k8s.io", "v1", "endpointslices");
        let slices = Informer::<SliceObject>::new(api, selected(), Arc::clone(&clock))
            .on_change(move |delta| {
                let key = format!("{}/{}", delta.key.namespace, delta.key.name);
                let slice = delta.new.and_then(|item| item.value.0.clone());
                noted.pending.lock().slices.insert(key, slice);
                noted.changed.notify_one();
            })
            .spawn(supervisor);
        let noted = Arc::clone(&shared);
        let own = InformerOptions {
            field_selector: format!("metadata.name={}", options.config.node_name),
            ..InformerOptions::default()
        };
        let nodes = Informer::<NodeObject>::new(client.all("", "v1", "nodes"), own, Arc::clone(&clock))
            .on_change(move |delta| {
                noted.pending.lock().node = Some(delta.new.map(|item| Arc::clone(&item.value)));
                noted.changed.notify_one();
            })
            .spawn(supervisor);

        let this = Self { shared: Arc::clone(&shared) };
        supervisor.spawn_abortable("kube-proxy sync", OnFailure::EndComponent, async move {
            services.synced().await;
            slices.synced().await;
            nodes.synced().await;
            run(shared, proxier, options, clock).await;
        });
        this
    }

    /// How it fares.
    pub fn status(&self) -> Status {
        self.shared.status.lock().clone()
    }

    /// What `/healthz` (10256) answers: status code and JSON, as upstream's proxy_health.go forms it. The Node's
    /// deletion makes it 503, so that balancers stop sending; `/livez` is the same without that.
    pub fn healthz(&self, now: SystemTime, live_only: bool) -> (u16, String) {
        let status = self.status();
        let text = |time: Option<SystemTime>| {
            let nanos = time.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
            i128::try_from(nanos)
                .ok()
                .and_then(skiff_machinery::time::Timestamp::from_nanos)
                .map(skiff_machinery::time::Timestamp::to_time_text)
                .unwrap_or_default()
        };
        let healthy = status.failure.is_none() && status.last_sync.is_some();
        let code = if healthy && (live_only || status.node_eligible) { 200 } else { 503 };
        let body = format!(
            "{{\"lastUpdated\": \"{}\",\"currentTime\": \"{}\", \"nodeEligible\": {}}}",
            text(status.last_sync),
            text(Some(now)),
            status.node_eligible
        );
        (code, body)
    }
}

async fn run(shared: Arc<Shared>, mut proxier: Proxier, options: ProxyOptions, clock: SharedClock) {
    shared.status.lock().node_eligible = true;
    let mut wait = Duration::ZERO;
    loop {
        clock.sleep(wait).await;
        tokio::select! {
            () = shared.changed.notified() => {}
            () = clock.sleep(options.verify_period) => {}
        }
        let pending = std::mem::take(&mut *shared.pending.lock());
        let base = options.config.clone();
        // Blocks on netlink; one at a time, so the proxier moves there and back.
        let step = tokio::task::spawn_blocking(move || {
            let node = apply(&mut proxier, pending, &base);
            let outcome = proxier
                .verify()
                .and_then(|_broken| if proxier.has_changes() { proxier.sync().map(Some) } else { Ok(None) });
            (proxier, node, outcome)
        });
        let (back, node, outcome) = match step.await {
            Ok(step) => step,
            // The blocking step panicked (already told by the panic hook), or the runtime is ending: the supervisor
            // sees this task end and acts by its policy.
            Err(error) => {
                tracing::error!(%error, "kube-proxy cannot go on");
                return;
            }
        };
        proxier = back;
        wait = options.min_sync_period;
        let mut status = shared.status.lock();
        if let Some(eligible) = node {
            status.node_eligible = eligible;
        }
        match outcome {
            Ok(outcome) => {
                status.failure = None;
                status.last_sync = Some(clock.wall());
                if let Some(outcome) = outcome {
                    tracing::debug!(?outcome, "rules synced");
                    status.last_outcome = outcome;
                    status.health_check_ports = proxier.health_check_ports();
                }
            }
            Err(error) => {
                let text = skiff_base::error::chain(&error);
                if status.failure.as_ref() != Some(&text) {
                    tracing::error!(error = text, "rules could not be synced; trying again");
                }
                status.failure = Some(text);
                wait = Duration::from_secs(1);
                // What was not programmed is remembered by the proxier: look again without a new change.
                shared.changed.notify_one();
            }
        }
        let seconds = status.last_sync.and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        status.metrics = proxier.metrics().render(seconds.map_or(0.0, |d| d.as_secs_f64()), 0);
    }
}

/// Tells the proxier what is new; returns whether the Node is eligible, if that is new.
fn apply(proxier: &mut Proxier, pending: Pending, base: &ProxyConfig) -> Option<bool> {
    for (name, service) in pending.services {
        proxier.set_service(&name, service);
    }
    for (key, slice) in pending.slices {
        proxier.set_slice(&key, slice);
    }
    let node = pending.node?;
    let mut config = base.clone();
    if let Some(node) = &node {
        if config.node_port_addresses.is_empty() {
            config.node_port_addresses = node.internal_ips.clone();
        }
        config.zone = config.zone.or_else(|| node.zone.clone());
    }
    proxier.set_config(config);
    Some(node.is_some_and(|n| !n.deleting))
}
