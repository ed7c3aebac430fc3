//! What a pod asks of other pods: affinity, anti-affinity, and an even spread over a topology.

use crate::model::Pod;
use hashbrown::HashMap;
use skiff_machinery::selector::{Operator, Requirement, Selector};
use skiff_machinery::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Label of a node with its own name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// Label of a node with its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Labels, as pods, nodes and namespaces have them.
pub type Labels = BTreeMap<String, String>;

/// Reads labels.
pub fn labels_of(map: Option<&Map>) -> Labels {
    let pairs = map.into_iter().flat_map(Map::iter);
    pairs.map(|(key, value)| (key.to_string(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// The labels of all namespaces.
#[derive(Default)]
pub struct Namespaces(HashMap<Arc<str>, Labels>);

impl Namespaces {
    /// Takes in a namespace's labels.
    pub fn set(&mut self, name: &str, labels: Labels) {
        self.0.insert(name.into(), labels);
    }
    /// Forgets a namespace.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
    fn selected(&self, selector: &Selector, name: &str) -> bool {
        // A namespace that is not known (yet) has no labels: `{}` selects it all the same.
        match self.0.get(name) {
            Some(labels) => selector.matches(labels),
            None => selector.matches(&Labels::new()),
        }
    }
}

/// A `PodAffinityTerm`: pods, and the label of nodes that makes them near.
#[derive(Clone, Debug, PartialEq)]
pub struct PodTerm {
    namespaces: Vec<String>,
    namespace_selector: Selector,
    selector: Selector,
    /// Nodes with the same value of this label are near each other.
    pub topology_key: String,
}

impl PodTerm {
    /// `matchLabelKeys` and `mismatchLabelKeys` have become requirements of the selector when the pod was created.
    fn read(term: &Value, namespace: &str) -> Result<Self, String> {
        let selector = |field: &str| {
            let selector = Selector::from_label_selector(term.get(field));
            selector.map_err(|error| format!("affinity term, {field}: {error}"))
        };
        let mut namespaces: Vec<String> =
            term.items_at(&["namespaces"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if namespaces.is_empty() && term.get("namespaceSelector").is_none_or(Value::is_null) {
            namespaces.push(namespace.to_owned());
        }
        let (namespace_selector, selector) = (selector("namespaceSelector")?, selector("labelSelector")?);
        Ok(Self { namespaces, namespace_selector, selector, topology_key: term.str_at(&["topologyKey"]).to_owned() })
    }
    /// Whether the term means this pod (`AffinityTerm.Matches`).
    pub fn matches(&self, pod: &Pod, namespaces: &Namespaces) -> bool {
        let here = self.namespaces.iter().any(|name| **name == *pod.namespace)
            || (!self.namespace_selector.matches_nothing()
                && namespaces.selected(&self.namespace_selector, &pod.namespace));
        here && self.selector.matches(&pod.labels)
    }
}

/// `affinity.podAffinity` and `affinity.podAntiAffinity`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodAffinity {
    /// Pods that have to be near, each term.
    pub required: Vec<PodTerm>,
    /// Pods that had better be near, with weights.
    pub preferred: Vec<(i64, PodTerm)>,
    /// Pods that must not be near.
    pub anti_required: Vec<PodTerm>,
    /// Pods that had better not be near, with weights.
    pub anti_preferred: Vec<(i64, PodTerm)>,
}

impl PodAffinity {
    /// From a pod's spec.
    pub fn read(spec: &Value, namespace: &str) -> Result<Self, String> {
        let required = |kind: &str| {
            let path = ["affinity", kind, "requiredDuringSchedulingIgnoredDuringExecution"];
            spec.items_at(&path).iter().map(|term| PodTerm::read(term, namespace)).collect::<Result<Vec<_>, _>>()
        };
        let preferred = |kind: &str| {
            let path = ["affinity", kind, "preferredDuringSchedulingIgnoredDuringExecution"];
            let weighted = |term: &Value| {
                let weight = term.get("weight").and_then(Value::as_int).unwrap_or(0);
                let inner = term.get("podAffinityTerm").ok_or("a weighted affinity term without a term")?;
                Ok::<_, String>((weight, PodTerm::read(inner, namespace)?))
            };
            spec.items_at(&path).iter().map(weighted).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            required: required("podAffinity")?,
            preferred: preferred("podAffinity")?,
            anti_required: required("podAntiAffinity")?,
            anti_preferred: preferred("podAntiAffinity")?,
        })
    }
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.preferred.is_empty()
            && self.anti_required.is_empty()
            && self.anti_preferred.is_empty()
    }
    /// Whether the pod is meant by every required term (`podMatchesAllAffinityTerms`).
    pub fn all_required_match(&self, pod: &Pod, namespaces: &Namespaces) -> bool {
        !self.required.is_empty() && self.required.iter().all(|term| term.matches(pod, namespaces))
    }
}

/// A `TopologySpreadConstraint`.
#[derive(Clone, Debug, PartialEq)]
pub struct SpreadConstraint {
    /// By how much domains may differ.
    pub max_skew: i64,
    /// Nodes with the same value of this label are one domain.
    pub topology_key: String,
    /// The pods that are counted.
    pub selector: Selector,
    /// With fewer domains than this, the emptiest counts as empty.
    pub min_domains: i64,
    /// Only nodes that the pod's node affinity accepts count.
    pub honors_affinity: bool,
    /// Only nodes whose taints the pod tolerates count.
    pub honors_taints: bool,
    /// Whether it has to hold (`DoNotSchedule`), or only counts (`ScheduleAnyway`).
    pub hard: bool,
}

impl SpreadConstraint {
    /// All constraints of a pod's spec (`filterTopologySpreadConstraints`).
    pub fn read_all(spec: &Value, labels: &Labels) -> Result<Vec<Self>, String> {
        spec.items_at(&["topologySpreadConstraints"]).iter().map(|constraint| Self::read(constraint, labels)).collect()
    }
    fn read(constraint: &Value, labels: &Labels) -> Result<Self, String> {
        let number = |key: &str, default: i64| constraint.get(key).and_then(Value::as_int).unwrap_or(default);
        let mut selector = Selector::from_label_selector(constraint.get("labelSelector"))
            .map_err(|error| format!("topologySpreadConstraints, labelSelector: {error}"))?;
        for key in constraint.items_at(&["matchLabelKeys"]).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                let requirement = Requirement::new(key, Operator::In, [value.as_str()]);
                selector.add(requirement.map_err(|error| format!("topologySpreadConstraints: {error:?}"))?);
            }
        }
        Ok(Self {
            max_skew: number("maxSkew", 1),
            topology_key: constraint.str_at(&["topologyKey"]).to_owned(),
            selector,
            min_domains: number("minDomains", 1),
            honors_affinity: constraint.str_at(&["nodeAffinityPolicy"]) != "Ignore",
            honors_taints: constraint.str_at(&["nodeTaintsPolicy"]) == "Honor",
            hard: constraint.str_at(&["whenUnsatisfiable"]) == "DoNotSchedule",
        })
    }
    /// What counts for pods that ask for no spread, with the pods of their own workload (`systemDefaultConstraints`).
    pub fn system_defaults(selector: &Selector) -> Vec<Self> {
        let one = |topology_key: &str, max_skew| Self {
            max_skew,
            topology_key: topology_key.to_owned(),
            selector: selector.clone(),
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
            hard: false,
        };
        vec![one(HOSTNAME, 3), one(ZONE, 5)]
    }
    /// Whether it counts this pod, for a pod of `namespace`. Pods that leave do not count.
    pub fn counts(&self, pod: &Pod, namespace: &str) -> bool {
        !pod.terminating && *pod.namespace == *namespace && self.selector.matches(&pod.labels)
    }
}

/// The selectors of Services and of the controllers of pods: whom a pod without constraints of its own is spread among
/// (`helper.DefaultSelector`).
#[derive(Default)]
pub struct Workloads {
    services: HashMap<Arc<str>, BTreeMap<Arc<str>, Selector>>,
    controllers: HashMap<(&'static str, Arc<str>, Arc<str>), Selector>,
}

impl Workloads {
    /// Takes in a Service's selector, `None` when it has none or is gone.
    pub fn set_service(&mut self, namespace: &Arc<str>, name: &Arc<str>, selector: Option<Selector>) {
        let services = self.services.entry(Arc::clone(namespace)).or_default();
        match selector {
            Some(selector) => {
                services.insert(Arc::clone(name), selector);
            }
            None => {
                services.remove(name);
                if services.is_empty() {
                    self.services.remove(namespace);
                }
            }
        }
    }
    /// Takes in the selector of a controller of pods, by its kind.
    pub fn set_controller(
        &mut self,
        kind: &'static str,
        namespace: &Arc<str>,
        name: &Arc<str>,
        selector: Option<Selector>,
    ) {
        let key = (kind, Arc::clone(namespace), Arc::clone(name));
        match selector {
            Some(selector) => {
                self.controllers.insert(key, selector);
            }
            None => {
                self.controllers.remove(&key);
            }
        }
    }
    /// The pod's workload; `None` when it belongs to nothing.
    pub fn selector_of(&self, pod: &Pod) -> Option<Selector> {
        let services = self.services.get(&pod.namespace).into_iter().flat_map(BTreeMap::values);
        let mut all: Vec<Requirement> = services
            .filter(|selector| selector.matches(&pod.labels))
            .filter_map(Selector::requirements)
            .flatten()
            .cloned()
            .collect();
        if let Some((kind, name)) = &pod.controller
            && let Some(selector) = self.controllers.get(&(*kind, Arc::clone(&pod.namespace), Arc::clone(name)))
        {
            all.extend(selector.requirements()?.iter().cloned());
        }
        (!all.is_empty()).then(|| Selector::new(all))
    }
}
