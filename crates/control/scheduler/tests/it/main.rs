//! The scheduler over a whole API server in this process, under its own identity: authentication, RBAC, admission, the
//! binding and status subresources and all.
#![expect(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod scheduling;
mod volumes;
