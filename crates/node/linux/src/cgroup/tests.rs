use super::*;

fn temp(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("skiff-cgroup-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn v1_controllers_come_from_mounts_of_whole_hierarchies() {
    let of = |kind: &str, root: &str, target: &str, options: &str| crate::mount::MountInfo {
        root: root.into(),
        target: target.into(),
        tags: vec![],
        kind: kind.into(),
        options: options.into(),
    };
    let mount = |root: &str, target: &str, options: &str| of("cgroup", root, target, options);
    let mounts = [
        of("cgroup2", "/", "/run/other", "rw"),
        of("cgroup2", "/", "/sys/fs/cgroup/unified", "rw"),
        mount("/docker/x", "/elsewhere", "rw,memory"),
        mount("/", "/cg/memory", "rw,memory"),
        mount("/", "/cg/cpu,cpuacct", "rw,cpu,cpuacct"),
        mount("/", "/cg/systemd", "rw,xattr,name=systemd"),
    ];
    let known = "4:memory:/process_api/1\n2:cpu,cpuacct:/\n9:name=systemd:/\n0::/\n";
    let found = v1::controllers(&mounts, known);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["", "cpu", "cpuacct", "memory", "name=systemd"]);
    assert_eq!(found[""], Path::new("/sys/fs/cgroup/unified"));
    assert_eq!(found["memory"], Path::new("/cg/memory"));
    assert_eq!(found["cpu"], found["cpuacct"]);
}

#[test]
fn v1_cpusets_are_filled_level_by_level() {
    let dir = temp("cpuset");
    for (file, value) in [("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")] {
        std::fs::write(dir.join(file), value).unwrap();
        // A fake tree has no kernel that makes the files.
        for below in ["kubepods", "kubepods/pod"] {
            std::fs::create_dir_all(dir.join(below)).unwrap();
            std::fs::write(dir.join(below).join(file), "\n").unwrap();
        }
    }
    v1::create(&BTreeMap::from([("cpuset".to_owned(), dir.clone())]), Path::new("kubepods/pod")).unwrap();
    assert_eq!(std::fs::read_to_string(dir.join("kubepods/pod/cpuset.cpus")).unwrap(), "0-1");
    assert_eq!(std::fs::read_to_string(dir.join("kubepods/cpuset.mems")).unwrap(), "0");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn v2_limits_land_in_their_files() {
    let dir = temp("v2");
    for below in ["", "kubepods"] {
        std::fs::create_dir_all(dir.join(below)).unwrap();
        std::fs::write(dir.join(below).join("cgroup.controllers"), "cpu memory\n").unwrap();
        std::fs::write(dir.join(below).join("cgroup.subtree_control"), "memory\n").unwrap();
    }
    let cgroup = Hierarchy::V2(dir.clone()).at(Path::new("/kubepods/c")).unwrap();
    cgroup.create().unwrap();
    assert_eq!(std::fs::read_to_string(dir.join("kubepods/cgroup.subtree_control")).unwrap(), "+cpu");
    let here = dir.join("kubepods/c");
    std::fs::write(here.join("memory.swap.max"), "").unwrap();
    let limits = Limits {
        cpu_shares: Some(1024),
        cpu_quota: Some(50_000),
        memory: Some(1 << 20),
        memory_swap: Some(1 << 20),
        pids: Some(0),
        unified: BTreeMap::from([("memory.oom.group".to_owned(), "1".to_owned())]),
        hugepages: BTreeMap::from([("2MB".to_owned(), 0)]),
        ..Limits::default()
    };
    cgroup.limit(&limits).unwrap();
    let of = |file: &str| std::fs::read_to_string(here.join(file)).unwrap();
    assert_eq!((of("cpu.weight"), of("cpu.max")), ("100".to_owned(), "50000 100000".to_owned()));
    assert_eq!((of("memory.max"), of("memory.swap.max")), ("1048576".to_owned(), "0".to_owned()));
    assert_eq!((of("pids.max"), of("memory.oom.group")), ("max".to_owned(), "1".to_owned()));
    let evil = BTreeMap::from([("../x.max".to_owned(), "1".to_owned())]);
    assert!(cgroup.limit(&Limits { unified: evil, ..Limits::default() }).is_err());

    std::fs::write(here.join("memory.events"), "low 0\noom 2\noom_kill 3\n").unwrap();
    std::fs::write(here.join("cpu.stat"), "usage_usec 7\n").unwrap();
    std::fs::write(here.join("memory.stat"), "anon 5\ninactive_file 6\n").unwrap();
    assert_eq!(cgroup.oom_kills().unwrap(), 3);
    let usage = cgroup.usage().unwrap();
    assert_eq!((usage.cpu_nanoseconds, usage.rss, usage.inactive_file), (7000, 5, 6));
    assert_eq!(usage.memory_limit, Some(1 << 20));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn shares_map_to_weights_at_both_ends_and_the_default() {
    assert_eq!([2, 1024, 262_144].map(v2::weight), [1, 100, 10_000]);
}

#[test]
fn paths_out_of_the_hierarchy_are_refused() {
    let hierarchy = Hierarchy::V2("/sys/fs/cgroup".into());
    for path in ["/", "", "/a/../b", "..", "/kubepods/../../etc"] {
        assert!(hierarchy.at(Path::new(path)).is_err(), "{path}");
    }
}

/// On a kernel with any cgroup2 mount: the verifier takes the program, and it allows and denies as the rules say.
#[test]
fn the_v2_device_program_filters() {
    let mounts = crate::mount::mounts().unwrap();
    let Some(mount) =
        mounts.iter().find(|mount| mount.kind == "cgroup2").filter(|_| rustix::process::getuid().is_root())
    else {
        println!("skipped: no cgroup2 mount or not root");
        return;
    };
    let dir = mount.target.join(format!("skiff-test-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let mut null_readable = DeviceRule::char(1, Some(3));
    null_readable.write = false;
    device::attach(&dir, &[DeviceRule::char(5, None), null_readable]).unwrap();
    let outcome = std::process::Command::new("sh")
        .arg("-c")
        .arg("echo 0 > \"$0/cgroup.procs\"; cat < /dev/null && ! cat < /dev/zero && ! echo > /dev/null && echo done")
        .arg(&dir)
        .output()
        .unwrap();
    while !remove_tree(&dir).unwrap() {
        std::thread::yield_now();
    }
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "done\n", "{outcome:?}");
}
