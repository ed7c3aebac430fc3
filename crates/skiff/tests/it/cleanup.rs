//! `skiff cleanup` on real pods: what it counts before, and that nothing is left after.

use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_cni::{PodNetwork as CniNetwork, PodNetworkConfig, PortMapping, SetupRequest};
use skiff_cri::RuntimeService;
use skiff_cri::v1::*;
use skiff_linux::cgroup::Hierarchy;
use skiff_linux::conntrack::Conntrack;
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::RouteSocket;
use skiff_linux::nft::{Batch, Family, Nft, Table};
use skiff_linux::{mount, procfs};
use skiff_runtime::{
    DirImages, EmbeddedRuntime, ImageConfig, NetworkError, NetworkFuture, PodNetwork, PodNetworkRequest, RuntimeConfig,
};
use skiff_testkit::until;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

const BUSYBOX: &str = "/bin/busybox";

/// The built-in network, as a node has it.
struct Network(Arc<CniNetwork>);

impl PodNetwork for Network {
    fn setup(&self, request: PodNetworkRequest) -> NetworkFuture<'_, Vec<IpAddr>> {
        Box::pin(async move {
            let ports = [PortMapping { host_port: 8080, container_port: 80, protocol: 6, host_ip: None }];
            let ports = if request.name == "first" { &ports[..] } else { &[] };
            let setup =
                SetupRequest { container_id: &request.sandbox_id, netns: &request.netns, ifname: "eth0", ports };
            self.0.setup(&setup).map(|made| made.ips).map_err(|error| NetworkError(error.to_string()))
        })
    }
    fn teardown(&self, request: PodNetworkRequest) -> NetworkFuture<'_, ()> {
        let torn = self.0.teardown(&request.sandbox_id, "eth0").map_err(|error| NetworkError(error.to_string()));
        Box::pin(std::future::ready(torn))
    }
}

/// What there is on the machine of the kinds that a pod adds to.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    processes: usize,
    mounts: usize,
    links: usize,
    rules: usize,
    tables: usize,
    cgroups: usize,
    logs: usize,
}

struct World {
    base: PathBuf,
    data_dir: PathBuf,
    cgroup: String,
}

/// A root of its own for the pods of the test in this directory.
fn cgroup_of(base: &Path) -> String {
    format!("/skiff-cleanup-{}", base.file_name().unwrap().to_str().unwrap().trim_start_matches('.'))
}

fn directories_below(path: &Path) -> usize {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().unwrap().is_dir()).map(|e| 1 + directories_below(&e.path())).sum()
}

impl World {
    fn new(base: &Path) -> Self {
        let data_dir = base.join("data");
        for part in ["store", "images", "pki", "kubelet/pki"] {
            std::fs::create_dir_all(data_dir.join(part)).unwrap();
            std::fs::write(data_dir.join(part).join("kept"), "kept").unwrap();
        }
        std::fs::write(data_dir.join("store/FORMAT"), "1").unwrap();
        std::fs::create_dir_all(base.join("logs")).unwrap();
        Self { base: base.to_owned(), data_dir, cgroup: cgroup_of(base) }
    }

    /// Of this test only: other tests run beside it.
    fn count(&self) -> Counts {
        let base = self.base.to_str().unwrap();
        let of_pod = |process: &procfs::Process| {
            let in_cgroup =
                process.cgroups().is_ok_and(|paths| paths.iter().any(|path| path.starts_with(&self.cgroup)));
            let is_shim = process.arguments().first().is_some_and(|name| name == "skiff-shim");
            let is_ours =
                in_cgroup || is_shim && process.arguments().iter().any(|word| word.to_str().unwrap().starts_with(base));
            // Not what only waits for the machine's init to look at it.
            is_ours && process.is_running()
        };
        let hierarchy = Hierarchy::detect().unwrap();
        let cgroups = hierarchy.at(Path::new(&self.cgroup)).unwrap().directories();
        let mut nft = Nft::open().unwrap();
        let tables = nft.tables().unwrap();
        let rules = [Family::Inet, Family::Ip, Family::Ip6].iter().flat_map(|family| {
            let names = ["skiff-cni-skiff", "kube-proxy"].into_iter().map(|name| Table { family: *family, name });
            names.filter(|table| tables.iter().any(|t| t.name == table.name && t.family == table.family as u8))
        });
        Counts {
            processes: procfs::processes().unwrap().iter().filter(|process| of_pod(process)).count(),
            mounts: mount::mounts().unwrap().iter().filter(|mount| mount.target.starts_with(base)).count(),
            links: RouteSocket::open().unwrap().links().unwrap().len(),
            rules: rules.map(|table| Nft::open().unwrap().count_rules(table).unwrap()).sum(),
            tables: tables.len(),
            cgroups: cgroups.iter().filter(|top| top.is_dir()).map(|top| 1 + directories_below(top)).sum(),
            logs: std::fs::read_dir(self.base.join("logs")).unwrap().count(),
        }
    }

    fn cleanup(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
        command.arg("cleanup").arg("--data-dir").arg(&self.data_dir).args(["--grace-period", "5"]);
        command.args(["--cgroup-root", &self.cgroup]).arg("--pod-logs-dir").arg(self.base.join("logs"));
        command.args(more).stdin(std::process::Stdio::null()).output().unwrap()
    }

    fn cleaned(&self, more: &[&str]) -> String {
        let output = self.cleanup(more);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn layer(&self) -> PathBuf {
        let layer = self.base.join("layer");
        for part in ["bin", "proc", "tmp"] {
            std::fs::create_dir_all(layer.join(part)).unwrap();
        }
        if !layer.join("bin/sh").exists() {
            std::fs::copy(BUSYBOX, layer.join("bin/sh")).unwrap();
            for applet in ["sleep", "touch"] {
                std::os::unix::fs::symlink("sh", layer.join("bin").join(applet)).unwrap();
            }
        }
        layer
    }

    async fn runtime(&self, tasks: &Supervisor) -> EmbeddedRuntime {
        let images = DirImages::new();
        images.add("busybox", ImageConfig::default(), vec![self.layer()]);
        let config = PodNetworkConfig {
            name: "skiff".into(),
            ranges: vec!["10.244.7.0/24".parse().unwrap()],
            cluster_cidrs: Vec::new(),
            mtu: 1400,
            masquerade: true,
            data_dir: self.data_dir.join("network"),
        };
        let network = CniNetwork::open(config).unwrap();
        network.prepare_node().unwrap();
        let opened = EmbeddedRuntime::open(RuntimeConfig {
            root: self.data_dir.join("runtime"),
            images: Arc::new(images),
            network: Arc::new(Network(Arc::new(network))),
            clock: SystemClock::shared(),
            tasks: tasks.clone(),
        });
        opened.await.unwrap()
    }

    async fn pod(&self, runtime: &EmbeddedRuntime, name: &str, pid: NamespaceMode, line: &str) {
        let options = NamespaceOption { pid: pid.into(), ..Default::default() };
        let context = LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..Default::default() };
        let metadata = PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), ..Default::default() };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            log_directory: self.base.join("logs").join(format!("ns_{name}_uid-{name}")).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/besteffort/poduid-{name}", self.cgroup),
                security_context: Some(context),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let pod_sandbox_id = runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
        let context = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
        let config_of_container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(ImageSpec { image: "busybox".into(), ..Default::default() }),
            command: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
            log_path: "c/0.log".into(),
            mounts: vec![Mount {
                container_path: "/out".into(),
                host_path: self.base.display().to_string(),
                ..Default::default()
            }],
            linux: Some(LinuxContainerConfig { security_context: Some(context), resources: None }),
            ..Default::default()
        };
        let request =
            CreateContainerRequest { pod_sandbox_id, config: Some(config_of_container), sandbox_config: Some(config) };
        let container_id = runtime.create_container(request).await.unwrap().container_id;
        runtime.start_container(StartContainerRequest { container_id }).await.unwrap();
    }

    /// Pods with all that a node adds for them; whoever made them is gone afterwards.
    async fn pods(&self) {
        let tasks = Supervisor::new("test");
        let runtime = self.runtime(&tasks).await;
        let polite = "trap 'echo bye > /out/bye; exit 0' TERM; touch /out/up; sleep 1000 & wait";
        self.pod(&runtime, "first", NamespaceMode::Container, polite).await;
        self.pod(&runtime, "second", NamespaceMode::Pod, "sleep 1000 & exec sleep 1000").await;
        self.pod(&runtime, "ended", NamespaceMode::Container, "exit 3").await;
        // The trap is set, and the shim of the ended one has put away its cgroup.
        let ended = Hierarchy::detect().unwrap().at(Path::new(&format!("{}/besteffort/poduid-ended", self.cgroup)));
        let ended = ended.unwrap().directories();
        until("one trap, and no cgroup of the other", async || {
            self.base.join("up").exists() && ended.iter().all(|top| directories_below(top) == 0)
        })
        .await;
        let volume = self.data_dir.join("kubelet/pods/uid-first/volumes/kubernetes.io~secret/token");
        std::fs::create_dir_all(&volume).unwrap();
        let tmpfs = mount::new_fs("tmpfs", &[("size", "64k")], mount::Attr::empty()).unwrap();
        mount::attach(tmpfs, std::fs::File::open(&volume).unwrap()).unwrap();
        let mut batch = Batch::new();
        for family in [Family::Ip, Family::Ip6] {
            batch.add_table(Table { family, name: "kube-proxy" });
        }
        Nft::open().unwrap().commit(batch).unwrap();
        let refused = self.cleanup(&["--yes"]);
        let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && reason.contains(&format!("(process {})", std::process::id())), "{reason}");
        tasks.shutdown(Duration::from_secs(5)).await;
    }

    fn is_kept(&self) -> bool {
        let parts = ["store", "images", "pki", "kubelet/pki"];
        parts.iter().all(|part| self.data_dir.join(part).join("kept").exists())
    }
}

/// Where tracked UDP flows to port 9 go.
fn tracked() -> Vec<String> {
    let flows = Conntrack::open().unwrap().flows(false, 17, |flow| flow.original.destination.port() == 9).unwrap();
    let mut to: Vec<String> = flows.iter().map(|flow| flow.original.destination.to_string()).collect();
    to.sort();
    to
}

async fn in_own_namespace(base: &Path) {
    let mut host = RouteSocket::open().unwrap();
    let lo = host.link("lo").unwrap().unwrap().index;
    host.set_up(lo).unwrap();
    let world = World::new(base);
    let before = world.count();
    assert!(world.cleaned(&["--yes"]).starts_with("nothing of skiff's pods"));

    // A directory of somebody else's, mistaken for ours.
    let other = World { data_dir: base.join("other"), base: base.to_owned(), cgroup: cgroup_of(base) };
    std::fs::create_dir_all(other.data_dir.join("run")).unwrap();
    std::fs::write(other.data_dir.join("precious"), "").unwrap();
    let refused = other.cleanup(&["--yes", "--data"]);
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && reason.contains("is no data directory of skiff's"), "{reason}");
    assert!(other.data_dir.join("run").is_dir() && other.data_dir.join("precious").exists());

    // The ordinary case.
    world.pods().await;
    let full = world.count();
    // The kernel tracks what is sent to a pod, and what has nothing to do with pods.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    for to in ["10.244.7.1:9", "127.0.0.1:9"] {
        socket.send_to(b"x", to).unwrap();
    }
    assert_eq!(tracked(), ["10.244.7.1:9", "127.0.0.1:9"]);
    assert!(full.processes >= 5 && full.mounts == 10 && full.cgroups > 3 && full.rules > 5, "{full:?}");
    assert_eq!((full.links, full.tables, full.logs), (before.links + 3, before.tables + 3, 3), "{full:?}");
    let shown = world.cleaned(&["--dry-run"]);
    for line in [
        "   3 pods: ",
        "   3 links: veth",
        "   3 nftables tables: inet skiff-cni-skiff, ip kube-proxy",
        "   1 tracked connections",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(!world.cleanup(&[]).status.success(), "nobody to ask");
    assert_eq!(world.count(), full, "looking and refusing change nothing");
    world.cleaned(&["--yes"]);
    assert_eq!(world.count(), before);
    assert_eq!(tracked(), ["127.0.0.1:9"]);
    assert_eq!(std::fs::read_to_string(base.join("bye")).unwrap(), "bye\n", "containers are asked to end");
    assert!(world.is_kept());
    assert!(world.cleaned(&["--yes"]).starts_with("nothing of skiff's pods"), "a second time there is nothing");

    // The data directory is removed under running pods; what is mounted there stays.
    std::fs::remove_file(base.join("bye")).unwrap();
    std::fs::remove_file(base.join("up")).unwrap();
    world.pods().await;
    drop(Command::new("rm").arg("-rf").arg(&world.data_dir).output().unwrap());
    let gone = world.count();
    assert!(gone.processes >= 5 && gone.links == full.links && gone.mounts == 10, "{gone:?}");
    world.cleaned(&["--yes"]);
    let after = world.count();
    // Logs of a pod that had ended before can be told by nothing any more.
    assert_eq!((after.logs, Counts { logs: 0, ..after }), (1, before));
    assert_eq!(std::fs::read_to_string(base.join("bye")).unwrap(), "bye\n");

    let world = World::new(base);
    world.pods().await;
    world.cleaned(&["--yes", "--data"]);
    assert!(!world.data_dir.exists());
}

#[test]
fn nothing_is_left() {
    if let Ok(base) = std::env::var("SKIFF_TEST_CLEANUP") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(in_own_namespace(Path::new(&base)));
    }
    if !rustix::process::geteuid().is_root() || !Path::new(BUSYBOX).exists() {
        return println!("skipped: not root, or no static {BUSYBOX} (package busybox-static)");
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    let node = NetNs::create().unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "cleanup::nothing_is_left"]).env("SKIFF_TEST_CLEANUP", &base);
    let output = node.run(move || again.output()).unwrap().unwrap();
    if !output.status.success() {
        sweep(&base);
    }
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}

/// After a failure: what the test has made must not stay on the machine.
fn sweep(base: &Path) {
    let left = skiff_runtime::leftovers::Leftovers::find(&base.join("data/runtime"), |_| false).unwrap();
    let hierarchy = Hierarchy::detect().unwrap();
    left.remove(&hierarchy, Duration::ZERO);
    drop(skiff_runtime::leftovers::remove_idle_cgroup(&hierarchy, Path::new(&cgroup_of(base))));
    for mount in mount::mounts().unwrap().iter().rev().filter(|mount| mount.target.starts_with(base)) {
        mount::detach(&mount.target).unwrap();
    }
}
