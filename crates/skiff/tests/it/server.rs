//! What a person is told who cannot have a server yet: what is wrong, and what to do. 2 for what was typed, else 1.

use crate::running::{Running, free_port, last_words, skiff};
use skiff_base::pki::{self, ServerNames};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

fn plane(dir: &Path) -> Command {
    let mut command = skiff();
    command.args(["server", "--disable-agent", "--secure-port=0", "--bind-address=127.0.0.1", "--node-name=n"]);
    command.arg(format!("--data-dir={}", dir.join("data").display()));
    command.arg(format!("--write-kubeconfig={}", dir.join("admin.conf").display()));
    command
}

fn node(dir: &Path) -> Vec<String> {
    let (data, conf) = (dir.join("data"), dir.join("admin.conf"));
    vec![
        "server".to_owned(),
        "--secure-port=0".to_owned(),
        format!("--data-dir={}", data.display()),
        format!("--write-kubeconfig={}", conf.display()),
    ]
}

/// A machine has one node: the tests whose servers want to be it take turns.
fn turn() -> MutexGuard<'static, ()> {
    static NODE: Mutex<()> = Mutex::new(());
    NODE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fails unless it ends with this code and these words.
fn told(command: &mut Command, code: i32, words: &[&str]) {
    let (found, text) = last_words(command);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    assert_eq!(found, code, "{text}");
}

#[test]
fn what_was_typed_wrong() {
    let dir = tempfile::tempdir().unwrap();
    told(plane(dir.path()).arg("--secure-prt=1"), 2, &["unexpected argument '--secure-prt'", "--secure-port"]);
    told(plane(dir.path()).arg("--advertise-address=here"), 2, &["invalid value 'here' for '--advertise-address"]);
    let both = ["--service-cidr=10.0.0.0/40", "--runtime-config=api/all=x"];
    told(
        plane(dir.path()).args(both),
        2,
        &["--service-cidr: 10.0.0.0/40 has too many bits", "--runtime-config: api/all=x has to end"],
    );
    told(
        plane(dir.path()).arg("--runtime-config=none/v1=true"),
        2,
        &["\"none/v1\" is no group and version that this server knows"],
    );
    let plugin = "--kube-apiserver-arg=disable-admission-plugins=Nonsense";
    told(plane(dir.path()).arg(plugin), 2, &["\"Nonsense\" is no admission plug-in"]);
    told(
        plane(dir.path()).arg("--kube-scheduler-arg=kube-api-qps=3"),
        2,
        &["--kube-scheduler-arg: --kube-api-qps is a flag of kube-scheduler that skiff does not act upon"],
    );
}

#[test]
fn what_was_typed_wrong_to_a_component_alone() {
    let run = |args: &[&str], code, words: &[&str]| told(skiff().args(args), code, words);
    run(&["kube-scheduler"], 2, &["--kubeconfig is needed"]);
    run(&["kube-scheduler", "--kubeconfi=x"], 2, &["unknown flag: --kubeconfi (did you mean --kubeconfig?)"]);
    run(&["kube-proxy", "--cleanup"], 2, &["--cleanup is a flag of kube-proxy that skiff does not act upon"]);
    run(&["kube-proxy", "--proxy-mode=ipvs"], 2, &["--proxy-mode=ipvs is not built: it is always nftables here"]);
    run(&["kubelet", "--feature-gates=Nonsense=true"], 2, &["unrecognized feature gate: Nonsense"]);
    let wrong = ["kube-controller-manager", "--leader-elect-lease-duration=5s", "--node-cidr-mask-size=999"];
    run(&wrong, 2, &["the lease duration has to be greater than the renew deadline", "999 is out of range"]);
    run(&["kube-scheduler", "--kubeconfig=/nonexistent"], 1, &["cannot read /nonexistent", "because No such file"]);
}

#[test]
fn a_configuration_file_is_a_command_line_that_the_real_one_wins_over() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("skiff.yaml");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let text = format!(
        "data-dir: {}\nwrite-kubeconfig: {}\nsecure-port: 0\ndisable-agent: true\nbind-address: 127.0.0.1\n",
        path("data"),
        path("of-the-file.conf")
    );
    std::fs::write(&config, text).unwrap();
    let mut command = skiff();
    command.args(["server", "--config", &path("skiff.yaml"), "--write-kubeconfig", &path("of-the-flag.conf")]);
    let (server, said) = Running::server(&mut command, &dir.path().join("log"));
    assert!(said.contains("of-the-flag.conf"), "{said}");
    assert!(dir.path().join("of-the-flag.conf").exists() && !dir.path().join("of-the-file.conf").exists());
    assert!(dir.path().join("data/store").exists());
    assert!(server.terminate().success());

    std::fs::write(&config, "secure-prt: 1\ndisable-agent: maybe\n").unwrap();
    let line = |number: u32| format!("{}:{number}: ", config.display());
    let first = format!("{}unknown key \"secure-prt\" (did you mean secure-port?)", line(1));
    let second = format!("{}disable-agent: expected true or false, not \"maybe\"", line(2));
    told(skiff().args(["server", "--config", &path("skiff.yaml")]), 2, &[&first, &second]);
    told(skiff().args(["server", "--config", "/nonexistent"]), 2, &["--config: cannot read /nonexistent"]);
}

#[test]
fn a_port_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    let holder = format!("127.0.0.1:{port} is in use by pid {}", std::process::id());
    let hint = "choose another port with --secure-port";
    let mut command = skiff();
    command.args(["server", "--disable-agent", "--bind-address=127.0.0.1", &format!("--secure-port={port}")]);
    command.arg(format!("--data-dir={}", dir.path().join("d").display()));
    told(&mut command, 1, &[&holder, hint]);
    let arg = format!("--kube-scheduler-arg=secure-port={port}");
    let mut command = plane(dir.path());
    command.args([arg.as_str(), "--kube-scheduler-arg=bind-address=127.0.0.1"]);
    told(&mut command, 1, &["kube-scheduler: ", &holder, "--kube-scheduler-arg secure-port=..."]);
}

#[test]
fn a_nodes_port_that_is_taken() {
    if !is_root() {
        println!("skipped: a node needs root");
        return;
    }
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let held = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    let cases = [
        (format!("--kubelet-port={port}"), "kubelet: ", "choose another port with --kubelet-port"),
        (
            format!("--kube-proxy-arg=metrics-bind-address=0.0.0.0:{port}"),
            "kube-proxy: ",
            "choose another port with --kube-proxy-arg metrics-bind-address=...",
        ),
    ];
    for (arg, who, hint) in cases {
        // Ports come before anything that a node makes on the machine: nothing is left of it.
        let (code, text) = last_words(skiff().args(node(dir.path())).arg(arg));
        if text.contains("this machine cannot run pods") {
            println!("skipped: {text}");
            return;
        }
        assert!(text.contains(who) && text.contains(hint), "{text}");
        assert!(text.contains(&format!("0.0.0.0:{port} is in use by pid {}", std::process::id())), "{text}");
        assert_eq!(code, 1);
    }
}

#[test]
fn a_directory_that_another_server_has() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = Running::server(&mut plane(dir.path()), &dir.path().join("log"));
    let pid = format!("(pid {})", server.pid());
    told(&mut plane(dir.path()), 1, &["is in use by another process", &pid, "--data-dir"]);
}

#[test]
fn keys_that_are_damaged_or_another_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let names = ServerNames {
        node_name: "n".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        service_ip: [10, 96, 0, 1].into(),
        addresses: Vec::new(),
        names: Vec::new(),
    };
    let (own, other) = (dir.path().join("data/pki"), dir.path().join("other"));
    pki::ensure(&own, &names, SystemTime::now()).unwrap();
    pki::ensure(&other, &names, SystemTime::now()).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(own.join(name), bytes).unwrap();
    let right = std::fs::read(own.join("ca.crt")).unwrap();
    let foreign = std::fs::read(other.join("ca.crt")).unwrap();
    let named = |file: &str| own.join(file).display().to_string();
    put("ca.crt", b"not PEM");
    told(&mut plane(dir.path()), 1, &[&named("ca.crt"), "move it away to have it made again"]);
    put("ca.crt", &foreign);
    told(&mut plane(dir.path()), 1, &[&named("ca.crt"), "it is not the certificate of", &named("ca.key")]);
    put("ca.crt", &right);
    put("sa.key", b"not PEM");
    told(&mut plane(dir.path()), 1, &[&named("sa.key"), "move them away"]);
}

#[test]
fn files_that_cannot_be_read_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = skiff();
    command.args(["server", "--disable-agent", "--secure-port=0", "--write-kubeconfig=/proc/none/admin.conf"]);
    command.arg(format!("--data-dir={}", dir.path().join("data").display()));
    told(&mut command, 1, &["cannot write the kubeconfig /proc/none/admin.conf", "--write-kubeconfig"]);
    let tokens = dir.path().join("tokens.csv");
    std::fs::write(&tokens, "secret-one,alice,1\n\nsecret-two,bob\n").unwrap();
    let mut command = plane(dir.path());
    command.arg(format!("--token-auth-file={}", tokens.display()));
    let (code, text) = last_words(&mut command);
    assert!(
        text.contains(&format!("{}, line 3: token, user name and user uid are needed", tokens.display())),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(code, 2);
    let mut command = skiff();
    command.args(["server", "--disable-agent", "--secure-port=0", "--data-dir=/proc/none"]);
    told(&mut command, 1, &["cannot open the store in /proc/none", "--data-dir"]);
}

#[test]
fn a_node_needs_root() {
    let _turn = turn();
    if !is_root() {
        let dir = tempfile::tempdir().unwrap();
        told(skiff().args(node(dir.path())), 1, &["a node needs root", "sudo", "--disable-agent"]);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    told(
        skiff().args(node(dir.path())).uid(65534).gid(65534),
        1,
        &["a node needs root (this is user 65534)", "--disable-agent"],
    );
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin", env!("CARGO_BIN_EXE_skiff")]).args(node(dir.path()));
    if !has("setpriv") {
        println!("skipped in part: no setpriv");
        return;
    }
    told(&mut command, 1, &["a node needs CAP_NET_ADMIN which this process lacks"]);
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_node_needs_things_of_the_kernel() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    // A mount namespace of its own, in which there are no cgroups.
    let script = "mount --make-rprivate / && umount -R /sys/fs/cgroup && echo ready && exec \"$@\"";
    let tried = Command::new("unshare").args(["-m", "sh", "-c", script, "sh", "true"]).output();
    if !is_root() || !tried.is_ok_and(|output| output.status.success()) {
        println!("skipped: no mount namespace without cgroups to be had");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_skiff")]).args(node(dir.path()));
    let words = ["this machine cannot run pods", "cgroups: without cpu, memory, pids", "mount them", "--disable-agent"];
    told(command.arg(format!("--kubelet-port={}", free_port())), 1, &words);
}
