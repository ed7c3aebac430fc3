//! The API server from its first filter down, in process.
#![expect(clippy::unwrap_used, reason = "tests")]

mod api;
mod custom;
mod front;
mod kubectl;
mod verbs;
