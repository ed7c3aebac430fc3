//! Evaluation: a walk over the expression.

use super::ast::{Expr, Fold, FoldKind, Kind, Literal};
use super::functions::AccessStep;
use super::value::{Outcome, Val, failed, lift, lower, some};
use super::{Access, AccessAnswer, AccessQuestion, Binding, EvalError, Program, functions};
use crate::value::Value;
use std::borrow::Cow;
use std::rc::Rc;

/// What an evaluation gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// `true` or `false`.
    Bool(bool),
    /// A string.
    String(String),
    /// Anything else that JSON has.
    Other(Value),
}

/// Variables that are spoken of, those of macros included.
pub(super) fn names(expression: &Expr, out: &mut Vec<String>) {
    let mut each = |inner: &Expr| names(inner, out);
    match &expression.kind {
        Kind::Literal(_) => {}
        Kind::Ident(name) => {
            if !out.contains(name) {
                out.push(name.clone());
            }
        }
        Kind::Select { operand, .. } => each(operand),
        Kind::Call { target, args, .. } => target.as_deref().into_iter().chain(args).for_each(each),
        Kind::Index { operand, index, .. } => {
            each(operand);
            each(index);
        }
        Kind::And(left, right) | Kind::Or(left, right) => {
            each(left);
            each(right);
        }
        Kind::Conditional(parts) => parts.iter().for_each(each),
        Kind::List(items) => items.iter().for_each(|(_, item)| each(item)),
        Kind::Map(entries) => entries.iter().for_each(|(_, key, value)| {
            each(key);
            each(value);
        }),
        Kind::Make { fields, .. } => fields.iter().for_each(|(_, _, value)| each(value)),
        Kind::Fold(fold) => [&fold.range].into_iter().chain(&fold.filter).chain(&fold.result).for_each(each),
        Kind::OptMap { target, body, .. } | Kind::Bind { value: target, body, .. } => {
            each(target);
            each(body);
        }
    }
}

/// What expressions speak of, put in place once for several of them. What `variables` says is found when it is first asked
/// for, and then kept, failures included.
pub struct Activation<'v> {
    machine: Machine<'v>,
}

impl<'v> Activation<'v> {
    /// With the variables' values.
    pub fn new(bindings: &[Binding<'v>]) -> Result<Self, EvalError> {
        let mut scope = Vec::new();
        for binding in bindings {
            let value = match binding.value {
                Some(value) => Some(lift(value, binding.shape)?),
                None => None,
            };
            let value = match (value, binding.optional) {
                (Some(value), true) => some(value),
                (None, true) => Val::Optional(None),
                (value, false) => value.unwrap_or(Val::Null),
            };
            scope.push((binding.name, value));
        }
        let outermost = scope.len();
        Ok(Self { machine: Machine { scope, outermost, left: 0, composed: &[], found: Vec::new(), access: None } })
    }

    /// With what is found below `variables`, in their order; one may speak of those before it.
    pub fn composing(mut self, variables: &'v [(String, Program)]) -> Self {
        self.machine.composed = variables;
        self.machine.found = vec![None; variables.len()];
        self
    }

    /// With `authorizer`.
    pub fn asking(mut self, access: &'v dyn Access) -> Self {
        let authorizer = AccessStep::Authorizer(AccessQuestion::default());
        self.machine.scope.push(("authorizer", Val::Access(Rc::new(authorizer))));
        self.machine.outermost += 1;
        self.machine.access = Some(access);
        self
    }

    /// Evaluates one of them. What it costs is taken from `budget`.
    pub fn evaluate(&mut self, program: &'v Program, budget: &mut u64) -> Result<Output, EvalError> {
        self.machine.left = *budget;
        let found = self.machine.eval(&program.root);
        *budget = self.machine.left;
        Ok(match found? {
            Val::Bool(flag) => Output::Bool(flag),
            Val::Str(text) => Output::String(text.into_owned()),
            other => Output::Other(lower(&other)?),
        })
    }
}

pub(super) struct Machine<'v> {
    scope: Vec<(&'v str, Val<'v>)>,
    /// How much of the scope every expression sees.
    outermost: usize,
    left: u64,
    composed: &'v [(String, Program)],
    found: Vec<Option<Outcome<'v>>>,
    access: Option<&'v dyn Access>,
}

impl<'v> Machine<'v> {
    /// Takes from the budget.
    pub(super) fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::TooDear)
            }
        }
    }

    /// Asks the authorizer.
    pub(super) fn decide(&self, question: &AccessQuestion) -> Option<AccessAnswer> {
        self.access.map(|access| access.decide(question))
    }

    /// `variables.NAME`.
    fn composed(&mut self, name: &str) -> Outcome<'v> {
        let all = self.composed;
        let Some(place) = all.iter().position(|(known, _)| known == name) else {
            return failed(format!("no such key: {name}"));
        };
        if let Some(known) = &self.found[place] {
            return known.clone();
        }
        // It sees what every expression sees, and nothing of the one that asks.
        let inner = self.scope.split_off(self.outermost);
        let found = self.eval(&all[place].1.root);
        self.scope.truncate(self.outermost);
        self.scope.extend(inner);
        self.found[place] = Some(found.clone());
        found
    }

    fn eval<'e: 'v>(&mut self, expression: &'e Expr) -> Outcome<'v> {
        match &expression.kind {
            Kind::Literal(literal) => Ok(match literal {
                Literal::Null => Val::Null,
                Literal::Bool(flag) => Val::Bool(*flag),
                Literal::Int(number) => Val::Int(*number),
                Literal::Uint(number) => Val::Uint(*number),
                Literal::Double(number) => Val::Double(*number),
                Literal::String(text) => Val::Str(Cow::Borrowed(text)),
                Literal::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
            }),
            Kind::Ident(name) => {
                self.spend(1)?;
                if let Some((_, value)) = self.scope.iter().rev().find(|(known, _)| known == name) {
                    return Ok(value.clone());
                }
                let known = super::check::TYPE_NAMES.iter().find(|known| *known == name);
                known.map_or_else(|| failed(format!("no such attribute: {name}")), |name| Ok(Val::Type(name)))
            }
            Kind::Select { operand, field, optional, test } => self.select(operand, field, *optional, *test),
            Kind::Index { operand, index, optional } => {
                let operand = self.eval(operand)?;
                let index = self.eval(index)?;
                self.spend(1)?;
                self.index(operand, &index, *optional)
            }
            Kind::And(left, right) => self.logic(left, right, false),
            Kind::Or(left, right) => self.logic(left, right, true),
            Kind::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                match self.eval(condition)? {
                    Val::Bool(true) => self.eval(then),
                    Val::Bool(false) => self.eval(otherwise),
                    _ => failed("no such overload"),
                }
            }
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Make { fields, .. } => self.make(fields),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind { variable, value, body } => {
                let value = self.eval(value)?;
                self.within(variable, value, body)
            }
            Kind::OptMap { target, variable, body, flat } => match self.eval(target)? {
                Val::Optional(None) => Ok(Val::Optional(None)),
                Val::Optional(Some(inner)) => {
                    let found = self.within(variable, (*inner).clone(), body);
                    if *flat { found } else { Ok(some(found?)) }
                }
                _ => failed("no such overload"),
            },
            Kind::Call { target, name, args } => {
                let mut values = Vec::with_capacity(args.len() + 1);
                for argument in target.as_deref().into_iter().chain(args) {
                    values.push(self.eval(argument)?);
                }
                self.spend(1)?;
                functions::call(self, name, target.is_some(), values)
            }
        }
    }

    /// What `body` is when `variable` has a value.
    fn within<'e: 'v>(&mut self, variable: &'e str, value: Val<'v>, body: &'e Expr) -> Outcome<'v> {
        self.scope.push((variable, value));
        let found = self.eval(body);
        self.scope.pop();
        found
    }

    fn list<'e: 'v>(&mut self, items: &'e [(bool, Expr)]) -> Outcome<'v> {
        self.spend(10)?;
        let mut out = Vec::with_capacity(items.len());
        for (optional, item) in items {
            out.extend(self.given(*optional, item)?);
        }
        Ok(Val::List(Rc::new(out)))
    }

    /// A value, or what an optional one holds.
    fn given<'e: 'v>(&mut self, optional: bool, value: &'e Expr) -> Result<Option<Val<'v>>, EvalError> {
        match (optional, self.eval(value)?) {
            (false, value) => Ok(Some(value)),
            (true, Val::Optional(inner)) => Ok(inner.map(|inner| (*inner).clone())),
            (true, _) => failed("no such overload").map(Some),
        }
    }

    fn map<'e: 'v>(&mut self, entries: &'e [(bool, Expr, Expr)]) -> Outcome<'v> {
        self.spend(30)?;
        let mut out: Vec<(Val<'v>, Val<'v>)> = Vec::with_capacity(entries.len());
        for (optional, key, value) in entries {
            let key = self.eval(key)?;
            let Some(value) = self.given(*optional, value)? else { continue };
            for (known, _) in &out {
                if known.equal(&key)? {
                    return failed("Failed with repeated key");
                }
            }
            out.push((key, value));
        }
        Ok(Val::Map(Rc::new(out)))
    }

    fn make<'e: 'v>(&mut self, fields: &'e [(bool, String, Expr)]) -> Outcome<'v> {
        self.spend(40)?;
        let mut out: Vec<(Val<'v>, Val<'v>)> = Vec::with_capacity(fields.len());
        for (optional, field, value) in fields {
            if let Some(value) = self.given(*optional, value)? {
                out.push((Val::Str(Cow::Borrowed(field)), value));
            }
        }
        Ok(Val::Map(Rc::new(out)))
    }

    /// An error on one side does not matter when the other decides.
    fn logic<'e: 'v>(&mut self, left: &'e Expr, right: &'e Expr, decides: bool) -> Outcome<'v> {
        let left = match self.eval(left) {
            Ok(Val::Bool(flag)) if flag == decides => return Ok(Val::Bool(decides)),
            Err(EvalError::TooDear) => return Err(EvalError::TooDear),
            other => other,
        };
        match self.eval(right) {
            Ok(Val::Bool(flag)) if flag == decides => Ok(Val::Bool(decides)),
            Err(EvalError::TooDear) => Err(EvalError::TooDear),
            right => match (left?, right?) {
                (Val::Bool(_), Val::Bool(_)) => Ok(Val::Bool(!decides)),
                _ => failed("no such overload"),
            },
        }
    }

    fn select<'e: 'v>(&mut self, operand: &'e Expr, field: &'e str, optional: bool, test: bool) -> Outcome<'v> {
        if let Kind::Select { operand: inner, .. } = &operand.kind
            && matches!(&inner.kind, Kind::Ident(name) if name == "google")
        {
            return Ok(Val::Type(if field == "Timestamp" {
                "google.protobuf.Timestamp"
            } else {
                "google.protobuf.Duration"
            }));
        }
        if let Kind::Ident(name) = &operand.kind {
            let shadowed = self.scope.iter().any(|(known, _)| known == name);
            if name == "variables" && !shadowed {
                self.spend(1)?;
                let known = self.composed.iter().any(|(known, _)| known == field);
                return if test { Ok(Val::Bool(known)) } else { self.composed(field) };
            }
            if name == "authorizer"
                && field == "requestResource"
                && !test
                && let Some(access) = self.access
            {
                return Ok(Val::Access(Rc::new(AccessStep::Resource(access.request_resource()))));
            }
        }
        let operand = self.eval(operand)?;
        self.spend(1)?;
        let (operand, lifted) = match operand {
            Val::Optional(None) if test => return Ok(Val::Bool(false)),
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, false),
        };
        if !matches!(operand, Val::Object(..) | Val::Map(_)) {
            return failed("no such overload");
        }
        let found = operand.field(field).transpose()?;
        match (found, test, optional || lifted) {
            (found, true, _) => Ok(Val::Bool(found.is_some())),
            (Some(found), false, true) => Ok(some(found)),
            (None, false, true) => Ok(Val::Optional(None)),
            (Some(found), false, false) => Ok(found),
            (None, false, false) => failed(format!("no such key: {field}")),
        }
    }

    fn index(&mut self, operand: Val<'v>, index: &Val<'v>, optional: bool) -> Outcome<'v> {
        let (operand, lifted) = match operand {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, false),
        };
        let optional = optional || lifted;
        let found = if operand.is_list() {
            let Some(number) = functions::as_index(index) else { return failed("no such overload") };
            let place = usize::try_from(number).ok();
            let found = place.and_then(|place| operand.item(place)).transpose()?;
            if found.is_none() && !optional {
                return failed(format!("index out of bounds: {number}"));
            }
            found
        } else if matches!(operand, Val::Object(..) | Val::Map(_)) {
            self.spend(if matches!(operand, Val::Map(_)) { operand.len().unwrap_or(0) as u64 / 10 } else { 0 })?;
            let found = operand.key(index)?;
            if found.is_none() && !optional {
                let key = match index {
                    Val::Str(text) => text.clone().into_owned(),
                    other => functions::to_text(other)?,
                };
                return failed(format!("no such key: {key}"));
            }
            found
        } else {
            return failed("no such overload");
        };
        Ok(match (found, optional) {
            (Some(found), true) => some(found),
            (None, true) => Val::Optional(None),
            (Some(found), false) => found,
            (None, false) => return failed("no such key"),
        })
    }

    fn fold<'e: 'v>(&mut self, fold: &'e Fold) -> Outcome<'v> {
        let range = self.eval(&fold.range)?;
        let mut out = Collected { list: Vec::new(), map: Vec::new(), count: 0, error: None };
        let depth = self.scope.len();
        let length = range.len().filter(|_| !matches!(range, Val::Str(_) | Val::Bytes(_)));
        let Some(length) = length else { return failed("no such overload") };
        // A map's entries are put together once; a list's items are read one by one.
        let entries = if range.is_list() { Vec::new() } else { range.entries()? };
        let mut decided = None;
        for place in 0..length {
            self.spend(1)?;
            let (first, value) = match entries.get(place) {
                Some((key, value)) => (key.clone(), value.clone()),
                None => {
                    let Some(item) = range.item(place) else { break };
                    (Val::Int(i64::try_from(place).unwrap_or(i64::MAX)), item?)
                }
            };
            let only = if range.is_list() { value.clone() } else { first.clone() };
            match &fold.second {
                Some(second) => {
                    self.scope.push((&fold.first, first.clone()));
                    self.scope.push((second, value));
                }
                None => self.scope.push((&fold.first, only.clone())),
            }
            let step = self.step(fold, &first, only, &mut out);
            self.scope.truncate(depth);
            if let Some(answer) = step? {
                decided = Some(answer);
                break;
            }
        }
        if let Some(answer) = decided {
            return Ok(answer);
        }
        if let Some(error) = out.error {
            return Err(error);
        }
        Ok(match fold.over {
            FoldKind::All => Val::Bool(true),
            FoldKind::Exists => Val::Bool(false),
            FoldKind::ExistsOne => Val::Bool(out.count == 1),
            FoldKind::Filter | FoldKind::Map => Val::List(Rc::new(out.list)),
            FoldKind::TransformMap => Val::Map(Rc::new(out.map)),
        })
    }

    /// One element; `Some` when the rest does not matter.
    fn step<'e: 'v>(
        &mut self,
        fold: &'e Fold,
        key: &Val<'v>,
        element: Val<'v>,
        out: &mut Collected<'v>,
    ) -> Result<Option<Val<'v>>, EvalError> {
        let counts = match &fold.filter {
            None => true,
            Some(filter) => match (self.eval(filter), fold.over) {
                (Ok(Val::Bool(flag)), _) => flag,
                (Err(EvalError::TooDear), _) => return Err(EvalError::TooDear),
                // Another element may still decide.
                (found, FoldKind::All | FoldKind::Exists) => {
                    let error = found.err().unwrap_or_else(|| EvalError::Failed("no such overload".to_owned()));
                    out.error.get_or_insert(error);
                    return Ok(None);
                }
                (Err(error), _) => return Err(error),
                (Ok(_), _) => return failed("no such overload"),
            },
        };
        match (fold.over, counts) {
            (FoldKind::All, false) => return Ok(Some(Val::Bool(false))),
            (FoldKind::Exists, true) => return Ok(Some(Val::Bool(true))),
            (FoldKind::ExistsOne, true) => out.count += 1,
            (FoldKind::Filter, true) => out.list.push(element),
            (FoldKind::Map, true) => {
                if let Some(result) = &fold.result {
                    out.list.push(self.eval(result)?);
                }
            }
            (FoldKind::TransformMap, true) => {
                if let Some(result) = &fold.result {
                    let value = self.eval(result)?;
                    out.map.push((key.clone(), value));
                }
            }
            _ => {}
        }
        Ok(None)
    }
}

/// What a fold has so far.
struct Collected<'v> {
    list: Vec<Val<'v>>,
    map: Vec<(Val<'v>, Val<'v>)>,
    count: usize,
    error: Option<EvalError>,
}
