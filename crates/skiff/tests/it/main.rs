//! The executable itself; where it makes a node, as root, on temporary directories and in network namespaces of its own.
#![expect(clippy::unwrap_used, reason = "tests: a failed step fails the test; a test that cannot run says why")]

mod alone;
mod bench;
mod cleanup;
mod cri;
mod running;
mod server;
