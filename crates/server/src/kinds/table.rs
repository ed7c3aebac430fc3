//! The table of built-in kinds: names, scope, served versions, storage version and place, verbs, subresources.
//!
//! Facts of upstream 1.36's discovery and storage paths, one entry for each kind. What a kind *does* (defaulting,
//! validation, columns) is found by its group and resource in [`super::builtin`].

use super::Scope;

/// One served version of an entry.
pub(super) struct Served {
    /// Group and version: `apps/v1`, `v1`.
    pub(super) version: &'static str,
    /// Served without `--runtime-config`.
    pub(super) by_default: bool,
}

/// How `scale` finds the label selector.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sub {
    Status,
    Scale,
    Other(&'static [OtherSub]),
}

/// A subresource that is neither `status` nor `scale`.
#[derive(PartialEq, Eq)]
pub(super) struct OtherSub {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) group_version: Option<(&'static str, &'static str)>,
    pub(super) verbs: &'static [&'static str],
    pub(super) does: Does,
}

/// What such a subresource does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    View,
    Act,
    Connect,
}

/// One kind.
pub(super) struct Entry {
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) singular: &'static str,
    pub(super) kind: &'static str,
    pub(super) scope: Scope,
    pub(super) short: &'static [&'static str],
    pub(super) categories: &'static [&'static str],
    /// Preferred first.
    pub(super) versions: &'static [Served],
    /// Storage version where it is not the first of `versions`.
    pub(super) storage: Option<&'static str>,
    /// Path under `/registry/`; empty when nothing is stored.
    pub(super) prefix: &'static str,
    pub(super) json: bool,
    pub(super) verbs: &'static [&'static str],
    pub(super) subs: &'static [Sub],
    /// `metadata.generation` counts changes of everything but metadata and status.
    pub(super) generation: bool,
    /// The registry's action, for kinds that are created but not stored.
    pub(super) action: Option<&'static str>,
    /// Fields that selectors may name.
    pub(super) fields: &'static [&'static str],
}

pub(super) const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const READ: &[&str] = &["get", "list"];
pub(super) const VIEW: &[&str] = &["get", "patch", "update"];
const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

const V1: &[Served] = &[on("v1")];
const NO_SUBS: &[Sub] = &[];
const STATUS: &[Sub] = &[Sub::Status];
const SCALED: &[Sub] = &[Sub::Scale, Sub::Status];
const IN_ALL: &[&str] = &["all"];
const EXTENSIONS: &[&str] = &["api-extensions"];

const fn on(version: &'static str) -> Served {
    Served { version, by_default: true }
}
const fn off(version: &'static str) -> Served {
    Served { version, by_default: false }
}

const fn act(name: &'static str, kind: &'static str, gv: Option<(&'static str, &'static str)>) -> OtherSub {
    OtherSub { name, kind, group_version: gv, verbs: CREATE, does: Does::Act }
}
const fn view(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> OtherSub {
    OtherSub { name, kind, group_version: None, verbs, does: Does::View }
}
const fn connect(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> OtherSub {
    OtherSub { name, kind, group_version: None, verbs, does: Does::Connect }
}

impl Entry {
    const fn new(
        group: &'static str,
        versions: &'static [Served],
        resource: &'static str,
        singular: &'static str,
        kind: &'static str,
        scope: Scope,
    ) -> Self {
        Self {
            group,
            resource,
            singular,
            kind,
            scope,
            short: &[],
            categories: &[],
            versions,
            storage: None,
            prefix: resource,
            json: false,
            verbs: ALL,
            subs: NO_SUBS,
            generation: false,
            action: None,
            fields: &[],
        }
    }
    const fn short(mut self, short: &'static [&'static str]) -> Self {
        self.short = short;
        self
    }
    const fn categories(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }
    const fn stored_as(mut self, version: &'static str) -> Self {
        self.storage = Some(version);
        self
    }
    const fn prefix(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }
    const fn json(mut self) -> Self {
        self.json = true;
        self
    }
    const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }
    const fn subs(mut self, subs: &'static [Sub]) -> Self {
        self.subs = subs;
        self
    }
    const fn generation(mut self) -> Self {
        self.generation = true;
        self
    }
    const fn action(mut self, action: &'static str) -> Self {
        self.action = Some(action);
        self.prefix = "";
        self.verbs = CREATE;
        self
    }
    const fn fields(mut self, fields: &'static [&'static str]) -> Self {
        self.fields = fields;
        self
    }
}

use Scope::{Cluster as C, Namespaced as N};

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const NEW_EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];
const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];

const POD_SUBS: &[OtherSub] = &[
    connect("attach", "PodAttachOptions", STREAM),
    act("binding", "Binding", None),
    view("ephemeralcontainers", "Pod", VIEW),
    act("eviction", "Eviction", Some(("policy", "v1"))),
    connect("exec", "PodExecOptions", STREAM),
    connect("log", "Pod", &["get"]),
    connect("portforward", "PodPortForwardOptions", STREAM),
    connect("proxy", "PodProxyOptions", PROXY),
    view("resize", "Pod", VIEW),
];

/// The core group.
#[rustfmt::skip]
const CORE: &[Entry] = &[
    Entry::new("", V1, "bindings", "binding", "Binding", N).action("binding"),
    Entry::new("", V1, "componentstatuses", "componentstatus", "ComponentStatus", C).short(&["cs"]).prefix("").verbs(READ),
    Entry::new("", V1, "configmaps", "configmap", "ConfigMap", N).short(&["cm"]),
    Entry::new("", V1, "endpoints", "endpoints", "Endpoints", N).short(&["ep"]).prefix("services/endpoints"),
    Entry::new("", V1, "events", "event", "Event", N).short(&["ev"]).fields(EVENT_FIELDS),
    Entry::new("", V1, "limitranges", "limitrange", "LimitRange", N).short(&["limits"]),
    Entry::new("", V1, "namespaces", "namespace", "Namespace", C).short(&["ns"]).verbs(NO_COLLECTION).fields(&["status.phase", "name"])
        .subs(&[Sub::Other(&[view("finalize", "Namespace", &["update"])]), Sub::Status]),
    Entry::new("", V1, "nodes", "node", "Node", C).short(&["no"]).prefix("minions").fields(&["spec.unschedulable"])
        .subs(&[Sub::Other(&[connect("proxy", "NodeProxyOptions", PROXY)]), Sub::Status]),
    Entry::new("", V1, "persistentvolumeclaims", "persistentvolumeclaim", "PersistentVolumeClaim", N).short(&["pvc"]).subs(STATUS).fields(&["name"]),
    Entry::new("", V1, "persistentvolumes", "persistentvolume", "PersistentVolume", C).short(&["pv"]).subs(STATUS).fields(&["name"]),
    Entry::new("", V1, "pods", "pod", "Pod", N).short(&["po"]).categories(IN_ALL).fields(POD_FIELDS).generation()
        .subs(&[Sub::Other(POD_SUBS), Sub::Status]),
    Entry::new("", V1, "podtemplates", "podtemplate", "PodTemplate", N).generation(),
    Entry::new("", V1, "replicationcontrollers", "replicationcontroller", "ReplicationController", N).short(&["rc"]).categories(IN_ALL)
        .prefix("controllers").subs(SCALED).generation().fields(&["status.replicas"]),
    Entry::new("", V1, "resourcequotas", "resourcequota", "ResourceQuota", N).short(&["quota"]).subs(STATUS),
    Entry::new("", V1, "secrets", "secret", "Secret", N).fields(&["type"]),
    Entry::new("", V1, "serviceaccounts", "serviceaccount", "ServiceAccount", N).short(&["sa"])
        .subs(&[Sub::Other(&[act("token", "TokenRequest", Some(("authentication.k8s.io", "v1")))])]),
    Entry::new("", V1, "services", "service", "Service", N).short(&["svc"]).categories(IN_ALL).prefix("services/specs")
        .fields(&["spec.clusterIP", "spec.type"])
        .subs(&[Sub::Other(&[connect("proxy", "ServiceProxyOptions", PROXY)]), Sub::Status]),
];

const APPS: &[Served] = &[on("apps/v1")];
const BATCH: &[Served] = &[on("batch/v1")];
const RBAC: &[Served] = &[on("rbac.authorization.k8s.io/v1")];
const STORAGE: &[Served] = &[on("storage.k8s.io/v1")];
const NETWORKING: &[Served] = &[on("networking.k8s.io/v1")];
const NETWORKING_BETA: &[Served] = &[on("networking.k8s.io/v1"), off("networking.k8s.io/v1beta1")];
const FLOW: &[Served] = &[on("flowcontrol.apiserver.k8s.io/v1")];
const ADMISSION: &[Served] = &[on("admissionregistration.k8s.io/v1")];
const ADMISSION_BETA: &[Served] = &[
    on("admissionregistration.k8s.io/v1"),
    off("admissionregistration.k8s.io/v1beta1"),
    off("admissionregistration.k8s.io/v1alpha1"),
];
const AUTHENTICATION: &[Served] = &[on("authentication.k8s.io/v1")];
const AUTHORIZATION: &[Served] = &[on("authorization.k8s.io/v1")];
const DRA: &[Served] = &[on("resource.k8s.io/v1"), off("resource.k8s.io/v1beta2"), off("resource.k8s.io/v1beta1")];
const CANDIDATES: &[Served] = &[off("coordination.k8s.io/v1beta1"), off("coordination.k8s.io/v1alpha2")];
const TRUST: &[Served] = &[off("certificates.k8s.io/v1beta1"), off("certificates.k8s.io/v1alpha1")];
const SCHEDULING_ALPHA: &[Served] = &[off("scheduling.k8s.io/v1alpha2")];
const APPROVAL: &[OtherSub] = &[view("approval", "CertificateSigningRequest", VIEW)];

/// Every other group.
#[rustfmt::skip]
const GROUPS: &[Entry] = &[
    Entry::new("admissionregistration.k8s.io", ADMISSION_BETA, "mutatingadmissionpolicies", "mutatingadmissionpolicy", "MutatingAdmissionPolicy", C)
        .categories(EXTENSIONS).stored_as("admissionregistration.k8s.io/v1beta1").generation(),
    Entry::new("admissionregistration.k8s.io", ADMISSION_BETA, "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", "MutatingAdmissionPolicyBinding", C)
        .categories(EXTENSIONS).stored_as("admissionregistration.k8s.io/v1beta1").generation(),
    Entry::new("admissionregistration.k8s.io", ADMISSION, "mutatingwebhookconfigurations", "mutatingwebhookconfiguration", "MutatingWebhookConfiguration", C)
        .categories(EXTENSIONS).generation(),
    Entry::new("admissionregistration.k8s.io", ADMISSION, "validatingadmissionpolicies", "validatingadmissionpolicy", "ValidatingAdmissionPolicy", C)
        .categories(EXTENSIONS).subs(STATUS).generation(),
    Entry::new("admissionregistration.k8s.io", ADMISSION, "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", "ValidatingAdmissionPolicyBinding", C)
        .categories(EXTENSIONS).generation(),
    Entry::new("admissionregistration.k8s.io", ADMISSION, "validatingwebhookconfigurations", "validatingwebhookconfiguration", "ValidatingWebhookConfiguration", C)
        .categories(EXTENSIONS).generation(),
    Entry::new("apiextensions.k8s.io", &[on("apiextensions.k8s.io/v1")], "customresourcedefinitions", "customresourcedefinition", "CustomResourceDefinition", C)
        .short(&["crd", "crds"]).categories(EXTENSIONS).subs(STATUS).json().stored_as("apiextensions.k8s.io/v1beta1")
        .prefix("apiextensions.k8s.io/customresourcedefinitions").generation(),
    Entry::new("apiregistration.k8s.io", &[on("apiregistration.k8s.io/v1")], "apiservices", "apiservice", "APIService", C)
        .categories(EXTENSIONS).subs(STATUS).json().prefix("apiregistration.k8s.io/apiservices"),
    Entry::new("apps", APPS, "controllerrevisions", "controllerrevision", "ControllerRevision", N),
    Entry::new("apps", APPS, "daemonsets", "daemonset", "DaemonSet", N).short(&["ds"]).categories(IN_ALL).subs(STATUS).generation(),
    Entry::new("apps", APPS, "deployments", "deployment", "Deployment", N).short(&["deploy"]).categories(IN_ALL).subs(SCALED).generation(),
    Entry::new("apps", APPS, "replicasets", "replicaset", "ReplicaSet", N).short(&["rs"]).categories(IN_ALL).subs(SCALED).generation().fields(&["status.replicas"]),
    Entry::new("apps", APPS, "statefulsets", "statefulset", "StatefulSet", N).short(&["sts"]).categories(IN_ALL).subs(SCALED).generation(),
    Entry::new("authentication.k8s.io", AUTHENTICATION, "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview", C).action("selfsubjectreview"),
    Entry::new("authentication.k8s.io", AUTHENTICATION, "tokenreviews", "tokenreview", "TokenReview", C).action("tokenreview"),
    Entry::new("authorization.k8s.io", AUTHORIZATION, "localsubjectaccessreviews", "localsubjectaccessreview", "LocalSubjectAccessReview", N).action("localsubjectaccessreview"),
    Entry::new("authorization.k8s.io", AUTHORIZATION, "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview", C).action("selfsubjectaccessreview"),
    Entry::new("authorization.k8s.io", AUTHORIZATION, "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview", C).action("selfsubjectrulesreview"),
    Entry::new("authorization.k8s.io", AUTHORIZATION, "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview", C).action("subjectaccessreview"),
    Entry::new("autoscaling", &[on("autoscaling/v2"), on("autoscaling/v1")], "horizontalpodautoscalers", "horizontalpodautoscaler", "HorizontalPodAutoscaler", N)
        .short(&["hpa"]).categories(IN_ALL).subs(STATUS),
    Entry::new("batch", BATCH, "cronjobs", "cronjob", "CronJob", N).short(&["cj"]).categories(IN_ALL).subs(STATUS).generation(),
    Entry::new("batch", BATCH, "jobs", "job", "Job", N).categories(IN_ALL).subs(STATUS).generation().fields(&["status.successful"]),
    Entry::new("certificates.k8s.io", &[on("certificates.k8s.io/v1")], "certificatesigningrequests", "certificatesigningrequest", "CertificateSigningRequest", C)
        .short(&["csr"]).subs(&[Sub::Other(APPROVAL), Sub::Status]).fields(&["spec.signerName"]),
    Entry::new("certificates.k8s.io", TRUST, "clustertrustbundles", "clustertrustbundle", "ClusterTrustBundle", C).fields(&["spec.signerName"]),
    Entry::new("certificates.k8s.io", &[off("certificates.k8s.io/v1beta1")], "podcertificaterequests", "podcertificaterequest", "PodCertificateRequest", N)
        .subs(STATUS).fields(&["spec.signerName", "spec.podName", "spec.nodeName"]),
    Entry::new("coordination.k8s.io", CANDIDATES, "leasecandidates", "leasecandidate", "LeaseCandidate", N),
    Entry::new("coordination.k8s.io", &[on("coordination.k8s.io/v1")], "leases", "lease", "Lease", N),
    Entry::new("discovery.k8s.io", &[on("discovery.k8s.io/v1")], "endpointslices", "endpointslice", "EndpointSlice", N).generation(),
    Entry::new("events.k8s.io", &[on("events.k8s.io/v1")], "events", "event", "Event", N).short(&["ev"]).stored_as("v1").fields(NEW_EVENT_FIELDS),
    Entry::new("flowcontrol.apiserver.k8s.io", FLOW, "flowschemas", "flowschema", "FlowSchema", C).subs(STATUS).generation(),
    Entry::new("flowcontrol.apiserver.k8s.io", FLOW, "prioritylevelconfigurations", "prioritylevelconfiguration", "PriorityLevelConfiguration", C).subs(STATUS).generation(),
    Entry::new("internal.apiserver.k8s.io", &[off("internal.apiserver.k8s.io/v1alpha1")], "storageversions", "storageversion", "StorageVersion", C).subs(STATUS),
    Entry::new("networking.k8s.io", NETWORKING, "ingressclasses", "ingressclass", "IngressClass", C).generation(),
    Entry::new("networking.k8s.io", NETWORKING, "ingresses", "ingress", "Ingress", N).short(&["ing"]).prefix("ingress").subs(STATUS).generation(),
    Entry::new("networking.k8s.io", NETWORKING_BETA, "ipaddresses", "ipaddress", "IPAddress", C).short(&["ip"]),
    Entry::new("networking.k8s.io", NETWORKING, "networkpolicies", "networkpolicy", "NetworkPolicy", N).short(&["netpol"]).generation(),
    Entry::new("networking.k8s.io", NETWORKING_BETA, "servicecidrs", "servicecidr", "ServiceCIDR", C).subs(STATUS),
    Entry::new("node.k8s.io", &[on("node.k8s.io/v1")], "runtimeclasses", "runtimeclass", "RuntimeClass", C),
    Entry::new("policy", &[on("policy/v1")], "poddisruptionbudgets", "poddisruptionbudget", "PodDisruptionBudget", N).short(&["pdb"]).subs(STATUS).generation(),
    Entry::new("rbac.authorization.k8s.io", RBAC, "clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding", C),
    Entry::new("rbac.authorization.k8s.io", RBAC, "clusterroles", "clusterrole", "ClusterRole", C),
    Entry::new("rbac.authorization.k8s.io", RBAC, "rolebindings", "rolebinding", "RoleBinding", N),
    Entry::new("rbac.authorization.k8s.io", RBAC, "roles", "role", "Role", N),
    Entry::new("resource.k8s.io", DRA, "deviceclasses", "deviceclass", "DeviceClass", C).generation(),
    Entry::new("resource.k8s.io", &[off("resource.k8s.io/v1beta2"), off("resource.k8s.io/v1alpha3")], "devicetaintrules", "devicetaintrule", "DeviceTaintRule", C)
        .stored_as("resource.k8s.io/v1alpha3").subs(STATUS).generation(),
    Entry::new("resource.k8s.io", DRA, "resourceclaims", "resourceclaim", "ResourceClaim", N).subs(STATUS),
    Entry::new("resource.k8s.io", DRA, "resourceclaimtemplates", "resourceclaimtemplate", "ResourceClaimTemplate", N),
    Entry::new("resource.k8s.io", &[off("resource.k8s.io/v1alpha3")], "resourcepoolstatusrequests", "resourcepoolstatusrequest", "ResourcePoolStatusRequest", C).subs(STATUS),
    Entry::new("resource.k8s.io", DRA, "resourceslices", "resourceslice", "ResourceSlice", C).generation().fields(&["spec.nodeName", "spec.driver"]),
    Entry::new("scheduling.k8s.io", SCHEDULING_ALPHA, "podgroups", "podgroup", "PodGroup", N).subs(STATUS),
    Entry::new("scheduling.k8s.io", &[on("scheduling.k8s.io/v1")], "priorityclasses", "priorityclass", "PriorityClass", C).short(&["pc"]).generation(),
    Entry::new("scheduling.k8s.io", SCHEDULING_ALPHA, "workloads", "workload", "Workload", N),
    Entry::new("storage.k8s.io", STORAGE, "csidrivers", "csidriver", "CSIDriver", C).generation(),
    Entry::new("storage.k8s.io", STORAGE, "csinodes", "csinode", "CSINode", C),
    Entry::new("storage.k8s.io", STORAGE, "csistoragecapacities", "csistoragecapacity", "CSIStorageCapacity", N),
    Entry::new("storage.k8s.io", STORAGE, "storageclasses", "storageclass", "StorageClass", C).short(&["sc"]),
    Entry::new("storage.k8s.io", STORAGE, "volumeattachments", "volumeattachment", "VolumeAttachment", C).subs(STATUS),
    Entry::new("storage.k8s.io", &[on("storage.k8s.io/v1"), off("storage.k8s.io/v1beta1")], "volumeattributesclasses", "volumeattributesclass", "VolumeAttributesClass", C)
        .short(&["vac"]),
    Entry::new("storagemigration.k8s.io", &[off("storagemigration.k8s.io/v1beta1")], "storageversionmigrations", "storageversionmigration", "StorageVersionMigration", C).subs(STATUS),
];

/// Every entry, the core group first.
pub(super) fn entries() -> impl Iterator<Item = &'static Entry> {
    CORE.iter().chain(GROUPS)
}
