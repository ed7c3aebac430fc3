//! Validation rules in CEL (`x-kubernetes-validations`): compiled when the schema is parsed, and evaluated with the object.
//!
//! Mirrors `k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel` (`compilation.go`, `validation.go`). A rule sees the
//! value at its place as `self` and, when the object is updated, what was there before as `oldSelf`. What was there before
//! is known below objects, maps and lists with keys; below other lists nothing says which item is which, so rules with
//! `oldSelf` are refused there.

use super::{Additional, JsonType, Node, Structural};
use crate::cel::{self, Binding, CompileError, EvalError, Output, Program, Shape, ShapeKind, Variable, Wanted};
use crate::error::{ErrorList, FieldError, FieldErrorType};
use crate::field::FieldPath;
use crate::schema::ListKind;
use crate::value::{Map, Name, Value};
use std::sync::LazyLock;

/// What one evaluation of one rule may cost (`celconfig.PerCallLimit`).
const PER_CALL: u64 = 1_000_000;
/// What all rules for one object may cost (`celconfig.RuntimeCELCostBudget`).
const PER_OBJECT: u64 = 10_000_000;
/// Longest message of a rule.
const MAX_MESSAGE: usize = 2048;

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    source: String,
    program: Program,
    message: String,
    message_expression: Option<Program>,
    reason: FieldErrorType,
    /// Below the place of the rule.
    field_path: Vec<String>,
    /// Speaks of `oldSelf`.
    transition: bool,
    /// `oldSelf` is there on creation too, as an optional value.
    optional_old: bool,
}

/// What every object has, for rules at the root and in embedded objects.
struct Meta;

static TEXT: LazyLock<Node> = LazyLock::new(|| Node { ty: Some(JsonType::String), ..Node::default() });

impl Shape for Meta {
    fn kind(&self) -> ShapeKind {
        ShapeKind::Object
    }
    fn item(&self) -> Option<&dyn Shape> {
        None
    }
    fn field(&self, name: &str) -> Option<(&str, Option<&dyn Shape>)> {
        let known = ["name", "generateName"].into_iter().find(|known| *known == name)?;
        Some((known, Some(&*TEXT)))
    }
    fn list(&self) -> &ListKind {
        &ListKind::Atomic
    }
}

/// A field's name as rules write it (`cel.Escape`); `None`: rules cannot name it.
fn escaped(name: &str) -> Option<String> {
    if cel::is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    let first = name.bytes().next()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/');
    if !name.bytes().all(plain) || first.is_ascii_digit() {
        return None;
    }
    let name = name.replace("__", "__underscores__");
    Some(name.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

impl Shape for Node {
    fn kind(&self) -> ShapeKind {
        if self.int_or_string {
            return ShapeKind::Dyn;
        }
        match self.ty {
            Some(JsonType::Object) if self.resource || self.embedded_resource => ShapeKind::Object,
            Some(JsonType::Object) => match &self.additional {
                Additional::Node(_) => ShapeKind::Map,
                Additional::Bool(true) if self.properties.is_empty() => ShapeKind::Map,
                _ => ShapeKind::Object,
            },
            Some(JsonType::Array) => ShapeKind::List,
            Some(JsonType::String) => match self.format.as_str() {
                "byte" => ShapeKind::Bytes,
                "date" | "date-time" => ShapeKind::Timestamp,
                "duration" => ShapeKind::Duration,
                _ => ShapeKind::String,
            },
            Some(JsonType::Integer) => ShapeKind::Int,
            Some(JsonType::Number) => ShapeKind::Double,
            Some(JsonType::Boolean) => ShapeKind::Bool,
            None => ShapeKind::Dyn,
        }
    }
    fn item(&self) -> Option<&dyn Shape> {
        let node = self.items.as_deref().or_else(|| self.additional.node());
        node.map(|node| node as &dyn Shape)
    }
    fn field(&self, name: &str) -> Option<(&str, Option<&dyn Shape>)> {
        if self.resource || self.embedded_resource {
            match name {
                "metadata" => return Some(("metadata", Some(&Meta))),
                "apiVersion" => return Some(("apiVersion", Some(&*TEXT))),
                "kind" => return Some(("kind", Some(&*TEXT))),
                _ => {}
            }
        }
        let plain = self.property(name).filter(|_| escaped(name).as_deref() == Some(name));
        if let Some(node) = plain {
            let known = self.properties.iter().find(|(known, _)| known.as_str() == name)?;
            return Some((known.0.as_str(), Some(node)));
        }
        let found = self.properties.iter().find(|(known, _)| escaped(known).as_deref() == Some(name));
        found.map(|(known, node)| (known.as_str(), Some(node as &dyn Shape)))
    }
    fn list(&self) -> &ListKind {
        &self.list
    }
}

fn compiled(error: &CompileError) -> String {
    format!("compilation failed: {error}")
}

impl Rule {
    /// One entry of `x-kubernetes-validations`. `correlated`: what was here before can be told.
    fn parse(
        rule: &Value,
        node: &Node,
        correlated: bool,
        path: &FieldPath<'_>,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        let before = errors.len();
        let source = rule.str_at(&["rule"]);
        let optional_old = rule.get("optionalOldSelf").and_then(Value::as_bool) == Some(true);
        let variables = [
            Variable { name: "self", shape: Some(node), optional: false },
            Variable { name: "oldSelf", shape: Some(node), optional: optional_old },
        ];
        if source.trim().is_empty() {
            errors.push(FieldError::required(path, "rule is not specified"));
            return None;
        }
        let at = path.child("rule");
        let program = match Program::compile(source, &variables, Wanted::Bool) {
            Ok(program) => program,
            Err(error) => {
                errors.push(FieldError::invalid(&at, source, compiled(&error)));
                return None;
            }
        };
        let message = rule.str_at(&["message"]);
        let trimmed = message.trim();
        if !message.is_empty() && trimmed.is_empty() {
            errors.push(FieldError::invalid(&path.child("message"), message, "message must be non-empty if specified"));
        } else if trimmed.contains('\n') {
            errors.push(FieldError::invalid(&path.child("message"), message, "message must not contain line breaks"));
        } else if message.len() > MAX_MESSAGE {
            errors.push(FieldError::too_long(&path.child("message"), MAX_MESSAGE));
        } else if source.contains('\n') && trimmed.is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&path.child("message"), detail));
        }
        let expression = rule.str_at(&["messageExpression"]);
        let message_expression = match expression {
            "" => None,
            text if text.trim().is_empty() => {
                let detail = "messageExpression must be non-empty if specified";
                errors.push(FieldError::required(&path.child("messageExpression"), detail));
                None
            }
            text => match Program::compile(text, &variables, Wanted::String) {
                Ok(program) => Some(program),
                Err(error) => {
                    let detail = format!("messageExpression {}", compiled(&error));
                    errors.push(FieldError::invalid(&path.child("messageExpression"), text, detail));
                    None
                }
            },
        };
        let reason = match rule.str_at(&["reason"]) {
            "" | "FieldValueInvalid" => FieldErrorType::Invalid,
            "FieldValueForbidden" => FieldErrorType::Forbidden,
            "FieldValueRequired" => FieldErrorType::Required,
            "FieldValueDuplicate" => FieldErrorType::Duplicate,
            other => {
                let known = ["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"];
                errors.push(FieldError::not_supported_in_order(&path.child("reason"), other, &known));
                FieldErrorType::Invalid
            }
        };
        let field_path = match fields_below(rule.str_at(&["fieldPath"]), node) {
            Ok(fields) => fields,
            Err(why) => {
                let text = rule.str_at(&["fieldPath"]);
                let detail = format!("fieldPath must be a valid path: {why}");
                errors.push(FieldError::invalid(&path.child("fieldPath"), text, detail));
                Vec::new()
            }
        };
        let transition = program.uses("oldSelf");
        if optional_old && !transition {
            let detail = "option `optionalOldSelf` set but rule does not use `oldSelf`";
            errors.push(FieldError::invalid(&path.child("optionalOldSelf"), true, detail));
        }
        if transition && !correlated {
            let detail = "oldSelf cannot be used on the uncorrelatable portion of the schema";
            errors.push(FieldError::invalid(&at, source, detail));
        }
        (errors.len() == before).then(|| Self {
            source: source.to_owned(),
            program,
            message: trimmed.to_owned(),
            message_expression,
            reason,
            field_path,
            transition,
            optional_old,
        })
    }
}

/// `.spec.list['key']` as names; every one has to be in the schema (`ValidFieldPath`).
fn fields_below(text: &str, node: &Node) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if text.contains('\n') {
        return Err("must not contain line breaks".to_owned());
    }
    let mut names = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("['") {
            let (name, after) = inner.split_once("']").ok_or("unbalanced quotes in field path")?;
            names.push(name.to_owned());
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('.') {
            let end = inner.find(['.', '[']).unwrap_or(inner.len());
            names.push(inner[..end].to_owned());
            rest = &inner[end..];
        } else {
            return Err("expected [ or . in field path".to_owned());
        }
    }
    let mut node = Some(node);
    for name in &names {
        let known = node.and_then(|node| node.property(name).or_else(|| node.additional.node()));
        if known.is_none() {
            return Err(format!("does not refer to a valid field: {name}"));
        }
        node = known;
    }
    Ok(names)
}

/// Compiles every rule of a schema.
pub(super) fn compile(schema: &Value, node: &mut Node, correlated: bool, path: &FieldPath<'_>, errors: &mut ErrorList) {
    let Some(map) = schema.as_object() else { return };
    let at = path.child("x-kubernetes-validations");
    let mut rules = Vec::new();
    for (index, rule) in map.get("x-kubernetes-validations").and_then(Value::as_array).unwrap_or(&[]).iter().enumerate()
    {
        rules.extend(Rule::parse(rule, node, correlated, &at.index(index), errors));
    }
    node.rules = rules;
    let properties = path.child("properties");
    for (name, schema) in map.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter) {
        if let Ok(index) = node.properties.binary_search_by(|(known, _)| known.as_str().cmp(name)) {
            compile(schema, &mut node.properties[index].1, correlated, &properties.key(name), errors);
        }
    }
    if let (Some(schema), Additional::Node(inner)) = (map.get("additionalProperties"), &mut node.additional) {
        compile(schema, inner, correlated, &path.child("additionalProperties"), errors);
    }
    let keyed = matches!(node.list, ListKind::Map(_));
    if let (Some(schema), Some(inner)) = (map.get("items"), &mut node.items) {
        compile(schema, inner, correlated && keyed, &path.child("items"), errors);
    }
}

/// Whether a level or one below has rules; so that others are not walked.
pub(super) fn mark(node: &mut Node) -> bool {
    let mut any = !node.rules.is_empty();
    for (_, inner) in &mut node.properties {
        any |= mark(inner);
    }
    if let Additional::Node(inner) = &mut node.additional {
        any |= mark(inner);
    }
    if let Some(inner) = &mut node.items {
        any |= mark(inner);
    }
    node.ruled = any;
    any
}

impl Structural {
    /// Evaluates the rules for an object, and what was stored before it.
    pub(super) fn check_rules(&self, object: &Value, old: Option<&Value>) -> ErrorList {
        let mut check = Check { errors: ErrorList::new(), left: PER_OBJECT, over: false };
        if self.0.ruled {
            check.level("", object, old, &self.0);
        }
        check.errors
    }
}

struct Check {
    errors: ErrorList,
    left: u64,
    /// The budget is used up: nothing more is evaluated.
    over: bool,
}

/// The item of a list with keys that has the same keys.
pub(super) fn same_item<'v>(keys: &[Name], item: &Value, node: Option<&Node>, old: &'v [Value]) -> Option<&'v Value> {
    let key = |item: &Value, name: &Name| {
        let default = || node?.property(name)?.default.clone();
        item.get(name).cloned().or_else(default)
    };
    old.iter().find(|other| keys.iter().all(|name| key(item, name) == key(other, name)))
}

impl Check {
    fn level(&mut self, path: &str, value: &Value, old: Option<&Value>, node: &Node) {
        if !node.ruled || self.over {
            return;
        }
        // A null that the schema allows is nothing that a rule could look into.
        if !value.is_null() {
            for rule in &node.rules {
                self.rule(path, value, old, node, rule);
            }
        }
        match value {
            Value::Object(map) => {
                for (name, inner) in map.iter() {
                    if let Some(Some(child)) = node.key(name) {
                        let old = old.and_then(|old| old.get(name));
                        self.level(&super::validate::below(path, name), inner, old, child);
                    }
                }
            }
            Value::Array(items) => {
                let Some(child) = node.items.as_deref() else { return };
                let old = old.and_then(Value::as_array);
                for (index, item) in items.iter().enumerate() {
                    let old = match (&node.list, old) {
                        (ListKind::Map(keys), Some(old)) => same_item(keys, item, Some(child), old),
                        _ => None,
                    };
                    self.level(&format!("{path}[{index}]"), item, old, child);
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, path: &str, value: &Value, old: Option<&Value>, node: &Node, rule: &Rule) {
        let old = old.filter(|old| !old.is_null());
        if self.over || rule.transition && old.is_none() && !rule.optional_old {
            return;
        }
        // What did not change was right when it came, or came before the rule (ratcheting).
        if !rule.transition && old == Some(value) {
            return;
        }
        let bindings = [
            Binding { name: "self", value: Some(value), shape: Some(node), optional: false },
            Binding { name: "oldSelf", value: old, shape: Some(node), optional: rule.optional_old },
        ];
        let bindings = if rule.transition { &bindings[..] } else { &bindings[..1] };
        let given = self.left.min(PER_CALL);
        let mut budget = given;
        let found = rule.program.evaluate(bindings, &mut budget);
        self.left -= given - budget;
        match found {
            Ok(Output::Bool(true)) => {}
            Err(EvalError::TooDear) if self.left == 0 => {
                self.over = true;
                let detail =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                self.errors.push(super::validate::at("", |path| FieldError::invalid(path, "", detail)));
            }
            Err(EvalError::TooDear) => {
                let detail = format!("call cost exceeds limit for rule: {}", rule.source);
                self.fail(path, (value, node), rule, FieldErrorType::Invalid, &detail, false);
            }
            Err(EvalError::Failed(why)) => {
                let detail = format!("{why} evaluating rule: {}", rule.name());
                self.fail(path, (value, node), rule, FieldErrorType::Invalid, &detail, false);
            }
            Ok(_) => {
                let detail = self.message(rule, bindings);
                self.fail(path, (value, node), rule, rule.reason, &detail, true);
            }
        }
    }

    /// What a failed rule says: its expression's text if that works, its message, or the rule itself.
    fn message(&mut self, rule: &Rule, bindings: &[Binding<'_>]) -> String {
        if let Some(program) = &rule.message_expression {
            let given = self.left.min(PER_CALL);
            let mut budget = given;
            let found = program.evaluate(bindings, &mut budget);
            self.left -= given - budget;
            if let Ok(Output::String(text)) = found {
                let text = text.trim();
                if !text.is_empty() && !text.contains('\n') && text.len() <= 5 * 1024 {
                    return text.to_owned();
                }
            }
        }
        if rule.message.is_empty() { format!("failed rule: {}", rule.source.trim()) } else { rule.message.clone() }
    }

    fn fail(
        &mut self,
        path: &str,
        (value, node): (&Value, &Node),
        rule: &Rule,
        reason: FieldErrorType,
        detail: &str,
        below: bool,
    ) {
        let mut place = path.to_owned();
        for name in rule.field_path.iter().filter(|_| below) {
            place = super::validate::below(&place, name);
        }
        // Upstream shows what kind of thing it was, not the thing.
        let shown = Value::from(node.ty.map_or_else(|| JsonType::of(value), JsonType::name));
        self.errors.push(super::validate::at(&place, |path| match reason {
            FieldErrorType::Forbidden => FieldError::forbidden(path, detail),
            FieldErrorType::Required => FieldError::required(path, detail),
            FieldErrorType::Duplicate => FieldError::duplicate(path, shown),
            _ => FieldError::invalid(path, shown, detail),
        }));
    }
}

impl Rule {
    /// The message if there is one, else the rule.
    fn name(&self) -> &str {
        if self.message.is_empty() { self.source.trim() } else { &self.message }
    }
}
