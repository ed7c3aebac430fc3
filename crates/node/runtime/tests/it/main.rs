//! Real containers of the embedded runtime, as root, on a temporary directory.
#![expect(clippy::disallowed_methods, reason = "tests: the machine's own time, owned by awaiting")]

mod fixture;
mod hostile;
mod life;
mod restart;
mod streams;
