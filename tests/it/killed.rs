//! The server ends without a word, again and again, while people write to it and pods serve; and the whole machine does.
//!
//! After every end what was acknowledged is there, pods have not noticed that the server was gone, and the cluster goes on
//! from where it was. The moments are random and printed with their seed; `SKIFF_TEST_SEED` repeats a run.

use crate::cluster::{Cluster, wait};
use crate::http::{Api, As, fetch};
use crate::leftovers;
use crate::workload::{
    MINUTE, PODS, SERVICES, SETS, available, create, delete_all, deployment, items, lives_of, must, serve, text,
};
use crate::world::{World, hold, lives, within};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ROUNDS: u64 = 10;
const WRITERS: u64 = 4;

/// A small generator of its own, so that a seed means the same in every build.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn random() -> Random {
    let given = std::env::var("SKIFF_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let now = || std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64);
    let seed: u64 = given.unwrap_or_else(now).max(1);
    println!("SKIFF_TEST_SEED={seed}");
    Random(seed)
}

/// What a writer was told of one object: its value and resource version.
type Known = BTreeMap<String, (String, String)>;

fn told(object: &Value) -> (String, String) {
    (text(object, "/data/value").to_owned(), text(object, "/metadata/resourceVersion").to_owned())
}

/// Creates, updates and deletes maps of its own until told to stop. Every change is conditional on the version that was
/// acknowledged last, so a lost write is a conflict at the next; what became of a write without an answer is looked up.
fn write_until(done: &AtomicBool, api: &Api, writer: u64, seed: u64, acknowledged: &AtomicU64) -> Known {
    let mut random = Random(seed);
    let mut known = Known::new();
    let mut value = 0;
    while !done.load(Ordering::Relaxed) {
        value += 1;
        let name = format!("w{writer}-{}", random.below(100));
        let path = format!("{MAPS}/{name}");
        let data = json!({"value": value.to_string()});
        let (answer, wanted) = match known.get(&name) {
            Some((_, version)) if random.below(4) == 0 => {
                let options = json!({"preconditions": {"resourceVersion": version}});
                (api.request(As::Admin, "DELETE", &path, Some(&options)), None)
            }
            Some((_, version)) => {
                let patch = json!({"metadata": {"resourceVersion": version}, "data": data});
                (api.request(As::Admin, "PATCH", &path, Some(&patch)), Some(value.to_string()))
            }
            None => {
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
                (api.request(As::Admin, "POST", MAPS, Some(&object)), Some(value.to_string()))
            }
        };
        match answer {
            Ok(answer) if answer.code < 300 => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                match wanted {
                    Some(_) => drop(known.insert(name, told(&answer.json()))),
                    None => drop(known.remove(&name)),
                }
            }
            Ok(answer) if answer.code < 500 && answer.code != 429 => {
                panic!("{name}, known as {:?}: {}", known.get(&name), String::from_utf8_lossy(&answer.body))
            }
            // Nobody knows: it has happened or it has not, and nothing else has.
            _ => {
                let found = wait("an answer after a restart", MINUTE, || match api.get(&path) {
                    Ok(answer) if answer.code == 200 => Some(Some(told(&answer.json()))),
                    Ok(answer) if answer.code == 404 => Some(None),
                    _ => None,
                });
                let now = found.as_ref().map(|(value, _)| value);
                let before = known.get(&name).map(|(value, _)| value);
                assert!(now == before || now == wanted.as_ref(), "{name} is {now:?}, was {before:?}, sent {wanted:?}");
                match found {
                    Some(found) => drop(known.insert(name, found)),
                    None => drop(known.remove(&name)),
                }
            }
        }
    }
    known
}

#[test]
fn nothing_acknowledged_is_lost_and_pods_do_not_notice() {
    within("killed::nothing_acknowledged_is_lost_and_pods_do_not_notice", 600, |world| {
        let mut random = random();
        let mut cluster = Cluster::with_images(world);
        let before = leftovers::count();
        let api = cluster.api.clone();
        let address = serve(&api, "steady", 2);
        let steady = lives_of(&api, "steady");
        let (done, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        let known = std::thread::scope(|scope| {
            let end = EndOf(&done);
            let mut writers = Vec::new();
            for writer in 0..WRITERS {
                let (api, done, acknowledged, seed) = (&api, &done, &acknowledged, random.below(u64::MAX - 1) + 1);
                writers.push(scope.spawn(move || write_until(done, api, writer, seed, acknowledged)));
            }
            for round in 0..ROUNDS {
                // Every other time it is up and writing; else it may not even have started.
                let moment = if round % 2 == 0 {
                    cluster.wait_ready();
                    let so_far = acknowledged.load(Ordering::Relaxed);
                    wait("a write", MINUTE, || (acknowledged.load(Ordering::Relaxed) > so_far).then_some(()));
                    create(&api, SETS, &deployment(&format!("round-{round}"), 1));
                    Duration::from_millis(random.below(2000))
                } else {
                    Duration::from_millis(random.below(800))
                };
                std::thread::sleep(moment);
                let so_far = acknowledged.load(Ordering::Relaxed);
                cluster.kill();
                println!("killed {round}: {moment:?}, {so_far} writes acknowledged");
                for _ in 0..4 {
                    let page = fetch(&address, "/version");
                    assert!(
                        page.as_ref().is_ok_and(|page| page.ends_with("\r\n1\n")),
                        "pods serve without the server: {page:?}"
                    );
                }
                cluster.spawn_again();
            }
            cluster.wait_ready();
            let so_far = acknowledged.load(Ordering::Relaxed);
            wait("100 more writes", MINUTE, || (acknowledged.load(Ordering::Relaxed) > so_far + 100).then_some(()));
            drop(end);
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect::<Known>()
        });
        let mut found: Known =
            items(&api, MAPS).iter().map(|map| (text(map, "/metadata/name").to_owned(), told(map))).collect();
        found.remove("kube-root-ca.crt");
        assert_eq!(found, known, "what was acknowledged is what is there");
        println!("{} writes acknowledged, {} objects", acknowledged.load(Ordering::Relaxed), known.len());
        cluster.node_ready();
        let rounds: Vec<String> = (0..ROUNDS).step_by(2).map(|round| format!("round-{round}")).collect();
        for name in &rounds {
            available(&api, name, 1);
        }
        assert_eq!(lives_of(&api, "steady"), steady, "pods go on");

        let took = cluster.terminate();
        println!("ended in order in {took:?}");
        assert!(fetch(&address, "/version").is_ok(), "pods serve without the server");
        cluster.start_again();
        assert_eq!(lives_of(&api, "steady"), steady, "pods go on");
        // The node works: a new pod comes up and is reached.
        must(
            api.request(As::Admin, "PATCH", &format!("{SETS}/steady"), Some(&json!({"spec": {"replicas": 3}})))
                .unwrap(),
        );
        available(&api, "steady", 3);
        delete_all(&api, &[rounds, vec!["steady".to_owned()]].concat());
        must(api.request(As::Admin, "DELETE", &format!("{SERVICES}/steady"), None).unwrap());
        leftovers::settle(&before);
        // What a kill leaves half done is put right with a warning.
        let complaints = cluster.complaints(&[" WARN "]);
        assert!(complaints.is_empty(), "the server complained:\n{}", complaints.join("\n"));
    });
}

/// The end of a container whose machine lost its power: the runtime does not know how it came, or not even that there was a
/// container.
fn how_it_ended(pod: &str, terminated: &Value) {
    let end = (terminated["exitCode"].as_i64(), text(terminated, "/reason"));
    println!("{pod} ended by the power cut: {end:?}");
    assert!(matches!(end, (Some(255), "Unknown") | (Some(137), "ContainerStatusUnknown")), "{terminated}");
}

/// All processes, mounts, links, rules and cgroups go at once, with nobody to write anything down; of the disk stays what was
/// synced.
#[test]
fn a_machine_that_lost_its_power_goes_on() {
    let first = |world: &World| {
        let cluster = Cluster::with_images(world);
        let api = &cluster.api;
        serve(api, "steady", 2);
        let once = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "once"},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "localhost/web:1", "command": ["sleep", "10000"]}]},
        });
        create(api, PODS, &once);
        wait("a pod of nobody's", MINUTE, || {
            let pod = api.get(&format!("{PODS}/once")).ok()?.json();
            (pod["status"]["phase"] == "Running").then_some(())
        });
        for number in 0..50 {
            create(
                api,
                MAPS,
                &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{number}")}}),
            );
        }
        std::fs::write(world.dir.join("lives"), format!("{:?}", lives_of(api, "steady"))).unwrap();
        world.cut_power();
        // The end of this process is that of the world, with the server and the pods in it.
    };
    let second = |world: &World| {
        let start = Instant::now();
        let cluster = Cluster::start(world);
        let api = &cluster.api;
        println!("serves again after {:?}", start.elapsed());
        let maps = items(api, MAPS).iter().filter(|map| text(map, "/metadata/name").starts_with("m-")).count();
        assert_eq!(maps, 50);
        // Their restarts are counted, whatever of the runtime's records was on the disk.
        let before = std::fs::read_to_string(world.dir.join("lives")).unwrap();
        let steady = wait("the pods come back", 2 * MINUTE, || {
            let pods = items(api, &format!("{PODS}?labelSelector=app%3Dsteady"));
            let up = |pod: &Value| {
                let container = &pod["status"]["containerStatuses"][0];
                container["ready"] == true && !before.contains(text(container, "/containerID"))
            };
            (pods.len() == 2 && pods.iter().all(up)).then_some(pods)
        });
        for pod in &steady {
            let container = &pod["status"]["containerStatuses"][0];
            assert_eq!(container["restartCount"], 1, "{pod}");
            how_it_ended(text(pod, "/metadata/name"), &container["lastState"]["terminated"]);
        }
        let once = wait("the pod that runs once", MINUTE, || {
            let pod = api.get(&format!("{PODS}/once")).ok()?.json();
            (pod["status"]["phase"] == "Failed").then_some(pod)
        });
        let container = &once["status"]["containerStatuses"][0];
        assert_eq!((&container["restartCount"], &container["ready"]), (&json!(0), &json!(false)), "{once}");
        how_it_ended("once", &container["state"]["terminated"]);
        println!("pods run again after {:?}", start.elapsed());
        for name in lives_of(api, "steady").keys() {
            assert!(before.contains(name), "{name} is none of {before}");
        }
        let service = must(api.get(&format!("{SERVICES}/steady")).unwrap());
        let address = format!("{}:80", text(&service, "/spec/clusterIP"));
        wait("an answer of the service", MINUTE, || {
            fetch(&address, "/version").ok().filter(|page| page.ends_with("\r\n1\n"))
        });
        cluster.node_ready();
        cluster.dns_ready();
        must(api.request(As::Admin, "DELETE", &format!("{PODS}/once"), None).unwrap());
        delete_all(api, &["steady".to_owned()]);
    };
    lives("killed::a_machine_that_lost_its_power_goes_on", 300, &[&first, &second]);
}

/// A test that fails can be looked at, with the server as it was left.
impl Drop for EndOf<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            hold();
        }
        self.0.store(true, Ordering::Relaxed);
    }
}

struct EndOf<'a>(&'a AtomicBool);
