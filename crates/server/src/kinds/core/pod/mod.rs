//! Pods, and the pod templates of every kind that makes pods.

pub(crate) mod defaults;
pub(crate) mod resources;
