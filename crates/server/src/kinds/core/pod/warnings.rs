//! What a client is told about a pod or template that is accepted all the same (pkg/api/pod/warnings.go).
//!
//! Not here yet: warnings about deprecated annotations, volume types, ports that overlap, and affinity terms.

use crate::kinds::check::each;
use crate::kinds::tree::Tree;
use skiff_machinery::error::quote;
use skiff_machinery::{FieldPath, Value};

/// Node labels that have newer names.
const OLD_NODE_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Warnings of a pod; an update repeats none about what was there.
pub(crate) fn pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| old.get("spec") == pod.get("spec")) {
        return Vec::new();
    }
    pod.get("spec").map(|spec| pod_spec(spec, &FieldPath::new("spec"))).unwrap_or_default()
}

/// Warnings of an object with a pod template.
pub(crate) fn template(object: &Value, old: Option<&Value>) -> Vec<String> {
    let path = ["spec", "template", "spec"];
    let Some(spec) = object.at(&path) else { return Vec::new() };
    if old.is_some_and(|old| old.at(&path) == Some(spec)) {
        return Vec::new();
    }
    let outer = FieldPath::new("spec");
    let template = outer.child("template");
    pod_spec(spec, &template.child("spec"))
}

fn pod_spec(spec: &Value, path: &FieldPath<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (old, since, new) in OLD_NODE_LABELS {
        if spec.map("nodeSelector").is_some_and(|selector| selector.contains_key(old)) {
            let path = path.child("nodeSelector");
            warnings.push(format!("{}: deprecated since {since}; use \"{new}\" instead", path.key(old)));
        }
    }
    each(spec, "imagePullSecrets", path, |secret, path| {
        if secret.text("name").is_empty() {
            warnings.push(format!("{}: invalid empty name \"\"", path.child("name")));
        }
    });
    for list in ["initContainers", "containers"] {
        each(spec, list, path, |container, path| {
            let list = path.child("env");
            let mut seen: Vec<&str> = Vec::new();
            for (index, variable) in container.items("env").iter().enumerate() {
                let name = variable.text("name");
                // A value that names its predecessor extends it on purpose.
                let extends = variable.text("value").contains(&format!("$({name})"));
                if seen.contains(&name) && !extends {
                    let path = list.index(index);
                    warnings.push(format!(
                        "{path}: hides previous definition of {}, which may be dropped when using apply",
                        quote(name)
                    ));
                }
                seen.push(name);
            }
        });
    }
    if spec.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let path = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::{list, object};

    #[test]
    fn a_variable_named_twice() {
        let twice = list![object! { "name": "A", "value": "1" }, object! { "name": "A", "value": "2" }];
        let subject = object! { "spec": object! { "containers": list![object! { "env": twice }] } };
        let said = pod(&subject, None);
        assert_eq!(
            said,
            ["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"]
        );
        assert_eq!(pod(&subject, Some(&subject)), [""; 0]);
    }
}
