//! Which rules belong to which kind: the one place where the table's names meet the kinds' functions.

use super::core::defaults as core;
use super::strategy::Rules;
use super::{core::pod, defaults as groups, names};

static NONE: Rules = Rules::NONE;

macro_rules! kinds {
    ($find:ident: $($group:literal $resource:literal => { $($field:ident: $value:expr),* $(,)? }),* $(,)?) => {
        /// The rules of a kind; [`Rules::NONE`] for kinds that have only the shared ones.
        pub(super) fn $find(group: &str, resource: &str) -> &'static Rules {
            match (group, resource) {
                $(($group, $resource) => {
                    static RULES: Rules = Rules { $($field: $value,)* ..Rules::NONE };
                    &RULES
                })*
                _ => &NONE,
            }
        }
    };
}

kinds! { rules:
    "" "endpoints" => { default: |_, object| core::endpoints(object) },
    "" "limitranges" => { default: |_, object| core::limit_range(object) },
    "" "namespaces" => { default: |_, object| core::namespace(object), name: names::label },
    "" "nodes" => { default: |_, object| core::node(object) },
    "" "persistentvolumeclaims" => { default: |_, object| core::persistent_volume_claim(object) },
    "" "persistentvolumes" => { default: |_, object| core::persistent_volume(object) },
    "" "pods" => { default: |_, object| pod::defaults::pod(object) },
    "" "podtemplates" => { default: |_, object| core::pod_template(object) },
    "" "replicationcontrollers" => { default: |_, object| core::replication_controller(object) },
    "" "secrets" => { default: |_, object| core::secret(object) },
    "" "services" => { default: |_, object| core::service(object), name: names::label },
    "admissionregistration.k8s.io" "mutatingadmissionpolicies" => { default: |_, object| groups::admission_policy(object) },
    "admissionregistration.k8s.io" "mutatingadmissionpolicybindings" => { default: |_, object| groups::admission_policy_binding(object) },
    "admissionregistration.k8s.io" "mutatingwebhookconfigurations" => { default: |_, object| groups::webhook_configuration(object) },
    "admissionregistration.k8s.io" "validatingadmissionpolicies" => { default: |_, object| groups::admission_policy(object) },
    "admissionregistration.k8s.io" "validatingadmissionpolicybindings" => { default: |_, object| groups::admission_policy_binding(object) },
    "admissionregistration.k8s.io" "validatingwebhookconfigurations" => { default: |_, object| groups::webhook_configuration(object) },
    "apiextensions.k8s.io" "customresourcedefinitions" => { default: |_, object| groups::custom_resource_definition(object) },
    "apiregistration.k8s.io" "apiservices" => { default: |_, object| groups::api_service(object) },
    "apps" "daemonsets" => { default: |_, object| groups::daemon_set(object) },
    "apps" "deployments" => { default: |_, object| groups::deployment(object) },
    "apps" "replicasets" => { default: |_, object| groups::replica_set(object) },
    "apps" "statefulsets" => { default: |_, object| groups::stateful_set(object) },
    "autoscaling" "horizontalpodautoscalers" => { default: groups::autoscaler },
    "batch" "cronjobs" => { default: |_, object| groups::cron_job(object) },
    "batch" "jobs" => { default: |_, object| groups::job(object) },
    "discovery.k8s.io" "endpointslices" => { default: |_, object| groups::endpoint_slice(object) },
    "flowcontrol.apiserver.k8s.io" "flowschemas" => { default: |_, object| groups::flow_schema(object) },
    "flowcontrol.apiserver.k8s.io" "prioritylevelconfigurations" => { default: |_, object| groups::priority_level(object) },
    "networking.k8s.io" "ingressclasses" => { default: |_, object| groups::ingress_class(object) },
    "networking.k8s.io" "networkpolicies" => { default: |_, object| groups::network_policy(object) },
    "rbac.authorization.k8s.io" "clusterrolebindings" => { default: |_, object| groups::role_binding(object), name: names::segment },
    "rbac.authorization.k8s.io" "clusterroles" => { name: names::segment },
    "rbac.authorization.k8s.io" "rolebindings" => { default: |_, object| groups::role_binding(object), name: names::segment },
    "rbac.authorization.k8s.io" "roles" => { name: names::segment },
    "resource.k8s.io" "resourceclaims" => { default: |_, object| groups::resource_claim(object) },
    "resource.k8s.io" "resourceclaimtemplates" => { default: |_, object| groups::resource_claim_template(object) },
    "scheduling.k8s.io" "priorityclasses" => { default: |_, object| groups::priority_class(object) },
    "storage.k8s.io" "csidrivers" => { default: |_, object| groups::csi_driver(object) },
    "storage.k8s.io" "storageclasses" => { default: |_, object| groups::storage_class(object) },
    "storage.k8s.io" "volumeattachments" => { default: |_, object| groups::volume_attachment(object) },
}
