//! The API server from its first filter down, in process.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests: a failed step fails the test, which says what it skipped"
)]

mod admission;
mod aggregation;
mod api;
mod bad_input;
mod clock;
mod conversion;
mod custom;
mod front;
mod horizon;
mod kubectl;
mod openapi;
mod policies;
mod pressure;
mod proxy;
mod services;
mod verbs;
mod webhooks;
mod whole;
