// Written by `cargo xtask cri`; do not edit.

use super::*;

/// The CRI's `RuntimeService` as an object-safe trait; a method not overridden answers `Unimplemented`.
pub trait RuntimeService: Send + Sync {
    /// `Version`.
    fn version<'a>(&'a self, request: VersionRequest) -> CriFuture<'a, VersionResponse> {
        let _unused = request;
        unimplemented_rpc("Version")
    }
    /// `RunPodSandbox`.
    fn run_pod_sandbox<'a>(&'a self, request: RunPodSandboxRequest) -> CriFuture<'a, RunPodSandboxResponse> {
        let _unused = request;
        unimplemented_rpc("RunPodSandbox")
    }
    /// `StopPodSandbox`.
    fn stop_pod_sandbox<'a>(&'a self, request: StopPodSandboxRequest) -> CriFuture<'a, StopPodSandboxResponse> {
        let _unused = request;
        unimplemented_rpc("StopPodSandbox")
    }
    /// `RemovePodSandbox`.
    fn remove_pod_sandbox<'a>(&'a self, request: RemovePodSandboxRequest) -> CriFuture<'a, RemovePodSandboxResponse> {
        let _unused = request;
        unimplemented_rpc("RemovePodSandbox")
    }
    /// `PodSandboxStatus`.
    fn pod_sandbox_status<'a>(&'a self, request: PodSandboxStatusRequest) -> CriFuture<'a, PodSandboxStatusResponse> {
        let _unused = request;
        unimplemented_rpc("PodSandboxStatus")
    }
    /// `ListPodSandbox`.
    fn list_pod_sandbox<'a>(&'a self, request: ListPodSandboxRequest) -> CriFuture<'a, ListPodSandboxResponse> {
        let _unused = request;
        unimplemented_rpc("ListPodSandbox")
    }
    /// `StreamPodSandboxes`.
    fn stream_pod_sandboxes<'a>(
        &'a self,
        request: StreamPodSandboxesRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxesResponse>> {
        let _unused = request;
        unimplemented_rpc("StreamPodSandboxes")
    }
    /// `CreateContainer`.
    fn create_container<'a>(&'a self, request: CreateContainerRequest) -> CriFuture<'a, CreateContainerResponse> {
        let _unused = request;
        unimplemented_rpc("CreateContainer")
    }
    /// `StartContainer`.
    fn start_container<'a>(&'a self, request: StartContainerRequest) -> CriFuture<'a, StartContainerResponse> {
        let _unused = request;
        unimplemented_rpc("StartContainer")
    }
    /// `StopContainer`.
    fn stop_container<'a>(&'a self, request: StopContainerRequest) -> CriFuture<'a, StopContainerResponse> {
        let _unused = request;
        unimplemented_rpc("StopContainer")
    }
    /// `RemoveContainer`.
    fn remove_container<'a>(&'a self, request: RemoveContainerRequest) -> CriFuture<'a, RemoveContainerResponse> {
        let _unused = request;
        unimplemented_rpc("RemoveContainer")
    }
    /// `ListContainers`.
    fn list_containers<'a>(&'a self, request: ListContainersRequest) -> CriFuture<'a, ListContainersResponse> {
        let _unused = request;
        unimplemented_rpc("ListContainers")
    }
    /// `StreamContainers`.
    fn stream_containers<'a>(
        &'a self,
        request: StreamContainersRequest,
    ) -> CriFuture<'a, CriStream<StreamContainersResponse>> {
        let _unused = request;
        unimplemented_rpc("StreamContainers")
    }
    /// `ContainerStatus`.
    fn container_status<'a>(&'a self, request: ContainerStatusRequest) -> CriFuture<'a, ContainerStatusResponse> {
        let _unused = request;
        unimplemented_rpc("ContainerStatus")
    }
    /// `UpdateContainerResources`.
    fn update_container_resources<'a>(
        &'a self,
        request: UpdateContainerResourcesRequest,
    ) -> CriFuture<'a, UpdateContainerResourcesResponse> {
        let _unused = request;
        unimplemented_rpc("UpdateContainerResources")
    }
    /// `ReopenContainerLog`.
    fn reopen_container_log<'a>(
        &'a self,
        request: ReopenContainerLogRequest,
    ) -> CriFuture<'a, ReopenContainerLogResponse> {
        let _unused = request;
        unimplemented_rpc("ReopenContainerLog")
    }
    /// `ExecSync`.
    fn exec_sync<'a>(&'a self, request: ExecSyncRequest) -> CriFuture<'a, ExecSyncResponse> {
        let _unused = request;
        unimplemented_rpc("ExecSync")
    }
    /// `Exec`.
    fn exec<'a>(&'a self, request: ExecRequest) -> CriFuture<'a, ExecResponse> {
        let _unused = request;
        unimplemented_rpc("Exec")
    }
    /// `Attach`.
    fn attach<'a>(&'a self, request: AttachRequest) -> CriFuture<'a, AttachResponse> {
        let _unused = request;
        unimplemented_rpc("Attach")
    }
    /// `PortForward`.
    fn port_forward<'a>(&'a self, request: PortForwardRequest) -> CriFuture<'a, PortForwardResponse> {
        let _unused = request;
        unimplemented_rpc("PortForward")
    }
    /// `ContainerStats`.
    fn container_stats<'a>(&'a self, request: ContainerStatsRequest) -> CriFuture<'a, ContainerStatsResponse> {
        let _unused = request;
        unimplemented_rpc("ContainerStats")
    }
    /// `ListContainerStats`.
    fn list_container_stats<'a>(
        &'a self,
        request: ListContainerStatsRequest,
    ) -> CriFuture<'a, ListContainerStatsResponse> {
        let _unused = request;
        unimplemented_rpc("ListContainerStats")
    }
    /// `StreamContainerStats`.
    fn stream_container_stats<'a>(
        &'a self,
        request: StreamContainerStatsRequest,
    ) -> CriFuture<'a, CriStream<StreamContainerStatsResponse>> {
        let _unused = request;
        unimplemented_rpc("StreamContainerStats")
    }
    /// `PodSandboxStats`.
    fn pod_sandbox_stats<'a>(&'a self, request: PodSandboxStatsRequest) -> CriFuture<'a, PodSandboxStatsResponse> {
        let _unused = request;
        unimplemented_rpc("PodSandboxStats")
    }
    /// `ListPodSandboxStats`.
    fn list_pod_sandbox_stats<'a>(
        &'a self,
        request: ListPodSandboxStatsRequest,
    ) -> CriFuture<'a, ListPodSandboxStatsResponse> {
        let _unused = request;
        unimplemented_rpc("ListPodSandboxStats")
    }
    /// `StreamPodSandboxStats`.
    fn stream_pod_sandbox_stats<'a>(
        &'a self,
        request: StreamPodSandboxStatsRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxStatsResponse>> {
        let _unused = request;
        unimplemented_rpc("StreamPodSandboxStats")
    }
    /// `UpdateRuntimeConfig`.
    fn update_runtime_config<'a>(
        &'a self,
        request: UpdateRuntimeConfigRequest,
    ) -> CriFuture<'a, UpdateRuntimeConfigResponse> {
        let _unused = request;
        unimplemented_rpc("UpdateRuntimeConfig")
    }
    /// `Status`.
    fn status<'a>(&'a self, request: StatusRequest) -> CriFuture<'a, StatusResponse> {
        let _unused = request;
        unimplemented_rpc("Status")
    }
    /// `CheckpointContainer`.
    fn checkpoint_container<'a>(
        &'a self,
        request: CheckpointContainerRequest,
    ) -> CriFuture<'a, CheckpointContainerResponse> {
        let _unused = request;
        unimplemented_rpc("CheckpointContainer")
    }
    /// `GetContainerEvents`.
    fn get_container_events<'a>(
        &'a self,
        request: GetEventsRequest,
    ) -> CriFuture<'a, CriStream<ContainerEventResponse>> {
        let _unused = request;
        unimplemented_rpc("GetContainerEvents")
    }
    /// `ListMetricDescriptors`.
    fn list_metric_descriptors<'a>(
        &'a self,
        request: ListMetricDescriptorsRequest,
    ) -> CriFuture<'a, ListMetricDescriptorsResponse> {
        let _unused = request;
        unimplemented_rpc("ListMetricDescriptors")
    }
    /// `ListPodSandboxMetrics`.
    fn list_pod_sandbox_metrics<'a>(
        &'a self,
        request: ListPodSandboxMetricsRequest,
    ) -> CriFuture<'a, ListPodSandboxMetricsResponse> {
        let _unused = request;
        unimplemented_rpc("ListPodSandboxMetrics")
    }
    /// `StreamPodSandboxMetrics`.
    fn stream_pod_sandbox_metrics<'a>(
        &'a self,
        request: StreamPodSandboxMetricsRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxMetricsResponse>> {
        let _unused = request;
        unimplemented_rpc("StreamPodSandboxMetrics")
    }
    /// `RuntimeConfig`.
    fn runtime_config<'a>(&'a self, request: RuntimeConfigRequest) -> CriFuture<'a, RuntimeConfigResponse> {
        let _unused = request;
        unimplemented_rpc("RuntimeConfig")
    }
    /// `UpdatePodSandboxResources`.
    fn update_pod_sandbox_resources<'a>(
        &'a self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> CriFuture<'a, UpdatePodSandboxResourcesResponse> {
        let _unused = request;
        unimplemented_rpc("UpdatePodSandboxResources")
    }
}

impl<S: RuntimeService + ?Sized> RuntimeService for std::sync::Arc<S> {
    fn version<'a>(&'a self, request: VersionRequest) -> CriFuture<'a, VersionResponse> {
        (**self).version(request)
    }
    fn run_pod_sandbox<'a>(&'a self, request: RunPodSandboxRequest) -> CriFuture<'a, RunPodSandboxResponse> {
        (**self).run_pod_sandbox(request)
    }
    fn stop_pod_sandbox<'a>(&'a self, request: StopPodSandboxRequest) -> CriFuture<'a, StopPodSandboxResponse> {
        (**self).stop_pod_sandbox(request)
    }
    fn remove_pod_sandbox<'a>(&'a self, request: RemovePodSandboxRequest) -> CriFuture<'a, RemovePodSandboxResponse> {
        (**self).remove_pod_sandbox(request)
    }
    fn pod_sandbox_status<'a>(&'a self, request: PodSandboxStatusRequest) -> CriFuture<'a, PodSandboxStatusResponse> {
        (**self).pod_sandbox_status(request)
    }
    fn list_pod_sandbox<'a>(&'a self, request: ListPodSandboxRequest) -> CriFuture<'a, ListPodSandboxResponse> {
        (**self).list_pod_sandbox(request)
    }
    fn stream_pod_sandboxes<'a>(
        &'a self,
        request: StreamPodSandboxesRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxesResponse>> {
        (**self).stream_pod_sandboxes(request)
    }
    fn create_container<'a>(&'a self, request: CreateContainerRequest) -> CriFuture<'a, CreateContainerResponse> {
        (**self).create_container(request)
    }
    fn start_container<'a>(&'a self, request: StartContainerRequest) -> CriFuture<'a, StartContainerResponse> {
        (**self).start_container(request)
    }
    fn stop_container<'a>(&'a self, request: StopContainerRequest) -> CriFuture<'a, StopContainerResponse> {
        (**self).stop_container(request)
    }
    fn remove_container<'a>(&'a self, request: RemoveContainerRequest) -> CriFuture<'a, RemoveContainerResponse> {
        (**self).remove_container(request)
    }
    fn list_containers<'a>(&'a self, request: ListContainersRequest) -> CriFuture<'a, ListContainersResponse> {
        (**self).list_containers(request)
    }
    fn stream_containers<'a>(
        &'a self,
        request: StreamContainersRequest,
    ) -> CriFuture<'a, CriStream<StreamContainersResponse>> {
        (**self).stream_containers(request)
    }
    fn container_status<'a>(&'a self, request: ContainerStatusRequest) -> CriFuture<'a, ContainerStatusResponse> {
        (**self).container_status(request)
    }
    fn update_container_resources<'a>(
        &'a self,
        request: UpdateContainerResourcesRequest,
    ) -> CriFuture<'a, UpdateContainerResourcesResponse> {
        (**self).update_container_resources(request)
    }
    fn reopen_container_log<'a>(
        &'a self,
        request: ReopenContainerLogRequest,
    ) -> CriFuture<'a, ReopenContainerLogResponse> {
        (**self).reopen_container_log(request)
    }
    fn exec_sync<'a>(&'a self, request: ExecSyncRequest) -> CriFuture<'a, ExecSyncResponse> {
        (**self).exec_sync(request)
    }
    fn exec<'a>(&'a self, request: ExecRequest) -> CriFuture<'a, ExecResponse> {
        (**self).exec(request)
    }
    fn attach<'a>(&'a self, request: AttachRequest) -> CriFuture<'a, AttachResponse> {
        (**self).attach(request)
    }
    fn port_forward<'a>(&'a self, request: PortForwardRequest) -> CriFuture<'a, PortForwardResponse> {
        (**self).port_forward(request)
    }
    fn container_stats<'a>(&'a self, request: ContainerStatsRequest) -> CriFuture<'a, ContainerStatsResponse> {
        (**self).container_stats(request)
    }
    fn list_container_stats<'a>(
        &'a self,
        request: ListContainerStatsRequest,
    ) -> CriFuture<'a, ListContainerStatsResponse> {
        (**self).list_container_stats(request)
    }
    fn stream_container_stats<'a>(
        &'a self,
        request: StreamContainerStatsRequest,
    ) -> CriFuture<'a, CriStream<StreamContainerStatsResponse>> {
        (**self).stream_container_stats(request)
    }
    fn pod_sandbox_stats<'a>(&'a self, request: PodSandboxStatsRequest) -> CriFuture<'a, PodSandboxStatsResponse> {
        (**self).pod_sandbox_stats(request)
    }
    fn list_pod_sandbox_stats<'a>(
        &'a self,
        request: ListPodSandboxStatsRequest,
    ) -> CriFuture<'a, ListPodSandboxStatsResponse> {
        (**self).list_pod_sandbox_stats(request)
    }
    fn stream_pod_sandbox_stats<'a>(
        &'a self,
        request: StreamPodSandboxStatsRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxStatsResponse>> {
        (**self).stream_pod_sandbox_stats(request)
    }
    fn update_runtime_config<'a>(
        &'a self,
        request: UpdateRuntimeConfigRequest,
    ) -> CriFuture<'a, UpdateRuntimeConfigResponse> {
        (**self).update_runtime_config(request)
    }
    fn status<'a>(&'a self, request: StatusRequest) -> CriFuture<'a, StatusResponse> {
        (**self).status(request)
    }
    fn checkpoint_container<'a>(
        &'a self,
        request: CheckpointContainerRequest,
    ) -> CriFuture<'a, CheckpointContainerResponse> {
        (**self).checkpoint_container(request)
    }
    fn get_container_events<'a>(
        &'a self,
        request: GetEventsRequest,
    ) -> CriFuture<'a, CriStream<ContainerEventResponse>> {
        (**self).get_container_events(request)
    }
    fn list_metric_descriptors<'a>(
        &'a self,
        request: ListMetricDescriptorsRequest,
    ) -> CriFuture<'a, ListMetricDescriptorsResponse> {
        (**self).list_metric_descriptors(request)
    }
    fn list_pod_sandbox_metrics<'a>(
        &'a self,
        request: ListPodSandboxMetricsRequest,
    ) -> CriFuture<'a, ListPodSandboxMetricsResponse> {
        (**self).list_pod_sandbox_metrics(request)
    }
    fn stream_pod_sandbox_metrics<'a>(
        &'a self,
        request: StreamPodSandboxMetricsRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxMetricsResponse>> {
        (**self).stream_pod_sandbox_metrics(request)
    }
    fn runtime_config<'a>(&'a self, request: RuntimeConfigRequest) -> CriFuture<'a, RuntimeConfigResponse> {
        (**self).runtime_config(request)
    }
    fn update_pod_sandbox_resources<'a>(
        &'a self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> CriFuture<'a, UpdatePodSandboxResourcesResponse> {
        (**self).update_pod_sandbox_resources(request)
    }
}

impl RuntimeService for runtime_service_client::RuntimeServiceClient<tonic::transport::Channel> {
    fn version<'a>(&'a self, request: VersionRequest) -> CriFuture<'a, VersionResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::version(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn run_pod_sandbox<'a>(&'a self, request: RunPodSandboxRequest) -> CriFuture<'a, RunPodSandboxResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::run_pod_sandbox(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn stop_pod_sandbox<'a>(&'a self, request: StopPodSandboxRequest) -> CriFuture<'a, StopPodSandboxResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::stop_pod_sandbox(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn remove_pod_sandbox<'a>(&'a self, request: RemovePodSandboxRequest) -> CriFuture<'a, RemovePodSandboxResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::remove_pod_sandbox(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn pod_sandbox_status<'a>(&'a self, request: PodSandboxStatusRequest) -> CriFuture<'a, PodSandboxStatusResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::pod_sandbox_status(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn list_pod_sandbox<'a>(&'a self, request: ListPodSandboxRequest) -> CriFuture<'a, ListPodSandboxResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::list_pod_sandbox(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn stream_pod_sandboxes<'a>(
        &'a self,
        request: StreamPodSandboxesRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxesResponse>> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::stream_pod_sandboxes(&mut client, request).await?;
            Ok(incoming(answer.into_inner()))
        })
    }
    fn create_container<'a>(&'a self, request: CreateContainerRequest) -> CriFuture<'a, CreateContainerResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::create_container(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn start_container<'a>(&'a self, request: StartContainerRequest) -> CriFuture<'a, StartContainerResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::start_container(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn stop_container<'a>(&'a self, request: StopContainerRequest) -> CriFuture<'a, StopContainerResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::stop_container(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn remove_container<'a>(&'a self, request: RemoveContainerRequest) -> CriFuture<'a, RemoveContainerResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::remove_container(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn list_containers<'a>(&'a self, request: ListContainersRequest) -> CriFuture<'a, ListContainersResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::list_containers(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn stream_containers<'a>(
        &'a self,
        request: StreamContainersRequest,
    ) -> CriFuture<'a, CriStream<StreamContainersResponse>> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::stream_containers(&mut client, request).await?;
            Ok(incoming(answer.into_inner()))
        })
    }
    fn container_status<'a>(&'a self, request: ContainerStatusRequest) -> CriFuture<'a, ContainerStatusResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::container_status(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn update_container_resources<'a>(
        &'a self,
        request: UpdateContainerResourcesRequest,
    ) -> CriFuture<'a, UpdateContainerResourcesResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::update_container_resources(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn reopen_container_log<'a>(
        &'a self,
        request: ReopenContainerLogRequest,
    ) -> CriFuture<'a, ReopenContainerLogResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::reopen_container_log(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn exec_sync<'a>(&'a self, request: ExecSyncRequest) -> CriFuture<'a, ExecSyncResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::exec_sync(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn exec<'a>(&'a self, request: ExecRequest) -> CriFuture<'a, ExecResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::exec(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn attach<'a>(&'a self, request: AttachRequest) -> CriFuture<'a, AttachResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::attach(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn port_forward<'a>(&'a self, request: PortForwardRequest) -> CriFuture<'a, PortForwardResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::port_forward(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn container_stats<'a>(&'a self, request: ContainerStatsRequest) -> CriFuture<'a, ContainerStatsResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::container_stats(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn list_container_stats<'a>(
        &'a self,
        request: ListContainerStatsRequest,
    ) -> CriFuture<'a, ListContainerStatsResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::list_container_stats(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn stream_container_stats<'a>(
        &'a self,
        request: StreamContainerStatsRequest,
    ) -> CriFuture<'a, CriStream<StreamContainerStatsResponse>> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::stream_container_stats(&mut client, request).await?;
            Ok(incoming(answer.into_inner()))
        })
    }
    fn pod_sandbox_stats<'a>(&'a self, request: PodSandboxStatsRequest) -> CriFuture<'a, PodSandboxStatsResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::pod_sandbox_stats(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn list_pod_sandbox_stats<'a>(
        &'a self,
        request: ListPodSandboxStatsRequest,
    ) -> CriFuture<'a, ListPodSandboxStatsResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::list_pod_sandbox_stats(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn stream_pod_sandbox_stats<'a>(
        &'a self,
        request: StreamPodSandboxStatsRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxStatsResponse>> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::stream_pod_sandbox_stats(&mut client, request).await?;
            Ok(incoming(answer.into_inner()))
        })
    }
    fn update_runtime_config<'a>(
        &'a self,
        request: UpdateRuntimeConfigRequest,
    ) -> CriFuture<'a, UpdateRuntimeConfigResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::update_runtime_config(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn status<'a>(&'a self, request: StatusRequest) -> CriFuture<'a, StatusResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::status(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn checkpoint_container<'a>(
        &'a self,
        request: CheckpointContainerRequest,
    ) -> CriFuture<'a, CheckpointContainerResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::checkpoint_container(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn get_container_events<'a>(
        &'a self,
        request: GetEventsRequest,
    ) -> CriFuture<'a, CriStream<ContainerEventResponse>> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::get_container_events(&mut client, request).await?;
            Ok(incoming(answer.into_inner()))
        })
    }
    fn list_metric_descriptors<'a>(
        &'a self,
        request: ListMetricDescriptorsRequest,
    ) -> CriFuture<'a, ListMetricDescriptorsResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::list_metric_descriptors(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn list_pod_sandbox_metrics<'a>(
        &'a self,
        request: ListPodSandboxMetricsRequest,
    ) -> CriFuture<'a, ListPodSandboxMetricsResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::list_pod_sandbox_metrics(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn stream_pod_sandbox_metrics<'a>(
        &'a self,
        request: StreamPodSandboxMetricsRequest,
    ) -> CriFuture<'a, CriStream<StreamPodSandboxMetricsResponse>> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::stream_pod_sandbox_metrics(&mut client, request).await?;
            Ok(incoming(answer.into_inner()))
        })
    }
    fn runtime_config<'a>(&'a self, request: RuntimeConfigRequest) -> CriFuture<'a, RuntimeConfigResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = runtime_service_client::RuntimeServiceClient::runtime_config(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn update_pod_sandbox_resources<'a>(
        &'a self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> CriFuture<'a, UpdatePodSandboxResourcesResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer =
                runtime_service_client::RuntimeServiceClient::update_pod_sandbox_resources(&mut client, request)
                    .await?;
            Ok(answer.into_inner())
        })
    }
}

#[tonic::async_trait]
impl runtime_service_server::RuntimeService for Served<dyn RuntimeService> {
    async fn version(
        &self,
        request: tonic::Request<VersionRequest>,
    ) -> Result<tonic::Response<VersionResponse>, tonic::Status> {
        let answer = self.0.version(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn run_pod_sandbox(
        &self,
        request: tonic::Request<RunPodSandboxRequest>,
    ) -> Result<tonic::Response<RunPodSandboxResponse>, tonic::Status> {
        let answer = self.0.run_pod_sandbox(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn stop_pod_sandbox(
        &self,
        request: tonic::Request<StopPodSandboxRequest>,
    ) -> Result<tonic::Response<StopPodSandboxResponse>, tonic::Status> {
        let answer = self.0.stop_pod_sandbox(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn remove_pod_sandbox(
        &self,
        request: tonic::Request<RemovePodSandboxRequest>,
    ) -> Result<tonic::Response<RemovePodSandboxResponse>, tonic::Status> {
        let answer = self.0.remove_pod_sandbox(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn pod_sandbox_status(
        &self,
        request: tonic::Request<PodSandboxStatusRequest>,
    ) -> Result<tonic::Response<PodSandboxStatusResponse>, tonic::Status> {
        let answer = self.0.pod_sandbox_status(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn list_pod_sandbox(
        &self,
        request: tonic::Request<ListPodSandboxRequest>,
    ) -> Result<tonic::Response<ListPodSandboxResponse>, tonic::Status> {
        let answer = self.0.list_pod_sandbox(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    type StreamPodSandboxesStream = OutgoingStream<StreamPodSandboxesResponse>;
    async fn stream_pod_sandboxes(
        &self,
        request: tonic::Request<StreamPodSandboxesRequest>,
    ) -> Result<tonic::Response<Self::StreamPodSandboxesStream>, tonic::Status> {
        let answer = self.0.stream_pod_sandboxes(request.into_inner()).await?;
        Ok(tonic::Response::new(outgoing(answer)))
    }
    async fn create_container(
        &self,
        request: tonic::Request<CreateContainerRequest>,
    ) -> Result<tonic::Response<CreateContainerResponse>, tonic::Status> {
        let answer = self.0.create_container(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn start_container(
        &self,
        request: tonic::Request<StartContainerRequest>,
    ) -> Result<tonic::Response<StartContainerResponse>, tonic::Status> {
        let answer = self.0.start_container(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn stop_container(
        &self,
        request: tonic::Request<StopContainerRequest>,
    ) -> Result<tonic::Response<StopContainerResponse>, tonic::Status> {
        let answer = self.0.stop_container(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn remove_container(
        &self,
        request: tonic::Request<RemoveContainerRequest>,
    ) -> Result<tonic::Response<RemoveContainerResponse>, tonic::Status> {
        let answer = self.0.remove_container(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn list_containers(
        &self,
        request: tonic::Request<ListContainersRequest>,
    ) -> Result<tonic::Response<ListContainersResponse>, tonic::Status> {
        let answer = self.0.list_containers(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    type StreamContainersStream = OutgoingStream<StreamContainersResponse>;
    async fn stream_containers(
        &self,
        request: tonic::Request<StreamContainersRequest>,
    ) -> Result<tonic::Response<Self::StreamContainersStream>, tonic::Status> {
        let answer = self.0.stream_containers(request.into_inner()).await?;
        Ok(tonic::Response::new(outgoing(answer)))
    }
    async fn container_status(
        &self,
        request: tonic::Request<ContainerStatusRequest>,
    ) -> Result<tonic::Response<ContainerStatusResponse>, tonic::Status> {
        let answer = self.0.container_status(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn update_container_resources(
        &self,
        request: tonic::Request<UpdateContainerResourcesRequest>,
    ) -> Result<tonic::Response<UpdateContainerResourcesResponse>, tonic::Status> {
        let answer = self.0.update_container_resources(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn reopen_container_log(
        &self,
        request: tonic::Request<ReopenContainerLogRequest>,
    ) -> Result<tonic::Response<ReopenContainerLogResponse>, tonic::Status> {
        let answer = self.0.reopen_container_log(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn exec_sync(
        &self,
        request: tonic::Request<ExecSyncRequest>,
    ) -> Result<tonic::Response<ExecSyncResponse>, tonic::Status> {
        let answer = self.0.exec_sync(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn exec(&self, request: tonic::Request<ExecRequest>) -> Result<tonic::Response<ExecResponse>, tonic::Status> {
        let answer = self.0.exec(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn attach(
        &self,
        request: tonic::Request<AttachRequest>,
    ) -> Result<tonic::Response<AttachResponse>, tonic::Status> {
        let answer = self.0.attach(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn port_forward(
        &self,
        request: tonic::Request<PortForwardRequest>,
    ) -> Result<tonic::Response<PortForwardResponse>, tonic::Status> {
        let answer = self.0.port_forward(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn container_stats(
        &self,
        request: tonic::Request<ContainerStatsRequest>,
    ) -> Result<tonic::Response<ContainerStatsResponse>, tonic::Status> {
        let answer = self.0.container_stats(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn list_container_stats(
        &self,
        request: tonic::Request<ListContainerStatsRequest>,
    ) -> Result<tonic::Response<ListContainerStatsResponse>, tonic::Status> {
        let answer = self.0.list_container_stats(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    type StreamContainerStatsStream = OutgoingStream<StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        request: tonic::Request<StreamContainerStatsRequest>,
    ) -> Result<tonic::Response<Self::StreamContainerStatsStream>, tonic::Status> {
        let answer = self.0.stream_container_stats(request.into_inner()).await?;
        Ok(tonic::Response::new(outgoing(answer)))
    }
    async fn pod_sandbox_stats(
        &self,
        request: tonic::Request<PodSandboxStatsRequest>,
    ) -> Result<tonic::Response<PodSandboxStatsResponse>, tonic::Status> {
        let answer = self.0.pod_sandbox_stats(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn list_pod_sandbox_stats(
        &self,
        request: tonic::Request<ListPodSandboxStatsRequest>,
    ) -> Result<tonic::Response<ListPodSandboxStatsResponse>, tonic::Status> {
        let answer = self.0.list_pod_sandbox_stats(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    type StreamPodSandboxStatsStream = OutgoingStream<StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        request: tonic::Request<StreamPodSandboxStatsRequest>,
    ) -> Result<tonic::Response<Self::StreamPodSandboxStatsStream>, tonic::Status> {
        let answer = self.0.stream_pod_sandbox_stats(request.into_inner()).await?;
        Ok(tonic::Response::new(outgoing(answer)))
    }
    async fn update_runtime_config(
        &self,
        request: tonic::Request<UpdateRuntimeConfigRequest>,
    ) -> Result<tonic::Response<UpdateRuntimeConfigResponse>, tonic::Status> {
        let answer = self.0.update_runtime_config(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn status(
        &self,
        request: tonic::Request<StatusRequest>,
    ) -> Result<tonic::Response<StatusResponse>, tonic::Status> {
        let answer = self.0.status(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn checkpoint_container(
        &self,
        request: tonic::Request<CheckpointContainerRequest>,
    ) -> Result<tonic::Response<CheckpointContainerResponse>, tonic::Status> {
        let answer = self.0.checkpoint_container(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    type GetContainerEventsStream = OutgoingStream<ContainerEventResponse>;
    async fn get_container_events(
        &self,
        request: tonic::Request<GetEventsRequest>,
    ) -> Result<tonic::Response<Self::GetContainerEventsStream>, tonic::Status> {
        let answer = self.0.get_container_events(request.into_inner()).await?;
        Ok(tonic::Response::new(outgoing(answer)))
    }
    async fn list_metric_descriptors(
        &self,
        request: tonic::Request<ListMetricDescriptorsRequest>,
    ) -> Result<tonic::Response<ListMetricDescriptorsResponse>, tonic::Status> {
        let answer = self.0.list_metric_descriptors(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn list_pod_sandbox_metrics(
        &self,
        request: tonic::Request<ListPodSandboxMetricsRequest>,
    ) -> Result<tonic::Response<ListPodSandboxMetricsResponse>, tonic::Status> {
        let answer = self.0.list_pod_sandbox_metrics(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    type StreamPodSandboxMetricsStream = OutgoingStream<StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        request: tonic::Request<StreamPodSandboxMetricsRequest>,
    ) -> Result<tonic::Response<Self::StreamPodSandboxMetricsStream>, tonic::Status> {
        let answer = self.0.stream_pod_sandbox_metrics(request.into_inner()).await?;
        Ok(tonic::Response::new(outgoing(answer)))
    }
    async fn runtime_config(
        &self,
        request: tonic::Request<RuntimeConfigRequest>,
    ) -> Result<tonic::Response<RuntimeConfigResponse>, tonic::Status> {
        let answer = self.0.runtime_config(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn update_pod_sandbox_resources(
        &self,
        request: tonic::Request<UpdatePodSandboxResourcesRequest>,
    ) -> Result<tonic::Response<UpdatePodSandboxResourcesResponse>, tonic::Status> {
        let answer = self.0.update_pod_sandbox_resources(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
}

/// The CRI's `ImageService` as an object-safe trait; a method not overridden answers `Unimplemented`.
pub trait ImageService: Send + Sync {
    /// `ListImages`.
    fn list_images<'a>(&'a self, request: ListImagesRequest) -> CriFuture<'a, ListImagesResponse> {
        let _unused = request;
        unimplemented_rpc("ListImages")
    }
    /// `StreamImages`.
    fn stream_images<'a>(&'a self, request: StreamImagesRequest) -> CriFuture<'a, CriStream<StreamImagesResponse>> {
        let _unused = request;
        unimplemented_rpc("StreamImages")
    }
    /// `ImageStatus`.
    fn image_status<'a>(&'a self, request: ImageStatusRequest) -> CriFuture<'a, ImageStatusResponse> {
        let _unused = request;
        unimplemented_rpc("ImageStatus")
    }
    /// `PullImage`.
    fn pull_image<'a>(&'a self, request: PullImageRequest) -> CriFuture<'a, PullImageResponse> {
        let _unused = request;
        unimplemented_rpc("PullImage")
    }
    /// `RemoveImage`.
    fn remove_image<'a>(&'a self, request: RemoveImageRequest) -> CriFuture<'a, RemoveImageResponse> {
        let _unused = request;
        unimplemented_rpc("RemoveImage")
    }
    /// `ImageFsInfo`.
    fn image_fs_info<'a>(&'a self, request: ImageFsInfoRequest) -> CriFuture<'a, ImageFsInfoResponse> {
        let _unused = request;
        unimplemented_rpc("ImageFsInfo")
    }
}

impl<S: ImageService + ?Sized> ImageService for std::sync::Arc<S> {
    fn list_images<'a>(&'a self, request: ListImagesRequest) -> CriFuture<'a, ListImagesResponse> {
        (**self).list_images(request)
    }
    fn stream_images<'a>(&'a self, request: StreamImagesRequest) -> CriFuture<'a, CriStream<StreamImagesResponse>> {
        (**self).stream_images(request)
    }
    fn image_status<'a>(&'a self, request: ImageStatusRequest) -> CriFuture<'a, ImageStatusResponse> {
        (**self).image_status(request)
    }
    fn pull_image<'a>(&'a self, request: PullImageRequest) -> CriFuture<'a, PullImageResponse> {
        (**self).pull_image(request)
    }
    fn remove_image<'a>(&'a self, request: RemoveImageRequest) -> CriFuture<'a, RemoveImageResponse> {
        (**self).remove_image(request)
    }
    fn image_fs_info<'a>(&'a self, request: ImageFsInfoRequest) -> CriFuture<'a, ImageFsInfoResponse> {
        (**self).image_fs_info(request)
    }
}

impl ImageService for image_service_client::ImageServiceClient<tonic::transport::Channel> {
    fn list_images<'a>(&'a self, request: ListImagesRequest) -> CriFuture<'a, ListImagesResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = image_service_client::ImageServiceClient::list_images(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn stream_images<'a>(&'a self, request: StreamImagesRequest) -> CriFuture<'a, CriStream<StreamImagesResponse>> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = image_service_client::ImageServiceClient::stream_images(&mut client, request).await?;
            Ok(incoming(answer.into_inner()))
        })
    }
    fn image_status<'a>(&'a self, request: ImageStatusRequest) -> CriFuture<'a, ImageStatusResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = image_service_client::ImageServiceClient::image_status(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn pull_image<'a>(&'a self, request: PullImageRequest) -> CriFuture<'a, PullImageResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = image_service_client::ImageServiceClient::pull_image(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn remove_image<'a>(&'a self, request: RemoveImageRequest) -> CriFuture<'a, RemoveImageResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = image_service_client::ImageServiceClient::remove_image(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
    fn image_fs_info<'a>(&'a self, request: ImageFsInfoRequest) -> CriFuture<'a, ImageFsInfoResponse> {
        let mut client = self.clone();
        Box::pin(async move {
            let answer = image_service_client::ImageServiceClient::image_fs_info(&mut client, request).await?;
            Ok(answer.into_inner())
        })
    }
}

#[tonic::async_trait]
impl image_service_server::ImageService for Served<dyn ImageService> {
    async fn list_images(
        &self,
        request: tonic::Request<ListImagesRequest>,
    ) -> Result<tonic::Response<ListImagesResponse>, tonic::Status> {
        let answer = self.0.list_images(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    type StreamImagesStream = OutgoingStream<StreamImagesResponse>;
    async fn stream_images(
        &self,
        request: tonic::Request<StreamImagesRequest>,
    ) -> Result<tonic::Response<Self::StreamImagesStream>, tonic::Status> {
        let answer = self.0.stream_images(request.into_inner()).await?;
        Ok(tonic::Response::new(outgoing(answer)))
    }
    async fn image_status(
        &self,
        request: tonic::Request<ImageStatusRequest>,
    ) -> Result<tonic::Response<ImageStatusResponse>, tonic::Status> {
        let answer = self.0.image_status(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn pull_image(
        &self,
        request: tonic::Request<PullImageRequest>,
    ) -> Result<tonic::Response<PullImageResponse>, tonic::Status> {
        let answer = self.0.pull_image(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn remove_image(
        &self,
        request: tonic::Request<RemoveImageRequest>,
    ) -> Result<tonic::Response<RemoveImageResponse>, tonic::Status> {
        let answer = self.0.remove_image(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
    async fn image_fs_info(
        &self,
        request: tonic::Request<ImageFsInfoRequest>,
    ) -> Result<tonic::Response<ImageFsInfoResponse>, tonic::Status> {
        let answer = self.0.image_fs_info(request.into_inner()).await?;
        Ok(tonic::Response::new(answer))
    }
}
