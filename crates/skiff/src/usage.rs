//! What a person said that cannot be done: all mistakes at once, and an exit code of its own.

/// Mistakes in flags or in a configuration file. The process ends with 2.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\nskiff: "))]
pub(crate) struct UsageError(pub(crate) Vec<String>);

impl UsageError {
    /// One mistake.
    pub(crate) fn one(text: impl Into<String>) -> Self {
        Self(vec![text.into()])
    }
    /// Nothing, or everything that is wrong.
    pub(crate) fn all(mistakes: Vec<String>) -> Result<(), Self> {
        if mistakes.is_empty() { Ok(()) } else { Err(Self(mistakes)) }
    }
}

/// Keeps a value, or notes why there is none; the caller goes on and tells all mistakes at the end.
pub(crate) fn note<T>(outcome: Result<T, impl Into<String>>, mistakes: &mut Vec<String>) -> Option<T> {
    outcome.map_err(|mistake| mistakes.push(mistake.into())).ok()
}
