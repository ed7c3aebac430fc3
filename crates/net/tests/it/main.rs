//! The two ends of a wire against each other, over real sockets on loopback.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod attacks;
mod http;
mod kubectl;
mod noise;
mod streams;
