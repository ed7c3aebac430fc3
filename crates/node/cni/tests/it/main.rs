//! Real-kernel tests, as root: a node, its pods and a host outside are network namespaces that die with the test.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests, and those that are skipped say why")]

mod contract;
mod killed;
mod pods;
mod world;
