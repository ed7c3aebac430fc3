//! `PodSecurity`: pods keep to the standard that their namespace's labels ask for.
//!
//! `pod-security.kubernetes.io/enforce` refuses pods that do more, `warn` tells who makes them or what makes them. A
//! namespace whose standard becomes stricter is told which pods there would not be let in again. Pure but for reading the
//! namespace and, in that last case, its pods.
//!
//! Mirrors `k8s.io/pod-security-admission/admission/admission.go`. Not here: the audit log that the `audit` labels write
//! to, and a configuration file with other defaults and exemptions (upstream's own defaults hold: nothing is enforced
//! where nothing is asked for).

mod checks;
mod level;
#[cfg(test)]
mod tests;

use super::attributes::named;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::tree::Tree;
use checks::violations;
use level::{Level, Policy, Standard};
use skiff_machinery::{ApiError, GroupResource, Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many pods of a namespace are looked at when its standard becomes stricter.
const MAX_PODS: usize = 3000;

/// The plug-in.
pub(super) struct PodSecurity {
    reader: Arc<dyn Reader>,
    namespaces: GroupResource,
    pods: GroupResource,
}

/// Kinds that make pods, and where their template stands.
const CONTROLLERS: [(&str, &str, &[&str]); 8] = [
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
];

fn annotations(holder: &Value) -> Option<&Map> {
    holder.object_at(&["metadata", "annotations"])
}

/// Whether an update of a pod may make it break a standard that it kept to: most of a pod never changes, and images,
/// deadlines and tolerations are nobody's business here (`isSignificantPodUpdate`).
fn is_significant(pod: &Value, old: &Value) -> bool {
    let profiles = |pod: &Value| -> Vec<(String, Value)> {
        let all = annotations(pod).into_iter().flat_map(Map::iter);
        let profile =
            |key: &str| key.contains("seccomp.security.alpha.kubernetes.io/") || key.contains("apparmor.security.beta");
        all.filter(|(key, _)| profile(key)).map(|(key, value)| (key.to_string(), value.clone())).collect()
    };
    let rest = |pod: &Value| {
        let mut spec = pod.get("spec").cloned().unwrap_or_default();
        for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"] {
            spec.unset(field);
        }
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            spec.each(list, |container| {
                container.unset("image");
                container.unset("resources");
            });
        }
        spec
    };
    profiles(pod) != profiles(old) || rest(pod) != rest(old)
}

impl PodSecurity {
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, namespaces: named("", "namespaces"), pods: named("", "pods") }
    }

    async fn policy(&self, namespace: &str) -> Result<Policy, ApiError> {
        let found = match self.reader.get(&self.namespaces, "", namespace) {
            Some(found) => Some(found),
            None => self.reader.fetch(&self.namespaces, "", namespace).await?,
        };
        let found = found.ok_or_else(|| ApiError::internal(format!("failed to lookup namespace \"{namespace}\"")))?;
        // Labels with mistakes were stored before they were checked; they count as the strictest.
        Ok(Policy::of(&found).0)
    }

    async fn review(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        let object = attributes.new_object();
        if attributes.is("", "namespaces") {
            return self.namespace(attributes, object);
        }
        let sub = attributes.subresource;
        if attributes.is_of("", "pods") && ["", "ephemeralcontainers", "resize"].contains(&sub) {
            let old = attributes.old.as_deref();
            let update = attributes.operation == Operation::Update;
            if update && old.is_some_and(|old| !is_significant(object, old)) {
                return Ok(());
            }
            let policy = self.policy(attributes.namespace).await?;
            let spec = object.get("spec").unwrap_or(&Value::Null);
            return pod(attributes, annotations(object), spec, &policy, true);
        }
        let of = |(group, resource, _): &&(&str, &str, &[&str])| attributes.is(group, resource);
        if let Some((_, _, path)) = CONTROLLERS.iter().find(of)
            && let Some(template) = object.at(path).filter(|template| template.has_some("spec"))
        {
            let policy = self.policy(attributes.namespace).await?;
            let spec = template.get("spec").unwrap_or(&Value::Null);
            return pod(attributes, annotations(template), spec, &policy, false);
        }
        Ok(())
    }

    fn namespace(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), ApiError> {
        let (policy, errors) = Policy::of(object);
        let before = attributes.old.as_deref().map(Policy::of);
        // What was wrong before may stay wrong.
        let new: Vec<_> = match &before {
            Some((_, known)) => errors.into_iter().filter(|error| !known.contains(error)).collect(),
            None => errors,
        };
        if !new.is_empty() {
            return Err(ApiError::invalid(&attributes.resource.group_kind(), attributes.name, &new));
        }
        let stricter = before.is_some_and(|(before, _)| {
            policy.enforce != before.enforce && policy.enforce.level >= before.enforce.level
        });
        if stricter && policy.enforce.level > Level::Privileged {
            let pods = self.reader.list(&self.pods, Some(attributes.name));
            for warning in existing(attributes.name, &pods, policy.enforce) {
                attributes.warn(warning);
            }
        }
        Ok(())
    }
}

/// What is said of pods that are there already. Pods of one controller with the same mistakes are one line.
fn existing(namespace: &str, pods: &[Arc<Value>], standard: Standard) -> Vec<String> {
    let mut groups: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let phase = pod.str_at(&["status", "phase"]);
        if matches!(phase, "Succeeded" | "Failed") {
            continue;
        }
        let found = violations(annotations(pod), pod.get("spec").unwrap_or(&Value::Null), standard);
        if found.is_empty() {
            continue;
        }
        // By their reasons, without the details that name containers.
        let reasons: Vec<&str> = found.iter().map(|text| text.split(" (").next().unwrap_or(text)).collect();
        let owners = pod.items_at(&["metadata", "ownerReferences"]);
        let controller = owners.iter().find(|owner| owner.flag("controller")).map_or("", |owner| owner.text("uid"));
        let name = pod.str_at(&["metadata", "name"]);
        let owner = if controller.is_empty() { name } else { controller };
        groups.entry((owner.to_owned(), reasons.join(", "))).or_default().push(name);
    }
    let mut lines: Vec<String> = groups
        .into_iter()
        .map(|((_, reasons), mut names)| {
            names.sort_unstable();
            let others = match names.len() {
                1 => String::new(),
                2 => " (and 1 other pod)".to_owned(),
                more => format!(" (and {} other pods)", more - 1),
            };
            format!("{}{others}: {reasons}", names[0])
        })
        .collect();
    lines.sort_unstable();
    if !lines.is_empty() {
        let first = format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{standard}\""
        );
        lines.insert(0, first);
    }
    if pods.len() > MAX_PODS {
        let checked = format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
            pods.len()
        );
        lines.insert(0, checked);
    }
    lines
}

/// A pod, or (without `enforced`) what will make pods.
fn pod(
    attributes: &Attributes<'_>,
    annotations: Option<&Map>,
    spec: &Value,
    policy: &Policy,
    enforced: bool,
) -> Result<(), ApiError> {
    if policy.is_open() {
        return Ok(());
    }
    if enforced {
        let found = violations(annotations, spec, policy.enforce);
        if !found.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, found.join(", "));
            return Err(attributes.forbidden(why));
        }
    }
    let found = violations(annotations, spec, policy.warn);
    if !found.is_empty() {
        attributes.warn(format!("would violate PodSecurity \"{}\": {}", policy.warn, found.join(", ")));
    }
    Ok(())
}

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(self.review(attributes))
    }
}
