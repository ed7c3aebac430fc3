//! Dropping what the schema does not know (`pkg/apiserver/schema/pruning/algorithm.go`).

use super::{META_FIELDS, Node, Structural};
use crate::value::{Map, Value};
use std::fmt::Write;

impl Structural {
    /// Drops unknown fields from an object (not from `metadata`, see [`coerce_metadata`](super::coerce_metadata)). Gives the paths of what was
    /// dropped, sorted: upstream reports each as `unknown field "<path>"`.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut pruner = Pruner { path: String::new(), pruned: Vec::new() };
        if let Value::Object(map) = object {
            pruner.map(map, Some(&self.0), self.0.preserve_unknown, true);
        }
        pruner.pruned.sort();
        pruner.pruned
    }
    /// The same for a value inside an object, which has no metadata of its own.
    pub(super) fn prune_nested(&self, value: &mut Value) -> Vec<String> {
        let mut pruner = Pruner { path: String::new(), pruned: Vec::new() };
        pruner.value(value, Some(&self.0), false);
        pruner.pruned
    }
}

struct Pruner {
    path: String,
    pruned: Vec<String>,
}

impl Pruner {
    /// `preserve`: what stands here is kept even where its schema does not know it (`skipPrune` upstream); what does
    /// have a schema below is pruned again.
    fn value(&mut self, value: &mut Value, node: Option<&Node>, preserve: bool) {
        let preserve = preserve || node.is_some_and(|node| node.preserve_unknown);
        match value {
            Value::Object(map) => self.map(map, node, preserve, false),
            Value::Array(items) => {
                let child = node.and_then(|list| list.items.as_deref());
                if preserve && child.is_none() {
                    return;
                }
                let length = self.path.len();
                for (index, item) in items.iter_mut().enumerate() {
                    write!(self.path, "[{index}]").expect("a String takes all");
                    self.value(item, child, preserve);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn map(&mut self, map: &mut Map, node: Option<&Node>, preserve: bool, root: bool) {
        let embedded = root || node.is_some_and(|node| node.embedded_resource);
        let length = self.path.len();
        map.retain(|name, value| {
            if embedded && META_FIELDS.contains(&name.as_str()) {
                return true;
            }
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(name);
            let kept = match node.and_then(|node| node.key(name)) {
                Some(child) => {
                    self.value(value, child, false);
                    true
                }
                None if preserve => true,
                None => {
                    self.pruned.push(self.path.clone());
                    false
                }
            };
            self.path.truncate(length);
            kept
        });
    }
}
