//! The runtime goes away and comes back.

use std::time::Duration;

use futures_util::StreamExt;
use skiff_cri::RuntimeService;
use skiff_cri::v1::*;

use crate::fixture::{Fixture, shell};

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_runtime() {
    let Some(mut f) = Fixture::new().await else { return };
    let pod = f.pod("outlive").await;
    let stays = f.started(&pod, shell("stays", "echo up; sleep 1000")).await;
    let flag = f.root.join("../flag");
    let ends_config = ContainerConfig {
        mounts: vec![Mount { container_path: "/flag".into(), host_path: f.root.join("..").display().to_string(), ..Default::default() }],
        ..shell("ends", "while [ ! -e /flag/flag ]; do sleep 0.02; done; exit 5")
    };
    let ends = f.started(&pod, ends_config).await;
    let created = f.create(&pod, shell("created", "exit 9")).await.unwrap();
    let dir = f.root.join("containers").join(&ends);

    f.tasks.shutdown(Duration::from_secs(5)).await;
    std::fs::write(&flag, "").unwrap();
    while !dir.join("exit.json").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    f.restart().await;

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
        let last = event.container_id == pod.0 && event.container_event_type() == ContainerEventType::ContainerDeletedEvent;
        if event.container_id == id {
            seen.push(event.container_event_type());
        }
        if last {
            break;
        }
    }
    use ContainerEventType::{ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent};
    seen.sort();
    assert_eq!(seen, [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent]);
    f.assert_nothing_left().await;
}
