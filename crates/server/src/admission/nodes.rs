//! `TaintNodesByCondition`: a node begins tainted, so that nothing is placed on it before it says that it is ready.
//!
//! Mirrors plugin/pkg/admission/nodetaint/admission.go.

use super::attributes::list_mut;
use super::{AdmissionFuture, Attributes, Operation, Plugin};
use crate::kinds::tree::Tree;
use skiff_machinery::object;

/// Key of the taint.
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plug-in.
pub(super) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        if attributes.is("", "nodes")
            && let Some(node) = &mut attributes.object
        {
            let taints = list_mut(node.make("spec"), "taints");
            let tainted =
                |taint: &skiff_machinery::Value| taint.text("key") == NOT_READY && taint.text("effect") == "NoSchedule";
            if !taints.iter().any(tainted) {
                taints.push(object! { "key": NOT_READY, "effect": "NoSchedule" });
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Case;
    use skiff_machinery::list;

    #[tokio::test]
    async fn a_new_node_is_not_ready() {
        let bare = object! { "metadata": object! { "name": "n" } };
        let node = Case::create("", "nodes", "", bare).admit(&TaintNodesByCondition).await.unwrap();
        let taints = list![object! { "effect": "NoSchedule", "key": NOT_READY }];
        assert_eq!(node.at(&["spec", "taints"]), Some(&taints));
        let again = Case::create("", "nodes", "", node.clone()).admit(&TaintNodesByCondition).await.unwrap();
        assert_eq!(again, node);
    }
}
