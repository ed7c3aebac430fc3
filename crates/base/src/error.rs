//! Errors as people read them.

use std::error::Error;

/// An error with all it stands on, in one line: messages do not repeat those of their sources.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the pair")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("a.key")]
    struct Inner(#[source] std::io::Error);

    #[test]
    fn all_causes_are_there() {
        assert_eq!(chain(&Inner(std::io::Error::other("gone"))), "a.key: gone");
        assert_eq!(chain(&Outer(Inner(std::io::Error::other("gone")))), "cannot read the pair: a.key: gone");
    }
}
