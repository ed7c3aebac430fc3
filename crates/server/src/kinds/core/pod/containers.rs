//! What is wrong with a container (`validateContainers`, `validateInitContainers`, `validateEphemeralContainers`,
//! pkg/apis/core/validation/validation.go).

use super::resources::amount;
use crate::kinds::check::{self, Report, each, shown};
use crate::kinds::tree::Tree;
use skiff_machinery::names;
use skiff_machinery::{ErrorList, FieldError, FieldPath, Value};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Which list a container stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Init,
    Ephemeral,
}

/// Checks one container. `volumes`: names of the pod's volumes.
pub(super) fn container(
    errors: &mut ErrorList,
    path: &FieldPath<'_>,
    container: &Value,
    volumes: &[&str],
    role: Role,
    spec: &Value,
) {
    let sidecar = container.text("restartPolicy") == "Always";
    let name = container.text("name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        check::label(errors, &path.child("name"), name);
    }
    let image = container.text("image");
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    errors.one_of(
        &path.child("terminationMessagePolicy"),
        container.text("terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
    );
    errors.one_of(
        &path.child("imagePullPolicy"),
        container.text("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    if role == Role::Ephemeral {
        ephemeral_rules(errors, path, container);
    } else {
        ports(errors, path, container, spec.flag("hostNetwork"));
        probes(errors, path, container, role, sidecar);
        resources(errors, &path.child("resources"), container.get("resources"));
        resize_policy(errors, path, container);
        if let Some(policy) = container.field("restartPolicy").and_then(Value::as_str) {
            let supported = ["Always", "Never", "OnFailure"];
            if !supported.contains(&policy) {
                errors.not_supported(&path.child("restartPolicy"), policy, &supported);
            }
        }
    }
    environment(errors, path, container);
    volume_mounts(errors, path, container, volumes);
    security_context(errors, &path.child("securityContext"), container.get("securityContext"));
}

fn ephemeral_rules(errors: &mut ErrorList, path: &FieldPath<'_>, container: &Value) {
    for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"] {
        if container.has_some(field) {
            errors.forbidden(&path.child(field), "cannot be set for an Ephemeral Container");
        }
    }
    if container.has_some("resources") {
        errors.forbidden(&path.child("resources"), "cannot be set for an Ephemeral Container");
    }
    if container.has("restartPolicy") {
        errors.forbidden(&path.child("restartPolicy"), "may not be set for ephemeral containers");
    }
    each(container, "volumeMounts", path, |mount, path| {
        for field in ["subPath", "subPathExpr"] {
            if mount.has_some(field) {
                errors.forbidden(&path.child(field), "cannot be set for an Ephemeral Container");
            }
        }
    });
}

fn ports(errors: &mut ErrorList, path: &FieldPath<'_>, container: &Value, host_network: bool) {
    let mut seen: Vec<&str> = Vec::new();
    let list = path.child("ports");
    for (index, port) in container.items("ports").iter().enumerate() {
        let path = list.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            let mistakes = names::is_valid_port_name(name);
            if !mistakes.is_empty() {
                errors.mistakes(&path.child("name"), name, mistakes);
            } else if seen.contains(&name) {
                errors.duplicate(&path.child("name"), name);
            } else {
                seen.push(name);
            }
        }
        let number = port.int("containerPort").unwrap_or(0);
        if number == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            for mistake in names::is_valid_port_num(number) {
                errors.invalid(&path.child("containerPort"), number, mistake);
            }
        }
        let host = port.int("hostPort").unwrap_or(0);
        if host != 0 {
            for mistake in names::is_valid_port_num(host) {
                errors.invalid(&path.child("hostPort"), host, mistake);
            }
        }
        if host_network && host != number {
            errors.invalid(&path.child("containerPort"), number, "must match `hostPort` when `hostNetwork` is true");
        }
        errors.one_of(&path.child("protocol"), port.text("protocol"), PROTOCOLS);
    }
}

fn probes(errors: &mut ErrorList, path: &FieldPath<'_>, container: &Value, role: Role, sidecar: bool) {
    if role == Role::Init && !sidecar {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.has(field) {
                errors.forbidden(&path.child(field), "may not be set for init containers without restartPolicy=Always");
            }
        }
        return;
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.field(field) else { continue };
        let path = path.child(field);
        handler(errors, &path, probe, true);
        for seconds in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            errors.non_negative(&path.child(seconds), probe.int(seconds));
        }
        if let Some(grace) = probe.int("terminationGracePeriodSeconds") {
            if field == "readinessProbe" {
                errors.invalid(
                    &path.child("terminationGracePeriodSeconds"),
                    grace,
                    "must not be set for readinessProbes",
                );
            } else if grace <= 0 {
                errors.invalid(&path.child("terminationGracePeriodSeconds"), grace, "must be greater than 0");
            }
        }
        let threshold = probe.int("successThreshold").unwrap_or(0);
        if field != "readinessProbe" && threshold != 1 {
            errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
        }
    }
    if let Some(lifecycle) = container.field("lifecycle") {
        let path = path.child("lifecycle");
        for hook in ["postStart", "preStop"] {
            if let Some(action) = lifecycle.field(hook) {
                handler(errors, &path.child(hook), action, false);
            }
        }
    }
}

/// `validateHandler`: exactly one sort of action.
fn handler(errors: &mut ErrorList, path: &FieldPath<'_>, action: &Value, probe: bool) {
    let mut found = 0;
    let kinds: &[&str] =
        if probe { &["exec", "httpGet", "tcpSocket", "grpc"] } else { &["exec", "httpGet", "tcpSocket", "sleep"] };
    for kind in kinds {
        let Some(body) = action.field(kind) else { continue };
        let path = path.child(kind);
        if found > 0 {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        found += 1;
        match *kind {
            "exec" => {
                if body.items("command").is_empty() {
                    errors.required(&path.child("command"), "");
                }
            }
            "httpGet" => {
                if body.text("path").is_empty() {
                    errors.required(&path.child("path"), "");
                }
                check::port_number_or_name(errors, &path.child("port"), body.get("port"));
                if !["HTTP", "HTTPS"].contains(&body.text("scheme")) {
                    errors.not_supported(&path.child("scheme"), body.text("scheme"), &["HTTP", "HTTPS"]);
                }
                each(body, "httpHeaders", &path, |header, path| {
                    let name = header.text("name");
                    errors.mistakes(&path.child("name"), name, names::is_http_header_name(name));
                });
            }
            "tcpSocket" => check::port_number_or_name(errors, &path.child("port"), body.get("port")),
            "grpc" => {
                let port = body.int("port").unwrap_or(0);
                for mistake in names::is_valid_port_num(port) {
                    errors.invalid(&path.child("port"), port, mistake);
                }
            }
            _ => {
                if body.int("seconds").unwrap_or(0) < 0 {
                    errors.invalid(&path, body.int("seconds").unwrap_or(0), "must be non-negative");
                }
            }
        }
    }
    if found == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn environment(errors: &mut ErrorList, path: &FieldPath<'_>, container: &Value) {
    each(container, "env", path, |variable, path| {
        let name = variable.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.mistakes(&path.child("name"), name, names::is_relaxed_env_var_name(name));
        }
        if let Some(source) = variable.field("valueFrom") {
            value_from(errors, &path.child("valueFrom"), source, !variable.text("value").is_empty());
        }
    });
    each(container, "envFrom", path, |source, path| {
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            errors.mistakes(&path.child("prefix"), prefix, names::is_relaxed_env_var_name(prefix));
        }
        let mut found = 0;
        for kind in ["configMapRef", "secretRef"] {
            let Some(reference) = source.field(kind) else { continue };
            found += 1;
            if reference.text("name").is_empty() {
                errors.required(&path.child(kind).child("name"), "");
            }
        }
        match found {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    });
}

fn value_from(errors: &mut ErrorList, path: &FieldPath<'_>, source: &Value, has_value: bool) {
    let mut found = 0;
    if let Some(reference) = source.field("fieldRef") {
        found += 1;
        const ENV_FIELDS: &[&str] = &[
            "metadata.name",
            "metadata.namespace",
            "metadata.uid",
            "spec.nodeName",
            "spec.serviceAccountName",
            "status.hostIP",
            "status.hostIPs",
            "status.podIP",
            "status.podIPs",
        ];
        field_ref(errors, &path.child("fieldRef"), reference, ENV_FIELDS, true);
    }
    if let Some(reference) = source.field("resourceFieldRef") {
        found += 1;
        resource_field_ref(errors, &path.child("resourceFieldRef"), reference, false);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let Some(reference) = source.field(kind) else { continue };
        found += 1;
        let path = path.child(kind);
        if reference.text("name").is_empty() {
            errors.required(&path.child("name"), "");
        }
        let key = reference.text("key");
        if key.is_empty() {
            errors.required(&path.child("key"), "");
        } else {
            errors.mistakes(&path.child("key"), key, names::is_config_map_key(key));
        }
    }
    if source.has("fileKeyRef") {
        found += 1;
    }
    if found == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", detail);
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if found > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// Fields of a pod that downward references may name at all (`ConvertDownwardAPIFieldLabel`).
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// `validateObjectFieldSelector`; `subscripts`: `metadata.labels['KEY']` too.
pub(super) fn field_ref(
    errors: &mut ErrorList,
    path: &FieldPath<'_>,
    reference: &Value,
    fields: &[&str],
    subscripts: bool,
) {
    if reference.text("apiVersion").is_empty() {
        return errors.required(&path.child("apiVersion"), "");
    }
    let field = reference.text("fieldPath");
    if field.is_empty() {
        return errors.required(&path.child("fieldPath"), "");
    }
    let path = path.child("fieldPath");
    if let Some((base, key)) = field.strip_suffix("']").and_then(|text| text.split_once("['")) {
        match base {
            "metadata.annotations" if subscripts => {
                errors.mistakes(&path, key, names::is_qualified_name(&key.to_lowercase()))
            }
            "metadata.labels" if subscripts => errors.mistakes(&path, key, names::is_qualified_name(key)),
            _ => errors.invalid(&path, base, "does not support subscript"),
        }
    } else if !KNOWN_FIELDS.contains(&field) {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.invalid(&path, field, detail);
    } else if !fields.contains(&field) {
        errors.not_supported(&path, field, fields);
    }
}

/// `validateContainerResourceFieldSelector`.
pub(super) fn resource_field_ref(errors: &mut ErrorList, path: &FieldPath<'_>, reference: &Value, volume: bool) {
    const RESOURCES: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let resource = reference.text("resource");
    if volume && reference.text("containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errors.not_supported(&path.child("resource"), resource, RESOURCES);
    }
    let divisor = reference.get("divisor").map(|divisor| match divisor {
        Value::String(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    });
    let (allowed, detail): (&[&str], &str) = if resource.ends_with(".cpu") {
        (&["0", "1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource")
    } else {
        (
            &["0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"],
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
        )
    };
    if let Some(divisor) = divisor.filter(|divisor| !divisor.is_empty() && !allowed.contains(&divisor.as_str())) {
        errors.invalid(&path.child("divisor"), divisor, detail);
    }
}

fn volume_mounts(errors: &mut ErrorList, path: &FieldPath<'_>, container: &Value, volumes: &[&str]) {
    let privileged = container.at(&["securityContext", "privileged"]).and_then(Value::as_bool) == Some(true);
    let mut seen: Vec<&str> = Vec::new();
    let list = path.child("volumeMounts");
    for (index, mount) in container.items("volumeMounts").iter().enumerate() {
        let path = list.index(index);
        let name = mount.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !volumes.contains(&name) {
            errors.push(FieldError::not_found(&path.child("name"), name));
        }
        let target = mount.text("mountPath");
        if target.is_empty() {
            errors.required(&path.child("mountPath"), "");
        } else if seen.contains(&target) {
            errors.invalid(&path.child("mountPath"), target, "must be unique");
        }
        seen.push(target);
        let (sub_path, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
        if !sub_path.is_empty() {
            local_descending_path(errors, &path.child("subPath"), sub_path);
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                errors.invalid(
                    &path.child("subPathExpr"),
                    expression,
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            local_descending_path(errors, &path.child("subPathExpr"), expression);
        }
        match mount.text("mountPropagation") {
            "" | "HostToContainer" | "None" => {}
            "Bidirectional" if privileged => {}
            "Bidirectional" => errors.forbidden(
                &path.child("mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            ),
            other => errors.not_supported(
                &path.child("mountPropagation"),
                other,
                &["Bidirectional", "HostToContainer", "None"],
            ),
        }
        let recursive = mount.text("recursiveReadOnly");
        if !recursive.is_empty() && !["Disabled", "Enabled", "IfPossible"].contains(&recursive) {
            errors.not_supported(&path.child("recursiveReadOnly"), recursive, &["Disabled", "Enabled", "IfPossible"]);
        } else if matches!(recursive, "Enabled" | "IfPossible") && !mount.flag("readOnly") {
            errors.forbidden(&path.child("recursiveReadOnly"), "may only be specified when readOnly is true");
        }
    }
    each(container, "volumeDevices", path, |device, path| {
        let name = device.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !volumes.contains(&name) {
            errors.push(FieldError::not_found(&path.child("name"), name));
        }
        if device.text("devicePath").is_empty() {
            errors.required(&path.child("devicePath"), "");
        }
    });
}

/// `validateLocalDescendingPath`: nothing that leads out of where it starts.
pub(super) fn local_descending_path(errors: &mut ErrorList, path: &FieldPath<'_>, target: &str) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    no_backsteps(errors, path, target);
}

/// `validatePathNoBacksteps`.
pub(super) fn no_backsteps(errors: &mut ErrorList, path: &FieldPath<'_>, target: &str) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// `ValidateContainerResourceRequirements`.
pub(super) fn resources(errors: &mut ErrorList, path: &FieldPath<'_>, resources: Option<&Value>) {
    let Some(resources) = resources else { return };
    for list in ["limits", "requests"] {
        let path = path.child(list);
        for (name, value) in resources.map(list).into_iter().flat_map(|map| map.iter()) {
            resource_entry(errors, &path.key(name), name, value);
        }
    }
    let limits_path = path.child("limits");
    let requests_path = path.child("requests");
    for (name, value) in resources.map("requests").into_iter().flat_map(|map| map.iter()) {
        let overcommit = !is_extended(name) && !name.starts_with("hugepages-");
        let Some(request) = amount(value) else { continue };
        match resources.at(&["limits", name]).and_then(|limit| Some((limit, amount(limit)?))) {
            Some((shown, limit)) => {
                let text = crate::kinds::check::quantity_text(shown);
                if !overcommit && request != limit {
                    let detail = format!("must be equal to {name} limit of {text}");
                    errors.invalid(&requests_path, check::quantity_text(value), detail);
                } else if overcommit && request > limit {
                    let detail = format!("must be less than or equal to {name} limit of {text}");
                    errors.invalid(&requests_path, check::quantity_text(value), detail);
                }
            }
            None if !overcommit => errors.required(&limits_path, "Limit must be set for non overcommitable resources"),
            None => {}
        }
    }
}

/// One amount of one resource.
pub(crate) fn resource_entry(errors: &mut ErrorList, path: &FieldPath<'_>, name: &str, value: &Value) {
    resource_name(errors, path, name);
    quantity(errors, path, name, value);
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

fn resource_name(errors: &mut ErrorList, path: &FieldPath<'_>, name: &str) {
    let mistakes = names::is_qualified_name(name);
    if !mistakes.is_empty() {
        return errors.mistakes(path, name, mistakes);
    }
    if !name.contains('/') {
        let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
        if !standard {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_extended(name) && !name.contains("kubernetes.io/") {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// `ValidateResourceQuantityValue`.
pub(crate) fn quantity(errors: &mut ErrorList, path: &FieldPath<'_>, name: &str, value: &Value) {
    let Some(found) = amount(value) else {
        return errors.invalid(path, shown(Some(value)), "must be a quantity");
    };
    if found.sign() < 0 {
        errors.invalid(path, check::quantity_text(value), check::NON_NEGATIVE);
    }
    let whole = is_extended(name) || name.starts_with("hugepages-") || matches!(name, "pods" | "services" | "secrets");
    if whole && found.as_int().is_none() && found.milli_value() % 1000 != 0 {
        errors.invalid(path, check::quantity_text(value), "must be an integer");
    }
}

fn resize_policy(errors: &mut ErrorList, path: &FieldPath<'_>, container: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    let list = path.child("resizePolicy");
    for (index, policy) in container.items("resizePolicy").iter().enumerate() {
        let path = list.index(index);
        let name = policy.text("resourceName");
        if seen.contains(&name) {
            errors.duplicate(&path, name);
        }
        seen.push(name);
        if !["cpu", "memory"].contains(&name) {
            errors.not_supported(&path, name, &["cpu", "memory"]);
        }
        errors.one_of(&path, policy.text("restartPolicy"), &["NotRequired", "RestartContainer"]);
    }
}

/// `ValidateSecurityContext`.
fn security_context(errors: &mut ErrorList, path: &FieldPath<'_>, context: Option<&Value>) {
    let Some(context) = context.filter(|context| !context.is_null()) else { return };
    identity(errors, path, context);
    seccomp_profile(errors, &path.child("seccompProfile"), context.field("seccompProfile"));
    app_armor(errors, &path.child("appArmorProfile"), context.field("appArmorProfile"));
    let mount = context.text("procMount");
    if !mount.is_empty() && !["Default", "Unmasked"].contains(&mount) {
        errors.not_supported(&path.child("procMount"), mount, &["Default", "Unmasked"]);
    }
    if context.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        if context.flag("privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context.clone(), detail);
        }
        let capabilities = context.items_at(&["capabilities", "add"]);
        if capabilities.iter().any(|capability| capability.as_str() == Some("CAP_SYS_ADMIN")) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context.clone(), detail);
        }
    }
}

/// Users and groups, of a container and of a pod.
pub(super) fn identity(errors: &mut ErrorList, path: &FieldPath<'_>, context: &Value) {
    if let Some(user) = context.int("runAsUser") {
        for mistake in names::is_valid_user_id(user) {
            errors.invalid(&path.child("runAsUser"), user, mistake);
        }
    }
    for field in ["runAsGroup", "fsGroup"] {
        if let Some(group) = context.int(field) {
            for mistake in names::is_valid_group_id(group) {
                errors.invalid(&path.child(field), group, mistake);
            }
        }
    }
}

/// `validateSeccompProfileField`. An empty localhost profile is none at all (CVE-2023-2431).
pub(super) fn seccomp_profile(errors: &mut ErrorList, path: &FieldPath<'_>, profile: Option<&Value>) {
    let Some(profile) = profile else { return };
    let kind = profile.text("type");
    let name = profile.field("localhostProfile").and_then(Value::as_str);
    let local = path.child("localhostProfile");
    match (kind, name) {
        ("", _) => return errors.required(&path.child("type"), "type is required when seccompProfile is set"),
        ("Localhost", None | Some("")) => errors.required(&local, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(name)) => local_descending_path(errors, &local, name),
        (_, Some(name)) => errors.invalid(&local, name, "can only be set when seccomp type is Localhost"),
        _ => {}
    }
    let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
    if !supported.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &supported);
    }
}

/// `ValidateAppArmorProfileField`.
pub(super) fn app_armor(errors: &mut ErrorList, path: &FieldPath<'_>, profile: Option<&Value>) {
    let Some(profile) = profile else { return };
    let name = profile.field("localhostProfile").and_then(Value::as_str);
    let local = path.child("localhostProfile");
    match (profile.text("type"), name) {
        ("", _) => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        ("Localhost", None) => errors.required(&local, "must be set when AppArmor type is Localhost"),
        ("Localhost", Some(name)) if name.trim().is_empty() => {
            errors.required(&local, "must be set when AppArmor type is Localhost")
        }
        ("Localhost", Some(name)) if name.trim() != name => {
            errors.invalid(&local, name, "must not be padded with whitespace")
        }
        ("Localhost", _) => {}
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid(&local, name, "can only be set when AppArmor type is Localhost")
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        (other, _) => errors.not_supported(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}
