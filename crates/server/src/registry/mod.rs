//! Reading and writing objects: the watch cache and every verb over it.
