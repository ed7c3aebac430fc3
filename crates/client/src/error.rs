//! Why a call failed.

use skiff_machinery::ApiError;
use std::sync::Arc;

/// Why a call failed. A variant is the step that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a failure `Status`.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No answer came. A write may have happened.
    #[error("{method} {path}: no answer")]
    Transport {
        /// HTTP method.
        method: String,
        /// Path.
        path: String,
        /// What the transport says.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The answer could not be read.
    #[error("{method} {path}: the answer cannot be read: {what}")]
    Decode {
        /// HTTP method.
        method: String,
        /// Path.
        path: String,
        /// What does not fit.
        what: String,
    },
    /// An object could not be written as JSON.
    #[error("the object cannot be encoded: {0}")]
    Encode(String),
}

impl ClientError {
    /// The server's answer, when there was one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            _ => None,
        }
    }
    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.api().is_some_and(ApiError::is_not_found)
    }
    /// Whether somebody else was faster.
    pub fn is_conflict(&self) -> bool {
        self.api().is_some_and(ApiError::is_conflict)
    }
    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.api().is_some_and(ApiError::is_already_exists)
    }
    /// Whether the revision asked for is gone (410).
    pub fn is_expired(&self) -> bool {
        self.api().is_some_and(|error| error.code() == 410)
    }
}
