//! Real-kernel tests, as root: a node, its pods and a client outside are network namespaces that die with the test.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests, and those that are skipped say why")]

mod api;
mod scale;
mod traffic;
mod world;
