//! Plug-ins of a few lines: protection finalizers, default classes, forbidden requests.
//!
//! Mirrors plugin/pkg/admission/{storage/storageobjectinuseprotection,storage/storageclass/setdefault,
//! storage/persistentvolume/resize,network/defaultingressclass,network/denyserviceexternalips,
//! certificates/subjectrestriction}.

use super::certificates::Subject;
use super::{AdmissionFuture, Attributes, Operation, Plugin, Reader};
use crate::kinds::tree::Tree;
use skiff_machinery::{ApiError, GroupResource, Value};
use std::future::ready;
use std::sync::Arc;

/// Claims and volumes in use are not deleted under their users.
pub(super) struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        let finalizer = if attributes.is("", "persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else if attributes.is("", "persistentvolumes") {
            "kubernetes.io/pv-protection"
        } else {
            return Box::pin(ready(Ok(())));
        };
        if let Some(metadata) = attributes.object.as_mut().map(|object| object.make("metadata")) {
            let mut finalizers = metadata.items("finalizers").to_vec();
            if !finalizers.contains(&finalizer.into()) {
                finalizers.push(finalizer.into());
                metadata.set("finalizers", finalizers);
            }
        }
        Box::pin(ready(Ok(())))
    }
}

/// Fills the class of claims and ingresses from the class that is marked as default.
pub(super) struct DefaultClass {
    reader: Arc<dyn Reader>,
    name: &'static str,
    resource: GroupResource,
    classes: GroupResource,
    annotation: &'static str,
    field: &'static str,
    legacy: &'static str,
}

impl DefaultClass {
    /// `DefaultStorageClass`.
    pub(super) fn storage(reader: Arc<dyn Reader>) -> Self {
        Self {
            reader,
            name: "DefaultStorageClass",
            resource: GroupResource::new("", "persistentvolumeclaims"),
            classes: GroupResource::new("storage.k8s.io", "storageclasses"),
            annotation: "storageclass.kubernetes.io/is-default-class",
            field: "storageClassName",
            legacy: "volume.beta.kubernetes.io/storage-class",
        }
    }
    /// `DefaultIngressClass`.
    pub(super) fn ingress(reader: Arc<dyn Reader>) -> Self {
        Self {
            reader,
            name: "DefaultIngressClass",
            resource: GroupResource::new("networking.k8s.io", "ingresses"),
            classes: GroupResource::new("networking.k8s.io", "ingressclasses"),
            annotation: "ingressclass.kubernetes.io/is-default-class",
            field: "ingressClassName",
            legacy: "kubernetes.io/ingress.class",
        }
    }
}

impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        self.name
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    fn admit<'a>(&'a self, attributes: &'a mut Attributes<'_>) -> AdmissionFuture<'a> {
        if attributes.resource.name != self.resource || !attributes.subresource.is_empty() {
            return Box::pin(ready(Ok(())));
        }
        let Some(object) = attributes.object.as_mut() else { return Box::pin(ready(Ok(()))) };
        let said = object.at(&["spec", self.field]).is_some()
            || object.at(&["metadata", "annotations", self.legacy]).is_some();
        if !said {
            let mut defaults = self.reader.list(&self.classes, None);
            defaults.retain(|class| class.str_at(&["metadata", "annotations", self.annotation]) == "true");
            // Of several the newest; of those made in one second, by name.
            let key = |class: &Arc<Value>| {
                let text = |field: &str| class.str_at(&["metadata", field]).to_owned();
                (std::cmp::Reverse(text("creationTimestamp")), text("name"))
            };
            if let Some(class) = defaults.iter().min_by_key(|class| key(class)) {
                let name = class.str_at(&["metadata", "name"]).to_owned();
                object.make("spec").set(self.field, name);
            }
        }
        Box::pin(ready(Ok(())))
    }
}

/// `GetPersistentVolumeClaimClass`: the annotation came before the field.
fn claim_class(claim: &Value) -> &str {
    let annotated = claim.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    if annotated.is_empty() { claim.str_at(&["spec", "storageClassName"]) } else { annotated }
}

/// Claims grow only where their class allows it.
pub(super) struct PersistentVolumeClaimResize {
    reader: Arc<dyn Reader>,
    classes: GroupResource,
}

impl PersistentVolumeClaimResize {
    /// Over the registry.
    pub(super) fn new(reader: Arc<dyn Reader>) -> Self {
        Self { reader, classes: GroupResource::new("storage.k8s.io", "storageclasses") }
    }
}

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        let (Some(new), Some(old)) = (&attributes.object, &attributes.old) else { return Box::pin(ready(Ok(()))) };
        if !attributes.is("", "persistentvolumeclaims") {
            return Box::pin(ready(Ok(())));
        }
        let size = |claim: &Value| {
            claim.at(&["spec", "resources", "requests", "storage"]).and_then(crate::kinds::core::pod::resources::amount)
        };
        let forbidden = |why: &str| attributes.forbidden(why);
        let grows = matches!((size(new), size(old)), (Some(new), Some(old)) if new > old);
        let done = if !grows {
            Ok(())
        } else if old.str_at(&["status", "phase"]) != "Bound" {
            Err(forbidden("Only bound persistent volume claims can be expanded"))
        } else {
            let class = self.reader.get(&self.classes, "", claim_class(new));
            let same = claim_class(new) == claim_class(old);
            if same && class.is_some_and(|class| class.flag("allowVolumeExpansion")) {
                Ok(())
            } else {
                Err(forbidden(
                    "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
                ))
            }
        };
        Box::pin(ready(done))
    }
}

/// Nobody takes traffic of addresses that are not theirs (CVE-2020-8554). On by default here, unlike upstream.
pub(super) struct DenyServiceExternalIPs;

impl Plugin for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        let Some(service) = attributes.object.as_ref().filter(|_| attributes.is("", "services")) else {
            return Box::pin(ready(Ok(())));
        };
        let before = attributes.old.as_ref().map(|old| old.items_at(&["spec", "externalIPs"])).unwrap_or(&[]);
        let added = service.items_at(&["spec", "externalIPs"]).iter().any(|ip| !before.contains(ip));
        let done = if added {
            let why = "Use of external IPs is denied by admission control";
            Err(attributes.forbidden(why))
        } else {
            Ok(())
        };
        Box::pin(ready(done))
    }
}

/// Nobody asks for a client certificate of the cluster's masters.
pub(super) struct CertificateSubjectRestriction;

impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    fn validate<'a>(&'a self, attributes: &'a Attributes<'_>) -> AdmissionFuture<'a> {
        Box::pin(ready(subject_restriction(attributes)))
    }
}

fn subject_restriction(attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let Some(request) = attributes.object.as_ref() else { return Ok(()) };
    let client_signer = request.str_at(&["spec", "signerName"]) == "kubernetes.io/kube-apiserver-client";
    if !attributes.is("certificates.k8s.io", "certificatesigningrequests") || !client_signer {
        return Ok(());
    }
    let forbidden = |why: String| Err(attributes.forbidden(why));
    let subject = match Subject::of_request(request.str_at(&["spec", "request"])) {
        Ok(subject) => subject,
        Err(why) => return forbidden(format!("unable to parse the certificate request: {why}")),
    };
    if subject.organizations.iter().any(|group| group == "system:masters") {
        return forbidden(
            "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed".to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, cluster};
    use skiff_machinery::{list, object};

    fn said<T>(outcome: Result<T, ApiError>) -> String {
        outcome.map_or_else(|error| error.message().to_owned(), |_| String::new())
    }

    #[tokio::test]
    async fn used_storage_is_held() {
        for (resource, finalizer) in [
            ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
            ("persistentvolumes", "kubernetes.io/pv-protection"),
        ] {
            let object = object! { "metadata": object! { "name": "x", "finalizers": list!["own"] } };
            let held = Case::create("", resource, "ns", object).admit(&StorageObjectInUseProtection).await.unwrap();
            assert_eq!(held.items_at(&["metadata", "finalizers"]), ["own".into(), Value::from(finalizer)]);
            let again = Case::create("", resource, "ns", held.clone()).admit(&StorageObjectInUseProtection).await;
            assert_eq!(again.unwrap(), held);
        }
    }

    #[tokio::test]
    async fn the_newest_default_class_is_taken() {
        let cluster = cluster();
        let class = |name: &str, made: &str, default: &str| {
            object! { "metadata": object! {
                "name": name,
                "creationTimestamp": made,
                "annotations": object! { "storageclass.kubernetes.io/is-default-class": default },
            } }
        };
        let plugin = DefaultClass::storage(Arc::clone(&cluster) as _);
        let claim = |spec: Value| {
            let claim = object! { "metadata": object! { "name": "c" }, "spec": spec };
            Case::create("", "persistentvolumeclaims", "ns", claim)
        };
        let bare = claim(object! {}).admit(&plugin).await.unwrap();
        assert_eq!(bare.at(&["spec", "storageClassName"]), None);
        let classes = GroupResource::new("storage.k8s.io", "storageclasses");
        for (name, made, default) in [
            ("old", "2026-01-01T00:00:00Z", "true"),
            ("b", "2026-01-02T00:00:00Z", "true"),
            ("a", "2026-01-02T00:00:00Z", "true"),
            ("newest", "2026-01-03T00:00:00Z", "false"),
        ] {
            cluster.put(&classes, class(name, made, default));
        }
        let filled = claim(object! {}).admit(&plugin).await.unwrap();
        assert_eq!(filled.str_at(&["spec", "storageClassName"]), "a");
        let none = claim(object! { "storageClassName": "" }).admit(&plugin).await.unwrap();
        assert_eq!(none.at(&["spec", "storageClassName"]), Some(&"".into()));
    }

    #[tokio::test]
    async fn claims_grow_where_their_class_lets_them() {
        let cluster = cluster();
        let class = |name: &str, grows: bool| {
            object! { "metadata": object! { "name": name }, "allowVolumeExpansion": grows }
        };
        let classes = GroupResource::new("storage.k8s.io", "storageclasses");
        cluster.put(&classes, class("grows", true));
        cluster.put(&classes, class("stays", false));
        let plugin = PersistentVolumeClaimResize::new(cluster as _);
        let claim = |class: &str, size: &str, phase: &str| {
            object! {
                "metadata": object! { "name": "c" },
                "spec": object! {
                    "storageClassName": class,
                    "resources": object! { "requests": object! { "storage": size } },
                },
                "status": object! { "phase": phase },
            }
        };
        let refused = |why: &str| format!("persistentvolumeclaims \"c\" is forbidden: {why}");
        let only = refused(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        );
        let unbound = refused("Only bound persistent volume claims can be expanded");
        for (class, size, phase, wanted) in [
            ("grows", "2Gi", "Bound", ""),
            ("stays", "1024Mi", "Bound", ""),
            ("stays", "2Gi", "Bound", &only),
            ("", "2Gi", "Bound", &only),
            ("grows", "2Gi", "Pending", &unbound),
        ] {
            let case =
                Case::update("", "persistentvolumeclaims", "ns", claim(class, size, phase), claim(class, "1Gi", phase));
            assert_eq!(said(case.validate(&plugin).await), wanted, "{class} {size} {phase}");
        }
    }

    #[tokio::test]
    async fn addresses_of_others_are_not_taken() {
        let service = |ips: Value| {
            object! { "metadata": object! { "name": "s" }, "spec": object! { "externalIPs": ips } }
        };
        let denied = "services \"s\" is forbidden: Use of external IPs is denied by admission control";
        let create = Case::create("", "services", "ns", service(list!["192.0.2.1"]));
        assert_eq!(said(create.validate(&DenyServiceExternalIPs).await), denied);
        let update = |new: Value| Case::update("", "services", "ns", service(new), service(list!["192.0.2.1"]));
        assert_eq!(said(update(list!["192.0.2.1"]).validate(&DenyServiceExternalIPs).await), "");
        assert_eq!(said(update(list![]).validate(&DenyServiceExternalIPs).await), "");
        assert_eq!(said(update(list!["192.0.2.2"]).validate(&DenyServiceExternalIPs).await), denied);
    }
}
