//! What goes over the wire: results and errors of the CNI specification, versions 0.3.1 to 1.1.0.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Newest version spoken.
pub const CURRENT_VERSION: &str = "1.1.0";
/// All versions spoken, oldest first.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Whether `version` is at least `other`; both of [`SUPPORTED_VERSIONS`].
pub fn at_least(version: &str, other: &str) -> bool {
    let place = |v| SUPPORTED_VERSIONS.iter().position(|s| *s == v);
    place(version).is_some_and(|v| Some(v) >= place(other))
}

/// Error codes of the specification.
pub mod code {
    /// The version of the configuration is not spoken.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is not known or gone.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A needed environment variable is absent or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// Input could not be decoded.
    pub const DECODING_FAILURE: u32 = 6;
    /// The configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// It may work later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// The plugin cannot serve ADD now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Anything else, of ours.
    pub const INTERNAL: u32 = 999;
}

/// The error object a plugin prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}", if details.is_empty() { String::new() } else { format!("; {details}") })]
pub struct CniError {
    /// Version of the answer.
    #[serde(rename = "cniVersion", default)]
    pub cni_version: String,
    /// See [`code`].
    #[serde(default)]
    pub code: u32,
    /// Short.
    #[serde(default)]
    pub msg: String,
    /// Long.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// An error of the current version.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { cni_version: CURRENT_VERSION.into(), code, msg: msg.into(), details: String::new() }
    }
}

/// The result of ADD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniResult {
    /// Version of the form.
    #[serde(rename = "cniVersion", default)]
    pub cni_version: String,
    /// Links made, on the host and in the sandbox.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    /// Routes set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name servers; kept as it came.
    #[serde(default, skip_serializing_if = "is_empty_object")]
    pub dns: Value,
}

fn is_empty_object(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|o| o.is_empty())
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU (1.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of the namespace; empty: the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// `4` or `6`, in versions before 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Address and prefix length.
    pub address: String,
    /// Default gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into the interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
}

impl IpConfig {
    /// The address without its prefix length.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.split('/').next()?.parse().ok()
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: String,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

impl CniResult {
    /// The same in another version's form.
    pub fn in_version(mut self, version: &str) -> Self {
        let old = !at_least(version, "1.0.0");
        for ip in &mut self.ips {
            let family = if ip.ip().is_some_and(|ip| ip.is_ipv6()) { "6" } else { "4" };
            ip.version = old.then(|| family.to_owned());
        }
        if !at_least(version, "1.1.0") {
            self.interfaces.iter_mut().for_each(|i| i.mtu = None);
        }
        self.cni_version = version.to_owned();
        self
    }
}
