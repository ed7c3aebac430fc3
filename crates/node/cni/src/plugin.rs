//! The plugin's side of the contract for `"type": "skiff"`: JSON in, JSON or an error object out. Called in process by
//! [`crate::caller`], and by [`main`] under `CNI_COMMAND` as any other plugin.
//!
//! ```json
//! { "type": "skiff", "podCIDRs": ["10.244.0.0/24"], "clusterCIDRs": ["10.244.0.0/16"],
//!   "mtu": 0, "masquerade": true, "dataDir": "/var/lib/cni/networks", "capabilities": { "portMappings": true } }
//! ```

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cidr::Cidr;
use crate::config::{NetworkConfig, is_identifier, is_interface_name};
use crate::pod::{PodInterface, PodNetwork, PodNetworkConfig, PodNetworkError, PortMapping, SetupRequest};
use crate::types::{
    CURRENT_VERSION, CniError, CniResult, Interface, IpConfig, Route, SUPPORTED_VERSIONS, at_least, code,
};

/// The name by which lists ask for it.
pub const TYPE: &str = "skiff";

/// The network list of this plugin alone, for a node without any in `/etc/cni/net.d`; its `bytes` can be written there.
pub fn network_list(config: &PodNetworkConfig) -> NetworkConfig {
    let list = json!({
        "cniVersion": CURRENT_VERSION,
        "name": config.name,
        "plugins": [{
            "type": TYPE,
            "podCIDRs": config.ranges,
            "clusterCIDRs": config.cluster_cidrs,
            "mtu": config.mtu,
            "masquerade": config.masquerade,
            "dataDir": config.data_dir,
            "capabilities": { "portMappings": true },
        }],
    });
    NetworkConfig::parse(list.to_string().as_bytes(), "(built in)").expect("what we write we read")
}

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Give a network.
    Add,
    /// Take it away.
    Del,
    /// Is it as it was given?
    Check,
    /// Free what belongs to nobody.
    Gc,
    /// Can ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Command {
    /// As in the environment.
    pub fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|c| c.word() == word)
    }
}

/// The environment of a call.
#[derive(Debug, Clone, Default)]
pub struct Call<'a> {
    /// `CNI_CONTAINERID`.
    pub container_id: &'a str,
    /// `CNI_NETNS`.
    pub netns: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    cni_version: String,
    name: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<Cidr>,
    #[serde(rename = "clusterCIDRs", default)]
    cluster_cidrs: Vec<Cidr>,
    #[serde(default)]
    mtu: u32,
    #[serde(default = "yes")]
    masquerade: bool,
    #[serde(default = "default_data_dir")]
    data_dir: PathBuf,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(rename = "cni.dev/valid-attachments", default)]
    valid_attachments: Vec<ValidAttachment>,
    #[serde(default)]
    prev_result: Option<Value>,
}

fn yes() -> bool {
    true
}

fn default_data_dir() -> PathBuf {
    "/var/lib/cni/networks".into()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    port_mappings: Vec<WirePort>,
    bandwidth: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePort {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// One call. `Ok(None)`: success without output.
pub fn execute(command: Command, call: &Call<'_>, config: &[u8]) -> Result<Option<Value>, CniError> {
    if command == Command::Version {
        return Ok(Some(json!({ "cniVersion": CURRENT_VERSION, "supportedVersions": SUPPORTED_VERSIONS })));
    }
    let config: Config = serde_json::from_slice(config)
        .map_err(|e| CniError::new(code::DECODING_FAILURE, format!("error parsing network configuration: {e}")))?;
    let fail = |mut e: CniError| {
        e.cni_version = config.cni_version.clone();
        e
    };
    if !SUPPORTED_VERSIONS.contains(&config.cni_version.as_str()) {
        let msg = format!(
            "incompatible CNI versions: config is {:?}, plugin supports {SUPPORTED_VERSIONS:?}",
            config.cni_version
        );
        return Err(CniError::new(code::INCOMPATIBLE_VERSION, msg));
    }
    check_config(&config).map_err(fail)?;
    check_environment(command, call).map_err(fail)?;
    let network = PodNetwork::open(PodNetworkConfig {
        name: config.name.clone(),
        ranges: config.pod_cidrs.clone(),
        cluster_cidrs: config.cluster_cidrs.clone(),
        mtu: config.mtu,
        masquerade: config.masquerade,
        data_dir: config.data_dir.clone(),
    })
    .map_err(|e| fail(to_wire(&e)))?;
    let outcome = match command {
        Command::Add => {
            if config.prev_result.is_some() {
                let msg = "the skiff plugin makes the pod's first link: it must be the first of its list";
                return Err(fail(CniError::new(code::INVALID_CONFIG, msg)));
            }
            let ports = port_mappings(&config.runtime_config.port_mappings).map_err(fail)?;
            let request = SetupRequest {
                container_id: call.container_id,
                netns: Path::new(call.netns),
                ifname: call.ifname,
                ports: &ports,
            };
            network.setup(&request).map(|made| {
                let result = to_result(&made, call).in_version(&config.cni_version);
                Some(serde_json::to_value(result).expect("a result is JSON"))
            })
        }
        Command::Del => network.teardown(call.container_id, call.ifname).map(|()| None),
        Command::Check => network.check(call.container_id, Path::new(call.netns), call.ifname).map(|()| None),
        Command::Gc => {
            let live: Vec<_> =
                config.valid_attachments.iter().map(|a| (a.container_id.clone(), a.ifname.clone())).collect();
            network.collect(&live).map(|_| None)
        }
        Command::Status => network.prepare_node().map(|()| None),
        Command::Version => Ok(None),
    };
    outcome.map_err(|e| fail(to_wire(&e)))
}

fn check_config(config: &Config) -> Result<(), CniError> {
    let invalid = |msg: String| Err(CniError::new(code::INVALID_CONFIG, msg));
    if !is_identifier(&config.name) {
        return invalid(format!("invalid network name {:?}", config.name));
    }
    let families: Vec<_> = config.pod_cidrs.iter().map(Cidr::is_ipv4).collect();
    if families.is_empty() || families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        return invalid("podCIDRs must hold one range, or one of each family".into());
    }
    if config.mtu != 0 && !(576..=65535).contains(&config.mtu) {
        return invalid(format!("mtu {} is out of range", config.mtu));
    }
    if config.runtime_config.bandwidth.as_ref().is_some_and(|b| b.as_object().is_some_and(|o| !o.is_empty())) {
        return Err(CniError::new(code::UNSUPPORTED_FIELD, "bandwidth is not supported by the skiff plugin"));
    }
    Ok(())
}

fn check_environment(command: Command, call: &Call<'_>) -> Result<(), CniError> {
    let invalid = |msg: String| Err(CniError::new(code::INVALID_ENVIRONMENT, msg));
    if !matches!(command, Command::Add | Command::Del | Command::Check) {
        return Ok(());
    }
    if !is_identifier(call.container_id) {
        return invalid(format!("invalid CNI_CONTAINERID {:?}", call.container_id));
    }
    if !is_interface_name(call.ifname) {
        return invalid(format!("invalid CNI_IFNAME {:?}", call.ifname));
    }
    if command != Command::Del && call.netns.is_empty() {
        return invalid("required env variables [CNI_NETNS] missing".into());
    }
    Ok(())
}

fn port_mappings(wire: &[WirePort]) -> Result<Vec<PortMapping>, CniError> {
    let invalid = |msg: String| CniError::new(code::INVALID_CONFIG, msg);
    let mut ports = Vec::with_capacity(wire.len());
    for port in wire.iter().filter(|p| p.host_port != 0) {
        let number =
            |n: i64| u16::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| invalid(format!("invalid port {n}")));
        let protocol = match port.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            other => return Err(invalid(format!("invalid protocol {other:?}"))),
        };
        let host_ip = match port.host_ip.as_str() {
            "" => None,
            text => {
                let ip: IpAddr = text.parse().map_err(|_| invalid(format!("invalid hostIP {text:?}")))?;
                // 0.0.0.0 and :: mean every address of that family.
                (!ip.is_unspecified()).then_some(ip)
            }
        };
        let (host_port, container_port) = (number(port.host_port)?, number(port.container_port)?);
        ports.push(PortMapping { host_port, container_port, protocol, host_ip });
    }
    Ok(ports)
}

fn to_wire(error: &PodNetworkError) -> CniError {
    let code = match error {
        e if e.is_full() => code::TRY_AGAIN_LATER,
        PodNetworkError::Namespace(_) => code::UNKNOWN_CONTAINER,
        PodNetworkError::Sysctl { .. } | PodNetworkError::Address(_) => code::IO_FAILURE,
        _ => code::INTERNAL,
    };
    let mut msg = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        msg = format!("{msg}: {inner}");
        source = inner.source();
    }
    CniError::new(code, msg)
}

fn to_result(made: &PodInterface, call: &Call<'_>) -> CniResult {
    let mac = |mac: [u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
    let near = Interface {
        name: made.host_ifname.clone(),
        mac: mac(made.host_mac),
        mtu: Some(made.mtu),
        sandbox: String::new(),
    };
    let far =
        Interface { name: call.ifname.into(), mac: mac(made.mac), mtu: Some(made.mtu), sandbox: call.netns.into() };
    let each = || made.ips.iter().zip(&made.gateways);
    CniResult {
        cni_version: CURRENT_VERSION.into(),
        interfaces: vec![near, far],
        ips: each()
            .map(|(ip, gateway)| IpConfig {
                version: None,
                address: format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }),
                gateway: Some(*gateway),
                interface: Some(1),
            })
            .collect(),
        routes: each()
            .map(|(ip, gateway)| Route {
                dst: if ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.into(),
                gw: Some(*gateway),
            })
            .collect(),
        dns: Value::Null,
    }
}

/// The executable form: environment and standard input in, standard output out; the exit status.
pub fn main(env: impl Fn(&str) -> Option<String>, stdin: &mut dyn Read, stdout: &mut dyn Write) -> i32 {
    let outcome = run(env, stdin);
    let (status, output) = match outcome {
        Ok(None) => return 0,
        Ok(Some(value)) => (0, value),
        Err(error) => (1, serde_json::to_value(error).expect("an error is JSON")),
    };
    match writeln!(stdout, "{output}").and_then(|()| stdout.flush()) {
        Ok(()) => status,
        Err(_) => 1, // nobody reads: the status is all that can be told
    }
}

fn run(env: impl Fn(&str) -> Option<String>, stdin: &mut dyn Read) -> Result<Option<Value>, CniError> {
    let word = env("CNI_COMMAND").unwrap_or_default();
    let Some(command) = Command::parse(&word) else {
        let msg = if word.is_empty() {
            "CNI_COMMAND env variable missing".into()
        } else {
            format!("unknown CNI_COMMAND: {word}")
        };
        return Err(CniError::new(code::INVALID_ENVIRONMENT, msg));
    };
    let mut config = Vec::new();
    // A configuration is small; a megabyte is a mistake or an attack.
    let read = stdin.take(1 << 20).read_to_end(&mut config);
    read.map_err(|e| CniError::new(code::IO_FAILURE, format!("error reading from stdin: {e}")))?;
    let get = |name| env(name).unwrap_or_default();
    let (container_id, netns, ifname) = (get("CNI_CONTAINERID"), get("CNI_NETNS"), get("CNI_IFNAME"));
    let call = Call { container_id: &container_id, netns: &netns, ifname: &ifname };
    execute(command, &call, &config)
}

/// Whether a list in that version may be asked to GC and STATUS.
pub(crate) fn has_gc(version: &str) -> bool {
    at_least(version, "1.1.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(env: &[(&str, &str)], stdin: &str) -> (i32, Value) {
        let get = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let mut out = Vec::new();
        let status = main(get, &mut stdin.as_bytes(), &mut out);
        (status, serde_json::from_slice(&out).unwrap_or(Value::Null))
    }

    #[test]
    fn versions_are_told() {
        let (status, out) = call(&[("CNI_COMMAND", "VERSION")], "");
        assert_eq!(status, 0);
        assert!(out["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")));
    }

    #[test]
    fn bad_calls_get_the_code_of_the_specification() {
        let add =
            |id, name| vec![("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", id), ("CNI_IFNAME", name), ("CNI_NETNS", "/x")];
        let config = |extra: &str| {
            format!(r#"{{"cniVersion":"1.1.0","name":"n","type":"skiff","podCIDRs":["10.0.0.0/24"]{extra}}}"#)
        };
        for (env, stdin, code) in [
            (vec![], String::new(), 4),
            (vec![("CNI_COMMAND", "EAT")], String::new(), 4),
            (add("a", "eth0"), "{".into(), 6),
            (add("a", "eth0"), config("").replace("1.1.0", "7.0.0"), 1),
            (add("../a", "eth0"), config(""), 4),
            (add("a", "eth/0"), config(""), 4),
            (add("a", "a-name-far-too-long"), config(""), 4),
            (add("a", "eth0"), config("").replace("10.0.0.0/24", "10.0.0.0/64"), 6),
            (add("a", "eth0"), config(r#","runtimeConfig":{"bandwidth":{"ingressRate":1}}"#), 2),
            (add("a", "eth0"), config(r#","mtu":7"#), 7),
            (add("a", "eth0"), config("").replace(r#"["10.0.0.0/24"]"#, "[]"), 7),
        ] {
            let (status, out) = call(&env, &stdin);
            assert_eq!((status, out["code"].as_u64()), (1, Some(code)), "{env:?} {stdin} {out}");
            assert!(!out["msg"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn the_built_in_list_is_what_the_plugin_takes() {
        let config = PodNetworkConfig {
            name: "skiff".into(),
            ranges: vec!["10.244.0.0/24".parse().unwrap()],
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            mtu: 0,
            masquerade: true,
            data_dir: "/var/lib/cni/networks".into(),
        };
        let list = network_list(&config);
        assert_eq!((list.plugins[0].kind.as_str(), list.cni_version.as_str()), (TYPE, CURRENT_VERSION));
        assert_eq!(list.plugins[0].capabilities, ["portMappings"]);
        let mut one = list.plugins[0].config.clone();
        one.insert("name".into(), "skiff".into());
        one.insert("cniVersion".into(), CURRENT_VERSION.into());
        let read: Config = serde_json::from_value(one.into()).unwrap();
        assert_eq!((read.pod_cidrs, read.cluster_cidrs), (config.ranges, config.cluster_cidrs));
        assert_eq!(NetworkConfig::parse(&list.bytes, "x").unwrap(), list);
    }

    #[test]
    fn ports_are_checked() {
        let port = |p: Value| port_mappings(&[serde_json::from_value(p).unwrap()]);
        let good =
            port(json!({"hostPort": 80, "containerPort": 8080, "protocol": "UDP", "hostIP": "0.0.0.0"})).unwrap();
        assert_eq!(good, [PortMapping { host_port: 80, container_port: 8080, protocol: 17, host_ip: None }]);
        assert!(port(json!({"hostPort": 0, "containerPort": 8080})).unwrap().is_empty());
        assert!(port(json!({"hostPort": 70000, "containerPort": 8080})).is_err());
        assert!(port(json!({"hostPort": 80, "containerPort": 8080, "protocol": "icmp"})).is_err());
        assert!(port(json!({"hostPort": 80, "containerPort": 8080, "hostIP": "x"})).is_err());
    }
}
