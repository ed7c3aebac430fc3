//! The kubelet over a real API server, with a runtime in memory.
#![expect(clippy::unwrap_used, reason = "tests")]

mod fake;
mod life;
mod logs;
mod node;
mod outage;
mod pressure;
mod server;
mod static_pods;
mod volumes;
