//! Which nodes a pod accepts and which nodes accept it: node selectors and affinity, taints and tolerations
//! (`k8s.io/component-helpers/scheduling/corev1`). The scheduler and the controllers that place pods decide alike because
//! both ask here.

use crate::selector::{LabelSource, Operator, Requirement};
use crate::value::{Map, Value};

/// A node, as far as placement looks at it.
pub trait NodeSource {
    /// `metadata.name`.
    fn name(&self) -> &str;
    /// The value of the label `key`.
    fn node_label(&self, key: &str) -> Option<&str>;
}

impl NodeSource for Value {
    fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }
    fn node_label(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "labels", key]).and_then(Value::as_str)
    }
}

struct Labels<'n, N: ?Sized>(&'n N);
impl<N: NodeSource + ?Sized> LabelSource for Labels<'_, N> {
    fn label(&self, key: &str) -> Option<&str> {
        self.0.node_label(key)
    }
}

/// A term of node affinity: all of its requirements must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTerm {
    /// On labels.
    pub labels: Vec<Requirement>,
    /// On fields: `metadata.name` is the only one.
    pub fields: Vec<Requirement>,
    /// The term could not be read, or is empty; it matches nothing.
    pub broken: bool,
}

impl NodeTerm {
    /// From a `NodeSelectorTerm`.
    pub fn read(term: &Value) -> Self {
        let (labels, label_errors) = read_requirements(term.items_at(&["matchExpressions"]));
        let (fields, field_errors) = read_requirements(term.items_at(&["matchFields"]));
        let empty = labels.is_empty() && fields.is_empty();
        Self { labels, fields, broken: label_errors || field_errors || empty }
    }
    /// Whether the node satisfies the term.
    pub fn matches<N: NodeSource + ?Sized>(&self, node: &N) -> bool {
        let name = [("metadata.name", node.name())];
        !self.broken
            && self.labels.iter().all(|requirement| requirement.matches(&Labels(node)))
            && self.fields.iter().all(|requirement| requirement.matches(&name[..]))
    }
}

fn read_requirements(expressions: &[Value]) -> (Vec<Requirement>, bool) {
    let read = |expression: &Value| {
        let operator = Operator::from_node_selector(expression.str_at(&["operator"]))?;
        let values = expression.items_at(&["values"]).iter().filter_map(Value::as_str);
        Requirement::new(expression.str_at(&["key"]), operator, values).ok()
    };
    let read: Vec<Option<Requirement>> = expressions.iter().map(read).collect();
    let broken = read.iter().any(Option::is_none);
    (read.into_iter().flatten().collect(), broken)
}

/// Node affinity and node selector of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeAffinity {
    /// `spec.nodeSelector`.
    pub selector: Vec<(String, String)>,
    /// Required terms, one of which must match; `None` when there is no requirement.
    pub required: Option<Vec<NodeTerm>>,
    /// Preferred terms with their weights.
    pub preferred: Vec<(i64, NodeTerm)>,
}

impl NodeAffinity {
    /// From a `PodSpec`.
    pub fn read(spec: &Value) -> Self {
        let selector = spec.object_at(&["nodeSelector"]).into_iter().flat_map(Map::iter);
        let required = spec.at(&["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = spec.items_at(&["affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"]);
        let weighted = |term: &Value| {
            let weight = term.get("weight").and_then(Value::as_int).unwrap_or(0);
            Some((weight, NodeTerm::read(term.get("preference")?)))
        };
        Self {
            selector: selector
                .map(|(key, value)| (key.to_string(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            required: required
                .filter(|required| !required.is_null())
                .map(|required| required.items_at(&["nodeSelectorTerms"]).iter().map(NodeTerm::read).collect()),
            preferred: preferred.iter().filter_map(weighted).collect(),
        }
    }
    /// Whether the node satisfies selector and required terms.
    pub fn matches<N: NodeSource + ?Sized>(&self, node: &N) -> bool {
        let labels = |(key, value): &(String, String)| node.node_label(key) == Some(value);
        self.selector.iter().all(labels)
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node)))
    }
}

/// A toleration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// Key; empty for all keys.
    pub key: String,
    /// Whether only the key counts.
    pub exists: bool,
    /// Value.
    pub value: String,
    /// Effect; empty for all effects.
    pub effect: String,
}

impl Toleration {
    /// From a `Toleration`.
    pub fn read(toleration: &Value) -> Self {
        let text = |key: &str| toleration.str_at(&[key]).to_owned();
        Self {
            key: text("key"),
            exists: toleration.str_at(&["operator"]) == "Exists",
            value: text("value"),
            effect: text("effect"),
        }
    }
    /// Whether it tolerates the taint (`Toleration.ToleratesTaint`).
    pub fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || (!self.key.is_empty() && self.value == taint.value))
    }
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Taint {
    /// From a `Taint`.
    pub fn read(taint: &Value) -> Self {
        let text = |key: &str| taint.str_at(&[key]).to_owned();
        Self { key: text("key"), value: text("value"), effect: text("effect") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{list, object};

    fn node() -> Value {
        object! { "metadata": object! { "name": "n1", "labels": object! { "disk": "ssd", "cores": "8" } } }
    }
    fn term(field: &'static str, key: &str, operator: &str, values: Value) -> Value {
        let expression = object! { "key": key, "operator": operator, "values": values };
        let mut term = Map::new();
        term.insert(field, list![expression]);
        Value::Object(term)
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_matches_nothing() {
        let matches = |terms: Value| {
            let required = object! { "nodeSelectorTerms": terms };
            let affinity = object! { "requiredDuringSchedulingIgnoredDuringExecution": required };
            let spec = object! { "affinity": object! { "nodeAffinity": affinity } };
            NodeAffinity::read(&spec).matches(&node())
        };
        assert!(matches(list![term("matchExpressions", "disk", "In", list!["ssd"])]));
        assert!(matches(list![term("matchExpressions", "cores", "Gt", list!["4"])]));
        assert!(!matches(list![term("matchFields", "metadata.name", "In", list!["n2"])]));
        assert!(matches(list![
            term("matchFields", "metadata.name", "In", list!["n2"]),
            term("matchFields", "metadata.name", "In", list!["n1"]),
        ]));
        assert!(!matches(list![object! {}]));
        assert!(!matches(list![term("matchExpressions", "disk", "Nonsense", list!["ssd"])]));
        assert!(NodeAffinity::read(&object! {}).matches(&node()));
        let selector = object! { "nodeSelector": object! { "disk": "hdd" } };
        assert!(!NodeAffinity::read(&selector).matches(&node()));
    }

    #[test]
    fn tolerations_match_by_key_value_and_effect() {
        let taint = Taint::read(&object! { "key": "k", "value": "v", "effect": "NoSchedule" });
        let tolerates = |toleration: Value| Toleration::read(&toleration).tolerates(&taint);
        assert!(tolerates(object! { "operator": "Exists" }));
        assert!(tolerates(object! { "key": "k", "operator": "Exists", "effect": "NoSchedule" }));
        assert!(tolerates(object! { "key": "k", "value": "v" }));
        assert!(!tolerates(object! { "key": "k", "value": "w" }));
        assert!(!tolerates(object! { "key": "k", "operator": "Exists", "effect": "NoExecute" }));
        assert!(!tolerates(object! { "value": "v" }));
    }
}
