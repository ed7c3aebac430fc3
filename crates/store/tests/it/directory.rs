//! The engine on real directories: lock, restart, snapshot, a file system that runs full.

use bytes::Bytes;
use skiff_store::embedded::{self, Options, Tuning};
use skiff_store::{Embedded, KeyRange, Op, RangeRequest, Store, StoreError, Txn, WatchBatch, WatchRequest};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Txn {
    Txn { success: vec![Op::Put { key: key.into(), value: value.into(), lease: 0, previous: false }], ..Txn::default() }
}

fn everything() -> RangeRequest {
    RangeRequest { range: KeyRange::prefix(""), revision: None, limit: 0, keys_only: false, count_only: false }
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_its_holder() {
    let scratch = tempfile::tempdir().unwrap();
    let first = Embedded::open(scratch.path(), Options::default()).unwrap();
    match Embedded::open(scratch.path(), Options::default()).map(|_| ()) {
        Err(error @ StoreError::InUse { pid, .. }) => {
            assert_eq!(pid, Some(std::process::id()));
            assert!(error.to_string().contains("in use"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    Embedded::open(scratch.path(), Options::default()).unwrap();
}

#[tokio::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("store");
    let _store = Embedded::open(&directory, Options::default()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    let watch_from = |start| WatchRequest { range: KeyRange::prefix(""), start: Some(start), previous: true };
    {
        let store = Embedded::open(scratch.path(), Options::default()).unwrap();
        for number in 0..50 {
            store.txn(put(format!("k{}", number % 5), format!("{number}"))).await.unwrap();
        }
        store.lease_grant(9, 600).await.unwrap();
        store.compact(20).await.unwrap();
    }
    let store = Embedded::open(scratch.path(), Options::default()).unwrap();
    assert_eq!((store.revision(), store.compacted()), (51, 20));
    assert_eq!(store.leases().await.unwrap(), [9]);
    let mut past = everything();
    past.revision = Some(19);
    assert!(matches!(store.range(past.clone()).await, Err(StoreError::Compacted { horizon: 20 })));
    past.revision = Some(20);
    assert_eq!(store.range(past).await.unwrap().kvs.len(), 5);
    // A watcher that was there before the restart resumes without a list.
    let mut watch = store.watch(watch_from(20)).await.unwrap();
    let mut seen = 0;
    while seen < 32 {
        let WatchBatch::Events(events) = watch.next().await.unwrap() else { continue };
        assert!(events.iter().all(|event| event.previous.is_some()));
        seen += events.len();
    }
    assert!(matches!(store.watch(watch_from(19)).await.map(|_| ()), Err(StoreError::Compacted { .. })));
    assert_eq!(store.txn(put("k0", "next")).await.unwrap().revision, 52);
}

#[tokio::test]
async fn a_snapshot_restores() {
    let scratch = tempfile::tempdir().unwrap();
    let store = Embedded::open(&scratch.path().join("one"), Options::default()).unwrap();
    for number in 0..2_000 {
        store.txn(put(format!("k{}", number % 1_500), vec![b'x'; number])).await.unwrap();
    }
    store.lease_grant(3, 60).await.unwrap();
    let mut snapshot = Vec::new();
    let revision = store.snapshot(&mut snapshot).unwrap();
    assert_eq!(revision, 2_001);
    let before = store.range(everything()).await.unwrap();
    store.txn(put("later", "x")).await.unwrap();

    let target = scratch.path().join("two");
    assert_eq!(embedded::restore(&target, &mut &snapshot[..]).unwrap(), revision);
    let restored = Embedded::open(&target, Options::default()).unwrap();
    let after = restored.range(everything()).await.unwrap();
    assert_eq!((after.revision, after.kvs), (revision, before.kvs));
    assert_eq!(restored.leases().await.unwrap(), [3]);
    assert_eq!(restored.txn(put("k0", "x")).await.unwrap().revision, revision + 1);
    drop(restored);

    let refused = embedded::restore(&target, &mut &snapshot[..]).unwrap_err();
    assert!(refused.to_string().contains("not empty"), "{refused}");
    for (what, damaged) in [
        ("cut", snapshot[..snapshot.len() - 1].to_vec()),
        ("longer", [&snapshot[..], &[0]].concat()),
        ("flipped", {
            let mut bytes = snapshot.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
    ] {
        let target = scratch.path().join(what);
        let refused = embedded::restore(&target, &mut &damaged[..]).unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{what}: {refused}");
        let store = Embedded::open(&target, Options::default()).unwrap();
        assert_eq!(store.revision(), 1, "{what}: nothing of a refused snapshot is there");
    }
}

/// Updates of a few objects need space for these objects and the horizon, not for every update.
#[tokio::test]
async fn space_is_bounded_without_a_hand() {
    let scratch = tempfile::tempdir().unwrap();
    let tuning = Tuning {
        segment_bytes: 256 << 10,
        max_request_bytes: 16 << 10,
        checkpoint_bytes: 512 << 10,
        history_bytes: 512 << 10,
        ..Tuning::default()
    };
    let store = Embedded::open(scratch.path(), Options { tuning, ..Options::default() }).unwrap();
    let mut most = 0;
    for round in 0..1_500u32 {
        let ops = (0..10)
            .map(|key| Op::Put {
                key: Bytes::from(format!("k{}", (round + key) % 20)),
                value: Bytes::from(vec![b'x'; 1_000]),
                lease: 0,
                previous: false,
            })
            .collect();
        store.txn(Txn { success: ops, ..Txn::default() }).await.unwrap();
        let files = std::fs::read_dir(scratch.path()).unwrap();
        // A file may go while one looks.
        let now = files.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum::<u64>();
        most = most.max(now);
    }
    assert!(store.compacted() > 0, "the engine moves the horizon by itself");
    assert!(most < 4 << 20, "15 MB of updates of 20 keys took up to {most} bytes");
}

/// Not only a full disk can refuse the next segment.
#[tokio::test]
async fn a_directory_that_is_gone_refuses_writes_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("store");
    let tuning = Tuning { segment_bytes: 256 << 10, max_request_bytes: 16 << 10, ..Tuning::default() };
    let store = Embedded::open(&directory, Options { tuning, ..Options::default() }).unwrap();
    // The engine may be making its second segment just then.
    while directory.exists() {
        drop(std::fs::remove_dir_all(&directory));
    }
    let refused = loop {
        if let Err(error) = store.txn(put("k", vec![b'x'; 10_000])).await {
            break error;
        }
        assert!(store.revision() < 1_000, "writes go nowhere");
    };
    assert!(refused.to_string().contains("making the next log segment"), "{refused}");
    assert!(store.status().await.unwrap().alarm.is_some());
    assert!(store.get(b"k").unwrap().is_some(), "reads go on");
}

/// A tmpfs of its own, gone at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: PathBuf, options: &str) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output().ok()?;
        mounted.status.success().then_some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_system_refuses_writes_and_heals() {
    let scratch = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::tmpfs(scratch.path().join("small"), "size=64m") else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let store = Embedded::open(&mounted.0.join("store"), Options::default()).unwrap();
    let value = Bytes::from(vec![b'x'; 100_000]);
    let mut written = 0;
    let refused = loop {
        match store.txn(put(format!("k{written:05}"), value.clone())).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "64 MiB took {written} times 100 kB");
    };
    assert!(matches!(refused, StoreError::NoSpace), "{refused}");
    assert!(written > 200, "only {written}");
    assert!(store.status().await.unwrap().alarm.is_some());
    assert_eq!(store.range(everything()).await.unwrap().kvs.len(), written, "reads go on");
    for number in 0..100 {
        let delete = Op::Delete { range: KeyRange::key(format!("k{number:05}")), previous: false };
        store.txn(Txn { success: vec![delete], ..Txn::default() }).await.expect("deletes go on");
    }
    // Space comes from outside.
    let grown = Command::new("mount").args(["-o", "remount,size=128m"]).arg(&mounted.0).status().unwrap();
    assert!(grown.success());
    let since = Instant::now();
    while let Err(error) = store.txn(put("after", "x")).await {
        assert!(matches!(error, StoreError::NoSpace), "{error}");
        assert!(since.elapsed() < Duration::from_secs(5), "still refused");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while store.status().await.unwrap().alarm.is_some() {
        assert!(since.elapsed() < Duration::from_secs(5), "the alarm stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(store);
    let store = Embedded::open(&mounted.0.join("store"), Options::default()).unwrap();
    assert_eq!(store.range(everything()).await.unwrap().kvs.len(), written - 100 + 1);
}
