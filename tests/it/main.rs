//! Black-box tests of the workspace and the executable.
//!
//! `world.rs` makes a machine of a test's own, `cluster.rs` starts the executable in it. The subject is chosen at run
//! time: `SKIFF_BINARY` names an executable, else the workspace's own is built; `KUBECTL` names another kubectl.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stdout, reason = "what a test of minutes does is worth seeing, and `skipped: why` is said so")]
#![expect(clippy::disallowed_methods, reason = "threads of tests sleep between two looks at a condition")]

mod alone;
mod clients;
mod cluster;
mod conformance;
mod containerd;
mod edges;
mod http;
mod image;
mod killed;
mod kubectl;
mod leftovers;
mod orphans;
mod story;
mod workload;
mod world;
