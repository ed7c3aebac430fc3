//! The contract suite through the protocol, and etcd's own command against it.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests of real sockets and real clocks")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use skiff_etcd::{Etcd, EtcdStore, Identity};
use skiff_store::Store;
use skiff_store::contract::{self, Subject};
use skiff_store::testing::{TurnedClock, memory_with_clock};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};

/// Serves a store on a port of its own.
fn serve(store: Arc<dyn Store>, tasks: &mut tokio::task::JoinSet<()>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let identity = Identity { client_urls: vec![format!("http://{address}")], ..Identity::default() };
    let routes = Etcd::new(store, identity).routes();
    tasks.spawn(async move {
        Server::builder().add_routes(routes).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    address
}

fn connect(address: SocketAddr) -> EtcdStore {
    EtcdStore::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy())
}

#[derive(Default)]
struct Served {
    clock: Arc<TurnedClock>,
    tasks: Mutex<tokio::task::JoinSet<()>>,
}

impl Subject for Served {
    fn fresh(&self) -> Arc<dyn Store> {
        let store = memory_with_clock(self.clock.clone());
        Arc::new(connect(serve(store, &mut self.tasks.lock().unwrap())))
    }
    fn pass(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.clock.pass(time);
        Box::pin(async {})
    }
}

/// Client, protocol, server and engine together keep the contract.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_through_the_protocol() {
    contract::run(&Served::default()).await;
}

/// A program of etcd's, when the machine has it (or `SKIFF_ETCD_BIN` names the directory).
fn program(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("SKIFF_ETCD_BIN").map(|directory| PathBuf::from(directory).join(name));
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = named.into_iter().chain(std::env::split_paths(&search).map(|path| path.join(name)));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no {name} on this machine");
    }
    found
}

/// `etcd Version: 3.5.30`, as numbers.
fn version(etcd: &Path) -> [u32; 3] {
    let said = Command::new(etcd).arg("--version").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let number = said.lines().find_map(|line| line.strip_prefix("etcd Version: ")).expect("the first line").trim();
    let mut parts = number.split(['.', '-', '+']).map(|part| part.parse().unwrap());
    std::array::from_fn(|_| parts.next().expect("three numbers"))
}

/// Upstream's etcd, one per store.
struct Upstream {
    program: PathBuf,
    version: [u32; 3],
    running: Mutex<Vec<(Child, tempfile::TempDir)>>,
}

impl Subject for Upstream {
    fn fresh(&self) -> Arc<dyn Store> {
        let directory = tempfile::tempdir().unwrap();
        let [client, peer] = [(); 2].map(|()| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        });
        let child = Command::new(&self.program)
            .args(["--data-dir", directory.path().join("data").to_str().unwrap()])
            .args([
                "--listen-client-urls",
                &format!("http://{client}"),
                "--advertise-client-urls",
                &format!("http://{client}"),
            ])
            .args([
                "--listen-peer-urls",
                &format!("http://{peer}"),
                "--initial-advertise-peer-urls",
                &format!("http://{peer}"),
            ])
            .args(["--initial-cluster", &format!("default=http://{peer}"), "--unsafe-no-fsync"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = self.running.lock().unwrap();
        for (mut old, _) in running.drain(..) {
            old.kill().unwrap();
            old.wait().unwrap();
        }
        running.push((child, directory));
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(client).is_err() {
            assert!(std::time::Instant::now() < deadline, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Arc::new(connect(client))
    }
    fn pass(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(time))
    }
    fn forgets_a_deletion_at_the_horizon(&self) -> bool {
        self.version < [3, 4, 36] || (self.version >= [3, 5, 0] && self.version < [3, 5, 18])
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for (child, _) in self.running.get_mut().unwrap() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The suite on the original: what it believes about etcd is so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_for_etcd_itself() {
    let Some(program) = program("etcd") else { return };
    let version = version(&program);
    contract::run(&Upstream { program, version, running: Mutex::default() }).await;
}

/// etcd's command line tool, unmodified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_works() {
    let Some(program) = program("etcdctl") else { return };
    let mut tasks = tokio::task::JoinSet::new();
    let store = memory_with_clock(Arc::new(TurnedClock::default()));
    let address = serve(Arc::clone(&store), &mut tasks);
    let etcdctl = |arguments: &[&str], input: &str| {
        use std::io::Write;
        let mut child = Command::new(&program)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &address.to_string(), "--command-timeout", "20s"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap() + &error
    };
    let run = |arguments: &[&str]| etcdctl(arguments, "");
    assert_eq!(run(&["put", "/a/1", "one"]), "OK\n");
    assert_eq!(run(&["put", "/a/2", "two", "--prev-kv"]), "OK\n");
    assert_eq!(run(&["put", "/a/1", "uno", "--prev-kv"]), "OK\n/a/1\none\n");
    assert_eq!(run(&["get", "/a/1"]), "/a/1\nuno\n");
    assert_eq!(run(&["get", "/a/1", "--rev", "2", "--print-value-only"]), "one\n");
    assert_eq!(run(&["get", "--prefix", "/a/", "--keys-only", "--order", "DESCEND"]), "/a/2\n\n/a/1\n\n");
    assert_eq!(run(&["get", "--prefix", "/a/", "--sort-by", "MODIFY", "--print-value-only"]), "two\nuno\n");
    assert_eq!(run(&["get", "", "--prefix", "--limit", "1", "--print-value-only"]), "uno\n");
    assert_eq!(run(&["put", "/a/2", "--ignore-value"]), "OK\n");
    let txn = "value(\"/a/1\") = \"uno\"\n\nput /b/1 yes\nget /a/1\n\nput /b/1 no\n\n";
    let answer = etcdctl(&["txn"], txn);
    assert!(answer.starts_with("SUCCESS\n\nOK\n\n/a/1\nuno\n"), "{answer}");
    assert_eq!(run(&["get", "/b/1", "--print-value-only"]), "yes\n");
    let lease = run(&["lease", "grant", "60"]);
    let id = lease.split(' ').nth(1).unwrap();
    assert!(lease.contains("granted with TTL(60s)"), "{lease}");
    assert_eq!(run(&["put", "/leased", "x", "--lease", id]), "OK\n");
    let left = run(&["lease", "timetolive", id, "--keys"]);
    assert!(left.contains("attached keys([/leased])"), "{left}");
    assert!(run(&["lease", "keep-alive", id, "--once"]).contains("keepalived with TTL(60)"));
    assert!(run(&["lease", "list"]).contains(id));
    assert!(run(&["lease", "revoke", id]).contains("revoked"));
    assert_eq!(run(&["get", "/leased"]), "");
    assert_eq!(run(&["del", "--prefix", "/a/"]), "2\n");
    let health = run(&["endpoint", "health"]);
    assert!(health.contains("is healthy"), "{health}");
    assert!(run(&["endpoint", "status", "-w", "json"]).contains("\"leader\":1"));
    assert!(run(&["member", "list"]).contains("default"));
    assert!(run(&["defrag"]).contains("Finished"));
    assert_eq!(run(&["alarm", "list"]), "");
    let revision = store.current_revision().unwrap();
    assert_eq!(run(&["compact", &revision.to_string()]), format!("compacted revision {revision}\n"));

    let mut watch = Command::new(&program)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &address.to_string(), "watch", "--prefix", "/w/", "--prev-kv"])
        .args(["--rev", &(revision + 1).to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(run(&["put", "/w/1", "a"]), "OK\n");
    assert_eq!(run(&["del", "/w/1"]), "1\n");
    let mut output = watch.stdout.take().unwrap();
    let seen = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let expected = "PUT\n/w/1\na\nDELETE\n/w/1\na\n/w/1\n\n";
        let mut seen = vec![0; expected.len()];
        output.read_exact(&mut seen).unwrap();
        (String::from_utf8(seen).unwrap(), expected)
    });
    let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
    watch.kill().unwrap();
    watch.wait().unwrap();
    let (seen, expected) = seen.unwrap().unwrap();
    assert_eq!(seen, expected);
}
