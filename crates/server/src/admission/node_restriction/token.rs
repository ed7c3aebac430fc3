//! Tokens that a kubelet asks for: bound to a pod on its node, for an audience that the pod's volumes name.
//!
//! Mirrors `admitServiceAccount` and `validateNodeServiceAccountAudience`.

use super::super::{Attributes, Operation};
use super::NodeRestriction;
use crate::admission::attributes::named;
use crate::kinds::tree::Tree;
use skiff_machinery::error::quote;
use skiff_machinery::{ApiError, Value};

impl NodeRestriction {
    pub(super) async fn token(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), ApiError> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let request = attributes.new_object();
        let bound = request.at(&["spec", "boundObjectRef"]).filter(|bound| {
            (bound.text("apiVersion"), bound.text("kind")) == ("v1", "Pod") && !bound.text("name").is_empty()
        });
        let Some(bound) = bound else { return Err(attributes.forbidden("node requested token not bound to a pod")) };
        let uid = bound.text("uid");
        if uid.is_empty() {
            return Err(attributes.forbidden("node requested token with a pod binding without a uid"));
        }
        let pod = self.find(&self.pods, attributes.namespace, bound.text("name")).await?;
        if pod.str_at(&["metadata", "uid"]) != uid {
            return Err(attributes.forbidden(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            )));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return Err(attributes.forbidden("node requested token bound to a pod scheduled on a different node"));
        }
        let audience = match request.items_at(&["spec", "audiences"]) {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err(attributes.forbidden("node may only request 0 or 1 audiences")),
        };
        if self.has_audience(&pod, audience) {
            return Ok(());
        }
        Err(attributes.forbidden(format!(
            "audience {} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            quote(audience),
            attributes.context.user.name
        )))
    }

    /// `podReferencesAudience`: in a projected token, or in what a CSI driver of a volume asks for.
    fn has_audience(&self, pod: &Value, audience: &str) -> bool {
        let named_by = |token: &Value| token.text("audience") == audience;
        pod.items_at(&["spec", "volumes"]).iter().any(|volume| {
            let mut projected = volume.items_at(&["projected", "sources"]).iter();
            if projected.any(|source| source.field("serviceAccountToken").is_some_and(named_by)) {
                return true;
            }
            let driver = self.driver(pod, volume);
            let driver = self.reader.get(&named("storage.k8s.io", "csidrivers"), "", &driver);
            driver.is_some_and(|driver| driver.items_at(&["spec", "tokenRequests"]).iter().any(named_by))
        })
    }

    /// The CSI driver behind a volume of a pod; empty when there is none.
    fn driver(&self, pod: &Value, volume: &Value) -> String {
        let inline = volume.str_at(&["csi", "driver"]);
        if !inline.is_empty() {
            return inline.to_owned();
        }
        let claim = if volume.has("ephemeral") {
            format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.text("name"))
        } else {
            volume.str_at(&["persistentVolumeClaim", "claimName"]).to_owned()
        };
        let namespace = pod.str_at(&["metadata", "namespace"]);
        let claim = self.reader.get(&named("", "persistentvolumeclaims"), namespace, &claim);
        let name = claim.as_ref().map_or("", |claim| claim.str_at(&["spec", "volumeName"]));
        let volume = self.reader.get(&named("", "persistentvolumes"), "", name);
        volume.map_or_else(String::new, |volume| volume.str_at(&["spec", "csi", "driver"]).to_owned())
    }
}
