//! Defaults of the groups beside core (`SetDefaults_*` of each group's defaults.go).
//!
//! Only what upstream's functions set is set here: a `default` in OpenAPI that is a zero value says how a field is
//! written, not what it means when absent.

use super::core::defaults::{default_cpu_metric, empty_object};
use super::core::pod::defaults as pod;
use super::tree::Tree;
use skiff_machinery::{Value, list, object};

const RBAC: &str = "rbac.authorization.k8s.io";

// apps

/// `SetDefaults_Deployment`.
pub(super) fn deployment(object: &mut Value) {
    let spec = object.make("spec");
    spec.fill("replicas", 1);
    let strategy = spec.make("strategy");
    strategy.fill_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.make("rollingUpdate");
        rolling.fill("maxUnavailable", "25%");
        rolling.fill("maxSurge", "25%");
    }
    spec.fill("revisionHistoryLimit", 10);
    spec.fill("progressDeadlineSeconds", 600);
    pod::template(spec);
}

/// `SetDefaults_DaemonSet`.
pub(super) fn daemon_set(object: &mut Value) {
    let spec = object.make("spec");
    let strategy = spec.make("updateStrategy");
    strategy.fill_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.make("rollingUpdate");
        rolling.fill("maxUnavailable", 1);
        rolling.fill("maxSurge", 0);
    }
    spec.fill("revisionHistoryLimit", 10);
    pod::template(spec);
}

/// `SetDefaults_StatefulSet`.
pub(super) fn stateful_set(object: &mut Value) {
    let spec = object.make("spec");
    spec.fill_text("podManagementPolicy", "OrderedReady");
    let strategy = spec.make("updateStrategy");
    if strategy.text("type").is_empty() {
        strategy.set("type", "RollingUpdate");
        strategy.make("rollingUpdate");
    }
    if strategy.text("type") == "RollingUpdate" {
        strategy.with("rollingUpdate", |rolling| rolling.fill("partition", 0));
    }
    let retention = spec.make("persistentVolumeClaimRetentionPolicy");
    retention.fill_text("whenDeleted", "Retain");
    retention.fill_text("whenScaled", "Retain");
    spec.fill("replicas", 1);
    spec.fill("revisionHistoryLimit", 10);
    spec.each("volumeClaimTemplates", super::core::defaults::persistent_volume_claim);
    pod::template(spec);
}

/// `SetDefaults_ReplicaSet`.
pub(super) fn replica_set(object: &mut Value) {
    let spec = object.make("spec");
    spec.fill("replicas", 1);
    pod::template(spec);
}

// batch

/// `SetDefaults_Job`.
pub(super) fn job(object: &mut Value) {
    let labels = object.at(&["spec", "template", "metadata", "labels"]).cloned();
    let spec = object.make("spec");
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.set("completions", 1);
        spec.set("parallelism", 1);
    }
    spec.fill("parallelism", 1);
    let retries = if spec.has("backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    spec.fill("backoffLimit", retries);
    spec.fill("completionMode", "NonIndexed");
    spec.fill("suspend", false);
    let replacement = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.fill("podReplacementPolicy", replacement);
    job_spec(spec);
    if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()))
        && !object.make("metadata").has_some("labels")
    {
        object.make("metadata").set("labels", labels);
    }
}

/// What holds for the spec of a job wherever it stands.
fn job_spec(spec: &mut Value) {
    spec.with("podFailurePolicy", |policy| {
        policy.each("rules", |rule| rule.each("onPodConditions", |pattern| pattern.fill_text("status", "True")));
    });
    pod::template(spec);
}

/// `SetDefaults_CronJob`.
pub(super) fn cron_job(object: &mut Value) {
    let spec = object.make("spec");
    spec.fill_text("concurrencyPolicy", "Allow");
    spec.fill("suspend", false);
    spec.fill("successfulJobsHistoryLimit", 3);
    spec.fill("failedJobsHistoryLimit", 1);
    spec.with("jobTemplate", |template| template.with("spec", job_spec));
}

// rbac.authorization.k8s.io

/// `SetDefaults_RoleBinding`, `SetDefaults_ClusterRoleBinding`, `SetDefaults_Subject`.
pub(super) fn role_binding(object: &mut Value) {
    object.make("roleRef").fill_text("apiGroup", RBAC);
    object.each("subjects", |subject| {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.fill_text("apiGroup", RBAC);
        }
    });
}

// discovery.k8s.io

/// `SetDefaults_EndpointPort`.
pub(super) fn endpoint_slice(object: &mut Value) {
    object.each("ports", |port| {
        port.fill("name", "");
        port.fill("protocol", "TCP");
    });
}

// autoscaling

/// `SetDefaults_HorizontalPodAutoscaler`.
pub(super) fn autoscaler(version: &str, object: &mut Value) {
    let spec = object.make("spec");
    spec.fill("minReplicas", 1);
    if version != "v2" {
        return;
    }
    if !spec.has_some("metrics") {
        spec.set("metrics", list![default_cpu_metric()]);
    }
    spec.with("behavior", |behavior| {
        behavior.with("scaleUp", |rules| {
            rules.fill("stabilizationWindowSeconds", 0);
            rules.fill("selectPolicy", "Max");
            if !rules.has("policies") {
                let policies = list![
                    object! { "type": "Pods", "value": 4, "periodSeconds": 15 },
                    object! { "type": "Percent", "value": 100, "periodSeconds": 15 },
                ];
                rules.set("policies", policies);
            }
        });
        if !behavior.has("scaleUp") {
            behavior.set("scaleUp", scale_up());
        }
        let down = behavior.make("scaleDown");
        down.fill("selectPolicy", "Max");
        if !down.has("policies") {
            down.set("policies", list![object! { "type": "Percent", "value": 100, "periodSeconds": 15 }]);
        }
    });
}

fn scale_up() -> Value {
    object! {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": list![
            object! { "type": "Pods", "value": 4, "periodSeconds": 15 },
            object! { "type": "Percent", "value": 100, "periodSeconds": 15 },
        ],
    }
}

// networking.k8s.io

/// `SetDefaults_NetworkPolicy`, `SetDefaults_NetworkPolicyPort`.
pub(super) fn network_policy(object: &mut Value) {
    let spec = object.make("spec");
    if !spec.has_some("policyTypes") {
        let types = if spec.has_some("egress") { list!["Ingress", "Egress"] } else { list!["Ingress"] };
        spec.set("policyTypes", types);
    }
    for direction in ["ingress", "egress"] {
        spec.each(direction, |rule| rule.each("ports", |port| port.fill("protocol", "TCP")));
    }
}

/// `SetDefaults_IngressClass`.
pub(super) fn ingress_class(object: &mut Value) {
    object.with("spec", |spec| spec.with("parameters", |parameters| parameters.fill("scope", "Cluster")));
}

// storage.k8s.io

/// `SetDefaults_StorageClass`.
pub(super) fn storage_class(object: &mut Value) {
    object.fill("reclaimPolicy", "Delete");
    object.fill("volumeBindingMode", "Immediate");
}

/// `SetDefaults_CSIDriver`.
pub(super) fn csi_driver(object: &mut Value) {
    let spec = object.make("spec");
    spec.fill("attachRequired", true);
    spec.fill("podInfoOnMount", false);
    spec.fill("storageCapacity", false);
    spec.fill("fsGroupPolicy", "ReadWriteOnceWithFSType");
    if !spec.has_some("volumeLifecycleModes") {
        spec.set("volumeLifecycleModes", list!["Persistent"]);
    }
    spec.fill("requiresRepublish", false);
    spec.fill("seLinuxMount", false);
}

/// `SetDefaults_VolumeAttachment` reaches the inline volume.
pub(super) fn volume_attachment(object: &mut Value) {
    object.with("spec", |spec| {
        spec.with("source", |source| {
            source.with("inlineVolumeSpec", |inline| {
                inline.fill_text("persistentVolumeReclaimPolicy", "Retain");
                inline.fill("volumeMode", "Filesystem");
                pod::volume_source(inline);
            })
        });
    });
}

// admissionregistration.k8s.io

/// `SetDefaults_MutatingWebhook`, `SetDefaults_ValidatingWebhook`, `SetDefaults_Rule`, `SetDefaults_ServiceReference`.
pub(super) fn webhook_configuration(object: &mut Value) {
    let mutating = object.text("kind").starts_with("Mutating");
    object.each("webhooks", |hook| {
        hook.fill("failurePolicy", "Fail");
        hook.fill("matchPolicy", "Equivalent");
        empty_object(hook, "namespaceSelector");
        empty_object(hook, "objectSelector");
        hook.fill("timeoutSeconds", 10);
        if mutating {
            hook.fill("reinvocationPolicy", "Never");
        }
        hook.each("rules", |rule| rule.fill("scope", "*"));
        hook.with("clientConfig", |config| config.with("service", |service| service.fill("port", 443)));
    });
}

/// `SetDefaults_ValidatingAdmissionPolicySpec`, `SetDefaults_MutatingAdmissionPolicySpec`.
pub(super) fn admission_policy(object: &mut Value) {
    let spec = object.make("spec");
    spec.fill("failurePolicy", "Fail");
    spec.with("matchConstraints", match_resources);
}

/// `SetDefaults_MatchResources` under a binding.
pub(super) fn admission_policy_binding(object: &mut Value) {
    object.with("spec", |spec| spec.with("matchResources", match_resources));
}

fn match_resources(resources: &mut Value) {
    resources.fill("matchPolicy", "Equivalent");
    empty_object(resources, "namespaceSelector");
    empty_object(resources, "objectSelector");
    for list in ["resourceRules", "excludeResourceRules"] {
        resources.each(list, |rule| rule.fill("scope", "*"));
    }
}

// apiextensions.k8s.io and apiregistration.k8s.io

/// `SetDefaults_CustomResourceDefinition`, `SetDefaults_CustomResourceDefinitionSpec`.
pub(super) fn custom_resource_definition(object: &mut Value) {
    let spec = object.make("spec");
    let names = spec.make("names");
    let kind = names.text("kind").to_owned();
    names.fill_text("singular", &kind.to_lowercase());
    if !kind.is_empty() {
        names.fill_text("listKind", &format!("{kind}List"));
    }
    if !spec.has("conversion") {
        spec.set("conversion", object! { "strategy": "None" });
    }
    spec.with("conversion", |conversion| {
        conversion.with("webhook", |hook| {
            hook.with("clientConfig", |config| config.with("service", |service| service.fill("port", 443)));
        });
    });
}

/// `SetDefaults_ServiceReference` of an APIService.
pub(super) fn api_service(object: &mut Value) {
    object.with("spec", |spec| spec.with("service", |service| service.fill("port", 443)));
}

// flowcontrol.apiserver.k8s.io

/// `SetDefaults_FlowSchemaSpec`.
pub(super) fn flow_schema(object: &mut Value) {
    object.make("spec").fill_int("matchingPrecedence", 1000);
}

/// `SetDefaults_LimitedPriorityLevelConfiguration`, `SetDefaults_ExemptPriorityLevelConfiguration`,
/// `SetDefaults_QueuingConfiguration`.
pub(super) fn priority_level(object: &mut Value) {
    object.with("spec", |spec| {
        spec.with("exempt", |exempt| {
            exempt.fill("nominalConcurrencyShares", 0);
            exempt.fill("lendablePercent", 0);
        });
        spec.with("limited", |limited| {
            limited.fill("nominalConcurrencyShares", 30);
            limited.fill("lendablePercent", 0);
            limited.with("limitResponse", |response| {
                response.with("queuing", |queuing| {
                    queuing.fill_int("handSize", 8);
                    queuing.fill_int("queues", 64);
                    queuing.fill_int("queueLengthLimit", 50);
                });
            });
        });
    });
}

// scheduling.k8s.io

/// `SetDefaults_PriorityClass`.
pub(super) fn priority_class(object: &mut Value) {
    object.fill("preemptionPolicy", "PreemptLowerPriority");
}

// resource.k8s.io

/// `SetDefaults_DeviceRequest`, `SetDefaults_ExactDeviceRequest`, `SetDefaults_DeviceSubRequest`,
/// `SetDefaults_DeviceToleration` of a claim.
pub(super) fn resource_claim(object: &mut Value) {
    object.with("spec", device_claim_spec);
}

/// The same inside a template.
pub(super) fn resource_claim_template(object: &mut Value) {
    object.with("spec", |spec| spec.with("spec", device_claim_spec));
}

fn device_claim_spec(spec: &mut Value) {
    fn request(request: &mut Value) {
        request.fill_text("allocationMode", "ExactCount");
        if request.text("allocationMode") == "ExactCount" {
            request.fill_int("count", 1);
        }
        request.each("tolerations", |toleration| toleration.fill_text("operator", "Equal"));
    }
    spec.with("devices", |devices| {
        devices.each("requests", |entry| {
            if entry.has_some("deviceClassName") {
                request(entry);
            }
            entry.with("exactly", request);
            entry.each("firstAvailable", request);
        });
    });
}
