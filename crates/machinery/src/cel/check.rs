//! Whether an expression makes sense, before it is ever evaluated (cel-go's `checker`).

use super::CompileError;
use super::ast::{Expr, Fold, FoldKind, Kind, Literal};
use super::signatures::Signatures;
use super::types::{AUTHORIZER, BOOL, INT, JSON_PATCH, OBJECT, STRING, Ty};
use super::{Environment, Shape};
use std::rc::Rc;

/// Names that are types.
pub(super) const TYPE_NAMES: [&str; 9] =
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type"];

pub(super) struct Checker<'a, 's> {
    source: &'a str,
    signatures: Signatures,
    scope: Vec<(String, Ty<'s>)>,
    /// Whether objects can be made.
    makes: bool,
}

type Checked<'s> = Result<Ty<'s>, CompileError>;

impl<'a, 's> Checker<'a, 's> {
    pub(super) fn new(source: &'a str, environment: &Environment<'_, 's>) -> Self {
        let scope = environment.variables.iter().map(|variable| {
            let ty = variable.shape.map_or(Ty::Dyn, Ty::of);
            let ty = if variable.optional { Ty::Optional(Rc::new(ty)) } else { ty };
            (variable.name.to_owned(), ty)
        });
        let mut scope: Vec<_> = scope.collect();
        if let Some(composed) = environment.composed {
            let each = composed.iter().map(|(name, found)| (name.clone(), found.0.clone()));
            scope.push(("variables".to_owned(), Ty::Composed(Rc::new(each.collect()))));
        }
        if environment.authorizer {
            scope.push(("authorizer".to_owned(), AUTHORIZER));
        }
        Self { source, signatures: Signatures::new(), scope, makes: environment.makes }
    }

    fn fault(&self, at: usize, what: String) -> CompileError {
        CompileError::at(self.source, at, what)
    }

    /// Every step down an expression is one of these, so it holds little of its own: the depth of expressions is what the
    /// stack takes.
    pub(super) fn check(&mut self, expression: &Expr) -> Checked<'s> {
        let at = expression.at;
        match &expression.kind {
            Kind::Literal(literal) => Ok(match literal {
                Literal::Null => Ty::Simple("null"),
                Literal::Bool(_) => BOOL,
                Literal::Int(_) => INT,
                Literal::Uint(_) => Ty::Simple("uint"),
                Literal::Double(_) => Ty::Simple("double"),
                Literal::String(_) => STRING,
                Literal::Bytes(_) => Ty::Simple("bytes"),
            }),
            Kind::Ident(name) => self.ident(at, name),
            Kind::Select { operand, field, optional, test } => self.select(at, operand, field, *optional, *test),
            Kind::Index { operand, index, optional } => self.index(at, operand, index, *optional),
            Kind::And(left, right) => self.logic(at, "&&", left, right),
            Kind::Or(left, right) => self.logic(at, "||", left, right),
            Kind::Conditional(parts) => self.conditional(at, parts),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Make { name, fields } => self.make(at, name, fields),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind { variable, value, body } => {
                let ty = self.check(value)?;
                self.within(variable, ty, body)
            }
            Kind::OptMap { target, variable, body, flat } => self.optional(target, variable, body, *flat),
            Kind::Call { target, name, args } => self.arguments(at, target.as_deref(), name, args),
        }
    }

    fn conditional(&mut self, at: usize, parts: &[Expr; 3]) -> Checked<'s> {
        let [condition, then, otherwise] = parts;
        let condition = self.check(condition)?;
        let (then, otherwise) = (self.check(then)?, self.check(otherwise)?);
        let mut bound = Default::default();
        if !condition.fits(&BOOL, &mut bound)
            || !then.fits(&Ty::Param(0), &mut bound)
            || !otherwise.fits(&Ty::Param(0), &mut bound)
        {
            return Err(self.no_overload(at, "_?_:_", &[condition, then, otherwise]));
        }
        Ok(Ty::Param(0).bind(&bound))
    }

    fn list(&mut self, items: &[(bool, Expr)]) -> Checked<'s> {
        let mut joined = None;
        for (optional, item) in items {
            let ty = self.check(item)?;
            let ty = if *optional { self.unwrapped(item.at, ty)? } else { ty };
            joined = Some(match joined {
                None => ty,
                Some(known) => Ty::join(known, ty),
            });
        }
        Ok(Ty::List(Rc::new(joined.unwrap_or(Ty::Dyn))))
    }

    fn map(&mut self, entries: &[(bool, Expr, Expr)]) -> Checked<'s> {
        let mut joined = None;
        for (optional, key, value) in entries {
            let key_type = self.check(key)?;
            if !["bool", "int", "uint", "string"].iter().any(|ty| key_type.is(ty)) && !key_type.is_dyn() {
                return Err(self.fault(key.at, format!("unsupported key type: {key_type}")));
            }
            let ty = self.check(value)?;
            let ty = if *optional { self.unwrapped(value.at, ty)? } else { ty };
            joined = Some(match joined {
                None => (key_type, ty),
                Some((keys, values)) => (Ty::join(keys, key_type), Ty::join(values, ty)),
            });
        }
        let (key, value) = joined.unwrap_or((Ty::Dyn, Ty::Dyn));
        Ok(Ty::Map(Rc::new(key), Rc::new(value)))
    }

    /// What `body` is when `variable` is of a type.
    fn within(&mut self, variable: &str, ty: Ty<'s>, body: &Expr) -> Checked<'s> {
        self.scope.push((variable.to_owned(), ty));
        let found = self.check(body);
        self.scope.pop();
        found
    }

    fn optional(&mut self, target: &Expr, variable: &str, body: &Expr, flat: bool) -> Checked<'s> {
        let ty = self.check(target)?;
        let inner = self.unwrapped(target.at, ty)?;
        let body_type = self.within(variable, inner, body)?;
        if !flat {
            return Ok(Ty::Optional(Rc::new(body_type)));
        }
        let inner = self.unwrapped(body.at, body_type)?;
        Ok(Ty::Optional(Rc::new(inner)))
    }

    fn arguments(&mut self, at: usize, target: Option<&Expr>, name: &str, args: &[Expr]) -> Checked<'s> {
        let mut types = Vec::new();
        for argument in target.into_iter().chain(args) {
            types.push(self.check(argument)?);
        }
        self.call(at, name, target.is_some(), &types)
    }

    fn ident(&self, at: usize, name: &str) -> Checked<'s> {
        if let Some((_, ty)) = self.scope.iter().rev().find(|(known, _)| known == name) {
            return Ok(ty.clone());
        }
        if TYPE_NAMES.contains(&name) || name == "type" {
            return Ok(Ty::Simple("type"));
        }
        Err(self.fault(at, format!("undeclared reference to '{name}' (in container '')")))
    }

    /// What an optional holds.
    fn unwrapped(&self, at: usize, ty: Ty<'s>) -> Checked<'s> {
        match ty {
            Ty::Optional(inner) => Ok((*inner).clone()),
            Ty::Dyn => Ok(Ty::Dyn),
            other => Err(self.fault(at, format!("expected type 'optional_type(dyn)' but found '{other}'"))),
        }
    }

    fn select(&mut self, at: usize, operand: &Expr, field: &str, optional: bool, test: bool) -> Checked<'s> {
        // Types with names of several parts.
        if let Kind::Select { operand: inner, field: middle, .. } = &operand.kind
            && matches!(&inner.kind, Kind::Ident(name) if name == "google")
            && middle == "protobuf"
            && matches!(field, "Timestamp" | "Duration")
        {
            return Ok(Ty::Simple("type"));
        }
        let ty = self.check(operand)?;
        self.selected(at, ty, field, optional, test)
    }

    /// What a field of something of a type is.
    fn selected(&self, at: usize, ty: Ty<'s>, field: &str, optional: bool, test: bool) -> Checked<'s> {
        // Below an optional everything is optional.
        let (ty, lifted) = match ty {
            Ty::Optional(inner) => ((*inner).clone(), true),
            other => (other, false),
        };
        let found = match &ty {
            Ty::Dyn => Ty::Dyn,
            Ty::Map(key, value) if key.is("string") || key.is_dyn() => (**value).clone(),
            Ty::Object(shape) => self.field(at, *shape, field)?,
            Ty::Composed(known) => match known.iter().find(|(name, _)| name == field) {
                Some((_, ty)) => ty.clone(),
                None => return Err(self.fault(at, format!("undefined field '{field}'"))),
            },
            Ty::Simple("authorizer") if field == "requestResource" => Ty::Simple("resourcecheck"),
            // What was made here has the fields that were given to it.
            Ty::Simple("Object" | "JSONPatch") => Ty::Dyn,
            other => {
                let what = format!("type '{other}' does not support field selection");
                return Err(self.fault(at, what));
            }
        };
        if test {
            return Ok(BOOL);
        }
        Ok(if optional || lifted { Ty::Optional(Rc::new(found)) } else { found })
    }

    /// `Object{...}`, `Object.spec{...}` and `JSONPatch{...}` (`apiserver/pkg/cel/mutation`). What stands in a field of an
    /// object is named after the place of the field.
    fn make(&mut self, at: usize, name: &str, fields: &[(bool, String, Expr)]) -> Checked<'s> {
        let object = name == "Object" || name.starts_with("Object.");
        let patch = name == "JSONPatch";
        if !self.makes || !(object || patch) {
            return Err(self.fault(at, format!("undeclared reference to '{name}' (in container '')")));
        }
        for (optional, field, value) in fields {
            let ty = self.check(value)?;
            let ty = if *optional { self.unwrapped(value.at, ty)? } else { ty };
            if patch {
                let wanted = match field.as_str() {
                    "op" | "path" | "from" => STRING,
                    "value" => Ty::Dyn,
                    _ => return Err(self.fault(at, format!("undefined field '{field}'"))),
                };
                if !ty.fits(&wanted, &mut Default::default()) {
                    let what = format!("expected type of field '{field}' is '{wanted}' but provided type is '{ty}'");
                    return Err(self.fault(value.at, what));
                }
                continue;
            }
            let expected = format!("{name}.{field}");
            let items: &[(bool, Expr)] = if let Kind::List(items) = &value.kind { items } else { &[] };
            for made in [value].into_iter().chain(items.iter().map(|(_, item)| item)) {
                if let Kind::Make { name: found, .. } = &made.kind
                    && *found != expected
                {
                    let what = format!(
                        "unexpected type name \"{found}\", expected \"{expected}\", which matches field name path from root Object type"
                    );
                    return Err(self.fault(made.at, what));
                }
            }
        }
        Ok(match name {
            "Object" => OBJECT,
            "JSONPatch" => JSON_PATCH,
            _ => Ty::Dyn,
        })
    }

    fn field(&self, at: usize, shape: &'s dyn Shape, field: &str) -> Checked<'s> {
        match shape.field(field) {
            Some((_, Some(found))) => Ok(Ty::of(found)),
            Some((_, None)) => Ok(Ty::Dyn),
            None => Err(self.fault(at, format!("undefined field '{field}'"))),
        }
    }

    fn index(&mut self, at: usize, operand: &Expr, index: &Expr, optional: bool) -> Checked<'s> {
        let ty = self.check(operand)?;
        let key = self.check(index)?;
        let (ty, lifted) = match ty {
            Ty::Optional(inner) => ((*inner).clone(), true),
            other => (other, false),
        };
        let number = ["int", "uint", "double"].iter().any(|ty| key.is(ty)) || key.is_dyn();
        let found = match &ty {
            Ty::Dyn => Ty::Dyn,
            Ty::List(item) if number => (**item).clone(),
            Ty::Map(wanted, value) if key.fits(wanted, &mut Default::default()) => (**value).clone(),
            Ty::Object(shape) if matches!(&index.kind, Kind::Literal(Literal::String(_))) => {
                let Kind::Literal(Literal::String(name)) = &index.kind else { return Ok(Ty::Dyn) };
                self.field(at, *shape, name)?
            }
            _ => return Err(self.no_overload(at, "_[_]", &[ty, key])),
        };
        Ok(if optional || lifted { Ty::Optional(Rc::new(found)) } else { found })
    }

    fn logic(&mut self, at: usize, operator: &str, left: &Expr, right: &Expr) -> Checked<'s> {
        let (left, right) = (self.check(left)?, self.check(right)?);
        let fits = |ty: &Ty<'s>| ty.is("bool") || ty.is_dyn();
        if fits(&left) && fits(&right) {
            return Ok(BOOL);
        }
        Err(self.no_overload(at, &format!("_{operator}_"), &[left, right]))
    }

    fn no_overload(&self, at: usize, name: &str, types: &[Ty<'s>]) -> CompileError {
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        self.fault(at, format!("found no matching overload for '{name}' applied to '({})'", types.join(", ")))
    }

    fn call(&self, at: usize, name: &str, method: bool, types: &[Ty<'s>]) -> Checked<'s> {
        let Some(overloads) = self.signatures.of(name) else {
            return Err(self.fault(at, format!("undeclared reference to '{name}' (in container '')")));
        };
        let mut result: Option<Ty<'s>> = None;
        for overload in overloads.iter().filter(|overload| overload.method == method) {
            let mut bound: [Option<Ty<'s>>; 4] = Default::default();
            if overload.params.len() == types.len()
                && types.iter().zip(&overload.params).all(|(ty, wanted)| ty.fits(wanted, &mut bound))
            {
                let found = overload.result.bind(&bound);
                result = Some(match result {
                    None => found,
                    Some(known) => Ty::join(known, found),
                });
            }
        }
        result.ok_or_else(|| {
            if let (true, [receiver, rest @ ..]) = (method, types) {
                let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
                let rest = rest.join(", ");
                let what = format!("found no matching overload for '{name}' applied to '{receiver}.({rest})'");
                return self.fault(at, what);
            }
            self.no_overload(at, name, types)
        })
    }

    fn fold(&mut self, fold: &Fold) -> Checked<'s> {
        let range = self.check(&fold.range)?;
        let (key, value) = match &range {
            Ty::List(item) => (INT, (**item).clone()),
            Ty::Map(key, value) => ((**key).clone(), (**value).clone()),
            Ty::Dyn => (Ty::Dyn, Ty::Dyn),
            other => {
                let what = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(self.fault(fold.range.at, what));
            }
        };
        let depth = self.scope.len();
        match &fold.second {
            Some(second) => {
                self.scope.push((fold.first.clone(), key.clone()));
                self.scope.push((second.clone(), value.clone()));
            }
            // One variable over a map is the key.
            None => {
                let only = if matches!(range, Ty::List(_) | Ty::Dyn) { value.clone() } else { key.clone() };
                self.scope.push((fold.first.clone(), only));
            }
        }
        let filter = fold.filter.as_ref().map(|filter| (filter.at, self.check(filter)));
        let result = fold.result.as_ref().map(|result| self.check(result));
        self.scope.truncate(depth);
        if let Some((at, ty)) = filter {
            let ty = ty?;
            if !ty.fits(&BOOL, &mut Default::default()) {
                return Err(self.fault(at, format!("expected type 'bool' but found '{ty}'")));
            }
        }
        let result = result.transpose()?;
        Ok(match (fold.over, result) {
            (FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne, _) => BOOL,
            (FoldKind::Filter, _) => match range {
                Ty::Map(key, _) => Ty::List(key),
                Ty::List(_) => range,
                _ => Ty::List(Rc::new(Ty::Dyn)),
            },
            (FoldKind::Map, Some(result)) => Ty::List(Rc::new(result)),
            (FoldKind::TransformMap, Some(result)) => Ty::Map(Rc::new(key), Rc::new(result)),
            (FoldKind::Map | FoldKind::TransformMap, None) => Ty::Dyn,
        })
    }
}
