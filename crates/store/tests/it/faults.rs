//! Power cuts, rot, full and failing disks, on the simulated disk.
//!
//! Every run is one seed; a failure names it, and `SKIFF_STORE_SEED=n` runs that one alone. `SKIFF_STORE_SEEDS` sets how
//! many are run.

use crate::world::World;
use skiff_store::StoreError;
use skiff_store::embedded::ram::{RamDisk, Random, Trip};
use std::sync::atomic::Ordering;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs `case` for each seed inside a runtime, and names the seed that fails.
fn for_seeds(default: u64, case: impl Fn(u64)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let seeds = match number("SKIFF_STORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SKIFF_STORE_SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(seed)));
        if let Err(panic) = outcome {
            eprintln!("seed {seed} failed: SKIFF_STORE_SEED={seed} repeats it");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Power goes at a random operation of the disk, also while the store is being opened, three times in a row.
fn power_cuts(seed: u64) {
    let mut world = World::new(seed, RamDisk::with_power_cuts());
    for generation in 0..3 {
        let cut = 1 + world.random.below(160);
        world.disk.trip(cut, Trip::PowerOff);
        match world.open() {
            Ok((engine, mut steps)) => {
                world.check_recovered(&engine);
                let operations = 20 + world.random.below(60);
                world.run(&engine, &mut steps, operations as usize);
            }
            Err(error) => assert!(world.disk.is_off(), "seed {seed} generation {generation}: {error}"),
        }
        let seed = world.random.number();
        world.disk = world.disk.after_power_cut(seed);
    }
    let (engine, mut steps) = world.open().unwrap();
    world.check_recovered(&engine);
    world.run(&engine, &mut steps, 10);
    steps.close();
    drop(engine);
    let (engine, _steps) = world.open().unwrap();
    world.check_recovered(&engine);
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    for_seeds(2_000, power_cuts);
}

/// One operation of the disk fails: either nobody notices (a checkpoint is tried again), or the failure policy is asked
/// and the next start finds everything.
#[test]
fn a_failing_operation_loses_nothing_acknowledged() {
    for_seeds(400, |seed| {
        let mut world = World::new(seed, RamDisk::with_power_cuts());
        let (engine, mut steps) = world.open().unwrap();
        world.run(&engine, &mut steps, 10);
        let at = 1 + world.random.below(120);
        world.disk.trip(at, Trip::Fails);
        world.run(&engine, &mut steps, 80);
        drop((engine, steps));
        let cut = world.random.number();
        world.disk = world.disk.after_power_cut(cut);
        let (engine, _steps) = world.open().unwrap();
        world.check_recovered(&engine);
    });
}

/// The disk is full from each of its operations on: nothing breaks, deletes and reads go on, and it heals by itself.
#[test]
fn a_disk_full_at_any_operation_breaks_nothing() {
    let (mut refused, mut sites) = (0, 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    for at in 1..=number("SKIFF_STORE_FULL_SITES").unwrap_or(400) {
        let mut world = World::new(at % 7, RamDisk::with_power_cuts());
        let (engine, mut steps) = world.open().unwrap();
        world.disk.trip(at, Trip::Full);
        world.run(&engine, &mut steps, 150);
        assert_eq!(world.failures.load(Ordering::SeqCst), 0, "site {at}: a full disk must show before the commit");
        refused += usize::from(world.no_space > 0);
        sites += 1;
        let full = world.no_space;
        // Space returns.
        world.disk.heal();
        steps.space();
        drop(steps.checkpoint());
        world.run(&engine, &mut steps, 20);
        assert_eq!(world.no_space, full, "site {at}: refused after space returned");
        drop((engine, steps));
        let cut = world.random.number();
        world.disk = world.disk.after_power_cut(cut);
        let (engine, _steps) = world.open().unwrap();
        world.check_recovered(&engine);
    }
    assert!(refused > sites / 4, "the disk was hardly ever full: {refused} of {sites}");
}

/// A full disk keeps nobody from opening and reading.
#[test]
fn a_full_disk_can_be_opened() {
    for_seeds(5, |seed| {
        let (mut world, disk) = filled(seed, true);
        disk.set_capacity(disk.used());
        world.disk = disk;
        let (engine, mut steps) = world.open().unwrap();
        world.check_recovered(&engine);
        world.run(&engine, &mut steps, 20);
        assert!(world.no_space > 0, "there is no room for a log");
        assert_eq!(world.failures.load(Ordering::SeqCst), 0);
        let refused = std::mem::take(&mut world.no_space);
        world.disk.heal();
        steps.space();
        world.run(&engine, &mut steps, 20);
        assert_eq!(world.no_space, 0, "{refused} refused before, and still some after space returned");
    });
}

/// A store with something in every kind of file.
fn filled(seed: u64, close: bool) -> (World, RamDisk) {
    let mut world = World::new(seed, RamDisk::with_power_cuts());
    let (engine, mut steps) = world.open().unwrap();
    for _ in 0..40 {
        world.run(&engine, &mut steps, 10);
        steps.space();
        steps.checkpoint().unwrap();
        let files = world.disk.files();
        let has = |prefix: &str| files.iter().filter(|(name, _)| name.starts_with(prefix)).count();
        if has("checkpoint-") > 0 && has("log-") > 2 {
            break;
        }
    }
    if close {
        steps.close();
    }
    let disk = world.disk.copy();
    (world, disk)
}

/// After an orderly end every flipped bit of every file is refused and named.
#[test]
fn every_flipped_bit_is_refused() {
    for_seeds(3, |seed| {
        let (mut world, disk) = filled(seed, true);
        let files = disk.files();
        assert!(files.len() >= 4, "{files:?}");
        let mut random = Random(seed);
        let budget = number("SKIFF_STORE_FLIPS").unwrap_or(600);
        for (name, length) in &files {
            for round in 0..budget {
                // Each bit of the first sectors, where heads and headers are, then anywhere.
                let bit = if round < budget / 2 && round < length * 8 { round } else { random.below(length * 8) };
                let damaged = disk.copy();
                damaged.flip(name, bit);
                world.disk = damaged;
                match world.open().map(|_| ()) {
                    Err(StoreError::Corrupt { file, offset, .. }) => {
                        assert_eq!(&file, name, "bit {bit}");
                        assert!(offset <= bit / 8, "{file} byte {} is reported at {offset}", bit / 8);
                    }
                    other => panic!("{name} bit {bit}: {other:?}"),
                }
            }
        }
        world.disk = disk;
        let (engine, _steps) = world.open().unwrap();
        world.check_recovered(&engine);
    });
}

/// After a crash a flipped bit is refused too, or it hit space that holds nothing.
#[test]
fn a_flipped_bit_after_a_crash_is_refused_or_harmless() {
    for_seeds(3, |seed| {
        let (mut world, disk) = filled(seed, false);
        world.disk = disk.copy();
        let (engine, _steps) = world.open().unwrap();
        let whole = crate::world::held(&engine);
        let mut random = Random(seed);
        let (mut refused, mut harmless) = (0, 0);
        for (name, length) in &disk.files() {
            for _ in 0..number("SKIFF_STORE_FLIPS").unwrap_or(400) {
                let bit = random.below(length * 8);
                let damaged = disk.copy();
                damaged.flip(name, bit);
                world.disk = damaged;
                match world.open() {
                    Err(StoreError::Corrupt { file, .. }) => {
                        assert_eq!(&file, name, "bit {bit}");
                        refused += 1;
                    }
                    Err(other) => panic!("{name} bit {bit}: {other}"),
                    Ok((engine, _steps)) => {
                        assert_eq!(crate::world::held(&engine), whole, "{name} bit {bit} was served");
                        harmless += 1;
                    }
                }
            }
        }
        assert!(refused > harmless, "{refused} refused, {harmless} harmless");
    });
}

/// A file that is gone is missed, unless it is the last of the log, behind which nothing can tell.
#[test]
fn a_missing_file_is_refused() {
    use skiff_store::embedded::disk::Disk;
    for_seeds(5, |seed| {
        let (mut world, disk) = filled(seed, true);
        let files = disk.files();
        let last = files.iter().map(|(name, _)| name).filter(|name| name.starts_with("log-")).max().unwrap();
        for (name, _) in files.iter().filter(|(name, _)| name != last) {
            let damaged = disk.copy();
            damaged.remove(name).unwrap();
            world.disk = damaged;
            let refused = world.open().map(|_| ());
            assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{name}: {refused:?}");
        }
    });
}

/// A segment that holds no revision is missed too.
#[test]
fn a_missing_segment_of_leases_is_refused() {
    use skiff_store::Store;
    use skiff_store::embedded::disk::Disk;
    for_seeds(1, |seed| {
        let mut world = World::new(seed, RamDisk::new());
        let (engine, mut steps) = world.open().unwrap();
        for id in 1..100 {
            let mut grant = engine.lease_grant(id, 60);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(grant.as_mut().poll(&mut context).is_pending());
            steps.commit();
            steps.space();
            assert!(grant.as_mut().poll(&mut context).is_ready());
        }
        steps.close();
        drop(engine);
        let disk = world.disk.copy();
        assert!(disk.files().len() > 4, "{:?}", disk.files());
        disk.remove("log-0000000000000002").unwrap();
        world.disk = disk;
        let refused = world.open().map(|_| ());
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    });
}

/// The same seed makes the same bytes.
#[test]
fn a_seed_repeats_itself() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let run = |seed| {
        let mut world = World::new(seed, RamDisk::with_power_cuts());
        let (engine, mut steps) = world.open().unwrap();
        world.run(&engine, &mut steps, 200);
        (crate::world::held(&engine), world.disk.files(), world.disk.operations())
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).0, run(6).0);
}

/// Whatever stands in the files, opening says what is wrong with it; it neither panics nor takes memory for it.
#[test]
fn garbage_is_refused_without_a_panic() {
    use skiff_store::embedded::disk::Disk;
    for_seeds(300, |seed| {
        let (mut world, whole) = filled(seed % 3, true);
        let mut random = Random(seed);
        let files = whole.files();
        let (name, length) = &files[random.below(files.len() as u64) as usize];
        let disk = whole.copy();
        let file = disk.open(name).unwrap();
        match random.below(4) {
            // Bytes from anywhere.
            0 => {
                let noise: Vec<u8> = (0..1 + random.below(2_000)).map(|_| random.number() as u8).collect();
                file.write_at(random.below(*length), &noise).unwrap();
            }
            // Cut short.
            1 => file.truncate(random.below(*length)).unwrap(),
            // A sector of another file.
            2 => {
                let (other, other_length) = &files[random.below(files.len() as u64) as usize];
                let mut sector = vec![0; 512.min(*other_length as usize)];
                disk.open(other).unwrap().read_at(0, &mut sector).unwrap();
                file.write_at(random.below(length / 512 + 1) * 512, &sector).unwrap();
            }
            // A whole file of noise under a name that counts.
            _ => {
                let name =
                    format!("{}{:016x}", ["log-", "checkpoint-"][random.below(2) as usize], random.below(1 << 20));
                let noise: Vec<u8> = (0..random.below(5_000)).map(|_| random.number() as u8).collect();
                if let Ok(file) = disk.create(&name, false) {
                    file.write_at(0, &noise).unwrap();
                }
            }
        }
        world.disk = disk;
        match world.open() {
            Ok((engine, _steps)) => drop(crate::world::held(&engine)),
            Err(StoreError::Corrupt { .. } | StoreError::Io { .. }) => {}
            Err(other) => panic!("{name}: {other}"),
        }
    });
}

/// A newer format is refused by its number.
#[test]
fn a_newer_format_is_refused_by_name() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    use skiff_store::embedded::disk::Disk;
    let disk = RamDisk::new();
    let text = "skiff store format 2\nid 00\n";
    let text = format!("{text}crc32 {:08x}\n", crc32fast::hash(text.as_bytes()));
    disk.create("FORMAT", false).unwrap().write_at(0, text.as_bytes()).unwrap();
    let world = World::new(0, disk);
    let refused = world.open().map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Format { found: 2, supported: 1 }), "{refused}");
    assert!(refused.to_string().contains("format 2"), "{refused}");
}
