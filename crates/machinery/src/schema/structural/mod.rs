//! Custom resources: the structural schema of a `CustomResourceDefinition`, and what is done with it.
//!
//! A schema is parsed once, when its definition is accepted ([`Structural::parse`]), and then used for each object in
//! upstream's order: [`coerce_metadata`] and [`Structural::coerce_embedded`], [`Structural::prune`], [`Structural::default`], [`Structural::validate`].
//! [`Structural::to_type`] gives the same schema as a [`Type`](super::Type), for patches and apply.
//!
//! Mirrors `k8s.io/apiextensions-apiserver/pkg/apiserver/schema` (`convert.go`, `pruning`, `defaulting`, `listtype`),
//! `pkg/apiserver/validation` and, below it, `k8s.io/kube-openapi/pkg/validation`.
//!
//! Rules in CEL (`x-kubernetes-validations`) are compiled with the schema and evaluated by [`Structural::validate`] when
//! nothing else is wrong. An update is only asked about what it changes ([`Structural::validate_update`]).
//!
//! Not here yet: rules inside `allOf`, `anyOf`, `oneOf` and `not`; an estimate of what a rule may cost. The formats `isbn`,
//! `isbn10`, `isbn13` and `creditcard` are not checked.

mod check;
mod defaulting;
mod embedded;
mod format;
mod parse;
mod pattern;
mod prune;
mod rules;
mod to_type;
mod validate;

pub use check::check;
pub use embedded::coerce_metadata;

use crate::schema::ListKind;
use crate::value::{Name, Value};
use regex::Regex;
use std::sync::{Arc, LazyLock};

/// A parsed schema. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Structural(Arc<Node>);

/// `type` of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JsonType {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// `additionalProperties`.
#[derive(Debug, Default)]
enum Additional {
    #[default]
    Absent,
    Bool(bool),
    Node(Box<Node>),
}

impl Additional {
    fn node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            Self::Absent | Self::Bool(_) => None,
        }
    }
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// One level of a schema.
#[derive(Debug, Default)]
struct Node {
    ty: Option<JsonType>,
    format: String,
    nullable: bool,
    default: Option<Value>,
    /// Sorted by name.
    properties: Vec<(Name, Node)>,
    additional: Additional,
    items: Option<Box<Node>>,
    preserve_unknown: bool,
    embedded_resource: bool,
    int_or_string: bool,
    list: ListKind,
    atomic_map: bool,
    limits: Limits,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
    /// Rules in CEL that stand at this level.
    rules: Vec<rules::Rule>,
    /// Whether there are rules here or below.
    ruled: bool,
    /// The root of a resource: has metadata, whatever its properties say.
    resource: bool,
    /// At the root: whether anything below is an embedded resource.
    embeds: bool,
}

/// What a value must keep to. Most levels say nothing of the kind, and schemas have tens of thousands of levels: those
/// pay for a pointer only.
#[derive(Debug, Default)]
struct Limits(Option<Box<LimitsSaid>>);

impl std::ops::Deref for Limits {
    type Target = LimitsSaid;
    fn deref(&self) -> &LimitsSaid {
        static NONE: LazyLock<LimitsSaid> = LazyLock::new(LimitsSaid::default);
        self.0.as_deref().unwrap_or(&NONE)
    }
}

/// The limits of a level that has some.
#[derive(Debug, Default)]
struct LimitsSaid {
    allowed: Vec<Value>,
    required: Vec<Name>,
    maximum: Option<f64>,
    exclusive_maximum: bool,
    minimum: Option<f64>,
    exclusive_minimum: bool,
    multiple_of: Option<f64>,
    max_length: Option<i64>,
    min_length: Option<i64>,
    pattern: Option<(String, Regex)>,
    max_items: Option<i64>,
    min_items: Option<i64>,
    unique_items: bool,
    max_properties: Option<i64>,
    min_properties: Option<i64>,
}

impl Node {
    fn property(&self, name: &str) -> Option<&Node> {
        let found = self.properties.binary_search_by(|(known, _)| known.as_str().cmp(name));
        found.ok().map(|index| &self.properties[index].1)
    }
    /// Levels directly below, value validations included.
    fn children(&self) -> impl Iterator<Item = &Node> {
        let properties = self.properties.iter().map(|(_, node)| node);
        let single = [self.additional.node(), self.items.as_deref(), self.not.as_deref()].into_iter().flatten();
        properties.chain(single).chain(&self.all_of).chain(&self.any_of).chain(&self.one_of)
    }
    /// The schema of a key: its own, or that of additional ones. The outer `None`: the key is unknown.
    fn key(&self, name: &str) -> Option<Option<&Node>> {
        match self.property(name) {
            Some(node) => Some(Some(node)),
            None if self.additional.is_absent() => None,
            None => Some(self.additional.node()),
        }
    }
}

/// The fields that every object has, whatever its schema says.
const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];
