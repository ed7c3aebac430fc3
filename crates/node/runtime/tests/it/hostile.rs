//! Images and pods that want out.

use std::os::unix::fs::symlink;

use skiff_cri::RuntimeService;
use skiff_cri::v1::*;

use skiff_testkit::runtime::{Fixture, shell};

/// `/proc`, `/sys` or `/dev` of an image as links: refused, nothing mounted elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn links_in_place_of_mount_points_are_refused() {
    for name in ["proc", "sys", "dev"] {
        let link = |layer: &std::path::Path| {
            drop(std::fs::remove_dir(layer.join(name)));
            symlink("/tmp", layer.join(name)).unwrap();
        };
        let Some(f) = Fixture::with_layer(link).await else { return };
        let pod = f.pod(&format!("link-{name}")).await;
        let id = f.create(&pod, shell("c", "echo ran")).await.unwrap();
        let error = f.start(&id).await.unwrap_err();
        assert!(error.message.contains("must be an ordinary directory"), "{name}: {error}");
        f.remove(&pod.0).await;
        f.assert_nothing_left().await;
    }
}

/// A volume's mount point that is a link stays within the image; one that ends up in /proc is refused.
#[tokio::test(flavor = "multi_thread")]
async fn mount_points_stay_within_the_root() {
    let links = |layer: &std::path::Path| {
        symlink("/../../../../etc", layer.join("up")).unwrap();
        symlink("/proc/sys", layer.join("kernel")).unwrap();
    };
    let Some(f) = Fixture::with_layer(links).await else { return };
    let host = f.root.join("../volume");
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("canary"), "volume\n").unwrap();
    let pod = f.pod("targets").await;
    let mount =
        |to: &str| Mount { container_path: to.into(), host_path: host.display().to_string(), ..Default::default() };
    let mut config = shell("up", "cat /etc/here/canary");
    config.mounts = vec![mount("/up/here")];
    let id = f.started(&pod, config).await;
    assert_eq!(f.log(&f.exited(&id).await), "volume\n");
    assert!(!std::path::Path::new("/etc/here").exists());
    for (name, to) in [("proc", "/proc/sys"), ("link", "/kernel/vm")] {
        let id = f.create(&pod, ContainerConfig { mounts: vec![mount(to)], ..shell(name, "true") }).await.unwrap();
        let error = f.start(&id).await.unwrap_err();
        assert!(error.message.contains("inside /proc"), "{error}");
    }
    assert!(
        f.create(&pod, ContainerConfig { mounts: vec![mount("/a/../../etc")], ..shell("dots", "") }).await.is_err()
    );
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

/// CVE-2024-21626: a working directory through a descriptor.
#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_behind_a_descriptor_is_refused() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("cwd").await;
    for fd in 3..24 {
        let config =
            ContainerConfig { working_dir: format!("/proc/self/fd/{fd}"), ..shell(&format!("c{fd}"), "ls ../../..") };
        let id = f.create(&pod, config).await.unwrap();
        let error = f.start(&id).await.unwrap_err();
        assert!(error.message.contains("chdir to cwd"), "{fd}: {error}");
    }
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

/// CVE-2019-5736: the program that started the container cannot be written from within.
#[tokio::test(flavor = "multi_thread")]
async fn the_helper_is_out_of_reach() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("exe").await;
    let mut config = shell("c", "");
    config.command = vec!["/proc/self/exe".into(), "/nowhere".into()];
    let id = f.create(&pod, config).await.unwrap();
    // It is our sealed helper without a sandbox to serve: whatever happens, nothing on the host changes.
    if f.start(&id).await.is_ok() {
        assert_ne!(f.exited(&id).await.exit_code, 0);
    }
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

/// Users that wrap, profiles we do not have, namespaces we do not make: refused by name.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_supported_is_refused() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("refused").await;
    let with = |name: &str, change: &dyn Fn(&mut LinuxContainerSecurityContext)| {
        let mut config = shell(name, "true");
        change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
        config
    };
    let localhost =
        SecurityProfile { profile_type: security_profile::ProfileType::Localhost.into(), localhost_ref: "x".into() };
    type Change<'a> = &'a dyn Fn(&mut LinuxContainerSecurityContext);
    let changes: [(&str, Change<'_>); 6] = [
        ("uid", &|context| context.run_as_user = Some(Int64Value { value: 4_294_967_296 })),
        ("negative", &|context| context.run_as_user = Some(Int64Value { value: -1 })),
        ("group", &|context| context.run_as_group = Some(Int64Value { value: 1 })),
        ("apparmor", &|context| context.apparmor = Some(localhost.clone())),
        ("seccomp", &|context| context.seccomp = Some(localhost.clone())),
        ("privileged", &|context| context.privileged = true),
    ];
    for (name, change) in changes {
        assert!(f.create(&pod, with(name, change)).await.is_err(), "{name}");
    }
    let mut config = f.sandbox_config("sysctl");
    config.linux.as_mut().unwrap().sysctls.insert("kernel.core_pattern".into(), "|/x".into());
    let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    assert!(f.runtime.run_pod_sandbox(request).await.is_err());
    config.linux.as_mut().unwrap().sysctls =
        [("net.ipv4.ip_unprivileged_port_start".to_owned(), "77".to_owned())].into();
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let pod2 = (f.run(&config).await, config);
    let (_, log) = f.script(&pod2, "c", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").await;
    assert_eq!(log, "77\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap(), before);
    f.remove(&pod2.0).await;
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}
