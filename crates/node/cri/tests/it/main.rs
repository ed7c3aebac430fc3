//! The contract over a real unix socket: what a `dyn RuntimeService` answers is what the gRPC client sees.
#![expect(clippy::disallowed_methods, reason = "a test owns its task by awaiting it")]

use std::sync::Arc;

use futures_util::StreamExt;
use skiff_cri::v1::*;
use skiff_cri::*;

struct Answers;

impl RuntimeService for Answers {
    fn version<'a>(&'a self, request: VersionRequest) -> CriFuture<'a, VersionResponse> {
        Box::pin(async move {
            Ok(VersionResponse { version: request.version, runtime_name: "answers".into(), ..Default::default() })
        })
    }
    fn container_status<'a>(&'a self, request: ContainerStatusRequest) -> CriFuture<'a, ContainerStatusResponse> {
        Box::pin(async move { Err(CriError::not_found(format!("container {:?}", request.container_id))) })
    }
    fn get_container_events<'a>(&'a self, _: GetEventsRequest) -> CriFuture<'a, CriStream<ContainerEventResponse>> {
        Box::pin(async {
            let events =
                (0..3).map(|n| Ok(ContainerEventResponse { container_id: n.to_string(), ..Default::default() }));
            let last = std::iter::once(Err(CriError::unknown("gone")));
            Ok(Box::pin(futures_util::stream::iter(events.chain(last))) as CriStream<_>)
        })
    }
}

impl ImageService for Answers {
    fn image_status<'a>(&'a self, request: ImageStatusRequest) -> CriFuture<'a, ImageStatusResponse> {
        Box::pin(async move {
            // Larger than gRPC's default of 4 MiB, within the CRI's 16 MiB.
            let id = "x".repeat(8 << 20);
            let spec = request.image;
            Ok(ImageStatusResponse { image: Some(Image { id, spec, ..Default::default() }), ..Default::default() })
        })
    }
}

#[tokio::test]
async fn a_dyn_runtime_behind_a_socket_answers_as_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    // What a killed server leaves.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

    let server = CriServer::bind(&path).unwrap();
    assert!(matches!(CriServer::bind(&path), Err(ServeError::InUse(_))));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(Arc::new(Answers), Arc::new(Answers), async {
        stopped.await.ok();
    }));

    let connected = GrpcRuntime::connect(&format!("unix://{}", path.display())).await.unwrap();
    let runtime: Arc<dyn RuntimeService> = Arc::new(connected.runtime());
    let images: Arc<dyn ImageService> = Arc::new(connected.images());

    let version = runtime.version(VersionRequest { version: "v1".into() }).await.unwrap();
    assert_eq!((version.version.as_str(), version.runtime_name.as_str()), ("v1", "answers"));

    let request = ContainerStatusRequest { container_id: "c".into(), ..Default::default() };
    assert_eq!(runtime.container_status(request).await, Err(CriError::not_found("container \"c\"")));
    let missing = runtime.stop_pod_sandbox(StopPodSandboxRequest::default()).await.unwrap_err();
    assert!(missing.is_unimplemented(), "{missing}");

    let events: Vec<_> = runtime.get_container_events(GetEventsRequest {}).await.unwrap().collect().await;
    assert_eq!(events.len(), 4);
    assert_eq!(events[2].as_ref().unwrap().container_id, "2");
    assert_eq!(events[3], Err(CriError::unknown("gone")));

    let spec = ImageSpec { image: "busybox".into(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(spec.clone()), ..Default::default() };
    let image = images.image_status(request).await.unwrap().image.unwrap();
    assert_eq!((image.id.len(), image.spec), (8 << 20, Some(spec)));

    drop((runtime, images, connected));
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(!path.exists());
}

#[test]
fn secrets_have_no_debug_output() {
    let auth = AuthConfig { username: "u".into(), password: "hunter2".into(), ..Default::default() };
    let request = PullImageRequest { auth: Some(auth), ..Default::default() };
    assert!(!format!("{request:?}").contains("hunter2"));
    let env = KeyValue { key: "K".into(), value: "hunter2".into() };
    assert!(!format!("{:?}", ContainerConfig { envs: vec![env], ..Default::default() }).contains("hunter2"));
}
