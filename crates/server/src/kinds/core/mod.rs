//! The core group.

pub mod allocator;
pub(crate) mod defaults;
pub(crate) mod families;
pub(crate) mod node_ports;
pub(crate) mod pod;
pub(crate) mod prepare;
pub mod ranges;
mod repair;
pub(crate) mod service;
pub(crate) mod service_validation;
pub(crate) mod validation;
