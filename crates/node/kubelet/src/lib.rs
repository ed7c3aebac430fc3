//! kubelet: runs the pods that are bound to this node.
//!
//! | step | module |
//! |---|---|
//! | which pods | [`source`], `static_pods` |
//! | may they run here | [`admit`] |
//! | one pod, one actor | [`pod`] |
//! | what it is made from | [`volumes`], `objects`, [`images`] |
//! | the node itself | [`node`], [`cgroups`] |
//! | room on the node | [`stats`], [`eviction`] (pure), [`pressure`], [`images_gc`], [`rotation`] |
//! | logs, exec, attach, port-forward, metrics | [`logs`], [`server`], [`metrics`] |
//!
//! **Owns** the life of pods on this node. **Must never know** how a container is made (it speaks CRI only, [`skiff_cri`])
//! nor the server, the scheduler or the controllers: it reads and writes through [`skiff_client`] as
//! `system:node:NAME`.
//!
//! Everything it made can be found again after a crash: containers by their labels, volumes and cgroups by their
//! directories.
//!
//! Not here yet: CPU/memory/topology managers, device plugins, checkpoints, user namespaces, credential providers,
//! `fileKeyRef`, cgroups of reservations (`enforceNodeAllocatable` other than `pods`), graceful node shutdown, and the volumes that [`volumes`] names. A pod with such a volume, or with
//! `hostUsers: false`, waits or fails with an event that names it.

pub mod admit;
pub mod cgroups;
pub mod eviction;
pub mod images;
pub mod images_gc;
pub mod kubelet;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod node;
mod objects;
pub mod pod;
pub mod pressure;
mod pull_records;
pub mod rotation;
pub mod server;
pub mod shared;
pub mod source;
mod static_pods;
pub mod stats;
pub mod volumes;

pub(crate) use volumes::names as volumes_names;
