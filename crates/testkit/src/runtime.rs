//! Real containers: the embedded runtime on a temporary directory with one image, and a count of what it leaves behind.

use crate::eventually;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skiff_base::clock::SystemClock;
use skiff_base::task::Supervisor;
use skiff_cri::RuntimeService;
use skiff_cri::v1::*;
use skiff_runtime::{DirImages, EmbeddedRuntime, ImageConfig, NoNetwork, RuntimeConfig};

static NUMBER: AtomicU32 = AtomicU32::new(0);
const BUSYBOX: &str = "/bin/busybox";

/// A runtime of one test. When this is dropped nothing of it stays on the machine, also after a panic.
pub struct Fixture {
    /// The runtime.
    pub runtime: EmbeddedRuntime,
    /// Its directory.
    pub root: PathBuf,
    /// The parent of its pods' cgroups.
    pub cgroup: String,
    /// Owns its tasks.
    pub tasks: Supervisor,
    _dir: Arc<tempfile::TempDir>,
}

/// Whether real containers can be made here; says why not.
fn possible() -> bool {
    if !rustix::process::getuid().is_root() {
        println!("skipped: not root");
        return false;
    }
    if !Path::new(BUSYBOX).exists() {
        println!("skipped: no static {BUSYBOX} (package busybox-static)");
        return false;
    }
    true
}

/// A root file system of busybox and its links.
fn busybox_layer(dir: &Path) -> PathBuf {
    let layer = dir.join("layer");
    for part in ["bin", "etc", "tmp", "proc", "root"] {
        std::fs::create_dir_all(layer.join(part)).unwrap();
    }
    std::fs::copy(BUSYBOX, layer.join("bin/busybox")).unwrap();
    let applets = [
        "sh", "cat", "echo", "ls", "id", "sleep", "true", "false", "mount", "ps", "hostname", "touch", "dd",
        "readlink", "mknod", "unshare", "head", "stat", "grep", "tail", "nc", "tty", "stty", "env", "pwd", "kill",
        "wc",
    ];
    for applet in applets {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    std::fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1001:1002::/srv:/bin/sh\n").unwrap();
    std::fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:1002:\nextra:x:1003:web\n").unwrap();
    layer
}

async fn open(root: &Path, layer: &Path, tasks: Supervisor) -> EmbeddedRuntime {
    let images = DirImages::new();
    images.add("busybox", ImageConfig { cmd: vec!["sh".into()], ..ImageConfig::default() }, vec![layer.to_owned()]);
    let config = RuntimeConfig {
        root: root.to_owned(),
        images: Arc::new(images),
        network: Arc::new(NoNetwork),
        clock: SystemClock::shared(),
        tasks,
    };
    EmbeddedRuntime::open(config).await.unwrap()
}

impl Fixture {
    /// `None` where real containers cannot be made; it said why.
    pub async fn new() -> Option<Self> {
        Self::with_layer(|_| {}).await
    }

    /// The same, after a change of the image's layer.
    pub async fn with_layer(change: impl FnOnce(&Path)) -> Option<Self> {
        if !possible() {
            return None;
        }
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let layer = busybox_layer(dir.path());
        change(&layer);
        // Everybody in a container may enter it.
        std::fs::set_permissions(&layer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let root = dir.path().join("state");
        let tasks = Supervisor::new("runtime-test");
        let runtime = open(&root, &layer, tasks.clone()).await;
        let cgroup = format!("/skiff-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        Some(Self { runtime, root, cgroup, tasks, _dir: dir })
    }

    /// A runtime on a directory that another process's fixture has made and will clean up.
    pub async fn on(root: PathBuf, cgroup: String) -> Self {
        let layer = root.parent().unwrap().join("layer");
        let tasks = Supervisor::new("runtime-test");
        let runtime = open(&root, &layer, tasks.clone()).await;
        Self { runtime, root, cgroup, tasks, _dir: Arc::new(tempfile::tempdir().unwrap()) }
    }

    /// Lets go of the runtime, as its end would.
    pub async fn let_go(&mut self) {
        self.tasks.shutdown(Duration::from_secs(5)).await;
        self.tasks = Supervisor::new("runtime-test");
        // The lock on the directory goes with the runtime, in whose place another stands for the moment.
        let empty = tempfile::tempdir().unwrap();
        self.runtime = open(empty.path(), &self.root.parent().unwrap().join("layer"), self.tasks.clone()).await;
    }

    /// Opens a new one on the same directory.
    pub async fn reopen(&mut self) {
        self.runtime = open(&self.root, &self.root.parent().unwrap().join("layer"), self.tasks.clone()).await;
    }

    /// A pod with a process namespace for each container, in the test's cgroup.
    pub fn sandbox_config(&self, name: &str) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata {
            name: name.into(),
            uid: format!("{name}-uid"),
            namespace: "default".into(),
            attempt: 0,
        };
        let options = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
        let context = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = LinuxPodSandboxConfig {
            cgroup_parent: self.cgroup.clone(),
            security_context: Some(context),
            ..Default::default()
        };
        PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.into(),
            log_directory: self.root.join("../logs").join(name).display().to_string(),
            labels: HashMap::from([("pod".to_owned(), name.to_owned())]),
            linux: Some(linux),
            ..Default::default()
        }
    }

    /// Runs a pod's sandbox; its id and configuration.
    pub async fn pod(&self, name: &str) -> (String, PodSandboxConfig) {
        let config = self.sandbox_config(name);
        (self.run(&config).await, config)
    }

    /// Runs a sandbox; its id.
    pub async fn run(&self, config: &PodSandboxConfig) -> String {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        self.runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id
    }

    /// Creates a container; its id.
    pub async fn create(
        &self,
        pod: &(String, PodSandboxConfig),
        config: ContainerConfig,
    ) -> Result<String, skiff_cri::CriError> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.0.clone(),
            config: Some(config),
            sandbox_config: Some(pod.1.clone()),
        };
        Ok(self.runtime.create_container(request).await?.container_id)
    }

    /// Starts a container.
    pub async fn start(&self, id: &str) -> Result<(), skiff_cri::CriError> {
        self.runtime.start_container(StartContainerRequest { container_id: id.into() }).await.map(drop)
    }

    /// Creates and starts a container; its id.
    pub async fn started(&self, pod: &(String, PodSandboxConfig), config: ContainerConfig) -> String {
        let id = self.create(pod, config).await.unwrap();
        self.start(&id).await.unwrap();
        id
    }

    /// What the runtime says of a container.
    pub async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.runtime.container_status(request).await.unwrap().status.unwrap()
    }

    /// Waits for a container's end.
    pub async fn exited(&self, id: &str) -> ContainerStatus {
        let look = async || {
            let status = self.status(id).await;
            if status.state() == ContainerState::ContainerExited { Ok(status) } else { Err(status) }
        };
        eventually("the container's end", look).await
    }

    /// Waits until a container's log holds a text; returns the log.
    pub async fn logged(&self, id: &str, text: &str) -> String {
        let status = self.status(id).await;
        let look = async || {
            let log = self.log(&status);
            if log.contains(text) { Ok(log) } else { Err(log) }
        };
        eventually(&format!("{text:?} in the log"), look).await
    }

    /// Runs a shell line in a container of its own; its exit code and log.
    pub async fn script(&self, pod: &(String, PodSandboxConfig), name: &str, line: &str) -> (i32, String) {
        let id = self.started(pod, shell(name, line)).await;
        let status = self.exited(&id).await;
        (status.exit_code, self.log(&status))
    }

    /// The text of a log, without times, streams and tags.
    pub fn log(&self, status: &ContainerStatus) -> String {
        let text = std::fs::read_to_string(&status.log_path).unwrap();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    /// Runs a shell line in a running container; its exit code and what it wrote.
    pub async fn exec(&self, id: &str, line: &str) -> Result<(i32, String), skiff_cri::CriError> {
        let cmd = ["sh", "-c", line].map(str::to_owned).to_vec();
        let answer = self.runtime.exec_sync(ExecSyncRequest { container_id: id.into(), cmd, timeout: 10 }).await?;
        Ok((
            answer.exit_code,
            String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr),
        ))
    }

    /// Stops and removes a pod.
    pub async fn remove(&self, sandbox: &str) {
        self.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.into() }).await.unwrap();
        self.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() }).await.unwrap();
    }

    /// What is left of us on the host: mounts, cgroup directories, shims, directories.
    pub fn leftovers(&self) -> Vec<String> {
        let root = self.root.display().to_string();
        let mut left: Vec<String> = std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .filter(|line| line.contains(&root))
            .map(|line| format!("mount {line}"))
            .collect();
        let hierarchy = skiff_linux::cgroup::Hierarchy::detect().unwrap();
        for directory in hierarchy.at(Path::new(&self.cgroup)).unwrap().directories() {
            let below = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            left.extend(
                below.filter(|e| e.file_type().unwrap().is_dir()).map(|e| format!("cgroup {}", e.path().display())),
            );
        }
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            if line.starts_with("skiff-shim") && line.contains(&root) {
                left.push(format!("process {}", process.path().display()));
            }
        }
        for part in ["sandboxes", "containers"] {
            left.extend(
                std::fs::read_dir(self.root.join(part)).unwrap().flatten().map(|e| e.path().display().to_string()),
            );
        }
        left
    }

    /// Waits until nothing is left.
    pub async fn assert_nothing_left(&self) {
        let look = async || {
            let left = self.leftovers();
            if left.is_empty() { Ok(()) } else { Err(left) }
        };
        eventually("nothing to be left behind", look).await;
    }
}

impl Drop for Fixture {
    /// Also after a panic nothing may stay on the machine.
    #[expect(clippy::disallowed_methods, reason = "runs in a drop, where nothing else can go on")]
    fn drop(&mut self) {
        let hierarchy = skiff_linux::cgroup::Hierarchy::detect().unwrap();
        let root = self.root.display().to_string();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            if line.starts_with("skiff-shim")
                && line.contains(&root)
                && let Some(pid) = process.file_name().to_str().and_then(|pid| pid.parse().ok())
            {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let ours = hierarchy.at(Path::new(&self.cgroup)).unwrap();
        for directory in ours.directories() {
            for below in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if below.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let child = hierarchy.at(&Path::new(&self.cgroup).join(below.file_name())).unwrap();
                    for _ in 0..100 {
                        drop(child.kill());
                        if child.remove().unwrap_or(true) {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
        }
        drop(ours.remove());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        for target in
            mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|target| target.starts_with(&root))
        {
            drop(skiff_linux::mount::detach(Path::new(target)));
        }
    }
}

/// A container that runs a shell line, confined as the kubelet confines by default.
pub fn shell(name: &str, line: &str) -> ContainerConfig {
    let seccomp =
        SecurityProfile { profile_type: security_profile::ProfileType::RuntimeDefault.into(), ..Default::default() };
    let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let context = LinuxContainerSecurityContext {
        namespace_options: Some(NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() }),
        seccomp: Some(seccomp),
        masked_paths: list(&["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/acpi"]),
        readonly_paths: list(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        ..Default::default()
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: "busybox".into(), ..Default::default() }),
        command: ["sh", "-c", line].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig { security_context: Some(context), resources: None }),
        ..Default::default()
    }
}
