//! Defaults of pods and pod templates (`SetDefaults_*`, pkg/apis/core/v1/defaults.go).

use crate::kinds::tree::Tree;
use skiff_machinery::{Map, Value};

const VOLUME_MODE: i64 = 0o644;

/// `SetDefaults_Pod` and everything below it.
pub(crate) fn pod(pod: &mut Value) {
    pod.with("spec", |spec| {
        spec.each("containers", requests_from_limits);
        spec.each("initContainers", requests_from_limits);
        if spec.flag("hostNetwork") {
            spec.each("containers", host_ports);
            spec.each("initContainers", host_ports);
        }
        spec.fill("enableServiceLinks", true);
        pod_level_requests(spec);
        pod_spec(spec);
    });
}

/// `SetDefaults_PodSpec` and everything below it, for a template (`template.spec`).
pub(crate) fn template(parent: &mut Value) {
    parent.with("template", |template| template.with("spec", pod_spec));
}

/// A limit without a request is the request.
fn requests_from_limits(container: &mut Value) {
    container.with("resources", |resources| {
        let Some(limits) = resources.map("limits").cloned() else { return };
        let requests = resources.make("requests");
        let Some(requests) = requests.as_object_mut() else { return };
        for (name, limit) in limits {
            requests.entry(name, || limit);
        }
    });
}

fn host_ports(container: &mut Value) {
    container.each("ports", |port| {
        let number = port.int("containerPort").unwrap_or(0);
        port.fill_int("hostPort", number);
    });
}

/// `defaultPodRequests`: requests of the pod as a whole, once it says anything about its resources: the sum of its
/// containers' requests, else its limits.
fn pod_level_requests(spec: &mut Value) {
    let Some(resources) = spec.field("resources") else { return };
    if !resources.has_some("requests") && !resources.has_some("limits") {
        return;
    }
    let aggregated = super::resources::aggregate_container_requests(spec);
    spec.with("resources", |resources| {
        let limits = resources.map("limits").cloned().unwrap_or_default();
        let mut requests = resources.map("requests").cloned().unwrap_or_default();
        for (name, amount) in aggregated {
            if matches!(name.as_str(), "cpu" | "memory") {
                requests.entry(name, || Value::from(amount.to_string()));
            }
        }
        for (name, limit) in limits {
            if super::resources::is_supported_pod_level_resource(&name) {
                requests.entry(name, || limit);
            }
        }
        resources.set("requests", requests);
    });
}

fn pod_spec(spec: &mut Value) {
    // Two names of one field; the old one is written for old clients.
    let account =
        spec.text(if spec.text("serviceAccountName").is_empty() { "serviceAccount" } else { "serviceAccountName" });
    if !account.is_empty() {
        let account = account.to_owned();
        spec.set("serviceAccountName", account.as_str());
        spec.set("serviceAccount", account);
    }
    spec.fill_text("dnsPolicy", "ClusterFirst");
    spec.fill_text("restartPolicy", "Always");
    spec.fill("securityContext", Map::new());
    spec.fill("terminationGracePeriodSeconds", 30);
    spec.fill_text("schedulerName", "default-scheduler");
    spec.each("volumes", volume);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        spec.each(list, container);
    }
}

fn container(container: &mut Value) {
    let policy = if image_tag(container.text("image")) == Some("latest") { "Always" } else { "IfNotPresent" };
    container.fill_text("imagePullPolicy", policy);
    container.fill_text("terminationMessagePath", "/dev/termination-log");
    container.fill_text("terminationMessagePolicy", "File");
    container.each("ports", |port| port.fill_text("protocol", "TCP"));
    container.each("env", |variable| {
        variable.with("valueFrom", |source| {
            source.with("fieldRef", field_ref);
            source.with("fileKeyRef", |reference| reference.fill("optional", false));
        });
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        container.with(probe, |probe| {
            probe.fill_int("timeoutSeconds", 1);
            probe.fill_int("periodSeconds", 10);
            probe.fill_int("successThreshold", 1);
            probe.fill_int("failureThreshold", 3);
            probe.with("httpGet", http_get);
            probe.with("grpc", |grpc| grpc.fill("service", ""));
        });
    }
    container.with("lifecycle", |lifecycle| {
        for hook in ["postStart", "preStop"] {
            lifecycle.with(hook, |hook| hook.with("httpGet", http_get));
        }
    });
}

fn http_get(action: &mut Value) {
    action.fill_text("path", "/");
    action.fill_text("scheme", "HTTP");
}

fn field_ref(reference: &mut Value) {
    reference.fill_text("apiVersion", "v1");
}

/// The tag of an image reference: `latest` when it says neither tag nor digest, `None` with a digest only or when it
/// is no image reference at all.
fn image_tag(image: &str) -> Option<&str> {
    if image.is_empty() {
        return None;
    }
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':'), digest) {
        (Some((_, tag)), _) => Some(tag),
        (None, Some(_)) => None,
        (None, None) => Some("latest"),
    }
}

/// The keys of a volume that are not its source.
pub(super) const VOLUME_NAME: &str = "name";

fn volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_some_and(|map| map.iter().any(|(key, value)| key.as_str() != VOLUME_NAME && !value.is_null()));
    if !has_source {
        volume.set("emptyDir", Map::new());
    }
    volume_source(volume);
}

/// Defaults of volume sources, in pods and persistent volumes alike.
pub(crate) fn volume_source(volume: &mut Value) {
    for source in ["secret", "configMap"] {
        volume.with(source, |source| source.fill("defaultMode", VOLUME_MODE));
    }
    volume.with("downwardAPI", |source| {
        source.fill("defaultMode", VOLUME_MODE);
        downward_items(source);
    });
    volume.with("projected", |projected| {
        projected.fill("defaultMode", VOLUME_MODE);
        projected.each("sources", |source| {
            source.with("serviceAccountToken", |token| token.fill("expirationSeconds", 3600));
            source.with("downwardAPI", downward_items);
        });
    });
    volume.with("hostPath", |source| source.fill("type", ""));
    volume.with("iscsi", |source| source.fill_text("iscsiInterface", "default"));
    volume.with("rbd", |source| {
        source.fill_text("pool", "rbd");
        source.fill_text("user", "admin");
        source.fill_text("keyring", "/etc/ceph/keyring");
    });
    volume.with("azureDisk", |source| {
        source.fill("cachingMode", "ReadWrite");
        source.fill("kind", "Shared");
        source.fill("fsType", "ext4");
        source.fill("readOnly", false);
    });
    volume.with("scaleIO", |source| {
        source.fill_text("storageMode", "ThinProvisioned");
        source.fill_text("fsType", "xfs");
    });
    volume.with("image", |source| {
        let policy = if image_tag(source.text("reference")) == Some("latest") { "Always" } else { "IfNotPresent" };
        source.fill_text("pullPolicy", policy);
    });
    volume.with("ephemeral", |source| {
        source.with("volumeClaimTemplate", |template| template.with("spec", claim_spec));
    });
}

fn downward_items(source: &mut Value) {
    source.each("items", |item| item.with("fieldRef", field_ref));
}

/// `SetDefaults_PersistentVolumeClaimSpec`.
pub(crate) fn claim_spec(spec: &mut Value) {
    spec.fill("volumeMode", "Filesystem");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_is_pulled_always() {
        for (image, tag) in [
            ("nginx", Some("latest")),
            ("nginx:latest", Some("latest")),
            ("host:5000/nginx", Some("latest")),
            ("host:5000/nginx:1", Some("1")),
            ("nginx@sha256:0000", None),
            ("nginx:1@sha256:0000", Some("1")),
            ("", None),
        ] {
            assert_eq!(image_tag(image), tag, "{image}");
        }
    }
}
