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

fn is(attributes: &Attributes<'_>, group: &str, resource: &str) -> bool {
    let name = &attributes.resource.name;
    name.group == group && name.resource == resource && attributes.subresource.is_empty()
}

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
        let finalizer = if is(attributes, "", "persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else if is(attributes, "", "persistentvolumes") {
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
        if !is(attributes, "", "persistentvolumeclaims") {
            return Box::pin(ready(Ok(())));
        }
        let size = |claim: &Value| {
            claim.at(&["spec", "resources", "requests", "storage"]).and_then(crate::kinds::core::pod::resources::amount)
        };
        let forbidden = |why: &str| ApiError::forbidden(&attributes.resource.name, attributes.name, why);
        let grows = matches!((size(new), size(old)), (Some(new), Some(old)) if new > old);
        let done = if !grows {
            Ok(())
        } else if old.str_at(&["status", "phase"]) != "Bound" {
            Err(forbidden("Only bound persistent volume claims can be expanded"))
        } else {
            let class = self.reader.get(&self.classes, "", new.str_at(&["spec", "storageClassName"]));
            if class.is_some_and(|class| class.flag("allowVolumeExpansion")) {
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
        let Some(service) = attributes.object.as_ref().filter(|_| is(attributes, "", "services")) else {
            return Box::pin(ready(Ok(())));
        };
        let before = attributes.old.as_ref().map(|old| old.items_at(&["spec", "externalIPs"])).unwrap_or(&[]);
        let added = service.items_at(&["spec", "externalIPs"]).iter().any(|ip| !before.contains(ip));
        let done = if added {
            let why = "Use of external IPs is denied by admission control";
            Err(ApiError::forbidden(&attributes.resource.name, attributes.name, why))
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
    if !is(attributes, "certificates.k8s.io", "certificatesigningrequests") || !client_signer {
        return Ok(());
    }
    let forbidden = |why: String| Err(ApiError::forbidden(&attributes.resource.name, attributes.name, why));
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
