//! kubelet: its flags. What it is made of is `agent.rs`.

use super::{Entry, InServer, Place, Said, Spec, alone, fixed, flag, of_server, serving};
use crate::ports::Listen;
use crate::usage::note;
use skiff_base::flags::{Component, Served};
use skiff_kubelet::eviction;
use skiff_kubelet::kubelet::Config as KubeletConfig;
use skiff_kubelet::pod::resources::Requests;
use skiff_kubelet::pressure::Rules;
use skiff_kubelet::{images_gc, rotation};
use skiff_machinery::quantity::Quantity;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Flags.
pub(crate) const SPEC: Spec = Spec { component: Component::Kubelet, flags: &[OWN] };

const OWN: &[Entry] = &[
    alone("kubeconfig", "How to reach the API server, and as whom."),
    of_server("hostname-override", "node-name", "Name of this machine in the cluster."),
    of_server("node-ip", "advertise-address", "Addresses of the node; found by the default route when absent."),
    of_server(
        "port",
        "kubelet-port",
        "Port of the kubelet's server. A default that is taken moves to a free port, which the node's status says.",
    ),
    flag("address", "Address of the kubelet's server."),
    Entry {
        served: Served::upstream("container-runtime-endpoint", "CRI socket of another runtime.")
            .holding("the embedded runtime"),
        server: InServer::Flag("container-runtime-endpoint"),
        only: None,
    },
    of_server("pod-manifest-path", "pod-manifest-path", "Directory of static pods."),
    of_server("cluster-domain", "cluster-domain", "Domain of the cluster's DNS names."),
    flag("cluster-dns", "Addresses of the cluster's DNS. In skiff server: that of its own DNS unless said."),
    Entry {
        served: Served::upstream("root-dir", "Where volumes and records of pods are.").holding("DATA-DIR/kubelet"),
        server: InServer::Never,
        only: None,
    },
    flag("node-labels", "Labels of the node beside the usual: key=value."),
    flag("max-pods", "Most pods."),
    Entry {
        served: Served::upstream("pod-max-pids", "Most processes of a pod; -1 for any number.").holding("4096"),
        server: InServer::Same,
        only: None,
    },
    Entry {
        served: Served::upstream(
            "eviction-hard",
            "When pods are evicted: `memory.available<100Mi,nodefs.available<10%`.",
        )
        .holding("upstream's, but a disk with 2Gi of room is not short"),
        server: InServer::Same,
        only: None,
    },
    flag("eviction-soft", "When pods are evicted if it lasts: `memory.available<300Mi`."),
    flag("eviction-soft-grace-period", "How long each of them has to last: `memory.available=30s`."),
    flag("eviction-max-pod-grace-period", "Most seconds that a pod which is evicted so gets to end."),
    flag("eviction-pressure-transition-period", "How long a condition of shortage outlives its cause."),
    flag(
        "kube-reserved",
        "What of the machine is for kubelet and runtime: `cpu=100m,memory=256Mi,ephemeral-storage=1Gi`.",
    ),
    flag("system-reserved", "What of the machine is for everything else than pods."),
    flag("container-log-max-size", "At which size a container's log is rotated; negative for never."),
    flag("container-log-max-files", "Files of a container's log."),
    flag("image-gc-high-threshold", "From which use of the disk on, in percent, images are collected; 100 for never."),
    flag("image-gc-low-threshold", "Down to which use of the disk, in percent, images are collected."),
    flag("minimum-image-ttl-duration", "How long an image that nobody uses stays."),
    flag("allowed-unsafe-sysctls", "Sysctls that pods may set beyond the safe ones; a last `*` stands for any."),
    flag("cgroup-root", "Root of the pods' cgroups; /kubepods when absent."),
    alone("client-ca-file", "Authority of client certificates; the kubeconfig's when absent."),
    flag(
        "tls-cert-file",
        "Certificate to show. Alone, kubelet.crt beside the kubeconfig when absent; else one that nobody has signed is made in memory.",
    ),
    flag("tls-private-key-file", "Its key."),
    fixed("anonymous-auth", "false", "Nobody without a credential is answered."),
    fixed("authentication-token-webhook", "true", "Tokens are reviewed by the API server."),
    fixed("authorization-mode", "Webhook", "The API server says who may."),
    fixed("fail-cgroupv1", "false", "cgroup v1 works."),
    fixed("read-only-port", "0", "There is none."),
    flag("feature-gates", "Features by name; a gate can only be given the value that it has."),
    Entry {
        served: Served::own(
            "data-dir",
            "string",
            "/var/lib/skiff",
            "Where images, containers and the pod network are kept.",
        ),
        server: InServer::Never,
        only: None,
    },
    Entry {
        served: Served::own(
            "cluster-cidr",
            "strings",
            "10.244.0.0/16",
            "Networks of pods, for the embedded pod network.",
        ),
        server: InServer::Never,
        only: None,
    },
];

/// Bounds of what pods take.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    pub(crate) pod_pids_limit: i64,
    pub(crate) eviction: Rules,
    pub(crate) reserved: Requests,
    pub(crate) log_rotation: rotation::Policy,
    pub(crate) image_gc: images_gc::Policy,
    pub(crate) allowed_unsafe_sysctls: Vec<String>,
}

impl Tuning {
    /// What is not said is the kubelet's own default.
    fn read(said: &Said, mistakes: &mut Vec<String>) -> Self {
        let default = KubeletConfig::default();
        let mut log_rotation = default.log_rotation;
        let size = |text: &str| Quantity::parse(text).map(|size| size.value());
        if let Some(size) = said.parsed("container-log-max-size", size, mistakes) {
            log_rotation.max_size = size;
        }
        if let Some(files) = said.number::<usize>("container-log-max-files", mistakes) {
            log_rotation.max_files = files;
        }
        if log_rotation.max_files < 2 {
            mistakes.push(format!("{}: has to be greater than 1", said.typed("container-log-max-files")));
        }
        let mut image_gc = default.image_gc;
        if let Some(percent) = said.number("image-gc-high-threshold", mistakes) {
            // What is said counts as it is said, however much room that leaves.
            (image_gc.high_percent, image_gc.room) = (percent, u64::MAX);
        }
        if let Some(percent) = said.number("image-gc-low-threshold", mistakes) {
            image_gc.low_percent = percent;
        }
        if image_gc.high_percent > 100 || image_gc.low_percent >= image_gc.high_percent {
            let (high, low) = (said.typed("image-gc-high-threshold"), said.typed("image-gc-low-threshold"));
            mistakes.push(format!("{high} has to be at most 100 and greater than {low}"));
        }
        if let Some(age) = said.duration("minimum-image-ttl-duration") {
            image_gc.min_age = age;
        }
        let thresholds = said.list("eviction-hard").map(|list| eviction::parse(&list.join(",")));
        let thresholds = thresholds.transpose().map_err(|error| format!("{}: {error}", said.typed("eviction-hard")));
        let mut eviction = default.eviction;
        if let Some(hard) = note(thresholds, mistakes).flatten() {
            eviction.thresholds = hard;
        }
        let text = |name: &str| said.list(name).unwrap_or_default().join(",");
        let soft = eviction::parse_soft(&text("eviction-soft"), &text("eviction-soft-grace-period"));
        let soft = soft.map_err(|error| format!("{}: {error}", said.typed("eviction-soft")));
        eviction.thresholds.extend(note(soft, mistakes).into_iter().flatten());
        if let Some(seconds) = said.number("eviction-max-pod-grace-period", mistakes) {
            eviction.max_pod_grace = seconds;
        }
        if let Some(period) = said.duration("eviction-pressure-transition-period") {
            eviction.transition = period;
        }
        let mut reserved = Requests::default();
        for name in ["kube-reserved", "system-reserved"] {
            let said = reservation(&text(name)).map_err(|error| format!("{}: {error}", said.typed(name)));
            let more = note(said, mistakes).unwrap_or_default();
            reserved.milli_cpu += more.milli_cpu;
            reserved.memory += more.memory;
            reserved.ephemeral_storage += more.ephemeral_storage;
        }
        Self {
            pod_pids_limit: said.number("pod-max-pids", mistakes).unwrap_or(default.pod_pids_limit),
            eviction,
            reserved,
            log_rotation,
            image_gc,
            allowed_unsafe_sysctls: said.list("allowed-unsafe-sysctls").unwrap_or_default(),
        }
    }
}

/// `cpu=100m,memory=256Mi`.
fn reservation(text: &str) -> Result<Requests, String> {
    let mut all = Requests::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, amount) = part.split_once('=').ok_or_else(|| format!("{part}: expected resource=amount"))?;
        let amount = Quantity::parse(amount).map_err(|error| format!("{part}: {error}"))?;
        if amount.sign() < 0 {
            return Err(format!("{part}: less than nothing"));
        }
        match name {
            "cpu" => all.milli_cpu = amount.milli_value(),
            "memory" => all.memory = amount.value(),
            "ephemeral-storage" => all.ephemeral_storage = amount.value(),
            other => return Err(format!("{other} cannot be reserved here: cpu, memory and ephemeral-storage can")),
        }
    }
    Ok(all)
}

/// What they mean.
pub(crate) struct Options {
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) node_name: Option<String>,
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) listen: Listen,
    pub(crate) runtime_endpoint: Option<String>,
    pub(crate) static_pods: Option<PathBuf>,
    pub(crate) cluster_dns: Vec<String>,
    pub(crate) cluster_domain: Option<String>,
    pub(crate) root: Option<PathBuf>,
    pub(crate) node_labels: Vec<(String, String)>,
    pub(crate) max_pods: i64,
    pub(crate) tuning: Tuning,
    pub(crate) cgroup_root: String,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) data_dir: PathBuf,
    pub(crate) cluster_cidrs: Vec<String>,
    pub(crate) verbosity: i64,
}

/// What the server has written for a kubelet to show beside its kubeconfig.
pub(crate) fn certificate_beside(kubeconfig: &Path) -> Option<(PathBuf, PathBuf)> {
    let pair = (kubeconfig.with_file_name("kubelet.crt"), kubeconfig.with_file_name("kubelet.key"));
    (pair.0.exists() && pair.1.exists()).then_some(pair)
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    text.split(',').map(|one| one.trim().parse().map_err(|_| format!("{one} is no IP address"))).collect()
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text}: expected key=value"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Options {
    /// Checked; every mistake is told.
    pub(crate) fn read(said: &Said, mistakes: &mut Vec<String>) -> Self {
        said.gates(mistakes);
        let labels = said.list("node-labels").unwrap_or_default();
        let labels = labels.iter().map(|text| label(text).map_err(|error| format!("--node-labels: {error}")));
        let node_labels = labels.filter_map(|one| note(one, mistakes)).collect();
        let cluster_cidrs = said.list("cluster-cidr").unwrap_or_else(|| vec!["10.244.0.0/16".to_owned()]);
        for text in &cluster_cidrs {
            note(super::proxy::cidr(text).map_err(|error| format!("--cluster-cidr: {error}")), mistakes);
        }
        let dns = said.parsed("cluster-dns", addresses, mistakes).unwrap_or_default();
        Self {
            kubeconfig: said.path("kubeconfig"),
            node_name: said.get("hostname-override").map(str::to_owned),
            node_ips: said.parsed("node-ip", addresses, mistakes).unwrap_or_default(),
            listen: said.listen(SocketAddr::from(([0, 0, 0, 0], 10250)), "port", "address", mistakes),
            runtime_endpoint: said.get("container-runtime-endpoint").map(str::to_owned),
            static_pods: said.path("pod-manifest-path"),
            cluster_dns: dns.iter().map(IpAddr::to_string).collect(),
            cluster_domain: said.get("cluster-domain").map(str::to_owned),
            root: said.path("root-dir"),
            node_labels,
            max_pods: said.number("max-pods", mistakes).unwrap_or(110),
            tuning: Tuning::read(said, mistakes),
            cgroup_root: said.get("cgroup-root").unwrap_or("/kubepods").to_owned(),
            client_ca: said.path("client-ca-file"),
            tls: serving::pair(said, mistakes),
            data_dir: said.path("data-dir").unwrap_or_else(|| "/var/lib/skiff".into()),
            cluster_cidrs,
            verbosity: said.verbosity(),
        }
    }
    /// From `--kubelet-arg`.
    pub(crate) fn in_server(arguments: Vec<String>, mistakes: &mut Vec<String>) -> Option<Self> {
        super::note_all(SPEC.parse(Place::Server, arguments), mistakes).map(|said| Self::read(&said, mistakes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Tuning, Vec<String>> {
        let mut mistakes = Vec::new();
        let said = SPEC.parse(Place::Alone, text.split_whitespace().map(str::to_owned).collect())?;
        let options = Options::read(&said, &mut mistakes);
        if mistakes.is_empty() { Ok(options.tuning) } else { Err(mistakes) }
    }

    #[test]
    fn bounds_are_read_and_those_that_make_no_sense_are_not() {
        let tuning = read("").unwrap();
        assert_eq!((tuning.pod_pids_limit, tuning.eviction.thresholds), (4096, eviction::defaults()));
        let text = "--pod-max-pids=-1 --eviction-hard=memory.available<1Gi,nodefs.available<5% \
                    --container-log-max-size=1Mi --container-log-max-files=3 --image-gc-high-threshold=70 \
                    --image-gc-low-threshold=60 --minimum-image-ttl-duration=1h --eviction-soft=pid.available<10% \
                    --eviction-soft-grace-period=pid.available=1m --eviction-max-pod-grace-period=20 \
                    --kube-reserved=cpu=100m,memory=1Gi --system-reserved=cpu=1";
        let tuning = read(text).unwrap();
        assert_eq!((tuning.pod_pids_limit, tuning.eviction.thresholds.len()), (-1, 3));
        assert_eq!((tuning.log_rotation.max_size, tuning.log_rotation.max_files), (1 << 20, 3));
        assert_eq!((tuning.image_gc.high_percent, tuning.image_gc.low_percent), (70, 60));
        assert_eq!(tuning.image_gc.min_age.as_secs(), 3600);
        assert_eq!(
            (tuning.eviction.max_pod_grace, tuning.reserved.milli_cpu, tuning.reserved.memory),
            (20, 1100, 1 << 30)
        );
        let wrong = "--eviction-hard=nonsense<1 --container-log-max-files=1 --container-log-max-size=much \
                     --image-gc-low-threshold=90 --eviction-soft=memory.available<1Mi --kube-reserved=pid=10";
        assert_eq!(read(wrong).unwrap_err().len(), 6, "{:?}", read(wrong));
    }
}
