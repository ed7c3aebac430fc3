//! What a kubelet tells about itself and its pods: metrics, statistics, configuration
//! (`pkg/kubelet/server/server.go`, `server/stats/summary.go`, `metrics/collectors/resource_metrics.go`).
//!
//! Of the cadvisor families only those are here that the runtime's and the kernel's numbers fill; none is made up.

use crate::kubelet::Config;
use crate::shared::Shared;
use crate::stats::{self, FileSystem, PodStats, cpu_of, meminfo, working_set_of};
use skiff_cri::CriError;
use skiff_machinery::{Map, Value, object};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// Samples under family headers, with times where upstream has them.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, help: &str, kind: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at_nanoseconds: Option<i64>) {
        self.put(format_args!("{name}"));
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.put(format_args!("{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' }));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        match at_nanoseconds {
            Some(at) => self.put(format_args!("{close} {value} {}\n", at / 1_000_000)),
            None => self.put(format_args!("{close} {value}\n")),
        }
    }
    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        self.0.write_fmt(what).expect("writing to a String cannot fail");
    }
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
fn number(value: u64) -> f64 {
    value as f64
}

/// What the whole node uses.
struct NodeUsage {
    at: i64,
    cpu_nanoseconds: u64,
    memory_total: i64,
    memory_available: i64,
    rss: i64,
    swap: i64,
}

fn wall_nanoseconds(shared: &Shared) -> i64 {
    let since = shared.clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn node_usage(shared: &Shared) -> NodeUsage {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |key: &str| meminfo(&memory, key).unwrap_or(0);
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|number| number.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal: everything but idling and waiting, in hundredths of a second.
    let busy: u64 =
        numbers.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, n)| n).sum();
    NodeUsage {
        at: wall_nanoseconds(shared),
        cpu_nanoseconds: busy * 10_000_000,
        memory_total: of("MemTotal"),
        memory_available: of("MemAvailable"),
        rss: of("AnonPages"),
        swap: of("SwapTotal") - of("SwapFree"),
    }
}

/// `/metrics/resource`.
pub(super) async fn resource_metrics(shared: &Shared) -> String {
    let node = node_usage(shared);
    let (pods, failed) = match stats::pods(shared).await {
        Ok(pods) => (pods, 0.0),
        Err(error) => {
            tracing::debug!(%error, "what pods use is not known");
            (Default::default(), 1.0)
        }
    };
    let mut page = Page::default();
    let family = |page: &mut Page, name: &str, help: &str, kind: &str, of: &dyn Fn(&mut Page, &str)| {
        page.family(name, help, kind);
        of(page, name);
    };
    let containers = |page: &mut Page, name: &str, value: &dyn Fn(&stats::ContainerStats) -> Option<(f64, i64)>| {
        for pod in pods.values() {
            for container in &pod.containers {
                let Some((value, at)) = value(container) else { continue };
                let labels = [("container", &*container.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
                page.sample(name, &labels, value, (at > 0).then_some(at));
            }
        }
    };
    let each_pod = |page: &mut Page, name: &str, value: &dyn Fn(&PodStats) -> f64| {
        for pod in pods.values() {
            page.sample(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], value(pod), Some(node.at));
        }
    };
    family(
        &mut page,
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        "counter",
        &|page, name| {
            containers(page, name, &|one| {
                let cpu = one.stats.cpu.as_ref()?;
                Some((seconds(cpu_of(Some(cpu))?), cpu.timestamp))
            });
        },
    );
    family(
        &mut page,
        "container_memory_working_set_bytes",
        "[STABLE] Current working set of the container in bytes",
        "gauge",
        &|page, name| {
            containers(page, name, &|one| {
                let memory = one.stats.memory.as_ref()?;
                Some((number(working_set_of(Some(memory))?), memory.timestamp))
            });
        },
    );
    family(
        &mut page,
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        "gauge",
        &|page, name| {
            containers(page, name, &|one| {
                let swap = one.stats.swap.as_ref()?;
                Some((number(swap.swap_usage_bytes?.value), swap.timestamp))
            });
        },
    );
    page.family(
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        "counter",
    );
    page.sample("node_cpu_usage_seconds_total", &[], seconds(node.cpu_nanoseconds), Some(node.at));
    page.family("node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes", "gauge");
    let working_set = u64::try_from(node.memory_total - node.memory_available).unwrap_or(0);
    page.sample("node_memory_working_set_bytes", &[], number(working_set), Some(node.at));
    page.family(
        "node_swap_usage_bytes",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        "gauge",
    );
    page.sample("node_swap_usage_bytes", &[], number(u64::try_from(node.swap).unwrap_or(0)), Some(node.at));
    family(
        &mut page,
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        "counter",
        &|page, name| {
            each_pod(page, name, &|pod| seconds(pod.cpu_nanoseconds()));
        },
    );
    family(
        &mut page,
        "pod_memory_working_set_bytes",
        "[STABLE] Current working set of the pod in bytes",
        "gauge",
        &|page, name| {
            each_pod(page, name, &|pod| number(pod.working_set()));
        },
    );
    page.family(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    page.sample("resource_scrape_error", &[], failed, None);
    page.0
}

/// `/metrics/cadvisor`.
pub(super) async fn cadvisor_metrics(shared: &Shared) -> Result<String, CriError> {
    let pods = stats::pods(shared).await?;
    let mut page = Page::default();
    page.family("machine_cpu_cores", "Number of logical CPU cores.", "gauge");
    let cores = u64::try_from(shared.allocatable.0 / 1000).unwrap_or(0);
    page.sample("machine_cpu_cores", &[], number(cores), None);
    page.family("machine_memory_bytes", "Amount of memory installed on the machine.", "gauge");
    page.sample("machine_memory_bytes", &[], number(u64::try_from(shared.allocatable.1).unwrap_or(0)), None);
    type Of = fn(&stats::ContainerStats) -> Option<f64>;
    let families: [(&str, &str, &str, Of); 7] = [
        ("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "counter", |one| {
            cpu_of(one.stats.cpu.as_ref()).map(seconds)
        }),
        (
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            "gauge",
            |one| one.stats.memory.as_ref()?.usage_bytes.map(|value| number(value.value)),
        ),
        ("container_memory_working_set_bytes", "Current working set in bytes.", "gauge", |one| {
            working_set_of(one.stats.memory.as_ref()).map(number)
        }),
        ("container_memory_rss", "Size of RSS in bytes.", "gauge", |one| {
            one.stats.memory.as_ref()?.rss_bytes.map(|value| number(value.value))
        }),
        ("container_memory_swap", "Container swap usage in bytes.", "gauge", |one| {
            one.stats.swap.as_ref()?.swap_usage_bytes.map(|value| number(value.value))
        }),
        (
            "container_fs_usage_bytes",
            "Number of bytes that are consumed by the container on this filesystem.",
            "gauge",
            |one| one.stats.writable_layer.as_ref()?.used_bytes.map(|value| number(value.value)),
        ),
        ("container_fs_inodes_total", "Number of Inodes", "gauge", |one| {
            one.stats.writable_layer.as_ref()?.inodes_used.map(|value| number(value.value))
        }),
    ];
    for (name, help, kind, of) in families {
        page.family(name, help, kind);
        for pod in pods.values() {
            for one in &pod.containers {
                let Some(value) = of(one) else { continue };
                let labels = [
                    ("container", &*one.name),
                    ("id", &*one.id),
                    ("name", &*one.id),
                    ("namespace", &*pod.namespace),
                    ("pod", &*pod.name),
                ];
                page.sample(name, &labels, value, None);
            }
        }
    }
    for (name, help, of) in [
        (
            "container_network_receive_bytes_total",
            "Cumulative count of bytes received",
            (|one| one.rx_bytes) as fn(&skiff_cri::v1::NetworkInterfaceUsage) -> Option<skiff_cri::v1::UInt64Value>,
        ),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |one| one.tx_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |one| {
            one.rx_errors
        }),
        (
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            |one| one.tx_errors,
        ),
    ] {
        page.family(name, help, "counter");
        for pod in pods.values() {
            let network = pod.linux.as_ref().and_then(|linux| linux.network.as_ref());
            for interface in network.into_iter().flat_map(|network| &network.interfaces) {
                let Some(value) = of(interface) else { continue };
                let labels = [("interface", &*interface.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
                page.sample(name, &labels, number(value.value), None);
            }
        }
    }
    page.family("container_processes", "Number of processes running inside the container.", "gauge");
    for pod in pods.values() {
        let labels = [("namespace", &*pod.namespace), ("pod", &*pod.name)];
        page.sample("container_processes", &labels, number(pod.processes()), None);
    }
    Ok(page.0)
}

fn time(nanoseconds: i64) -> Value {
    if nanoseconds <= 0 {
        return Value::Null;
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds.unsigned_abs());
    skiff_client::leader::time(at).into()
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn cpu(shared: &Shared, key: &str, at: i64, total: u64) -> Value {
    object! {
        "time": time(at),
        "usageNanoCores": int(shared.rates.look(key, at, total)),
        "usageCoreNanoSeconds": int(total),
    }
}

fn memory(usage: Option<&skiff_cri::v1::MemoryUsage>) -> Value {
    let Some(usage) = usage else { return Value::Object(Map::new()) };
    let mut memory = Map::new();
    memory.insert("time", time(usage.timestamp));
    let rows = [
        ("availableBytes", usage.available_bytes),
        ("usageBytes", usage.usage_bytes),
        ("workingSetBytes", usage.working_set_bytes),
        ("rssBytes", usage.rss_bytes),
        ("pageFaults", usage.page_faults),
        ("majorPageFaults", usage.major_page_faults),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            memory.insert(name, int(value.value));
        }
    }
    Value::Object(memory)
}

fn file_system(at: i64, room: FileSystem, used: (u64, u64)) -> Value {
    object! {
        "time": time(at),
        "availableBytes": int(room.available),
        "capacityBytes": int(room.capacity),
        "usedBytes": int(used.0),
        "inodesFree": int(room.inodes_free),
        "inodes": int(room.inodes),
        "inodesUsed": int(used.1),
    }
}

fn network(network: &skiff_cri::v1::NetworkUsage) -> Value {
    let one = |interface: &skiff_cri::v1::NetworkInterfaceUsage| {
        let mut map = Map::new();
        map.insert("name", interface.name.as_str());
        let rows = [
            ("rxBytes", interface.rx_bytes),
            ("rxErrors", interface.rx_errors),
            ("txBytes", interface.tx_bytes),
            ("txErrors", interface.tx_errors),
        ];
        for (name, value) in rows {
            if let Some(value) = value {
                map.insert(name, int(value.value));
            }
        }
        map
    };
    let mut map = network.default_interface.as_ref().map(one).unwrap_or_default();
    map.insert("time", time(network.timestamp));
    map.insert("interfaces", network.interfaces.iter().map(|found| Value::Object(one(found))).collect::<Vec<_>>());
    Value::Object(map)
}

/// `/stats/summary`. With `only_cpu_and_memory` no file is counted.
pub(super) async fn summary(
    shared: &Shared,
    pods: &[crate::pod::spec::Pod],
    only_cpu_and_memory: bool,
) -> Result<Value, CriError> {
    let node = node_usage(shared);
    let found = stats::pods(shared).await?;
    let root = shared.volumes.root().to_owned();
    let room = shared.blocking(move || FileSystem::of(&root)).await.ok().and_then(Result::ok).unwrap_or_default();
    let mut list = Vec::new();
    for stats in found.values() {
        let pod = pods.iter().find(|pod| pod.uid() == stats.uid);
        list.push(pod_summary(shared, stats, pod, room, node.at, only_cpu_and_memory).await);
    }
    let used = (room.capacity.saturating_sub(room.available), room.inodes.saturating_sub(room.inodes_free));
    let mut about = object! {
        "nodeName": shared.node_name.as_str(),
        "startTime": skiff_client::leader::time(shared.metrics.started),
        "cpu": cpu(shared, "node", node.at, node.cpu_nanoseconds),
        "memory": object! {
            "time": time(node.at),
            "availableBytes": node.memory_available,
            "usageBytes": node.memory_total - node.memory_available,
            "workingSetBytes": node.memory_total - node.memory_available,
            "rssBytes": node.rss,
        },
    };
    if let Some(map) = about.as_object_mut().filter(|_| !only_cpu_and_memory) {
        map.insert("fs", file_system(node.at, room, used));
        map.insert("runtime", object! { "imageFs": file_system(node.at, room, used) });
        if let Some((current, most)) = stats::processes() {
            map.insert("rlimit", object! { "time": time(node.at), "maxpid": most, "curproc": current });
        }
    }
    Ok(object! { "node": about, "pods": list })
}

async fn pod_summary(
    shared: &Shared,
    stats: &PodStats,
    pod: Option<&crate::pod::spec::Pod>,
    room: FileSystem,
    at: i64,
    only_cpu_and_memory: bool,
) -> Value {
    let mut containers = Vec::new();
    let mut disk = (0, 0);
    for one in &stats.containers {
        let total = cpu_of(one.stats.cpu.as_ref()).unwrap_or(0);
        let when = one.stats.cpu.as_ref().map_or(at, |cpu| cpu.timestamp);
        let mut container = object! {
            "name": one.name.as_str(),
            "cpu": cpu(shared, &one.id, when, total),
            "memory": memory(one.stats.memory.as_ref()),
        };
        if let Some(map) = container.as_object_mut().filter(|_| !only_cpu_and_memory) {
            let layer = one.stats.writable_layer.as_ref();
            let value = |value: Option<skiff_cri::v1::UInt64Value>| value.map_or(0, |value| value.value);
            let layer = layer.map_or((0, 0), |layer| (value(layer.used_bytes), value(layer.inodes_used)));
            let directory = pod.map(|pod| {
                let logs = crate::pod::container::log_directory(pod, &shared.node.log_root);
                std::path::Path::new(&logs).join(&one.name)
            });
            let logs = match directory {
                Some(path) => shared.blocking(move || stats::disk_usage(&path)).await.unwrap_or_default(),
                None => (0, 0),
            };
            map.insert("rootfs", file_system(at, room, layer));
            map.insert("logs", file_system(at, room, logs));
            disk = (disk.0 + layer.0 + logs.0, disk.1 + layer.1 + logs.1);
        }
        containers.push(container);
    }
    let own = stats.linux.as_ref();
    let mut pod_memory = memory(own.and_then(|linux| linux.memory.as_ref()));
    if let Some(map) = pod_memory.as_object_mut() {
        map.insert("time", time(at));
        map.insert("workingSetBytes", int(stats.working_set()));
    }
    let mut tree = object! {
        "podRef": object! {
            "name": stats.name.as_str(), "namespace": stats.namespace.as_str(), "uid": stats.uid.as_str(),
        },
        "containers": containers,
        "cpu": cpu(shared, &stats.uid, at, stats.cpu_nanoseconds()),
        "memory": pod_memory,
    };
    let Some(map) = tree.as_object_mut() else { return tree };
    if let Some(started) = pod.and_then(|pod| pod.0.at(&["status", "startTime"])) {
        map.insert("startTime", started.clone());
    }
    if only_cpu_and_memory {
        return tree;
    }
    if let Some(found) = own.and_then(|linux| linux.network.as_ref()) {
        map.insert("network", network(found));
    }
    map.insert("process_stats", object! { "process_count": int(stats.processes()) });
    if let Some(pod) = pod {
        let (volumes, owned) = (shared.volumes.clone(), pod.clone());
        let counted = shared.blocking(move || {
            let dirs = volumes.empty_dirs(&owned);
            dirs.into_iter().map(|(name, path)| (name, stats::disk_usage(&path))).collect::<Vec<_>>()
        });
        let mut list = Vec::new();
        for (name, used) in counted.await.unwrap_or_default() {
            let mut volume = file_system(at, room, used);
            if let Some(map) = volume.as_object_mut() {
                map.insert("name", name);
            }
            disk = (disk.0 + used.0, disk.1 + used.1);
            list.push(volume);
        }
        map.insert("volume", list);
    }
    map.insert("ephemeral-storage", file_system(at, room, disk));
    tree
}

/// `/configz`: the settings in force, under their names in `KubeletConfiguration`.
pub(crate) fn configuration(config: &Config) -> Value {
    let bound = |threshold: &crate::eviction::Threshold| {
        let bound = match threshold.bound {
            crate::eviction::Bound::Percent(percent) | crate::eviction::Bound::Share(percent) => format!("{percent}%"),
            crate::eviction::Bound::Amount(amount) => {
                skiff_machinery::quantity::Quantity::new(amount, skiff_machinery::quantity::Format::BinarySI)
                    .to_string()
            }
        };
        (threshold.signal.as_str(), bound)
    };
    let (hard, soft): (Vec<_>, Vec<_>) =
        config.eviction.thresholds.iter().partition(|threshold| threshold.grace.is_none());
    let (hard, soft): (Map, Map) = (hard.into_iter().map(bound).collect(), soft.into_iter().map(bound).collect());
    let seconds = |period: Duration| format!("{}s", period.as_secs());
    object! { "kubeletconfig": object! {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "staticPodPath": config.static_pods.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        "port": i64::from(config.port),
        "authentication": object! {
            "webhook": object! { "enabled": true }, "anonymous": object! { "enabled": false },
        },
        "authorization": object! { "mode": "Webhook" },
        "clusterDomain": config.cluster_domain.as_str(),
        "clusterDNS": config.cluster_dns.clone(),
        "cgroupRoot": config.cgroup_root.as_str(),
        "cgroupDriver": "cgroupfs",
        "maxPods": config.max_pods,
        "podPidsLimit": config.pod_pids_limit,
        "containerLogMaxSize": skiff_machinery::quantity::Quantity::new(
            config.log_rotation.max_size, skiff_machinery::quantity::Format::BinarySI,
        ).to_string(),
        "containerLogMaxFiles": i64::try_from(config.log_rotation.max_files).unwrap_or(i64::MAX),
        "evictionHard": hard,
        "evictionSoft": soft,
        "evictionMaxPodGracePeriod": config.eviction.max_pod_grace,
        "evictionPressureTransitionPeriod": seconds(config.eviction.transition),
        "imageGCHighThresholdPercent": int(config.image_gc.high_percent),
        "imageGCLowThresholdPercent": int(config.image_gc.low_percent),
        "imageMinimumGCAge": seconds(config.image_gc.min_age),
        "allowedUnsafeSysctls": config.allowed_unsafe_sysctls.clone(),
        "podLogsDir": config.log_root.as_str(),
    } }
}
