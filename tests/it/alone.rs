//! A node of components that run alone, each with the kubeconfig that the server has written for it: kubelet, kube-proxy, DNS.

use crate::cluster::{Cluster, wait};
use crate::http::{As, fetch};
use crate::kubectl;
use crate::leftovers;
use crate::workload::{MINUTE, SERVICES, SETS, available, create, delete_all, items, lives_of, must, serve, text};
use crate::world::{NODE_ADDRESS, World, hold, within};
use rustix::process::{Pid, Signal};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// Beside the server's, which has no node.
const DATA: &str = "/var/lib/node";
const KUBECONFIGS: &str = "/var/lib/skiff/kubeconfig";

/// A component that is started as its users do.
struct Alone {
    executable: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    process: Child,
}

fn spawn(executable: &Path, arguments: &[String], log: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(executable);
    command.args(arguments).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

impl Alone {
    fn start(world: &World, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
        let log = world.dir.join(format!("{}.log", arguments[0]));
        let process = spawn(&world.executable, &arguments, &log);
        Self { executable: world.executable.clone(), arguments, log, process }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = spawn(&self.executable, &self.arguments, &self.log);
    }

    /// Ends it in order.
    fn terminate(&mut self) {
        rustix::process::kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let status = wait("its end", Duration::from_secs(30), || self.process.try_wait().unwrap());
        assert!(status.success(), "{} ended with {status}", self.arguments[0]);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A failed test can be looked at, and says what its components said.
impl Drop for Alone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            hold();
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("--- {}:\n{}", self.arguments[0], lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

fn kubeconfig(name: &str) -> String {
    format!("--kubeconfig={KUBECONFIGS}/{name}.conf")
}

#[test]
fn kubelet_and_proxy_alone_are_a_node() {
    within("alone::kubelet_and_proxy_alone_are_a_node", 300, |world| {
        let mut cluster = Cluster::start_with(world, &["--disable-agent"]);
        let api = cluster.api.clone();
        // Written when everything is up, after the administrator's.
        wait("the node's kubeconfigs", MINUTE, || Path::new(KUBECONFIGS).join("kubelet.crt").exists().then_some(()));
        let empty = leftovers::count();
        let (node_ip, data, config) =
            (format!("--node-ip={NODE_ADDRESS}"), format!("--data-dir={DATA}"), kubeconfig("kubelet"));
        let mut kubelet = Alone::start(
            world,
            &[
                "kubelet",
                &config,
                &data,
                &node_ip,
                "--hostname-override=node1",
                "--cluster-dns=10.96.0.10",
                "--cluster-domain=cluster.local",
                "--max-pods=20",
                "--node-labels=disk=ssd",
                "-v=2",
            ],
        );
        let config = kubeconfig("kube-proxy");
        let mut proxy =
            Alone::start(world, &["kube-proxy", &config, "--hostname-override=node1", "--cluster-cidr=10.244.0.0/16"]);
        cluster.node_ready();
        let node = must(api.get("/api/v1/nodes/node1").unwrap());
        assert_eq!((text(&node, "/metadata/labels/disk"), text(&node, "/status/capacity/pods")), ("ssd", "20"));
        cluster.import_into(world, "1", DATA);
        let before = leftovers::count();
        let address = serve(&api, "web", 2);
        by_kubectl();

        let lives = lives_of(&api, "web");
        kubelet.kill();
        proxy.kill();
        assert!(fetch(&address, "/version").is_ok_and(|page| page.ends_with("\r\n1\n")), "pods and rules stay");
        kubelet.start_again();
        proxy.start_again();
        must(api.request(As::Admin, "PATCH", &format!("{SETS}/web"), Some(&json!({"spec": {"replicas": 3}}))).unwrap());
        available(&api, "web", 3);
        let after = lives_of(&api, "web");
        assert!(lives.iter().all(|(name, life)| after.get(name) == Some(life)), "{lives:?} go on: {after:?}");
        names_are_answered(world, &cluster);
        delete_all(&api, &["web".to_owned()]);
        must(api.request(As::Admin, "DELETE", &format!("{SERVICES}/web"), None).unwrap());
        leftovers::settle(&before);
        for one in [&mut kubelet, &mut proxy] {
            one.terminate();
            let complaints: Vec<String> = one
                .log()
                .lines()
                .filter(|line| line.contains(" ERROR ") || line.contains("panicked"))
                .map(str::to_owned)
                .collect();
            assert!(complaints.is_empty(), "{complaints:?}");
        }
        cluster.skiff_ok(&["cleanup", &data, "--data", "--yes"]);
        cluster.terminate();
        let left = leftovers::count().beyond(&empty);
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    });
}

/// The API server believes the certificate that lies beside the kubeconfig.
fn by_kubectl() {
    let Some(kubectl) = kubectl::all().into_iter().next() else {
        println!("skipped in part: no kubectl");
        return;
    };
    assert_eq!(kubectl.ok(&["exec", "deployment/web", "--", "cat", "/version"]), "1\n");
    kubectl.ok(&["run", "once", "--image=localhost/web:1", "--restart=Never", "--", "echo", "words"]);
    kubectl.ok(&["wait", "pod/once", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s"]);
    assert_eq!(kubectl.ok(&["logs", "once"]), "words\n");
    kubectl.ok(&["delete", "pod", "once", "--timeout=30s"]);
}

/// DNS as a program of its own, asked from a pod.
fn names_are_answered(world: &World, cluster: &Cluster) {
    let admin = format!("--kubeconfig={}", crate::cluster::KUBECONFIG);
    let listen = format!("--listen={NODE_ADDRESS}:53");
    let mut dns = Alone::start(world, &["dns", &admin, &listen]);
    let service = must(cluster.api.get(&format!("{SERVICES}/web")).unwrap());
    let address = text(&service, "/spec/clusterIP").to_owned();
    let line = format!("until nslookup web.default.svc.cluster.local | grep -q {address}; do sleep 0.2; done");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"},
        "spec": {"restartPolicy": "Never", "dnsPolicy": "None", "dnsConfig": {"nameservers": [NODE_ADDRESS]},
            "containers": [{"name": "c", "image": "localhost/web:1", "command": ["sh", "-c", line]}]},
    });
    create(&cluster.api, crate::workload::PODS, &pod);
    wait("an answer of the DNS", MINUTE, || {
        let pods = items(&cluster.api, crate::workload::PODS);
        pods.iter()
            .any(|pod| text(pod, "/metadata/name") == "asks" && text(pod, "/status/phase") == "Succeeded")
            .then_some(())
    });
    let path = format!("{}/asks", crate::workload::PODS);
    must(cluster.api.request(As::Admin, "DELETE", &path, None).unwrap());
    dns.terminate();
}
