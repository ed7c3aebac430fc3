//! `store-bench ENGINE CASE DIRECTORY [NUMBER]`: one case of one engine on an empty directory, one line of figures.
//!
//! Engines: `skiff`, `redb`, `fjall`. The two crates get what an engine on them would need anyway: one thread that
//! gathers the writers' updates and commits them together. They only overwrite keys, which is less than they would have
//! to do: revisions, history and watches are not there.
//!
//! Cases:
//!
//! - `writes N`: N writers put 1 KiB values under 10,000 keys for five seconds, each waiting until its write is durable;
//! - `watch N` (skiff only): as `writes 32` with N watches of the whole prefix and 100 of other prefixes;
//! - `updates N`: N updates of one key by 1,000 writers, and the most that the directory held meanwhile;
//! - `fill N`: N objects of 1 KiB, then the process ends as by `kill -9`;
//! - `memory N`: what N objects of 1 KiB take, before and after the history is let go of;
//! - `open`: time until the directory of `fill` is open and one key was read.

use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// As the product's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Gathered = Vec<(Bytes, Bytes)>;

enum Engine {
    Skiff(skiff_store::Embedded),
    /// An engine behind a thread that commits together what it finds waiting.
    Gathering(mpsc::UnboundedSender<(Bytes, Bytes, oneshot::Sender<()>)>, Box<dyn Fn(&[u8]) -> bool + Send + Sync>),
}

fn gather(commit: impl Fn(Gathered) + Send + 'static, read: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Engine {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Bytes, Bytes, oneshot::Sender<()>)>();
    std::thread::spawn(move || {
        while let Some((key, value, done)) = receiver.blocking_recv() {
            let (mut batch, mut waiting) = (vec![(key, value)], vec![done]);
            while let Ok((key, value, done)) = receiver.try_recv() {
                batch.push((key, value));
                waiting.push(done);
            }
            commit(batch);
            for done in waiting {
                // A writer that went away does not want to know.
                let _gone = done.send(());
            }
        }
    });
    Engine::Gathering(sender, Box::new(read))
}

const TABLE: redb::TableDefinition<'static, &[u8], &[u8]> = redb::TableDefinition::new("objects");

impl Engine {
    fn open(name: &str, directory: &Path) -> Self {
        match name {
            "skiff" => {
                Self::Skiff(skiff_store::Embedded::open(directory, skiff_store::Options::default()).expect("opens"))
            }
            "redb" => {
                std::fs::create_dir_all(directory).expect("directory");
                // The cache that fits our memory budget; the default is 1 GiB.
                let database = redb::Database::builder().set_cache_size(32 << 20).create(directory.join("db"));
                let database = Arc::new(database.expect("opens"));
                let reader = Arc::clone(&database);
                let commit = move |batch: Gathered| {
                    let mut transaction = database.begin_write().expect("begins");
                    // Without it a database that was not closed is repaired by reading all of it.
                    transaction.set_quick_repair(true);
                    {
                        let mut table = transaction.open_table(TABLE).expect("table");
                        for (key, value) in batch {
                            table.insert(&key[..], &value[..]).expect("inserts");
                        }
                    }
                    transaction.commit().expect("commits");
                };
                let read = move |key: &[u8]| {
                    use redb::ReadableDatabase;
                    let transaction = reader.begin_read().expect("begins");
                    transaction.open_table(TABLE).expect("table").get(key).expect("reads").is_some()
                };
                gather(commit, read)
            }
            "fjall" => {
                let database = fjall::Database::builder(directory).open().expect("opens");
                let objects = database.keyspace("objects", fjall::KeyspaceCreateOptions::default).expect("keyspace");
                let reader = objects.clone();
                let commit = move |batch: Gathered| {
                    let mut write = database.batch();
                    for (key, value) in batch {
                        write.insert(&objects, &key[..], &value[..]);
                    }
                    write.commit().expect("commits");
                    database.persist(fjall::PersistMode::SyncData).expect("syncs");
                };
                gather(commit, move |key: &[u8]| reader.get(key).expect("reads").is_some())
            }
            other => panic!("no engine {other}"),
        }
    }

    async fn put(&self, key: Bytes, value: Bytes) {
        match self {
            Self::Skiff(store) => {
                use skiff_store::{Op, Store, Txn};
                let put = Op::Put { key, value, lease: 0, previous: false };
                store.txn(Txn { success: vec![put], ..Txn::default() }).await.expect("commits");
            }
            Self::Gathering(queue, _) => {
                let (done, durable) = oneshot::channel();
                queue.send((key, value, done)).expect("the thread lives");
                durable.await.expect("the thread lives");
            }
        }
    }

    fn has(&self, key: &[u8]) -> bool {
        match self {
            Self::Skiff(store) => store.get(key).expect("reads").is_some(),
            Self::Gathering(_, read) => read(key),
        }
    }
}

/// A number of a `/proc` file.
fn proc(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).expect("proc");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim_matches(|letter: char| !letter.is_ascii_digit()).parse().expect("a number")
}

fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").expect("proc");
    let ticks: u64 = text
        .rsplit(')')
        .next()
        .expect("fields")
        .split(' ')
        .skip(12)
        .take(2)
        .map(|n| n.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 10)
}

fn on_disk(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => on_disk(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("/registry/configmaps/namespace-{:02}/object-{number:08}", number % 50))
}

/// Bytes that do not compress: fjall would otherwise write less than the others.
fn value(seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes: Vec<u8> = (0..1024)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    Bytes::from(bytes)
}

async fn writes(name: &str, directory: PathBuf, writers: u64) {
    let engine = Arc::new(Engine::open(name, &directory));
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (cpu_before, bytes_before) = (cpu(), proc("io", "write_bytes:"));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let (engine, stop, count) = (Arc::clone(&engine), Arc::clone(&stop), Arc::clone(&count));
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            let mut number = writer;
            while !stop.load(Ordering::Relaxed) {
                let since = Instant::now();
                engine.put(key(number % 10_000), value(number)).await;
                latencies.push(since.elapsed());
                number += writers;
                count.fetch_add(1, Ordering::Relaxed);
            }
            latencies
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        latencies.extend(ended.expect("no panic"));
    }
    let elapsed = began.elapsed();
    latencies.sort_unstable();
    let count = count.load(Ordering::Relaxed);
    println!(
        "{name} writes {writers}: {:.0}/s, p50 {:?}, p99 {:?}, cpu {:.1} us/write, {:.0} bytes/write, peak rss {} MiB",
        count as f64 / elapsed.as_secs_f64(),
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        (cpu() - cpu_before).as_secs_f64() * 1e6 / count as f64,
        (proc("io", "write_bytes:") - bytes_before) as f64 / count as f64,
        proc("status", "VmHWM:") / 1024,
    );
}

async fn watches(directory: PathBuf, count: u64) {
    use skiff_store::{Embedded, KeyRange, Op, Options, Store, Txn, WatchBatch, WatchRequest};
    let store = Arc::new(Embedded::open(&directory, Options::default()).expect("opens"));
    let delivered = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count + 100 {
        let prefix = if number < count { "/registry/configmaps/".into() } else { format!("/registry/other-{number}/") };
        let request = WatchRequest { range: KeyRange::prefix(prefix), start: None, previous: true };
        let mut watch = store.watch(request).await.expect("watches");
        let delivered = Arc::clone(&delivered);
        tasks.spawn(async move {
            while let Ok(batch) = watch.next().await {
                if let WatchBatch::Events(events) = batch {
                    delivered.fetch_add(events.len() as u64, Ordering::Relaxed);
                }
            }
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let (began, cpu_before) = (Instant::now(), cpu());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..32 {
        let (store, stop, written) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&written));
        writers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let put = Op::Put { key: key(writer), value: value(writer), lease: 0, previous: false };
                store.txn(Txn { success: vec![put], ..Txn::default() }).await.expect("commits");
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    while writers.join_next().await.is_some() {}
    let written = written.load(Ordering::Relaxed);
    let until = Instant::now() + Duration::from_secs(30);
    while delivered.load(Ordering::Relaxed) < written * count && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (elapsed, delivered) = (began.elapsed(), delivered.load(Ordering::Relaxed));
    println!(
        "skiff watch {count}: {:.0} writes/s, {:.0} events/s, {} of {} delivered, cpu {:.2} us/event",
        written as f64 / elapsed.as_secs_f64(),
        delivered as f64 / elapsed.as_secs_f64(),
        delivered,
        written * count,
        (cpu() - cpu_before).as_secs_f64() * 1e6 / delivered as f64,
    );
    std::process::exit(0);
}

async fn many(name: &str, engine: Arc<Engine>, total: u64, key_of: fn(u64) -> Bytes, directory: &Path) -> u64 {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (engine, next) = (Arc::clone(&engine), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return;
                }
                engine.put(key_of(number), value(number)).await;
            }
        });
    }
    let mut most = 0;
    while !tasks.is_empty() {
        tokio::select! {
            Some(ended) = tasks.join_next() => ended.unwrap_or_else(|error| panic!("{name}: {error}")),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        most = most.max(on_disk(directory));
    }
    most
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, case, directory, rest @ ..] = &arguments[..] else { panic!("ENGINE CASE DIRECTORY [NUMBER]") };
    let directory = PathBuf::from(directory);
    let number: u64 = rest.first().map_or(1, |text| text.parse().expect("a number"));
    match case.as_str() {
        "writes" => writes(name, directory, number).await,
        "watch" => watches(directory, number).await,
        "updates" => {
            let engine = Arc::new(Engine::open(name, &directory));
            let (began, bytes) = (Instant::now(), proc("io", "write_bytes:"));
            let most = many(name, Arc::clone(&engine), number, |_| key(0), &directory).await;
            let elapsed = began.elapsed();
            println!(
                "{name} updates {number}: {:.0}/s, at most {} MiB on disk, {} MiB at the end, {:.0} bytes/update, peak rss {} MiB",
                number as f64 / elapsed.as_secs_f64(),
                most >> 20,
                on_disk(&directory) >> 20,
                (proc("io", "write_bytes:") - bytes) as f64 / number as f64,
                proc("status", "VmHWM:") / 1024,
            );
        }
        "fill" => {
            let engine = Arc::new(Engine::open(name, &directory));
            many(name, Arc::clone(&engine), number, key, &directory).await;
            println!(
                "{name} fill {number}: {} MiB on disk, rss {} MiB",
                on_disk(&directory) >> 20,
                proc("status", "VmRSS:") / 1024
            );
            std::process::abort();
        }
        // What the engine needs for objects that have rested: only it has a history to let go of.
        "memory" => {
            let before = proc("status", "VmRSS:");
            let engine = Arc::new(Engine::open(name, &directory));
            many(name, Arc::clone(&engine), number, key, &directory).await;
            let busy = proc("status", "VmRSS:") - before;
            if let Engine::Skiff(store) = &*engine {
                skiff_store::Store::compact(store, store.revision()).await.expect("compacts");
                while store.usage().history_bytes > 1000 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            tokio::time::sleep(Duration::from_secs(3)).await;
            let rested = proc("status", "VmRSS:") - before;
            let content = number * (key(0).len() as u64 + 1024) / 1024;
            println!(
                "{name} memory {number}: rss + {} KiB with history, + {} KiB rested; keys and values {content} KiB, so {} bytes more per key",
                busy,
                rested,
                (rested - content) * 1024 / number,
            );
        }
        "open" => {
            let began = Instant::now();
            let engine = Engine::open(name, &directory);
            let opened = began.elapsed();
            assert!(engine.has(&key(number - 1)), "the last object is there");
            println!("{name} open: {opened:?}, rss {} MiB", proc("status", "VmRSS:") / 1024);
            std::process::abort();
        }
        other => panic!("no case {other}"),
    }
}
