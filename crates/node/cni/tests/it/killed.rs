//! SIGKILL at random moments of ADD and DEL: whatever was half done is found and freed.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skiff_cni::PortMapping;
use skiff_linux::netlink::netns::NetNs;
use skiff_linux::netlink::route::RouteSocket;
use skiff_linux::nft::{Family, Nft, Table};

use crate::world::{World, request};

const CHILD: &str = "SKIFF_CNI_TEST_CHILD";
const ROUNDS: usize = 40;

/// Not a test by itself: the process that is killed. Sets pods up and tears some down until its end.
#[test]
fn child_that_is_killed() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (node, dir) = told.split_once(' ').unwrap();
    let node = NetNs::open(node).unwrap();
    let config = skiff_cni::PodNetworkConfig {
        name: "test".into(),
        ranges: vec!["10.244.7.0/24".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        mtu: 1400,
        masquerade: true,
        data_dir: PathBuf::from(dir),
    };
    let network = skiff_cni::PodNetwork::open(config).unwrap();
    for i in 0..10_000u16 {
        let id = format!("{}-{i}", std::process::id());
        let pod = NetNs::create().unwrap();
        let ports = [PortMapping { host_port: 20_000 + i, container_port: 80, protocol: 6, host_ip: None }];
        let path = pod.proc_path();
        // Full at times, since the killed leave theirs behind until the collection.
        let made = node.run(|| network.setup(&request(&id, &path, &ports))).unwrap();
        if i % 3 == 0 && made.is_ok() {
            node.run(|| network.teardown(&id, "eth0")).unwrap().unwrap();
        }
    }
}

#[test]
fn nothing_leaks_when_killed() {
    let Some(world) = World::new() else { return };
    let network = world.network("10.244.7.0/24");
    let mut host = RouteSocket::open_in(&world.node).unwrap();
    let links_before = host.links().unwrap().len();
    let told = format!("{} {}", world.node.proc_path().display(), world.dir.path().display());
    let mut collected = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::child_that_is_killed"])
            .env(CHILD, &told)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Another moment each round: after it has begun, a bit later each time (primes keep off any rhythm).
        let begun = Instant::now();
        while network.allocated().unwrap() == 0 && begun.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let moment = Instant::now() + Duration::from_micros((round as u64 * 1_299_709) % 200_000);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // All of that process's pods are dead; what they had is freed in one collection.
        collected += world.node.run(|| network.collect(&[])).unwrap().unwrap();
        assert_eq!(network.allocated().unwrap(), 0, "round {round}");
        assert_eq!(host.links().unwrap().len(), links_before, "round {round}");
        let mut nft = Nft::open_in(&world.node).unwrap();
        let table = Table { family: Family::Inet, name: "skiff-cni-test" };
        for map in ["hostports-4", "hairpin-4"] {
            if nft.has_table(Family::Inet, "skiff-cni-test").unwrap() {
                assert!(nft.elements(table, map).unwrap().is_empty(), "round {round}: {map}");
            }
        }
    }
    println!("{ROUNDS} kills, {collected} pods collected, nothing left");
    assert!(collected > 0);
}
