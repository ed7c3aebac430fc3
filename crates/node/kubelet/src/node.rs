//! The node itself: registration, status, lease (`kubelet_node_status.go`, `nodelease`).

use crate::admit::Capacity;
use crate::eviction::{Signal, Threshold};
use crate::pod::resources::Requests;
use crate::shared::Shared;
use skiff_client::events::EventType;
use skiff_client::leader::{micro_time, time};
use skiff_client::{ClientError, Patch, WriteOptions};
use skiff_cri::v1;
use skiff_machinery::quantity::{Format, Quantity};
use skiff_machinery::{Map, Value, list, object};
use std::sync::Arc;
use std::time::Duration;

const LEASE_DURATION_SECONDS: i64 = 40;
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
const STATUS_REPORT: Duration = Duration::from_secs(300);

/// What the machine is, read once.
#[derive(Clone, Debug)]
pub struct Machine {
    /// CPUs.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of the file system that holds pods.
    pub disk_bytes: i64,
    /// Most pods (`--max-pods`).
    pub max_pods: i64,
    /// What is not for pods, but for the system and the kubelet.
    reserved: Requests,
    /// What evictions keep free beside that.
    kept_free: Requests,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub os_image: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// DMI product uuid.
    pub system_uuid: String,
    /// This boot.
    pub boot_id: String,
}

fn first_line(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

impl Machine {
    /// Reads it; `root` is where pods live.
    pub fn read(root: &std::path::Path, max_pods: i64) -> std::io::Result<Self> {
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kib = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<i64>().ok());
        let disk = rustix::fs::statvfs(root)?;
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let os_image = release
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .unwrap_or("Linux")
            .trim_matches('"')
            .to_owned();
        let product = first_line("/sys/class/dmi/id/product_uuid");
        let machine_id = first_line("/etc/machine-id");
        Ok(Self {
            cpus: i64::try_from(std::thread::available_parallelism()?.get()).unwrap_or(1),
            memory_bytes: kib.unwrap_or(0) * 1024,
            disk_bytes: i64::try_from(disk.f_blocks.saturating_mul(disk.f_frsize)).unwrap_or(i64::MAX),
            max_pods,
            reserved: Requests::default(),
            kept_free: Requests::default(),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            os_image,
            system_uuid: if product.is_empty() { machine_id.clone() } else { product },
            machine_id,
            boot_id: first_line("/proc/sys/kernel/random/boot_id"),
        })
    }

    fn capacity(&self) -> Map {
        [
            ("cpu", self.cpus.to_string()),
            ("memory", format!("{}Ki", self.memory_bytes / 1024)),
            ("ephemeral-storage", format!("{}Ki", self.disk_bytes / 1024)),
            ("pods", self.max_pods.to_string()),
            ("hugepages-1Gi", "0".to_owned()),
            ("hugepages-2Mi", "0".to_owned()),
        ]
        .into_iter()
        .collect()
    }

    /// Takes away what is reserved and what evictions keep free (`GetNodeAllocatableReservation`). The error names what there
    /// is not enough of.
    pub fn reserve(&mut self, reserved: Requests, thresholds: &[Threshold]) -> Result<(), String> {
        let hard = |signal: Signal, capacity: i64| {
            let mut found = thresholds.iter().filter(|one| one.signal == signal && one.grace.is_none());
            found.next().map_or(0, |threshold| threshold.amount(capacity))
        };
        self.reserved = reserved;
        self.kept_free = Requests {
            milli_cpu: 0,
            memory: hard(Signal::MemoryAvailable, self.memory_bytes),
            ephemeral_storage: hard(Signal::NodefsAvailable, self.disk_bytes),
        };
        let left = self.pod_capacity().allocatable;
        let rows = [("CPU", left.milli_cpu), ("memory", left.memory), ("ephemeral-storage", left.ephemeral_storage)];
        // A machine of little memory is still one.
        let nothing_said = reserved == Requests::default();
        match rows.into_iter().find(|(_, left)| *left < 0).filter(|_| !nothing_said) {
            Some((name, _)) => Err(format!("more {name}")),
            None => Ok(()),
        }
    }

    /// What pods may use together, as far as the kernel is told.
    pub fn without_reserved(&self) -> Requests {
        Requests {
            milli_cpu: self.cpus * 1000 - self.reserved.milli_cpu,
            memory: self.memory_bytes - self.reserved.memory,
            ephemeral_storage: self.disk_bytes - self.reserved.ephemeral_storage,
        }
    }

    /// What pods may ask for, as numbers.
    pub fn pod_capacity(&self) -> Capacity {
        let all = self.without_reserved();
        let allocatable = Requests {
            milli_cpu: all.milli_cpu,
            memory: all.memory - self.kept_free.memory,
            ephemeral_storage: all.ephemeral_storage - self.kept_free.ephemeral_storage,
        };
        Capacity { allocatable, pods: self.max_pods, ..Capacity::default() }
    }

    fn allocatable(&self) -> Map {
        let mut allocatable = self.capacity();
        let pods = self.pod_capacity().allocatable;
        if self.reserved.milli_cpu != 0 {
            allocatable.insert("cpu", Quantity::from_milli(pods.milli_cpu, Format::DecimalSI).to_string());
        }
        allocatable.insert("memory", format!("{}Ki", pods.memory.max(0) / 1024));
        allocatable.insert("ephemeral-storage", pods.ephemeral_storage.max(0).to_string());
        allocatable
    }
}

/// The node as it registers and reports.
pub struct Node {
    shared: Arc<Shared>,
    machine: Machine,
    /// Extra labels (`--node-labels`).
    labels: Vec<(String, String)>,
    version: String,
    runtime_version: String,
    port: u16,
}

impl Node {
    /// `runtime_version` is `NAME://VERSION`.
    pub fn new(
        shared: Arc<Shared>,
        machine: Machine,
        labels: Vec<(String, String)>,
        version: String,
        runtime_version: String,
        port: u16,
    ) -> Self {
        Self { shared, machine, labels, version, runtime_version, port }
    }

    fn metadata_labels(&self) -> Map {
        let name = &*self.shared.node_name;
        let arch = architecture();
        let fixed = [
            ("kubernetes.io/hostname", name),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ];
        let mut labels: Map = fixed.into_iter().collect();
        for (key, value) in &self.labels {
            labels.insert(key.clone(), value.as_str());
        }
        labels
    }

    /// Registers, then reports until the end.
    pub async fn run(self) {
        let about = self.shared.node_reference();
        self.shared.recorder.event(&about, EventType::Normal, "Starting", "Starting kubelet.");
        let lease = self.keep_lease();
        let status = async {
            loop {
                match self.register().await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::debug!(%error, "node registration tries again");
                        self.shared.clock.sleep(Duration::from_millis(200)).await;
                    }
                }
            }
            self.keep_status().await;
        };
        tokio::join!(lease, status);
    }

    async fn register(&self) -> Result<(), ClientError> {
        let nodes = self.shared.client.all("", "v1", "nodes");
        let name = &self.shared.node_name;
        if nodes.fetch_optional(name).await?.is_some() {
            // What was there stays; labels that describe the machine are brought up to date.
            let patch = object! { "metadata": object! { "labels": self.metadata_labels() } };
            nodes.patch(name, "", &Patch::Strategic(&patch), &WriteOptions::default()).await?;
            return self.report(None).await.map(drop);
        }
        let addresses = self.shared.host_ips.read().clone();
        let status = self.status(None, &addresses).await;
        let node = object! {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": object! {
                "name": name.as_str(),
                "labels": self.metadata_labels(),
                "annotations": object! { "volumes.kubernetes.io/controller-managed-attach-detach": "true" },
            },
            "spec": Map::new(),
            "status": status,
        };
        nodes.create(&node, &WriteOptions::default()).await?;
        // The API clears a new node's status unless the kubelet writes it by its own path.
        self.report(None).await.map(drop)
    }

    /// Reports changes at once and a heartbeat every five minutes; the lease is the pulse in between.
    async fn keep_status(&self) {
        let mut last: Option<Value> = None;
        let mut reported = self.shared.clock.now();
        loop {
            // A node that is not ready yet says so as soon as it is.
            let ready = last.as_ref().is_some_and(is_ready);
            tokio::select! {
                () = self.shared.clock.sleep(if ready { STATUS_INTERVAL } else { STATUS_INTERVAL / 100 }) => (),
                () = self.shared.node_changed.notified() => (),
            }
            let due = self.shared.clock.now().duration_since(reported) >= STATUS_REPORT;
            match self.report(if due { None } else { last.as_ref() }).await {
                Ok(Some(written)) => {
                    last = Some(written);
                    reported = self.shared.clock.now();
                }
                Ok(None) => (),
                Err(error) if error.is_not_found() => {
                    if let Err(error) = self.register().await {
                        tracing::debug!(%error, "node not registered again");
                    }
                }
                Err(error) => tracing::debug!(%error, "node status not written"),
            }
        }
    }

    /// Writes the status unless it equals `last` but for heartbeats. Returns what was written.
    async fn report(&self, last: Option<&Value>) -> Result<Option<Value>, ClientError> {
        let nodes = self.shared.client.all("", "v1", "nodes");
        let current = nodes.fetch(&self.shared.node_name).await?;
        let addresses = self.shared.host_ips.read().clone();
        let status = self.status(Some(&current), &addresses).await;
        if last.is_some_and(|last| same(last, &status)) && same(&status, current.get("status").unwrap_or(&Value::Null))
        {
            return Ok(None);
        }
        let patch = object! { "status": status.clone() };
        nodes.patch(&self.shared.node_name, "status", &Patch::Strategic(&patch), &WriteOptions::default()).await?;
        Ok(Some(status))
    }

    async fn status(&self, current: Option<&Value>, addresses: &[String]) -> Value {
        let mut list: Vec<Value> =
            addresses.iter().map(|ip| object! { "type": "InternalIP", "address": ip.as_str() }).collect();
        list.push(object! { "type": "Hostname", "address": self.shared.node_name.as_str() });
        object! {
            "addresses": list,
            "capacity": self.machine.capacity(),
            "allocatable": self.machine.allocatable(),
            "conditions": self.conditions(current).await,
            "daemonEndpoints": object! { "kubeletEndpoint": object! { "Port": i64::from(self.port) } },
            "nodeInfo": object! {
                "machineID": self.machine.machine_id.as_str(),
                "systemUUID": self.machine.system_uuid.as_str(),
                "bootID": self.machine.boot_id.as_str(),
                "kernelVersion": self.machine.kernel.as_str(),
                "osImage": self.machine.os_image.as_str(),
                "containerRuntimeVersion": self.runtime_version.as_str(),
                "kubeletVersion": self.version.as_str(),
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": architecture(),
            },
            "images": self.images().await,
        }
    }

    /// The largest images, for ImageLocality (`--node-status-max-images`: 50).
    async fn images(&self) -> Vec<Value> {
        let Ok(answer) = self.shared.images.list_images(v1::ListImagesRequest::default()).await else {
            return Vec::new();
        };
        let mut images = answer.images;
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let entry = |image: v1::Image| {
            let names: Vec<String> = image.repo_digests.into_iter().chain(image.repo_tags).collect();
            object! { "names": names, "sizeBytes": i64::try_from(image.size).unwrap_or(i64::MAX) }
        };
        images.into_iter().take(50).map(entry).collect()
    }

    async fn conditions(&self, current: Option<&Value>) -> Vec<Value> {
        let now = time(self.shared.clock.wall());
        let problem = self.runtime_problem().await;
        let short = *self.shared.capacity.read();
        let row = |ty: &str, bad: bool, reasons: (&str, &str), messages: (&str, &str)| {
            let (reason, message) = if bad { (reasons.0, messages.0) } else { (reasons.1, messages.1) };
            (ty.to_owned(), if bad { "True" } else { "False" }, reason.to_owned(), message.to_owned())
        };
        let rows = [
            row(
                "MemoryPressure",
                short.memory_pressure,
                ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
                ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
            ),
            row(
                "DiskPressure",
                short.disk_pressure,
                ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
                ("kubelet has disk pressure", "kubelet has no disk pressure"),
            ),
            row(
                "PIDPressure",
                short.pid_pressure,
                ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
                ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
            ),
            match problem {
                None => (
                    "Ready".to_owned(),
                    "True",
                    "KubeletReady".to_owned(),
                    "kubelet is posting ready status".to_owned(),
                ),
                Some(message) => ("Ready".to_owned(), "False", "KubeletNotReady".to_owned(), message),
            },
        ];
        let known = current.map(|node| node.items_at(&["status", "conditions"])).unwrap_or(&[]);
        for (ty, status, ..) in &rows {
            let before = known.iter().find(|old| old.str_at(&["type"]) == ty).map(|old| old.str_at(&["status"]));
            if before.is_some_and(|before| before != *status) || (before.is_none() && ty == "Ready") {
                self.tell_change(ty, *status == "True");
            }
        }
        let make = |(ty, status, reason, message): (String, &str, String, String)| {
            let old = known.iter().find(|old| old.str_at(&["type"]) == ty && old.str_at(&["status"]) == status);
            let since = old.and_then(|old| old.get("lastTransitionTime")).cloned();
            object! {
                "type": ty, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now.as_str(),
                "lastTransitionTime": since.unwrap_or_else(|| now.as_str().into()),
            }
        };
        rows.into_iter().map(make).collect()
    }

    /// An event for a condition that has changed (`recordNodeStatusEvent`).
    fn tell_change(&self, condition: &str, holds: bool) {
        let reason = match (condition, holds) {
            ("Ready", true) => "NodeReady",
            ("Ready", false) => "NodeNotReady",
            ("MemoryPressure", true) => "NodeHasInsufficientMemory",
            ("MemoryPressure", false) => "NodeHasSufficientMemory",
            ("DiskPressure", true) => "NodeHasDiskPressure",
            ("DiskPressure", false) => "NodeHasNoDiskPressure",
            ("PIDPressure", true) => "NodeHasInsufficientPID",
            _ => "NodeHasSufficientPID",
        };
        let message = format!("Node {} status is now: {reason}", self.shared.node_name);
        self.shared.recorder.event(&self.shared.node_reference(), EventType::Normal, reason, message);
    }

    async fn runtime_problem(&self) -> Option<String> {
        match self.shared.runtime.status(v1::StatusRequest::default()).await {
            Err(error) => Some(format!("container runtime is down: {error}")),
            Ok(answer) => {
                let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
                let bad = conditions.iter().find(|condition| !condition.status)?;
                let what = if bad.r#type == "NetworkReady" {
                    "container runtime network not ready"
                } else {
                    "container runtime status check may not have completed yet"
                };
                Some(format!("{what}: {}={} reason:{} message:{}", bad.r#type, bad.status, bad.reason, bad.message))
            }
        }
    }

    async fn keep_lease(&self) {
        let leases = self.shared.client.namespaced("coordination.k8s.io", "v1", "leases", "kube-node-lease");
        let name = &self.shared.node_name;
        loop {
            let now = micro_time(self.shared.clock.wall());
            let patch = object! { "spec": object! { "renewTime": now.as_str() } };
            let outcome = match leases.patch(name, "", &Patch::Merge(&patch), &WriteOptions::default()).await {
                Err(error) if error.is_not_found() => self.create_lease(&leases, &now).await,
                outcome => outcome.map(drop),
            };
            match outcome {
                Ok(()) => self.shared.clock.sleep(LEASE_RENEWAL).await,
                Err(error) => {
                    tracing::debug!(%error, "node lease tries again");
                    self.shared.clock.sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    async fn create_lease(&self, leases: &skiff_client::Api, now: &str) -> Result<(), ClientError> {
        let name = self.shared.node_name.as_str();
        let node = self.shared.client.all("", "v1", "nodes").fetch(name).await?;
        let lease = object! {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": object! {
                "name": name,
                "namespace": "kube-node-lease",
                "ownerReferences": list![object! {
                    "apiVersion": "v1", "kind": "Node", "name": name, "uid": node.str_at(&["metadata", "uid"]),
                }],
            },
            "spec": object! {
                "holderIdentity": name, "leaseDurationSeconds": LEASE_DURATION_SECONDS, "renewTime": now,
            },
        };
        leases.create(&lease, &WriteOptions::default()).await.map(drop)
    }
}

fn is_ready(status: &Value) -> bool {
    let ready = |condition: &&Value| condition.str_at(&["type"]) == "Ready" && condition.str_at(&["status"]) == "True";
    status.items_at(&["conditions"]).iter().any(|condition| ready(&condition))
}

/// Equal but for heartbeats.
fn same(one: &Value, other: &Value) -> bool {
    let bare = |status: &Value| {
        let mut conditions = status.items_at(&["conditions"]).to_vec();
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            condition.remove("lastHeartbeatTime");
        }
        let of = |name: &str| status.get(name).cloned();
        (conditions, of("addresses"), of("allocatable"), of("images"))
    };
    bare(one) == bare(other)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_not_for_pods() {
        let directory = tempfile::tempdir().unwrap();
        let mut machine = Machine::read(directory.path(), 10).unwrap();
        (machine.cpus, machine.memory_bytes, machine.disk_bytes) = (4, 4 << 30, 100 << 30);
        let hard = crate::eviction::parse("memory.available<1Gi,nodefs.available<10%").unwrap();
        let reserved = Requests { milli_cpu: 500, memory: 1 << 30, ephemeral_storage: 1 << 30 };
        machine.reserve(reserved, &hard).unwrap();
        assert_eq!(machine.without_reserved().memory, 3 << 30);
        let allocatable = machine.allocatable();
        let text = |name: &str| allocatable.get(name).and_then(Value::as_str).unwrap().to_owned();
        assert_eq!((text("cpu"), text("memory")), ("3500m".to_owned(), format!("{}Ki", 2 << 20)));
        assert_eq!(text("ephemeral-storage"), (89_i64 << 30).to_string());
        let too_much = Requests { memory: 4 << 30, ..Requests::default() };
        assert_eq!(machine.reserve(too_much, &hard), Err("more memory".to_owned()));
    }
}
