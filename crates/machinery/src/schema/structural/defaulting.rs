//! Filling in defaults (`pkg/apiserver/schema/defaulting/{algorithm,prunenulls}.go`).

use super::{Node, Structural};
use crate::value::Value;

impl Structural {
    /// Puts defaults where fields are missing, or `null` without being nullable; drops the nulls that remain where they
    /// are not allowed.
    pub fn default(&self, object: &mut Value) {
        fill(object, &self.0);
        prune_nulls(object, &self.0);
    }
}

fn fill(value: &mut Value, node: &Node) {
    match value {
        Value::Object(map) => {
            for (name, property) in &node.properties {
                let Some(default) = &property.default else { continue };
                let missing = match map.get(name) {
                    None => true,
                    Some(value) => value.is_null() && !property.nullable,
                };
                if missing {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(Some(child)) = node.key(name) {
                    fill_null(value, child);
                    fill(value, child);
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = &node.items else { return };
            for item in items {
                fill_null(item, child);
                fill(item, child);
            }
        }
        _ => {}
    }
}

fn fill_null(value: &mut Value, node: &Node) {
    if let (true, false, Some(default)) = (value.is_null(), node.nullable, &node.default) {
        *value = default.clone();
    }
}

fn prune_nulls(value: &mut Value, node: &Node) {
    match value {
        Value::Object(map) => map.retain(|name, value| match node.key(name) {
            Some(Some(child)) if value.is_null() && !child.nullable => false,
            Some(Some(child)) => {
                prune_nulls(value, child);
                true
            }
            _ => true,
        }),
        Value::Array(items) => {
            if let Some(child) = &node.items {
                items.iter_mut().for_each(|item| prune_nulls(item, child));
            }
        }
        _ => {}
    }
}
