//! The core group.

pub(crate) mod defaults;
pub(crate) mod pod;
