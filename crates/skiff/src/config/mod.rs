//! From flags and file to one validated [`Config`]: nothing reads flags, files of settings or the environment after it.
//!
//! All mistakes are told at once, each naming the flag to change.

pub(crate) mod file;
mod flags;

pub(crate) use flags::{Component, Flags};

use crate::components::{apiserver, controller_manager, kubelet, log_directives, proxy, scheduler};
use crate::ports::Listen;
use crate::usage::{UsageError, note};
use clap::ArgMatches;
use clap::parser::ValueSource;
use skiff_controllers::node_ipam::Range;
use skiff_server::authn::token_file::TokenFile;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// Everything decided about a server.
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) node_name: String,
    pub(crate) advertise: IpAddr,
    pub(crate) listen: Listen,
    pub(crate) cluster_domain: String,
    pub(crate) service_cidrs: Vec<String>,
    /// The `kubernetes` Service: the first address of the first network.
    pub(crate) service_ip: IpAddr,
    /// The cluster's DNS: the tenth.
    pub(crate) dns_ip: IpAddr,
    pub(crate) cluster_cidrs: Vec<String>,
    pub(crate) token_file: Option<TokenFile>,
    pub(crate) runtime_config: Vec<(String, bool)>,
    pub(crate) api: apiserver::Options,
    /// `None`: left out.
    pub(crate) scheduler: Option<scheduler::Options>,
    /// `None`: left out.
    pub(crate) controllers: Option<Controllers>,
    /// `None`: left out, and the proxy and DNS with it.
    pub(crate) node: Option<Node>,
    /// Levels of the log.
    pub(crate) log: String,
}

/// The controllers of a server.
pub(crate) struct Controllers {
    pub(crate) options: controller_manager::Options,
    /// Networks of which nodes get parts; none when `--allocate-node-cidrs=false` was said.
    pub(crate) ranges: Vec<Range>,
}

/// The node of a server.
pub(crate) struct Node {
    pub(crate) kubelet: kubelet::Options,
    pub(crate) proxy: Option<proxy::Options>,
    pub(crate) dns: bool,
}

impl Flags {
    /// Keeps which flags were said, on the command line or in the file.
    pub(crate) fn note_asked(&mut self, matches: &ArgMatches) {
        let said = matches.ids().filter(|id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine));
        self.asked = said.map(|id| id.as_str().replace('_', "-")).collect();
    }
}

fn arguments(texts: &[String], flag: &str, mistakes: &mut Vec<String>) -> Vec<String> {
    let read = |text: &String| {
        let bare = text.trim_start_matches('-');
        if bare.split_once('=').is_some_and(|(key, _)| !key.is_empty()) {
            return Ok(format!("--{bare}"));
        }
        Err(format!("--{flag}: {text:?} is not of the form key=value"))
    };
    texts.iter().filter_map(|text| note(read(text), mistakes)).collect()
}

fn token_file(path: &Path) -> Result<TokenFile, String> {
    let name = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("--token-auth-file: cannot read {name}: {error}"))?;
    TokenFile::parse(&text)
        .map_err(|error| format!("--token-auth-file: {name}, {error}; expected token,user,uid,\"group1,group2\""))
}

fn runtime_config(texts: &[String], mistakes: &mut Vec<String>) -> Vec<(String, bool)> {
    let read = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, "true"));
        let on = value.parse().map_err(|_| format!("--runtime-config: {text} has to end in =true or =false"))?;
        Ok::<_, String>((key.to_owned(), on))
    };
    texts.iter().filter_map(|text| note(read(text), mistakes)).collect()
}

/// The host's name as a node's name.
pub(crate) fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = text.trim().to_ascii_lowercase();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// The address that packets to the outside leave from; nothing is sent.
pub(crate) fn default_address() -> IpAddr {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// An address of a network, counted from its first: 1 is `10.96.0.1` of `10.96.0.0/12`.
fn address_of(cidr: (IpAddr, u8), number: u8) -> Option<IpAddr> {
    let bits = u32::from(cidr.1);
    match cidr.0 {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            let found = (u32::from(address) & mask).checked_add(u32::from(number))?;
            (found & mask == u32::from(address) & mask).then(|| IpAddr::from(found.to_be_bytes()))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            let found = (u128::from(address) & mask).checked_add(u128::from(number))?;
            (found & mask == u128::from(address) & mask).then(|| IpAddr::from(found.to_be_bytes()))
        }
    }
}

/// Whether one network holds the other.
fn overlap(one: (IpAddr, u8), other: (IpAddr, u8)) -> bool {
    let bits = one.1.min(other.1);
    match (one.0, other.0) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
            address_of((one.0, bits), 0) == address_of((other.0, bits), 0)
        }
        _ => false,
    }
}

fn networks(flag: &str, texts: &[String], mistakes: &mut Vec<String>) -> Vec<(IpAddr, u8)> {
    if texts.is_empty() {
        mistakes.push(format!("--{flag}: at least one network is needed"));
    }
    let read = texts.iter().map(|text| proxy::cidr(text).map_err(|error| format!("--{flag}: {error}")));
    read.filter_map(|one| note(one, mistakes)).collect()
}

/// A node's name is a DNS subdomain (RFC 1123), because it is an object's.
fn check_node_name(name: &str) -> Result<(), String> {
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
            && bytes.first().copied().is_some_and(plain)
            && bytes.last().copied().is_some_and(plain)
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(());
    }
    Err(format!("--node-name: {name:?} is no name for a node: small letters, digits, '-' and '.' are"))
}

impl Config {
    /// Checks everything; all mistakes are told at once.
    pub(crate) fn new(flags: Flags) -> Result<Self, UsageError> {
        let mut mistakes = Vec::new();
        let services = networks("service-cidr", &flags.service_cidr, &mut mistakes);
        let pods = networks("cluster-cidr", &flags.cluster_cidr, &mut mistakes);
        for service in &services {
            for pod in pods.iter().filter(|pod| overlap(*service, **pod)) {
                let (service, pod) = (format!("{}/{}", service.0, service.1), format!("{}/{}", pod.0, pod.1));
                mistakes.push(format!("--service-cidr {service} and --cluster-cidr {pod} have addresses in common"));
            }
        }
        let primary = services.first().copied().unwrap_or((IpAddr::V4(Ipv4Addr::LOCALHOST), 8));
        let (service_ip, dns_ip) = (address_of(primary, 1), address_of(primary, 10));
        if service_ip.is_none() || dns_ip.is_none() {
            mistakes.push(format!("--service-cidr: {}/{} is too small, at most /28 will do", primary.0, primary.1));
        }
        let node_name = flags.node_name.clone().unwrap_or_else(host_name);
        note(check_node_name(&node_name), &mut mistakes);
        let token_file = flags.token_auth_file.as_deref().and_then(|path| note(token_file(path), &mut mistakes));
        let runtime_config = runtime_config(&flags.runtime_config, &mut mistakes);
        let parts = Parts::read(&flags, &pods, &mut mistakes);
        let (Some(parts), Some(service_ip), Some(dns_ip), true) = (parts, service_ip, dns_ip, mistakes.is_empty())
        else {
            return Err(UsageError(mistakes));
        };
        Ok(Self {
            listen: Listen {
                at: SocketAddr::new(flags.bind_address, flags.secure_port),
                // Everybody who knows this server knows its port: it never moves by itself.
                asked: true,
                flag: "--secure-port".to_owned(),
            },
            advertise: flags.advertise_address.unwrap_or_else(default_address),
            node_name,
            service_ip,
            dns_ip,
            token_file,
            runtime_config,
            log: parts.log(),
            api: parts.api,
            scheduler: parts.scheduler,
            controllers: parts.controllers,
            node: parts.node,
            data_dir: flags.data_dir,
            kubeconfig: flags.write_kubeconfig,
            cluster_domain: flags.cluster_domain,
            service_cidrs: flags.service_cidr,
            cluster_cidrs: flags.cluster_cidr,
        })
    }

    /// Names of the components that are left out, and so may run elsewhere.
    pub(crate) fn left_out(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        if self.scheduler.is_none() {
            names.push("kube-scheduler");
        }
        if self.controllers.is_none() {
            names.push("kube-controller-manager");
        }
        if self.node.as_ref().is_none_or(|node| node.proxy.is_none()) {
            names.push("kube-proxy");
        }
        if self.node.is_none() {
            names.push("kubelet");
        }
        names
    }
}

/// The components' options.
struct Parts {
    api: apiserver::Options,
    scheduler: Option<scheduler::Options>,
    controllers: Option<Controllers>,
    node: Option<Node>,
}

impl Parts {
    fn read(flags: &Flags, pods: &[(IpAddr, u8)], mistakes: &mut Vec<String>) -> Option<Self> {
        let said = |texts, flag, mistakes: &mut Vec<String>| arguments(texts, flag, mistakes);
        let api_arguments = said(&flags.kube_apiserver_arg, "kube-apiserver-arg", mistakes);
        let issuer = format!("https://kubernetes.default.svc.{}", flags.cluster_domain);
        let api = apiserver::Options::in_server(api_arguments, &issuer, mistakes);
        let runs = |component| !flags.disable.contains(&component);
        let unheard = |texts: &[String], flag: &str, runs: bool, mistakes: &mut Vec<String>| {
            if !runs && !texts.is_empty() {
                mistakes.push(format!("--{flag} is said for a component that is left out"));
            }
            runs
        };
        let mut scheduler = None;
        let own = &flags.kube_scheduler_arg;
        if unheard(own, "kube-scheduler-arg", runs(Component::KubeScheduler), mistakes) {
            let own = said(own, "kube-scheduler-arg", mistakes);
            scheduler = scheduler::Options::in_server(own, mistakes);
        }
        let mut controllers = None;
        let own = &flags.kube_controller_manager_arg;
        let run = runs(Component::KubeControllerManager);
        if unheard(own, "kube-controller-manager-arg", run, mistakes) {
            let own = said(own, "kube-controller-manager-arg", mistakes);
            let options = controller_manager::Options::in_server(own, mistakes);
            controllers = options.and_then(|options| {
                let wanted = options.allocate_node_cidrs.unwrap_or(true);
                // A network that is none was told already.
                let sound = pods.len() == flags.cluster_cidr.len();
                let cidrs = if wanted && sound { flags.cluster_cidr.as_slice() } else { &[] };
                let ranges = note(options.mask_sizes.apply(cidrs), mistakes)?;
                Some(Controllers { options, ranges })
            });
        }
        let proxy_runs = !flags.disable_agent && runs(Component::KubeProxy);
        let mut proxy = None;
        if unheard(&flags.kube_proxy_arg, "kube-proxy-arg", proxy_runs, mistakes) {
            let own = said(&flags.kube_proxy_arg, "kube-proxy-arg", mistakes);
            proxy = proxy::Options::in_server(own, mistakes);
            if let Some(options) = &mut proxy {
                options.cluster_cidrs = pods.to_vec();
            }
        }
        let mut node = None;
        if unheard(&flags.kubelet_arg, "kubelet-arg", !flags.disable_agent, mistakes) {
            let own = said(&flags.kubelet_arg, "kubelet-arg", mistakes);
            let kubelet = kubelet::Options::in_server(own, mistakes);
            let dns = runs(Component::Dns);
            node = kubelet.map(|kubelet| Node { kubelet: of_server(kubelet, flags), proxy, dns });
        }
        Some(Self { api: api?, scheduler, controllers, node })
    }

    fn log(&self) -> String {
        let none = 0;
        log_directives(&[
            (&["skiff_server", "skiff_store", "skiff_net"], self.api.verbosity),
            (&["skiff_scheduler"], self.scheduler.as_ref().map_or(none, |part| part.verbosity)),
            (&["skiff_controllers"], self.controllers.as_ref().map_or(none, |part| part.options.verbosity)),
            (
                &["skiff_kubelet", "skiff_runtime", "skiff_cni", "skiff_image"],
                self.node.as_ref().map_or(none, |part| part.kubelet.verbosity),
            ),
            (
                &["skiff_proxy"],
                self.node.as_ref().and_then(|part| part.proxy.as_ref()).map_or(none, |part| part.verbosity),
            ),
        ])
    }
}

/// What the server says for its kubelet by flags of its own.
fn of_server(mut kubelet: kubelet::Options, flags: &Flags) -> kubelet::Options {
    kubelet.listen.at.set_port(flags.kubelet_port);
    kubelet.listen.asked = flags.is_asked("kubelet-port");
    kubelet.listen.flag = "--kubelet-port".to_owned();
    kubelet.runtime_endpoint.clone_from(&flags.container_runtime_endpoint);
    kubelet.static_pods.clone_from(&flags.pod_manifest_path);
    kubelet.cluster_domain = Some(flags.cluster_domain.clone());
    kubelet.data_dir.clone_from(&flags.data_dir);
    kubelet.cluster_cidrs.clone_from(&flags.cluster_cidr);
    kubelet
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    fn config(line: &str) -> Result<Config, Vec<String>> {
        let command = Flags::augment_args(Command::new("server")).no_binary_name(true);
        let matches = command.try_get_matches_from(line.split_whitespace()).unwrap();
        let mut flags = Flags::from_arg_matches(&matches).unwrap();
        flags.note_asked(&matches);
        Config::new(flags).map_err(|error| error.0)
    }

    #[test]
    fn defaults_are_a_whole_node() {
        let config = config("").unwrap();
        assert_eq!((config.service_ip, config.dns_ip), ([10, 96, 0, 1].into(), [10, 96, 0, 10].into()));
        assert!(config.left_out().is_empty());
        let node = config.node.unwrap();
        assert!(node.dns && node.proxy.is_some());
        assert!(!node.kubelet.listen.asked, "the kubelet's default port may move");
        assert!(config.listen.asked, "the API's may not");
    }

    #[test]
    fn what_is_left_out_is_named() {
        let config = config("--disable-agent --disable kube-scheduler").unwrap();
        assert_eq!(config.left_out(), ["kube-scheduler", "kube-proxy", "kubelet"]);
        assert!(config.controllers.is_some());
    }

    #[test]
    fn components_flags_reach_them() {
        let line = "--kube-scheduler-arg leader-elect=false --kube-controller-manager-arg node-cidr-mask-size=26 \
                    --kubelet-arg max-pods=7 --kubelet-port 1234 --kube-apiserver-arg request-timeout=5s \
                    --kube-apiserver-arg v=4";
        let config = config(line).unwrap();
        assert_eq!(config.scheduler.unwrap().election, None);
        assert_eq!(config.controllers.unwrap().ranges[0].node_prefix, 26);
        let kubelet = config.node.unwrap().kubelet;
        assert_eq!((kubelet.max_pods, kubelet.listen.at.port(), kubelet.listen.asked), (7, 1234, true));
        assert_eq!(config.api.front.request_timeout.as_secs(), 5);
        assert_eq!(config.log, "info,skiff_server=debug,skiff_store=debug,skiff_net=debug");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let line = "--service-cidr 10.0.0.0/40 --cluster-cidr 10.244.0.0 --node-name A_b --runtime-config api/all=maybe \
                    --kube-scheduler-arg leader-elect --kubelet-arg max-pods=x --disable kube-proxy --kube-proxy-arg \
                    masquerade-all=true";
        assert_eq!(
            config(line).err().unwrap(),
            [
                "--service-cidr: 10.0.0.0/40 has too many bits",
                "--cluster-cidr: 10.244.0.0 is no network: expected ADDRESS/LENGTH",
                "--node-name: \"A_b\" is no name for a node: small letters, digits, '-' and '.' are",
                "--runtime-config: api/all=maybe has to end in =true or =false",
                "--kube-scheduler-arg: \"leader-elect\" is not of the form key=value",
                "--kube-proxy-arg is said for a component that is left out",
                "--kubelet-arg: invalid argument \"x\" for \"--max-pods\" flag: must be a number",
            ]
        );
        let overlapping = config("--service-cidr 10.0.0.0/8").err().unwrap();
        assert_eq!(
            overlapping,
            ["--service-cidr 10.0.0.0/8 and --cluster-cidr 10.244.0.0/16 have addresses in common"]
        );
    }

    #[test]
    fn addresses_of_a_network() {
        let address = |text: &str, number| address_of(proxy::cidr(text).unwrap(), number).map(|ip| ip.to_string());
        assert_eq!(address("10.96.7.0/12", 1).as_deref(), Some("10.96.0.1"));
        assert_eq!(address("fd00:1::/108", 10).as_deref(), Some("fd00:1::a"));
        assert_eq!(address("10.0.0.0/29", 10), None, "beyond its end");
    }
}
