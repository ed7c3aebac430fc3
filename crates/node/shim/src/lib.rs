//! The helper of one pod: parent of its containers, keeper of their output and of their exit codes.
//!
//! Owns the making of containers (`clone3` to `execve`), in a process with one thread, so that no lock of another thread
//! is ever copied into a container; their logs in CRI format; and the record of how each ended, on disk before it is
//! told to anyone, so that a runtime that was away finds it. It outlives the runtime: own session, own socket.
//!
//! Must never know: Kubernetes, images, networks. It is told directories, numbers and paths. No async runtime, no
//! retained memory that grows with output.
//!
//! This library half is the [`protocol`] that the runtime speaks with the executable half. Start reading there, then at
//! `main.rs`, `container.rs` (parent's side), `rootfs.rs` and `program.rs` (child's side).
//!
//! Not here yet: user namespaces, ID-mapped mounts, SELinux labels, AppArmor, checkpoints. Needs Linux 5.12
//! (`mount_setattr`).
//!
//! Known gap: the child of an exec, and of a start in a shared PID namespace, is in the container's PID namespace some
//! microseconds to milliseconds before it has left the host's file system. It is not dumpable, so only a container with
//! `CAP_SYS_PTRACE` could reach it then.

pub mod protocol;
