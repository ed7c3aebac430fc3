//! The executable under test, as somebody on the machine starts and ends it: on its default paths and ports.

use crate::http::Api;
use crate::image;
use crate::world::World;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// Where `skiff server` writes the administrator's kubeconfig.
pub(crate) const KUBECONFIG: &str = "/etc/kubernetes/admin.conf";

/// How long a start may take in a debug build on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A server with its node.
pub(crate) struct Cluster {
    executable: PathBuf,
    /// Beside `server`.
    arguments: Vec<String>,
    log: PathBuf,
    server: Child,
    /// Known from the first start on.
    pub(crate) api: Api,
}

/// Asks until there is an answer; panics with `what` after `limit`.
pub(crate) fn wait<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn spawn(executable: &Path, arguments: &[String], log: &Path) -> Child {
    let file = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(executable);
    command.arg("server").args(arguments).stdout(file.try_clone().unwrap()).stderr(file);
    command.spawn().unwrap()
}

impl Cluster {
    /// Starts `skiff server` and waits until it says that it is ready.
    pub(crate) fn start(world: &World) -> Self {
        Self::start_with(world, &[])
    }

    /// As [`Cluster::start`], with flags.
    pub(crate) fn start_with(world: &World, arguments: &[&str]) -> Self {
        let log = world.dir.join("server.log");
        let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
        let mut server = spawn(&world.executable, &arguments, &log);
        wait("the administrator's kubeconfig", START, || {
            let ended = server.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {ended:?}");
            std::fs::read_to_string(KUBECONFIG).is_ok_and(|text| text.contains("client-key-data")).then_some(())
        });
        let api = Api::from_kubeconfig(Path::new(KUBECONFIG), SocketAddr::from(([127, 0, 0, 1], 6443)));
        let cluster = Self { executable: world.executable.clone(), arguments, log, server, api };
        cluster.wait_ready();
        cluster
    }

    /// Starts it, waits for node and DNS, and brings an image `localhost/web:1`.
    pub(crate) fn with_images(world: &World) -> Self {
        let cluster = Self::start(world);
        cluster.node_ready();
        cluster.dns_ready();
        cluster.import(world, "1");
        cluster
    }

    /// Imports an image `localhost/web:VERSION`.
    pub(crate) fn import(&self, world: &World, version: &str) {
        self.import_into(world, version, "/var/lib/skiff");
    }

    /// The same for a node with a data directory of its own.
    pub(crate) fn import_into(&self, world: &World, version: &str, data: &str) {
        let archive = world.dir.join(format!("web-{version}.tar"));
        image::write(&archive, &format!("localhost/web:{version}"), version);
        self.skiff_ok(&["image", "import", "--data-dir", data, archive.to_str().expect("text")]);
    }

    /// Waits until it answers.
    pub(crate) fn wait_ready(&self) {
        wait("/readyz", START, || self.api.get("/readyz").ok().filter(|answer| answer.code == 200));
    }

    /// Whether the node takes pods, and why not.
    pub(crate) fn node_condition(&self) -> Option<Value> {
        let node = self.api.get("/api/v1/nodes/node1").ok()?.json();
        let conditions = node["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|one| one["type"] == "Ready")
    }

    /// Waits until the node takes pods.
    pub(crate) fn node_ready(&self) {
        wait("the node", START, || self.node_condition().filter(|ready| ready["status"] == "True"));
    }

    /// Waits until the cluster's DNS is up.
    pub(crate) fn dns_ready(&self) {
        wait("DNS", START, || {
            let set = self.api.get("/apis/apps/v1/namespaces/kube-system/deployments/skiff-dns").ok()?.json();
            (set["status"]["availableReplicas"] == 1).then_some(())
        });
    }

    /// Ends it as a power cut of the process would: nothing is written, told or waited for.
    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Ends it in order; how long that took.
    pub(crate) fn terminate(&mut self) -> Duration {
        let start = Instant::now();
        rustix::process::kill_process(Pid::from_child(&self.server), Signal::TERM).unwrap();
        let status = wait("the server's end", Duration::from_secs(40), || self.server.try_wait().unwrap());
        assert!(status.success(), "the server ended with {status}");
        start.elapsed()
    }

    /// Starts it again on what the last one left.
    pub(crate) fn spawn_again(&mut self) {
        self.server = spawn(&self.executable, &self.arguments, &self.log);
    }

    /// Starts it again and waits until it is ready.
    pub(crate) fn start_again(&mut self) {
        self.spawn_again();
        self.wait_ready();
    }

    /// Runs another command of the executable.
    pub(crate) fn skiff(&self, arguments: &[&str]) -> Output {
        Command::new(&self.executable).args(arguments).output().unwrap()
    }

    /// Runs another command of the executable, which has to succeed.
    pub(crate) fn skiff_ok(&self, arguments: &[&str]) -> String {
        let output = self.skiff(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "skiff {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Lines of the log that say a panic, an ERROR or a WARN, save those that contain one of `expected`.
    pub(crate) fn complaints(&self, expected: &[&str]) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap();
        let bad = |line: &&str| line.contains(" ERROR ") || line.contains(" WARN ") || line.contains("panicked at");
        let known = |line: &&str| expected.iter().any(|text| line.contains(text));
        log.lines().filter(bad).filter(|line| !known(line)).map(str::to_owned).collect()
    }
}
