//! kubelet: runs the pods that are bound to this node.
//!
//! | step | module |
//! |---|---|
//! | which pods | [`source`] |
//! | one pod, one actor | [`pod`] |
//! | what it is made from | [`volumes`], `objects`, [`images`] |
//! | the node itself | [`node`] |
//! | logs, exec, attach, port-forward | [`logs`], [`server`] |
//!
//! **Owns** the life of pods on this node. **Must never know** how a container is made (it speaks CRI only, [`skiff_cri`])
//! nor the server, the scheduler or the controllers: it reads and writes through [`skiff_client`] as
//! `system:node:NAME`.
//!
//! Everything it made can be found again after a crash: containers by their labels, volumes by their directories.
//!
//! Not here yet: eviction, image and container garbage collection, CPU/memory/topology managers, device plugins,
//! in-place resize, ephemeral containers, checkpoints, user namespaces, credential providers, `fileKeyRef`, gRPC probes,
//! and the volumes that [`volumes`] names. A pod with such a volume or handler, or with `hostUsers: false`, waits or fails
//! with an event that names it; ephemeral containers and resizes are written to the API and **not acted upon**.

pub mod admit;
pub mod cgroups;
pub mod images;
pub mod kubelet;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod node;
mod objects;
pub mod pod;
pub mod rotation;
pub mod server;
pub mod shared;
pub mod source;
mod static_pods;
pub mod volumes;

pub(crate) use volumes::names as volumes_names;
