//! `skiff cri`: the runtime alone, as a client of its socket sees it.

use skiff_cri::v1::*;
use skiff_cri::{GrpcRuntime, ImageService, RuntimeService};
use skiff_testkit::until;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ended with the test, also after a panic.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
    // Relative, as a person may say it.
    command.current_dir(dir).args(["cri", "--data-dir", "data", "--cni-conf-dir", "net.d"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

async fn until_there(path: &Path) {
    until(&path.display().to_string(), async || path.exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_alone_answers_on_its_socket() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: not root");
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("data/run/cri.sock");
    let mut first = Running(command(dir.path()).spawn().unwrap());
    until_there(&socket).await;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    let connected = GrpcRuntime::connect(&format!("unix://{}", socket.display())).await.unwrap();

    let status = connected.runtime().status(StatusRequest::default()).await.unwrap().status.unwrap();
    let network = status.conditions.iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
    assert!(!network.status && network.message.starts_with("cni plugin not initialized"), "{network:?}");

    // The executable is an image like any other: by its real digest, found by name, id and digest.
    let images = connected.images();
    let listed = images.list_images(ListImagesRequest::default()).await.unwrap().images;
    let [own] = listed.as_slice() else { panic!("{listed:?}") };
    let executable = Path::new(env!("CARGO_BIN_EXE_skiff")).metadata().unwrap();
    assert_eq!((own.size, own.pinned), (executable.len(), true));
    assert!(own.id.starts_with("sha256:") && own.id.len() == 71);
    for name in [&own.id, &own.repo_tags[0], &own.repo_digests[0]] {
        let image = Some(ImageSpec { image: name.clone(), ..Default::default() });
        let found = images.image_status(ImageStatusRequest { image, verbose: false }).await.unwrap().image;
        assert_eq!(found.as_ref(), Some(own), "{name}");
    }
    let layer = dir.path().join("data/self/layer/skiff").metadata().unwrap();
    assert_eq!(layer.len(), executable.len());

    // A second one on the same directory is refused and changes nothing.
    let second = command(dir.path()).output().unwrap();
    let reason = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && reason.contains("is in use by another container runtime"), "{reason}");
    assert!(connected.runtime().version(VersionRequest::default()).await.is_ok());

    let pid = rustix::process::Pid::from_child(&first.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(first.0.wait().unwrap().success());
    assert!(!socket.exists());

    // The next start believes the digest that is written down as long as the file is the same.
    let cache = dir.path().join("data/self/image.json");
    let written = cache.metadata().unwrap().ino();
    let _third = Running(command(dir.path()).spawn().unwrap());
    until_there(&socket).await;
    let connected = GrpcRuntime::connect(&format!("unix://{}", socket.display())).await.unwrap();
    let again = connected.images().list_images(ListImagesRequest::default()).await.unwrap().images;
    assert_eq!((again.as_slice(), cache.metadata().unwrap().ino()), (listed.as_slice(), written));
}
