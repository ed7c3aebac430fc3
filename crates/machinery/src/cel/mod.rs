//! The Common Expression Language: parsing, type checking and evaluation, over trees.
//!
//! **Owns** the language and the libraries that Kubernetes adds to it. [`Program::compile`] says what is wrong with an
//! expression before it is ever used; [`Program::evaluate`] reads values where they are ([`Value`]s with an optional
//! [`Shape`], which says what a string or a number stands for) and stops when its budget is used up.
//!
//! **Must never know** who asks: rules of custom resources, policies and match conditions are callers. Pure: no clock, no
//! I/O.
//!
//! In order: `lexer`, `parser` (macros are expanded here), `signatures` and `check`, `eval` with `functions`.
//!
//! Mirrors cel-go and `k8s.io/apiserver/pkg/cel/library` in what an author sees. The cost of an expression is counted as
//! it runs, with cel-go's weights in the main; upstream also estimates it when a definition is created and refuses what
//! could become too dear, which is not done here: a rule that is too dear fails when it runs.
//!
//! Not here yet: `math` and the `base64` encoders. Objects are made for policies only (`Object{...}`,
//! `JSONPatch{...}`).

mod ast;
mod check;
mod eval;
mod functions;
mod lexer;
mod parser;
mod signatures;
#[cfg(test)]
mod tests;
mod typed;
mod types;
mod value;

use crate::schema::ListKind;
use crate::value::Value;
pub use eval::{Activation, Output};
use std::fmt;
use types::Ty;

/// What the values of a place are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ShapeKind {
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List,
    /// With any keys.
    Map,
    /// With known fields.
    Object,
    /// Nothing is known before it is there.
    Dyn,
}

/// A schema, as far as expressions care.
pub trait Shape: Send + Sync {
    /// What the values are.
    fn kind(&self) -> ShapeKind;
    /// Of items of a list or values of a map.
    fn item(&self) -> Option<&dyn Shape>;
    /// The field that expressions know by this name: its name in JSON and its shape.
    fn field(&self, name: &str) -> Option<(&str, Option<&dyn Shape>)>;
    /// How a list is compared.
    fn list(&self) -> &ListKind;
}

/// A declared variable.
#[derive(Clone, Copy)]
pub struct Variable<'s> {
    /// Its name.
    pub name: &'s str,
    /// What it is; `None`: any JSON.
    pub shape: Option<&'s dyn Shape>,
    /// Whether it is an optional value.
    pub optional: bool,
}

/// A variable's value.
#[derive(Clone, Copy)]
pub struct Binding<'v> {
    /// Its name.
    pub name: &'v str,
    /// What is there; `None` only for optional variables, and for others that is `null`.
    pub value: Option<&'v Value>,
    /// As it was declared.
    pub shape: Option<&'v dyn Shape>,
    /// As it was declared.
    pub optional: bool,
}

/// What an expression has to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Wanted {
    Bool,
    String,
    /// A string or `null`.
    StringOrNull,
    /// `Object{...}`.
    Object,
    /// A list of `JSONPatch{...}`.
    JsonPatches,
    Any,
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::String => "string",
            Self::StringOrNull => "string or null",
            Self::Object => "Object",
            Self::JsonPatches => "list(JSONPatch)",
            Self::Any => "dyn",
        }
    }
    fn takes(self, ty: &Ty<'_>) -> bool {
        let of_patches = |ty: &Ty<'_>| match ty {
            Ty::List(item) => item.is("JSONPatch") || item.is_dyn(),
            _ => false,
        };
        ty.is_dyn()
            || match self {
                Self::Any => true,
                Self::Bool => ty.is("bool"),
                Self::String => ty.is("string"),
                Self::StringOrNull => ty.is("string") || ty.is("null"),
                Self::Object => ty.is("Object"),
                Self::JsonPatches => of_patches(ty),
            }
    }
}

/// What an expression may speak of.
#[derive(Clone, Copy, Default)]
pub struct Environment<'e, 's> {
    /// Variables.
    pub variables: &'e [Variable<'s>],
    /// What stands below `variables`, with its types; `None`: there is no such variable.
    pub composed: Option<&'e [(String, Found<'s>)]>,
    /// Whether there is `authorizer`.
    pub authorizer: bool,
    /// Whether `Object{...}` and `JSONPatch{...}` can be made.
    pub makes: bool,
}

/// The type of what an expression gives, for [`Environment::composed`].
#[derive(Clone)]
pub struct Found<'s>(Ty<'s>);

impl Found<'_> {
    /// Nothing is known of it.
    pub const DYN: Found<'static> = Found(Ty::Dyn);
}

/// A question to an authorizer as an expression puts it together. Who asks is known to the one who is asked, unless a
/// service account is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct AccessQuestion {
    /// Namespace and name.
    pub service_account: Option<(String, String)>,
    /// Of a request that names no resource.
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
    pub verb: String,
}

/// What an authorizer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct AccessAnswer {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// Who answers questions about access.
pub trait Access {
    /// Answers one.
    fn decide(&self, question: &AccessQuestion) -> AccessAnswer;
    /// The question that a request itself put, but for the verb.
    fn request_resource(&self) -> AccessQuestion;
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// It compiles, and gives something else than is wanted.
    mismatch: bool,
    line: usize,
    column: usize,
    what: String,
    text: String,
}

impl std::error::Error for CompileError {}

impl fmt::Display for CompileError {
    /// As cel-go shows it: the place, the line, and a mark below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, what, text, .. } = self;
        write!(f, "ERROR: <input>:{line}:{column}: {what}\n | {text}\n | {:.>column$}", "^")
    }
}

impl CompileError {
    /// The detail of a field error about an expression (`plugin/cel/compile.go`).
    pub fn detail(&self) -> String {
        if self.mismatch { self.what.clone() } else { format!("compilation failed: {self}") }
    }
    fn at(source: &str, at: usize, what: String) -> Self {
        let before = &source[..at.min(source.len())];
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |found| found + 1);
        let column = before[start..].chars().count() + 1;
        let text = source[start..].lines().next().unwrap_or_default().to_owned();
        Self { mismatch: false, line, column, what, text }
    }
}

/// Why an evaluation gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression's own: a missing key, a division by zero.
    #[error("{0}")]
    Failed(String),
    /// The budget was used up.
    #[error("operation cancelled: actual cost limit exceeded")]
    TooDear,
}

/// Whether a word is a literal, an operator, or kept for one: nothing can be named so.
pub fn is_reserved(word: &str) -> bool {
    matches!(word, "true" | "false" | "null" | "in") || lexer::RESERVED.contains(&word)
}

/// Whether expressions can call something by this name.
pub fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !is_reserved(name)
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    root: ast::Expr,
    uses: Vec<String>,
}

impl Program {
    /// Parses and checks.
    pub fn compile(source: &str, variables: &[Variable<'_>], wanted: Wanted) -> Result<Self, CompileError> {
        let environment = Environment { variables, ..Environment::default() };
        Self::compile_in(source, &environment, wanted).map(|(program, _)| program)
    }

    /// Parses and checks; also what type it gives.
    pub fn compile_in<'s>(
        source: &str,
        environment: &Environment<'_, 's>,
        wanted: Wanted,
    ) -> Result<(Self, Found<'s>), CompileError> {
        let root = parser::parse(source)?;
        let ty = check::Checker::new(source, environment).check(&root)?;
        if !wanted.takes(&ty) {
            let what = format!("must evaluate to {}", wanted.name());
            return Err(CompileError { mismatch: true, ..CompileError::at(source, root.at, what) });
        }
        let mut uses = Vec::new();
        eval::names(&root, &mut uses);
        Ok((Self { root, uses }, Found(ty)))
    }

    /// Whether a variable is spoken of.
    pub fn uses(&self, variable: &str) -> bool {
        self.uses.iter().any(|used| used == variable)
    }

    /// Evaluates. What it costs is taken from `budget`.
    pub fn evaluate(&self, bindings: &[Binding<'_>], budget: &mut u64) -> Result<Output, EvalError> {
        Activation::new(bindings)?.evaluate(self, budget)
    }
}
