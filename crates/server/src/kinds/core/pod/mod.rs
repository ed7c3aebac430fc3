//! Pods, and the pod templates of every kind that makes pods.

mod containers;
pub(crate) mod defaults;
pub(crate) mod placement;
pub(crate) mod resources;
pub(crate) mod validation;
mod volumes;
pub(crate) mod warnings;

pub(crate) use containers::{quantity as validate_quantity, resource_entry};
