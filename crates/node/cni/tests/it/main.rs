//! Real-kernel tests, as root: a node, its pods and a host outside are network namespaces that die with the test.
#![expect(clippy::unwrap_used, reason = "tests")]

mod contract;
mod pods;
mod world;
