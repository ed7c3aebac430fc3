//! What controllers need to know of a pod, and how a template becomes one.

use skiff_client::Projection;
use skiff_client::events::Reference;
use skiff_client::informer::Item;
use skiff_machinery::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Seconds since the epoch of a `metav1.Time`; `None` when absent or malformed.
pub fn seconds(tree: &Value, path: &[&str]) -> Option<i64> {
    let text = tree.at(path)?.as_str()?;
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// For events about a pod.
pub fn reference(pod: &Item<PodView>) -> Reference {
    Reference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: pod.key.namespace.to_string(),
        name: pod.key.name.to_string(),
        uid: pod.uid.to_string(),
        field_path: String::new(),
    }
}

/// Condition `ty` of an object's status.
pub fn condition<'t>(tree: &'t Value, ty: &str) -> Option<&'t Value> {
    tree.items_at(&["status", "conditions"]).iter().find(|condition| condition.str_at(&["type"]) == ty)
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are upstream's constants")]
pub enum Phase {
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// The controller of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    /// `apiVersion`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: Arc<str>,
}

/// What controllers need to know of a pod: small, because there is one for every pod of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The annotations that decide something.
    pub annotations: BTreeMap<String, String>,
    /// Finalizers.
    pub finalizers: Vec<String>,
    /// Its controller.
    pub controller: Option<Owner>,
    /// `spec.nodeName`; empty while it has none.
    pub node_name: Arc<str>,
    /// Phase.
    pub phase: Phase,
    /// Since when it is ready, in seconds since the epoch; `None` when it is not.
    pub ready_since: Option<i64>,
    /// Creation, in seconds since the epoch.
    pub created: i64,
    /// Deletion, when it has begun, in seconds since the epoch.
    pub deleted: Option<i64>,
    /// Sum of all its containers' restarts.
    pub restarts: i64,
    /// Most restarts of one of its containers, and of one of its sidecars.
    pub most_restarts: (i64, i64),
    /// Addresses.
    pub ips: Vec<String>,
    /// Named container ports: name, protocol, number.
    pub ports: Vec<(String, String, i64)>,
    /// Hostname and subdomain, for headless services.
    pub hostname: String,
    /// See [`PodView::hostname`].
    pub subdomain: String,
    /// Uses the node's network.
    pub host_network: bool,
    /// `spec.tolerations` as said.
    pub tolerations: Arc<[Value]>,
    /// The first required node-affinity name that a DaemonSet pod carries before it has a node.
    pub target_node: Option<String>,
    /// Exit codes of containers that ended, init containers last: container name, exit code. Only of a Job's pods.
    pub exit_codes: Vec<(String, i64)>,
    /// Type and status of its conditions. Only of a Job's pods.
    pub conditions: Vec<(String, String)>,
    /// When the last container ended, in seconds since the epoch; `None` while one has not.
    pub finished: Option<i64>,
    /// `status.reason`.
    pub reason: String,
    /// Since when somebody but the kubelet means to disrupt it, in seconds since the epoch.
    pub disrupted_since: Option<i64>,
    /// Names of the claims that it uses.
    pub claims: Box<[Box<str>]>,
}

/// The claim of a volume; a generic ephemeral volume's is named after pod and volume.
pub fn claim_of(pod: &Value, volume: &Value) -> Option<String> {
    if volume.get("ephemeral").is_some_and(|ephemeral| !ephemeral.is_null()) {
        return Some(format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.str_at(&["name"])));
    }
    let claim = volume.str_at(&["persistentVolumeClaim", "claimName"]);
    (!claim.is_empty()).then(|| claim.to_owned())
}

/// Annotations that some controller reads.
const READ_ANNOTATIONS: [&str; 4] = [
    "controller.kubernetes.io/pod-deletion-cost",
    crate::job::COMPLETION_INDEX,
    crate::job::FAILURE_COUNT,
    crate::job::IGNORED_FAILURE_COUNT,
];

fn texts(map: Option<&Map>, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let entries = map.into_iter().flat_map(Map::iter).filter(|(key, _)| wanted(key));
    entries.map(|(key, value)| (key.to_string(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn named_node(spec: &Value) -> Option<String> {
    let required = spec.at(&["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"])?;
    let fields = required.items_at(&["nodeSelectorTerms"]).iter().flat_map(|term| term.items_at(&["matchFields"]));
    let by_name = fields
        .filter(|field| field.str_at(&["key"]) == "metadata.name")
        .find_map(|field| field.items_at(&["values"]).first().and_then(Value::as_str));
    by_name.map(str::to_owned)
}

impl Projection for PodView {
    fn project(tree: &Arc<Value>) -> Result<Self, String> {
        let phase = match tree.str_at(&["status", "phase"]) {
            "Running" => Phase::Running,
            "Succeeded" => Phase::Succeeded,
            "Failed" => Phase::Failed,
            "Unknown" => Phase::Unknown,
            _ => Phase::Pending,
        };
        let ready = condition(tree, "Ready").filter(|ready| ready.str_at(&["status"]) == "True");
        let controller = crate::ownership::controller_of(tree).map(|owner| Owner {
            api_version: owner.str_at(&["apiVersion"]).to_owned(),
            kind: owner.str_at(&["kind"]).to_owned(),
            name: owner.str_at(&["name"]).to_owned(),
            uid: owner.str_at(&["uid"]).into(),
        });
        let of_job = controller.as_ref().is_some_and(|owner: &Owner| owner.kind == "Job");
        let statuses = tree.items_at(&["status", "containerStatuses"]);
        let init_statuses = tree.items_at(&["status", "initContainerStatuses"]);
        let restarts_of = |status: &Value| status.get("restartCount").and_then(Value::as_int).unwrap_or(0);
        let all_statuses = || statuses.iter().chain(init_statuses);
        let ended = |status: &Value| {
            let code = status.at(&["state", "terminated", "exitCode"]).and_then(Value::as_int)?;
            Some((status.str_at(&["name"]).to_owned(), code))
        };
        let mut ips: Vec<String> =
            tree.items_at(&["status", "podIPs"]).iter().map(|ip| ip.str_at(&["ip"]).to_owned()).collect();
        let ip = tree.str_at(&["status", "podIP"]);
        if ips.is_empty() && !ip.is_empty() {
            ips.push(ip.to_owned());
        }
        let empty = Value::Null;
        let spec = tree.get("spec").unwrap_or(&empty);
        let sidecar = |container: &&Value| container.str_at(&["restartPolicy"]) == "Always";
        let is_sidecar = |status: &&Value| {
            let name = status.str_at(&["name"]);
            spec.items_at(&["initContainers"]).iter().filter(sidecar).any(|one| one.str_at(&["name"]) == name)
        };
        let containers =
            spec.items_at(&["containers"]).iter().chain(spec.items_at(&["initContainers"]).iter().filter(sidecar));
        let ports = containers.flat_map(|container| container.items_at(&["ports"])).map(|port| {
            let number = port.get("containerPort").and_then(Value::as_int).unwrap_or(0);
            (port.str_at(&["name"]).to_owned(), port.str_at(&["protocol"]).to_owned(), number)
        });
        let finalizers = tree.items_at(&["metadata", "finalizers"]).iter();
        Ok(Self {
            labels: texts(tree.object_at(&["metadata", "labels"]), |_| true),
            annotations: texts(tree.object_at(&["metadata", "annotations"]), |key| READ_ANNOTATIONS.contains(&key)),
            finalizers: finalizers.filter_map(Value::as_str).map(str::to_owned).collect(),
            controller,
            node_name: spec.str_at(&["nodeName"]).into(),
            phase,
            ready_since: ready.map(|ready| seconds(ready, &["lastTransitionTime"]).unwrap_or(0)),
            created: seconds(tree, &["metadata", "creationTimestamp"]).unwrap_or(0),
            deleted: seconds(tree, &["metadata", "deletionTimestamp"]),
            restarts: all_statuses().map(restarts_of).sum(),
            most_restarts: (
                statuses.iter().map(restarts_of).max().unwrap_or(0),
                init_statuses.iter().filter(is_sidecar).map(restarts_of).max().unwrap_or(0),
            ),
            ips,
            ports: ports.collect(),
            hostname: spec.str_at(&["hostname"]).to_owned(),
            subdomain: spec.str_at(&["subdomain"]).to_owned(),
            host_network: spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false),
            tolerations: spec.items_at(&["tolerations"]).into(),
            target_node: named_node(spec),
            exit_codes: all_statuses().filter(|_| of_job).filter_map(ended).collect(),
            conditions: tree
                .items_at(&["status", "conditions"])
                .iter()
                .filter(|_| of_job)
                .map(|condition| (condition.str_at(&["type"]).to_owned(), condition.str_at(&["status"]).to_owned()))
                .collect(),
            finished: statuses
                .iter()
                .map(|status| seconds(status, &["state", "terminated", "finishedAt"]))
                .collect::<Option<Vec<i64>>>()
                .and_then(|ended| ended.into_iter().max()),
            reason: tree.str_at(&["status", "reason"]).to_owned(),
            disrupted_since: condition(tree, "DisruptionTarget")
                .filter(|target| {
                    target.str_at(&["status"]) == "True" && target.str_at(&["reason"]) != "TerminationByKubelet"
                })
                .map(|target| seconds(target, &["lastTransitionTime"]).unwrap_or(0)),
            claims: spec
                .items_at(&["volumes"])
                .iter()
                .filter_map(|volume| claim_of(tree, volume))
                .map(String::into_boxed_str)
                .collect(),
        })
    }
}

impl PodView {
    /// Whether it still runs or may run (`controller.IsPodActive`).
    pub fn is_active(&self) -> bool {
        self.phase != Phase::Succeeded && self.phase != Phase::Failed && self.deleted.is_none()
    }
    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
    /// Whether it is being deleted and has not ended (`controller.IsPodTerminating`).
    pub fn is_terminating(&self) -> bool {
        self.deleted.is_some() && !self.is_finished()
    }
    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.ready_since.is_some()
    }
    /// Whether it has been ready for `min_ready` seconds.
    pub fn is_available(&self, min_ready: i64, now: i64) -> bool {
        self.ready_since.is_some_and(|since| min_ready == 0 || since + min_ready <= now)
    }
}

/// The pod of a template: labels, annotations, finalizers and spec, owned by `reference`. `name` is a `generateName`
/// prefix unless `exact`.
pub fn from_template(template: &Value, reference: Value, name: &str, exact: bool) -> Value {
    let mut metadata = Map::new();
    for key in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.at(&["metadata", key]).filter(|value| !value.is_null()) {
            metadata.insert(key, value.clone());
        }
    }
    metadata.insert(if exact { "name" } else { "generateName" }, name);
    metadata.insert("ownerReferences", vec![reference]);
    skiff_machinery::object! {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_default(),
    }
}

/// Which of two pods goes first when there are too many: `Less` goes first (`controller.ActivePods`).
pub fn deletion_order(one: &PodView, other: &PodView) -> Ordering {
    let since = |pod: &PodView| pod.ready_since.unwrap_or(i64::MAX);
    before_times(one, other)
        .then(since(other).cmp(&since(one)))
        .then(other.most_restarts.cmp(&one.most_restarts))
        .then(other.created.cmp(&one.created))
}

/// A pod among those that may go, with how many related pods are on its node.
#[derive(Clone, Copy)]
pub struct Ranked<'p> {
    /// The pod.
    pub pod: &'p PodView,
    /// Its uid.
    pub uid: &'p str,
    /// Related pods on its node.
    pub rank: usize,
}

/// The order of `controller.ActivePodsWithRanks`: costs and neighbours count too, and ages only by their magnitude, so
/// that scaling up and down does not always hit the same failure domain.
pub fn ranked_deletion_order(one: Ranked<'_>, other: Ranked<'_>, now: i64) -> Ordering {
    let cost = |pod: &PodView| {
        let text = pod.annotations.get("controller.kubernetes.io/pod-deletion-cost");
        text.and_then(|text| text.parse::<i32>().ok()).unwrap_or(0)
    };
    // The logarithm of an age: seconds are as fine as times are written.
    let magnitude =
        |since: i64| u64::try_from(now - since).ok().filter(|age| *age > 0).map_or(-1, |age| i64::from(age.ilog2()));
    let ready = |ranked: Ranked<'_>| ranked.pod.ready_since.map(magnitude);
    let (first, second) = (one.pod, other.pod);
    before_times(first, second)
        .then(cost(first).cmp(&cost(second)))
        .then(other.rank.cmp(&one.rank))
        .then(ready(one).cmp(&ready(other)))
        .then(second.most_restarts.cmp(&first.most_restarts))
        .then(magnitude(first.created).cmp(&magnitude(second.created)))
        .then(one.uid.cmp(other.uid))
}

/// Without a node before with one, pending before running, not ready before ready.
fn before_times(one: &PodView, other: &PodView) -> Ordering {
    let assigned = |pod: &PodView| !pod.node_name.is_empty();
    assigned(one).cmp(&assigned(other)).then(one.phase.cmp(&other.phase)).then(one.is_ready().cmp(&other.is_ready()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};

    fn pod(created: &str, ready: Option<&str>, cost: &str) -> PodView {
        let mut annotations = Map::new();
        annotations.insert("controller.kubernetes.io/pod-deletion-cost", cost);
        let conditions = ready
            .map_or(list![], |since| list![object! { "type": "Ready", "status": "True", "lastTransitionTime": since }]);
        let tree = object! {
            "metadata": object! { "creationTimestamp": created, "annotations": annotations },
            "spec": object! { "nodeName": "n" },
            "status": object! { "phase": "Running", "conditions": conditions },
        };
        PodView::project(&Arc::new(tree)).unwrap()
    }
    fn first(one: &PodView, other: &PodView, ranks: (usize, usize)) -> Ordering {
        let now = 3_600;
        let ranked = |pod, uid, rank| Ranked { pod, uid, rank };
        ranked_deletion_order(ranked(one, "a", ranks.0), ranked(other, "b", ranks.1), now)
    }

    #[test]
    fn cheap_crowded_and_young_pods_go_first() {
        let old = pod("1970-01-01T00:00:00Z", Some("1970-01-01T00:00:10Z"), "");
        let young = pod("1970-01-01T00:59:00Z", Some("1970-01-01T00:59:30Z"), "");
        assert_eq!(first(&young, &old, (1, 1)), Ordering::Less);
        assert_eq!(first(&young, &old, (1, 2)), Ordering::Greater, "the crowded node first");
        let dear = pod("1970-01-01T00:59:00Z", Some("1970-01-01T00:59:30Z"), "10");
        assert_eq!(first(&dear, &old, (1, 1)), Ordering::Greater);
        let unready = pod("1970-01-01T00:00:00Z", None, "100");
        assert_eq!(first(&unready, &young, (1, 9)), Ordering::Less);
        // 3,000 and 2,100 seconds are of one magnitude: the uid decides.
        let early = pod("1970-01-01T00:10:00Z", Some("1970-01-01T00:10:00Z"), "");
        let late = pod("1970-01-01T00:25:00Z", Some("1970-01-01T00:25:00Z"), "");
        assert_eq!(first(&early, &late, (1, 1)), Ordering::Less);
        assert_eq!(deletion_order(&early, &late), Ordering::Greater, "without ranks the younger goes first");
    }
}
