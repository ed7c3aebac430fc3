//! A container's life: run, output, exit codes, signals, limits, and nothing left.

use std::time::{Duration, Instant};

use skiff_cri::RuntimeService;
use skiff_cri::v1::*;

use skiff_testkit::runtime::{Fixture, shell};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_leaves_nothing() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("life").await;
    let line = "echo out; echo err >&2; hostname; pwd; id; printf part; exit 7";
    let mut config = shell("c", line);
    config.working_dir = "/srv/made".into();
    config.envs = vec![KeyValue { key: "A".into(), value: "b".into() }];
    let id = f.create(&pod, config).await.unwrap();
    assert_eq!(f.status(&id).await.state(), ContainerState::ContainerCreated);
    let begin = Instant::now();
    f.start(&id).await.unwrap();
    println!("start: {:?}", begin.elapsed());
    let status = f.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    assert!(status.finished_at >= status.started_at && status.started_at >= status.created_at);
    let raw = std::fs::read_to_string(&status.log_path).unwrap();
    assert!(raw.contains(" stderr F err\n") && raw.contains(" stdout P part\n"), "{raw}");
    let log = f.log(&status);
    assert!(log.contains("out\n") && log.contains("life\n") && log.contains("/srv/made\n"), "{log}");
    assert!(log.contains("uid=0(root) gid=0(root)"), "{log}");
    // The same calls again are no errors.
    for _ in 0..2 {
        f.runtime.stop_container(StopContainerRequest { container_id: id.clone(), timeout: 1 }).await.unwrap();
        f.runtime.remove_container(RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
    }
    f.remove(&pod.0).await;
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_a_start_error() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("missing").await;
    for (name, command, words) in [
        ("path", "nope", "exec: \"nope\": executable file not found in $PATH"),
        ("file", "/bin/nope", "stat /bin/nope: no such file or directory"),
        ("perm", "/etc/passwd", "permission denied"),
        ("dir", "/etc", "is a directory"),
    ] {
        let id = f.create(&pod, ContainerConfig { command: vec![command.into()], ..shell(name, "") }).await.unwrap();
        let error = f.start(&id).await.unwrap_err();
        assert!(error.message.contains(words), "{error}");
        let status = f.status(&id).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str(), status.state()),
            (128, "StartError", ContainerState::ContainerExited)
        );
    }
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_asks_then_kills() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("stop").await;
    let polite =
        f.started(&pod, shell("polite", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")).await;
    let stubborn = f.started(&pod, shell("stubborn", "trap '' TERM; echo up; while :; do sleep 0.05; done")).await;
    for id in [&polite, &stubborn] {
        f.logged(id, "up").await;
    }
    f.runtime.stop_container(StopContainerRequest { container_id: polite.clone(), timeout: 20 }).await.unwrap();
    let status = f.status(&polite).await;
    assert_eq!((status.exit_code, f.log(&status).contains("bye")), (3, true));
    f.runtime.stop_container(StopContainerRequest { container_id: stubborn.clone(), timeout: 1 }).await.unwrap();
    let status = f.status(&stubborn).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_the_limit_is_reported_as_oom() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("oom").await;
    let mut config = shell("hog", "x=x; while :; do x=$x$x; done");
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        cpu_shares: 100,
        cpu_quota: 100_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    config.linux.as_mut().unwrap().resources = Some(resources);
    let id = f.started(&pod, config).await;
    let status = f.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_capabilities_and_devices() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("user").await;
    let mut config = shell(
        "web",
        "id; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; ls /proc/self/fd; echo $HOME; \
        cat < /dev/zero | head -c 1 | wc -c; echo > /proc/sys/kernel/core_pattern; unshare -U true; echo end",
    );
    let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.run_as_username = "web".into();
    context.no_new_privs = true;
    context.supplemental_groups = vec![2000];
    let id = f.started(&pod, config).await;
    let status = f.exited(&id).await;
    let log = f.log(&status);
    assert!(log.contains("uid=1001(web) gid=1002(web) groups=1002(web),1003(extra),2000"), "{log}");
    assert!(
        log.contains("CapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\n"),
        "{log}"
    );
    // 0 to 2, and the directory that ls reads.
    assert!(log.contains("\n0\n1\n2\n3\n/srv\n"), "{log}");
    assert!(
        log.contains("core_pattern: Read-only file system") || log.contains("core_pattern: Permission denied"),
        "{log}"
    );
    assert!(log.contains("unshare"), "making a namespace is refused: {log}");
    assert_eq!(status.user.unwrap().linux.unwrap().supplemental_groups, [1002, 1003, 2000]);

    let mknod = "mknod /tmp/sda b 8 0 && cat /tmp/sda; mknod /tmp/n c 1 3 && echo > /tmp/n && echo null works";
    let (_, log) = f.script(&pod, "dev", mknod).await;
    assert!(log.contains("Operation not permitted") && log.contains("null works"), "{log}");
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_a_read_only_root() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("volumes").await;
    let host = f.root.join("../volume");
    std::fs::create_dir_all(host.join("sub")).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    let mount = |from: &str, to: &str, readonly| Mount {
        container_path: to.into(),
        host_path: host.join(from).display().to_string(),
        readonly,
        ..Default::default()
    };
    let mut config = shell(
        "c",
        "cat /one /ro/file; echo x > /rw/sub/new; echo x > /ro/new; echo x > /new; touch /dev/shm/s; ls /dev",
    );
    config.mounts = vec![
        mount("sub", "/rw/sub", false),
        mount("", "/ro", true),
        mount("file", "/one", true),
        mount("", "/rw", false),
    ];
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().readonly_rootfs = true;
    let id = f.started(&pod, config).await;
    let status = f.exited(&id).await;
    let log = f.log(&status);
    assert!(log.starts_with("content\ncontent\n"), "{log}");
    assert!(log.contains("/ro/new: Read-only file system") && log.contains("/new: Read-only file system"), "{log}");
    assert!(host.join("sub/new").exists() && !host.join("new").exists());

    let image = Some(ImageSpec { image: shell("c", "").image.unwrap().image, ..Default::default() });
    let as_volume = Mount { container_path: "/image".into(), image, ..Default::default() };
    let line = "ls /image/bin/sh; echo x > /image/new; /image/bin/sh -c 'echo executed'; echo end";
    let id = f.started(&pod, ContainerConfig { mounts: vec![as_volume], ..shell("image", line) }).await;
    let log = f.log(&f.exited(&id).await);
    assert!(log.starts_with("/image/bin/sh\n") && log.contains("/image/new: Read-only file system"), "{log}");
    assert!(log.contains("end") && !log.contains("executed"), "an image volume runs nothing: {log}");
    let gone = Mount { container_path: "/x".into(), host_path: "/no/such".into(), ..Default::default() };
    let id = f.create(&pod, ContainerConfig { mounts: vec![gone], ..shell("gone", "true") }).await.unwrap();
    assert!(f.start(&id).await.unwrap_err().message.contains("/no/such"));
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pid_namespace_and_update_and_stats() {
    let Some(f) = Fixture::new().await else { return };
    let mut config = f.sandbox_config("shared");
    let options = config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
    options.pid = NamespaceMode::Pod.into();
    let pod = (f.run(&config).await, config);
    let shared = |name: &str, line: &str| {
        let mut config = shell(name, line);
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
        config.linux.as_mut().unwrap().resources =
            Some(LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
        config
    };
    let sleeper = f.started(&pod, shared("sleeper", "sleep 1000")).await;
    let (code, text) = f.exec(&sleeper, "ps; ls -l /proc/1/root/; readlink /proc/1/ns/mnt").await.unwrap();
    assert!(text.contains("pause") && text.contains("sleep 1000"), "{code} {text}");
    assert!(!text.contains("etc"), "the pod's init shows the host: {text}");

    let linux = LinuxContainerResources { memory_limit_in_bytes: 32 << 20, cpu_shares: 512, ..Default::default() };
    f.runtime
        .update_container_resources(UpdateContainerResourcesRequest {
            container_id: sleeper.clone(),
            linux: Some(linux),
            ..Default::default()
        })
        .await
        .unwrap();
    let own = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes cpu/cpu.shares";
    let (_, text) = f.exec(&sleeper, own).await.unwrap();
    let seen: Vec<&str> = text.split_whitespace().collect();
    assert!(matches!(seen[..], ["33554432"] | ["33554432", "512"]), "a container sees its own cgroups: {text}");
    let resources = f.status(&sleeper).await.resources.unwrap().linux.unwrap();
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_shares), (32 << 20, 512));
    let stats = f
        .runtime
        .container_stats(ContainerStatsRequest { container_id: sleeper.clone() })
        .await
        .unwrap()
        .stats
        .unwrap();
    assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let id = pod.0.clone();
    let pod_stats =
        f.runtime.pod_sandbox_stats(PodSandboxStatsRequest { pod_sandbox_id: id }).await.unwrap().stats.unwrap();
    assert_eq!(pod_stats.linux.unwrap().containers.len(), 1);
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

/// CPU time of a process and of the children it has waited for, in the kernel's ticks of 10 ms.
fn cpu_of(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = [11, 12, 13, 14].iter().filter_map(|index| fields.get(*index)?.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// CPU time of a process with one thread, to the nanosecond.
fn ran(pid: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_pods_at_once() {
    let Some(f) = Fixture::new().await else { return };
    let (begin, cpu) = (Instant::now(), cpu_of("self"));
    let pods = futures_util::future::join_all((0..50).map(|n| {
        let f = &f;
        async move {
            let pod = f.pod(&format!("many-{n}")).await;
            let id = f.create(&pod, shell("c", "sleep 1000")).await.unwrap();
            let begin = Instant::now();
            f.start(&id).await.unwrap();
            (pod, id, begin.elapsed())
        }
    }))
    .await;
    let (wall, cpu) = (begin.elapsed(), cpu_of("self").saturating_sub(cpu));
    let mut pss = 0;
    let (mut shims, mut shim_cpu) = (0, Duration::ZERO);
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if line.starts_with("skiff-shim") && line.contains(&f.root.display().to_string()) {
            let text = std::fs::read_to_string(process.path().join("smaps_rollup")).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or("Pss: 0 kB");
            pss += line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
            shims += 1;
            let pid = process.file_name().into_string().unwrap();
            shim_cpu += ran(&pid);
            // What a container spent before its program was its own, and the program.
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            shim_cpu += children.split_whitespace().map(ran).sum::<Duration>();
        }
    }
    println!("50 pods: {wall:?} wall, CPU {cpu:?} runtime and {shim_cpu:?} shims with containers");
    println!("{shims} shims, PSS {} KiB each", pss / shims.max(1));
    assert_eq!(shims, 50);
    let pod = &pods[0].0;
    let mut times = Vec::new();
    for n in 0..20 {
        let begin = Instant::now();
        let id = f.create(pod, shell(&format!("serial-{n}"), "sleep 1000")).await.unwrap();
        f.start(&id).await.unwrap();
        times.push(begin.elapsed());
    }
    times.sort();
    println!("create+start one at a time: median {:?}, slowest {:?}", times[10], times[19]);
    let begin = Instant::now();
    futures_util::future::join_all(pods.iter().map(|(pod, _, _)| f.remove(&pod.0))).await;
    println!("50 pods removed: {:?}", begin.elapsed());
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_in_the_hosts_namespaces() {
    let Some(f) = Fixture::new().await else { return };
    let host: i32 = NamespaceMode::Node.into();
    let options = NamespaceOption { network: host, pid: host, ipc: host, ..Default::default() };
    let mut config = f.sandbox_config("host");
    let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.privileged = true;
    context.namespace_options = Some(options.clone());
    let pod = (f.run(&config).await, config);
    let line = "for k in net pid ipc; do readlink /proc/self/ns/$k; done; ls /dev; touch /sys/fs/cgroup/memory/x 2>&1; \
        grep -E '^(CapEff|Seccomp):' /proc/self/status; mount -t tmpfs t /tmp && echo mounted; sleep 1000 & sleep 1000";
    let mut config = shell("c", line);
    let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    context.privileged = true;
    context.namespace_options = Some(options);
    let id = f.started(&pod, config).await;
    let log = f.logged(&id, "mounted").await;
    for kind in ["net", "pid", "ipc"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        assert!(log.contains(&own), "{kind}: {log}");
    }
    assert!(log.contains("Seccomp:\t0") && log.contains("\nkmsg\n"), "{log}");
    // Both of its processes end, though no PID namespace takes the second one along.
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}
