//! The controllers over a whole API server in this process: authentication, RBAC, admission, watch caches and all.
#![expect(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod cronjobs;
mod disruptions;
mod garbage_collection;
mod jobs;
mod nodes;
mod small;
mod statefulsets;
