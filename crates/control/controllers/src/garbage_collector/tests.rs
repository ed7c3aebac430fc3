//! The collector over a world in memory, with its watches delivered in any order.
use super::*;
use crate::context::{Clients, Context};
use http_body_util::BodyExt;
use skiff_base::clock::SystemClock;
use skiff_client::ClientMetrics;
use skiff_client::Projection;
use skiff_client::informer::{Item, ObjectKey};
use skiff_client::transport::{Transport, TransportFuture};
use skiff_machinery::codec::json;
use skiff_machinery::{Map, list, object};
use skiff_net::Body;
use std::collections::{BTreeSet, VecDeque};

/// What the server has, and what its watches have still to say, each resource on its own.
#[derive(Default)]
struct World {
    objects: BTreeMap<String, Value>,
    revision: u64,
    watches: BTreeMap<&'static str, VecDeque<(String, Option<Value>)>>,
}

const KINDS: [(&str, &str, &str, &str); 3] = [
    ("apps", "v1", "deployments", "Deployment"),
    ("apps", "v1", "replicasets", "ReplicaSet"),
    ("", "v1", "pods", "Pod"),
];

fn kind_of(path: &str) -> &'static (&'static str, &'static str, &'static str, &'static str) {
    KINDS.iter().find(|kind| path.contains(kind.2)).unwrap()
}

fn path(resource: &str, name: &str) -> String {
    let (group, version, resource, _) = kind_of(resource);
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    format!("{root}/namespaces/ns/{resource}/{name}")
}

impl World {
    fn write(&mut self, path: &str, mut object: Value) {
        self.revision += 1;
        let metadata = object.as_object_mut().unwrap().object_mut("metadata");
        metadata.insert("resourceVersion", self.revision.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        self.watches.entry(kind_of(path).2).or_default().push_back((path.to_owned(), Some(object)));
    }
    fn remove(&mut self, path: &str) {
        self.revision += 1;
        self.objects.remove(path).unwrap();
        self.watches.entry(kind_of(path).2).or_default().push_back((path.to_owned(), None));
    }
    fn create(&mut self, resource: &str, name: &str, owner: Option<(&str, &str)>) {
        let mut metadata = Map::new();
        metadata.insert("name", name);
        metadata.insert("namespace", "ns");
        metadata.insert("uid", format!("uid-{name}"));
        if let Some((kind, owner)) = owner {
            metadata.insert(
                "ownerReferences",
                list![object! {
                    "apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": format!("uid-{owner}"),
                    "controller": true, "blockOwnerDeletion": true,
                }],
            );
        }
        self.write(&path(resource, name), object! { "metadata": metadata });
    }
    /// A delete as the server does it.
    fn delete(&mut self, path: &str, policy: &str) {
        let Some(object) = self.objects.get(path).cloned() else { return };
        let finalizer = match policy {
            "Foreground" => FOREGROUND,
            "Orphan" => ORPHAN,
            _ if object.items_at(&["metadata", "finalizers"]).is_empty() => return self.remove(path),
            _ => return,
        };
        let mut object = object;
        let metadata = object.as_object_mut().unwrap().object_mut("metadata");
        metadata.insert("finalizers", list![finalizer]);
        metadata.insert("deletionTimestamp", "2026-01-01T00:00:00Z");
        self.write(path, object);
    }
    fn answer(&mut self, method: &http::Method, path: &str, body: &Value) -> (u16, Value) {
        let failure = |code: u16, reason: &str| {
            let code_value = i64::from(code);
            (
                code,
                object! { "kind": "Status", "status": "Failure", "reason": reason, "code": code_value, "message": reason },
            )
        };
        if path.contains("/events") {
            return (201, object! {});
        }
        let Some(current) = self.objects.get(path).cloned() else { return failure(404, "NotFound") };
        let stale = |wanted: &str| !wanted.is_empty() && wanted != current.str_at(&["metadata", "resourceVersion"]);
        match *method {
            http::Method::GET => (200, current),
            http::Method::DELETE => {
                if stale(body.str_at(&["preconditions", "resourceVersion"])) {
                    return failure(409, "Conflict");
                }
                self.delete(path, body.str_at(&["propagationPolicy"]));
                (200, object! {})
            }
            _ => {
                if stale(body.str_at(&["metadata", "resourceVersion"])) {
                    return failure(409, "Conflict");
                }
                let mut changed = current;
                let metadata = changed.as_object_mut().unwrap().object_mut("metadata");
                if let Some(finalizers) = body.at(&["metadata", "finalizers"]) {
                    metadata.insert("finalizers", finalizers.clone());
                }
                if let Some(owners) = body.at(&["metadata", "ownerReferences"]) {
                    let released = owners.as_array().unwrap().iter().any(|owner| owner.get("$patch").is_some());
                    metadata.insert("ownerReferences", if released { list![] } else { owners.clone() });
                }
                let ends = changed.at(&["metadata", "deletionTimestamp"]).is_some()
                    && changed.items_at(&["metadata", "finalizers"]).is_empty();
                self.write(path, changed.clone());
                if ends {
                    self.remove(path);
                }
                (200, changed)
            }
        }
    }
}

struct Fake(Arc<Mutex<World>>);

impl Transport for Fake {
    fn send(&self, request: http::Request<Body>) -> TransportFuture<'_> {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            let body = if bytes.is_empty() { Value::Null } else { json::from_slice(&bytes).unwrap() };
            let (code, answer) = self.0.lock().answer(&parts.method, parts.uri.path(), &body);
            Ok(http::Response::builder().status(code).body(Body::from(json::to_vec(&answer))).unwrap())
        })
    }
}

impl Clients for Fake {
    fn manager(&self) -> Client {
        Client::new(Arc::new(Self(Arc::clone(&self.0))), "test")
    }
    fn controller(&self, _name: &'static str) -> Client {
        self.manager()
    }
}

struct Bench {
    world: Arc<Mutex<World>>,
    collector: Collector,
    shown: BTreeMap<String, Item<View>>,
    seed: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let world = Arc::new(Mutex::new(World::default()));
        let context = Context {
            clients: Arc::new(Fake(Arc::clone(&world))),
            clock: SystemClock::shared(),
            supervisor: Supervisor::new("test"),
            metrics: ClientMetrics::register(&skiff_base::metrics::Registry::new()),
        };
        let collector = Collector::new(&context);
        *collector.discovered.lock() = Arc::new(crate::discovery::Discovered::of(KINDS.iter().map(resource)));
        Self { world, collector, shown: BTreeMap::new(), seed }
    }
    fn random(&mut self, below: usize) -> usize {
        // splitmix64
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).unwrap()
    }
    /// The oldest change that one resource's watch has not told yet; `false` when there is none.
    fn deliver(&mut self, resource: &str) -> bool {
        let next = self.world.lock().watches.get_mut(resource).and_then(VecDeque::pop_front);
        let Some((path, object)) = next else { return false };
        let place = Arc::new(self::resource(kind_of(&path)));
        let new = object.map(|tree| Item {
            key: ObjectKey::new("ns", tree.str_at(&["metadata", "name"])),
            uid: tree.str_at(&["metadata", "uid"]).into(),
            resource_version: 0,
            value: Arc::new(View::project(&Arc::new(tree)).unwrap()),
        });
        let old = match &new {
            Some(new) => self.shown.insert(path, new.clone()),
            None => self.shown.remove(&path),
        };
        let key = new.as_ref().or(old.as_ref()).unwrap().key.clone();
        self.collector.changed(&place, &Delta { key: &key, old: old.as_ref(), new: new.as_ref() });
        true
    }
    /// Works on one task that is ready; `false` when there is none.
    async fn work(&mut self) -> bool {
        if self.collector.queue.is_empty() {
            return false;
        }
        let work = self.collector.queue.next().await.unwrap();
        match self.collector.sync(&work.key).await {
            Ok(None) => work.succeeded(),
            // Looked at again later: at once, here.
            Ok(Some(_)) | Err(_) => {
                let key = work.key.clone();
                work.succeeded();
                self.collector.queue.add(key);
            }
        }
        true
    }
    async fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for kind in KINDS {
                moved |= self.deliver(kind.2);
            }
            moved |= self.work().await;
            if !moved {
                return;
            }
        }
        panic!("the collector does not come to rest");
    }
    fn names(&self) -> BTreeSet<String> {
        self.world.lock().objects.values().map(|object| object.str_at(&["metadata", "name"]).to_owned()).collect()
    }
}

fn resource(kind: &(&str, &str, &str, &str)) -> Resource {
    Resource {
        group: kind.0.to_owned(),
        version: kind.1.to_owned(),
        resource: kind.2.to_owned(),
        kind: kind.3.to_owned(),
        namespaced: true,
        verbs: ["delete", "list", "watch"].map(str::to_owned).to_vec(),
    }
}

/// A Deployment with its set and pods goes while pods die and are replaced by a controller that has not heard of it.
/// Watches lag behind each other by any amount. Whatever the order, nothing of it stays; an orphaned set does.
#[tokio::test]
async fn nothing_stays_in_any_order_of_events() {
    for seed in 0..3_000 {
        let mut bench = Bench::new(seed);
        let policy = ["Background", "Foreground", "Orphan"][bench.random(3)];
        {
            let mut world = bench.world.lock();
            world.create("deployments", "web", None);
            world.create("replicasets", "web-1", Some(("Deployment", "web")));
            world.create("pods", "a", Some(("ReplicaSet", "web-1")));
            world.create("pods", "b", Some(("ReplicaSet", "web-1")));
        }
        // Orphaning acts on the dependents that have been seen, as upstream's does: a set made a moment ago is missed.
        if policy == "Orphan" || bench.random(2) == 0 {
            bench.settle().await;
        }
        let mut script = vec!["delete web", "kill a", "make c", "kill b", "make d", "make e"];
        while !script.is_empty() {
            match bench.random(6) {
                0 => {
                    let next = bench.random(script.len());
                    let step = script.remove(next);
                    let mut world = bench.world.lock();
                    match step.split_once(' ').unwrap() {
                        ("delete", name) => world.delete(&path("deployments", name), policy),
                        ("kill", name) => world.delete(&path("pods", name), "Background"),
                        (_, name) => world.create("pods", name, Some(("ReplicaSet", "web-1"))),
                    }
                }
                1 | 2 => {
                    bench.work().await;
                }
                number => {
                    bench.deliver(KINDS[number - 3].2);
                }
            }
        }
        bench.settle().await;
        let left = bench.names();
        let expected: BTreeSet<String> = match policy {
            "Orphan" => ["c", "d", "e", "web-1"].map(str::to_owned).into(),
            _ => BTreeSet::new(),
        };
        assert_eq!(left, expected, "seed {seed}, {policy}");
    }
}

/// Somebody names an owner by a wrong kind first: its absence under that name must not hide the owner's real end from
/// the dependents that name it rightly.
#[tokio::test]
async fn a_wrong_reference_does_not_save_its_neighbours() {
    let mut bench = Bench::new(1);
    {
        let mut world = bench.world.lock();
        world.create("replicasets", "set", None);
        world.create("pods", "wrong", Some(("Deployment", "set")));
        world.create("pods", "right", Some(("ReplicaSet", "set")));
    }
    // The pods are seen and judged long before their owner is.
    while bench.deliver("pods") {}
    while !bench.collector.queue.is_empty() {
        bench.work().await;
        if bench.names().len() == 2 {
            break;
        }
    }
    bench.settle().await;
    assert_eq!(bench.names(), ["right", "set"].map(str::to_owned).into());
    bench.world.lock().delete(&path("replicasets", "set"), "Background");
    bench.settle().await;
    assert_eq!(bench.names(), BTreeSet::new());
}

/// What went while a watch was away is found by comparing with the first list of the next one.
#[tokio::test]
async fn a_watch_that_starts_anew_finds_what_went_meanwhile() {
    let mut bench = Bench::new(1);
    {
        let mut world = bench.world.lock();
        world.create("replicasets", "set", None);
        world.create("pods", "pod", Some(("ReplicaSet", "set")));
    }
    bench.settle().await;
    bench.world.lock().delete(&path("replicasets", "set"), "Background");
    bench.world.lock().watches.clear();
    bench.settle().await;
    assert!(bench.names().contains("pod"), "nobody has heard");
    let resource = resource(kind_of("replicasets"));
    let api = bench.collector.watcher.all("apps", "v1", "replicasets");
    let empty = Informer::<View>::new(api, InformerOptions::default(), SystemClock::shared()).store();
    bench.collector.compare(&resource, &empty);
    bench.settle().await;
    assert_eq!(bench.names(), BTreeSet::new());
}
