//! Which set is the present template's, which are history, and what a set carries
//! (`controller/deployment/util/deployment_util.go`, `sync.go`).

use super::Set;
use crate::context::SyncError;
use crate::workload::{Owner, int_at};
use skiff_machinery::{Map, Name, Value, object};

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Annotations that stay on the deployment.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// A deployment's sets: the present template's, and the others from oldest to newest.
pub(crate) struct Revisions {
    pub(crate) new: Option<Set>,
    pub(crate) old: Vec<Set>,
    /// Whether this sync has made the new one.
    pub(crate) created: bool,
}

impl Revisions {
    /// Sorts a deployment's sets. Of several that match the template the oldest is the new one
    /// (`FindNewReplicaSet`).
    pub(crate) fn sort(deployment: &Value, mut sets: Vec<Set>) -> Self {
        sets.sort_by(|one, other| one.created().cmp(&other.created()).then_with(|| one.name().cmp(other.name())));
        let template = deployment.at(&["spec", "template"]);
        let position = sets.iter().position(|set| same_pod_template(set.tree.at(&["spec", "template"]), template));
        let new = position.map(|position| sets.remove(position));
        Self { new, old: sets, created: false }
    }
    /// All sets.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }
    pub(crate) fn set_mut(&mut self, name: &str) -> Option<&mut Set> {
        self.old.iter_mut().chain(&mut self.new).find(|set| set.name() == name)
    }
    /// The revision that the new set should carry: one more than any old one's.
    pub(crate) fn next_revision(&self) -> String {
        let newest_old = self.old.iter().map(revision_of).max().unwrap_or(0);
        let own = self.new.as_ref().map_or(0, revision_of);
        if own > newest_old { own.to_string() } else { (newest_old + 1).to_string() }
    }
    /// Whether the deployment's size changed since its sets were sized (`isScalingEvent`).
    pub(crate) fn is_scaling(&self, deployment: &Value) -> bool {
        let wanted = int_at(deployment, &["spec", "replicas"], 1);
        self.all()
            .filter(|set| set.replicas > 0)
            .any(|set| set.annotation(DESIRED_REPLICAS).parse::<i64>().is_ok_and(|desired| desired != wanted))
    }
    /// Empty old sets beyond the history limit, oldest revision first.
    pub(crate) fn beyond_history(&self, limit: i64) -> Vec<&Set> {
        let mut kept: Vec<&Set> =
            self.old.iter().filter(|set| set.tree.at(&["metadata", "deletionTimestamp"]).is_none()).collect();
        kept.sort_by_key(|set| revision_of(set));
        let surplus = kept.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let is_empty = |set: &&&Set| {
            set.replicas == 0
                && set.current() == 0
                && int_at(&set.tree, &["metadata", "generation"], 0)
                    <= int_at(&set.tree, &["status", "observedGeneration"], 0)
        };
        kept.iter().take(surplus).filter(is_empty).copied().collect()
    }
}

fn revision_of(set: &Set) -> i64 {
    set.annotation(REVISION).parse().unwrap_or(0)
}

fn without_hash(template: Option<&Value>) -> Value {
    let mut template = template.cloned().unwrap_or_default();
    let metadata = template.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(TEMPLATE_HASH);
        }
        // Written as null by servers that keep Go's non-pointer time.
        metadata.retain(|name, value| name.as_str() != "creationTimestamp" || !value.is_null());
    }
    template
}

fn same_pod_template(one: Option<&Value>, other: Option<&Value>) -> bool {
    without_hash(one) == without_hash(other)
}

/// Whether two sets are of one template.
pub(crate) fn same_template(one: &Value, other: &Value) -> bool {
    same_pod_template(one.at(&["spec", "template"]), other.at(&["spec", "template"]))
}

fn max_surge(deployment: &Value) -> i64 {
    super::scale::bounds(deployment).max_surge
}

/// The set of the deployment's present template.
pub(crate) fn new_set(owner: &Owner<'_>, revision: &str, size: i64) -> Result<Value, SyncError> {
    let deployment = owner.tree;
    let mut template = without_hash(deployment.at(&["spec", "template"]));
    let hash = crate::template::hash(&template, int_at(deployment, &["status", "collisionCount"], 0));
    let template_map =
        template.as_object_mut().ok_or_else(|| SyncError::Object("spec.template is missing".to_owned()))?;
    let labels = template_map.object_mut("metadata").object_mut("labels");
    labels.insert(TEMPLATE_HASH, hash.as_str());
    let labels = labels.clone();
    let mut selector = deployment.at(&["spec", "selector"]).cloned().unwrap_or_default();
    if let Some(selector) = selector.as_object_mut() {
        selector.object_mut("matchLabels").insert(TEMPLATE_HASH, hash.as_str());
    }
    let mut annotations = copied_annotations(deployment);
    annotations.insert(REVISION, revision);
    size_annotations(deployment, &mut annotations);
    let mut spec = Map::new();
    spec.insert("replicas", size);
    spec.insert("selector", selector);
    spec.insert("template", template);
    let min_ready = int_at(deployment, &["spec", "minReadySeconds"], 0);
    if min_ready > 0 {
        spec.insert("minReadySeconds", min_ready);
    }
    Ok(object! {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": object! {
            "name": format!("{}-{hash}", owner.name()),
            "namespace": owner.namespace(),
            "ownerReferences": vec![owner.controller_reference()],
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
    })
}

fn copied_annotations(deployment: &Value) -> Map {
    let annotations = deployment.object_at(&["metadata", "annotations"]).into_iter().flat_map(Map::iter);
    let copied = annotations.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()));
    copied.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn size_annotations(deployment: &Value, annotations: &mut Map) {
    let replicas = int_at(deployment, &["spec", "replicas"], 1);
    annotations.insert(DESIRED_REPLICAS, replicas.to_string());
    annotations.insert(MAX_REPLICAS, (replicas + max_surge(deployment)).to_string());
}

/// The history with one more revision; the oldest go when it would be too long.
fn lengthened(history: &str, revision: &str) -> Option<String> {
    const LONGEST: usize = 2000;
    if history.is_empty() {
        return Some(revision.to_owned());
    }
    let mut kept = history;
    while kept.len() + 1 + revision.len() > LONGEST {
        kept = kept.split_once(',')?.1;
    }
    Some(format!("{kept},{revision}"))
}

/// What has to change on the new set beside its size; `None` when nothing has.
pub(crate) fn metadata_patch(deployment: &Value, set: &Set, revision: &str) -> Option<Value> {
    let mut annotations = copied_annotations(deployment);
    let old_revision = set.annotation(REVISION);
    // A rollback to an older template: its set takes the newest revision and remembers the ones it had.
    if old_revision.parse::<i64>().unwrap_or(0) < revision.parse::<i64>().unwrap_or(0) {
        annotations.insert(REVISION, revision);
        if !old_revision.is_empty() {
            let history = set.annotation(REVISION_HISTORY);
            if let Some(history) = lengthened(history, old_revision) {
                annotations.insert(REVISION_HISTORY, history);
            }
        }
    }
    annotations.retain(|key, value| Some(set.annotation(key)) != value.as_str());
    let min_ready = int_at(deployment, &["spec", "minReadySeconds"], 0);
    let mut patch = Map::new();
    if !annotations.is_empty() {
        patch.insert("metadata", object! { "annotations": annotations });
    }
    if int_at(&set.tree, &["spec", "minReadySeconds"], 0) != min_ready {
        patch.insert("spec", object! { "minReadySeconds": min_ready });
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// What brings a set to `size`, with the annotations that proportional scaling reads; `None` when nothing differs.
pub(crate) fn size_patch(deployment: &Value, set: &Set, size: i64) -> Option<Value> {
    let mut annotations = Map::new();
    if size > 0 || set.replicas > 0 {
        size_annotations(deployment, &mut annotations);
    }
    annotations.retain(|key: &Name, value| Some(set.annotation(key)) != value.as_str());
    let mut patch = Map::new();
    if !annotations.is_empty() {
        patch.insert("metadata", object! { "annotations": annotations });
    }
    if set.replicas != size {
        patch.insert("spec", object! { "replicas": size });
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}
