//! kube-controller-manager: one folder or file per controller, each a level-triggered loop from what is to what should be.
//!
//! A controller is a work queue of keys, a `sync` that reads current state from shared informers and brings the world
//! one step nearer, and handlers that only say "look again". Decisions are pure functions; what works after a restart is
//! the only path there is. After its own write a controller waits until its cache holds that object before it decides
//! again (this replaces upstream's expectations).
//!
//! Start reading at [`context`], then [`replicaset`] as the pattern.
//!
//! **Must never know** the server, the store, the scheduler or the kubelet. Each controller writes under its own service
//! account's identity, so that its RBAC role is the upstream one and audit tells them apart.

pub mod autoscaling;
pub mod certificates;
pub mod cluster_role_aggregation;
pub mod context;
pub mod cronjob;
pub mod daemonset;
pub mod discovery;
pub mod disruption;
pub mod endpoints;
pub mod garbage_collector;
pub mod history;
pub mod job;
pub mod manager;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod ownership;
pub mod pod;
pub mod pod_gc;
pub mod replicaset;
pub mod resource_quota;
pub mod rollout;
pub mod root_ca;
pub mod service_account;
pub mod service_cidr;
pub mod statefulset;
pub mod taint_eviction;
pub mod template;
pub mod ttl_after_finished;
pub mod volume_protection;
pub mod volumes;
pub mod workload;
