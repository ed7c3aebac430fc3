//! `DefaultTolerationSeconds`: a pod stays five minutes on a node that went away.
//!
//! Mirrors plugin/pkg/admission/defaulttolerationseconds/admission.go.

use super::attributes::list_mut;
use super::nodes::NOT_READY;
use super::{AdmissionFuture, Attributes, Operation, Plugin};
use crate::kinds::tree::Tree;
use skiff_machinery::{Value, object};

/// Key of the taint of a node that is not heard of.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// `--default-not-ready-toleration-seconds` and `--default-unreachable-toleration-seconds`.
const SECONDS: i64 = 300;

/// The plug-in.
pub(super) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        if attributes.is("", "pods")
            && let Some(pod) = &mut attributes.object
        {
            tolerate(pod.make("spec"));
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn tolerate(spec: &mut Value) {
    let tolerated = |key: &str| {
        spec.items("tolerations").iter().any(|toleration| {
            matches!(toleration.text("effect"), "" | "NoExecute")
                && (toleration.text("key").is_empty() || toleration.text("key") == key)
        })
    };
    let missing: Vec<&str> = [NOT_READY, UNREACHABLE].into_iter().filter(|key| !tolerated(key)).collect();
    if missing.is_empty() {
        return;
    }
    let tolerations = list_mut(spec, "tolerations");
    tolerations.extend(missing.into_iter().map(|key| {
        object! { "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use skiff_machinery::list;

    async fn admitted(tolerations: Value) -> Vec<String> {
        let pod = object! { "metadata": object! { "name": "p" }, "spec": object! { "tolerations": tolerations } };
        let pod = Case::create("", "pods", "default", pod).admit(&DefaultTolerationSeconds).await.unwrap();
        let shown = |toleration: &Value| {
            format!("{}={}", toleration.text("key"), toleration.int("tolerationSeconds").unwrap_or(0))
        };
        pod.items_at(&["spec", "tolerations"]).iter().map(shown).collect()
    }

    #[tokio::test]
    async fn five_minutes_unless_the_pod_says_otherwise() {
        let both = ["node.kubernetes.io/not-ready=300", "node.kubernetes.io/unreachable=300"];
        assert_eq!(admitted(list![]).await, both);
        let own = list![object! { "key": NOT_READY, "effect": "NoExecute", "tolerationSeconds": 7 }];
        assert_eq!(admitted(own).await, ["node.kubernetes.io/not-ready=7", "node.kubernetes.io/unreachable=300"]);
        assert_eq!(admitted(list![object! { "operator": "Exists" }]).await, ["=0"]);
        let other = list![object! { "operator": "Exists", "effect": "NoSchedule" }];
        assert_eq!(admitted(other).await, ["=0", both[0], both[1]]);
    }
}
