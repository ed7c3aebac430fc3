//! Columns of `Table` answers: what `kubectl get` shows.
//!
//! Mirrors `AddHandlers` (pkg/printers/internalversion/printers.go). The table of columns is data; a row is a function
//! over the object in its storage version. Kinds without an entry have name and age.

mod cells;
mod objects;
mod pods;

use super::{Column, TableConvertor};
use skiff_machinery::Value;
use std::sync::Arc;

/// Makes the cells of one object; `now` in seconds since the epoch.
type Row = fn(&Value, i64) -> Vec<Value>;

/// Heading, type, format, priority.
type Head = (&'static str, &'static str, &'static str, i32);

struct Table {
    columns: Vec<Column>,
    row: Row,
}

impl TableConvertor for Table {
    fn columns(&self) -> &[Column] {
        &self.columns
    }
    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        (self.row)(object, now)
    }
}

fn description(name: &str) -> &'static str {
    match name {
        "Name" => "Name of the object, unique within its scope.",
        "Age" => "Time since the object was created.",
        "Created At" => "When the object was created.",
        _ => "",
    }
}

/// The convertor of a kind; `None` for name and age.
pub(super) fn table(group: &str, resource: &str) -> Option<Arc<dyn TableConvertor>> {
    let (heads, row) = find(group, resource)?;
    let column = |(name, ty, format, priority): &Head| Column {
        name: (*name).to_owned(),
        ty: (*ty).to_owned(),
        format: (*format).to_owned(),
        description: description(name).to_owned(),
        priority: *priority,
    };
    Some(Arc::new(Table { columns: heads.iter().map(column).collect(), row }))
}

const NAME: Head = ("Name", "string", "name", 0);
const AGE: Head = ("Age", "string", "", 0);

#[rustfmt::skip]
fn find(group: &str, resource: &str) -> Option<(&'static [Head], Row)> {
    Some(match (group, resource) {
        ("", "componentstatuses") => (&[NAME, ("Status", "string", "", 0), ("Message", "string", "", 0), ("Error", "string", "", 0)], objects::component_status),
        ("", "configmaps") => (&[NAME, ("Data", "string", "", 0), AGE], objects::config_map),
        ("", "endpoints") => (&[NAME, ("Endpoints", "string", "", 0), AGE], objects::endpoints),
        ("", "events") => (&[("Last Seen", "string", "", 0), ("Type", "string", "", 0), ("Reason", "string", "", 0), ("Object", "string", "", 0), ("Subobject", "string", "", 1), ("Source", "string", "", 1), ("Message", "string", "", 0), ("First Seen", "string", "", 1), ("Count", "string", "", 1), ("Name", "string", "name", 1)], objects::event),
        ("", "limitranges") => (&[NAME, ("Created At", "date", "", 0)], objects::name_created),
        ("", "namespaces") => (&[NAME, ("Status", "string", "", 0), AGE], objects::namespace),
        ("", "nodes") => (&[NAME, ("Status", "string", "", 0), ("Roles", "string", "", 0), AGE, ("Version", "string", "", 0), ("Internal-IP", "string", "", 1), ("External-IP", "string", "", 1), ("OS-Image", "string", "", 1), ("Kernel-Version", "string", "", 1), ("Container-Runtime", "string", "", 1)], objects::node),
        ("", "persistentvolumeclaims") => (&[NAME, ("Status", "string", "", 0), ("Volume", "string", "", 0), ("Capacity", "string", "", 0), ("Access Modes", "string", "", 0), ("StorageClass", "string", "", 0), ("VolumeAttributesClass", "string", "", 0), AGE, ("VolumeMode", "string", "", 1)], objects::persistent_volume_claim),
        ("", "persistentvolumes") => (&[NAME, ("Capacity", "string", "", 0), ("Access Modes", "string", "", 0), ("Reclaim Policy", "string", "", 0), ("Status", "string", "", 0), ("Claim", "string", "", 0), ("StorageClass", "string", "", 0), ("VolumeAttributesClass", "string", "", 0), ("Reason", "string", "", 0), AGE, ("VolumeMode", "string", "", 1)], objects::persistent_volume),
        ("", "pods") => (&[NAME, ("Ready", "string", "", 0), ("Status", "string", "", 0), ("Restarts", "string", "", 0), AGE, ("IP", "string", "", 1), ("Node", "string", "", 1), ("Nominated Node", "string", "", 1), ("Readiness Gates", "string", "", 1)], pods::pod),
        ("", "podtemplates") => (&[NAME, ("Containers", "string", "", 0), ("Images", "string", "", 0), ("Pod Labels", "string", "", 0)], pods::pod_template),
        ("", "replicationcontrollers") => (&[NAME, ("Desired", "integer", "", 0), ("Current", "integer", "", 0), ("Ready", "integer", "", 0), AGE, ("Containers", "string", "", 1), ("Images", "string", "", 1), ("Selector", "string", "", 1)], pods::replication_controller),
        ("", "resourcequotas") => (&[NAME, ("Request", "string", "", 0), ("Limit", "string", "", 0), AGE], objects::resource_quota),
        ("", "secrets") => (&[NAME, ("Type", "string", "", 0), ("Data", "string", "", 0), AGE], objects::secret),
        ("", "serviceaccounts") => (&[NAME, AGE], objects::name_age),
        ("", "services") => (&[NAME, ("Type", "string", "", 0), ("Cluster-IP", "string", "", 0), ("External-IP", "string", "", 0), ("Port(s)", "string", "", 0), AGE, ("Selector", "string", "", 1)], objects::service),
        ("apiregistration.k8s.io", "apiservices") => (&[NAME, ("Service", "string", "", 0), ("Available", "string", "", 0), AGE], objects::api_service),
        ("apps", "controllerrevisions") => (&[NAME, ("Controller", "string", "", 0), ("Revision", "string", "", 0), AGE], objects::controller_revision),
        ("apps", "daemonsets") => (&[NAME, ("Desired", "integer", "", 0), ("Current", "integer", "", 0), ("Ready", "integer", "", 0), ("Up-to-date", "integer", "", 0), ("Available", "integer", "", 0), ("Node Selector", "string", "", 0), AGE, ("Containers", "string", "", 1), ("Images", "string", "", 1), ("Selector", "string", "", 1)], pods::daemon_set),
        ("apps", "deployments") => (&[NAME, ("Ready", "string", "", 0), ("Up-to-date", "string", "", 0), ("Available", "string", "", 0), AGE, ("Containers", "string", "", 1), ("Images", "string", "", 1), ("Selector", "string", "", 1)], pods::deployment),
        ("apps", "replicasets") => (&[NAME, ("Desired", "integer", "", 0), ("Current", "integer", "", 0), ("Ready", "integer", "", 0), AGE, ("Containers", "string", "", 1), ("Images", "string", "", 1), ("Selector", "string", "", 1)], pods::replica_set),
        ("apps", "statefulsets") => (&[NAME, ("Ready", "string", "", 0), AGE, ("Containers", "string", "", 1), ("Images", "string", "", 1)], pods::stateful_set),
        ("events.k8s.io", "events") => (&[("Last Seen", "string", "", 0), ("Type", "string", "", 0), ("Reason", "string", "", 0), ("Object", "string", "", 0), ("Subobject", "string", "", 1), ("Source", "string", "", 1), ("Message", "string", "", 0), ("First Seen", "string", "", 1), ("Count", "string", "", 1), ("Name", "string", "name", 1)], objects::event),
        ("autoscaling", "horizontalpodautoscalers") => (&[NAME, ("Reference", "string", "", 0), ("Targets", "string", "", 0), ("MinPods", "string", "", 0), ("MaxPods", "string", "", 0), ("Replicas", "string", "", 0), AGE], objects::autoscaler),
        ("batch", "cronjobs") => (&[NAME, ("Schedule", "string", "", 0), ("Timezone", "string", "", 0), ("Suspend", "boolean", "", 0), ("Active", "integer", "", 0), ("Last Schedule", "string", "", 0), AGE, ("Containers", "string", "", 1), ("Images", "string", "", 1), ("Selector", "string", "", 1)], pods::cron_job),
        ("batch", "jobs") => (&[NAME, ("Status", "string", "", 0), ("Completions", "string", "", 0), ("Duration", "string", "", 0), AGE, ("Containers", "string", "", 1), ("Images", "string", "", 1), ("Selector", "string", "", 1)], pods::job),
        ("certificates.k8s.io", "certificatesigningrequests") => (&[NAME, AGE, ("SignerName", "string", "", 0), ("Requestor", "string", "", 0), ("RequestedDuration", "string", "", 0), ("Condition", "string", "", 0)], objects::certificate_request),
        ("networking.k8s.io", "ingressclasses") => (&[NAME, ("Controller", "string", "", 0), ("Parameters", "string", "", 0), AGE], objects::ingress_class),
        ("networking.k8s.io", "ingresses") => (&[NAME, ("Class", "string", "", 0), ("Hosts", "string", "", 0), ("Address", "string", "", 0), ("Ports", "string", "", 0), AGE], objects::ingress),
        ("networking.k8s.io", "ipaddresses") => (&[NAME, ("ParentRef", "string", "", 0)], objects::ip_address),
        ("networking.k8s.io", "networkpolicies") => (&[NAME, ("Pod-Selector", "string", "", 0), AGE], objects::network_policy),
        ("networking.k8s.io", "servicecidrs") => (&[NAME, ("CIDRs", "string", "", 0), AGE], objects::service_cidr),
        ("policy", "poddisruptionbudgets") => (&[NAME, ("Min Available", "string", "", 0), ("Max Unavailable", "string", "", 0), ("Allowed Disruptions", "integer", "", 0), AGE], objects::disruption_budget),
        ("rbac.authorization.k8s.io", "clusterrolebindings") => (&[NAME, ("Role", "string", "", 0), AGE, ("Users", "string", "", 1), ("Groups", "string", "", 1), ("ServiceAccounts", "string", "", 1)], objects::role_binding),
        ("rbac.authorization.k8s.io", "clusterroles") => (&[NAME, ("Created At", "date", "", 0)], objects::name_created),
        ("rbac.authorization.k8s.io", "rolebindings") => (&[NAME, ("Role", "string", "", 0), AGE, ("Users", "string", "", 1), ("Groups", "string", "", 1), ("ServiceAccounts", "string", "", 1)], objects::role_binding),
        ("rbac.authorization.k8s.io", "roles") => (&[NAME, ("Created At", "date", "", 0)], objects::name_created),
        ("storage.k8s.io", "csidrivers") => (&[NAME, ("AttachRequired", "boolean", "", 0), ("PodInfoOnMount", "boolean", "", 0), ("StorageCapacity", "boolean", "", 0), ("TokenRequests", "string", "", 0), ("RequiresRepublish", "boolean", "", 0), ("Modes", "string", "", 0), AGE], objects::csi_driver),
        ("storage.k8s.io", "csinodes") => (&[NAME, ("Drivers", "integer", "", 0), AGE], objects::csi_node),
        ("storage.k8s.io", "csistoragecapacities") => (&[NAME, ("Created At", "date", "", 0)], objects::name_created),
        ("storage.k8s.io", "storageclasses") => (&[NAME, ("Provisioner", "string", "", 0), ("ReclaimPolicy", "string", "", 0), ("VolumeBindingMode", "string", "", 0), ("AllowVolumeExpansion", "string", "", 0), AGE], objects::storage_class),
        ("storage.k8s.io", "volumeattachments") => (&[NAME, ("Attacher", "string", "name", 0), ("PV", "string", "", 0), ("Node", "string", "", 0), ("Attached", "boolean", "", 0), AGE], objects::volume_attachment),
        ("storage.k8s.io", "volumeattributesclasses") => (&[NAME, ("DriverName", "string", "", 0), AGE], objects::volume_attributes_class),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => (&[NAME, ("Mutations", "integer", "", 0), ("ParamKind", "string", "", 0), AGE], objects::mutating_policy),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => (&[NAME, ("PolicyName", "string", "", 0), ("ParamRef", "string", "", 0), AGE], objects::policy_binding),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => (&[NAME, ("Webhooks", "integer", "", 0), AGE], objects::webhooks),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => (&[NAME, ("Validations", "integer", "", 0), ("ParamKind", "string", "", 0), AGE], objects::validating_policy),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => (&[NAME, ("PolicyName", "string", "", 0), ("ParamRef", "string", "", 0), AGE], objects::policy_binding),
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => (&[NAME, ("Webhooks", "integer", "", 0), AGE], objects::webhooks),
        ("apiextensions.k8s.io", "customresourcedefinitions") => (&[NAME, ("Created At", "date", "", 0)], objects::name_created),
        ("scheduling.k8s.io", "priorityclasses") => (&[NAME, ("Value", "integer", "", 0), ("Global-Default", "boolean", "", 0), AGE, ("PreemptionPolicy", "string", "", 0)], objects::priority_class),
        ("coordination.k8s.io", "leases") => (&[NAME, ("Holder", "string", "", 0), AGE], objects::lease),
        ("node.k8s.io", "runtimeclasses") => (&[NAME, ("Handler", "string", "", 0), AGE], objects::runtime_class),
        ("discovery.k8s.io", "endpointslices") => (&[NAME, ("AddressType", "string", "", 0), ("Ports", "string", "", 0), ("Endpoints", "string", "", 0), AGE], objects::endpoint_slice),
        ("resource.k8s.io", "deviceclasses") => (&[NAME, AGE], objects::name_age),
        ("resource.k8s.io", "resourceclaims") => (&[NAME, ("State", "string", "", 0), AGE], objects::resource_claim),
        ("resource.k8s.io", "resourceclaimtemplates") => (&[NAME, AGE], objects::name_age),
        ("resource.k8s.io", "resourceslices") => (&[NAME, ("Node", "string", "", 0), ("Driver", "string", "", 0), ("Pool", "string", "", 0), AGE], objects::resource_slice),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => (&[NAME, ("PriorityLevel", "string", "", 0), ("MatchingPrecedence", "string", "", 0), ("DistinguisherMethod", "string", "", 0), AGE, ("MissingPL", "string", "", 0)], objects::flow_schema),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => (&[NAME, ("Type", "string", "", 0), ("NominalConcurrencyShares", "string", "", 0), ("Queues", "string", "", 0), ("HandSize", "string", "", 0), ("QueueLengthLimit", "string", "", 0), AGE], objects::priority_level),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
