//! What people type beside running a cluster: which version this is, completion for their shell.
//!
//! **Owns** the subcommands of the executable that answer and end. Each is a `Flags` for clap and a `run` that writes
//! to what it is given, so that the binary stays wiring and tests read what people would.
//!
//! **Must never know** the server, the store or a component: what they know (the release they behave as) is handed in.
//!
//! Start reading at [`version`].
//!
//! Not here yet: kubectl's own commands, `skiff ctr` for the node's containers.

pub mod completion;
pub mod version;
