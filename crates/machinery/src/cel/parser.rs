//! Tokens to expressions, macros expanded (the grammar of `cel-spec/doc/langdef.md`).

use super::CompileError;
use super::ast::{Expr, Fold, FoldKind, Kind, Literal};
use super::lexer::{Token, tokens};

/// Deepest nesting: walks over an expression use the stack.
const MAX_DEPTH: usize = 40;
/// Deepest tree.
const MAX_HEIGHT: usize = 120;
/// Longest source.
const MAX_LENGTH: usize = 100_000;

/// Names before a dot that are no variables.
const NAMESPACES: [&str; 7] = ["sets", "optional", "format", "strings", "math", "ip", "jsonpatch"];

/// Parses a whole expression.
pub(super) fn parse(source: &str) -> Result<Expr, CompileError> {
    if source.len() > MAX_LENGTH {
        return Err(CompileError::at(source, 0, format!("the expression is longer than {MAX_LENGTH} bytes")));
    }
    let mut parser = Parser { source, tokens: tokens(source)?, at: 0, depth: 0 };
    let expression = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(expression),
        _ => Err(parser.unexpected()),
    }
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

type Parsed = Result<Expr, CompileError>;

fn call(at: usize, name: &str, args: Vec<Expr>) -> Expr {
    Expr::new(at, Kind::Call { target: None, name: name.to_owned(), args })
}

/// `a || b || c || d` as `(a || b) || (c || d)`: the order makes no difference, the depth does.
fn balanced(mut terms: Vec<Expr>, join: fn(Box<Expr>, Box<Expr>) -> Kind) -> Expr {
    while terms.len() > 1 {
        let mut pairs = terms.into_iter();
        let mut joined = Vec::new();
        while let Some(left) = pairs.next() {
            joined.push(match pairs.next() {
                Some(right) => Expr::new(left.at, join(Box::new(left), Box::new(right))),
                None => left,
            });
        }
        terms = joined;
    }
    terms.pop().expect("there was one term at least")
}

/// Binary operators, loosest first.
const LEVELS: [&[&str]; 3] = [&["==", "!=", "<", "<=", ">", ">=", "in"], &["+", "-"], &["*", "/", "%"]];

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].1
    }
    fn place(&self) -> usize {
        self.tokens[self.at].0
    }
    fn take(&mut self) -> Token {
        let token = self.tokens[self.at].1.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }
    fn accept(&mut self, operator: &str) -> bool {
        let found = matches!(self.peek(), Token::Op(found) if *found == operator);
        if found {
            self.take();
        }
        found
    }
    fn expect(&mut self, operator: &str) -> Result<(), CompileError> {
        if self.accept(operator) { Ok(()) } else { Err(self.unexpected()) }
    }
    fn unexpected(&self) -> CompileError {
        let found = match self.peek() {
            Token::End => "<EOF>".to_owned(),
            Token::Op(operator) => format!("'{operator}'"),
            Token::Ident(name) | Token::Quoted(name) => format!("'{name}'"),
            Token::Literal(_) => "a literal".to_owned(),
        };
        self.fault(self.place(), format!("Syntax error: unexpected {found}"))
    }
    fn fault(&self, at: usize, what: String) -> CompileError {
        CompileError::at(self.source, at, what)
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(self.place(), format!("the expression is nested deeper than {MAX_DEPTH} levels")));
        }
        let at = self.place();
        let condition = self.or()?;
        let out = if self.accept("?") {
            let then = self.or()?;
            self.expect(":")?;
            let otherwise = self.expression()?;
            Expr::new(at, Kind::Conditional(Box::new([condition, then, otherwise])))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(out)
    }

    fn or(&mut self) -> Parsed {
        let mut terms = vec![self.and()?];
        while self.accept("||") {
            terms.push(self.and()?);
        }
        Ok(balanced(terms, Kind::Or))
    }

    fn and(&mut self) -> Parsed {
        let mut terms = vec![self.binary(0)?];
        while self.accept("&&") {
            terms.push(self.binary(0)?);
        }
        Ok(balanced(terms, Kind::And))
    }

    /// Long chains make deep trees.
    fn bounded(&self, expression: Expr) -> Parsed {
        if expression.height > MAX_HEIGHT {
            let what = format!("the expression has more than {MAX_HEIGHT} levels");
            return Err(self.fault(expression.at, what));
        }
        Ok(expression)
    }

    fn binary(&mut self, level: usize) -> Parsed {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Token::Op(operator) = *self.peek() {
            if !operators.contains(&operator) {
                break;
            }
            let at = self.place();
            self.take();
            let right = self.binary(level + 1)?;
            let name = if operator == "in" { "@in".to_owned() } else { format!("_{operator}_") };
            left = self.bounded(call(at, &name, vec![left, right]))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let at = self.place();
        let operator = match self.peek() {
            Token::Op("!") => "!_",
            Token::Op("-") => "-_",
            _ => return self.member(),
        };
        // Chains of one operator, without the stack.
        let own = operator.trim_end_matches('_');
        let mut count = 0;
        while self.accept(own) {
            count += 1;
        }
        if operator == "-_"
            && let Token::Literal(literal) = self.peek().clone()
            && let Some(negated) = negated(&literal)
        {
            self.tokens[self.at].1 = Token::Literal(negated);
            count -= 1;
        }
        let mut inner = self.member()?;
        for _ in 0..count % 2 {
            inner = call(at, operator, vec![inner]);
        }
        Ok(inner)
    }

    fn member(&mut self) -> Parsed {
        let mut left = self.primary()?;
        loop {
            let at = self.place();
            if self.accept(".?") {
                let field = self.name()?;
                left = Expr::new(at, Kind::Select { operand: Box::new(left), field, optional: true, test: false });
            } else if self.accept(".") {
                let field = self.name()?;
                if self.accept("(") {
                    let args = self.arguments(")")?;
                    left = self.member_call(at, left, field, args)?;
                } else {
                    let start = left.at;
                    let operand = Box::new(left);
                    left = Expr::new(at, Kind::Select { operand, field, optional: false, test: false });
                    if let Some(name) = dotted(&left)
                        && let Some(made) = self.make(start, &name)?
                    {
                        left = made;
                    }
                }
            } else if self.accept("[") || matches!(self.peek(), Token::Op("[?")) {
                let optional = self.accept("[?") || self.accept("?");
                let index = Box::new(self.expression()?);
                self.expect("]")?;
                left = Expr::new(at, Kind::Index { operand: Box::new(left), index, optional });
            } else {
                return Ok(left);
            }
            left = self.bounded(left)?;
        }
    }

    fn name(&mut self) -> Result<String, CompileError> {
        match self.peek().clone() {
            Token::Ident(name) | Token::Quoted(name) => {
                self.take();
                Ok(name)
            }
            // `self.in` is written `self.__in__`; the plain word is no field.
            _ => Err(self.unexpected()),
        }
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>, CompileError> {
        let mut out = Vec::new();
        while !self.accept(close) {
            out.push(self.expression()?);
            if !self.accept(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(out)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.place();
        match self.peek().clone() {
            Token::Literal(literal) => {
                self.take();
                if literal == Literal::Int(i64::MIN) {
                    // Only a negated literal may be that small: `unary` has put the sign in already.
                    let signed = self.at >= 2 && matches!(self.tokens[self.at - 2].1, Token::Op("-"));
                    if !signed {
                        return Err(self.fault(at, "Syntax error: invalid int literal".to_owned()));
                    }
                }
                Ok(Expr::new(at, Kind::Literal(literal)))
            }
            Token::Ident(name) => {
                self.take();
                if self.accept("(") {
                    let args = self.arguments(")")?;
                    return self.global_call(at, name, args);
                }
                if let Some(made) = self.make(at, &name)? {
                    return Ok(made);
                }
                Ok(Expr::new(at, Kind::Ident(name)))
            }
            // A leading dot: the outermost scope.
            Token::Op(".") => {
                self.take();
                let name = self.name()?;
                if self.accept("(") {
                    let args = self.arguments(")")?;
                    return self.global_call(at, name, args);
                }
                Ok(Expr::new(at, Kind::Ident(name)))
            }
            Token::Op("(") => {
                self.take();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Op("[" | "[?") => {
                let mut optional = self.accept("[?") || (self.accept("[") && self.accept("?"));
                let mut items = Vec::new();
                while !self.accept("]") {
                    items.push((optional, self.expression()?));
                    if !self.accept(",") {
                        self.expect("]")?;
                        break;
                    }
                    optional = self.accept("?");
                }
                Ok(Expr::new(at, Kind::List(items)))
            }
            Token::Op("{") => {
                self.take();
                let mut entries = Vec::new();
                while !self.accept("}") {
                    let optional = self.accept("?");
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push((optional, key, self.expression()?));
                    if !self.accept(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                Ok(Expr::new(at, Kind::Map(entries)))
            }
            _ => Err(self.unexpected()),
        }
    }

    /// `{field: value, ?field: optional}` behind the name of a type; `None` when no brace stands there.
    fn make(&mut self, at: usize, name: &str) -> Result<Option<Expr>, CompileError> {
        if !self.accept("{") {
            return Ok(None);
        }
        let mut fields = Vec::new();
        while !self.accept("}") {
            let optional = self.accept("?");
            let field = self.name()?;
            self.expect(":")?;
            fields.push((optional, field, self.expression()?));
            if !self.accept(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Some(Expr::new(at, Kind::Make { name: name.to_owned(), fields })))
    }

    fn global_call(&mut self, at: usize, name: String, mut args: Vec<Expr>) -> Parsed {
        if name == "has" && args.len() == 1 {
            return match args.pop().map(|argument| argument.kind) {
                Some(Kind::Select { operand, field, optional, .. }) => {
                    Ok(Expr::new(at, Kind::Select { operand, field, optional, test: true }))
                }
                _ => Err(self.fault(at, "invalid argument to has() macro".to_owned())),
            };
        }
        Ok(call(at, &name, args))
    }

    fn member_call(&mut self, at: usize, target: Expr, name: String, args: Vec<Expr>) -> Parsed {
        if matches!(&target.kind, Kind::Ident(own) if own == "cel") && name == "bind" && args.len() == 3 {
            let mut args = args.into_iter();
            let variable = self.variable(args.next())?;
            let (Some(value), Some(body)) = (args.next(), args.next()) else { return Err(self.unexpected()) };
            return Ok(Expr::new(at, Kind::Bind { variable, value: Box::new(value), body: Box::new(body) }));
        }
        if let Kind::Ident(namespace) = &target.kind
            && NAMESPACES.contains(&namespace.as_str())
        {
            return Ok(call(at, &format!("{namespace}.{name}"), args));
        }
        let over = match (name.as_str(), args.len()) {
            ("all", 2 | 3) => Some(FoldKind::All),
            ("exists", 2 | 3) => Some(FoldKind::Exists),
            ("exists_one", 2) | ("existsOne", 2 | 3) => Some(FoldKind::ExistsOne),
            ("filter", 2) => Some(FoldKind::Filter),
            ("map", 2 | 3) | ("transformList", 3 | 4) => Some(FoldKind::Map),
            ("transformMap", 3 | 4) => Some(FoldKind::TransformMap),
            ("optMap" | "optFlatMap", 2) => {
                let mut args = args.into_iter();
                let variable = self.variable(args.next())?;
                let Some(body) = args.next() else { return Err(self.unexpected()) };
                let (target, body) = (Box::new(target), Box::new(body));
                return Ok(Expr::new(at, Kind::OptMap { target, variable, body, flat: name == "optFlatMap" }));
            }
            _ => None,
        };
        match over {
            Some(over) => self.fold(at, over, &name, target, args),
            None => Ok(Expr::new(at, Kind::Call { target: Some(Box::new(target)), name, args })),
        }
    }

    fn fold(&mut self, at: usize, over: FoldKind, name: &str, range: Expr, args: Vec<Expr>) -> Parsed {
        let count = args.len();
        let mut args = args.into_iter();
        let first = self.variable(args.next())?;
        let two = matches!(name, "transformList" | "transformMap")
            || count == 3 && matches!(over, FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne);
        let second = if two { Some(self.variable(args.next())?) } else { None };
        let last = args.next_back();
        let (filter, result) = match over {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne | FoldKind::Filter => (last, None),
            FoldKind::Map | FoldKind::TransformMap => (args.next(), last),
        };
        Ok(Expr::new(at, Kind::Fold(Box::new(Fold { over, range, first, second, filter, result }))))
    }

    fn variable(&self, argument: Option<Expr>) -> Result<String, CompileError> {
        match argument {
            Some(Expr { kind: Kind::Ident(name), .. }) => Ok(name),
            Some(other) => Err(self.fault(other.at, "argument must be a simple name".to_owned())),
            None => Err(self.unexpected()),
        }
    }
}

/// `a.b.c` when an expression is nothing but names.
fn dotted(expression: &Expr) -> Option<String> {
    match &expression.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select { operand, field, optional: false, test: false } => Some(format!("{}.{field}", dotted(operand)?)),
        _ => None,
    }
}

fn negated(literal: &Literal) -> Option<Literal> {
    match literal {
        Literal::Int(number) => Some(Literal::Int(number.wrapping_neg())),
        Literal::Double(number) => Some(Literal::Double(-number)),
        _ => None,
    }
}
