//! The embedded engine against its contract and against faults.
#![expect(clippy::unwrap_used, reason = "tests")]

mod contract;
mod directory;
mod faults;
mod history;
mod kill;
mod world;
