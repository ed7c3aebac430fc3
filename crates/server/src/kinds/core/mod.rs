//! The core group.

pub(crate) mod defaults;
pub(crate) mod pod;
pub(crate) mod prepare;
pub(crate) mod service;
pub(crate) mod service_validation;
