//! The CRI's `RuntimeService` and `ImageService`, call by call.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use skiff_cri::streaming::StreamUrls;
use skiff_cri::v1::*;
use skiff_cri::{CriError, CriFuture, CriStream, ImageService, RuntimeService};
use tokio_stream::wrappers::BroadcastStream;

use crate::state::EmbeddedRuntime;

/// Most entries of one frame of a `Stream*` call.
const FRAME: usize = 64;

fn matches(wanted: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A list in frames.
fn frames<T: Clone + Send + 'static, R: Send + 'static>(list: Vec<T>, wrap: fn(Vec<T>) -> R) -> CriStream<R> {
    let frames: Vec<Result<R, CriError>> = list.chunks(FRAME).map(|frame| Ok(wrap(frame.to_vec()))).collect();
    Box::pin(futures_util::stream::iter(frames))
}

impl EmbeddedRuntime {
    /// From now on `Exec`, `Attach` and `PortForward` answer with URLs of this server; the first one given counts.
    pub fn serve_urls(&self, urls: &Arc<impl StreamUrls + 'static>) {
        let urls: Arc<dyn StreamUrls> = Arc::clone(urls) as _;
        let _first = self.inner.urls.set(Arc::downgrade(&urls));
    }

    fn urls(&self, rpc: &str) -> Result<Arc<dyn StreamUrls>, CriError> {
        let urls = self.inner.urls.get().and_then(Weak::upgrade);
        urls.ok_or_else(|| {
            CriError::unimplemented(format!("{rpc} by URL: no streaming server runs beside this runtime"))
        })
    }

    /// A URL is only given for what can be reached now.
    fn running(&self, container: &str) -> Result<(), CriError> {
        let container = self.inner.container(container)?;
        if container.current() == ContainerState::ContainerRunning {
            return Ok(());
        }
        Err(CriError::failed_precondition(format!("container is not running: {:?}", container.id)))
    }

    fn ready(&self, sandbox: &str) -> Result<(), CriError> {
        let sandbox = self.inner.sandbox(sandbox)?;
        let record = sandbox.record.lock();
        if record.ready && !record.stopped {
            return Ok(());
        }
        Err(CriError::failed_precondition(format!("sandbox container {:?} is not running", sandbox.id)))
    }

    fn sandboxes(&self, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
        let filter = filter.unwrap_or_default();
        let all = self.inner.sandboxes.lock();
        all.values()
            .filter(|sandbox| filter.id.is_empty() || sandbox.id.starts_with(&filter.id))
            .map(|sandbox| sandbox.listed())
            .filter(|sandbox| filter.state.as_ref().is_none_or(|wanted| wanted.state == sandbox.state))
            .filter(|sandbox| matches(&filter.label_selector, &sandbox.labels))
            .collect()
    }

    fn containers(&self, filter: Option<ContainerFilter>) -> Vec<Container> {
        let filter = filter.unwrap_or_default();
        let all = self.inner.containers.lock();
        all.values()
            .filter(|container| filter.id.is_empty() || container.id.starts_with(&filter.id))
            .map(|container| container.listed())
            .filter(|container| {
                filter.pod_sandbox_id.is_empty() || container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
            })
            .filter(|container| filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state))
            .filter(|container| matches(&filter.label_selector, &container.labels))
            .collect()
    }

    async fn all_container_stats(&self, filter: Option<ContainerStatsFilter>) -> Result<Vec<ContainerStats>, CriError> {
        let filter = filter.unwrap_or_default();
        let inner = self.inner.clone();
        crate::state_blocking(move || {
            let all: Vec<_> = inner.containers.lock().values().cloned().collect();
            let wanted = all
                .into_iter()
                .filter(|container| container.current() == ContainerState::ContainerRunning)
                .filter(|container| filter.id.is_empty() || container.id.starts_with(&filter.id))
                .filter(|container| {
                    filter.pod_sandbox_id.is_empty()
                        || container.record.lock().sandbox_id.starts_with(&filter.pod_sandbox_id)
                })
                .filter(|container| matches(&filter.label_selector, &container.config.labels));
            // One that ends meanwhile is left out, the others are told.
            Ok(wanted.filter_map(|container| inner.container_stats(&container).ok()).collect())
        })
        .await
    }

    async fn all_sandbox_stats(&self, filter: Option<PodSandboxStatsFilter>) -> Result<Vec<PodSandboxStats>, CriError> {
        let filter = filter.unwrap_or_default();
        let inner = self.inner.clone();
        crate::state_blocking(move || {
            let all: Vec<_> = inner.sandboxes.lock().values().cloned().collect();
            let wanted = all
                .into_iter()
                .filter(|sandbox| filter.id.is_empty() || sandbox.id.starts_with(&filter.id))
                .filter(|sandbox| matches(&filter.label_selector, &sandbox.config.labels))
                .filter(|sandbox| sandbox.record.lock().ready);
            Ok(wanted.filter_map(|sandbox| inner.sandbox_stats(&sandbox).ok()).collect())
        })
        .await
    }
}

impl RuntimeService for EmbeddedRuntime {
    fn version<'a>(&'a self, _: VersionRequest) -> CriFuture<'a, VersionResponse> {
        let answer = VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "skiff".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        };
        Box::pin(std::future::ready(Ok(answer)))
    }

    fn run_pod_sandbox<'a>(&'a self, request: RunPodSandboxRequest) -> CriFuture<'a, RunPodSandboxResponse> {
        Box::pin(async move {
            let config = request.config.ok_or_else(|| CriError::invalid_argument("no sandbox config"))?;
            let pod_sandbox_id = self.inner.run_sandbox(config, request.runtime_handler).await?;
            Ok(RunPodSandboxResponse { pod_sandbox_id })
        })
    }

    fn stop_pod_sandbox<'a>(&'a self, request: StopPodSandboxRequest) -> CriFuture<'a, StopPodSandboxResponse> {
        Box::pin(async move {
            match self.inner.sandbox(&request.pod_sandbox_id) {
                Ok(sandbox) => self.inner.stop_sandbox(&sandbox).await?,
                // Already gone is stopped.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            Ok(StopPodSandboxResponse {})
        })
    }

    fn remove_pod_sandbox<'a>(&'a self, request: RemovePodSandboxRequest) -> CriFuture<'a, RemovePodSandboxResponse> {
        Box::pin(async move {
            if let Ok(sandbox) = self.inner.sandbox(&request.pod_sandbox_id) {
                self.inner.remove_sandbox(&sandbox).await?;
            }
            Ok(RemovePodSandboxResponse {})
        })
    }

    fn pod_sandbox_status<'a>(&'a self, request: PodSandboxStatusRequest) -> CriFuture<'a, PodSandboxStatusResponse> {
        Box::pin(async move {
            let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
            let containers = self.inner.containers_of(&sandbox.id);
            let mut info = HashMap::new();
            if request.verbose {
                let pid = sandbox.record.lock().shim_pid;
                info.insert(
                    "info".to_owned(),
                    serde_json::json!({ "shimPid": pid, "netns": sandbox.netns() }).to_string(),
                );
            }
            Ok(PodSandboxStatusResponse {
                status: Some(sandbox.status()),
                info,
                containers_statuses: containers.iter().map(|container| container.status()).collect(),
                timestamp: self.inner.now(),
            })
        })
    }

    fn list_pod_sandbox<'a>(&'a self, request: ListPodSandboxRequest) -> CriFuture<'a, ListPodSandboxResponse> {
        let items = self.sandboxes(request.filter);
        Box::pin(std::future::ready(Ok(ListPodSandboxResponse { items })))
    }

    fn stream_pod_sandboxes<'a>(
        &'a self,
        request: StreamPodSandboxesRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxesResponse>> {
        let list = self.sandboxes(request.filter);
        Box::pin(std::future::ready(Ok(frames(list, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))))
    }

    fn create_container<'a>(&'a self, request: CreateContainerRequest) -> CriFuture<'a, CreateContainerResponse> {
        Box::pin(async move {
            let config = request.config.ok_or_else(|| CriError::invalid_argument("no container config"))?;
            let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
            Ok(CreateContainerResponse { container_id: self.inner.create_container(&sandbox, config).await? })
        })
    }

    fn start_container<'a>(&'a self, request: StartContainerRequest) -> CriFuture<'a, StartContainerResponse> {
        Box::pin(async move {
            let container = self.inner.container(&request.container_id)?;
            self.inner.start_container(&container).await?;
            Ok(StartContainerResponse {})
        })
    }

    fn stop_container<'a>(&'a self, request: StopContainerRequest) -> CriFuture<'a, StopContainerResponse> {
        Box::pin(async move {
            if let Ok(container) = self.inner.container(&request.container_id) {
                let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or_default());
                self.inner.stop_container(&container, grace).await?;
            }
            Ok(StopContainerResponse {})
        })
    }

    fn remove_container<'a>(&'a self, request: RemoveContainerRequest) -> CriFuture<'a, RemoveContainerResponse> {
        Box::pin(async move {
            if let Ok(container) = self.inner.container(&request.container_id) {
                self.inner.remove_container(&container).await?;
            }
            Ok(RemoveContainerResponse {})
        })
    }

    fn list_containers<'a>(&'a self, request: ListContainersRequest) -> CriFuture<'a, ListContainersResponse> {
        let containers = self.containers(request.filter);
        Box::pin(std::future::ready(Ok(ListContainersResponse { containers })))
    }

    fn stream_containers<'a>(
        &'a self,
        request: StreamContainersRequest,
    ) -> CriFuture<'a, CriStream<StreamContainersResponse>> {
        let list = self.containers(request.filter);
        Box::pin(std::future::ready(Ok(frames(list, |containers| StreamContainersResponse { containers }))))
    }

    fn container_status<'a>(&'a self, request: ContainerStatusRequest) -> CriFuture<'a, ContainerStatusResponse> {
        Box::pin(async move {
            let container = self.inner.container(&request.container_id)?;
            let mut info = HashMap::new();
            if request.verbose {
                let record = container.record.lock();
                let text = serde_json::json!({ "pid": record.pid, "sandboxID": record.sandbox_id });
                info.insert("info".to_owned(), text.to_string());
            }
            Ok(ContainerStatusResponse { status: Some(container.status()), info })
        })
    }

    fn update_container_resources<'a>(
        &'a self,
        request: UpdateContainerResourcesRequest,
    ) -> CriFuture<'a, UpdateContainerResourcesResponse> {
        Box::pin(async move {
            let container = self.inner.container(&request.container_id)?;
            self.inner.update_resources(&container, &request.linux.unwrap_or_default()).await?;
            Ok(UpdateContainerResourcesResponse {})
        })
    }

    fn reopen_container_log<'a>(
        &'a self,
        request: ReopenContainerLogRequest,
    ) -> CriFuture<'a, ReopenContainerLogResponse> {
        Box::pin(async move {
            let container = self.inner.container(&request.container_id)?;
            self.inner.reopen_log(&container).await?;
            Ok(ReopenContainerLogResponse {})
        })
    }

    fn exec_sync<'a>(&'a self, request: ExecSyncRequest) -> CriFuture<'a, ExecSyncResponse> {
        Box::pin(self.inner.exec_sync(request))
    }

    fn exec<'a>(&'a self, request: ExecRequest) -> CriFuture<'a, ExecResponse> {
        let url = self.running(&request.container_id).and_then(|()| self.urls("Exec")?.exec(request));
        Box::pin(std::future::ready(url.map(|url| ExecResponse { url })))
    }

    fn attach<'a>(&'a self, request: AttachRequest) -> CriFuture<'a, AttachResponse> {
        let url = self.running(&request.container_id).and_then(|()| self.urls("Attach")?.attach(request));
        Box::pin(std::future::ready(url.map(|url| AttachResponse { url })))
    }

    fn port_forward<'a>(&'a self, request: PortForwardRequest) -> CriFuture<'a, PortForwardResponse> {
        let url = self.ready(&request.pod_sandbox_id).and_then(|()| self.urls("PortForward")?.port_forward(request));
        Box::pin(std::future::ready(url.map(|url| PortForwardResponse { url })))
    }

    fn container_stats<'a>(&'a self, request: ContainerStatsRequest) -> CriFuture<'a, ContainerStatsResponse> {
        Box::pin(async move {
            let container = self.inner.container(&request.container_id)?;
            let inner = self.inner.clone();
            let stats = crate::state_blocking(move || inner.container_stats(&container)).await?;
            Ok(ContainerStatsResponse { stats: Some(stats) })
        })
    }

    fn list_container_stats<'a>(
        &'a self,
        request: ListContainerStatsRequest,
    ) -> CriFuture<'a, ListContainerStatsResponse> {
        Box::pin(
            async move { Ok(ListContainerStatsResponse { stats: self.all_container_stats(request.filter).await? }) },
        )
    }

    fn stream_container_stats<'a>(
        &'a self,
        request: StreamContainerStatsRequest,
    ) -> CriFuture<'a, CriStream<StreamContainerStatsResponse>> {
        Box::pin(async move {
            let stats = self.all_container_stats(request.filter).await?;
            Ok(frames(stats, |container_stats| StreamContainerStatsResponse { container_stats }))
        })
    }

    fn pod_sandbox_stats<'a>(&'a self, request: PodSandboxStatsRequest) -> CriFuture<'a, PodSandboxStatsResponse> {
        Box::pin(async move {
            let sandbox = self.inner.sandbox(&request.pod_sandbox_id)?;
            let inner = self.inner.clone();
            let stats = crate::state_blocking(move || inner.sandbox_stats(&sandbox)).await?;
            Ok(PodSandboxStatsResponse { stats: Some(stats) })
        })
    }

    fn list_pod_sandbox_stats<'a>(
        &'a self,
        request: ListPodSandboxStatsRequest,
    ) -> CriFuture<'a, ListPodSandboxStatsResponse> {
        Box::pin(
            async move { Ok(ListPodSandboxStatsResponse { stats: self.all_sandbox_stats(request.filter).await? }) },
        )
    }

    fn stream_pod_sandbox_stats<'a>(
        &'a self,
        request: StreamPodSandboxStatsRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxStatsResponse>> {
        Box::pin(async move {
            let stats = self.all_sandbox_stats(request.filter).await?;
            Ok(frames(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
        })
    }

    /// The pod CIDR is told to the network by its own configuration, not through here.
    fn update_runtime_config<'a>(
        &'a self,
        _: UpdateRuntimeConfigRequest,
    ) -> CriFuture<'a, UpdateRuntimeConfigResponse> {
        Box::pin(std::future::ready(Ok(UpdateRuntimeConfigResponse {})))
    }

    fn status<'a>(&'a self, _: StatusRequest) -> CriFuture<'a, StatusResponse> {
        let network = self.inner.network.ready();
        let condition = |kind: &str, result: Result<(), String>, reason: &str| RuntimeCondition {
            r#type: kind.to_owned(),
            status: result.is_ok(),
            reason: if result.is_ok() { String::new() } else { reason.to_owned() },
            message: result.err().unwrap_or_default(),
        };
        let conditions = vec![
            condition("RuntimeReady", Ok(()), ""),
            condition("NetworkReady", network.map_err(|error| error.to_string()), "NetworkPluginNotReady"),
        ];
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
        let handler = RuntimeHandler { name: String::new(), features: Some(features) };
        let answer = StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            runtime_handlers: vec![handler],
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..RuntimeFeatures::default() }),
            ..StatusResponse::default()
        };
        Box::pin(std::future::ready(Ok(answer)))
    }

    fn get_container_events<'a>(&'a self, _: GetEventsRequest) -> CriFuture<'a, CriStream<ContainerEventResponse>> {
        // A listener that is too far behind is told so by an error, after which it lists and listens again.
        let events = BroadcastStream::new(self.inner.events.subscribe()).map(|event| {
            event.map_err(|_| CriError::new(skiff_cri::Code::ResourceExhausted, "the listener is too slow"))
        });
        Box::pin(std::future::ready(Ok(Box::pin(events) as CriStream<_>)))
    }

    fn runtime_config<'a>(&'a self, _: RuntimeConfigRequest) -> CriFuture<'a, RuntimeConfigResponse> {
        let linux = Some(LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() });
        Box::pin(std::future::ready(Ok(RuntimeConfigResponse { linux })))
    }

    fn update_pod_sandbox_resources<'a>(
        &'a self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> CriFuture<'a, UpdatePodSandboxResourcesResponse> {
        // The kubelet has changed the pod's cgroup itself; nothing of ours holds sums.
        let known = self.inner.sandbox(&request.pod_sandbox_id).map(|_| UpdatePodSandboxResourcesResponse {});
        Box::pin(std::future::ready(known))
    }
}

impl ImageService for EmbeddedRuntime {
    fn list_images<'a>(&'a self, request: ListImagesRequest) -> CriFuture<'a, ListImagesResponse> {
        self.inner.images.list_images(request)
    }
    fn stream_images<'a>(&'a self, request: StreamImagesRequest) -> CriFuture<'a, CriStream<StreamImagesResponse>> {
        self.inner.images.stream_images(request)
    }
    fn image_status<'a>(&'a self, request: ImageStatusRequest) -> CriFuture<'a, ImageStatusResponse> {
        self.inner.images.image_status(request)
    }
    fn pull_image<'a>(&'a self, request: PullImageRequest) -> CriFuture<'a, PullImageResponse> {
        self.inner.images.pull_image(request)
    }
    fn remove_image<'a>(&'a self, request: RemoveImageRequest) -> CriFuture<'a, RemoveImageResponse> {
        self.inner.images.remove_image(request)
    }
    fn image_fs_info<'a>(&'a self, request: ImageFsInfoRequest) -> CriFuture<'a, ImageFsInfoResponse> {
        self.inner.images.image_fs_info(request)
    }
}
