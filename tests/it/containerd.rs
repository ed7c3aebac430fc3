//! The cluster on somebody else's container runtime: Debian's containerd, with Debian's network plug-ins, behind
//! `--container-runtime-endpoint`.

use crate::cluster::{Cluster, wait};
use crate::http::{As, fetch};
use crate::image;
use crate::kubectl;
use crate::leftovers;
use crate::workload::{MINUTE, PODS, SERVICES, SETS, available, delete_all, items, lives_of, must, serve, text};
use crate::world::{World, hold, within};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const SOCKET: &str = "/run/containerd/containerd.sock";

/// Where Debian, and where everybody else, puts the network plug-ins.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Routed pairs of links, as with the built-in pod network: on a bridge, an answer takes a short cut around the NAT of
/// services unless a module of the kernel hands frames to it.
const NETWORK: &str = r#"{
  "cniVersion": "1.0.0", "name": "test",
  "plugins": [{"type": "ptp", "ipam": {
    "type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]
  }}]
}"#;

fn plugins() -> Option<&'static str> {
    PLUGINS
        .into_iter()
        .find(|directory| ["ptp", "host-local", "loopback"].iter().all(|one| Path::new(directory).join(one).exists()))
}

/// What is not on this machine.
fn missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &&str| std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    match ["containerd", "ctr", "containerd-shim-runc-v2", "runc"].into_iter().find(|program| !found(program)) {
        Some(program) => Some(format!("no {program} (packages containerd, runc)")),
        None if plugins().is_none() => Some("no network plug-ins (package containernetworking-plugins)".to_owned()),
        None => None,
    }
}

/// containerd on its default paths, which are the world's own.
struct Containerd {
    config: PathBuf,
    /// Directory of network lists.
    network: PathBuf,
    log: PathBuf,
    process: Child,
}

fn spawn(config: &Path, log: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new("containerd");
    let process = command.arg("--config").arg(config).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    wait("containerd", MINUTE, || ctr(&["version"]).ok());
    process
}

fn ctr(arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new("ctr").args(["--address", SOCKET, "--namespace", "k8s.io"]).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Containerd {
    fn start(world: &World) -> Self {
        let network = world.dir.join("cni");
        std::fs::create_dir(&network).unwrap();
        let config = world.dir.join("containerd.toml");
        let text = format!(
            r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "localhost/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {:?}
    conf_dir = {network:?}
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
"#,
            plugins().expect("looked for before"),
        );
        std::fs::write(&config, text).unwrap();
        let log = world.dir.join("containerd.log");
        let this = Self { process: spawn(&config, &log), config, log, network };
        let archive = world.dir.join("image.tar");
        for (name, command) in [("localhost/pause:1", &["sleep", "1000000"][..]), ("localhost/web:1", &["sh"])] {
            image::write_running(&archive, name, "1", command);
            ctr(&["images", "import", archive.to_str().expect("text")]).unwrap();
        }
        this
    }

    /// Ends it without a word: its containers have shims of their own.
    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = spawn(&self.config, &self.log);
    }
}

/// A failed test can be looked at, and says what containerd said.
impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            hold();
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let bad: Vec<&str> = log.lines().filter(|line| !line.contains("level=info")).collect();
            println!("--- containerd's complaints:\n{}", bad[bad.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Ids of containers, of sandboxes too.
fn containers() -> Vec<String> {
    ctr(&["containers", "list", "--quiet"]).unwrap().lines().map(str::to_owned).collect()
}

/// Addresses that the plug-in has given away.
fn addresses() -> usize {
    let files = std::fs::read_dir("/var/lib/cni/networks/test").into_iter().flatten().flatten();
    files.filter(|file| file.file_name().to_string_lossy().starts_with("10.")).count()
}

#[test]
fn the_cluster_runs_on_containerd() {
    within("containerd::the_cluster_runs_on_containerd", 300, |world| {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return;
        }
        let mut containerd = Containerd::start(world);
        let empty = leftovers::count();
        let start = Instant::now();
        let endpoint = format!("unix://{SOCKET}");
        let mut cluster = Cluster::start_with(world, &["--container-runtime-endpoint", &endpoint]);
        println!("serves after {:?}", start.elapsed());
        let wanted = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady ";
        wait("a node without a network", MINUTE, || {
            cluster.node_condition()?["message"].as_str()?.starts_with(wanted).then_some(())
        });
        std::fs::write(containerd.network.join("10-test.conflist"), NETWORK).unwrap();
        let given = Instant::now();
        cluster.node_ready();
        assert!(
            given.elapsed() < Duration::from_secs(5),
            "a node that can take pods says so at once: {:?}",
            given.elapsed()
        );
        println!("node ready after {:?}", start.elapsed());
        dns_is_pulled(&cluster);
        println!("DNS ready after {:?}", start.elapsed());
        let (before, own) = (leftovers::count(), containers());
        assert_eq!((own.len(), addresses()), (2, 1), "sandbox and container of the DNS");

        let api = cluster.api.clone();
        let address = serve(&api, "web", 2);
        println!("a service answers after {:?}", start.elapsed());
        by_kubectl(&cluster);

        let lives = lives_of(&api, "web");
        assert!(lives.values().all(|(_, id, restarts)| id.starts_with("containerd://") && *restarts == 0), "{lives:?}");
        cluster.terminate();
        assert!(
            fetch(&address, "/version").is_ok_and(|page| page.ends_with("\r\n1\n")),
            "pods serve without the server"
        );
        containerd.stop();
        // It waits for its runtime, and the API does not.
        cluster.start_again();
        containerd.start_again();
        must(api.request(As::Admin, "PATCH", &format!("{SETS}/web"), Some(&json!({"spec": {"replicas": 3}}))).unwrap());
        available(&api, "web", 3);
        containerd.stop();
        wait("a node without a runtime", MINUTE, || {
            let ready = cluster.node_condition()?;
            let down = ready["message"].as_str()?.starts_with("container runtime is down");
            (ready["status"] == "False" && down).then_some(())
        });
        containerd.start_again();
        cluster.node_ready();
        let after = lives_of(&api, "web");
        assert!(lives.iter().all(|(name, life)| after.get(name) == Some(life)), "{lives:?} go on: {after:?}");

        delete_all(&api, &["web".to_owned()]);
        must(api.request(As::Admin, "DELETE", &format!("{SERVICES}/web"), None).unwrap());
        leftovers::settle(&before);
        assert_eq!(containers(), own);
        assert_eq!(addresses(), 1);
        // While containerd is gone, whoever asks it says so.
        let complaints = cluster.complaints(&[" WARN "]);
        assert!(complaints.is_empty(), "the server complained:\n{}", complaints.join("\n"));

        cluster.terminate();
        cluster.skiff_ok(&[
            "cleanup",
            "--data",
            "--yes",
            "--grace-period=1",
            "--container-runtime-endpoint",
            &endpoint,
        ]);
        leftovers::settle(&empty);
        assert_eq!((containers(), addresses()), (Vec::new(), 0));
    });
}

/// The cluster's DNS is the executable's own image, which containerd has pulled by digest from the server's registry.
fn dns_is_pulled(cluster: &Cluster) {
    cluster.dns_ready();
    let pods = items(&cluster.api, "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dkube-dns");
    let wanted = text(&pods[0], "/spec/containers/0/image");
    assert!(wanted.starts_with("localhost:10261/"), "{wanted}");
    assert_eq!(text(&pods[0], "/status/containerStatuses/0/imageID"), wanted);
    assert!(ctr(&["images", "list", "--quiet"]).unwrap().lines().any(|name| name == wanted));
}

/// A name, exec, logs of what runs and of what has ended, attach to a pod of one command.
fn by_kubectl(cluster: &Cluster) {
    let Some(kubectl) = kubectl::all().into_iter().next() else {
        println!("skipped in part: no kubectl");
        return;
    };
    for name in ["web", "web.default.svc.cluster.local"] {
        let url = format!("http://{name}/version");
        assert_eq!(kubectl.ok(&["exec", "deployment/web", "--", "wget", "-qO-", &url]), "1\n");
    }
    let failed = kubectl.run(&["exec", "deployment/web", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((failed.code, failed.out.as_str()), (Some(7), "out\n"), "{failed:?}");
    assert!(failed.err.contains("err\n"), "{failed:?}");
    assert_eq!(kubectl.feed_ok(&["exec", "-i", "deployment/web", "--", "cat"], "words\n"), "words\n");
    kubectl.ok(&[
        "run",
        "once",
        "--image=localhost/web:1",
        "--restart=Never",
        "--",
        "sh",
        "-c",
        "echo last words; exit 3",
    ]);
    let once = wait("a pod that fails", MINUTE, || {
        let pod = cluster.api.get(&format!("{PODS}/once")).ok()?.json();
        (text(&pod, "/status/phase") == "Failed").then_some(pod)
    });
    let ended = &once["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(3), &json!("Error")), "{once}");
    assert_eq!(kubectl.ok(&["logs", "once"]), "last words\n");
    kubectl.ok(&["delete", "pod", "once", "--timeout=30s"]);
    let port = kubectl.spawn(&["port-forward", "deployment/web", "18080:8080"]);
    wait("an answer of the forwarded port", Duration::from_secs(20), || {
        fetch("127.0.0.1:18080", "/version").ok().filter(|page| page.ends_with("\r\n1\n"))
    });
    drop(port);
}
