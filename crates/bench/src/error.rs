//! What can go wrong, by step.

use std::path::PathBuf;

/// Why a row has no figure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The flags do not fit together.
    #[error("{0}")]
    Flags(String),
    /// No place for data.
    #[error("cannot use {path}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server did not start.
    #[error("cannot start {program}")]
    Spawn {
        /// What.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended by itself. Its last words are in the message.
    #[error("the server ended ({status}); it said:\n{log}")]
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// Something did not come about in time.
    #[error("{what} within {seconds} s")]
    Late {
        /// What did not.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// TLS could not be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] skiff_net::tls::TlsError),
    /// No answer.
    #[error("{request}")]
    Unanswered {
        /// Method and path.
        request: String,
        /// Why.
        #[source]
        source: skiff_net::client::ClientError,
    },
    /// An answer broke off.
    #[error("{request}: the answer broke off")]
    BrokenOff {
        /// Method and path.
        request: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another answer than the one that was to be measured.
    #[error("{request} was answered {status}: {body}")]
    Refused {
        /// Method and path.
        request: String,
        /// Its status.
        status: http::StatusCode,
        /// The beginning of what it says.
        body: String,
    },
    /// An answer that holds something else than it should.
    #[error("{request}: {what}")]
    Content {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        what: String,
    },
    /// Some rows have no figure; their lines say why.
    #[error("{0} of the rows could not be measured")]
    Rows(usize),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}
