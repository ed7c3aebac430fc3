//! The controllers over a whole API server in this process: authentication, RBAC, admission, watch caches and all.
#![expect(clippy::unwrap_used, reason = "tests")]

mod autoscalers;
mod certificates;
mod cluster;
mod cronjobs;
mod disruptions;
mod garbage_collection;
mod jobs;
mod mirrored;
mod nodes;
mod replication;
mod small;
mod statefulsets;
mod volumes;
