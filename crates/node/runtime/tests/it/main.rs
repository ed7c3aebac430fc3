//! Real containers of the embedded runtime, as root, on a temporary directory.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: the machine's own time, owned by awaiting; a failed step fails the test"
)]

mod fixture;
mod hostile;
mod life;
mod restart;
mod streams;
