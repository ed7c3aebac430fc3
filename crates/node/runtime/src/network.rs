//! What the runtime needs of a pod network.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;

use skiff_cri::v1::PortMapping;

/// A pod that needs a network, or needs it no more.
#[derive(Clone, Debug, Default)]
pub struct PodNetworkRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its network namespace, pinned there. At tear-down it may be gone.
    pub netns: PathBuf,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// Ports of the node that lead to it.
    pub port_mappings: Vec<PortMapping>,
    /// The sandbox's annotations (bandwidth is told this way).
    pub annotations: BTreeMap<String, String>,
}

/// Why a pod has no network, in words for its events.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(pub String);

/// An answer that is on its way.
pub type NetworkFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, NetworkError>> + Send + 'a>>;

/// Gives pods their network.
pub trait PodNetwork: Send + Sync + 'static {
    /// Connects the namespace and answers the pod's addresses, the main one first. `lo` is already up.
    fn setup(&self, request: PodNetworkRequest) -> NetworkFuture<'_, Vec<IpAddr>>;
    /// Takes everything back. Called for each sandbox at least once, also for one whose set-up failed or was never
    /// called; what is already gone is no error.
    fn teardown(&self, request: PodNetworkRequest) -> NetworkFuture<'_, ()>;
    /// Frees what belongs to none of these sandboxes. Called once, when a runtime has found its pods again and before it
    /// connects any.
    fn collect(&self, _live: Vec<String>) -> NetworkFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// Whether pods can be connected, and why not: the CRI's condition `NetworkReady`.
    fn ready(&self) -> Result<(), NetworkError> {
        Ok(())
    }
}

/// Pods have `lo` and nothing else.
pub struct NoNetwork;

impl PodNetwork for NoNetwork {
    fn setup(&self, _: PodNetworkRequest) -> NetworkFuture<'_, Vec<IpAddr>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
    fn teardown(&self, _: PodNetworkRequest) -> NetworkFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
