//! What clients are told about kinds: parts that do not exist yet, versions that go away.

use skiff_machinery::GroupVersion;

/// Kinds whose objects are kept but that nothing acts on yet; the text names the missing part.
const WARNINGS: &[(&str, &str, &str)] = &[
    ("networking.k8s.io", "ingresses", "Ingresses are stored, but no ingress controller is built in yet"),
    (
        "storage.k8s.io",
        "storageclasses",
        "StorageClasses are acted upon, but no provisioner is built in: volumes are made by people or by provisioners of others",
    ),
    (
        "storage.k8s.io",
        "volumeattachments",
        "VolumeAttachments are stored, but no attach/detach controller is built yet",
    ),
    (
        "storage.k8s.io",
        "volumeattributesclasses",
        "VolumeAttributesClasses are stored, but nothing modifies volumes yet",
    ),
    ("storage.k8s.io", "csidrivers", "CSIDrivers are stored, but CSI is not built yet"),
    ("storage.k8s.io", "csinodes", "CSINodes are stored, but CSI is not built yet"),
    ("storage.k8s.io", "csistoragecapacities", "CSIStorageCapacities are stored, but CSI is not built yet"),
    ("resource.k8s.io", "deviceclasses", "DeviceClasses are stored, but dynamic resource allocation is not built yet"),
    (
        "resource.k8s.io",
        "resourceclaims",
        "ResourceClaims are stored, but dynamic resource allocation is not built yet: they are never allocated",
    ),
    (
        "resource.k8s.io",
        "resourceclaimtemplates",
        "ResourceClaimTemplates are stored, but dynamic resource allocation is not built yet",
    ),
    (
        "resource.k8s.io",
        "resourceslices",
        "ResourceSlices are stored, but dynamic resource allocation is not built yet",
    ),
    (
        "resource.k8s.io",
        "devicetaintrules",
        "DeviceTaintRules are stored, but dynamic resource allocation is not built yet",
    ),
    (
        "resource.k8s.io",
        "resourcepoolstatusrequests",
        "ResourcePoolStatusRequests are stored, but dynamic resource allocation is not built yet",
    ),
    ("certificates.k8s.io", "clustertrustbundles", "ClusterTrustBundles are stored, but nothing projects them yet"),
    ("certificates.k8s.io", "podcertificaterequests", "PodCertificateRequests are stored, but no signer is built yet"),
    ("scheduling.k8s.io", "podgroups", "PodGroups are stored, but gang scheduling is not built yet"),
    ("scheduling.k8s.io", "workloads", "Workloads are stored, but gang scheduling is not built yet"),
    (
        "storagemigration.k8s.io",
        "storageversionmigrations",
        "StorageVersionMigrations are stored, but no migrator is built yet",
    ),
    ("internal.apiserver.k8s.io", "storageversions", "StorageVersions are stored, but nothing reads them yet"),
    (
        "coordination.k8s.io",
        "leasecandidates",
        "LeaseCandidates are stored, but coordinated leader election is not built yet",
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "flowschemas",
        "FlowSchemas are stored, but requests are not sorted into priority levels yet: one limit holds for all",
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        "PriorityLevelConfigurations are stored, but requests are not sorted into priority levels yet: one limit holds for all",
    ),
];

fn find(table: &[(&str, &str, &'static str)], group: &str, resource: &str) -> Option<&'static str> {
    table.iter().find(|(g, r, _)| *g == group && *r == resource).map(|(_, _, text)| *text)
}

/// The warning of a kind that nothing acts on yet.
pub(super) fn warning(group: &str, resource: &str) -> Option<&'static str> {
    find(WARNINGS, group, resource)
}

/// Versions that upstream calls deprecated in 1.36.
pub(super) fn deprecation(group_version: &GroupVersion, kind: &str) -> Option<String> {
    let text = match (group_version.group.as_str(), group_version.version.as_str(), kind) {
        ("", "v1", "ComponentStatus") => "v1 ComponentStatus is deprecated in v1.19+",
        ("", "v1", "Endpoints") => "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ("networking.k8s.io", "v1beta1", "IPAddress") => {
            "networking.k8s.io/v1beta1 IPAddress is deprecated in v1.34+, unavailable in v1.37+; use networking.k8s.io/v1 IPAddress"
        }
        ("networking.k8s.io", "v1beta1", "ServiceCIDR") => {
            "networking.k8s.io/v1beta1 ServiceCIDR is deprecated in v1.34+, unavailable in v1.37+; use networking.k8s.io/v1 ServiceCIDR"
        }
        _ => return None,
    };
    Some(text.to_owned())
}
