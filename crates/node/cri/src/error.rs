use std::future::Future;
use std::pin::Pin;

use futures_util::Stream;
use tonic::{Code, Status};

/// What a runtime answers instead of a result: a gRPC code and a message for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct CriError {
    /// The gRPC code; `NotFound` is the one callers decide on.
    pub code: Code,
    /// The runtime's words, shown to users in events.
    pub message: String,
}

/// An answer that is on its way.
pub type CriFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, CriError>> + Send + 'a>>;
/// A server stream: ends when the runtime closes it, after at most one error.
pub type CriStream<T> = Pin<Box<dyn Stream<Item = Result<T, CriError>> + Send + 'static>>;

impl CriError {
    /// An error with a code of the caller's choice.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
    /// The thing named by the request does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }
    /// The request itself is wrong; sending it again cannot help.
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }
    /// The thing is not in a state in which this can be done.
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }
    /// The runtime failed; upstream's runtimes use `Unknown` for an error of their own.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(Code::Unknown, message)
    }
    /// The runtime does not have this call or option.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }
    /// The call's own time limit passed.
    pub fn deadline_exceeded(message: impl Into<String>) -> Self {
        Self::new(Code::DeadlineExceeded, message)
    }
    /// Whether the named thing does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
    /// Whether the runtime does not have the call at all.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }
}

impl From<Status> for CriError {
    fn from(status: Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

impl From<CriError> for Status {
    fn from(error: CriError) -> Self {
        Status::new(error.code, error.message)
    }
}

pub(crate) fn unimplemented_rpc<'a, T: Send + 'a>(rpc: &'static str) -> CriFuture<'a, T> {
    Box::pin(std::future::ready(Err(CriError::unimplemented(format!("method {rpc} not implemented")))))
}
