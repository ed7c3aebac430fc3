//! Exec, attach, port-forward, log rotation.

use skiff_cri::streaming::Streaming;
use skiff_cri::v1::*;
use skiff_cri::{Code, RuntimeService};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use skiff_testkit::eventually;
use skiff_testkit::runtime::{Fixture, shell};

#[tokio::test(flavor = "multi_thread")]
async fn exec_in_all_its_forms() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("exec").await;
    let id = f.started(&pod, shell("c", "sleep 1000")).await;
    assert_eq!(f.exec(&id, "echo out; echo err >&2; exit 6").await.unwrap(), (6, "out\nerr\n".to_owned()));
    let (_, text) = f.exec(&id, "ls /proc/self/fd; grep Seccomp: /proc/self/status; hostname").await.unwrap();
    assert_eq!(text, "0\n1\n2\n3\nSeccomp:\t2\nexec\n");
    let slow = ExecSyncRequest { container_id: id.clone(), cmd: vec!["sleep".into(), "1000".into()], timeout: 1 };
    assert_eq!(f.runtime.exec_sync(slow).await.unwrap_err().code, Code::DeadlineExceeded);
    let missing = ExecSyncRequest { container_id: id.clone(), cmd: vec!["nope".into()], timeout: 1 };
    let error = f.runtime.exec_sync(missing).await.unwrap_err();
    assert!(error.message.contains("executable file not found in $PATH"), "{error}");
    let flood = ExecSyncRequest {
        container_id: id.clone(),
        cmd: ["head", "-c", "40000000", "/dev/zero"].map(str::to_owned).to_vec(),
        timeout: 30,
    };
    let flood = f.runtime.exec_sync(flood).await.unwrap();
    assert_eq!((flood.stdout.len(), flood.exit_code), (16 << 20, 0));

    // Half-close: the command sees the end of its input, its output still comes.
    let request = ExecRequest {
        container_id: id.clone(),
        cmd: vec!["cat".into()],
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let by_url = RuntimeService::exec(&f.runtime, request).await.unwrap_err();
    assert!(by_url.is_unimplemented(), "the CRI's own Exec has no URL to give: {by_url}");
    let request = ExecRequest {
        container_id: id.clone(),
        cmd: vec!["cat".into()],
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    };
    let mut session = Streaming::exec(&f.runtime, request).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"through").await.unwrap();
    drop(stdin);
    let mut text = String::new();
    session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!((text.as_str(), session.exit.await), ("through", Ok(0)));

    let request = ExecRequest {
        container_id: id.clone(),
        cmd: vec!["sh".into()],
        stdin: true,
        stdout: true,
        stderr: false,
        tty: true,
    };
    let mut session = Streaming::exec(&f.runtime, request).await.unwrap();
    session.resize.as_ref().unwrap()(101, 33).unwrap();
    session.stdin.as_mut().unwrap().write_all(b"tty; stty size; exit 8\n").await.unwrap();
    let mut text = String::new();
    session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    assert!(text.contains("/dev/pts/") && text.contains("33 101"), "{text}");
    assert_eq!(session.exit.await, Ok(8));
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_takes_part() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("attach").await;
    let id =
        f.started(&pod, ContainerConfig { stdin: true, stdin_once: true, ..shell("c", "cat; echo end; exit 2") }).await;
    let request = AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, tty: false };
    let mut session = Streaming::attach(&f.runtime, request).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let mut line = [0u8; 6];
    let stdout = session.stdout.as_mut().unwrap();
    stdout.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"hello\n");
    drop(session.stdin.take());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert_eq!((rest.as_str(), session.exit.await), ("end\n", Ok(2)));
    assert_eq!(f.log(&f.exited(&id).await), "hello\nend\n");

    let tty =
        f.started(&pod, ContainerConfig { stdin: true, tty: true, ..shell("tty", "tty; read x; echo got $x") }).await;
    let request = AttachRequest { container_id: tty.clone(), stdin: true, stdout: true, stderr: false, tty: true };
    let mut session = Streaming::attach(&f.runtime, request).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"word\n").await.unwrap();
    assert_eq!(session.exit.await, Ok(0));
    assert!(f.log(&f.exited(&tty).await).contains("got word"));
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_port_reaches_the_pods_loopback() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("forward").await;
    let _server = f.started(&pod, shell("c", "echo pong | nc -l -p 8080; sleep 1000")).await;
    let connect = async || Streaming::port_forward(&f.runtime, &pod.0, 8080).await;
    let mut connection = eventually("a listener", connect).await;
    let mut text = [0u8; 5];
    connection.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"pong\n");
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_log_is_opened_anew() {
    let Some(f) = Fixture::new().await else { return };
    let pod = f.pod("rotate").await;
    let id = f.started(&pod, shell("c", "while :; do echo line; sleep 0.01; done")).await;
    let status = f.status(&id).await;
    f.logged(&id, "line").await;
    std::fs::rename(&status.log_path, format!("{}.1", status.log_path)).unwrap();
    f.runtime.reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() }).await.unwrap();
    f.logged(&id, "line").await;
    f.remove(&pod.0).await;
    f.assert_nothing_left().await;
}
