//! Expressions, with macros already expanded.

/// An expression and where it begins in the source (in bytes).
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) at: usize,
    /// Levels below this one: walks use the stack, so the parser keeps to a limit.
    pub(super) height: usize,
    pub(super) kind: Kind,
}

impl Expr {
    pub(super) fn new(at: usize, kind: Kind) -> Self {
        let height = 1 + kind.height();
        Self { at, height, kind }
    }
}

impl Kind {
    fn height(&self) -> usize {
        let most = |inner: &mut dyn Iterator<Item = &Expr>| inner.map(|inner| inner.height).max().unwrap_or(0);
        match self {
            Self::Literal(_) | Self::Ident(_) => 0,
            Self::Select { operand, .. } => operand.height,
            Self::Call { target, args, .. } => most(&mut target.as_deref().into_iter().chain(args)),
            Self::Index { operand, index, .. } => operand.height.max(index.height),
            Self::And(left, right) | Self::Or(left, right) => left.height.max(right.height),
            Self::Conditional(parts) => most(&mut parts.iter()),
            Self::List(items) => most(&mut items.iter().map(|(_, item)| item)),
            Self::Map(entries) => most(&mut entries.iter().flat_map(|(_, key, value)| [key, value])),
            Self::Make { fields, .. } => most(&mut fields.iter().map(|(_, _, value)| value)),
            Self::Fold(fold) => most(&mut [&fold.range].into_iter().chain(&fold.filter).chain(&fold.result)),
            Self::OptMap { target, body, .. } => target.height.max(body.height),
            Self::Bind { value, body, .. } => value.height.max(body.height),
        }
    }
}

#[derive(Debug)]
pub(super) enum Kind {
    Literal(Literal),
    Ident(String),
    /// `a.b`; `optional`: `a.?b`; `test`: `has(a.b)`.
    Select {
        operand: Box<Expr>,
        field: String,
        optional: bool,
        test: bool,
    },
    /// `f(x)` and `a.f(x)`; operators have names such as `_+_`.
    Call {
        target: Option<Box<Expr>>,
        name: String,
        args: Vec<Expr>,
    },
    /// `a[b]`, and `a[?b]`.
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Conditional(Box<[Expr; 3]>),
    /// Elements; the flag: `?x`, left out when empty.
    List(Vec<(bool, Expr)>),
    Map(Vec<(bool, Expr, Expr)>),
    /// `Object.spec{replicas: 1, ?paused: x}`.
    Make {
        name: String,
        fields: Vec<(bool, String, Expr)>,
    },
    Fold(Box<Fold>),
    /// `cel.bind(x, value, body)`.
    Bind {
        variable: String,
        value: Box<Expr>,
        body: Box<Expr>,
    },
    /// `a.optMap(x, e)`; `flat`: `optFlatMap`.
    OptMap {
        target: Box<Expr>,
        variable: String,
        body: Box<Expr>,
        flat: bool,
    },
}

/// A macro over a list or a map.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) over: FoldKind,
    pub(super) range: Expr,
    pub(super) first: String,
    /// With two variables the first is the index or key, the second the value.
    pub(super) second: Option<String>,
    /// Which elements count; the predicate of `all`, `exists` and `exists_one`.
    pub(super) filter: Option<Expr>,
    pub(super) result: Option<Expr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    TransformMap,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}
