//! Policies as they are used: expressions compiled, constraints parsed, bindings put to their policy.
//!
//! Mirrors `compilePolicy` in `apiserver/pkg/admission/plugin/policy/{validating,mutating}`. What an expression may speak
//! of is said here once, for the API that checks new policies (`kinds/policies.rs`) and for use.

use super::super::matching::Constraints;
use crate::kinds::tree::Tree;
use skiff_machinery::Value;
use skiff_machinery::cel::{CompileError, Environment, Found, Program, Shape, Variable, Wanted};
use skiff_machinery::selector::Selector;
use std::sync::Arc;

/// Which expression is compiled: they differ in what they see and have to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    MatchCondition,
    Variable,
    Validation,
    Message,
    AuditAnnotation,
    ApplyConfiguration,
    JsonPatch,
}

impl Place {
    fn wanted(self) -> Wanted {
        match self {
            Self::MatchCondition | Self::Validation => Wanted::Bool,
            Self::Variable => Wanted::Any,
            Self::Message => Wanted::String,
            Self::AuditAnnotation => Wanted::StringOrNull,
            Self::ApplyConfiguration => Wanted::Object,
            Self::JsonPatch => Wanted::JsonPatches,
        }
    }
}

/// Compiles the expressions of one policy, in their order: a variable is known to those after it.
pub(crate) struct Compiler<'s> {
    params: bool,
    makes: bool,
    /// What `object` and `oldObject` are; `None`: any JSON.
    object: Option<&'s dyn Shape>,
    known: Vec<(String, Found<'s>)>,
}

impl<'s> Compiler<'s> {
    /// For a policy with or without `paramKind`.
    pub(crate) fn new(policy: &Value) -> Self {
        let params = policy.get("spec").is_some_and(|spec| spec.has("paramKind"));
        Self { params, makes: policy.text("kind").starts_with("Mutating"), object: None, known: Vec::new() }
    }

    /// For a policy over objects of one kind.
    pub(crate) fn typed(policy: &Value, object: &'s dyn Shape) -> Self {
        Self { object: Some(object), ..Self::new(policy) }
    }

    pub(crate) fn compile(&self, source: &str, place: Place) -> Result<(Program, Found<'s>), CompileError> {
        let variable = |name| Variable { name, shape: None, optional: false };
        let typed = |name| Variable { name, shape: self.object, optional: false };
        let mut variables = vec![typed("object"), typed("oldObject"), variable("request"), variable("namespaceObject")];
        if self.params {
            variables.push(variable("params"));
        }
        let environment = Environment {
            variables: &variables,
            composed: (place != Place::MatchCondition).then_some(self.known.as_slice()),
            authorizer: place != Place::Message,
            makes: self.makes,
        };
        Program::compile_in(source, &environment, place.wanted())
    }

    /// Compiles a variable and makes it known, also when it does not compile: what speaks of it is not wrong for that.
    pub(crate) fn variable(&mut self, name: &str, source: &str) -> Result<Program, CompileError> {
        let compiled = self.compile(source, Place::Variable);
        let (program, found) = match compiled {
            Ok((program, found)) => (Ok(program), found),
            Err(error) => (Err(error), Found::DYN),
        };
        self.known.push((name.to_owned(), found));
        program
    }

    /// Whether a variable of this name was compiled before.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.known.iter().any(|(known, _)| known == name)
    }
}

/// A named expression and its text.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) program: Program,
}

/// One of `validations`.
pub(super) struct Validation {
    pub(super) expression: String,
    pub(super) program: Program,
    pub(super) message: String,
    pub(super) message_expression: Option<Program>,
    pub(super) reason: String,
}

/// One of `mutations`.
pub(super) struct Mutation {
    pub(super) expression: String,
    pub(super) program: Program,
    /// A configuration to apply, or a list of JSON patches.
    pub(super) applies: bool,
}

/// What a policy does.
pub(super) enum Rules {
    Validating { validations: Vec<Validation>, annotations: Vec<Named> },
    Mutating { mutations: Vec<Mutation>, reinvoke: bool },
}

/// A policy whose expressions compile.
pub(super) struct Compiled {
    pub(super) conditions: Vec<Named>,
    pub(super) variables: Vec<(String, Program)>,
    pub(super) rules: Rules,
}

/// Group, version and kind of parameters.
pub(super) struct ParamKind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

/// A policy with its bindings.
pub(super) struct Policy {
    pub(super) name: String,
    /// What fails refuses the request.
    pub(super) fail: bool,
    pub(super) matches: Result<Constraints, String>,
    pub(super) param_kind: Option<ParamKind>,
    pub(super) compiled: Result<Compiled, String>,
    pub(super) bindings: Vec<Bound>,
}

/// What a binding wants to be done with a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Actions {
    pub(super) deny: bool,
    pub(super) warn: bool,
}

/// Which parameters a binding takes.
pub(super) struct ParamRef {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) selector: Option<Selector>,
    pub(super) deny_missing: bool,
}

/// A binding.
pub(super) struct Bound {
    pub(super) name: String,
    /// `None`: wherever the policy fits.
    pub(super) matches: Option<Constraints>,
    pub(super) params: Option<ParamRef>,
    pub(super) actions: Actions,
}

fn compiled(policy: &Value) -> Result<Compiled, String> {
    let spec = policy.get("spec").unwrap_or(&Value::Null);
    let mut compiler = Compiler::new(policy);
    let told = |error: CompileError| error.detail();
    let mut variables = Vec::new();
    for variable in spec.items("variables") {
        let name = variable.text("name");
        variables.push((name.to_owned(), compiler.variable(name, variable.text("expression")).map_err(told)?));
    }
    let compile = |source: &str, place| compiler.compile(source, place).map(|(program, _)| program).map_err(told);
    let named = |item: &Value, name: &str, source: &str, place| {
        Ok(Named { name: item.text(name).to_owned(), program: compile(item.text(source), place)? })
    };
    let conditions = spec.items("matchConditions").iter();
    let conditions = conditions
        .map(|item| named(item, "name", "expression", Place::MatchCondition))
        .collect::<Result<_, String>>()?;
    let rules = if policy.text("kind").starts_with("Mutating") {
        let mutation = |item: &Value| {
            let applies = item.text("patchType") == "ApplyConfiguration";
            let (field, place) = match applies {
                true => ("applyConfiguration", Place::ApplyConfiguration),
                false => ("jsonPatch", Place::JsonPatch),
            };
            let expression = item.str_at(&[field, "expression"]).to_owned();
            Ok(Mutation { program: compile(&expression, place)?, expression, applies })
        };
        let mutations = spec.items("mutations").iter().map(mutation).collect::<Result<_, String>>()?;
        Rules::Mutating { mutations, reinvoke: spec.text("reinvocationPolicy") == "IfNeeded" }
    } else {
        let validation = |item: &Value| {
            let message = item.text("messageExpression");
            let message_expression = match message.trim() {
                "" => None,
                _ => Some(compile(message, Place::Message)?),
            };
            let expression = item.text("expression").to_owned();
            Ok(Validation {
                program: compile(&expression, Place::Validation)?,
                expression,
                message: item.text("message").to_owned(),
                message_expression,
                reason: item.text("reason").to_owned(),
            })
        };
        let annotations = spec.items("auditAnnotations").iter();
        let annotation = |item| named(item, "key", "valueExpression", Place::AuditAnnotation);
        Rules::Validating {
            validations: spec.items("validations").iter().map(validation).collect::<Result<_, String>>()?,
            annotations: annotations.map(annotation).collect::<Result<_, String>>()?,
        }
    };
    Ok(Compiled { conditions, variables, rules })
}

fn bound(binding: &Value) -> Result<Bound, String> {
    let spec = binding.get("spec").unwrap_or(&Value::Null);
    let matches = spec.field("matchResources").map(constraints).transpose()?;
    let params = spec.field("paramRef").map(|param| {
        let selector = param.field("selector").map(|selector| Selector::from_label_selector(Some(selector)));
        Ok::<_, String>(ParamRef {
            name: param.text("name").to_owned(),
            namespace: param.text("namespace").to_owned(),
            selector: selector.transpose().map_err(|error| error.to_string())?,
            deny_missing: param.text("parameterNotFoundAction") == "Deny",
        })
    });
    let acts = |action: &str| spec.items("validationActions").iter().any(|own| own.as_str() == Some(action));
    Ok(Bound {
        name: binding.str_at(&["metadata", "name"]).to_owned(),
        matches,
        params: params.transpose()?,
        actions: Actions { deny: acts("Deny"), warn: acts("Warn") },
    })
}

fn constraints(value: &Value) -> Result<Constraints, String> {
    Constraints::of(value, "resourceRules", "excludeResourceRules")
}

fn named(object: &Value) -> &str {
    object.str_at(&["metadata", "name"])
}

/// Every policy that is bound, by name; its bindings by theirs.
pub(super) fn policies(
    kind: &'static str,
    mut policies: Vec<Arc<Value>>,
    mut bindings: Vec<Arc<Value>>,
) -> Vec<Arc<Policy>> {
    policies.sort_by(|left, right| named(left).cmp(named(right)));
    bindings.sort_by(|left, right| named(left).cmp(named(right)));
    let mut out = Vec::new();
    for object in policies {
        let name = named(&object);
        let mut bounds = Vec::new();
        for binding in bindings.iter().filter(|binding| binding.str_at(&["spec", "policyName"]) == name) {
            match bound(binding) {
                Ok(bound) => bounds.push(bound),
                // It was checked when it came; what an older server stored may still not be usable.
                Err(error) => {
                    tracing::error!(policy = name, binding = named(binding), error, "a binding cannot be used")
                }
            }
        }
        if bounds.is_empty() {
            continue;
        }
        let mut policy = (*object).clone();
        policy.set("kind", kind);
        let spec = policy.get("spec").unwrap_or(&Value::Null);
        let param_kind = spec.field("paramKind").map(|kind| {
            let (group, version) = kind.text("apiVersion").split_once('/').unwrap_or(("", kind.text("apiVersion")));
            ParamKind { group: group.to_owned(), version: version.to_owned(), kind: kind.text("kind").to_owned() }
        });
        out.push(Arc::new(Policy {
            name: name.to_owned(),
            fail: spec.text("failurePolicy") != "Ignore",
            matches: constraints(spec.get("matchConstraints").unwrap_or(&Value::Null)),
            param_kind,
            compiled: compiled(&policy),
            bindings: bounds,
        }));
    }
    out
}
