//! Netlink: one synchronous socket type and one message builder, shared by [`route`] (links, addresses, routes,
//! neighbours), [`crate::nft`] and [`crate::conntrack`].
//!
//! Why our own: `docs/decisions/0005-netlink.md`. A message is bytes in a growing buffer; nothing is kept as a tree
//! of attributes. Everything read from the kernel goes through [`attrs`], which never panics on a short or odd
//! message: it ends.
//!
//! A socket belongs to the network namespace in which it was *opened*; it can be used from any thread afterwards.
//! [`netns`] opens them on threads that enter a namespace and die.

mod message;
pub mod netns;
pub mod route;
mod socket;

pub use message::{Attr, Message, MessageMut, Received, attrs, attrs_at};
pub use socket::{Ack, Socket};

use rustix::io::Errno;

/// A netlink exchange that failed, by step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made.
    #[error("opening a netlink socket (protocol {protocol})")]
    Open {
        /// `NETLINK_*` number.
        protocol: u32,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The request could not be handed to the kernel.
    #[error("sending {what} ({bytes} bytes)")]
    Send {
        /// The request in words.
        what: String,
        /// Its size.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// No answer could be read; the outcome of the request is unknown.
    #[error("waiting for the answer to {what}")]
    Receive {
        /// The request in words.
        what: String,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The kernel refused.
    #[error("{what}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Refused {
        /// The request, or the object of a batch that was refused, in words.
        what: String,
        /// The kernel's extended text, when it gave one.
        detail: Option<String>,
        /// The errno.
        #[source]
        source: Errno,
    },
    /// The dump changed under our hands more often than we were willing to start again.
    #[error("{what}: interrupted by changes each time")]
    Interrupted {
        /// The request in words.
        what: String,
    },
    /// A namespace could not be entered, made or pinned.
    #[error("network namespace {path}: {step}")]
    Namespace {
        /// Which one.
        path: String,
        /// Which step.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// A link of that name is not there.
    #[error("no link {0:?}")]
    NoLink(String),
}

impl Error {
    /// The errno behind it, when the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Open { source, .. }
            | Self::Send { source, .. }
            | Self::Receive { source, .. }
            | Self::Refused { source, .. }
            | Self::Namespace { source, .. } => Some(*source),
            Self::Interrupted { .. } => None,
            Self::NoLink(_) => Some(Errno::NODEV),
        }
    }

    /// The object was there already.
    pub fn exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// The object is not there (`ENOENT`, `ENODEV`, `ESRCH`, `EADDRNOTAVAIL`: each netlink family has its own word).
    pub fn not_found(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL))
    }
}
