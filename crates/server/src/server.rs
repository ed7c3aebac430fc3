//! The API server put together: a validated [`ServerConfig`], [`ApiServer::build`] (bind, open, read, fill), then
//! [`ApiServer::spawn`].
//!
//! The order of `build` matters: the address is taken first, so that a second server fails before it touches anything;
//! the caches are full before the objects of a new cluster are compared with what is there; and nothing is served before
//! those are written, because authorization stands on them.

mod actions;
mod api;
mod kubelet;
pub(crate) mod proxy;

pub use api::Api;
pub(crate) use kubelet::strip_credentials;

use crate::admission::Plugin;
use crate::aggregator::Aggregator;
use crate::authn::{self, AnonymousAccess, Authenticator, service_account::ServiceAccounts, token_file::TokenFile};
use crate::authz::{Authorizer, Chain, escalation::Guard, node::NodeAuthorizer, rbac::Rbac};
use crate::bootstrap::{self, endpoints::EndpointReconciler};
use crate::crd;
use crate::front::{self, Front};
use crate::kinds::core::{allocator::ServiceAllocator, ranges::PortRange};
use crate::kinds::{Resource, builtin};
use crate::metrics::Metrics;
use crate::registry::{Limits, Registry, cache::FeedError, wire};
use skiff_base::clock::SharedClock;
use skiff_base::health::{Health, Part};
use skiff_base::pki::Pki;
use skiff_base::task::Supervisor;
use skiff_machinery::{ApiError, Map};
use skiff_net::client::{NoLocal, Resolve, SystemResolver};
use skiff_net::server::{BindError, Server};
use skiff_net::tls::{ClientTrust, Identity, TlsError};
use skiff_store::Store;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Makes the admission plug-ins over the registry's caches.
pub type MakeAdmission = Box<dyn FnOnce(&Arc<Registry>) -> Vec<Arc<dyn Plugin>> + Send>;

/// Everything decided; nothing is read from files or the environment later.
pub struct ServerConfig {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Keys and certificates.
    pub pki: Pki,
    /// `--bind-address` and `--secure-port`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `--advertise-address`.
    pub advertise_address: IpAddr,
    /// `--service-cluster-ip-range`: the primary network first.
    pub service_cidrs: Vec<String>,
    /// `--service-node-port-range`.
    pub node_ports: PortRange,
    /// The first address of the primary network.
    pub kubernetes_service_ip: IpAddr,
    /// `--service-account-issuer`: the first signs.
    pub issuers: Vec<String>,
    /// `--api-audiences`; the first issuer when empty.
    pub audiences: Vec<String>,
    /// `--token-auth-file`.
    pub token_file: Option<TokenFile>,
    /// Who may come without a credential.
    pub anonymous: AnonymousAccess,
    /// `--runtime-config`, in its order: `api/all`, `api/beta`, `GROUP/VERSION` and whether it is served.
    pub runtime_config: Vec<(String, bool)>,
    /// Bounds of the registry.
    pub limits: Limits,
    /// Bounds of the filters.
    pub front: front::Options,
    /// Bounds of connections.
    pub connections: skiff_net::server::Options,
    /// Admission.
    pub admission: MakeAdmission,
    /// Time.
    pub clock: SharedClock,
}

/// The step that failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody else listens there, or it is not allowed.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The address cannot be told.
    #[error("cannot read the listening address")]
    Address(#[source] std::io::Error),
    /// Certificates cannot be used.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// The keys of service account tokens cannot be used.
    #[error("cannot use the service account keys")]
    ServiceAccountKeys(#[from] authn::jwt::JwtError),
    /// The store cannot be read.
    #[error("cannot read the store")]
    Feed(#[from] FeedError),
    /// The objects of a new cluster could not be written.
    #[error("cannot write the objects that a cluster begins with: {0}")]
    Bootstrap(ApiError),
    /// Stored definitions of custom resources cannot be read.
    #[error("cannot serve the custom resources: {0}")]
    Definitions(ApiError),
    /// `--runtime-config` names something that is not known.
    #[error("--runtime-config: {0:?} is no group and version that this server knows")]
    RuntimeConfig(String),
}

/// An API server that is ready to run.
pub struct ApiServer {
    registry: Arc<Registry>,
    front: Arc<Front>,
    health: Arc<Health>,
    server: Server,
    address: SocketAddr,
    definitions: crd::Reconciler,
    endpoints: EndpointReconciler,
    aggregator: Arc<Aggregator>,
    identities: Identities,
}

/// What the server shows; each can be replaced while it runs.
#[derive(Clone)]
pub struct Identities {
    /// To its clients.
    pub serving: Arc<Identity>,
    /// To kubelets.
    pub kubelet_client: Arc<Identity>,
    /// To aggregated servers.
    pub front_proxy_client: Arc<Identity>,
}

/// Which versions `--runtime-config` turns on and off (`resourceconfig.MergeAPIResourceConfigs`: `api/all` first, then
/// `api/ga`, `api/beta`, `api/alpha`, then single ones).
pub fn apply_runtime_config(resources: &mut [Resource], config: &[(String, bool)]) -> Result<(), ServerError> {
    let rank = |key: &str| match key {
        "api/all" => 0,
        "api/ga" | "api/beta" | "api/alpha" => 1,
        _ => 2,
    };
    let mut config: Vec<&(String, bool)> = config.iter().collect();
    config.sort_by_key(|(key, _)| rank(key));
    for (key, on) in config {
        let mut found = false;
        for version in resources.iter_mut().flat_map(|resource| &mut resource.versions) {
            let name = &version.group_version.version;
            let stage = |stage: &str| name.contains(stage);
            let applies = match key.as_str() {
                "api/all" => true,
                "api/ga" => !stage("alpha") && !stage("beta"),
                "api/beta" => stage("beta"),
                "api/alpha" => stage("alpha"),
                gv => version.group_version.to_string() == gv,
            };
            if applies {
                version.served = *on;
                found = true;
            }
        }
        if !found {
            return Err(ServerError::RuntimeConfig(key.clone()));
        }
    }
    Ok(())
}

impl ApiServer {
    /// Binds, reads the store, writes what a new cluster begins with.
    pub async fn build(config: ServerConfig, supervisor: &Supervisor) -> Result<Self, ServerError> {
        Self::build_dialling(config, Arc::new(NoLocal(SystemResolver)), supervisor).await
    }

    /// The same with another idea of which addresses `proxy` of pods, Services and nodes may dial.
    pub async fn build_dialling(
        config: ServerConfig,
        proxied: Arc<dyn Resolve>,
        supervisor: &Supervisor,
    ) -> Result<Self, ServerError> {
        let listener = skiff_net::server::bind(config.listen)?;
        let address = listener.local_addr().map_err(ServerError::Address)?;
        let pki = config.pki.clone();
        let identity = Identity::from_pem(pki.apiserver.certificate.as_bytes(), pki.apiserver.key.as_bytes())?;
        let pair = &pki.kubelet_client;
        let kubelet_client = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes())?;
        let pair = &pki.front_proxy_client;
        let front_proxy_client = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes())?;
        let identities = Identities {
            serving: Arc::clone(&identity),
            kubelet_client: Arc::clone(&kubelet_client),
            front_proxy_client: Arc::clone(&front_proxy_client),
        };
        let tls = skiff_net::tls::server_config(identity, Some(pki.ca.as_bytes()), true)?;
        let client_ca = ClientTrust::from_pem(pki.ca.as_bytes())?;
        let accounts = ServiceAccounts::new(
            &pki.service_account_public,
            pki.service_account_key.reveal(),
            config.issuers.clone(),
            config.audiences.clone(),
            None,
        )?;
        let mut resources = builtin::resources();
        apply_runtime_config(&mut resources, &config.runtime_config)?;
        crd::complete(&mut resources);
        let clock = Arc::clone(&config.clock);
        let store = Arc::clone(&config.store);
        let registry = Registry::start(store, resources, config.limits, Arc::clone(&clock), supervisor).await?;
        let authenticator = Arc::new(Authenticator::new(
            authn::Options {
                client_ca: Some(client_ca),
                token_file: config.token_file,
                service_accounts: Some(accounts),
                bootstrap_tokens: true,
                anonymous: config.anonymous,
            },
            Arc::clone(&registry) as _,
            Arc::clone(&clock),
        ));
        let mut authentication = Map::new();
        authentication.insert("client-ca-file", pki.ca.as_str());
        authentication.insert("requestheader-client-ca-file", pki.front_proxy_ca.as_str());
        for (key, value) in [
            ("requestheader-allowed-names", "front-proxy-client"),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            ("requestheader-group-headers", "X-Remote-Group"),
            ("requestheader-uid-headers", "X-Remote-Uid"),
            ("requestheader-username-headers", "X-Remote-User"),
        ] {
            authentication.insert(key, format!("[{}]", skiff_machinery::error::quote(value)));
        }
        let settings = bootstrap::Settings {
            service_cidrs: config.service_cidrs,
            kubernetes_service_ip: config.kubernetes_service_ip,
            secure_port: address.port(),
            advertise_address: config.advertise_address,
            authentication,
            now: wire::rfc3339(clock.wall()),
        };
        registry.bootstrap(bootstrap::desired(&settings)).await.map_err(ServerError::Bootstrap)?;
        let mut endpoints = EndpointReconciler::new(Arc::clone(&registry), settings);
        endpoints.reconcile().await.map_err(ServerError::Bootstrap)?;
        let mut definitions = crd::Reconciler::new(Arc::clone(&registry), supervisor);
        definitions.reconcile().await.map_err(ServerError::Definitions)?;
        let rbac = Arc::new(Rbac::new(Arc::clone(&registry) as _));
        let node = Arc::new(NodeAuthorizer::new(Arc::clone(&registry) as _));
        let chain = Arc::new(Chain::standard(node, Arc::clone(&rbac)));
        let authorizer: Arc<dyn Authorizer> = Arc::clone(&chain) as _;
        let services = ServiceAllocator::new(&registry, config.node_ports);
        services.repair().await.map_err(ServerError::Bootstrap)?;
        services.spawn_repair();
        registry.set_hooks(vec![(skiff_machinery::GroupResource::new("", "services"), Arc::new(services))]);
        let reader = Arc::clone(&registry) as Arc<dyn crate::admission::Reader>;
        let plugins = (config.admission)(&registry);
        let mut plugins = crate::admission::with_policies(plugins, &reader, &authorizer);
        plugins.extend(crate::admission::certificate_plugins(&authorizer));
        plugins.push(Arc::new(Guard::new(Arc::clone(&rbac), chain)));
        let metrics = Arc::new(Metrics::new(clock.wall()));
        plugins.iter().flat_map(|plugin| plugin.metrics()).for_each(|family| metrics.registry.register(family));
        plugins.iter().for_each(|plugin| plugin.set_authorizer(&authorizer));
        registry.set_admission(plugins);
        let deciders = actions::Deciders {
            authenticator: Arc::clone(&authenticator),
            authorizer: Arc::clone(&authorizer),
            rbac,
            clock: Arc::clone(&clock),
        };
        let mut actions = actions::actions(Arc::new(deciders));
        let kubelets = kubelet::add(&mut actions, Arc::clone(&registry), &pki.ca, kubelet_client, supervisor)?;
        proxy::add(&mut actions, Arc::clone(&registry), kubelets, proxied, supervisor)?;
        registry.set_actions(actions);
        let aggregator = Aggregator::new(Arc::clone(&registry), front_proxy_client, supervisor);
        let health = Arc::new(Health::new());
        let told = SocketAddr::new(config.advertise_address, address.port()).to_string();
        let parts = front::Parts {
            authenticator,
            authorizer,
            dispatch: Arc::new(Api::new(Arc::clone(&registry), told).aggregating(&aggregator)),
            health: Arc::clone(&health),
            metrics,
            clock: Arc::clone(&clock),
        };
        let front = Front::new(parts, config.front);
        let server = Server::tls(listener, tls, Arc::clone(&front) as _, config.connections, clock);
        Ok(Self { registry, front, health, server, address, definitions, endpoints, aggregator, identities })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
    /// The front door, for callers in this process.
    pub fn front(&self) -> &Arc<Front> {
        &self.front
    }
    /// What it shows, to be renewed.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }
    /// The registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }
    /// Health checks, for other components to add theirs.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Serves until the supervisor ends.
    pub fn spawn(self, supervisor: &Supervisor) {
        let ready = self.health.add_readiness("poststarthook/start-apiextensions-controllers", Part::Ready);
        self.definitions.spawn(supervisor);
        self.endpoints.spawn(supervisor);
        self.aggregator.spawn(supervisor);
        crate::admission::policies::status::spawn(&self.registry, supervisor);
        ready.set();
        self.server.spawn(supervisor, "api server");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_versions_win_over_classes() {
        let mut resources = builtin::resources();
        let config = [("networking.k8s.io/v1beta1".to_owned(), true), ("api/all".to_owned(), false)];
        apply_runtime_config(&mut resources, &config).unwrap();
        let served: Vec<String> = resources
            .iter()
            .flat_map(|resource| &resource.versions)
            .filter(|version| version.served)
            .map(|version| version.group_version.to_string())
            .collect();
        assert!(!served.is_empty() && served.iter().all(|gv| gv == "networking.k8s.io/v1beta1"), "{served:?}");
        let unknown = [("apps/v1beta1".to_owned(), true)];
        assert!(matches!(apply_runtime_config(&mut resources, &unknown), Err(ServerError::RuntimeConfig(_))));
    }
}
