//! The embedded container runtime: a CRI server of its own, used in process by the kubelet or behind a socket by any other.
//!
//! | story | module |
//! |---|---|
//! | what the CRI asks, call by call | [`service`](EmbeddedRuntime) |
//! | pods: namespaces, shim, network, end | `sandbox` |
//! | containers: create, start, stop, remove | `container` |
//! | from CRI's words to the shim's (pure) | `spec` |
//! | what is on disk and how a restart reads it | `record`, `adopt` |
//! | what is found without any record | [`leftovers`] |
//! | talking to a shim | `shim` |
//! | exec, attach, port-forward as streams; by URL a server beside it serves them | [`streaming`] |
//! | usage | `stats` |
//!
//! **Owns** the state directory it is given. Everything it makes on the host is recorded there first: a sandbox's
//! directory names its cgroups and holds its pins and mounts, a container's directory its cgroup and its layers' upper
//! directory. Containers outlive it: [`EmbeddedRuntime::open`] on the same directory finds them, running or ended.
//!
//! **Must never know** Kubernetes' API, how images are fetched ([`ImageStore`]) or how a pod gets its address
//! ([`PodNetwork`]).
//!
//! Not here yet, refused by name: user namespaces, SELinux options, AppArmor profiles, CDI devices,
//! localhost seccomp profiles, the systemd cgroup driver, checkpoints, pod-level metrics, runtime handlers other than the default.

mod adopt;
mod container;
mod image;
pub mod leftovers;
mod network;
mod record;
mod sandbox;
mod seccomp;
mod service;
mod shim;
mod spec;
mod state;
mod stats;
pub mod streaming;

pub use image::{DirImages, ImageConfig, ImageStore, ResolvedImage};
pub use network::{NetworkError, NetworkFuture, NoNetwork, PodNetwork, PodNetworkRequest};
pub use state::{EmbeddedRuntime, OpenError, RuntimeConfig};

/// Runs something that blocks on the bounded pool for that.
pub(crate) async fn state_blocking<T: Send + 'static>(
    body: impl FnOnce() -> Result<T, skiff_cri::CriError> + Send + 'static,
) -> Result<T, skiff_cri::CriError> {
    match tokio::task::spawn_blocking(body).await {
        Ok(result) => result,
        Err(error) => Err(skiff_cri::CriError::unknown(format!("a blocking step ended early: {error}"))),
    }
}
