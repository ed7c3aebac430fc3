//! Which rules belong to which kind: the one place where the table's names meet the kinds' functions.

use super::core::{defaults as core, pod, prepare as prep, service_validation, validation as rest};
use super::strategy::{Rules, View};
use super::{
    aggregation, autoscaling, certificates, devices, flow_control, networking, policies, storage, warnings, webhooks,
};
use super::{defaults as groups, groups as validation, jobs, names, prepare, workloads};

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
    "" "endpoints" => { warnings: warnings::endpoints, validate: rest::endpoints, validate_update: rest::endpoints_update, create_on_update: true, default: |_, object| core::endpoints(object) },
    "" "limitranges" => { validate: rest::limit_range, validate_update: rest::limit_range_update, create_on_update: true, default: |_, object| core::limit_range(object) },
    "" "namespaces" => { validate: rest::namespace, create: prep::namespace_create, update: prep::namespace_update, views: &[("status", View { validate_update: rest::namespace_status, ..View::PLAIN }), ("finalize", View { validate_update: rest::namespace_finalize, ..View::PLAIN })], default: |_, object| core::namespace(object), name: names::label },
    "" "nodes" => { warnings: warnings::node, validate: rest::node, validate_update: rest::node_update, keep_status: true, default: |_, object| core::node(object) },
    "" "persistentvolumeclaims" => { warnings: warnings::claim, validate: rest::claim, validate_update: rest::claim_update, create: prep::persistent_volume_claim_create, update: prep::persistent_volume_claim_update, default: |_, object| core::persistent_volume_claim(object) },
    "" "persistentvolumes" => { warnings: warnings::volume, validate: rest::volume, validate_update: rest::volume_update, create: prep::persistent_volume_create, views: &[("status", View { update: Some(prep::persistent_volume_status), ..View::PLAIN })], default: |_, object| core::persistent_volume(object) },
    "" "pods" => { warnings: pod::warnings::pod, validate: pod::validation::validate, validate_update: pod::validation::validate_update, create: prep::pod_create, grace: prep::pod_grace, views: &[
        ("status", View { update: Some(prep::pod_status), validate_update: pod::validation::validate_status }),
        ("ephemeralcontainers", View { update: Some(prep::pod_ephemeral_containers), validate_update: pod::validation::validate_ephemeral_containers }),
        ("resize", View { update: Some(prep::pod_resize), validate_update: pod::validation::validate_resize }),
    ], default: |_, object| pod::defaults::pod(object) },
    "" "podtemplates" => { warnings: warnings::pod_template, validate: rest::pod_template, validate_update: rest::pod_template_update, create_on_update: true, default: |_, object| core::pod_template(object) },
    "" "replicationcontrollers" => { warnings: pod::warnings::named_template, validate: workloads::replication_controller, validate_update: workloads::replication_controller_update, views: &[("status", View { validate_update: workloads::replica_set_status, ..View::PLAIN })], default: |_, object| core::replication_controller(object) },
    "" "secrets" => { validate: rest::secret, validate_update: rest::secret_update, update: prep::secret_update, default: |_, object| core::secret(object) },
    "" "services" => { warnings: warnings::service, validate: service_validation::validate, validate_update: service_validation::validate_update, views: &[("status", View { validate_update: service_validation::validate_status, ..View::PLAIN })], update: prep::service_update, create_on_update: true, default: |_, object| core::service(object), name: names::label },
    "admissionregistration.k8s.io" "mutatingadmissionpolicies" => { validate: policies::mutating, validate_update: policies::mutating_update, unconditional_update: false, default: |_, object| groups::admission_policy(object) },
    "admissionregistration.k8s.io" "mutatingadmissionpolicybindings" => { validate: policies::mutating_binding, validate_update: policies::mutating_binding_update, unconditional_update: false, default: |_, object| groups::admission_policy_binding(object) },
    "admissionregistration.k8s.io" "mutatingwebhookconfigurations" => { validate: webhooks::validate, validate_update: webhooks::validate_update, unconditional_update: false, default: |_, object| groups::webhook_configuration(object) },
    "admissionregistration.k8s.io" "validatingadmissionpolicies" => { validate: policies::validating, validate_update: policies::validating_update, views: &[("status", View { validate_update: policies::validating_status, ..View::PLAIN })], unconditional_update: false, default: |_, object| groups::admission_policy(object) },
    "admissionregistration.k8s.io" "validatingadmissionpolicybindings" => { validate: policies::validating_binding, validate_update: policies::validating_binding_update, unconditional_update: false, default: |_, object| groups::admission_policy_binding(object) },
    "admissionregistration.k8s.io" "validatingwebhookconfigurations" => { validate: webhooks::validate, validate_update: webhooks::validate_update, unconditional_update: false, default: |_, object| groups::webhook_configuration(object) },
    "apiextensions.k8s.io" "customresourcedefinitions" => { unconditional_update: false, default: |_, object| groups::custom_resource_definition(object) },
    "apiregistration.k8s.io" "apiservices" => { create: aggregation::create, validate: aggregation::validate, validate_update: aggregation::validate_update, views: &[("status", View { validate_update: aggregation::validate_status, ..View::PLAIN })], unconditional_update: false, default: |_, object| groups::api_service(object) },
    "apps" "daemonsets" => { warnings: pod::warnings::template, validate: workloads::daemon_set, validate_update: workloads::daemon_set_update, views: &[("status", View { validate_update: workloads::daemon_set_status, ..View::PLAIN })], create: prepare::daemon_set_create, update: prepare::daemon_set_update, default: |_, object| groups::daemon_set(object) },
    "apps" "deployments" => { warnings: pod::warnings::named_template, validate: workloads::deployment, validate_update: workloads::deployment_update, views: &[("status", View { validate_update: workloads::deployment_status, ..View::PLAIN })], generation_also: &["annotations"], default: |_, object| groups::deployment(object) },
    "apps" "replicasets" => { warnings: pod::warnings::named_template, validate: workloads::replica_set, validate_update: workloads::replica_set_update, views: &[("status", View { validate_update: workloads::replica_set_status, ..View::PLAIN })], default: |_, object| groups::replica_set(object) },
    "apps" "statefulsets" => { warnings: warnings::stateful_set, validate: workloads::stateful_set, validate_update: workloads::stateful_set_update, views: &[("status", View { validate_update: workloads::stateful_set_status, ..View::PLAIN })], default: |_, object| groups::stateful_set(object) },
    "autoscaling" "horizontalpodautoscalers" => { validate: autoscaling::autoscaler, validate_update: autoscaling::autoscaler_update, views: &[("status", View { validate_update: autoscaling::autoscaler_status, ..View::PLAIN })], default: groups::autoscaler },
    "batch" "cronjobs" => { warnings: warnings::cron_job, validate: jobs::cron_job, validate_update: jobs::cron_job_update, default: |_, object| groups::cron_job(object) },
    "batch" "jobs" => { warnings: warnings::job, validate: jobs::job, validate_update: jobs::job_update, views: &[("status", View { validate_update: jobs::job_status, ..View::PLAIN })], create: prepare::job_create, default: |_, object| groups::job(object) },
    "discovery.k8s.io" "endpointslices" => { warnings: warnings::endpoint_slice, validate: validation::endpoint_slice, validate_update: validation::endpoint_slice_update, generation_also: &["labels"], default: |_, object| groups::endpoint_slice(object) },
    "flowcontrol.apiserver.k8s.io" "flowschemas" => { validate: flow_control::flow_schema, validate_update: flow_control::flow_schema_update, views: &[("status", View { validate_update: flow_control::status, ..View::PLAIN })], unconditional_update: false, default: |_, object| groups::flow_schema(object) },
    "flowcontrol.apiserver.k8s.io" "prioritylevelconfigurations" => { validate: flow_control::priority_level, validate_update: flow_control::priority_level_update, views: &[("status", View { validate_update: flow_control::status, ..View::PLAIN })], unconditional_update: false, default: |_, object| groups::priority_level(object) },
    "networking.k8s.io" "ingresses" => { warnings: warnings::ingress, validate: networking::ingress, validate_update: networking::ingress_update, views: &[("status", View { validate_update: networking::ingress_status, ..View::PLAIN })] },
    "networking.k8s.io" "ipaddresses" => { validate: networking::ip_address, validate_update: networking::ip_address_update, name: networking::ip_address_name },
    "networking.k8s.io" "servicecidrs" => { validate: networking::service_cidr, validate_update: networking::service_cidr_update },
    "networking.k8s.io" "ingressclasses" => { validate: networking::ingress_class, validate_update: networking::ingress_class_update, default: |_, object| groups::ingress_class(object) },
    "networking.k8s.io" "networkpolicies" => { warnings: warnings::network_policy, validate: networking::network_policy, validate_update: networking::network_policy_update, default: |_, object| groups::network_policy(object) },
    "rbac.authorization.k8s.io" "clusterrolebindings" => { validate: validation::role_binding, validate_update: validation::role_binding_update, create_on_update: true, default: |_, object| groups::role_binding(object), name: names::segment },
    "rbac.authorization.k8s.io" "clusterroles" => { validate: validation::role, validate_update: validation::role_update, create_on_update: true, name: names::segment },
    "rbac.authorization.k8s.io" "rolebindings" => { validate: validation::role_binding, validate_update: validation::role_binding_update, create_on_update: true, default: |_, object| groups::role_binding(object), name: names::segment },
    "rbac.authorization.k8s.io" "roles" => { validate: validation::role, validate_update: validation::role_update, create_on_update: true, name: names::segment },
    "resource.k8s.io" "resourceclaims" => { validate: devices::claim, validate_update: devices::claim_update, views: &[("status", View { validate_update: devices::claim_status, ..View::PLAIN })], default: |_, object| groups::resource_claim(object) },
    "resource.k8s.io" "deviceclasses" => { validate: devices::class, validate_update: devices::class_update },
    "resource.k8s.io" "resourceslices" => { validate: devices::slice, validate_update: devices::slice_update },
    "resource.k8s.io" "resourceclaimtemplates" => { validate: devices::template, validate_update: devices::template_update, default: |_, object| groups::resource_claim_template(object) },
    "scheduling.k8s.io" "priorityclasses" => { validate: validation::priority_class, validate_update: validation::priority_class_update, default: |_, object| groups::priority_class(object) },
    "storage.k8s.io" "csistoragecapacities" => { validate: storage::csi_storage_capacity, validate_update: storage::csi_storage_capacity_update },
    "storage.k8s.io" "volumeattributesclasses" => { validate: storage::volume_attributes_class, validate_update: storage::volume_attributes_class_update },
    "storage.k8s.io" "csidrivers" => { validate: storage::csi_driver, validate_update: storage::csi_driver_update, default: |_, object| groups::csi_driver(object) },
    "storage.k8s.io" "storageclasses" => { warnings: warnings::storage_class, validate: storage::storage_class, validate_update: storage::storage_class_update, default: |_, object| groups::storage_class(object) },
    "storage.k8s.io" "volumeattachments" => { validate: storage::volume_attachment, validate_update: storage::volume_attachment_update, unconditional_update: false, default: |_, object| groups::volume_attachment(object) },
    "" "serviceaccounts" => { create: prep::service_account_create, update: prep::service_account_update },
    "" "events" => { validate: rest::event, validate_update: rest::event_update, create_on_update: true },
    "coordination.k8s.io" "leases" => { validate: validation::lease, validate_update: validation::lease_update, create_on_update: true, unconditional_update: false },
    "events.k8s.io" "events" => { validate: rest::event, validate_update: rest::event_update, create_on_update: true },
    "storage.k8s.io" "csinodes" => { validate: storage::csi_node, validate_update: storage::csi_node_update, unconditional_update: false },
    "policy" "poddisruptionbudgets" => { validate: autoscaling::disruption_budget, validate_update: autoscaling::disruption_budget_update, views: &[("status", View { validate_update: autoscaling::disruption_budget_status, ..View::PLAIN })], unconditional_update: false },
    "node.k8s.io" "runtimeclasses" => { warnings: warnings::runtime_class, validate: validation::runtime_class, validate_update: validation::runtime_class_update, unconditional_update: false },
    "internal.apiserver.k8s.io" "storageversions" => { unconditional_update: false },
    "certificates.k8s.io" "certificatesigningrequests" => { validate: certificates::validate, validate_update: certificates::validate_update, create: certificates::create, update: certificates::update, name: names::segment, views: &[
        ("status", View { update: Some(certificates::update_status), validate_update: certificates::validate_status }),
        ("approval", View { update: Some(certificates::update_approval), validate_update: certificates::validate_approval }),
    ] },
    "" "configmaps" => { validate: rest::config_map, validate_update: rest::config_map_update },
    "" "resourcequotas" => { validate: rest::resource_quota, validate_update: rest::resource_quota_update },
    "apps" "controllerrevisions" => { validate: validation::controller_revision, validate_update: validation::controller_revision_update },
}
