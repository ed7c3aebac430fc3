//! What a pod asks for: the words are the machinery's, shared with whoever else adds up pods.

pub(crate) use skiff_machinery::resources::*;
