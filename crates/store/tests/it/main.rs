//! The embedded engine against its contract and against faults.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "they poll conditions of real processes and real disks")]
#![expect(clippy::print_stderr, reason = "a failing seed is told")]

mod contract;
mod directory;
mod faults;
mod history;
mod kill;
mod world;
