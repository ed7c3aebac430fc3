//! The kernel, without policy: raw calls, netlink, nftables, connection tracking. The only crate besides the shim
//! that may hold `unsafe`; each block says why it is needed and why it is sound.
//!
//! Must never know: pods, containers, services. What a table or a link is *for* is decided above
//! (`skiff-cni`, `skiff-proxy`, `skiff-runtime`). No async runtime: calls block, callers use threads for that.
//!
//! Start reading at [`netlink`] for the network, at [`process`] and [`mount`] for containers.

pub mod caps;
pub mod cgroup;
pub mod conntrack;
pub mod fdpass;
pub mod mount;
pub mod netlink;
pub mod nft;
pub mod path;
pub mod process;
pub mod procfs;
pub mod seccomp;
