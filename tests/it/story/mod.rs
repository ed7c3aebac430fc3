//! A user's day with a one-node cluster, from the first start to the last `delete`: what the README promises, with every
//! kubectl that there is.

mod refusals;

use crate::cluster::{Cluster, wait};
use crate::http::{Answer, As, fetch};
use crate::kubectl::{self, Kubectl};
use crate::leftovers;
use crate::world::{self, NODE_ADDRESS, World, within};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const APP: &str = include_str!("app.yaml");
const CRD: &str = include_str!("crd.yaml");
const MINUTE: Duration = Duration::from_secs(60);

/// A cluster with its kubectl.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) kubectl: &'a Kubectl,
    start: Instant,
}

#[test]
fn an_application_lives_and_leaves_nothing() {
    within("story::an_application_lives_and_leaves_nothing", 900, |world| {
        let kubectls = kubectl::all();
        if kubectls.is_empty() {
            println!("skipped: no kubectl");
        }
        let Some(first) = kubectls.first() else { return };
        let before = leftovers::count();
        let mut stage = Stage { start: Instant::now(), cluster: Cluster::start(world), kubectl: first };
        stage.says("the server is ready");
        stage.cluster_comes_up();
        stage.images(world);
        for (day, kubectl) in kubectls.iter().enumerate() {
            println!("with {}", kubectl.version());
            stage.kubectl = kubectl;
            stage.one_day(day == 0);
        }
        let complaints = stage.cluster.complaints(&[]);
        assert!(complaints.is_empty(), "the server complained:\n{}", complaints.join("\n"));
        let took = stage.cluster.terminate();
        stage.says(&format!("ended in order in {took:?}"));
        let looked = stage.cluster.skiff_ok(&["cleanup", "--dry-run"]);
        assert!(looked.contains("shim"), "{looked}");
        stage.cluster.skiff_ok(&["cleanup", "--data", "--yes"]);
        leftovers::settle(&before);
        assert!(!Path::new("/var/lib/skiff").exists());
        stage.says("cleaned up");
    });
}

/// `GET /path` through the node port, from the other end of the node's link.
fn from_outside(path: &str) -> Option<String> {
    let script =
        format!("exec 3<>/dev/tcp/{NODE_ADDRESS}/30080; printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let output =
        Command::new("ip").args(["netns", "exec", "outside", "timeout", "5", "bash", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    (output.status.success() && head.contains(" 200 ")).then(|| body.to_owned())
}

impl Stage<'_> {
    fn says(&self, what: &str) {
        println!("{:7.2} s  {what}", self.start.elapsed().as_secs_f32());
    }

    pub(crate) fn shop(&self, arguments: &[&str]) -> String {
        self.kubectl.ok(&[&["-n", "shop"], arguments].concat())
    }

    fn get(&self, path: &str) -> Value {
        self.cluster.api.get(path).unwrap().json()
    }

    fn pods(&self, selector: &str) -> Vec<Value> {
        let list = self.get(&format!("/api/v1/namespaces/shop/pods?labelSelector={selector}"));
        list["items"].as_array().expect("a list").clone()
    }

    fn cluster_comes_up(&self) {
        self.cluster.node_ready();
        self.kubectl.ok(&["wait", "node/node1", "--for=condition=Ready", "--timeout=10s"]);
        self.says("the node is ready");
        self.kubectl.ok(&["-n", "kube-system", "rollout", "status", "deployment/skiff-dns", "--timeout=60s"]);
        self.says("DNS is ready");
    }

    fn images(&self, world: &World) {
        for version in ["1", "2"] {
            self.cluster.import(world, version);
        }
        let listed = self.cluster.skiff_ok(&["image", "ls"]);
        assert!(listed.contains("localhost/web:1") && listed.contains("localhost/web:2"), "{listed}");
    }

    fn one_day(&self, patient: bool) {
        let before = leftovers::count();
        self.says(&format!("before: {}", before.numbers()));
        self.kubectl.feed_ok(&["apply", "--validate=strict", "-f", "-"], APP);
        self.comes_up();
        self.is_reached();
        self.is_itself();
        self.takes_commands();
        self.custom_resource();
        self.is_changed();
        self.scales();
        self.rolls();
        self.refusals();
        if patient {
            self.mounted_file_follows();
        }
        self.kubectl.feed_ok(&["apply", "-f", "-"], APP);
        self.drains();
        self.kubectl.ok(&["delete", "namespace", "shop", "--timeout=60s"]);
        self.kubectl.ok(&["delete", "crd", "carts.shop.example.com", "--timeout=60s"]);
        self.says("all deleted");
        leftovers::settle(&before);
        self.says("nothing is left");
    }

    fn comes_up(&self) {
        for what in ["deployment/web", "deployment/data", "daemonset/every-node"] {
            self.shop(&["rollout", "status", what, "--timeout=30s"]);
        }
        self.says("the deployments are up");
        self.shop(&["wait", "job/fill", "--for=condition=Complete", "--timeout=30s"]);
        let logs = self.shop(&["logs", "job/fill", "--all-pods=true"]);
        assert_eq!(logs.matches("filled").count(), 3, "{logs}");
        self.says("the job is done");
    }

    fn is_reached(&self) {
        wait("an answer through the node port", MINUTE, || {
            from_outside("index.html").filter(|page| page == "hello from config\n")
        });
        assert_eq!(
            fetch("127.0.0.1:30080", "/version").unwrap_or_default().lines().last(),
            None,
            "a node port is not on loopback"
        );
        let web = self.shop(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
        let answer = fetch(&format!("{web}:80"), "/version").unwrap();
        assert!(answer.ends_with("\r\n\r\n1\n"), "{answer}");
        let inside = ["exec", "deployment/data", "--"];
        for name in ["web", "web.shop", "web.shop.svc.cluster.local"] {
            let url = format!("http://{name}/index.html");
            assert_eq!(self.shop(&[&inside[..], &["wget", "-qO-", &url]].concat()), "hello from config\n");
        }
        let found = self.shop(&[&inside[..], &["nslookup", "web-pods.shop.svc.cluster.local"]].concat());
        for pod in self.pods("app=web") {
            let ip = pod["status"]["podIP"].as_str().expect("has one");
            assert!(found.contains(ip), "{ip} in {found}");
        }
        self.says("reached from outside, by address and by name");
    }

    /// Service account, configuration and secret are the pod's own.
    fn is_itself(&self) {
        let can = |verb: &str, what: &str| {
            self.kubectl.run(&["auth", "can-i", verb, what, "-n", "shop", "--as=system:serviceaccount:shop:web"]).out
        };
        assert_eq!(can("list", "configmaps").trim(), "yes");
        assert_eq!(can("list", "secrets").trim(), "no");
        let token = self.shop(&[
            "exec",
            "deployment/web",
            "-c",
            "web",
            "--",
            "cat",
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
        ]);
        let ask = |path: &str| -> Answer { self.cluster.api.request(As::Token(&token), "GET", path, None).unwrap() };
        assert_eq!(ask("/api/v1/namespaces/shop/configmaps").code, 200);
        assert_eq!(ask("/api/v1/namespaces/shop/secrets").code, 403);
        assert_eq!(ask("/api/v1/namespaces/default/configmaps").code, 403);
        let env = self.shop(&[
            "exec",
            "deployment/web",
            "-c",
            "web",
            "--",
            "sh",
            "-c",
            "echo $COLOUR,$PASSWORD,$POD_IP; cat /work/.password",
        ]);
        let ips: Vec<Value> = self.pods("app=web").iter().map(|pod| pod["status"]["podIP"].clone()).collect();
        let known =
            ips.iter().filter_map(Value::as_str).any(|ip| env == format!("blue,correct horse,{ip}\ncorrect horse"));
        assert!(known, "{env}");
    }

    fn takes_commands(&self) {
        let said = self.kubectl.run(&[
            "-n",
            "shop",
            "exec",
            "deployment/web",
            "-c",
            "web",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ]);
        assert_eq!((said.code, said.out.as_str()), (Some(3), "out\n"), "{said:?}");
        assert!(said.err.starts_with("err\n"), "{said:?}");
        let long = "a line of some length, many times\n".repeat(20_000);
        let counted = self.kubectl.feed_ok(&["-n", "shop", "exec", "-i", "deployment/data", "--", "wc", "-c"], &long);
        assert_eq!(counted.trim(), long.len().to_string());
        let echoed = self.kubectl.feed_ok(&["-n", "shop", "exec", "-i", "deployment/data", "--", "cat"], &long);
        assert_eq!(echoed.len(), long.len(), "all that goes in comes out");

        let pod = self.pods("app=every-node")[0]["metadata"]["name"].as_str().expect("named").to_owned();
        let last = self.shop(&["logs", &pod, "--tail=1", "--timestamps"]);
        assert!(last.lines().count() == 1 && last.starts_with("20") && last.contains("Z line "), "{last}");
        let mut follow = self.kubectl.spawn(&["-n", "shop", "logs", "-f", &pod]);
        let lines = BufReader::new(follow.0.stdout.take().expect("piped")).lines();
        let lines: Vec<String> = lines.take(30).map(Result::unwrap).collect();
        let expected: Vec<String> = (1..=30).map(|n| format!("line {n}")).collect();
        assert_eq!(lines, expected, "every line once, from the first on");

        let mut forward = self.kubectl.spawn(&["-n", "shop", "port-forward", "service/web", ":80"]);
        // Kept open: it says a line for every connection.
        let mut lines = BufReader::new(forward.0.stdout.take().expect("piped")).lines();
        let line = lines.next().expect("a line").unwrap();
        let address = line.split(' ').nth(2).expect("Forwarding from ADDRESS").to_owned();
        for _ in 0..3 {
            assert!(fetch(&address, "/index.html").unwrap().ends_with("hello from config\n"));
        }

        let web = self.pods("app=data")[0]["metadata"]["name"].as_str().expect("named").to_owned();
        std::fs::write("/run/copied", &long).unwrap();
        self.shop(&["cp", "/run/copied", &format!("{web}:/tmp/copied")]);
        self.shop(&["cp", &format!("{web}:/tmp/copied"), "/run/copied-back"]);
        assert_eq!(std::fs::read_to_string("/run/copied-back").unwrap(), long);
        self.says("exec, logs, port-forward and cp");
    }

    fn custom_resource(&self) {
        self.kubectl.feed_ok(&["apply", "--validate=strict", "-f", "-"], CRD);
        self.kubectl.ok(&["wait", "crd/carts.shop.example.com", "--for=condition=Established", "--timeout=30s"]);
        let cart = |items: &str| {
            format!(
                "apiVersion: shop.example.com/v1\nkind: Cart\nmetadata: {{name: mine, namespace: shop}}\nspec: {{items: {items}}}\n"
            )
        };
        // Discovery and OpenAPI follow the definition.
        wait("the new kind is known", MINUTE, || {
            let said = self.kubectl.feed(&["apply", "--validate=strict", "-f", "-"], &cart("3"));
            (said.code == Some(0)).then_some(())
        });
        let table = self.shop(&["get", "ct"]);
        assert!(table.contains("ITEMS") && table.contains("mine") && table.contains('3'), "{table}");
        assert_eq!(self.shop(&["get", "cart", "mine", "-o", "jsonpath={.spec.colour}"]), "red");
        let said = self.kubectl.refused(&["apply", "-f", "-"], &cart("0"));
        assert!(
            said.contains("spec.items: Invalid value: 0: spec.items in body should be greater than or equal to 1"),
            "{said}"
        );
        let said = self.kubectl.ok(&["explain", "cart.spec.items"]);
        assert!(said.contains("How many things are in it."), "{said}");
        self.says("a custom resource");
    }

    fn is_changed(&self) {
        assert_eq!(self.kubectl.feed(&["diff", "-f", "-"], APP).code, Some(0), "what was applied is what is there");
        let changed = APP.replace("colour: blue", "colour: green");
        let said = self.kubectl.feed(&["diff", "-f", "-"], &changed);
        assert!(
            said.code == Some(1) && said.out.contains("-  colour: blue") && said.out.contains("+  colour: green"),
            "{said:?}"
        );
        self.kubectl.feed_ok(&["apply", "-f", "-"], &changed);
        let said = self.kubectl.ok(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"]);
        assert!(said.contains("IntOrString") && said.contains("FIELD: maxSurge"), "{said}");
        let page = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: page, namespace: shop}\ndata: {colour: red}\n";
        let said = self.kubectl.refused(&["apply", "--server-side", "--field-manager=other", "-f", "-"], page);
        assert!(said.contains("Apply failed with 1 conflict") && said.contains(".data.colour"), "{said}");
        self.says("diff, apply, explain, conflict");
    }

    /// A mounted file follows its map at the next look of the kubelet, a minute apart.
    fn mounted_file_follows(&self) {
        wait("the mounted file follows", Duration::from_secs(100), || {
            let text = self.shop(&["exec", "daemonset/every-node", "--", "cat", "/etc/page/colour"]);
            (text == "green").then_some(())
        });
        self.says("a mounted file has followed");
    }

    fn scales(&self) {
        self.shop(&["scale", "deployment/web", "--replicas=4"]);
        self.shop(&["rollout", "status", "deployment/web", "--timeout=60s"]);
        let ready = || {
            let slices = self.get("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb");
            let slices = slices["items"].as_array().expect("a list").clone();
            slices
                .iter()
                .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
                .filter(|endpoint| endpoint["conditions"]["ready"] == true)
                .count()
        };
        wait("four endpoints", MINUTE, || (ready() == 4).then_some(()));
        self.shop(&["scale", "deployment/web", "--replicas=2"]);
        wait("two endpoints", MINUTE, || (ready() == 2).then_some(()));
        wait("two pods", MINUTE, || (self.pods("app=web").len() == 2).then_some(()));
        self.says("scaled to four and back");
    }

    /// A new image and back. Somebody outside asks all the time and is answered every time.
    fn rolls(&self) {
        let (done, asked, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        let version = || from_outside("version");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let answered = version().is_some();
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u32::from(!answered), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            // The helper thread ends also when this one panics.
            let end = EndOf(&done);
            self.shop(&["set", "image", "deployment/web", "web=localhost/web:2"]);
            self.shop(&["rollout", "status", "deployment/web", "--timeout=30s"]);
            wait("only the new version answers", MINUTE, || {
                (0..6).all(|_| version().as_deref() == Some("2\n")).then_some(())
            });
            self.says("rolled to the new image");
            let history = self.shop(&["rollout", "history", "deployment/web"]);
            assert!(history.lines().any(|line| line.starts_with("2 ")), "{history}");
            self.shop(&["rollout", "undo", "deployment/web"]);
            self.shop(&["rollout", "status", "deployment/web", "--timeout=30s"]);
            wait("only the old version answers", MINUTE, || {
                (0..6).all(|_| version().as_deref() == Some("1\n")).then_some(())
            });
            drop(end);
        });
        let (asked, failed) = (asked.into_inner(), failed.into_inner());
        self.says(&format!("and back; asked {asked} times meanwhile, {failed} not answered"));
        assert_eq!(failed, 0, "of {asked}");
        wait("two pods", MINUTE, || (self.pods("app=web").len() == 2).then_some(()));
    }

    fn drains(&self) {
        self.kubectl.ok(&[
            "drain",
            "node1",
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
            "--timeout=30s",
        ]);
        let nodes = self.kubectl.ok(&["get", "nodes"]);
        assert!(nodes.contains("SchedulingDisabled"), "{nodes}");
        let pending = self.pods("app=web");
        assert!(pending.iter().all(|pod| pod["status"]["phase"] == "Pending"), "{pending:?}");
        wait("the scheduler says why", MINUTE, || {
            let told = self.pods("app=web").iter().all(|pod| {
                pod["status"]["conditions"][0]["message"]
                    .as_str()
                    .unwrap_or_default()
                    .contains("0/1 nodes are available: 1 node(s) were unschedulable")
            });
            told.then_some(())
        });
        self.kubectl.ok(&["uncordon", "node1"]);
        self.shop(&["rollout", "status", "deployment/web", "--timeout=30s"]);
        self.kubectl.ok(&["-n", "kube-system", "rollout", "status", "deployment/skiff-dns", "--timeout=30s"]);
        wait("an answer through the node port", MINUTE, || from_outside("index.html"));
        self.says("drained and back");
    }
}

/// A test that fails says how the cluster was.
impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in [
                &["get", "pods,jobs", "-A", "-o", "wide"][..],
                &["get", "events", "-A"],
                &["describe", "pods", "-n", "shop"],
            ] {
                let said = self.kubectl.run(&[what, &["--request-timeout=5s"]].concat());
                println!("--- kubectl {}\n{}{}", what.join(" "), said.out, said.err);
            }
            world::hold();
        }
    }
}

struct EndOf<'a>(&'a AtomicBool);

impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
