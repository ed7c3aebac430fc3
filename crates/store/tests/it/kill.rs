//! SIGKILL at random instants: a child process under mixed load says on a pipe what was acknowledged; the next round
//! must find all of it.
//!
//! Each writer of the child counts up in keys of its own and prints `ack <writer> <count> <revision>` after each
//! acknowledgement. `SKIFF_STORE_KILLS` sets the number of rounds.

use bytes::Bytes;
use skiff_store::embedded::ram::Random;
use skiff_store::embedded::{Options, Tuning};
use skiff_store::{Embedded, KeyRange, Op, RangeRequest, Store, StoreError, Txn};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const DIRECTORY: &str = "SKIFF_STORE_KILL_CHILD";
const WRITERS: u64 = 8;

fn tuning() -> Tuning {
    // Small segments, so that rollover, checkpoints and removal happen all the time.
    Tuning {
        segment_bytes: 256 << 10,
        max_request_bytes: 16 << 10,
        checkpoint_bytes: 256 << 10,
        history_bytes: 1 << 20,
        ..Tuning::default()
    }
}

fn open(directory: &Path) -> Result<Embedded, StoreError> {
    Embedded::open(directory, Options { tuning: tuning(), ..Options::default() })
}

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let store = Arc::new(open(Path::new(&directory)).unwrap());
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(Arc::clone(&store), writer));
        }
        writers.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(15)).await;
                match store.compact(store.revision() - 5).await {
                    Ok(()) | Err(StoreError::Compacted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        writers.join_next().await.unwrap().unwrap();
    });
}

const FAILS: &str = "SKIFF_STORE_FAIL_CHILD";

/// Not a test of its own: the process whose disk fails.
#[test]
fn failing_child() {
    use skiff_store::embedded::ram::{RamDisk, Trip};
    if std::env::var(FAILS).is_err() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let disk = RamDisk::new();
        let store =
            Embedded::open_on(Arc::new(disk.clone()), Options { tuning: tuning(), ..Options::default() }).unwrap();
        let put =
            |value: &str| Op::Put { key: "a".into(), value: Bytes::from(value.to_owned()), lease: 0, previous: false };
        store.txn(Txn { success: vec![put("1")], ..Txn::default() }).await.unwrap();
        // The write of the frame succeeds, its sync fails; again, should another thread have met the failure.
        for _ in 0..100 {
            disk.trip(2, Trip::Fails);
            let outcome = store.txn(Txn { success: vec![put("2")], ..Txn::default() }).await;
            assert!(outcome.is_ok(), "the process outlived a failed sync: {outcome:?}");
        }
    });
}

#[test]
fn a_failed_sync_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::failing_child", "--nocapture", "--test-threads=1"])
        .env(FAILS, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(child.signal(), Some(6), "{child:?}");
}

async fn write(store: Arc<Embedded>, writer: u64) {
    let counter = Bytes::from(format!("/counters/{writer}"));
    let mut count: u64 =
        store.get(&counter).unwrap().map_or(0, |kv| String::from_utf8(kv.value.to_vec()).unwrap().parse().unwrap());
    loop {
        count += 1;
        // The counter, a value that comes and goes, and a large one, in one revision.
        let mut ops =
            vec![Op::Put { key: counter.clone(), value: Bytes::from(count.to_string()), lease: 0, previous: false }];
        let other = Bytes::from(format!("/others/{writer}/{}", count % 7));
        if count.is_multiple_of(3) {
            ops.push(Op::Delete { range: KeyRange::key(other), previous: false });
        } else {
            let value = vec![b'x'; usize::try_from(count * 37 % 3_000).unwrap()];
            ops.push(Op::Put { key: other, value: Bytes::from(value), lease: 0, previous: false });
        }
        let answer = store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap();
        let line = format!("\nack {writer} {count} {}\n", answer.revision);
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_instants_nothing_acknowledged_is_lost() {
    let rounds = std::env::var("SKIFF_STORE_KILLS").map_or(200, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("store");
    let mut random = Random(std::process::id().into());
    let (mut counts, mut newest) = (BTreeMap::<u64, u64>::new(), 0i64);
    let (mut total, mut empty) = (0, 0);
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, &directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            // A line that the kill cut short is no acknowledgement that anybody could have read.
            let lines = std::io::BufReader::new(output).lines().map_while(Result::ok);
            let mut acknowledged = Vec::new();
            for line in lines {
                let numbers: Vec<i64> = line
                    .strip_prefix("ack ")
                    .into_iter()
                    .flat_map(|rest| rest.split(' '))
                    .flat_map(str::parse)
                    .collect();
                if let [writer, count, revision] = numbers[..] {
                    acknowledged.push((writer, count, revision));
                }
            }
            acknowledged
        });
        tokio::time::sleep(Duration::from_millis(5 + random.below(120))).await;
        child.kill().unwrap();
        assert!(child.wait().unwrap().code().is_none(), "round {round}: the child ended by itself");
        let mut acknowledged = reader.join().unwrap();
        // The last line may have lost digits.
        acknowledged.pop();
        total += acknowledged.len();
        empty += usize::from(acknowledged.is_empty());
        for (writer, count, revision) in acknowledged {
            let known = counts.entry(writer.unsigned_abs()).or_default();
            *known = (*known).max(count.unsigned_abs());
            newest = newest.max(revision);
        }
        check(&directory, round, &mut counts, newest);
    }
    assert!(total > rounds, "{total} acknowledgements in {rounds} rounds");
    println!("{rounds} kills, {total} acknowledged writes, {empty} rounds killed before the first");
}

fn check(directory: &Path, round: usize, counts: &mut BTreeMap<u64, u64>, newest: i64) {
    let store = open(directory).unwrap_or_else(|error| panic!("round {round}: {error}"));
    assert!(store.revision() >= newest, "round {round}: revision {} of {newest}", store.revision());
    for writer in 0..WRITERS {
        let found = store.get(format!("/counters/{writer}").as_bytes()).unwrap();
        let (count, version) =
            found.map_or((0, 0), |kv| (String::from_utf8(kv.value.to_vec()).unwrap().parse().unwrap(), kv.version));
        let known = counts.get(&writer).copied().unwrap_or(0);
        assert!(count >= known, "round {round}: writer {writer} had {known} acknowledged, {count} is there");
        assert_eq!(version.unsigned_abs(), count, "round {round}: a write of writer {writer} is there in part");
        counts.insert(writer, count);
        // What the last seven transactions left, exactly.
        let request = RangeRequest {
            range: KeyRange::prefix(Bytes::from(format!("/others/{writer}/"))),
            revision: None,
            limit: 0,
            keys_only: false,
            count_only: false,
        };
        let others = store.read(&request).unwrap();
        let expected: BTreeMap<Bytes, usize> = (count.saturating_sub(6)..=count)
            .filter(|step| *step > 0 && step % 3 != 0)
            .map(|step| {
                (Bytes::from(format!("/others/{writer}/{}", step % 7)), usize::try_from(step * 37 % 3_000).unwrap())
            })
            .collect();
        let found: BTreeMap<Bytes, usize> = others.kvs.into_iter().map(|kv| (kv.key, kv.value.len())).collect();
        assert_eq!(found, expected, "round {round}: writer {writer} at {count}");
    }
}
