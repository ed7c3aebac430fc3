//! The runtime goes away and comes back.

use std::time::Duration;

use futures_util::StreamExt;
use skiff_cri::RuntimeService;
use skiff_cri::v1::*;

use skiff_testkit::runtime::{Fixture, shell};
use skiff_testkit::until;

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_runtime() {
    let Some(mut f) = Fixture::new().await else { return };
    let pod = f.pod("outlive").await;
    let stays = f.started(&pod, shell("stays", "echo up; sleep 1000")).await;
    let flag = f.root.join("../flag");
    let ends_config = ContainerConfig {
        mounts: vec![Mount {
            container_path: "/flag".into(),
            host_path: f.root.join("..").display().to_string(),
            ..Default::default()
        }],
        ..shell("ends", "while [ ! -e /flag/flag ]; do sleep 0.02; done; exit 5")
    };
    let ends = f.started(&pod, ends_config).await;
    let created = f.create(&pod, shell("created", "exit 9")).await.unwrap();
    let dir = f.root.join("containers").join(&ends);

    f.let_go().await;
    std::fs::write(&flag, "").unwrap();
    until("the end on disk", async || dir.join("exit.json").exists()).await;
    f.reopen().await;

    assert_eq!(f.status(&stays).await.state(), ContainerState::ContainerRunning);
    assert_eq!(f.status(&created).await.state(), ContainerState::ContainerCreated);
    let status = f.status(&ends).await;
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 5));
    // Adopted, not only listed: it can be entered, what was created starts, exits are heard.
    assert_eq!(f.exec(&stays, "echo inside").await.unwrap(), (0, "inside\n".to_owned()));
    f.start(&created).await.unwrap();
    assert_eq!(f.exited(&created).await.exit_code, 9);
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

/// Holds a runtime in a process of its own until it is killed; by itself it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn held_in_another_process() {
    let Ok(root) = std::env::var("SKIFF_TEST_ROOT") else { return };
    let cgroup = std::env::var("SKIFF_TEST_CGROUP").unwrap();
    let f = Fixture::on(root.into(), cgroup).await;
    let pod = f.pod("killed").await;
    f.started(&pod, shell("runs", "sleep 1000")).await;
    f.create(&pod, shell("created", "exit 3")).await.unwrap();
    std::fs::write(f.root.join("../held"), "").unwrap();
    // In the middle of more work when the end comes.
    for n in 0.. {
        f.started(&pod, shell(&format!("more-{n}"), "sleep 1000")).await;
    }
}

/// `kill -9` of the process that holds the runtime, amid starts: what ran runs on, everything is found and removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_runtime_is_taken_over() {
    let Some(mut f) = Fixture::new().await else { return };
    f.let_go().await;
    let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "restart::held_in_another_process"])
        .env("SKIFF_TEST_ROOT", &f.root)
        .env("SKIFF_TEST_CGROUP", &f.cgroup)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    until("six containers", async || {
        assert!(holder.try_wait().unwrap().is_none(), "the other process ended by itself");
        f.root.join("../held").exists() && std::fs::read_dir(f.root.join("containers")).unwrap().count() >= 6
    })
    .await;
    holder.kill().unwrap();
    holder.wait().unwrap();
    f.reopen().await;
    let containers = f.runtime.list_containers(ListContainersRequest::default()).await.unwrap().containers;
    let named = |name: &str| containers.iter().find(|c| c.metadata.as_ref().unwrap().name == name).unwrap().clone();
    assert_eq!(named("runs").state(), ContainerState::ContainerRunning);
    assert_eq!(f.exec(&named("runs").id, "echo inside").await.unwrap(), (0, "inside\n".to_owned()));
    f.start(&named("created").id).await.unwrap();
    assert_eq!(f.exited(&named("created").id).await.exit_code, 3);
    for sandbox in f.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().items {
        f.remove(&sandbox.id).await;
    }
    f.assert_nothing_left().await;
}

/// The shim is killed: its containers end, and everything can be removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_ends_its_pod() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("lost").await;
    let id = f.started(&pod, shell("c", "sleep 1000")).await;
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.0.clone(), verbose: true };
    let info = f.runtime.pod_sandbox_status(request).await.unwrap().info["info"].clone();
    let pid = info.split("\"shimPid\":").nth(1).unwrap().split([',', '}']).next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    let status = f.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_the_story() {
    let Some(f) = Fixture::new().await else { return };
    let mut events = f.runtime.get_container_events(GetEventsRequest {}).await.unwrap();
    let pod = f.pod("events").await;
    let id = f.started(&pod, shell("c", "exit 4")).await;
    f.exited(&id).await;
    f.remove(&pod.0).await;
    let mut seen = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_secs(5), events.next()).await {
        let event = event.unwrap();
        assert!(event.pod_sandbox_status.is_some());
        let last =
            event.container_id == pod.0 && event.container_event_type() == ContainerEventType::ContainerDeletedEvent;
        if event.container_id == id {
            seen.push(event.container_event_type());
        }
        if last {
            break;
        }
    }
    use ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };
    seen.sort();
    assert_eq!(seen, [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent]);
    f.assert_nothing_left().await;
}

/// `kill -9` at any moment of starting pods: whatever was half made is found and can be removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_killed_while_pods_start_leaves_nothing() {
    let Some(mut f) = Fixture::new().await else { return };
    for round in 0..8u64 {
        f.let_go().await;
        let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "restart::starts_pods_without_end"])
            .env("SKIFF_TEST_ROOT", &f.root)
            .env("SKIFF_TEST_CGROUP", &f.cgroup)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while std::fs::read_dir(f.root.join("sandboxes")).unwrap().count() < 3 {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        tokio::time::sleep(Duration::from_micros(round * 700)).await;
        holder.kill().unwrap();
        holder.wait().unwrap();
        f.reopen().await;
        for sandbox in f.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().items {
            f.remove(&sandbox.id).await;
        }
        f.assert_nothing_left().await;
    }
}

/// The other process of the test above; by itself it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn starts_pods_without_end() {
    let Ok(root) = std::env::var("SKIFF_TEST_ROOT") else { return };
    let f = Fixture::on(root.into(), std::env::var("SKIFF_TEST_CGROUP").unwrap()).await;
    for n in 0.. {
        f.pod(&format!("pod-{n}")).await;
    }
}

/// `rm -rf`: what is busy stays, all else goes.
fn remove_all_that_goes(dir: &std::path::Path) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            remove_all_that_goes(&entry.path());
        }
        drop(std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir(entry.path())));
    }
}

/// Somebody removes directories under running pods: no call can name these any more, so a start ends them, and leaves the
/// others alone.
#[tokio::test(flavor = "multi_thread")]
async fn pods_whose_directory_is_gone_are_ended() {
    let Some(mut f) = Fixture::new().await else { return };
    let stays = f.pod("stays").await;
    let running = f.started(&stays, shell("c", "sleep 1000")).await;
    let mut shared_pid = f.sandbox_config("shared");
    let options = NamespaceOption { pid: NamespaceMode::Pod.into(), ..Default::default() };
    shared_pid.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
    let shared = (f.run(&shared_pid).await, shared_pid);
    f.started(&shared, shell("c", "sleep 1000 & sleep 1000")).await;
    let whole = f.pod("whole").await;
    let container = f.started(&whole, shell("c", "sleep 1000")).await;
    // The shim of this one is killed too, so that its container has no parent of ours.
    let request = PodSandboxStatusRequest { pod_sandbox_id: whole.0.clone(), verbose: true };
    let info = f.runtime.pod_sandbox_status(request).await.unwrap().info["info"].clone();
    let pid = info.split("\"shimPid\":").nth(1).unwrap().split([',', '}']).next().unwrap().parse().unwrap();

    f.let_go().await;
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    for path in [f.root.join("sandboxes").join(&shared.0), f.root.join("sandboxes").join(&whole.0)] {
        remove_all_that_goes(&path);
    }
    remove_all_that_goes(&f.root.join("containers").join(&container));
    let before = skiff_runtime::leftovers::Leftovers::find(&f.root, |id| id == stays.0 || id == running).unwrap();
    assert_eq!(before.shims.len(), 1, "{before:?}");
    assert!(before.processes.len() >= 3 && before.cgroups.len() >= 2 && before.mounts.len() >= 6, "{before:?}");
    f.reopen().await;

    let after = skiff_runtime::leftovers::Leftovers::find(&f.root, |id| id == stays.0 || id == running).unwrap();
    assert!(after.is_empty(), "{after:?}");
    assert_eq!(f.exec(&running, "echo inside").await.unwrap(), (0, "inside\n".to_owned()));
    f.remove(&stays.0).await;
    f.assert_nothing_left().await;
}
