//! Which pods go when the node runs short (`pkg/kubelet/eviction/helpers.go`, `eviction_manager.go`), pure.
//!
//! Thresholds are compared with what is observed; for the first that is met pods are ranked, and the first of them that
//! is not critical goes. Those that use more than they asked for come first, then those of low priority, then those
//! that use most beyond their request.
//!
//! A soft threshold counts once it has been met for its grace period, and then leaves pods time to end.
//!
//! Not here yet: minimum reclaim, the allocatable signal, a file system for containers apart from that of images.

use crate::pod::resources::quantity;
use crate::pod::spec::Pod;
use skiff_machinery::Value;
use skiff_machinery::quantity::{Format, Quantity};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "the variants are upstream's signals; their order is that in which they are acted upon"
)]
pub enum Signal {
    MemoryAvailable,
    ImagefsAvailable,
    ImagefsInodesFree,
    NodefsAvailable,
    NodefsInodesFree,
    PidAvailable,
}

impl Signal {
    const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::PidAvailable,
    ];

    fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|signal| signal.as_str() == name);
        found.ok_or_else(|| format!("unsupported eviction signal {name}"))
    }

    /// Its name in `evictionHard`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }
    /// The resource that is short, as messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::ImagefsAvailable | Self::NodefsAvailable => "ephemeral-storage",
            Self::ImagefsInodesFree | Self::NodefsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }
    /// Whether room on a disk is short: images and dead containers go before pods do.
    pub fn is_disk(self) -> bool {
        !matches!(self, Self::MemoryAvailable | Self::PidAvailable)
    }
}

/// When a signal counts as short.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Below this amount.
    Amount(i64),
    /// Below this share of the capacity, in percent.
    Percent(f64),
    /// Below this share of the capacity, in percent, but only if that is less than [`ROOM`] too.
    Share(f64),
}

/// A signal and its bound (`evictionHard`, `evictionSoft`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// What is watched.
    pub signal: Signal,
    /// When it is short.
    pub bound: Bound,
    /// For how long it has to be; `None` for a hard one, upon which is acted at once.
    pub grace: Option<Duration>,
}

/// What there is of a signal's resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Left.
    pub available: i64,
    /// In all.
    pub capacity: i64,
}

/// Observations by signal; what cannot be observed is absent and never short.
pub type Observations = BTreeMap<Signal, Observation>;

/// Room on a disk that is enough, whatever share of it that is.
pub const ROOM: i64 = 2 << 30;

/// `DefaultEvictionHard`, but a disk with [`ROOM`] is not short: a tenth of a large disk is much room, and a machine that
/// is also used for other things would evict pods that lack nothing.
pub fn defaults() -> Vec<Threshold> {
    [
        (Signal::MemoryAvailable, Bound::Amount(100 << 20)),
        (Signal::NodefsAvailable, Bound::Share(10.0)),
        (Signal::NodefsInodesFree, Bound::Percent(5.0)),
        (Signal::ImagefsAvailable, Bound::Share(15.0)),
        (Signal::ImagefsInodesFree, Bound::Percent(5.0)),
    ]
    .map(|(signal, bound)| Threshold { signal, bound, grace: None })
    .to_vec()
}

/// Reads `memory.available<100Mi,nodefs.available<10%` (`--eviction-hard`).
pub fn parse(text: &str) -> Result<Vec<Threshold>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let one = |part: &str| {
        let (name, bound) = part.split_once('<').ok_or_else(|| format!("invalid eviction threshold syntax {part}"))?;
        let signal = Signal::named(name)?;
        let wrong = || format!("eviction threshold {name} has an invalid value: {bound}");
        let bound = match bound.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.parse().map_err(|_| wrong())?;
                if !(0.0..100.0).contains(&percent) {
                    return Err(wrong());
                }
                Bound::Percent(percent)
            }
            None => Bound::Amount(Quantity::parse(bound).map_err(|_| wrong())?.value()),
        };
        Ok(Threshold { signal, bound, grace: None })
    };
    parts.map(one).collect()
}

/// Reads `memory.available<300Mi` with `memory.available=30s` (`--eviction-soft`, `--eviction-soft-grace-period`): each has
/// its grace period, and each grace period its threshold.
pub fn parse_soft(text: &str, graces: &str) -> Result<Vec<Threshold>, String> {
    let mut periods = BTreeMap::new();
    for part in graces.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || format!("invalid eviction grace period syntax {part}");
        let (name, period) = part.split_once('=').ok_or_else(wrong)?;
        let period = skiff_machinery::time::GoDuration::parse(period).map_err(|_| wrong())?;
        periods.insert(Signal::named(name)?, period.as_std());
    }
    let mut thresholds = parse(text)?;
    for threshold in &mut thresholds {
        let name = threshold.signal.as_str();
        let missing = || format!("grace period must be specified for the soft eviction threshold {name}");
        threshold.grace = Some(periods.remove(&threshold.signal).ok_or_else(missing)?);
    }
    match periods.keys().next() {
        Some(signal) => Err(format!("{} has a grace period and no soft eviction threshold", signal.as_str())),
        None => Ok(thresholds),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a share of a capacity")]
fn share(capacity: i64, percent: f64) -> i64 {
    (capacity as f64 * percent / 100.0) as i64
}

impl Threshold {
    /// The bound as an amount of this capacity.
    pub fn amount(&self, capacity: i64) -> i64 {
        match self.bound {
            Bound::Amount(amount) => amount,
            Bound::Percent(percent) => share(capacity, percent),
            Bound::Share(percent) => share(capacity, percent).min(ROOM),
        }
    }
}

/// Thresholds that are met, in the order in which they are acted upon.
pub fn met(thresholds: &[Threshold], observations: &Observations) -> Vec<Threshold> {
    let is_met = |threshold: &&Threshold| {
        let seen = observations.get(&threshold.signal);
        seen.is_some_and(|seen| seen.available < threshold.amount(seen.capacity))
    };
    let mut met: Vec<Threshold> = thresholds.iter().filter(is_met).copied().collect();
    met.sort_by_key(|threshold| (threshold.signal, threshold.grace));
    met
}

/// What one container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// Working set in bytes.
    pub memory: i64,
    /// Bytes on disk: writable layer and logs.
    pub disk: i64,
}

/// What one pod uses.
#[derive(Clone, Debug)]
pub struct PodUsage {
    /// The pod.
    pub pod: Pod,
    /// Its running containers.
    pub containers: Vec<ContainerUsage>,
    /// Bytes in its volumes on disk.
    pub volumes: i64,
    /// Processes.
    pub processes: i64,
}

impl PodUsage {
    fn memory(&self) -> i64 {
        self.containers.iter().map(|container| container.memory).sum()
    }
    fn disk(&self) -> i64 {
        self.containers.iter().map(|container| container.disk).sum::<i64>() + self.volumes
    }
    fn priority(&self) -> i64 {
        self.pod.0.at(&["spec", "priority"]).and_then(Value::as_int).unwrap_or(0)
    }
}

/// Puts pods in the order in which they go.
pub fn rank(signal: Signal, pods: &mut [PodUsage]) {
    let requests = |usage: &PodUsage| crate::pod::resources::of_pod(&usage.pod).requests;
    match signal {
        Signal::MemoryAvailable => pods.sort_by_cached_key(|usage| {
            let beyond = usage.memory() - requests(usage).memory;
            (Reverse(beyond > 0), usage.priority(), Reverse(beyond))
        }),
        Signal::PidAvailable => pods.sort_by_cached_key(|usage| (usage.priority(), Reverse(usage.processes))),
        _ => pods.sort_by_cached_key(|usage| {
            let beyond = usage.disk() - requests(usage).ephemeral_storage;
            (Reverse(beyond > 0), usage.priority(), Reverse(beyond))
        }),
    }
}

fn binary(amount: i64) -> String {
    Quantity::new(amount, Format::BinarySI).to_string()
}

/// Why a pod goes, in upstream's words (`evictionMessage`).
pub fn message(threshold: &Threshold, seen: Observation, usage: &PodUsage) -> String {
    let resource = threshold.signal.resource();
    let show = |amount: i64| match threshold.signal.resource() {
        "inodes" | "pids" => Quantity::new(amount, Format::DecimalSI).to_string(),
        _ => binary(amount),
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        show(threshold.amount(seen.capacity)),
        show(seen.available)
    );
    for container in &usage.containers {
        let used = match resource {
            "memory" => container.memory,
            "ephemeral-storage" => container.disk,
            _ => continue,
        };
        let tree = usage.pod.container(&container.name).map(|found| found.tree);
        let request = tree.and_then(|tree| quantity(tree, "requests", resource)).map_or(0, |request| request.value());
        if used > request {
            text.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                binary(used),
                if request == 0 { "0".to_owned() } else { binary(request) }
            ));
        }
    }
    text
}

/// A limit of local storage that a pod has passed, if any (`localStorageEviction`). `empty_dirs` are the bytes in
/// each `emptyDir` on disk.
pub fn over_own_limit(usage: &PodUsage, empty_dirs: &BTreeMap<String, i64>) -> Option<String> {
    for volume in usage.pod.0.items_at(&["spec", "volumes"]) {
        let name = volume.str_at(&["name"]);
        let limit = volume.str_at(&["emptyDir", "sizeLimit"]);
        let bytes = Quantity::parse(limit).map(|quantity| quantity.value()).unwrap_or(0);
        if bytes > 0 && empty_dirs.get(name).is_some_and(|used| *used > bytes) {
            return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "));
        }
    }
    let mut total = Some(0_i64);
    for container in usage.pod.containers().filter(|container| container.role == crate::pod::spec::Role::Main) {
        let limit = quantity(container.tree, "limits", "ephemeral-storage").map(|limit| limit.value());
        total = total.zip(limit).map(|(sum, limit)| sum.saturating_add(limit));
        let used = usage.containers.iter().find(|used| used.name == container.name()).map_or(0, |used| used.disk);
        if let Some(limit) = limit
            && used > limit
        {
            let name = container.name();
            return Some(format!(
                "Container {name} exceeded its local ephemeral storage limit \"{}\". ",
                binary(limit)
            ));
        }
    }
    let total = total.filter(|total| *total > 0 && usage.disk() > *total)?;
    Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", binary(total)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};
    use std::sync::Arc;

    fn usage(name: &str, request: &str, memory: i64, priority: i64) -> PodUsage {
        let resources = object! { "requests": object! { "memory": request } };
        let containers = list![object! { "name": "c", "resources": resources }];
        let pod = Pod(Arc::new(object! {
            "metadata": object! { "name": name },
            "spec": object! { "containers": containers, "priority": priority },
        }));
        let container = ContainerUsage { name: "c".to_owned(), memory, disk: 0 };
        PodUsage { pod, containers: vec![container], volumes: 0, processes: 1 }
    }
    fn order(signal: Signal, mut pods: Vec<PodUsage>) -> Vec<String> {
        rank(signal, &mut pods);
        pods.iter().map(|usage| usage.pod.name().to_owned()).collect()
    }

    #[test]
    fn thresholds_are_read_and_met() {
        let thresholds = parse("memory.available<100Mi,nodefs.available<10%").unwrap();
        assert_eq!(thresholds[0], defaults()[0]);
        assert_eq!(thresholds[1].amount(100 << 30), 10 << 30);
        assert_eq!(defaults()[1].amount(100 << 30), ROOM, "a large disk is not short with this room");
        assert_eq!(defaults()[1].amount(10 << 30), 1 << 30);
        for bad in ["memory<1", "memory.available=1", "memory.available<x", "nodefs.available<200%"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let mut seen = Observations::new();
        seen.insert(Signal::NodefsAvailable, Observation { available: 9, capacity: 100 });
        seen.insert(Signal::MemoryAvailable, Observation { available: 100 << 20, capacity: 1 << 30 });
        let signals: Vec<Signal> = met(&thresholds, &seen).iter().map(|threshold| threshold.signal).collect();
        assert_eq!(signals, [Signal::NodefsAvailable], "exactly at the bound is not below it");
    }

    #[test]
    fn soft_thresholds_have_their_grace() {
        let soft = parse_soft("memory.available<300Mi", "memory.available=1m30s").unwrap();
        assert_eq!(soft[0].grace, Some(Duration::from_secs(90)));
        for (thresholds, graces) in
            [("memory.available<1Mi", ""), ("", "memory.available=1s"), ("memory.available<1Mi", "memory.available=x")]
        {
            assert!(parse_soft(thresholds, graces).is_err(), "{thresholds} {graces}");
        }
    }

    #[test]
    fn who_uses_more_than_asked_goes_first_then_low_priority() {
        let pods = vec![
            usage("modest", "100Mi", 50 << 20, 0),
            usage("greedy", "10Mi", 20 << 20, 0),
            usage("greedier", "10Mi", 90 << 20, 0),
            usage("important", "10Mi", 500 << 20, 1000),
        ];
        assert_eq!(order(Signal::MemoryAvailable, pods), ["greedier", "greedy", "important", "modest"]);
    }

    #[test]
    fn the_message_is_upstreams() {
        let threshold = defaults()[0];
        let seen = Observation { available: 50 << 20, capacity: 1 << 30 };
        assert_eq!(
            message(&threshold, seen, &usage("p", "10Mi", 20 << 20, 0)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 20Mi, request is 10Mi, has larger consumption of memory. "
        );
    }

    #[test]
    fn limits_of_local_storage() {
        let pod = Pod(Arc::new(object! { "spec": object! {
            "volumes": list![object! { "name": "v", "emptyDir": object! { "sizeLimit": "1Mi" } }],
            "containers": list![object! {
                "name": "c", "resources": object! { "limits": object! { "ephemeral-storage": "2Mi" } },
            }],
        } }));
        let with = |disk: i64, volumes: i64| {
            let container = ContainerUsage { name: "c".to_owned(), memory: 0, disk };
            let usage = PodUsage { pod: pod.clone(), containers: vec![container], volumes, processes: 0 };
            over_own_limit(&usage, &[("v".to_owned(), volumes)].into())
        };
        assert_eq!(with(0, 1 << 20), None);
        assert_eq!(with(0, (1 << 20) + 1).unwrap(), "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
        assert_eq!(with(3 << 20, 0).unwrap(), "Container c exceeded its local ephemeral storage limit \"2Mi\". ");
        assert!(with(3 << 19, 3 << 18).unwrap().starts_with("Pod ephemeral local storage usage exceeds"));
    }
}
