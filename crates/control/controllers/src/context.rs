//! What all controllers share: clients, informers, the loop around `sync`.

use crate::pod::PodView;
use skiff_base::clock::SharedClock;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::events::Recorder;
use skiff_client::informer::{Delta, Item, ObjectKey};
use skiff_client::{Client, ClientError, ClientMetrics, Informer, InformerOptions, Projection, Store, Tree, WorkQueue};
use std::future::Future;
use std::sync::Arc;

/// Makes a client for each identity.
pub trait Clients: Send + Sync + 'static {
    /// A client as the manager itself (`system:kube-controller-manager`), for shared informers and leader election.
    fn manager(&self) -> Client;
    /// A client as the service account `name` in `kube-system`, for one controller.
    fn controller(&self, name: &'static str) -> Client;
}

/// What a controller gets when it is built.
#[derive(Clone)]
pub struct Context {
    /// Clients by identity.
    pub clients: Arc<dyn Clients>,
    /// Time.
    pub clock: SharedClock,
    /// Owner of the tasks.
    pub supervisor: Supervisor,
    /// Where queues are measured.
    pub metrics: Arc<ClientMetrics>,
}

impl Context {
    /// A queue that is measured under upstream's name for it.
    pub fn queue<K: Clone + Eq + std::hash::Hash + Send + 'static>(&self, name: &'static str) -> WorkQueue<K> {
        WorkQueue::named(Arc::clone(&self.clock), name, &self.metrics)
    }
}

/// An informer that several controllers share. Handlers and indexes are added while controllers are built.
pub struct Shared<T> {
    informer: Option<Informer<T>>,
    store: Arc<Store<T>>,
}

impl<T: Projection> Shared<T> {
    fn new(context: &Context, group: &str, version: &str, resource: &str, options: InformerOptions) -> Self {
        let api = context.clients.manager().all(group, version, resource);
        let informer = Informer::new(api, options, Arc::clone(&context.clock));
        Self { store: informer.store(), informer: Some(informer) }
    }
    /// The store.
    pub fn store(&self) -> Arc<Store<T>> {
        Arc::clone(&self.store)
    }
    /// Adds a handler.
    pub fn on_change(&mut self, handler: impl Fn(&Delta<'_, T>) + Send + Sync + 'static) {
        self.informer = self.informer.take().map(|informer| informer.on_change(handler));
    }
    /// Queues every object that changes.
    pub fn queue_all(&mut self, queue: &WorkQueue<ObjectKey>) {
        self.queue_by(queue, |queue, delta| queue.add(delta.key.clone()));
    }
    /// Adds a handler that puts keys on a queue.
    pub fn queue_by(
        &mut self,
        queue: &WorkQueue<ObjectKey>,
        handler: impl Fn(&WorkQueue<ObjectKey>, &Delta<'_, T>) + Send + Sync + 'static,
    ) {
        let queue = queue.clone();
        self.on_change(move |delta| handler(&queue, delta));
    }
    /// Adds an index; the same name again replaces it.
    pub fn index(&mut self, name: &'static str, function: impl Fn(&Item<T>) -> Vec<Arc<str>> + Send + Sync + 'static) {
        self.informer = self.informer.take().map(|informer| informer.index(name, function));
    }
    fn spawn(&mut self, supervisor: &Supervisor) {
        if let Some(informer) = self.informer.take() {
            informer.spawn(supervisor);
        }
    }
}

/// Index of pods and owned workloads by their controller's uid.
pub const BY_CONTROLLER: &str = "controller";
/// Index of pods by node.
pub const BY_NODE: &str = "node";

/// The informers of the manager.
pub struct Informers {
    /// Pods.
    pub pods: Shared<PodView>,
    /// Nodes.
    pub nodes: Shared<Tree>,
    /// Namespaces.
    pub namespaces: Shared<Tree>,
    /// Services.
    pub services: Shared<Tree>,
    /// Service accounts.
    pub service_accounts: Shared<Tree>,
    /// EndpointSlices.
    pub endpoint_slices: Shared<Tree>,
    /// Endpoints.
    pub endpoints: Shared<Tree>,
    /// ReplicaSets.
    pub replica_sets: Shared<Tree>,
    /// ReplicationControllers.
    pub replication_controllers: Shared<Tree>,
    /// Deployments.
    pub deployments: Shared<Tree>,
    /// DaemonSets.
    pub daemon_sets: Shared<Tree>,
    /// ControllerRevisions.
    pub controller_revisions: Shared<Tree>,
    /// Jobs.
    pub jobs: Shared<Tree>,
    /// StatefulSets.
    pub stateful_sets: Shared<Tree>,
    /// PersistentVolumeClaims.
    pub claims: Shared<Tree>,
    /// PersistentVolumes.
    pub volumes: Shared<Tree>,
    /// StorageClasses.
    pub storage_classes: Shared<Tree>,
    /// CronJobs.
    pub cron_jobs: Shared<Tree>,
    /// PodDisruptionBudgets.
    pub budgets: Shared<Tree>,
    /// ClusterRoles.
    pub cluster_roles: Shared<Tree>,
    /// HorizontalPodAutoscalers.
    pub autoscalers: Shared<Tree>,
    /// CertificateSigningRequests.
    pub certificate_requests: Shared<Tree>,
    /// ResourceQuotas.
    pub resource_quotas: Shared<Tree>,
    /// Leases of `kube-node-lease`.
    pub node_leases: Shared<Tree>,
    /// The ConfigMaps named `kube-root-ca.crt`.
    pub root_ca_config_maps: Shared<Tree>,
}

fn controller_uid(tree: &Tree) -> Vec<Arc<str>> {
    crate::ownership::controller_of(tree).map(|owner| owner.str_at(&["uid"]).into()).into_iter().collect()
}

impl Informers {
    /// All of them, not started.
    pub fn new(context: &Context) -> Self {
        let all = InformerOptions::default;
        let named = |selector: &str| InformerOptions { field_selector: selector.to_owned(), ..all() };
        let mut informers = Self {
            pods: Shared::new(context, "", "v1", "pods", all()),
            nodes: Shared::new(context, "", "v1", "nodes", all()),
            namespaces: Shared::new(context, "", "v1", "namespaces", all()),
            services: Shared::new(context, "", "v1", "services", all()),
            service_accounts: Shared::new(context, "", "v1", "serviceaccounts", all()),
            endpoint_slices: Shared::new(context, "discovery.k8s.io", "v1", "endpointslices", all()),
            endpoints: Shared::new(context, "", "v1", "endpoints", all()),
            replica_sets: Shared::new(context, "apps", "v1", "replicasets", all()),
            replication_controllers: Shared::new(context, "", "v1", "replicationcontrollers", all()),
            deployments: Shared::new(context, "apps", "v1", "deployments", all()),
            daemon_sets: Shared::new(context, "apps", "v1", "daemonsets", all()),
            controller_revisions: Shared::new(context, "apps", "v1", "controllerrevisions", all()),
            jobs: Shared::new(context, "batch", "v1", "jobs", all()),
            stateful_sets: Shared::new(context, "apps", "v1", "statefulsets", all()),
            claims: Shared::new(context, "", "v1", "persistentvolumeclaims", all()),
            volumes: Shared::new(context, "", "v1", "persistentvolumes", all()),
            storage_classes: Shared::new(context, "storage.k8s.io", "v1", "storageclasses", all()),
            cron_jobs: Shared::new(context, "batch", "v1", "cronjobs", all()),
            budgets: Shared::new(context, "policy", "v1", "poddisruptionbudgets", all()),
            cluster_roles: Shared::new(context, "rbac.authorization.k8s.io", "v1", "clusterroles", all()),
            autoscalers: Shared::new(context, "autoscaling", "v2", "horizontalpodautoscalers", all()),
            certificate_requests: Shared::new(
                context,
                "certificates.k8s.io",
                "v1",
                "certificatesigningrequests",
                all(),
            ),
            resource_quotas: Shared::new(context, "", "v1", "resourcequotas", all()),
            node_leases: Shared::new(
                context,
                "coordination.k8s.io",
                "v1",
                "leases",
                named("metadata.namespace=kube-node-lease"),
            ),
            root_ca_config_maps: Shared::new(context, "", "v1", "configmaps", named("metadata.name=kube-root-ca.crt")),
        };
        informers.pods.index(BY_CONTROLLER, |item| {
            item.value.controller.as_ref().map(|owner| Arc::clone(&owner.uid)).into_iter().collect()
        });
        informers.pods.index(BY_NODE, |item| vec![Arc::clone(&item.value.node_name)]);
        informers.replica_sets.index(BY_CONTROLLER, |item| controller_uid(&item.value));
        informers.replication_controllers.index(BY_CONTROLLER, |item| controller_uid(&item.value));
        informers.jobs.index(BY_CONTROLLER, |item| controller_uid(&item.value));
        informers.controller_revisions.index(BY_CONTROLLER, |item| controller_uid(&item.value));
        informers
    }

    /// Starts them all.
    pub fn spawn(&mut self, supervisor: &Supervisor) {
        self.pods.spawn(supervisor);
        self.nodes.spawn(supervisor);
        self.namespaces.spawn(supervisor);
        self.services.spawn(supervisor);
        self.service_accounts.spawn(supervisor);
        self.endpoint_slices.spawn(supervisor);
        self.endpoints.spawn(supervisor);
        self.replica_sets.spawn(supervisor);
        self.replication_controllers.spawn(supervisor);
        self.deployments.spawn(supervisor);
        self.daemon_sets.spawn(supervisor);
        self.controller_revisions.spawn(supervisor);
        self.jobs.spawn(supervisor);
        self.stateful_sets.spawn(supervisor);
        self.claims.spawn(supervisor);
        self.volumes.spawn(supervisor);
        self.storage_classes.spawn(supervisor);
        self.cron_jobs.spawn(supervisor);
        self.budgets.spawn(supervisor);
        self.cluster_roles.spawn(supervisor);
        self.autoscalers.spawn(supervisor);
        self.certificate_requests.spawn(supervisor);
        self.resource_quotas.spawn(supervisor);
        self.node_leases.spawn(supervisor);
        self.root_ca_config_maps.spawn(supervisor);
    }
}

/// Why a `sync` did not reach its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SyncError {
    /// A call failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The object cannot be acted upon; a later change may help, a retry soon will not.
    #[error("{0}")]
    Object(String),
}

/// What a `sync` answers: when to look again without an event, if ever.
pub type SyncResult = Result<Option<std::time::Duration>, SyncError>;

/// Runs `sync` for each key, `workers` at a time, until the supervisor ends. Conflicts and missing objects are tried
/// again quietly: somebody else was faster, and the cache will say so.
pub fn run_workers<S, F>(context: &Context, name: &'static str, queue: &WorkQueue<ObjectKey>, workers: usize, sync: S)
where
    S: Fn(ObjectKey) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = SyncResult> + Send + 'static,
{
    for number in 0..workers {
        let (queue, sync) = (queue.clone(), sync.clone());
        let task = async move {
            while let Some(work) = queue.next().await {
                let key = work.key.clone();
                match sync(key.clone()).await {
                    Ok(again) => {
                        work.succeeded();
                        if let Some(delay) = again {
                            queue.add_after(key, delay);
                        }
                    }
                    Err(error) => {
                        let expected =
                            matches!(&error, SyncError::Client(error) if error.is_conflict() || error.is_not_found());
                        if expected || queue.failures(&key) == 0 {
                            tracing::debug!(controller = name, %key, %error, "sync tries again");
                        } else {
                            tracing::warn!(controller = name, %key, %error, "sync failed again");
                        }
                        work.failed();
                    }
                }
            }
        };
        context.supervisor.spawn_abortable(format!("{name} {number}"), OnFailure::EndComponent, task);
    }
}

/// A controller's `async fn(&self, ObjectKey)`: a bound on a function cannot say otherwise that its future is `Send`.
pub trait SyncFn<'c, C: 'c>: Copy + Send + Sync + 'static {
    /// What it returns.
    type Future: Future<Output = SyncResult> + Send + 'c;
    /// Calls it.
    fn call(self, controller: &'c C, key: ObjectKey) -> Self::Future;
}

impl<'c, C: 'c, S, F> SyncFn<'c, C> for S
where
    S: Fn(&'c C, ObjectKey) -> F + Copy + Send + Sync + 'static,
    F: Future<Output = SyncResult> + Send + 'c,
{
    type Future = F;

    fn call(self, controller: &'c C, key: ObjectKey) -> F {
        self(controller, key)
    }
}

/// [`run_workers`] over a method of a controller.
pub fn run_controller<C: Send + Sync + 'static>(
    context: &Context,
    name: &'static str,
    queue: &WorkQueue<ObjectKey>,
    workers: usize,
    controller: &Arc<C>,
    sync: impl for<'c> SyncFn<'c, C>,
) {
    let controller = Arc::clone(controller);
    run_workers(context, name, queue, workers, move |key| {
        let controller = Arc::clone(&controller);
        async move { sync.call(&controller, key).await }
    });
}

/// A client under the controller's identity, its queue under upstream's name, and a recorder of events.
pub fn tools(
    context: &Context,
    account: &'static str,
    component: &'static str,
    queue: &'static str,
) -> (Client, WorkQueue<ObjectKey>, Recorder) {
    let client = context.clients.controller(account);
    let queue = context.queue(queue);
    let recorder = Recorder::spawn(client.clone(), component, "", Arc::clone(&context.clock), &context.supervisor);
    (client, queue, recorder)
}
