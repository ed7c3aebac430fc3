//! A container runtime in memory. What a container does is said by its command:
//!
//! | command | it |
//! |---|---|
//! | `exit N` | ends at once with that code |
//! | `slow` | ignores its stop signal: it is gone when the grace is over |
//! | anything else | runs until it is stopped |
//!
//! An exec of `flag NAME` succeeds while the test has raised that flag.

use parking_lot::Mutex;
use skiff_base::clock::{Clock, SystemClock};
use skiff_cri::v1::*;
use skiff_cri::{CriError, CriFuture, CriStream, ImageService, RuntimeService};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast;

#[derive(Default)]
struct World {
    next: u64,
    sandboxes: BTreeMap<String, (PodSandboxConfig, PodSandboxStatus)>,
    containers: BTreeMap<String, Held>,
    images: BTreeMap<String, Image>,
    unpullable: BTreeMap<String, String>,
    /// Pulled only by who shows a user name.
    private: BTreeSet<String>,
    flags: BTreeSet<String>,
    log: Vec<String>,
    fail_create: Option<String>,
    fail_start: Option<String>,
    working_set: HashMap<String, u64>,
}

struct Held {
    sandbox: String,
    config: ContainerConfig,
    status: ContainerStatus,
    out: Option<std::fs::File>,
}

/// The runtime.
pub(crate) struct FakeRuntime {
    world: Mutex<World>,
    events: broadcast::Sender<ContainerEventResponse>,
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

fn done<'a, T: Send + 'a>(answer: Result<T, CriError>) -> CriFuture<'a, T> {
    Box::pin(std::future::ready(answer))
}

fn selected(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl FakeRuntime {
    pub(crate) fn new() -> Self {
        let fake = Self { world: Mutex::default(), events: broadcast::channel(1024).0 };
        fake.add_image("i", 1000, false);
        fake
    }

    pub(crate) fn add_image(&self, name: &str, size: u64, pinned: bool) {
        let image = Image {
            id: format!("sha256:{name}"),
            repo_tags: vec![name.to_owned()],
            size,
            uid: Some(Int64Value { value: 1000 }),
            pinned,
            ..Default::default()
        };
        self.world.lock().images.insert(name.to_owned(), image);
    }
    pub(crate) fn image_names(&self) -> Vec<String> {
        self.world.lock().images.keys().cloned().collect()
    }
    pub(crate) fn make_private(&self, image: &str) {
        self.world.lock().private.insert(image.to_owned());
    }
    /// Pulling this image fails with these words from now on.
    pub(crate) fn refuse_pull(&self, image: &str, why: &str) {
        self.world.lock().unpullable.insert(image.to_owned(), why.to_owned());
    }
    pub(crate) fn fail_create(&self, why: Option<&str>) {
        self.world.lock().fail_create = why.map(str::to_owned);
    }
    pub(crate) fn fail_start(&self, why: Option<&str>) {
        self.world.lock().fail_start = why.map(str::to_owned);
    }
    pub(crate) fn raise(&self, flag: &str) {
        self.world.lock().flags.insert(flag.to_owned());
    }
    pub(crate) fn lower(&self, flag: &str) {
        self.world.lock().flags.remove(flag);
    }
    /// What was done, in order: `start NAME`, `stop NAME GRACE`, `exec NAME ...`, `remove NAME`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.world.lock().log.clone()
    }
    /// Memory that a container (by name) is said to use.
    pub(crate) fn use_memory(&self, container: &str, bytes: u64) {
        self.world.lock().working_set.insert(container.to_owned(), bytes);
    }

    fn newest(world: &World, name: &str) -> Option<String> {
        let of_name =
            world.containers.iter().filter(|(_, held)| held.config.metadata.as_ref().is_some_and(|m| m.name == name));
        of_name.max_by_key(|(_, held)| held.status.created_at).map(|(id, _)| id.clone())
    }
    /// The configuration of the newest container of this name.
    pub(crate) fn config(&self, name: &str) -> Option<ContainerConfig> {
        let world = self.world.lock();
        Self::newest(&world, name).map(|id| world.containers[&id].config.clone())
    }
    pub(crate) fn sandbox_configs(&self) -> Vec<PodSandboxConfig> {
        self.world.lock().sandboxes.values().map(|(config, _)| config.clone()).collect()
    }
    /// CPU shares of the newest container of a name.
    pub(crate) fn shares(&self, name: &str) -> i64 {
        let world = self.world.lock();
        let of = |held: &Held| held.config.metadata.as_ref().is_some_and(|metadata| metadata.name == name);
        let newest = world.containers.values().filter(|held| of(held)).max_by_key(|held| held.status.created_at);
        newest.and_then(|held| Some(held.status.resources.as_ref()?.linux.as_ref()?.cpu_shares)).unwrap_or_default()
    }
    pub(crate) fn ids(&self, name: &str) -> Vec<String> {
        let world = self.world.lock();
        let of_name =
            world.containers.iter().filter(|(_, held)| held.config.metadata.as_ref().is_some_and(|m| m.name == name));
        of_name.map(|(id, _)| id.clone()).collect()
    }
    /// Writes a line to the newest container of this name.
    pub(crate) fn say(&self, name: &str, text: &str) {
        let mut world = self.world.lock();
        let id = Self::newest(&world, name).unwrap();
        let out = world.containers.get_mut(&id).unwrap().out.as_mut().unwrap();
        writeln!(out, "2026-01-01T00:00:00.000000000Z stdout F {text}").unwrap();
    }
    /// Every sandbox and what is in it ends, as by a reboot.
    pub(crate) fn reboot(&self) {
        let mut world = self.world.lock();
        let mut sandboxes = Vec::new();
        for (id, (_, status)) in &mut world.sandboxes {
            status.state = PodSandboxState::SandboxNotready.into();
            sandboxes.push(id.clone());
        }
        let running: Vec<String> = world.containers.keys().cloned().collect();
        drop(world);
        running.iter().for_each(|id| self.finish(id, 255, "Unknown"));
        sandboxes.iter().for_each(|id| self.announce(id));
    }
    /// The newest container of this name ends.
    pub(crate) fn end(&self, name: &str, code: i32, reason: &str) {
        let id = Self::newest(&self.world.lock(), name).unwrap();
        self.finish(&id, code, reason);
    }
    fn finish(&self, id: &str, code: i32, reason: &str) {
        let mut world = self.world.lock();
        let Some(held) = world.containers.get_mut(id) else { return };
        if held.status.state == i32::from(ContainerState::ContainerExited) {
            return;
        }
        held.status.state = ContainerState::ContainerExited.into();
        held.status.exit_code = code;
        held.status.reason = reason.to_owned();
        held.status.finished_at = now();
        let sandbox = held.sandbox.clone();
        drop(world);
        self.announce(&sandbox);
    }
    fn announce(&self, sandbox: &str) {
        let status = self.world.lock().sandboxes.get(sandbox).map(|(_, status)| status.clone());
        // Nobody may be listening.
        let event = ContainerEventResponse { pod_sandbox_status: status, ..Default::default() };
        drop(self.events.send(event));
    }
    fn stats(held: &Held, world: &World) -> ContainerStats {
        let name = held.config.metadata.as_ref().unwrap().name.clone();
        let bytes = world.working_set.get(&name).copied().unwrap_or(1 << 20);
        let value = |value| Some(UInt64Value { value });
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: held.status.id.clone(),
                metadata: held.config.metadata.clone(),
                labels: held.config.labels.clone(),
                ..Default::default()
            }),
            cpu: Some(CpuUsage {
                timestamp: now(),
                usage_core_nano_seconds: value(5_000_000_000),
                ..Default::default()
            }),
            memory: Some(MemoryUsage {
                timestamp: now(),
                working_set_bytes: value(bytes),
                rss_bytes: value(bytes),
                usage_bytes: value(bytes),
                ..Default::default()
            }),
            writable_layer: Some(FilesystemUsage {
                timestamp: now(),
                used_bytes: value(4096),
                inodes_used: value(1),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

impl RuntimeService for FakeRuntime {
    fn version<'a>(&'a self, _: VersionRequest) -> CriFuture<'a, VersionResponse> {
        done(Ok(VersionResponse {
            runtime_name: "fake".to_owned(),
            runtime_version: "1".to_owned(),
            ..Default::default()
        }))
    }
    fn status<'a>(&'a self, _: StatusRequest) -> CriFuture<'a, StatusResponse> {
        done(Ok(StatusResponse { status: Some(RuntimeStatus::default()), ..Default::default() }))
    }
    fn runtime_config<'a>(&'a self, _: RuntimeConfigRequest) -> CriFuture<'a, RuntimeConfigResponse> {
        let linux = Some(LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() });
        done(Ok(RuntimeConfigResponse { linux }))
    }
    fn run_pod_sandbox<'a>(&'a self, request: RunPodSandboxRequest) -> CriFuture<'a, RunPodSandboxResponse> {
        let config = request.config.unwrap();
        let mut world = self.world.lock();
        world.next += 1;
        let id = format!("sandbox-{}", world.next);
        let ip = format!("10.9.0.{}", world.next);
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: PodSandboxState::SandboxReady.into(),
            created_at: now(),
            network: Some(PodSandboxNetworkStatus { ip, ..Default::default() }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        world.sandboxes.insert(id.clone(), (config, status));
        drop(world);
        self.announce(&id);
        done(Ok(RunPodSandboxResponse { pod_sandbox_id: id }))
    }
    fn stop_pod_sandbox<'a>(&'a self, request: StopPodSandboxRequest) -> CriFuture<'a, StopPodSandboxResponse> {
        let mut world = self.world.lock();
        if let Some((_, status)) = world.sandboxes.get_mut(&request.pod_sandbox_id) {
            status.state = PodSandboxState::SandboxNotready.into();
        }
        let inside: Vec<String> = world
            .containers
            .iter()
            .filter(|(_, held)| held.sandbox == request.pod_sandbox_id)
            .map(|(id, _)| id.clone())
            .collect();
        drop(world);
        inside.iter().for_each(|id| self.finish(id, 137, ""));
        done(Ok(StopPodSandboxResponse {}))
    }
    fn remove_pod_sandbox<'a>(&'a self, request: RemovePodSandboxRequest) -> CriFuture<'a, RemovePodSandboxResponse> {
        let mut world = self.world.lock();
        world.sandboxes.remove(&request.pod_sandbox_id);
        world.containers.retain(|_, held| held.sandbox != request.pod_sandbox_id);
        done(Ok(RemovePodSandboxResponse {}))
    }
    fn pod_sandbox_status<'a>(&'a self, request: PodSandboxStatusRequest) -> CriFuture<'a, PodSandboxStatusResponse> {
        let status = self.world.lock().sandboxes.get(&request.pod_sandbox_id).map(|(_, status)| status.clone());
        let missing = CriError::not_found("no such sandbox");
        done(
            status.ok_or(missing).map(|status| PodSandboxStatusResponse { status: Some(status), ..Default::default() }),
        )
    }
    fn list_pod_sandbox<'a>(&'a self, request: ListPodSandboxRequest) -> CriFuture<'a, ListPodSandboxResponse> {
        let selector = request.filter.unwrap_or_default().label_selector;
        let world = self.world.lock();
        let items = world.sandboxes.values().filter(|(_, status)| selected(&status.labels, &selector));
        let items = items.map(|(_, status)| PodSandbox {
            id: status.id.clone(),
            metadata: status.metadata.clone(),
            state: status.state,
            created_at: status.created_at,
            labels: status.labels.clone(),
            ..Default::default()
        });
        done(Ok(ListPodSandboxResponse { items: items.collect() }))
    }
    fn create_container<'a>(&'a self, request: CreateContainerRequest) -> CriFuture<'a, CreateContainerResponse> {
        let config = request.config.unwrap();
        let mut world = self.world.lock();
        if let Some(why) = &world.fail_create {
            return done(Err(CriError::unknown(why.clone())));
        }
        world.next += 1;
        let id = format!("c{}", world.next);
        let directory = world.sandboxes[&request.pod_sandbox_id].0.log_directory.clone();
        let log_path = PathBuf::from(directory).join(&config.log_path);
        let status = ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: ContainerState::ContainerCreated.into(),
            created_at: now(),
            image: config.image.clone(),
            image_ref: config.image.clone().unwrap_or_default().image,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            log_path: log_path.to_string_lossy().into_owned(),
            resources: Some(ContainerResources {
                linux: config.linux.as_ref().and_then(|linux| linux.resources.clone()),
                ..Default::default()
            }),
            ..Default::default()
        };
        world.containers.insert(id.clone(), Held { sandbox: request.pod_sandbox_id, config, status, out: None });
        done(Ok(CreateContainerResponse { container_id: id }))
    }
    fn start_container<'a>(&'a self, request: StartContainerRequest) -> CriFuture<'a, StartContainerResponse> {
        let id = request.container_id;
        let mut world = self.world.lock();
        if let Some(why) = world.fail_start.clone() {
            drop(world);
            self.finish(&id, 128, "StartError");
            return done(Err(CriError::unknown(why)));
        }
        let held = world.containers.get_mut(&id).unwrap();
        held.status.state = ContainerState::ContainerRunning.into();
        held.status.started_at = now();
        held.out = Some(std::fs::File::options().create(true).append(true).open(&held.status.log_path).unwrap());
        let (name, command) = (held.config.metadata.clone().unwrap().name, held.config.command.clone());
        let sandbox = held.sandbox.clone();
        world.log.push(format!("start {name}"));
        drop(world);
        self.announce(&sandbox);
        if command.first().is_some_and(|word| word == "exit") {
            self.finish(&id, command[1].parse().unwrap(), "");
        }
        done(Ok(StartContainerResponse {}))
    }
    fn update_container_resources<'a>(
        &'a self,
        request: UpdateContainerResourcesRequest,
    ) -> CriFuture<'a, UpdateContainerResourcesResponse> {
        let mut world = self.world.lock();
        let Some(held) = world.containers.get_mut(&request.container_id) else {
            return done(Err(CriError::not_found("no such container")));
        };
        held.status.resources = Some(ContainerResources { linux: request.linux, ..Default::default() });
        let name = held.config.metadata.clone().unwrap_or_default().name;
        world.log.push(format!("update {name}"));
        done(Ok(UpdateContainerResourcesResponse {}))
    }
    fn stop_container<'a>(&'a self, request: StopContainerRequest) -> CriFuture<'a, StopContainerResponse> {
        Box::pin(async move {
            let slow = {
                let mut world = self.world.lock();
                let Some(held) = world.containers.get(&request.container_id) else {
                    return Ok(StopContainerResponse {});
                };
                let name = held.config.metadata.clone().unwrap().name;
                let slow = held.config.command.first().is_some_and(|word| word == "slow");
                world.log.push(format!("stop {name} {}", request.timeout));
                slow
            };
            if slow {
                SystemClock.sleep(Duration::from_secs(u64::try_from(request.timeout).unwrap())).await;
            }
            self.finish(&request.container_id, if slow { 137 } else { 143 }, "");
            Ok(StopContainerResponse {})
        })
    }
    fn remove_container<'a>(&'a self, request: RemoveContainerRequest) -> CriFuture<'a, RemoveContainerResponse> {
        self.world.lock().containers.remove(&request.container_id);
        done(Ok(RemoveContainerResponse {}))
    }
    fn list_containers<'a>(&'a self, request: ListContainersRequest) -> CriFuture<'a, ListContainersResponse> {
        let filter = request.filter.unwrap_or_default();
        let world = self.world.lock();
        let found = world
            .containers
            .values()
            .filter(|held| selected(&held.config.labels, &filter.label_selector))
            .filter(|held| filter.state.as_ref().is_none_or(|state| state.state == held.status.state));
        let containers = found.map(|held| Container {
            id: held.status.id.clone(),
            pod_sandbox_id: held.sandbox.clone(),
            metadata: held.config.metadata.clone(),
            image: held.config.image.clone(),
            image_ref: held.status.image_ref.clone(),
            state: held.status.state,
            created_at: held.status.created_at,
            labels: held.config.labels.clone(),
            ..Default::default()
        });
        done(Ok(ListContainersResponse { containers: containers.collect() }))
    }
    fn container_status<'a>(&'a self, request: ContainerStatusRequest) -> CriFuture<'a, ContainerStatusResponse> {
        let status = self.world.lock().containers.get(&request.container_id).map(|held| held.status.clone());
        let missing = CriError::not_found("no such container");
        done(status.ok_or(missing).map(|status| ContainerStatusResponse { status: Some(status), ..Default::default() }))
    }
    fn reopen_container_log<'a>(
        &'a self,
        request: ReopenContainerLogRequest,
    ) -> CriFuture<'a, ReopenContainerLogResponse> {
        let mut world = self.world.lock();
        let held = world.containers.get_mut(&request.container_id).unwrap();
        held.out = Some(std::fs::File::options().create(true).append(true).open(&held.status.log_path).unwrap());
        done(Ok(ReopenContainerLogResponse {}))
    }
    fn exec_sync<'a>(&'a self, request: ExecSyncRequest) -> CriFuture<'a, ExecSyncResponse> {
        let mut world = self.world.lock();
        let name = world.containers[&request.container_id].config.metadata.clone().unwrap().name;
        world.log.push(format!("exec {name} {}", request.cmd.join(" ")));
        let good = request.cmd.first().is_none_or(|word| word != "flag")
            || request.cmd.get(1).is_some_and(|flag| world.flags.contains(flag));
        drop(world);
        Box::pin(async move {
            if request.cmd.first().is_some_and(|word| word == "sleep") {
                SystemClock.sleep(Duration::from_millis(request.cmd[1].parse().unwrap())).await;
            }
            let stdout = if good { Vec::new() } else { b"the flag is down".to_vec() };
            Ok(ExecSyncResponse { stdout, exit_code: i32::from(!good), ..Default::default() })
        })
    }
    fn list_container_stats<'a>(&'a self, _: ListContainerStatsRequest) -> CriFuture<'a, ListContainerStatsResponse> {
        let world = self.world.lock();
        let running = i32::from(ContainerState::ContainerRunning);
        let stats =
            world.containers.values().filter(|held| held.status.state == running).map(|held| Self::stats(held, &world));
        done(Ok(ListContainerStatsResponse { stats: stats.collect() }))
    }
    fn list_pod_sandbox_stats<'a>(
        &'a self,
        _: ListPodSandboxStatsRequest,
    ) -> CriFuture<'a, ListPodSandboxStatsResponse> {
        let world = self.world.lock();
        let running = i32::from(ContainerState::ContainerRunning);
        let stats = world.sandboxes.values().map(|(_, status)| PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: status.id.clone(),
                metadata: status.metadata.clone(),
                labels: status.labels.clone(),
                ..Default::default()
            }),
            linux: Some(LinuxPodSandboxStats {
                containers: world
                    .containers
                    .values()
                    .filter(|held| held.sandbox == status.id && held.status.state == running)
                    .map(|held| Self::stats(held, &world))
                    .collect(),
                process: Some(ProcessUsage { process_count: Some(UInt64Value { value: 3 }), ..Default::default() }),
                network: Some(NetworkUsage {
                    default_interface: Some(NetworkInterfaceUsage {
                        name: "eth0".to_owned(),
                        rx_bytes: Some(UInt64Value { value: 7 }),
                        tx_bytes: Some(UInt64Value { value: 8 }),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        });
        done(Ok(ListPodSandboxStatsResponse { stats: stats.collect() }))
    }
    fn get_container_events<'a>(&'a self, _: GetEventsRequest) -> CriFuture<'a, CriStream<ContainerEventResponse>> {
        let receiver = self.events.subscribe();
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let event = receiver.recv().await.ok()?;
            Some((Ok(event), receiver))
        });
        done(Ok(Box::pin(stream) as CriStream<_>))
    }
}

impl ImageService for FakeRuntime {
    fn list_images<'a>(&'a self, _: ListImagesRequest) -> CriFuture<'a, ListImagesResponse> {
        let images = self.world.lock().images.values().cloned().collect();
        done(Ok(ListImagesResponse { images }))
    }
    fn image_status<'a>(&'a self, request: ImageStatusRequest) -> CriFuture<'a, ImageStatusResponse> {
        let image = self.world.lock().images.get(&request.image.unwrap().image).cloned();
        done(Ok(ImageStatusResponse { image, ..Default::default() }))
    }
    fn pull_image<'a>(&'a self, request: PullImageRequest) -> CriFuture<'a, PullImageResponse> {
        let name = request.image.unwrap().image;
        let shown = request.auth.is_some_and(|auth| !auth.username.is_empty());
        if self.world.lock().private.contains(&name) && !shown {
            return done(Err(CriError::unknown("pull access denied")));
        }
        if let Some(why) = self.world.lock().unpullable.get(&name) {
            return done(Err(CriError::not_found(why.clone())));
        }
        self.add_image(&name, 1000, false);
        done(Ok(PullImageResponse { image_ref: format!("sha256:{name}") }))
    }
    fn remove_image<'a>(&'a self, request: RemoveImageRequest) -> CriFuture<'a, RemoveImageResponse> {
        let wanted = request.image.unwrap().image;
        self.world.lock().images.retain(|name, image| *name != wanted && image.id != wanted);
        done(Ok(RemoveImageResponse {}))
    }
    fn image_fs_info<'a>(&'a self, _: ImageFsInfoRequest) -> CriFuture<'a, ImageFsInfoResponse> {
        done(Ok(ImageFsInfoResponse::default()))
    }
}
