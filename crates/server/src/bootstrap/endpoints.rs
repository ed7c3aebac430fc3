//! Where the API servers of the cluster are: the endpoints of the `kubernetes` Service, kept by the servers together.
//!
//! Every server holds a key below `/registry/masterleases/` that ends with its lease. Each renews its own every ten
//! seconds, reads all of them, and makes the Service's endpoints say the same; so one that dies leaves the endpoints
//! within a lease and an interval, and one that ends in order leaves at once. The Service itself and the system
//! namespaces are put back when somebody has deleted them.
//!
//! Mirrors pkg/controlplane/reconcilers/lease.go and controller/kubernetesservice/controller.go.

use super::{Desired, Existing, Settings, kubernetes_service, system_namespaces};
use crate::registry::{Registry, store_error};
use skiff_base::task::{OnFailure, Supervisor};
use skiff_machinery::codec::protobuf;
use skiff_machinery::schema::{StructType, builtin};
use skiff_machinery::{ApiError, GroupResource, Value, list, object};
use skiff_store::{KeyRange, LeaseId, Op, RangeRequest, StoreError, Txn};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const PREFIX: &str = "/registry/masterleases/";

/// Between two looks (`DefaultEndpointReconcilerInterval`).
const INTERVAL: Duration = Duration::from_secs(10);

/// How long a server counts as alive (`DefaultEndpointReconcilerTTL`).
const LEASE_SECONDS: i64 = 15;

/// Endpoints and slice of the `kubernetes` Service. `addresses` are those of the servers.
pub(super) fn of(addresses: &[IpAddr], secure_port: u16) -> impl Iterator<Item = Desired> + use<> {
    let ports = list![object! { "name": "https", "protocol": "TCP", "port": i64::from(secure_port) }];
    let listed: Vec<Value> = addresses.iter().map(|ip| object! { "ip": ip.to_string() }).collect();
    let endpoints = object! {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": object! {
            "name": "kubernetes",
            "namespace": "default",
            "labels": object! { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": list![object! { "addresses": Value::Array(listed), "ports": ports.clone() }],
    };
    let ready: Vec<Value> = addresses
        .iter()
        .map(|ip| object! { "addresses": list![ip.to_string()], "conditions": object! { "ready": true } })
        .collect();
    let four = addresses.first().is_none_or(IpAddr::is_ipv4);
    let slice = object! {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": object! {
            "name": "kubernetes",
            "namespace": "default",
            "generation": 1,
            "labels": object! { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": if four { "IPv4" } else { "IPv6" },
        "endpoints": Value::Array(ready),
        "ports": ports,
    };
    [
        Desired {
            resource: GroupResource::new("", "endpoints"),
            object: endpoints,
            existing: Existing::Set(&["subsets"]),
        },
        Desired {
            resource: GroupResource::new("discovery.k8s.io", "endpointslices"),
            object: slice,
            existing: Existing::Set(&["endpoints", "ports"]),
        },
    ]
    .into_iter()
}

/// This server's part in the endpoints of the `kubernetes` Service.
pub struct EndpointReconciler {
    registry: Arc<Registry>,
    settings: Settings,
    /// The lease that this server's key hangs on.
    lease: Option<LeaseId>,
}

impl EndpointReconciler {
    /// For the server that `settings` describe; it does not count yet.
    pub fn new(registry: Arc<Registry>, settings: Settings) -> Self {
        Self { registry, settings, lease: None }
    }

    /// Says that this server is alive and makes the endpoints name all that are.
    pub async fn reconcile(&mut self) -> Result<(), ApiError> {
        self.renew().await.map_err(store_error)?;
        let alive = self.alive().await.map_err(store_error)?;
        if alive.is_empty() {
            return Err(ApiError::internal(
                "no server is listed in the store although this one has just been: the endpoints stay as they are",
            ));
        }
        let mut desired: Vec<Desired> = system_namespaces().collect();
        desired.extend(kubernetes_service(&self.settings));
        desired.extend(of(&alive, self.settings.secure_port));
        self.registry.bootstrap(desired).await
    }

    /// Does so until the server ends, and then leaves.
    pub fn spawn(mut self, supervisor: &Supervisor) {
        let token = supervisor.token().clone();
        supervisor.spawn("kubernetes service", OnFailure::EndComponent, async move {
            loop {
                tokio::select! {
                    () = token.cancelled() => break,
                    () = self.registry.clock().sleep(INTERVAL) => {}
                }
                tokio::select! {
                    () = token.cancelled() => break,
                    done = self.reconcile() => {
                        if let Err(error) = done {
                            tracing::warn!(%error, "the endpoints of the kubernetes Service could not be checked");
                        }
                    }
                }
            }
            self.leave().await;
        });
    }

    /// Ends this server's lease; the others take it out of the endpoints when they next look.
    async fn leave(&self) {
        let Some(lease) = self.lease else { return };
        if let Err(error) = self.registry.store.lease_revoke(lease).await {
            tracing::debug!(%error, "this server's lease ends by itself");
        }
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        let store = &self.registry.store;
        if let Some(lease) = self.lease {
            match store.lease_keep_alive(lease).await {
                Ok(_) if self.alive().await?.contains(&self.settings.advertise_address) => return Ok(()),
                // It ran out while this process stood still, or somebody deleted the key: begin anew.
                Ok(_) | Err(StoreError::LeaseNotFound) => self.lease = None,
                Err(error) => return Err(error),
            }
        }
        let lease = store.lease_grant(0, LEASE_SECONDS).await?.id;
        let ip = self.settings.advertise_address.to_string();
        let value = object! {
            "apiVersion": "v1", "kind": "Endpoints", "metadata": object! { "generation": 1 },
            "subsets": list![object! { "addresses": list![object! { "ip": ip.as_str() }] }],
        };
        let value = protobuf::encode_object(&value, schema()).into();
        let put = Op::Put { key: format!("{PREFIX}{ip}").into(), value, lease, previous: false };
        store.txn(Txn { success: vec![put], ..Txn::default() }).await?;
        self.lease = Some(lease);
        Ok(())
    }

    /// The servers whose keys are there, in the order of their addresses.
    async fn alive(&self) -> Result<Vec<IpAddr>, StoreError> {
        let range = KeyRange::prefix(PREFIX);
        let request = RangeRequest { range, revision: None, limit: 0, keys_only: false, count_only: false };
        let found = self.registry.store.range(request).await?;
        let mut alive: Vec<IpAddr> = found.kvs.iter().filter_map(|kv| address(&kv.value)).collect();
        alive.sort();
        alive.dedup();
        Ok(alive)
    }
}

fn schema() -> &'static StructType {
    builtin::by_kind("", "v1", "Endpoints").expect("the schema table has Endpoints")
}

/// The address in one server's key; what cannot be read counts for nobody.
fn address(value: &[u8]) -> Option<IpAddr> {
    let endpoints = match protobuf::decode_object(value, schema()) {
        Ok(endpoints) => endpoints,
        Err(error) => {
            tracing::warn!(%error, "a server's key below masterleases cannot be read");
            return None;
        }
    };
    let first = endpoints.items_at(&["subsets"]).first()?.items_at(&["addresses"]).first()?;
    first.str_at(&["ip"]).parse().ok()
}
