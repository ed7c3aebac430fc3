//! A pod and its containers in the runtime's words (`kuberuntime_sandbox.go`, `kuberuntime_container_linux.go`,
//! `security_context.go`), pure.

use super::resources::quantity;
use super::spec::{Container, Pod, Qos};
use crate::names;
use skiff_cri::v1;
use skiff_machinery::{Map, Value};
use std::collections::HashMap;

const CPU_PERIOD: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1000;

/// What the node knows that descriptions need.
#[derive(Clone, Debug)]
pub struct Node {
    /// Directory of pod logs: `/var/log/pods`.
    pub log_root: String,
    /// Directory of links to the logs of containers, `/var/log/containers`; `None` for none.
    pub log_links: Option<std::path::PathBuf>,
    /// Root of the pods' cgroups: `/kubepods`.
    pub cgroup_root: String,
    /// Memory of the machine in bytes, for OOM scores.
    pub memory_bytes: i64,
    /// DNS of the cluster.
    pub cluster_dns: Vec<String>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// The host's own DNS.
    pub host_dns: v1::DnsConfig,
}

/// Directory of a pod's logs.
pub fn log_directory(pod: &Pod, root: &str) -> String {
    format!("{root}/{}_{}_{}", pod.namespace(), pod.name(), pod.uid())
}

/// Longest name the kernel takes.
const HOST_NAME_MAX: usize = 64;

/// Hostname of a pod, as its processes see it (`GeneratePodHostNameAndDomain`, `getHostname`), and its domain when it
/// has one. The error is a name that is too long with `setHostnameAsFQDN`.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<(String, String), String> {
    let over = pod.spec("hostnameOverride");
    if !over.is_empty() {
        return Ok((over.to_owned(), String::new()));
    }
    let name = match pod.spec("hostname") {
        "" => pod.name(),
        said => said,
    };
    let short: String = name.chars().take(63).collect();
    let short = short.trim_end_matches(['-', '.']).to_owned();
    let domain = match pod.spec("subdomain") {
        "" => String::new(),
        subdomain => format!("{subdomain}.{}.svc.{cluster_domain}", pod.namespace()),
    };
    if pod.flag("setHostnameAsFQDN") && !domain.is_empty() {
        let full = format!("{short}.{domain}");
        if full.len() > HOST_NAME_MAX {
            return Err(format!(
                "Failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({HOST_NAME_MAX} characters is the max, {} characters requested)",
                full.len()
            ));
        }
    }
    Ok((short, domain))
}

/// What `uname` says in a pod: with `setHostnameAsFQDN` the name with its domain.
fn node_name(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let (short, domain) = hostname(pod, cluster_domain)?;
    Ok(if pod.flag("setHostnameAsFQDN") && !domain.is_empty() { format!("{short}.{domain}") } else { short })
}

fn strings(tree: &Value, path: &[&str]) -> Vec<String> {
    tree.items_at(path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn texts(map: Option<&Map>) -> HashMap<String, String> {
    let entries = map.into_iter().flat_map(Map::iter);
    entries.map(|(key, value)| (key.to_string(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// `/etc/resolv.conf` of a pod (`network/dns/dns.go`).
pub fn dns(pod: &Pod, node: &Node) -> v1::DnsConfig {
    let cluster = || {
        let domain = &node.cluster_domain;
        let mut searches = vec![format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.clone()];
        searches.extend(node.host_dns.searches.iter().cloned());
        v1::DnsConfig { servers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
    };
    let host_network = pod.flag("hostNetwork");
    let mut dns = match pod.spec("dnsPolicy") {
        "None" => v1::DnsConfig::default(),
        "Default" => node.host_dns.clone(),
        "ClusterFirstWithHostNet" => cluster(),
        _ if host_network || node.cluster_dns.is_empty() => node.host_dns.clone(),
        _ => cluster(),
    };
    let Some(extra) = pod.0.at(&["spec", "dnsConfig"]) else { return dns };
    let add = |list: &mut Vec<String>, more: Vec<String>| {
        for item in more {
            if !list.contains(&item) {
                list.push(item);
            }
        }
    };
    add(&mut dns.servers, strings(extra, &["nameservers"]));
    add(&mut dns.searches, strings(extra, &["searches"]));
    for option in extra.items_at(&["options"]) {
        let name = option.str_at(&["name"]);
        let text = match option.get("value").and_then(Value::as_str) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        dns.options.retain(|known| known.split(':').next() != Some(name));
        dns.options.push(text);
    }
    dns
}

fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let mode = |host: bool, otherwise: v1::NamespaceMode| if host { v1::NamespaceMode::Node } else { otherwise }.into();
    let shared = if pod.flag("shareProcessNamespace") { v1::NamespaceMode::Pod } else { v1::NamespaceMode::Container };
    v1::NamespaceOption {
        network: mode(pod.flag("hostNetwork"), v1::NamespaceMode::Pod),
        pid: mode(pod.flag("hostPID"), shared),
        ipc: mode(pod.flag("hostIPC"), v1::NamespaceMode::Pod),
        ..Default::default()
    }
}

fn seccomp(context: &Value) -> Option<v1::SecurityProfile> {
    profile(context.get("seccompProfile")?)
}

fn profile(profile: &Value) -> Option<v1::SecurityProfile> {
    let profile_type = match profile.str_at(&["type"]) {
        "RuntimeDefault" => v1::security_profile::ProfileType::RuntimeDefault,
        "Localhost" => v1::security_profile::ProfileType::Localhost,
        "Unconfined" => v1::security_profile::ProfileType::Unconfined,
        _ => return None,
    };
    let localhost_ref = profile.str_at(&["localhostProfile"]).to_owned();
    Some(v1::SecurityProfile { profile_type: profile_type.into(), localhost_ref })
}

fn int64(tree: &Value, name: &str) -> Option<v1::Int64Value> {
    tree.get(name).and_then(Value::as_int).map(|value| v1::Int64Value { value })
}

fn groups(pod: &Pod) -> Vec<i64> {
    let empty = Value::Null;
    let context = pod.0.at(&["spec", "securityContext"]).unwrap_or(&empty);
    let mut groups: Vec<i64> = context.items_at(&["supplementalGroups"]).iter().filter_map(Value::as_int).collect();
    groups.extend(context.get("fsGroup").and_then(Value::as_int));
    groups
}

/// The pod's sandbox; `attempt` counts sandboxes before it. The error is a name that cannot be given.
pub fn sandbox(pod: &Pod, node: &Node, attempt: u32) -> Result<v1::PodSandboxConfig, String> {
    let empty = Value::Null;
    let context = pod.0.at(&["spec", "securityContext"]).unwrap_or(&empty);
    let host_network = pod.flag("hostNetwork");
    let privileged = pod.containers().any(|container| is_privileged(container.tree));
    let name = node_name(pod, &node.cluster_domain)?;
    let mut labels = texts(pod.0.object_at(&["metadata", "labels"]));
    labels.extend(pod_labels(pod));
    let sysctls = context.items_at(&["sysctls"]).iter();
    let security = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: int64(context, "runAsUser"),
        run_as_group: int64(context, "runAsGroup"),
        supplemental_groups: groups(pod),
        privileged,
        // The sandbox runs nothing of the user's: it is always confined.
        seccomp: Some(v1::SecurityProfile::default()),
        ..Default::default()
    };
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt,
        }),
        hostname: if host_network { String::new() } else { name },
        log_directory: log_directory(pod, &node.log_root),
        dns_config: Some(dns(pod, node)),
        port_mappings: if host_network { Vec::new() } else { port_mappings(pod) },
        labels,
        annotations: texts(pod.0.object_at(&["metadata", "annotations"])),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: crate::cgroups::path(pod, node),
            security_context: Some(security),
            sysctls: sysctls
                .map(|sysctl| (sysctl.str_at(&["name"]).to_owned(), sysctl.str_at(&["value"]).to_owned()))
                .collect(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let number = |port: &Value, name: &str| {
        port.get(name).and_then(Value::as_int).and_then(|number| i32::try_from(number).ok()).unwrap_or(0)
    };
    let ports = pod.containers().flat_map(|container| container.tree.items_at(&["ports"]));
    let mapped = ports.filter(|port| number(port, "hostPort") > 0).map(|port| v1::PortMapping {
        protocol: match port.str_at(&["protocol"]) {
            "UDP" => v1::Protocol::Udp,
            "SCTP" => v1::Protocol::Sctp,
            _ => v1::Protocol::Tcp,
        }
        .into(),
        container_port: number(port, "containerPort"),
        host_port: number(port, "hostPort"),
        host_ip: port.str_at(&["hostIP"]).to_owned(),
    });
    mapped.collect()
}

fn pod_labels(pod: &Pod) -> [(String, String); 3] {
    [
        (names::POD_NAME.to_owned(), pod.name().to_owned()),
        (names::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (names::POD_UID.to_owned(), pod.uid().to_owned()),
    ]
}

pub(crate) fn is_privileged(container: &Value) -> bool {
    container.at(&["securityContext", "privileged"]).and_then(Value::as_bool).unwrap_or(false)
}

/// CPU shares for thousandths of a CPU (`MilliCPUToShares`).
pub fn shares(milli_cpu: i64) -> i64 {
    if milli_cpu == 0 { MIN_SHARES } else { (milli_cpu * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// How readily the kernel ends the container when memory is short (`qos/policy.go`).
fn oom_score(pod: &Pod, container: &Container<'_>, memory_bytes: i64) -> i64 {
    match pod.qos() {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = quantity(container.tree, "requests", "memory").map_or(0, |quantity| quantity.value());
            let score = 1000 - (1000 * request) / memory_bytes.max(1);
            score.clamp(3, 999)
        }
    }
}

/// Limits of a container.
pub fn resources(pod: &Pod, container: &Container<'_>, memory_bytes: i64) -> v1::LinuxContainerResources {
    let limit = quantity(container.tree, "limits", "cpu").map(|quantity| quantity.milli_value());
    let request = quantity(container.tree, "requests", "cpu").map(|quantity| quantity.milli_value());
    let quota = limit.filter(|limit| *limit > 0).map_or(0, |limit| (limit * CPU_PERIOD / 1000).max(MIN_QUOTA));
    v1::LinuxContainerResources {
        cpu_period: CPU_PERIOD,
        cpu_quota: quota,
        cpu_shares: shares(request.or(limit).unwrap_or(0)),
        memory_limit_in_bytes: quantity(container.tree, "limits", "memory").map_or(0, |quantity| quantity.value()),
        oom_score_adj: oom_score(pod, container, memory_bytes),
        ..Default::default()
    }
}

/// Paths under `/proc` and `/sys` that hold what a container must not see or change (the runtimes' common default).
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn security(pod: &Pod, container: &Value, target: Option<String>) -> v1::LinuxContainerSecurityContext {
    let empty = Value::Null;
    let of_pod = pod.0.at(&["spec", "securityContext"]).unwrap_or(&empty);
    let own = container.get("securityContext").unwrap_or(&empty);
    let privileged = is_privileged(container);
    let either = |name: &str| own.get(name).or_else(|| of_pod.get(name)).filter(|value| !value.is_null());
    let id = |name: &str| either(name).and_then(Value::as_int).map(|value| v1::Int64Value { value });
    let flag = |name: &str| own.get(name).and_then(Value::as_bool);
    let unmasked = privileged || own.str_at(&["procMount"]) == "Unmasked";
    let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let strict = of_pod.str_at(&["supplementalGroupsPolicy"]) == "Strict";
    let mut namespaces = namespaces(pod);
    if let Some(target_id) = target {
        namespaces.pid = v1::NamespaceMode::Target.into();
        namespaces.target_id = target_id;
    }
    v1::LinuxContainerSecurityContext {
        capabilities: own.get("capabilities").map(|capabilities| v1::Capability {
            add_capabilities: strings(capabilities, &["add"]),
            drop_capabilities: strings(capabilities, &["drop"]),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces),
        run_as_user: id("runAsUser"),
        run_as_group: id("runAsGroup"),
        readonly_rootfs: flag("readOnlyRootFilesystem").unwrap_or(false),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: if strict {
            v1::SupplementalGroupsPolicy::Strict
        } else {
            v1::SupplementalGroupsPolicy::Merge
        }
        .into(),
        no_new_privs: flag("allowPrivilegeEscalation") == Some(false),
        masked_paths: if unmasked { Vec::new() } else { paths(&MASKED) },
        readonly_paths: if unmasked { Vec::new() } else { paths(&READ_ONLY) },
        // Safer than upstream, which runs unconfined when nothing is said; listed in docs/departures.md.
        seccomp: seccomp(own).or_else(|| seccomp(of_pod)).or_else(|| (!privileged).then(v1::SecurityProfile::default)),
        apparmor: either("appArmorProfile").and_then(profile),
        ..Default::default()
    }
}

/// What a container is made of beside its own spec.
pub struct Parts {
    /// Image as the runtime knows it (its reference after the pull).
    pub image_ref: String,
    /// Environment.
    pub environment: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<v1::Mount>,
    /// Restarts before this one.
    pub restart_count: u32,
    /// Id of the container whose processes it shares (`targetContainerName` of an ephemeral container).
    pub target: Option<String>,
}

/// A container's description.
pub fn container(pod: &Pod, container: &Container<'_>, parts: Parts, node: &Node) -> v1::ContainerConfig {
    let tree = container.tree;
    let lookup = |name: &str| parts.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let expanded =
        |path: &str| strings(tree, &[path]).iter().map(|text| super::env::expand(text, lookup)).collect::<Vec<_>>();
    let name = container.name();
    let mut labels: HashMap<String, String> = pod_labels(pod).into_iter().collect();
    labels.insert(names::CONTAINER_NAME.to_owned(), name.to_owned());
    let message_path = match tree.str_at(&["terminationMessagePath"]) {
        "" => "/dev/termination-log",
        said => said,
    };
    let annotations = [
        (names::CONTAINER_HASH, container.hash()),
        (names::RESTART_COUNT, parts.restart_count.to_string()),
        (names::TERMINATION_MESSAGE_PATH, message_path.to_owned()),
        (names::TERMINATION_MESSAGE_POLICY, tree.str_at(&["terminationMessagePolicy"]).to_owned()),
        (names::POD_GRACE, pod.grace_seconds().to_string()),
    ];
    let flag = |name: &str| tree.get(name).and_then(Value::as_bool).unwrap_or(false);
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: parts.restart_count }),
        image: Some(v1::ImageSpec {
            image: parts.image_ref,
            user_specified_image: tree.str_at(&["image"]).to_owned(),
            ..Default::default()
        }),
        command: expanded("command"),
        args: expanded("args"),
        working_dir: tree.str_at(&["workingDir"]).to_owned(),
        envs: parts
            .environment
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        mounts: parts.mounts,
        labels,
        annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        log_path: format!("{name}/{}.log", parts.restart_count),
        stdin: flag("stdin"),
        stdin_once: flag("stdinOnce"),
        tty: flag("tty"),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(pod, container, node.memory_bytes)),
            security_context: Some(security(pod, tree, parts.target)),
        }),
        stop_signal: stop_signal(tree),
        ..Default::default()
    }
}

/// `lifecycle.stopSignal`: `SIGUSR1` and the like; unknown or absent is the image's own.
fn stop_signal(container: &Value) -> i32 {
    let name = container.str_at(&["lifecycle", "stopSignal"]);
    v1::Signal::from_str_name(name).map_or(0, Into::into)
}

/// Whether a container may run as the user it would run as (`verifyRunAsNonRoot`).
pub fn verify_non_root(
    pod: &Pod,
    container: &Value,
    image_user: Option<i64>,
    image_username: &str,
) -> Result<(), String> {
    let empty = Value::Null;
    let of_pod = pod.0.at(&["spec", "securityContext"]).unwrap_or(&empty);
    let own = container.get("securityContext").unwrap_or(&empty);
    let either = |name: &str| own.get(name).or_else(|| of_pod.get(name)).filter(|value| !value.is_null());
    if either("runAsNonRoot").and_then(Value::as_bool) != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", pod.full_name(), container.str_at(&["name"]));
    if let Some(user) = either("runAsUser").and_then(Value::as_int) {
        // A uid beyond 32 bits would be cut to another one, perhaps root's.
        let root = user <= 0 || user > i64::from(u32::MAX) - 1;
        return if root { Err(format!("container's runAsUser breaks non-root policy {place}")) } else { Ok(()) };
    }
    match (image_user, image_username) {
        (Some(user), _) if user > 0 && user < i64::from(u32::MAX) => Ok(()),
        (Some(_), _) | (None, "") => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, user) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}"
        )),
    }
}
