//! The checks of the Pod Security Standards: what each finds in a pod, in upstream's words.
//!
//! Mirrors `k8s.io/pod-security-admission/policy/check_*.go`; a check that changed says from which minor version on.

use super::level::{Level, Standard};
use crate::kinds::tree::Tree;
use skiff_machinery::error::quote;
use skiff_machinery::{Map, Value};
use std::collections::BTreeSet;

/// A pod, or what a controller makes pods from.
pub(super) struct Subject<'a> {
    /// Of the pod or template.
    pub(super) annotations: Option<&'a Map>,
    pub(super) spec: &'a Value,
    /// Whose checks.
    minor: u32,
}

type Check = fn(&Subject<'_>) -> Option<String>;

/// Made at `baseline`, and at `restricted` unless a stricter one stands there.
const BASELINE: &[(&str, Check)] = &[
    ("appArmorProfile", app_armor),
    ("capabilities_baseline", capabilities_baseline),
    ("hostNamespaces", host_namespaces),
    ("hostPathVolumes", host_path_volumes),
    ("hostPorts", host_ports),
    ("hostProbesAndHostLifecycle", host_probes),
    ("privileged", privileged),
    ("procMount", proc_mount_baseline),
    ("seLinuxOptions", se_linux),
    ("seccompProfile_baseline", seccomp_baseline),
    ("sysctls", sysctls),
    ("windowsHostProcess", windows_host_process),
];

/// Made at `restricted`: from which version on, and which check of the baseline it stands for from then on.
const RESTRICTED: &[(u32, &str, Check)] = &[
    (8, "", allow_privilege_escalation),
    (22, "capabilities_baseline", capabilities_restricted),
    (35, "procMount", proc_mount),
    (0, "hostPathVolumes", restricted_volumes),
    (0, "", run_as_non_root),
    (23, "", run_as_user),
    (19, "seccompProfile_baseline", seccomp_restricted),
];

/// What is wrong with a pod by a standard; nothing when it is in order.
pub(super) fn violations(annotations: Option<&Map>, spec: &Value, standard: Standard) -> Vec<String> {
    let subject = Subject { annotations, spec, minor: standard.minor() };
    let strict = || RESTRICTED.iter().filter(|(since, _, _)| subject.minor >= *since);
    match standard.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => BASELINE.iter().filter_map(|(_, check)| check(&subject)).collect(),
        Level::Restricted => {
            let stands = |(name, _): &&(&str, Check)| !strict().any(|(_, instead, _)| instead == name);
            let baseline = BASELINE.iter().filter(stands).filter_map(|(_, check)| check(&subject));
            baseline.chain(strict().filter_map(|(_, _, check)| check(&subject))).collect()
        }
    }
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| quote(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `containers "a", "b"`.
fn called(one: &str, many: &str, names: &[&str]) -> String {
    format!("{} {}", plural(one, many, names.len()), quoted(names))
}

fn finding(reason: &str, detail: impl AsRef<str>) -> Option<String> {
    Some(format!("{reason} ({})", detail.as_ref()))
}

impl<'a> Subject<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|field| spec.items(field))
    }

    /// Names of the containers for which something holds.
    fn named(&self, holds: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|container| holds(container)).map(|container| container.text("name")).collect()
    }

    fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations?.get(key)?.as_str()
    }

    fn is_windows(&self) -> bool {
        self.minor >= 25 && self.spec.str_at(&["os", "name"]) == "windows"
    }

    /// `pod` and `container "a"` for whom a field of the security context is bad.
    fn setters(&self, path: &[&str], bad: impl Fn(&Value) -> bool) -> Vec<String> {
        let at = |holder: &Value| {
            let context = holder.get("securityContext")?;
            context.at(path).map(&bad)
        };
        let mut out = Vec::new();
        if at(self.spec) == Some(true) {
            out.push("pod".to_owned());
        }
        let names = self.named(|container| at(container) == Some(true));
        if !names.is_empty() {
            out.push(called("container", "containers", &names));
        }
        out
    }
}

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

fn app_armor(subject: &Subject<'_>) -> Option<String> {
    let bad = |value: &Value| !matches!(value.as_str(), Some("RuntimeDefault" | "Localhost"));
    let mut values = BTreeSet::new();
    let mut setters = subject.setters(&["appArmorProfile", "type"], bad);
    let holders = [subject.spec].into_iter().chain(subject.containers());
    for value in holders.filter_map(|holder| holder.at(&["securityContext", "appArmorProfile", "type"])) {
        if bad(value) {
            values.insert(value.as_str().unwrap_or_default().to_owned());
        }
    }
    let mut values: Vec<String> = values.into_iter().collect();
    let annotations = subject.annotations.into_iter().flat_map(Map::iter).filter_map(|(key, value)| {
        let text = value.as_str()?;
        let allowed = text.is_empty() || text == "runtime/default" || text.starts_with("localhost/");
        (key.starts_with(APP_ARMOR) && !allowed).then(|| format!("{key}={}", quote(text)))
    });
    let annotations: Vec<String> = annotations.collect();
    if !annotations.is_empty() {
        setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    let detail = format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(values));
    finding(reason, detail)
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn added<'a>(container: &'a Value, allowed: &[&str]) -> Vec<&'a str> {
    let added = container.items_at(&["securityContext", "capabilities", "add"]).iter().filter_map(Value::as_str);
    added.filter(|capability| !allowed.contains(capability)).collect()
}

/// Containers that add more, and what.
fn excess<'a>(subject: &Subject<'a>, allowed: &[&str]) -> Option<String> {
    let names = subject.named(|container| !added(container, allowed).is_empty());
    let all: BTreeSet<&str> = subject.containers().flat_map(|container| added(container, allowed)).collect();
    let containers = called("container", "containers", &names);
    (!names.is_empty())
        .then(|| format!("{containers} must not include {} in securityContext.capabilities.add", quoted(all)))
}

fn capabilities_baseline(subject: &Subject<'_>) -> Option<String> {
    finding("non-default capabilities", excess(subject, &CAPABILITIES)?)
}

fn capabilities_restricted(subject: &Subject<'_>) -> Option<String> {
    if subject.is_windows() {
        return None;
    }
    let drops_all = |container: &Value| {
        let dropped = container.items_at(&["securityContext", "capabilities", "drop"]);
        dropped.iter().any(|capability| capability.as_str() == Some("ALL"))
    };
    let mut details = Vec::new();
    let names = subject.named(|container| !drops_all(container));
    if !names.is_empty() {
        let containers = called("container", "containers", &names);
        details.push(format!("{containers} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    details.extend(excess(subject, &["NET_BIND_SERVICE"]));
    if details.is_empty() { None } else { finding("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(subject: &Subject<'_>) -> Option<String> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| subject.spec.flag(field));
    let set: Vec<String> = set.map(|field| format!("{field}=true")).collect();
    if set.is_empty() { None } else { finding("host namespaces", set.join(", ")) }
}

fn host_path_volumes(subject: &Subject<'_>) -> Option<String> {
    let volumes = subject
        .spec
        .items("volumes")
        .iter()
        .filter(|volume| volume.at(&["hostPath"]).is_some_and(|source| !source.is_null()));
    let names: Vec<&str> = volumes.map(|volume| volume.text("name")).collect();
    if names.is_empty() { None } else { finding("hostPath volumes", called("volume", "volumes", &names)) }
}

fn host_ports(subject: &Subject<'_>) -> Option<String> {
    let ports = |container: &Value| -> Vec<i64> {
        let ports = container.items("ports").iter().filter_map(|port| port.int("hostPort"));
        ports.filter(|port| *port != 0).collect()
    };
    let names = subject.named(|container| !ports(container).is_empty());
    let all: BTreeSet<String> = subject.containers().flat_map(ports).map(|port| port.to_string()).collect();
    if names.is_empty() {
        return None;
    }
    let containers = called("container", "containers", &names);
    let (uses, word) = (plural("uses", "use", names.len()), plural("hostPort", "hostPorts", all.len()));
    let all: Vec<String> = all.into_iter().collect();
    finding("hostPort", format!("{containers} {uses} {word} {}", all.join(", ")))
}

fn host_probes(subject: &Subject<'_>) -> Option<String> {
    if subject.minor < 34 {
        return None;
    }
    let hosts = |container: &Value| -> Vec<String> {
        let probes =
            ["livenessProbe", "readinessProbe", "startupProbe"].into_iter().filter_map(|probe| container.get(probe));
        let hooks = ["postStart", "preStop"].into_iter().filter_map(|hook| container.at(&["lifecycle", hook]));
        let handlers = probes.chain(hooks);
        let hosts = handlers.flat_map(|handler| ["httpGet", "tcpSocket"].map(|kind| handler.str_at(&[kind, "host"])));
        hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let mut names = subject.named(|container| !hosts(container).is_empty());
    names.sort_unstable();
    let all: BTreeSet<String> = subject.containers().flat_map(hosts).collect();
    if names.is_empty() {
        return None;
    }
    let containers = called("container", "containers", &names);
    let uses = plural("uses", "use", names.len());
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", all.len());
    finding("probe or lifecycle host", format!("{containers} {uses} {word} {}", quoted(all)))
}

fn privileged(subject: &Subject<'_>) -> Option<String> {
    let on =
        |container: &Value| container.at(&["securityContext", "privileged"]).and_then(Value::as_bool) == Some(true);
    let names = subject.named(on);
    if names.is_empty() {
        return None;
    }
    let containers = called("container", "containers", &names);
    finding("privileged", format!("{containers} must not set securityContext.privileged=true"))
}

/// In a user namespace of its own a pod may see all of its `/proc`.
fn proc_mount_baseline(subject: &Subject<'_>) -> Option<String> {
    let own_users = subject.spec.get("hostUsers").and_then(Value::as_bool) == Some(false);
    if subject.minor >= 35 && own_users { None } else { proc_mount(subject) }
}

fn proc_mount(subject: &Subject<'_>) -> Option<String> {
    let of = |container: &Value| {
        let mount = container.at(&["securityContext", "procMount"]).and_then(Value::as_str);
        mount.filter(|mount| *mount != "Default").map(str::to_owned)
    };
    let names = subject.named(|container| of(container).is_some());
    let all: BTreeSet<String> = subject.containers().filter_map(of).collect();
    if names.is_empty() {
        return None;
    }
    let containers = called("container", "containers", &names);
    finding("procMount", format!("{containers} must not set securityContext.procMount to {}", quoted(all)))
}

fn se_linux(subject: &Subject<'_>) -> Option<String> {
    let mut allowed = vec!["", "container_t", "container_init_t", "container_kvm_t"];
    if subject.minor >= 31 {
        allowed.push("container_engine_t");
    }
    let has = |options: &Value, field: &str| !options.text(field).is_empty();
    let bad =
        |options: &Value| !allowed.contains(&options.text("type")) || has(options, "user") || has(options, "role");
    let setters = subject.setters(&["seLinuxOptions"], bad);
    if setters.is_empty() {
        return None;
    }
    let holders = [subject.spec].into_iter().chain(subject.containers());
    let all: Vec<&Value> = holders.filter_map(|holder| holder.at(&["securityContext", "seLinuxOptions"])).collect();
    let types: BTreeSet<&str> =
        all.iter().map(|options| options.text("type")).filter(|ty| !allowed.contains(ty)).collect();
    let mut details = Vec::new();
    if !types.is_empty() {
        details.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|options| has(options, field)) {
            details.push(format!("{field} may not be set"));
        }
    }
    let who = setters.join(" and ");
    finding("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", details.join("; ")))
}

/// Before there was a field: `seccomp.security.alpha.kubernetes.io/pod`, `container.seccomp.../NAME`.
fn seccomp_annotations(subject: &Subject<'_>) -> Option<String> {
    let allowed =
        |text: &str| matches!(text, "" | "runtime/default" | "docker/default") || text.starts_with("localhost/");
    let pod = "seccomp.security.alpha.kubernetes.io/pod".to_owned();
    let names = subject.containers().map(|container| container.text("name"));
    let keys = names.map(|name| format!("container.seccomp.security.alpha.kubernetes.io/{name}"));
    let bad: Vec<String> = [pod]
        .into_iter()
        .chain(keys)
        .filter_map(|key| {
            let text = subject.annotation(&key).filter(|text| !allowed(text))?;
            Some(format!("{key}={}", quote(text)))
        })
        .collect();
    let word = plural("annotation", "annotations", bad.len());
    if bad.is_empty() { None } else { finding("seccompProfile", format!("forbidden {word} {}", bad.join(", "))) }
}

/// Who sets a bad profile, and which.
fn bad_profiles(subject: &Subject<'_>) -> Option<String> {
    let bad = |ty: &Value| !matches!(ty.as_str(), Some("RuntimeDefault" | "Localhost"));
    let setters = subject.setters(&["seccompProfile", "type"], bad);
    let holders = [subject.spec].into_iter().chain(subject.containers());
    let types = holders.filter_map(|holder| holder.at(&["securityContext", "seccompProfile", "type"]));
    let values: BTreeSet<&str> = types.filter(|ty| bad(ty)).filter_map(Value::as_str).collect();
    let who = setters.join(" and ");
    (!setters.is_empty())
        .then(|| format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values)))
}

fn seccomp_baseline(subject: &Subject<'_>) -> Option<String> {
    if subject.minor < 19 {
        return seccomp_annotations(subject);
    }
    finding("seccompProfile", bad_profiles(subject)?)
}

fn seccomp_restricted(subject: &Subject<'_>) -> Option<String> {
    if subject.is_windows() {
        return None;
    }
    if let Some(detail) = bad_profiles(subject) {
        return finding("seccompProfile", detail);
    }
    let path = ["securityContext", "seccompProfile", "type"];
    if subject.spec.at(&path).is_some() {
        return None;
    }
    let names = subject.named(|container| container.at(&path).is_none());
    if names.is_empty() {
        return None;
    }
    let who = called("container", "containers", &names);
    let detail =
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"");
    finding("seccompProfile", detail)
}

/// From which version on a sysctl is allowed.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(subject: &Subject<'_>) -> Option<String> {
    let set = subject.spec.items_at(&["securityContext", "sysctls"]).iter().map(|sysctl| sysctl.text("name"));
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && subject.minor >= *since);
    let bad: Vec<&str> = set.filter(|name| !allowed(name)).collect();
    if bad.is_empty() { None } else { finding("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(subject: &Subject<'_>) -> Option<String> {
    let setters = subject.setters(&["windowsOptions", "hostProcess"], |value| value.as_bool() == Some(true));
    let who = setters.join(" and ");
    if setters.is_empty() {
        return None;
    }
    finding("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn allow_privilege_escalation(subject: &Subject<'_>) -> Option<String> {
    if subject.is_windows() {
        return None;
    }
    let off = |container: &Value| {
        container.at(&["securityContext", "allowPrivilegeEscalation"]).and_then(Value::as_bool) == Some(false)
    };
    let names = subject.named(|container| !off(container));
    if names.is_empty() {
        return None;
    }
    let who = called("container", "containers", &names);
    let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
    finding("allowPrivilegeEscalation != false", detail)
}

const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

fn restricted_volumes(subject: &Subject<'_>) -> Option<String> {
    let (mut names, mut types) = (Vec::new(), BTreeSet::new());
    for volume in subject.spec.items("volumes") {
        let mut sources = volume.as_object().into_iter().flat_map(Map::iter);
        let source = sources.find(|(key, value)| key.as_str() != "name" && !value.is_null());
        // Without a source it is an `emptyDir`.
        let source = source.map_or("emptyDir", |(key, _)| key.as_str());
        if !VOLUMES.contains(&source) {
            names.push(volume.text("name"));
            types.insert(source);
        }
    }
    if names.is_empty() {
        return None;
    }
    let volumes = called("volume", "volumes", &names);
    let uses = plural("uses", "use", names.len());
    let word = plural("restricted volume type", "restricted volume types", types.len());
    finding("restricted volume types", format!("{volumes} {uses} {word} {}", quoted(types)))
}

fn run_as_non_root(subject: &Subject<'_>) -> Option<String> {
    let path = ["securityContext", "runAsNonRoot"];
    let of = |holder: &Value| holder.at(&path).and_then(Value::as_bool);
    let bad = subject.setters(&path[1..], |value| value.as_bool() == Some(false));
    if !bad.is_empty() {
        let detail = format!("{} must not set securityContext.runAsNonRoot=false", bad.join(" and "));
        return finding("runAsNonRoot != true", detail);
    }
    if of(subject.spec) == Some(true) {
        return None;
    }
    let names = subject.named(|container| of(container).is_none());
    if names.is_empty() {
        return None;
    }
    let who = called("container", "containers", &names);
    finding("runAsNonRoot != true", format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

fn run_as_user(subject: &Subject<'_>) -> Option<String> {
    let bad = subject.setters(&["runAsUser"], |value| value.as_int() == Some(0));
    if bad.is_empty() {
        None
    } else {
        finding("runAsUser=0", format!("{} must not set runAsUser=0", bad.join(" and ")))
    }
}
