//! Real containers of the embedded runtime, as root, on a temporary directory.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: the machine's own time, owned by awaiting; a failed step fails the test"
)]

mod hostile;
mod life;
mod restart;
mod streams;
