//! What integration tests of several crates share: waiting for a condition, a cluster in memory, real containers.
//!
//! Owns no product code, and no product may use it: only `[dev-dependencies]` name it, and `tests/edges.txt` sees to
//! that. Must never know what a single crate tests; that stays in the crate's `tests/it`.
//!
//! Start with [`eventually`]. `cluster` (a feature of this name) has the API server behind its first filter, over a store in
//! memory; `runtime` (another) has the embedded runtime with one image, and counts what it leaves behind.

#[cfg(feature = "cluster")]
#[expect(clippy::unwrap_used, reason = "tests stand on it: a failed step fails the test")]
pub mod cluster;
#[cfg(feature = "runtime")]
#[expect(clippy::unwrap_used, clippy::print_stdout, reason = "the same, and it says what it skipped")]
pub mod runtime;
mod wait;

pub use wait::{eventually, throughout, until};
