//! What is wrong with a pod or pod template (`ValidatePodCreate`, `ValidatePodSpec`, `ValidatePodTemplateSpec`,
//! `ValidatePodUpdate` and its views; pkg/apis/core/validation/validation.go).
//!
//! Not here yet: Windows options, details of volume sources that no node of ours mounts.

use super::containers::{self, Role};
use super::{placement, volumes};
use crate::kinds::check::{self, Report, each, shown};
use crate::kinds::strategy::restore;
use crate::kinds::tree::Tree;
use crate::request::RequestContext;
use skiff_machinery::names;
use skiff_machinery::{ErrorList, FieldError, FieldPath, Value};

/// A new pod.
pub(crate) fn validate(_: &RequestContext, pod: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let empty = Value::Object(skiff_machinery::Map::new());
    let spec = pod.get("spec").unwrap_or(&empty);
    pod_spec(&mut errors, &FieldPath::new("spec"), spec);
    if spec.has_some("ephemeralContainers") {
        errors.forbidden(&FieldPath::new("spec").child("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.text("nodeName").is_empty() && spec.has_some("schedulingGates") {
        errors.forbidden(
            &FieldPath::new("spec").child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
    errors
}

/// The pod template at `path`: its labels, annotations and spec.
pub(crate) fn template(errors: &mut ErrorList, path: &FieldPath<'_>, template: Option<&Value>) {
    template_metadata(errors, path, template);
    let empty = Value::Object(skiff_machinery::Map::new());
    let path = path.child("spec");
    let spec = template.and_then(|template| template.get("spec")).unwrap_or(&empty);
    pod_spec(errors, &path, spec);
    if spec.has_some("ephemeralContainers") {
        errors.forbidden(&path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Labels and annotations of the pod template at `path`, where upstream looks for them.
pub(crate) fn template_metadata(errors: &mut ErrorList, path: &FieldPath<'_>, template: Option<&Value>) {
    let of = |field| template.and_then(|template| template.object_at(&["metadata", field]));
    check::labels(errors, &path.child("labels"), of("labels"));
    check::annotations(errors, &path.child("annotations"), of("annotations"));
}

/// `ValidatePodSpec`.
fn pod_spec(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    volumes::volumes(errors, path, spec);
    let volume_names = volumes::names_of(spec);
    if spec.items("containers").is_empty() {
        errors.required(&path.child("containers"), "");
    }
    let mut seen: Vec<&str> = Vec::new();
    for (list, role) in
        [("containers", Role::Main), ("initContainers", Role::Init), ("ephemeralContainers", Role::Ephemeral)]
    {
        let list_path = path.child(list);
        for (index, container) in spec.items(list).iter().enumerate() {
            let path = list_path.index(index);
            containers::container(errors, &path, container, &volume_names, role, spec);
            let name = container.text("name");
            if !name.is_empty() && seen.contains(&name) {
                errors.duplicate(&path.child("name"), name);
            }
            seen.push(name);
        }
    }
    host_ports(errors, path, spec);
    errors.one_of(&path.child("restartPolicy"), spec.text("restartPolicy"), &["Always", "OnFailure", "Never"]);
    errors.one_of(
        &path.child("dnsPolicy"),
        spec.text("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    check::labels(errors, &path.child("nodeSelector"), spec.map("nodeSelector"));
    pod_security_context(errors, path, spec);
    placement::affinity(errors, &path.child("affinity"), spec.field("affinity"));
    placement::tolerations(errors, path, spec);
    placement::topology_spread(errors, path, spec);
    pod_names(errors, path, spec);
    dns_config(errors, path, spec);
    pod_numbers(errors, path, spec);
    gates(errors, path, spec);
    if let Some(resources) = spec.field("resources") {
        containers::resources(errors, &path.child("resources"), Some(resources));
        for list in ["limits", "requests"] {
            for name in resources.map(list).into_iter().flat_map(|map| map.keys()) {
                if !super::resources::is_supported_pod_level_resource(name) {
                    errors.not_supported(
                        &path.child("resources").child(list).key(name),
                        name.as_str(),
                        &["cpu", "hugepages-", "memory"],
                    );
                }
            }
        }
    }
}

/// `AccumulateUniqueHostPorts`: one port of the node for one container.
fn host_ports(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    let mut taken: Vec<String> = Vec::new();
    let sidecars = spec
        .items("initContainers")
        .iter()
        .enumerate()
        .filter(|(_, container)| container.text("restartPolicy") == "Always");
    let all = spec
        .items("containers")
        .iter()
        .enumerate()
        .map(|entry| ("containers", entry))
        .chain(sidecars.map(|entry| ("initContainers", entry)));
    for (list, (index, container)) in all {
        let list = path.child(list);
        let container_path = list.index(index);
        each(container, "ports", &container_path, |port, path| {
            let number = port.int("hostPort").unwrap_or(0);
            if number == 0 {
                return;
            }
            let key = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if taken.contains(&key) {
                errors.duplicate(&path.child("hostPort"), key.as_str());
            } else {
                taken.push(key);
            }
        });
    }
}

fn pod_security_context(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    if spec.flag("hostPID") && spec.flag("shareProcessNamespace") {
        errors.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    if spec.get("hostUsers").and_then(Value::as_bool) == Some(false) {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec.flag(field) {
                errors.forbidden(&path.child(field), format!("when `hostUsers` is false, `{field}` must not be true"));
            }
        }
    }
    let Some(context) = spec.field("securityContext") else { return };
    let path = path.child("securityContext");
    containers::identity(errors, &path, context);
    let groups = path.child("supplementalGroups");
    for (index, group) in context.items("supplementalGroups").iter().enumerate() {
        let group = group.as_int().unwrap_or(0);
        for mistake in names::is_valid_group_id(group) {
            errors.invalid(&groups.index(index), group, mistake);
        }
    }
    containers::seccomp_profile(errors, &path.child("seccompProfile"), context.field("seccompProfile"));
    containers::app_armor(errors, &path.child("appArmorProfile"), context.field("appArmorProfile"));
    for (field, supported) in
        [("fsGroupChangePolicy", ["Always", "OnRootMismatch"]), ("supplementalGroupsPolicy", ["Merge", "Strict"])]
    {
        let policy = context.text(field);
        if !policy.is_empty() && !supported.contains(&policy) {
            errors.not_supported(&path.child(field), policy, &supported);
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    let list = path.child("sysctls");
    for (index, sysctl) in context.items("sysctls").iter().enumerate() {
        let path = list.index(index);
        let name = sysctl.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !is_sysctl_name(name) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.invalid(&path.child("name"), name, detail);
        } else if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        // Several settings smuggled into one (CVE-2022-0811): a value is one line of plain text.
        if sysctl.text("value").contains(['\n', '\r', '\0', '+', '=']) {
            errors.invalid(&path.child("value"), sysctl.text("value"), "must be a single plain value");
        }
        if spec.flag("hostNetwork") && name.starts_with("net.") {
            errors.invalid(&path.child("name"), name, "may not be specified when 'hostNetwork' is true");
        }
        if spec.flag("hostIPC")
            && (name.starts_with("kernel.shm")
                || name.starts_with("kernel.msg")
                || name.starts_with("fs.mqueue.")
                || name == "kernel.sem")
        {
            errors.invalid(&path.child("name"), name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let segment = |part: &str| {
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = part.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if edge(*first) && edge(*last))
            && bytes.iter().all(|byte| edge(*byte) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn pod_names(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    for field in ["serviceAccountName", "nodeName", "runtimeClassName", "priorityClassName"] {
        let name = spec.text(field);
        if !name.is_empty() {
            errors.mistakes(&path.child(field), name, names::is_dns1123_subdomain(name));
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = spec.text(field);
        if !name.is_empty() {
            check::label(errors, &path.child(field), name);
        }
    }
    if let Some(name) = spec.field("hostnameOverride").and_then(Value::as_str) {
        check::subdomain(errors, &path.child("hostnameOverride"), name);
    }
    each(spec, "hostAliases", path, |alias, path| {
        let ip = alias.text("ip");
        errors.mistakes(&path.child("ip"), ip, names::is_valid_ip(ip, true));
        each(alias, "hostnames", path, |name, path| check::subdomain(errors, path, name.as_str().unwrap_or("")));
    });
    let policy = spec.text("preemptionPolicy");
    if !policy.is_empty() && !["Never", "PreemptLowerPriority"].contains(&policy) {
        errors.not_supported(&path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    if let Some(os) = spec.field("os") {
        errors.one_of(&path.child("os").child("name"), os.text("name"), &["linux", "windows"]);
    }
    each(spec, "readinessGates", path, |gate, path| {
        check::qualified_name(errors, &path.child("conditionType"), gate.text("conditionType"));
    });
}

fn dns_config(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    let config_path = path.child("dnsConfig");
    let Some(config) = spec.field("dnsConfig") else {
        if spec.text("dnsPolicy") == "None" {
            errors.required(&config_path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = config.items("nameservers");
    if spec.text("dnsPolicy") == "None" && servers.is_empty() {
        errors.required(
            &config_path.child("nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.invalid(&config_path.child("nameservers"), Value::Array(servers.to_vec()), detail);
    }
    each(config, "nameservers", &config_path, |server, path| {
        let server = server.as_str().unwrap_or("");
        errors.mistakes(path, server, names::is_valid_ip(server, true));
    });
    let searches = config.items("searches");
    if searches.len() > 32 {
        let detail = "must not have more than 32 search paths";
        errors.invalid(&config_path.child("searches"), Value::Array(searches.to_vec()), detail);
    }
    each(config, "searches", &config_path, |search, path| {
        let search = search.as_str().unwrap_or("");
        if search != "." {
            let name = search.strip_suffix('.').unwrap_or(search);
            errors.mistakes(path, name, names::is_dns1123_subdomain_with_underscore(name));
        }
    });
    each(config, "options", &config_path, |option, path| {
        if option.text("name").is_empty() {
            errors.required(path, "must not be empty");
        }
    });
}

fn pod_numbers(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    // A negative grace period is accepted: it counts as one second.
    if let Some(seconds) = spec.int("activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = names::inclusive_range_error(1, i64::from(i32::MAX));
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, detail);
    }
    let overhead = path.child("overhead");
    for (name, value) in spec.map("overhead").into_iter().flat_map(|map| map.iter()) {
        containers::quantity(errors, &overhead.key(name), name, value);
    }
}

fn gates(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    let list = path.child("schedulingGates");
    for (index, gate) in spec.items("schedulingGates").iter().enumerate() {
        let path = list.index(index);
        let name = gate.text("name");
        errors.mistakes(&path, name, names::is_qualified_name(name));
        if seen.contains(&name) {
            errors.duplicate(&path, name);
        }
        seen.push(name);
    }
    let mut seen: Vec<&str> = Vec::new();
    let list = path.child("resourceClaims");
    for (index, claim) in spec.items("resourceClaims").iter().enumerate() {
        let path = list.index(index);
        let name = claim.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            check::label(errors, &path.child("name"), name);
        }
        seen.push(name);
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|source| claim.has(source)).count() {
            0 => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(&path, claim.clone(), detail);
            }
            1 => {}
            _ => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(&path, claim.clone(), detail);
            }
        }
        for source in sources.iter().filter(|source| claim.has(source)) {
            check::subdomain(errors, &path.child(source), claim.text(source));
        }
    }
}

const UPDATE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// `ValidatePodUpdate`.
pub(crate) fn validate_update(_: &RequestContext, pod: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("spec");
    let empty = Value::Object(skiff_machinery::Map::new());
    let (spec, old_spec) = (pod.get("spec").unwrap_or(&empty), old.get("spec").unwrap_or(&empty));
    for list in ["containers", "initContainers"] {
        if spec.items(list).len() != old_spec.items(list).len() {
            errors.forbidden(&path.child(list), "pod updates may not add or remove containers");
            return errors;
        }
        let list_path = path.child(list);
        for (index, container) in spec.items(list).iter().enumerate() {
            if container.text("image").is_empty() {
                errors.required(&list_path.index(index).child("image"), "");
            }
        }
    }
    let deadline = |spec: &Value| spec.int("activeDeadlineSeconds");
    let deadline_path = path.child("activeDeadlineSeconds");
    match (deadline(spec), deadline(old_spec)) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(&deadline_path, new, names::inclusive_range_error(0, i64::from(i32::MAX)));
            return errors;
        }
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&deadline_path, new, "must be less than or equal to previous value");
            return errors;
        }
        (None, Some(_)) => {
            errors.invalid(&deadline_path, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    only_added_tolerations(&mut errors, &path, spec, old_spec);
    gates_update(&mut errors, &path, spec, old_spec);
    // What may change is put back; whatever differs then may not.
    let mut rest = spec.clone();
    for list in ["containers", "initContainers"] {
        let mut olds = old_spec.items(list).iter();
        rest.each(list, |container| {
            if let Some(old) = olds.next() {
                restore(container, old, "image");
            }
        });
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        restore(&mut rest, old_spec, field);
    }
    if old_spec.int("terminationGracePeriodSeconds").unwrap_or(0) < 0
        && spec.int("terminationGracePeriodSeconds") == Some(1)
    {
        restore(&mut rest, old_spec, "terminationGracePeriodSeconds");
    }
    if old_spec.has_some("schedulingGates") {
        for field in ["nodeSelector", "affinity"] {
            restore(&mut rest, old_spec, field);
        }
    }
    if rest != *old_spec {
        errors.forbidden(&path, UPDATE);
    }
    errors
}

fn only_added_tolerations(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value, old: &Value) {
    let same = |left: &Value, right: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|key| left.text(key) == right.text(key))
    };
    let new = spec.items("tolerations");
    if old.items("tolerations").iter().any(|toleration| !new.iter().any(|other| same(toleration, other))) {
        errors.forbidden(
            &path.child("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    if new.len() != old.items("tolerations").len() {
        placement::tolerations(errors, path, spec);
    }
}

fn gates_update(errors: &mut ErrorList, path: &FieldPath<'_>, spec: &Value, old: &Value) {
    let had = old.items("schedulingGates");
    let list = path.child("schedulingGates");
    for (index, gate) in spec.items("schedulingGates").iter().enumerate() {
        if !had.contains(gate) {
            errors.forbidden(
                &list.index(index),
                "only deletion is allowed, but found new scheduling gate '".to_owned() + gate.text("name") + "'",
            );
        }
    }
    if had.is_empty() {
        return;
    }
    // Gated pods may be narrowed, never widened.
    let selector = |spec: &Value| spec.map("nodeSelector").cloned().unwrap_or_default();
    let new = selector(spec);
    if selector(old).iter().any(|(key, value)| new.get(key) != Some(value)) {
        errors.invalid(
            &path.child("nodeSelector"),
            Value::Object(new),
            "only additions are allowed, and a non-empty `nodeSelector` may not lose entries",
        );
    }
}

/// The `status` view.
pub(crate) fn validate_status(_: &RequestContext, pod: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("status");
    let nominated = pod.str_at(&["status", "nominatedNodeName"]);
    if !nominated.is_empty() && nominated != old.str_at(&["status", "nominatedNodeName"]) {
        errors.mistakes(&path.child("nominatedNodeName"), nominated, names::is_dns1123_subdomain(nominated));
    }
    if pod.at(&["spec", "nodeName"]) != old.at(&["spec", "nodeName"]) {
        errors.forbidden(&path.child("nodeName"), "may not be changed directly");
    }
    let class = old.str_at(&["status", "qosClass"]);
    if !class.is_empty() && pod.str_at(&["status", "qosClass"]) != class {
        errors.invalid(&path.child("qosClass"), shown(pod.at(&["status", "qosClass"])), check::IMMUTABLE);
    }
    addresses(&mut errors, pod, old, "podIPs");
    if let Some(first) = pod.items_at(&["status", "hostIPs"]).first() {
        let ip = first.text("ip");
        if pod.str_at(&["status", "hostIP"]) != ip {
            let path = path.child("hostIPs");
            errors.invalid(&path.index(0).child("ip"), ip, "must be equal to `hostIP`");
        }
        addresses(&mut errors, pod, old, "hostIPs");
    }
    let restarts = old.str_at(&["spec", "restartPolicy"]);
    let rules = pod.items_at(&["spec", "containers"]).iter().any(|container| container.has("restartPolicyRules"));
    let field = "containerStatuses";
    let list_path = path.child(field);
    for (index, status) in pod.items_at(&["status", field]).iter().enumerate() {
        let before = old.items_at(&["status", field]).iter().find(|other| other.text("name") == status.text("name"));
        let Some(before) =
            before.and_then(|before| before.at(&["state", "terminated"])).filter(|state| !state.is_null())
        else {
            continue;
        };
        let ended_for_good = restarts == "Never" || (restarts == "OnFailure" && before.int("exitCode") == Some(0));
        let now_terminated = status.at(&["state", "terminated"]).is_some_and(|state| !state.is_null());
        if ended_for_good && !now_terminated && !rules {
            errors.forbidden(&list_path.index(index).child("state"), "may not be transitioned to non-terminated state");
        }
    }
    errors
}

/// `validatePodIPs`, `validateHostIPs`: at most one address of a family. Addresses that were there stay allowed.
fn addresses(errors: &mut ErrorList, pod: &Value, old: &Value, field: &str) {
    let path = FieldPath::new("status");
    let path = path.child(field);
    let of = |pod: &Value| -> Vec<String> {
        pod.items_at(&["status", field]).iter().map(|item| item.text("ip").to_owned()).collect()
    };
    let (found, before) = (of(pod), of(old));
    for (index, ip) in found.iter().enumerate().filter(|(_, ip)| !before.contains(ip)) {
        errors.mistakes(&path.index(index), ip, names::is_valid_ip(ip, true));
    }
    if found.len() < 2 {
        return;
    }
    let families: Vec<bool> =
        found.iter().filter_map(|ip| names::parse_ip_sloppy(ip)).map(|address| address.is_ipv6()).collect();
    if found.len() > 2 || !(families.contains(&true) && families.contains(&false)) {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid(&path, shown(pod.at(&["status", field])), detail);
    }
    for (index, ip) in found.iter().enumerate().filter(|(index, ip)| found[..*index].contains(ip)) {
        errors.duplicate(&path.index(index), ip.as_str());
    }
}

/// The `ephemeralcontainers` view: containers are added, never changed or removed.
pub(crate) fn validate_ephemeral_containers(_: &RequestContext, pod: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("spec");
    let empty = Value::Object(skiff_machinery::Map::new());
    let spec = pod.get("spec").unwrap_or(&empty);
    let list = path.child("ephemeralContainers");
    let volume_names = volumes::names_of(spec);
    let mut seen: Vec<&str> = Vec::new();
    for (index, container) in spec.items("ephemeralContainers").iter().enumerate() {
        let path = list.index(index);
        containers::container(&mut errors, &path, container, &volume_names, Role::Ephemeral, spec);
        let name = container.text("name");
        let others = spec.items("containers").iter().chain(spec.items("initContainers"));
        if seen.contains(&name) || others.map(|other| other.text("name")).any(|other| other == name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        let target = container.text("targetContainerName");
        if !target.is_empty()
            && !spec
                .items("containers")
                .iter()
                .chain(spec.items("initContainers"))
                .any(|other| other.text("name") == target)
        {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
    }
    for before in old.items_at(&["spec", "ephemeralContainers"]) {
        let name = before.text("name");
        match spec.items("ephemeralContainers").iter().find(|container| container.text("name") == name) {
            None => errors.forbidden(&list, format!("existing ephemeral containers \"{name}\" may not be removed\n")),
            Some(now) if now != before => {
                errors.forbidden(&list, format!("existing ephemeral containers \"{name}\" may not be changed\n"))
            }
            Some(_) => {}
        }
    }
    errors
}

/// The `resize` view.
pub(crate) fn validate_resize(_: &RequestContext, pod: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = FieldPath::new("spec");
    if old.at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() {
        errors.forbidden(&FieldPath::ROOT, "static pods cannot be resized");
    }
    let empty = Value::Object(skiff_machinery::Map::new());
    let (spec, old_spec) = (pod.get("spec").unwrap_or(&empty), old.get("spec").unwrap_or(&empty));
    for list in ["containers", "initContainers"] {
        let list_path = path.child(list);
        for (index, (container, before)) in spec.items(list).iter().zip(old_spec.items(list)).enumerate() {
            let container_path = list_path.index(index);
            let path = container_path.child("resources");
            if container.get("resources") == before.get("resources") {
                continue;
            }
            containers::resources(&mut errors, &path, container.get("resources"));
            for (kind, text) in
                [("limits", "resource limits cannot be removed"), ("requests", "resource requests cannot be removed")]
            {
                let now = container.object_at(&["resources", kind]).cloned().unwrap_or_default();
                let had = before.object_at(&["resources", kind]).cloned().unwrap_or_default();
                if had.keys().any(|name| !now.contains_key(name)) {
                    errors.forbidden(&path.child(kind), text);
                }
                let moved = now
                    .iter()
                    .any(|(name, value)| !matches!(name.as_str(), "cpu" | "memory") && had.get(name) != Some(value));
                if moved {
                    errors.forbidden(&path, "only cpu and memory resources are mutable");
                }
            }
        }
    }
    if super::resources::quality_of_service(spec) != super::resources::quality_of_service(old_spec) {
        errors.invalid(
            &path,
            super::resources::quality_of_service(spec),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    errors
}
