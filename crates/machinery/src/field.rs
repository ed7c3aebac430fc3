//! Paths to fields, as they stand in error messages: `spec.containers[0].env[name]`.
//!
//! Mirrors the notation of `k8s.io/apimachinery/pkg/util/validation/field/path.go`.

use std::fmt;

/// Where in an object a field stands. Cheap to extend on the stack: a path borrows its parent, and text is made only
/// when an error is reported.
#[derive(Clone, Copy)]
pub struct FieldPath<'a> {
    parent: Option<&'a FieldPath<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> FieldPath<'a> {
    /// The object itself; printed as the empty string.
    pub const ROOT: FieldPath<'static> = FieldPath { parent: None, step: Step::Root };

    /// A path that starts at the field `name`.
    pub const fn new(name: &'a str) -> Self {
        Self { parent: None, step: Step::Child(name) }
    }
    /// The field `name` below this one.
    pub fn child<'b>(&'b self, name: &'b str) -> FieldPath<'b> {
        FieldPath { parent: Some(self), step: Step::Child(name) }
    }
    /// The list item `index` below this one.
    pub fn index(&self, index: usize) -> FieldPath<'_> {
        FieldPath { parent: Some(self), step: Step::Index(index) }
    }
    /// The map entry `key` below this one.
    pub fn key<'b>(&'b self, key: &'b str) -> FieldPath<'b> {
        FieldPath { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut below_field = false;
        if let Some(parent) = self.parent {
            parent.fmt(out)?;
            below_field = !matches!((parent.parent, parent.step), (None, Step::Root));
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Child(name) if below_field => write!(out, ".{name}"),
            Step::Child(name) => out.write_str(name),
            Step::Index(index) => write!(out, "[{index}]"),
            Step::Key(key) => write!(out, "[{key}]"),
        }
    }
}
impl fmt::Debug for FieldPath<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_upstream() {
        let spec = FieldPath::new("spec");
        let containers = spec.child("containers");
        let item = containers.index(2);
        let env = item.child("env");
        assert_eq!(env.key("a").to_string(), "spec.containers[2].env[a]");
        assert_eq!(FieldPath::ROOT.child("metadata").to_string(), "metadata");
    }
}
