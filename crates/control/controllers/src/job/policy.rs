//! What a job makes of one pod: whether it failed, whether that counts, which index it has (`pod_failure_policy.go`,
//! `success_policy.go`, `indexed_job_utils.go`), pure.

use super::indexes::Indexes;
use super::{COMPLETION_INDEX, FAILURE_COUNT, IGNORED_FAILURE_COUNT, TRACKING, is_indexed};
use crate::pod::{Phase, PodView};
use crate::workload::int_at;
use skiff_client::informer::Item;
use skiff_machinery::Value;

/// `spec.podReplacementPolicy: Failed`: only what has failed is replaced, not what is ending.
pub(crate) fn only_replace_failed(job: &Value) -> bool {
    job.str_at(&["spec", "podReplacementPolicy"]) == "Failed"
}

/// `spec.backoffLimitPerIndex`.
pub(crate) fn limit_per_index(job: &Value) -> Option<i64> {
    job.at(&["spec", "backoffLimitPerIndex"]).and_then(Value::as_int)
}

/// Whether a pod counts as failed (`isPodFailed`). One that is being deleted might never say how it ended.
pub(crate) fn has_failed(job: &Value, pod: &PodView) -> bool {
    pod.phase == Phase::Failed || (!only_replace_failed(job) && pod.deleted.is_some() && pod.phase != Phase::Succeeded)
}

/// Whether a pod still carries the finalizer that keeps it until it has been counted.
pub(crate) fn is_tracked(pod: &PodView) -> bool {
    pod.finalizers.iter().any(|finalizer| finalizer == TRACKING)
}

fn number(pod: &PodView, annotation: &str) -> Option<i64> {
    pod.annotations.get(annotation)?.parse().ok().filter(|number| *number >= 0)
}

/// A pod's completion index, when it is one of the job's.
pub(crate) fn index_of(job: &Value, pod: &PodView) -> Option<i64> {
    number(pod, COMPLETION_INDEX).filter(|index| *index < int_at(job, &["spec", "completions"], 0))
}

/// Whether a pod can be counted at all: those of an indexed job by their index.
pub(crate) fn is_countable(job: &Value, pod: &PodView) -> bool {
    !is_indexed(job) || index_of(job, pod).is_some()
}

/// How often the index of a pod has failed before it, and how often without that being counted.
pub(crate) fn failures_before(pod: &PodView) -> (i64, i64) {
    (number(pod, FAILURE_COUNT).unwrap_or(0), number(pod, IGNORED_FAILURE_COUNT).unwrap_or(0))
}

/// The same for the pod that replaces it (`getNewIndexFailureCounts`).
pub(crate) fn failures_after(job: &Value, failed: &Item<PodView>) -> (i64, i64) {
    let (counted, ignored) = failures_before(&failed.value);
    if judge(job, failed).counts { (counted + 1, ignored) } else { (counted, ignored + 1) }
}

/// Whether the failure of a pod is the end of its index (`isIndexFailed`).
pub(crate) fn ends_its_index(job: &Value, pod: &Item<PodView>, limit: i64) -> bool {
    judge(job, pod).action == Some("FailIndex") || failures_before(&pod.value).0 >= limit
}

/// What the pod failure policy says of a failed pod.
#[derive(Debug, PartialEq)]
pub(crate) struct Judgement {
    /// The rule's action; `None` when no rule matches.
    pub(crate) action: Option<&'static str>,
    /// Whether it counts towards the back-off limit.
    pub(crate) counts: bool,
    /// Why the whole job fails.
    pub(crate) message: Option<String>,
}

const ACTIONS: [&str; 4] = ["FailJob", "FailIndex", "Ignore", "Count"];

/// `matchPodFailurePolicy`: the first rule that matches decides.
pub(crate) fn judge(job: &Value, pod: &Item<PodView>) -> Judgement {
    for (index, rule) in job.items_at(&["spec", "podFailurePolicy", "rules"]).iter().enumerate() {
        let Some(found) = found_by(rule, pod) else { continue };
        let Some(action) = ACTIONS.into_iter().find(|action| *action == rule.str_at(&["action"])) else { continue };
        let message = (action == "FailJob").then(|| format!("{found} matching {action} rule at index {index}"));
        return Judgement { action: Some(action), counts: action != "Ignore", message };
    }
    Judgement { action: None, counts: true, message: None }
}

/// What in the pod a rule matches, in words.
fn found_by(rule: &Value, pod: &Item<PodView>) -> Option<String> {
    if let Some(wanted) = rule.get("onExitCodes").filter(|wanted| !wanted.is_null()) {
        let container = wanted.str_at(&["containerName"]);
        let listed = |code: i64| wanted.items_at(&["values"]).iter().any(|value| value.as_int() == Some(code));
        let (name, code) = pod.value.exit_codes.iter().find(|(name, code)| {
            let matches = match wanted.str_at(&["operator"]) {
                "In" => listed(*code),
                "NotIn" => !listed(*code),
                _ => false,
            };
            *code != 0 && (container.is_empty() || container == name) && matches
        })?;
        return Some(format!("Container {name} for pod {} failed with exit code {code}", pod.key));
    }
    let patterns = rule.items_at(&["onPodConditions"]);
    let (ty, _) = pod.value.conditions.iter().find(|(ty, status)| {
        patterns.iter().any(|pattern| pattern.str_at(&["type"]) == ty && pattern.str_at(&["status"]) == status)
    })?;
    Some(format!("Pod {} has condition {ty}", pod.key))
}

/// Which rule of the success policy is met (`matchSuccessPolicy`), in words.
pub(crate) fn met_success_rule(job: &Value, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let completions = int_at(job, &["spec", "completions"], 0);
    let is_met = |rule: &Value| {
        let count = rule.get("succeededCount").and_then(Value::as_int);
        match rule.get("succeededIndexes").and_then(Value::as_str) {
            Some(wanted) => {
                let wanted = Indexes::parse(wanted, completions);
                let met = wanted.iter().filter(|index| succeeded.contains(*index)).count();
                met == wanted.len() || count.is_some_and(|count| met as i64 >= count)
            }
            None => count.is_some_and(|count| succeeded.len() as i64 >= count),
        }
    };
    let rules = job.items_at(&["spec", "successPolicy", "rules"]);
    rules.iter().position(is_met).map(|index| format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{job, pod};
    use super::*;
    use skiff_machinery::{list, object};

    fn policy(rules: Value) -> Value {
        job(object! { "podFailurePolicy": object! { "rules": rules } })
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let job = policy(list![
            object! { "action": "Ignore", "onPodConditions": list![
                object! { "type": "DisruptionTarget", "status": "True" },
            ] },
            object! { "action": "FailJob", "onExitCodes": object! {
                "containerName": "c", "operator": "In", "values": list![42],
            } },
            object! { "action": "FailIndex", "onExitCodes": object! { "operator": "NotIn", "values": list![1, 2] } },
        ]);
        let failed = |code: i64| pod("p").failed_with(code);
        let judged = judge(&job, &failed(42).item());
        assert_eq!(judged.action, Some("FailJob"));
        assert_eq!(
            judged.message.as_deref(),
            Some("Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1")
        );
        assert_eq!(judge(&job, &failed(3).item()).action, Some("FailIndex"));
        assert_eq!(judge(&job, &failed(1).item()), Judgement { action: None, counts: true, message: None });
        let disrupted = failed(42).condition("DisruptionTarget", "True");
        assert_eq!(judge(&job, &disrupted.item()), Judgement { action: Some("Ignore"), counts: false, message: None });
        let undisturbed = failed(42).condition("DisruptionTarget", "False");
        assert_eq!(judge(&job, &undisturbed.item()).action, Some("FailJob"));
    }

    #[test]
    fn success_rules_by_indexes_and_counts() {
        let with = |rule: Value| {
            job(object! {
                "completions": 10, "completionMode": "Indexed", "successPolicy": object! { "rules": list![rule] },
            })
        };
        let done = |text: &str| Indexes::parse(text, 10);
        let all = with(object! { "succeededIndexes": "0,2-3" });
        assert_eq!(met_success_rule(&all, &done("0,2")), None);
        assert_eq!(met_success_rule(&all, &done("0-3")).as_deref(), Some("Matched rules at index 0"));
        let some = with(object! { "succeededIndexes": "0-5", "succeededCount": 2 });
        assert_eq!(met_success_rule(&some, &done("5,9")), None);
        assert!(met_success_rule(&some, &done("1,5")).is_some());
        let any = with(object! { "succeededCount": 3 });
        assert!(met_success_rule(&any, &done("7-9")).is_some());
        assert_eq!(met_success_rule(&any, &done("")), None);
    }

    #[test]
    fn a_pod_that_is_deleted_counts_as_failed_unless_only_failures_are_replaced() {
        let ending = pod("p").running().deleted().item();
        assert!(has_failed(&job(object! {}), &ending.value));
        assert!(!has_failed(&job(object! { "podReplacementPolicy": "Failed" }), &ending.value));
        assert!(!has_failed(&job(object! {}), &pod("p").succeeded().deleted().item().value));
    }
}
