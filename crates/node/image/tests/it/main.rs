//! Pulling from a registry of the test's own, on loopback: what it gives, withholds, breaks off and falsifies.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a failed step fails the test; a test that cannot run says why"
)]

mod archive;
mod bad;
mod own;
mod registry;
