//! The embedded runtime's question how pods get their network, answered by the built-in pod network.
//!
//! It opens in this order: the runtime has found its pods again and says which live ([`PodNetwork::collect`]); the API has
//! said which addresses this node's pods have; rules and routes are made whole; what belongs to no live pod is freed; only
//! then pods are connected. Until then a new pod waits, and the node says that its network is not ready; a pod that *ends*
//! meanwhile does not wait: it counts as one that does not live.

use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::error::chain;
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::Client;
use skiff_cni::{Cidr, PodNetwork as CniNetwork, PodNetworkConfig, PortMapping, SetupRequest};
use skiff_cri::v1;
use skiff_machinery::Value;
use skiff_runtime::{NetworkError, NetworkFuture, PodNetwork, PodNetworkRequest};
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Name of the network; its rules and links carry it.
pub(crate) const NAME: &str = "skiff";
/// The link inside of a pod.
pub(crate) const IFNAME: &str = "eth0";

enum State {
    Waiting {
        /// Sandboxes that live, once they are known.
        live: Option<Vec<String>>,
        /// Sandboxes that have ended since.
        ended: Vec<String>,
    },
    Open(Arc<CniNetwork>),
}

/// The built-in pod network.
pub(crate) struct NodeNetwork {
    state: Arc<Mutex<State>>,
    /// The live sandboxes have been told.
    told: Arc<Notify>,
}

/// Where the network keeps its records, and all nodes' networks.
#[derive(Clone)]
pub(crate) struct Place {
    /// Records of addresses.
    pub(crate) data_dir: PathBuf,
    /// Networks of all pods.
    pub(crate) cluster_cidrs: Vec<String>,
}

fn protocol(protocol: i32) -> u8 {
    match v1::Protocol::try_from(protocol) {
        Ok(v1::Protocol::Udp) => 17,
        Ok(v1::Protocol::Sctp) => 132,
        _ => 6,
    }
}

fn cidrs(list: &[String]) -> Result<Vec<Cidr>, String> {
    list.iter().map(|text| text.parse::<Cidr>().map_err(|error| format!("{text}: {error}"))).collect()
}

/// Opens it, makes the node whole and frees what belongs to no live sandbox. Blocking.
fn open(place: &Place, ranges: &[String], live: &[String]) -> Result<CniNetwork, String> {
    let config = PodNetworkConfig {
        name: NAME.to_owned(),
        ranges: cidrs(ranges)?,
        cluster_cidrs: cidrs(&place.cluster_cidrs)?,
        mtu: 0,
        masquerade: true,
        data_dir: place.data_dir.clone(),
    };
    let network = CniNetwork::open(config).map_err(|error| chain(&error))?;
    let live: Vec<(String, String)> = live.iter().map(|id| (id.clone(), IFNAME.to_owned())).collect();
    // Before the host ports of what is recorded are put back: a dead pod's would be among them.
    let freed = network.collect(&live).map_err(|error| chain(&error))?;
    if freed > 0 {
        tracing::warn!(freed, "freed networks of pods that are gone");
    }
    network.prepare_node().map_err(|error| chain(&error))?;
    Ok(network)
}

impl NodeNetwork {
    /// A network that begins as soon as `ranges` says which addresses this node's pods have.
    pub(crate) fn new(
        place: Place,
        ranges: impl Future<Output = Vec<String>> + Send + 'static,
        clock: SharedClock,
        supervisor: &Supervisor,
    ) -> Self {
        let state = Arc::new(Mutex::new(State::Waiting { live: None, ended: Vec::new() }));
        let told = Arc::new(Notify::new());
        let (opening, heard) = (Arc::clone(&state), Arc::clone(&told));
        supervisor.spawn_abortable("pod network", OnFailure::Forget, async move {
            heard.notified().await;
            let ranges = ranges.await;
            loop {
                match begin(&opening, &place, &ranges).await {
                    Ok(network) => break keep_whole(&network, &clock).await,
                    Err(error) => tracing::warn!(error, "the pod network tries again"),
                }
                clock.sleep(Duration::from_secs(2)).await;
            }
        });
        Self { state, told }
    }

    fn opened(&self) -> Result<Arc<CniNetwork>, NetworkError> {
        match &*self.state.lock() {
            State::Open(network) => Ok(Arc::clone(network)),
            State::Waiting { .. } => Err(NetworkError("the node has no part of the pods' range yet".to_owned())),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(format!("a step of the pod network ended early: {error}")),
    }
}

async fn begin(state: &Mutex<State>, place: &Place, ranges: &[String]) -> Result<Arc<CniNetwork>, String> {
    let live = match &*state.lock() {
        State::Waiting { live, .. } => live.clone().unwrap_or_default(),
        State::Open(network) => return Ok(Arc::clone(network)),
    };
    let (place, ranges) = (place.clone(), ranges.to_vec());
    let network = Arc::new(blocking(move || open(&place, &ranges, &live)).await?);
    let before = std::mem::replace(&mut *state.lock(), State::Open(Arc::clone(&network)));
    if let State::Waiting { ended, .. } = before {
        for sandbox in ended {
            let network = Arc::clone(&network);
            let name = sandbox.clone();
            if let Err(error) =
                blocking(move || network.teardown(&sandbox, IFNAME).map_err(|error| chain(&error))).await
            {
                // The next start frees it.
                tracing::warn!(sandbox = name, error, "the network of a pod that has ended is not freed");
            }
        }
    }
    Ok(network)
}

/// Puts rules and routes of running pods back when somebody has flushed them. Never ends.
async fn keep_whole(network: &Arc<CniNetwork>, clock: &SharedClock) {
    loop {
        clock.sleep(Duration::from_secs(2)).await;
        let network = Arc::clone(network);
        match blocking(move || network.heal().map_err(|error| chain(&error))).await {
            Ok(false) => (),
            Ok(true) => tracing::warn!("rules or routes of pods were gone and have been put back"),
            Err(error) => tracing::warn!(error, "rules or routes of pods cannot be put back"),
        }
    }
}

/// Waits until the API says which part of the pods' range a node has.
pub(crate) async fn ranges_of(client: Client, node_name: String, clock: SharedClock) -> Vec<String> {
    loop {
        match client.all("", "v1", "nodes").fetch_optional(&node_name).await {
            Ok(Some(node)) => {
                let ranges = node.items_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
                let ranges: Vec<String> = ranges.map(str::to_owned).collect();
                if !ranges.is_empty() {
                    return ranges;
                }
            }
            Ok(None) => (),
            Err(error) => tracing::debug!(%error, "the node's pod range is asked for again"),
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
}

fn connect(network: &CniNetwork, request: &PodNetworkRequest) -> Result<Vec<IpAddr>, String> {
    let port = |port: &v1::PortMapping| PortMapping {
        host_port: u16::try_from(port.host_port).unwrap_or(0),
        container_port: u16::try_from(port.container_port).unwrap_or(0),
        protocol: protocol(port.protocol),
        host_ip: port.host_ip.parse().ok(),
    };
    let ports: Vec<PortMapping> = request.port_mappings.iter().map(port).collect();
    let setup =
        SetupRequest { container_id: &request.sandbox_id, netns: &request.netns, ifname: IFNAME, ports: &ports };
    network.setup(&setup).map(|interface| interface.ips).map_err(|error| chain(&error))
}

impl PodNetwork for NodeNetwork {
    fn setup(&self, request: PodNetworkRequest) -> NetworkFuture<'_, Vec<IpAddr>> {
        let opened = self.opened();
        Box::pin(async move {
            let network = opened?;
            blocking(move || connect(&network, &request)).await.map_err(NetworkError)
        })
    }

    fn teardown(&self, request: PodNetworkRequest) -> NetworkFuture<'_, ()> {
        let opened = match &mut *self.state.lock() {
            State::Open(network) => Some(Arc::clone(network)),
            State::Waiting { ended, .. } => {
                ended.push(request.sandbox_id.clone());
                None
            }
        };
        Box::pin(async move {
            let Some(network) = opened else { return Ok(()) };
            let torn = blocking(move || network.teardown(&request.sandbox_id, IFNAME).map_err(|error| chain(&error)));
            torn.await.map_err(NetworkError)
        })
    }

    fn collect(&self, sandboxes: Vec<String>) -> NetworkFuture<'_, ()> {
        if let State::Waiting { live, .. } = &mut *self.state.lock() {
            *live = Some(sandboxes);
        }
        self.told.notify_one();
        Box::pin(std::future::ready(Ok(())))
    }

    fn ready(&self) -> Result<(), NetworkError> {
        self.opened().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::clock::SystemClock;
    use skiff_linux::netlink::netns::NetNs;
    use skiff_linux::netlink::route::RouteSocket;
    use std::path::Path;

    /// Addresses that are recorded.
    fn recorded(place: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(place.join(NAME)).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }

    fn request(id: &str, netns: &NetNs, host_port: i32) -> PodNetworkRequest {
        let port = v1::PortMapping { host_port, container_port: 80, ..Default::default() };
        PodNetworkRequest {
            sandbox_id: id.to_owned(),
            netns: netns.proc_path(),
            port_mappings: vec![port],
            ..PodNetworkRequest::default()
        }
    }

    async fn until(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(std::time::Instant::now() < deadline, "{what}");
            SystemClock::shared().sleep(Duration::from_millis(5)).await;
        }
    }

    fn network(place: &Place, tasks: &Supervisor, ranges: tokio::sync::oneshot::Receiver<()>) -> NodeNetwork {
        let ranges = async move {
            drop(ranges.await);
            vec!["10.244.9.0/24".to_owned()]
        };
        NodeNetwork::new(place.clone(), ranges, SystemClock::shared(), tasks)
    }

    /// The test below, in a network namespace of its own: calls act on that of the process.
    async fn in_own_namespace(dir: &Path) {
        let place = Place { data_dir: dir.to_owned(), cluster_cidrs: vec!["10.244.0.0/16".to_owned()] };
        let links = || RouteSocket::open().unwrap().links().unwrap().iter().filter(|l| l.name != "lo").count();
        let (stays, leaks, ends) = (NetNs::create().unwrap(), NetNs::create().unwrap(), NetNs::create().unwrap());

        let tasks = Supervisor::new("first");
        let (go, ranges) = tokio::sync::oneshot::channel();
        let first = network(&place, &tasks, ranges);
        go.send(()).unwrap();
        assert!(first.ready().is_err(), "not before the live sandboxes are told");
        first.collect(Vec::new()).await.unwrap();
        until("it opens", || first.ready().is_ok()).await;
        first.setup(request("stays", &stays, 8080)).await.unwrap();
        first.setup(request("leaks", &leaks, 8081)).await.unwrap();
        first.setup(request("ends", &ends, 8082)).await.unwrap();
        assert_eq!((recorded(dir).len(), links()), (3, 3));
        tasks.shutdown(Duration::from_secs(5)).await;
        drop(first);

        // A new start that has lost one sandbox; another ends before the API says anything.
        let tasks = Supervisor::new("second");
        let (go, ranges) = tokio::sync::oneshot::channel();
        let second = network(&place, &tasks, ranges);
        second.collect(vec!["stays".to_owned(), "ends".to_owned()]).await.unwrap();
        second.teardown(request("ends", &ends, 8082)).await.unwrap();
        assert!(second.setup(request("new", &ends, 8083)).await.is_err(), "no range yet");
        assert_eq!(recorded(dir).len(), 3);
        go.send(()).unwrap();
        until("one pod is left", || recorded(dir).len() == 1 && links() == 1).await;
        // The leaked host port is free again, the live one is not.
        second.setup(request("new", &leaks, 8081)).await.unwrap();
        let error = second.setup(request("late", &ends, 8080)).await.unwrap_err().to_string();
        assert_eq!(error, "a host port of the pod is already taken: 8080");
        tasks.shutdown(Duration::from_secs(5)).await;
    }

    #[test]
    fn what_leaked_is_freed_at_a_start() {
        if let Ok(dir) = std::env::var("SKIFF_TEST_NETWORK_DIR") {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            return runtime.block_on(in_own_namespace(Path::new(&dir)));
        }
        let node = match NetNs::create() {
            Ok(node) => node,
            Err(error) => return println!("skipped: no network namespaces here: {error}"),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "node_network::tests::what_leaked_is_freed_at_a_start"]);
        again.env("SKIFF_TEST_NETWORK_DIR", dir.path());
        let output = node.run(move || again.output()).unwrap().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
    }
}
