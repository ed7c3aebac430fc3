//! From usage to a wish (`replica_calculator.go`), pure: pods that are not ready, or of which nothing is known, are taken
//! for whatever changes least.

use crate::pod::{condition, seconds};
use skiff_machinery::Value;
use skiff_machinery::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};

/// How long after its start a pod's processor time may be that of its beginning.
const CPU_INITIALIZATION: i64 = 5 * 60;
/// How late after its start a pod that was never ready may have become unready.
const INITIAL_READINESS: i64 = 30;

/// What one pod uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// In thousandths.
    pub(super) value: i64,
    /// End of the time it was measured in, in seconds since the epoch.
    pub(super) at: i64,
    /// How long that was, in seconds.
    pub(super) window: i64,
}

/// By pod.
pub(super) type Samples = BTreeMap<String, Sample>;

/// What `metrics.k8s.io` says (`resourceMetricsClient.GetResourceMetric`): of pods, or of one container in each.
pub(super) fn samples(pods: &[Value], resource: &str, container: &str) -> Result<Samples, String> {
    if pods.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    let mut samples = Samples::new();
    for pod in pods {
        let name = pod.str_at(&["metadata", "name"]);
        let said = pod.items_at(&["containers"]);
        let wanted: Vec<&Value> =
            said.iter().filter(|one| container.is_empty() || one.str_at(&["name"]) == container).collect();
        if !container.is_empty() && wanted.is_empty() {
            let namespace = pod.str_at(&["metadata", "namespace"]);
            return Err(format!("container {container} not present in metrics for pod {namespace}/{name}"));
        }
        let used = |one: &&Value| Quantity::parse(one.str_at(&["usage", resource])).ok().map(|used| used.milli_value());
        // A pod of which a part is not known is not known.
        let Some(values) = wanted.iter().map(used).collect::<Option<Vec<i64>>>() else { continue };
        let window = window_of(pod.str_at(&["window"]));
        let at = seconds(pod, &["timestamp"]).unwrap_or(0);
        samples.insert(name.to_owned(), Sample { value: values.iter().sum(), at, window });
    }
    Ok(samples)
}

/// A duration as Go writes it, in seconds; nothing readable is a minute.
fn window_of(text: &str) -> i64 {
    skiff_base::flags::parse_duration(text).and_then(|window| i64::try_from(window.as_secs()).ok()).unwrap_or(60)
}

/// How pods are looked at (`groupPods`).
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[&Value], samples: &Samples, resource: &str, now: i64) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.str_at(&["metadata", "name"]).to_owned();
        let phase = pod.str_at(&["status", "phase"]);
        if pod.at(&["metadata", "deletionTimestamp"]).is_some() || phase == "Failed" {
            groups.ignored.insert(name);
        } else if phase == "Pending" {
            groups.unready.insert(name);
        } else if let Some(sample) = samples.get(&name) {
            if resource == "cpu" && is_beginning(pod, sample, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether what a pod uses is what it takes to start.
fn is_beginning(pod: &Value, sample: &Sample, now: i64) -> bool {
    let (Some(ready), Some(start)) = (condition(pod, "Ready"), seconds(pod, &["status", "startTime"])) else {
        return true;
    };
    let unready = ready.str_at(&["status"]) == "False";
    let since = seconds(ready, &["lastTransitionTime"]).unwrap_or(0);
    if start + CPU_INITIALIZATION > now {
        unready || sample.at < since + sample.window
    } else {
        unready && start + INITIAL_READINESS > since
    }
}

/// What a pod asks for, in thousandths (`calculatePodRequests`).
fn request(pod: &Value, resource: &str, container: &str) -> Result<i64, String> {
    let name = pod.str_at(&["metadata", "name"]);
    let asked = |one: &Value| {
        Quantity::parse(one.str_at(&["resources", "requests", resource])).ok().map(|asked| asked.milli_value())
    };
    let sidecars = pod.items_at(&["spec", "initContainers"]).iter();
    let sidecars = sidecars.filter(|one| one.str_at(&["restartPolicy"]) == "Always");
    let all = pod.items_at(&["spec", "containers"]).iter().chain(sidecars);
    if container.is_empty()
        && let Some(whole) = pod.at(&["spec"]).and_then(asked)
    {
        return Ok(whole);
    }
    let mut wanted = all.filter(|one| container.is_empty() || one.str_at(&["name"]) == container).peekable();
    if wanted.peek().is_none() {
        return Err(format!("container {container} not found in Pod {name}"));
    }
    let missing =
        |one: &Value| format!("missing request for {resource} in container {} of Pod {name}", one.str_at(&["name"]));
    wanted.map(|one| asked(one).ok_or_else(|| missing(one))).sum()
}

/// What is wanted of the pods' usage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Percent of what they ask for.
    Utilization(i64),
    /// Each so many thousandths.
    Average(i64),
}

/// A wish, and what it comes from.
#[derive(Debug, PartialEq)]
pub(super) struct Wish {
    pub(super) replicas: i64,
    /// Percent of the requests, for such a target.
    pub(super) utilization: Option<i64>,
    /// Of each pod, in thousandths.
    pub(super) average: i64,
}

/// How usage stands to its target: ratio, percent, average.
fn ratio(
    samples: &Samples,
    requests: &BTreeMap<String, i64>,
    target: Target,
) -> Result<(f64, Option<i64>, i64), String> {
    let count = |samples: &Samples| i64::try_from(samples.len()).unwrap_or(i64::MAX);
    match target {
        Target::Average(wanted) => {
            let total: i64 = samples.values().map(|sample| sample.value).sum();
            let average = total / count(samples).max(1);
            Ok((average as f64 / wanted as f64, None, average))
        }
        Target::Utilization(wanted) => {
            let known = samples.iter().filter_map(|(name, sample)| Some((sample.value, requests.get(name)?)));
            let (mut used, mut asked, mut entries) = (0i64, 0i64, 0i64);
            for (value, request) in known {
                used += value;
                asked += request;
                entries += 1;
            }
            if asked == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = used.saturating_mul(100) / asked;
            Ok((utilization as f64 / wanted as f64, Some(utilization), used / entries.max(1)))
        }
    }
}

/// What is measured: of whom, what, against what.
pub(super) struct Question<'q> {
    /// The pods of the target.
    pub(super) pods: &'q [&'q Value],
    /// `cpu`, `memory`.
    pub(super) resource: &'q str,
    /// One container of each; empty for whole pods.
    pub(super) container: &'q str,
    /// What is wanted.
    pub(super) target: Target,
    /// How far usage may be off: down, up.
    pub(super) tolerances: (f64, f64),
    /// The size now.
    pub(super) replicas: i64,
    /// In seconds since the epoch.
    pub(super) now: i64,
}

/// How many replicas would use as much as is wanted (`GetResourceReplicas`, `calcPlainMetricReplicas`).
pub(super) fn wish(question: &Question<'_>, mut samples: Samples) -> Result<Wish, String> {
    let Question { pods, resource, container, target, tolerances, replicas, now } = *question;
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(pods, &samples, resource, now);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let mut requests = BTreeMap::new();
    if matches!(target, Target::Utilization(_)) {
        for pod in pods {
            requests.insert(pod.str_at(&["metadata", "name"]).to_owned(), request(pod, resource, container)?);
        }
    }
    let (first, utilization, average) = ratio(&samples, &requests, target)?;
    let wish = |replicas: i64| Wish { replicas, utilization, average };
    let near = |ratio: f64| 1.0 - tolerances.0 <= ratio && ratio <= 1.0 + tolerances.1;
    let with_unready = !groups.unready.is_empty() && first > 1.0;
    if !with_unready && groups.missing.is_empty() {
        return Ok(wish(if near(first) { replicas } else { (first * groups.ready as f64).ceil() as i64 }));
    }
    // Whom nothing is known of uses all it may when the size shrinks, and nothing when it grows.
    let guess = |value: i64| Sample { value, at: now, window: 0 };
    for name in &groups.missing {
        if first < 1.0 {
            let value = match target {
                Target::Average(wanted) => wanted,
                Target::Utilization(wanted) => requests.get(name).copied().unwrap_or(0) * wanted.max(100) / 100,
            };
            samples.insert(name.clone(), guess(value));
        } else if first > 1.0 {
            samples.insert(name.clone(), guess(0));
        }
    }
    if with_unready {
        samples.extend(groups.unready.iter().map(|name| (name.clone(), guess(0))));
    }
    let (second, _, _) = ratio(&samples, &requests, target)?;
    let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    if near(second) || turned {
        return Ok(wish(replicas));
    }
    let wanted = (second * samples.len() as f64).ceil() as i64;
    let backwards = (second < 1.0 && wanted > replicas) || (second > 1.0 && wanted < replicas);
    Ok(wish(if backwards { replicas } else { wanted }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};

    const NOW: i64 = 1_000_000;

    fn time(at: i64) -> String {
        jiff::Timestamp::from_second(at).unwrap().to_string()
    }
    fn pod(name: &str, phase: &str, ready: &str) -> Value {
        object! {
            "metadata": object! { "name": name },
            "spec": object! { "containers": list![object! {
                "name": "c", "resources": object! { "requests": object! { "cpu": "100m", "memory": "10Mi" } },
            }] },
            "status": object! {
                "phase": phase, "startTime": time(NOW - 3600),
                "conditions": list![object! {
                    "type": "Ready", "status": ready, "lastTransitionTime": time(NOW - 3590),
                }],
            },
        }
    }
    fn pods(count: usize) -> Vec<Value> {
        (0..count).map(|number| pod(&format!("p{number}"), "Running", "True")).collect()
    }
    fn used(values: &[i64]) -> Samples {
        let sample = |value: &i64| Sample { value: *value, at: NOW, window: 30 };
        values.iter().enumerate().map(|(number, value)| (format!("p{number}"), sample(value))).collect()
    }
    fn ask(pods: &[Value], samples: Samples, target: Target) -> Result<Wish, String> {
        let pods: Vec<&Value> = pods.iter().collect();
        let replicas = pods.len() as i64;
        let question = Question {
            pods: &pods,
            resource: "cpu",
            container: "",
            target,
            tolerances: (0.1, 0.1),
            replicas,
            now: NOW,
        };
        wish(&question, samples)
    }

    #[test]
    fn a_ratio_makes_a_size_unless_it_is_near() {
        let half = Target::Utilization(50);
        let of = |values: &[i64]| ask(&pods(values.len()), used(values), half).unwrap();
        assert_eq!(of(&[100, 100]), Wish { replicas: 4, utilization: Some(100), average: 100 });
        assert_eq!(of(&[54, 54]).replicas, 2, "within a tenth");
        assert_eq!(of(&[56, 56]).replicas, 3, "rounded up");
        assert_eq!(of(&[10, 10, 10, 10]).replicas, 1);
        let average = ask(&pods(2), used(&[300, 500]), Target::Average(200)).unwrap();
        assert_eq!(average, Wish { replicas: 4, utilization: None, average: 400 });
    }

    #[test]
    fn pods_that_are_not_known_change_as_little_as_they_can() {
        let half = Target::Utilization(50);
        // Growing: the third is taken for idle. 200 of 300: 67 %, four.
        assert_eq!(ask(&pods(3), used(&[100, 100]), half).unwrap().replicas, 4);
        // Shrinking: it is taken for fully used. 110 of 300: 37 %, three.
        assert_eq!(ask(&pods(3), used(&[5, 5]), half).unwrap().replicas, 3);
        // A pending pod counts as idle only when the size grows.
        let mut some = pods(2);
        some.push(pod("p2", "Pending", "False"));
        assert_eq!(ask(&some, used(&[100, 100]), half).unwrap().replicas, 4);
        assert_eq!(ask(&some, used(&[10, 10]), half).unwrap().replicas, 1);
        some.push(pod("p3", "Failed", "False"));
        assert_eq!(ask(&some, used(&[10, 10, 0, 900]), half).unwrap().replicas, 1);
    }

    #[test]
    fn a_start_is_not_usage() {
        let mut young = pod("p0", "Running", "True");
        let status = young.as_object_mut().unwrap().object_mut("status");
        status.insert("startTime", time(NOW - 60));
        let ready = object! { "type": "Ready", "status": "True", "lastTransitionTime": time(NOW - 20) };
        status.insert("conditions", list![ready]);
        let sample = |at: i64| Sample { value: 900, at, window: 30 };
        assert!(is_beginning(&young, &sample(NOW), NOW), "a window since it is ready has not passed");
        assert!(!is_beginning(&young, &sample(NOW + 15), NOW));
        assert!(!is_beginning(&pod("p0", "Running", "True"), &sample(NOW), NOW));
    }

    #[test]
    fn what_cannot_be_told_says_why() {
        let half = Target::Utilization(50);
        let error = |pods: &[Value], samples| ask(pods, samples, half).unwrap_err();
        assert_eq!(error(&[], used(&[1])), "no pods returned by selector while calculating replica count");
        assert_eq!(
            error(&[pod("p0", "Pending", "False")], used(&[1])),
            "did not receive metrics for targeted pods (pods might be unready)"
        );
        let mut nothing_asked = pods(1);
        let spec = object! { "containers": list![object! { "name": "c" }] };
        nothing_asked[0].as_object_mut().unwrap().insert("spec", spec);
        assert_eq!(error(&nothing_asked, used(&[1])), "missing request for cpu in container c of Pod p0");
        assert_eq!(samples(&[], "cpu", "").unwrap_err(), "no metrics returned from resource metrics API");
    }

    #[test]
    fn metrics_are_read_by_pod_or_by_container() {
        let metrics = |memory: Option<&str>| {
            let usage = memory.map_or(object! { "cpu": "1" }, |memory| object! { "cpu": "1", "memory": memory });
            object! {
                "metadata": object! { "name": "p0", "namespace": "ns" }, "timestamp": time(NOW), "window": "30s",
                "containers": list![
                    object! { "name": "a", "usage": object! { "cpu": "250m", "memory": "1Ki" } },
                    object! { "name": "b", "usage": usage },
                ],
            }
        };
        let both = samples(&[metrics(Some("2Ki"))], "cpu", "").unwrap();
        assert_eq!(both["p0"], Sample { value: 1250, at: NOW, window: 30 });
        assert_eq!(samples(&[metrics(Some("2Ki"))], "memory", "b").unwrap()["p0"].value, 2048 * 1000);
        assert!(samples(&[metrics(None)], "memory", "").unwrap().is_empty(), "a part is missing");
        assert_eq!(
            samples(&[metrics(None)], "cpu", "z").unwrap_err(),
            "container z not present in metrics for pod ns/p0"
        );
    }
}
