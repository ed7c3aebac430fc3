//! Why a store operation failed.

use crate::Revision;
use std::sync::Arc;

/// Why a store operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for is behind the horizon.
    #[error("mvcc: required revision has been compacted")]
    Compacted {
        /// The oldest revision that can still be read.
        horizon: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision {
        /// The newest revision.
        newest: Revision,
    },
    /// There is no such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// The lease id is taken.
    #[error("lease already exists")]
    LeaseExists,
    /// A key appears twice among a transaction's writes.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// The request breaks a limit.
    #[error("{0}")]
    Invalid(String),
    /// No space is left for writes; reads and deletes go on.
    #[error("no space left on the device of the data directory: writes are refused until space returns")]
    NoSpace,
    /// The write was submitted, but whether it was committed is not known.
    #[error("the outcome of the write is unknown: {0}")]
    OutcomeUnknown(String),
    /// What stands on disk is damaged.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// Reading or writing failed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// The store is closed or cannot be reached.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Another process has the data directory open.
    #[error("data directory {directory} is in use by another process{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        directory: String,
        /// Who has it, when the lock file says so.
        pid: Option<u32>,
    },
    /// The data directory was written by a build this one does not understand.
    #[error(
        "data directory has store format {found}; this build reads format {supported}: use the newer build that wrote it"
    )]
    Format {
        /// What the directory says.
        found: u32,
        /// What this build reads.
        supported: u32,
    },
}

impl StoreError {
    /// A failed read or write, with what was being done.
    pub(crate) fn io(step: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { step: step.into(), source: Arc::new(source) }
    }
}
