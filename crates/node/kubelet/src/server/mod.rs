//! The kubelet's own server (`pkg/kubelet/server/server.go`): logs, exec, attach,
//! port-forward, run, pods, metrics, statistics, configuration, health.
//!
//! Whoever asks shows a client certificate of the cluster or a token, and the API server says whether they may
//! ([`guard`]). Exec and its like ask for `create`, whatever the method, so that `get` on nodes does not run commands
//! (safer than upstream; RELIABILITY row 19).

mod files;
mod guard;
mod log_stream;
mod pages;

use crate::logs::LogOptions;
use crate::pod::spec::Pod;
use crate::pod::state::State;
use crate::shared::Shared;
use crate::source::Pods;
pub use guard::Guard;
use http::{Method, Request, Response, StatusCode};
pub(crate) use pages::configuration;
use skiff_base::task::OnFailure;
use skiff_cri::streaming::Streaming;
use skiff_cri::v1;
use skiff_machinery::{Value, object};
use skiff_net::client::{Client as Wire, Options as WireOptions};
use skiff_net::portforward;
use skiff_net::remotecommand;
use skiff_net::{Body, Peer, Service, ServiceFuture};
use skiff_streaming::join;
use std::sync::Arc;

/// The server.
pub struct KubeletServer {
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    guard: Guard,
    streaming: Option<Arc<dyn Streaming>>,
    wire: Wire,
}

/// An answer that is not what was asked for.
struct Refusal(StatusCode, String);

impl Refusal {
    fn not_found(what: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, what.into())
    }
    fn bad_request(what: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, what.into())
    }
    fn internal(what: impl std::fmt::Display) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, what.to_string())
    }
}

fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer
}

fn with_type(body: impl Into<Body>, content_type: &'static str) -> Response<Body> {
    let mut answer = text(StatusCode::OK, body);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    answer
}

fn json(tree: &Value) -> Response<Body> {
    with_type(skiff_machinery::codec::json::to_vec(tree), "application/json")
}

fn prometheus(page: String) -> Response<Body> {
    with_type(page, "text/plain; version=0.0.4; charset=utf-8")
}

/// Query parameters, decoded, in order.
fn query(uri: &http::Uri) -> Vec<(String, String)> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

/// Percent-decodes, `+` as space.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let number = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(number.unwrap_or(b'%'));
            }
            plain => bytes.push(plain),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-decodes one part of a path, where `+` is itself.
fn decode_path(text: &str) -> String {
    decode(&text.replace('+', "%2B"))
}

struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
    fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }
    fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == key).map(|(_, value)| value.clone()).collect()
    }
    fn number(&self, key: &str) -> Result<Option<usize>, Refusal> {
        let wrong = || Refusal::bad_request(format!("{key} is not a number"));
        self.get(key).filter(|text| !text.is_empty()).map(|text| text.parse().map_err(|_| wrong())).transpose()
    }
}

impl KubeletServer {
    /// Over a kubelet's pods. Without `streaming` the runtime's own URLs are used.
    pub fn new(shared: Arc<Shared>, pods: Arc<Pods>, guard: Guard, streaming: Option<Arc<dyn Streaming>>) -> Self {
        let wire = Wire::new(WireOptions::default(), shared.supervisor.clone());
        Self { shared, pods, guard, streaming, wire }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Pod, Refusal> {
        self.pods.find(namespace, name).ok_or_else(|| Refusal::not_found(format!("pod {namespace}/{name} not found")))
    }

    async fn state(&self, pod: &Pod) -> Result<State, Refusal> {
        State::fetch(&self.shared.runtime, pod.uid()).await.map_err(Refusal::internal)
    }

    /// The container's id, which has to run.
    async fn running(&self, pod: &Pod, container: &str) -> Result<String, Refusal> {
        let state = self.state(pod).await?;
        let instance = state.newest(container).filter(|instance| instance.is_running());
        let missing = || Refusal::not_found(format!("container not found (\"{container}\")"));
        instance.map(|instance| instance.id.clone()).ok_or_else(missing)
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().trim_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let parameters = Parameters(query(request.uri()));
        match parts.as_slice() {
            ["healthz" | "livez"] => Ok(text(StatusCode::OK, "ok")),
            ["pods"] => Ok(self.list_pods()),
            ["runningpods"] => self.list_running_pods().await,
            ["metrics"] => {
                self.count().await?;
                Ok(prometheus(self.shared.metrics.registry.render()))
            }
            ["metrics", "probes"] => Ok(prometheus(self.shared.metrics.probes.render())),
            ["metrics", "resource"] => Ok(prometheus(pages::resource_metrics(&self.shared).await)),
            ["metrics", "cadvisor"] => {
                Ok(prometheus(pages::cadvisor_metrics(&self.shared).await.map_err(Refusal::internal)?))
            }
            ["stats", "summary"] => {
                let only = parameters.flag("only_cpu_and_memory");
                let summary = pages::summary(&self.shared, &self.pods.list(), only).await;
                Ok(json(&summary.map_err(Refusal::internal)?))
            }
            ["configz"] => Ok(json(&self.shared.configuration)),
            ["logs", path @ ..] => files::answer(&self.shared, path).await,
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
                self.run(request.method(), &self.pod(namespace, pod)?, container, &parameters).await
            }
            ["checkpoint", ..] => {
                Err(Refusal(StatusCode::NOT_IMPLEMENTED, "checkpoints are not supported yet".to_owned()))
            }
            ["containerLogs", namespace, pod, container] => {
                self.logs(&self.pod(namespace, pod)?, container, &parameters).await
            }
            ["exec", namespace, pod, container] => {
                self.exec(request, &self.pod(namespace, pod)?, container, &parameters).await
            }
            ["exec", namespace, pod, _uid, container] => {
                self.exec(request, &self.pod(namespace, pod)?, container, &parameters).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.attach(request, &self.pod(namespace, pod)?, container, &parameters).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.port_forward(request, &self.pod(namespace, pod)?, &parameters).await
            }
            _ => Err(Refusal::not_found("404 page not found\n")),
        }
    }

    fn list_pods(&self) -> Response<Body> {
        let items: Vec<Value> = self.pods.list().iter().map(|pod| (*pod.0).clone()).collect();
        json(&object! { "kind": "PodList", "apiVersion": "v1", "metadata": object! {}, "items": items })
    }

    /// Pods as the runtime has them, whatever the API says (`getRunningPods`).
    async fn list_running_pods(&self) -> Result<Response<Body>, Refusal> {
        let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
        let filter = v1::ContainerFilter { state: Some(running), ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let list = self.shared.runtime.list_containers(request).await.map_err(Refusal::internal)?;
        let mut pods: std::collections::BTreeMap<String, (v1::Container, Vec<Value>)> = Default::default();
        for container in list.containers {
            let Some(uid) = container.labels.get(crate::names::POD_UID).cloned() else { continue };
            let name = container.labels.get(crate::names::CONTAINER_NAME).cloned().unwrap_or_default();
            let image = container.image.clone().unwrap_or_default().image;
            let one = object! { "name": name, "image": image, "resources": object! {} };
            pods.entry(uid).or_insert_with(|| (container, Vec::new())).1.push(one);
        }
        let items = pods.into_iter().map(|(uid, (container, containers))| {
            let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
            object! {
                "metadata": object! {
                    "name": label(crate::names::POD_NAME), "namespace": label(crate::names::POD_NAMESPACE), "uid": uid,
                },
                "spec": object! { "containers": containers },
                "status": object! {},
            }
        });
        let items: Vec<Value> = items.collect();
        Ok(json(&object! { "kind": "PodList", "apiVersion": "v1", "metadata": object! {}, "items": items }))
    }

    /// Brings the gauges to what runs now.
    async fn count(&self) -> Result<(), Refusal> {
        let list = self.shared.runtime.list_containers(Default::default()).await.map_err(Refusal::internal)?;
        let (mut running, mut exited, mut created) = (0, 0, 0);
        for container in &list.containers {
            match v1::ContainerState::try_from(container.state) {
                Ok(v1::ContainerState::ContainerRunning) => running += 1,
                Ok(v1::ContainerState::ContainerExited) => exited += 1,
                Ok(v1::ContainerState::ContainerCreated) => created += 1,
                _ => (),
            }
        }
        let metrics = &self.shared.metrics;
        for (state, count) in [("running", running), ("exited", exited), ("created", created)] {
            metrics.running_containers.with(&[state]).set(count);
        }
        let ready = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() };
        let filter = v1::PodSandboxFilter { state: Some(ready), ..Default::default() };
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let pods = self.shared.runtime.list_pod_sandbox(request).await.map_err(Refusal::internal)?;
        metrics.running_pods.set(i64::try_from(pods.items.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Runs a command and answers with what it wrote (`getRun`).
    async fn run(
        &self,
        method: &Method,
        pod: &Pod,
        container: &str,
        parameters: &Parameters,
    ) -> Result<Response<Body>, Refusal> {
        if method != Method::POST {
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".to_owned()));
        }
        let words = parameters.get("cmd").unwrap_or_default().split(' ').filter(|word| !word.is_empty());
        let cmd: Vec<String> = words.map(str::to_owned).collect();
        if cmd.is_empty() {
            return Err(Refusal::bad_request("you must specify at least one command"));
        }
        let container_id = self.running(pod, container).await?;
        let request = v1::ExecSyncRequest { container_id, cmd, timeout: 0 };
        let ran = self.shared.runtime.exec_sync(request).await.map_err(Refusal::internal)?;
        let mut out = ran.stdout;
        out.extend(ran.stderr);
        match ran.exit_code {
            0 => Ok(text(StatusCode::OK, out)),
            code => {
                let message = format!("command terminated with exit code {code}: {}", String::from_utf8_lossy(&out));
                Err(Refusal::internal(message))
            }
        }
    }

    async fn logs(&self, pod: &Pod, container: &str, parameters: &Parameters) -> Result<Response<Body>, Refusal> {
        if pod.container(container).is_none() {
            let message = format!("container \"{container}\" not found in pod \"{}\"", pod.name());
            return Err(Refusal::not_found(message));
        }
        let since = match (parameters.get("sinceTime"), parameters.number("sinceSeconds")?) {
            (Some(_), Some(_)) => {
                return Err(Refusal::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
            }
            (Some(time), None) => Some(time.parse().map_err(|_| Refusal::bad_request("sinceTime is not a time"))?),
            (None, Some(seconds)) => {
                let wall = jiff::Timestamp::try_from(self.shared.clock.wall()).map_err(Refusal::internal)?;
                let ago = jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX / 4));
                Some(wall.checked_sub(ago).unwrap_or(jiff::Timestamp::MIN))
            }
            (None, None) => None,
        };
        let options = LogOptions {
            follow: parameters.flag("follow"),
            timestamps: parameters.flag("timestamps"),
            tail_lines: parameters.number("tailLines")?,
            since,
            limit_bytes: parameters.number("limitBytes")?,
            stream: parameters.get("stream").unwrap_or_default().to_owned(),
        };
        let state = self.state(pod).await?;
        let instances = state.containers.get(container).map(Vec::as_slice).unwrap_or(&[]);
        let waiting = || {
            let message =
                format!("container \"{container}\" in pod \"{}\" is waiting to start: ContainerCreating", pod.name());
            Refusal::bad_request(message)
        };
        let instance = if parameters.flag("previous") {
            let message = format!("previous terminated container \"{container}\" in pod \"{}\" not found", pod.name());
            let ended = instances.iter().skip(usize::from(instances.first().is_some_and(|first| first.is_running())));
            ended.into_iter().find(|instance| instance.has_exited()).ok_or_else(|| Refusal::bad_request(message))?
        } else {
            instances.iter().find(|instance| !instance.is_created()).ok_or_else(waiting)?
        };
        log_stream::answer(&self.shared, instance, options).await.map_err(Refusal::internal)
    }

    fn streams(parameters: &Parameters) -> remotecommand::Options {
        remotecommand::Options {
            stdin: parameters.flag("input") || parameters.flag("stdin"),
            stdout: parameters.flag("output") || parameters.flag("stdout"),
            stderr: parameters.flag("error") || parameters.flag("stderr"),
            tty: parameters.flag("tty"),
        }
    }

    async fn exec(
        &self,
        mut request: Request<Body>,
        pod: &Pod,
        container: &str,
        parameters: &Parameters,
    ) -> Result<Response<Body>, Refusal> {
        let options = Self::streams(parameters);
        let exec = v1::ExecRequest {
            container_id: self.running(pod, container).await?,
            cmd: parameters.all("command"),
            tty: options.tty,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr && !options.tty,
        };
        if exec.cmd.is_empty() {
            return Err(Refusal::bad_request("you must specify at least one command"));
        }
        let Some(streaming) = self.streaming.clone() else {
            let url = self.shared.runtime.exec(exec).await.map_err(Refusal::internal)?.url;
            return self.pass_on(request, &url).await;
        };
        let (answer, accepting) = match remotecommand::accept(&mut request, options, &self.shared.supervisor) {
            Ok(accepted) => accepted,
            Err(refusal) => return Ok(*refusal),
        };
        self.shared.supervisor.spawn_abortable("exec", OnFailure::Forget, async move {
            match accepting.streams().await {
                Ok(streams) => join::program(streaming.exec(exec).await, streams).await,
                Err(error) => tracing::debug!(%error, "exec streams"),
            }
        });
        Ok(answer)
    }

    async fn attach(
        &self,
        mut request: Request<Body>,
        pod: &Pod,
        container: &str,
        parameters: &Parameters,
    ) -> Result<Response<Body>, Refusal> {
        let mut options = Self::streams(parameters);
        let tree = pod.container(container).map(|found| found.tree);
        options.tty = tree.and_then(|tree| tree.get("tty")).and_then(Value::as_bool).unwrap_or(false);
        let attach = v1::AttachRequest {
            container_id: self.running(pod, container).await?,
            stdin: options.stdin,
            tty: options.tty,
            stdout: options.stdout,
            stderr: options.stderr && !options.tty,
        };
        let Some(streaming) = self.streaming.clone() else {
            let url = self.shared.runtime.attach(attach).await.map_err(Refusal::internal)?.url;
            return self.pass_on(request, &url).await;
        };
        let (answer, accepting) = match remotecommand::accept(&mut request, options, &self.shared.supervisor) {
            Ok(accepted) => accepted,
            Err(refusal) => return Ok(*refusal),
        };
        self.shared.supervisor.spawn_abortable("attach", OnFailure::Forget, async move {
            match accepting.streams().await {
                Ok(streams) => join::program(streaming.attach(attach).await, streams).await,
                Err(error) => tracing::debug!(%error, "attach streams"),
            }
        });
        Ok(answer)
    }

    async fn port_forward(
        &self,
        mut request: Request<Body>,
        pod: &Pod,
        parameters: &Parameters,
    ) -> Result<Response<Body>, Refusal> {
        let state = self.state(pod).await?;
        let sandbox = state.ready_sandbox().ok_or_else(|| Refusal::not_found("pod is not running"))?.id.clone();
        let Some(streaming) = self.streaming.clone() else {
            let ports = parameters.all("port").iter().filter_map(|port| port.parse().ok()).collect();
            let ask = v1::PortForwardRequest { pod_sandbox_id: sandbox, port: ports };
            let url = self.shared.runtime.port_forward(ask).await.map_err(Refusal::internal)?.url;
            return self.pass_on(request, &url).await;
        };
        let (answer, accepting) = match portforward::accept(&mut request, &self.shared.supervisor) {
            Ok(accepted) => accepted,
            Err(refusal) => return Ok(*refusal),
        };
        let supervisor = self.shared.supervisor.clone();
        self.shared.supervisor.spawn_abortable("port-forward", OnFailure::Forget, async move {
            let mut connections = match accepting.connections().await {
                Ok(connections) => connections,
                Err(error) => return tracing::debug!(%error, "port-forward streams"),
            };
            while let Some(forward) = connections.accept().await {
                let (streaming, sandbox) = (Arc::clone(&streaming), sandbox.clone());
                supervisor.spawn_abortable("forwarded connection", OnFailure::Forget, async move {
                    join::connection(&*streaming, &sandbox, forward).await;
                });
            }
        });
        Ok(answer)
    }

    /// Joins the client to the runtime's own streaming server.
    async fn pass_on(&self, mut request: Request<Body>, url: &str) -> Result<Response<Body>, Refusal> {
        *request.uri_mut() = url.parse().map_err(Refusal::internal)?;
        request.headers_mut().remove(http::header::AUTHORIZATION);
        skiff_net::proxy::upgrade(&self.wire, request, &self.shared.supervisor).await.map_err(Refusal::internal)
    }
}

impl Service for KubeletServer {
    fn call(&self, peer: &Peer, mut request: Request<Body>) -> ServiceFuture<'_> {
        let peer = peer.clone();
        Box::pin(async move {
            let open = request.method() == Method::GET && request.uri().path() == "/healthz";
            if !open && let Err(refusal) = self.guard.check(&self.shared, &peer, &mut request).await {
                return text(refusal.0, refusal.1);
            }
            match self.answer(request).await {
                Ok(answer) => answer,
                Err(Refusal(status, message)) => text(status, message),
            }
        })
    }
}
