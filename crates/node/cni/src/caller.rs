//! The runtime's side of the contract: libcni's behaviour for one network.
//!
//! ADD runs the plugins in order, each given the result of the one before; DEL runs them backwards with the result that
//! ADD left in the cache, and with the configuration of that time, so a changed or removed file under a running pod
//! does not leak its network. The cache's form is libcni's (`cniCacheV1`).
//!
//! Mirrors upstream libcni/api.go (`addNetwork`, `DelNetworkList`, `GCNetworkList`).

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use crate::config::{ConfigError, NetworkConfig, Plugin, is_identifier};
use crate::exec;
use crate::plugin::{self, Call, Command};
use crate::types::{CniError, CniResult};

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum CallerError {
    /// There is no usable network list.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A plugin is in none of the directories.
    #[error("failed to find plugin {kind:?} in path [{}]", dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(" "))]
    NotFound {
        /// Its type.
        kind: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// A plugin refused or failed.
    #[error("plugin type={kind:?} name={network:?} failed ({}): {source}", verb.to_lowercase())]
    Plugin {
        /// Its type.
        kind: String,
        /// Of which network.
        network: String,
        /// Which command.
        verb: &'static str,
        /// Its error object.
        #[source]
        source: Box<CniError>,
    },
    /// The result is not one.
    #[error("result of network {network:?} is not usable: {reason}")]
    Result {
        /// Which network.
        network: String,
        /// Why.
        reason: String,
    },
    /// The cache of results failed.
    #[error("{step} {}", path.display())]
    Cache {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A name that would leave its directory.
    #[error("invalid {what} {value:?}")]
    Name {
        /// Of what.
        what: &'static str,
        /// The name.
        value: String,
    },
}

impl CallerError {
    /// The plugin's code, if a plugin failed.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Plugin { source, .. } => Some(source.code),
            _ => None,
        }
    }
}

/// One pod's wish.
#[derive(Debug, Clone, Default)]
pub struct NetworkRequest {
    /// Sandbox id.
    pub container_id: String,
    /// Path of its network namespace; may be empty for DEL.
    pub netns: PathBuf,
    /// Link name inside, `eth0`.
    pub ifname: String,
    /// `CNI_ARGS`; runtimes give `IgnoreUnknown=1`, `K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_INFRA_CONTAINER_ID`,
    /// `K8S_POD_UID`.
    pub args: Vec<(String, String)>,
    /// `portMappings`, `dns`, ...: each plugin is told those that it declares.
    pub capabilities: Map<String, Value>,
}

/// A live attachment, for garbage collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Sandbox id.
    pub container_id: String,
    /// Link name inside.
    pub ifname: String,
}

/// The caller.
#[derive(Debug, Clone)]
pub struct Cni {
    /// Network lists, usually `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Plugin executables, usually `/opt/cni/bin`.
    pub bin_dirs: Vec<PathBuf>,
    /// Results, usually `/var/lib/cni`.
    pub cache_dir: PathBuf,
}

impl Cni {
    /// The network that pods get. Read again for each pod: a file put there later is found.
    pub fn default_network(&self) -> Result<NetworkConfig, CallerError> {
        Ok(NetworkConfig::load(&self.conf_dir)?)
    }

    /// Gives a pod its network. When a plugin fails the caller must call [`Cni::del`], as with libcni.
    pub fn add(&self, network: &NetworkConfig, request: &NetworkRequest) -> Result<CniResult, CallerError> {
        let cache = self.cache_path(network, request)?;
        let mut result: Option<Value> = None;
        for one in &network.plugins {
            let answer = self.call(Command::Add, network, one, request, result.as_ref(), &[])?;
            result = answer.or(result);
        }
        let bad = |reason: String| CallerError::Result { network: network.name.clone(), reason };
        let value = result.ok_or_else(|| bad("no plugin gave one".into()))?;
        let parsed: CniResult = serde_json::from_value(value.clone()).map_err(|e| bad(e.to_string()))?;
        self.store(&cache, network, request, &value)?;
        Ok(parsed)
    }

    /// Takes a pod's network away. Safe to call twice, and for a pod that never had one.
    pub fn del(&self, network: &NetworkConfig, request: &NetworkRequest) -> Result<(), CallerError> {
        let cache = self.cache_path(network, request)?;
        let (then, result) = match self.cached(&cache)? {
            Some((config, result)) => (config.unwrap_or_else(|| network.clone()), Some(result)),
            None => (network.clone(), None),
        };
        for one in then.plugins.iter().rev() {
            self.call(Command::Del, &then, one, request, result.as_ref(), &[])?;
        }
        remove_cached(&cache)
    }

    /// Takes every cached attachment of a container away, whatever network it was on and whether or not any network
    /// list is left.
    pub fn del_cached(&self, container_id: &str) -> Result<usize, CallerError> {
        let mut count = 0;
        for (path, entry) in self.cache_entries()? {
            if entry["containerId"] != container_id {
                continue;
            }
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let Some((Some(network), _)) = self.cached(&path)? else { continue };
            let request = NetworkRequest {
                container_id: text("containerId"),
                netns: text("netns").into(),
                ifname: text("ifName"),
                args: Vec::new(),
                capabilities: entry["capabilityArgs"].as_object().cloned().unwrap_or_default(),
            };
            self.del(&network, &request)?;
            count += 1;
        }
        Ok(count)
    }

    /// Whether a pod's network still is as ADD left it.
    pub fn check(&self, network: &NetworkConfig, request: &NetworkRequest) -> Result<(), CallerError> {
        if network.disable_check || !network.at_least("0.4.0") {
            return Ok(());
        }
        let cached = self.cached(&self.cache_path(network, request)?)?;
        let Some((_, result)) = cached else {
            let reason = format!("no cached result for container {}", request.container_id);
            return Err(CallerError::Result { network: network.name.clone(), reason });
        };
        for one in &network.plugins {
            self.call(Command::Check, network, one, request, Some(&result), &[])?;
        }
        Ok(())
    }

    /// Frees what belongs to none of `live`: first DEL for every cached attachment that is gone, as libcni does, then
    /// GC to each plugin (version 1.1). Every plugin is called, and the first failure told.
    pub fn gc(&self, network: &NetworkConfig, live: &[Attachment]) -> Result<(), CallerError> {
        if network.disable_gc {
            return Ok(());
        }
        let mut first: Result<(), CallerError> = Ok(());
        for (_, entry) in self.cache_entries()? {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let (container_id, ifname) = (text("containerId"), text("ifName"));
            if entry["networkName"] != network.name.as_str()
                || live.iter().any(|a| a.container_id == container_id && a.ifname == ifname)
            {
                continue;
            }
            let capabilities = entry["capabilityArgs"].as_object().cloned().unwrap_or_default();
            let request =
                NetworkRequest { container_id, netns: text("netns").into(), ifname, args: vec![], capabilities };
            first = first.and(self.del(network, &request));
        }
        if plugin::has_gc(&network.cni_version) {
            for one in &network.plugins {
                let none = NetworkRequest::default();
                first = first.and(self.call(Command::Gc, network, one, &none, None, live).map(drop));
            }
        }
        first
    }

    /// Whether ADD can be served.
    pub fn status(&self, network: &NetworkConfig) -> Result<(), CallerError> {
        for one in &network.plugins {
            if plugin::has_gc(&network.cni_version) {
                self.call(Command::Status, network, one, &NetworkRequest::default(), None, &[])?;
            } else if one.kind != plugin::TYPE {
                self.find(one)?;
            }
        }
        Ok(())
    }

    fn find(&self, one: &Plugin) -> Result<PathBuf, CallerError> {
        exec::find(&one.kind, &self.bin_dirs)
            .ok_or_else(|| CallerError::NotFound { kind: one.kind.clone(), dirs: self.bin_dirs.clone() })
    }

    fn call(
        &self,
        command: Command,
        network: &NetworkConfig,
        one: &Plugin,
        request: &NetworkRequest,
        previous: Option<&Value>,
        live: &[Attachment],
    ) -> Result<Option<Value>, CallerError> {
        let config = inject(network, one, request, previous, command, live);
        let bytes = serde_json::to_vec(&config).expect("a map is JSON");
        let netns = request.netns.to_string_lossy();
        let outcome = if one.kind == plugin::TYPE {
            let call = Call { container_id: &request.container_id, netns: &netns, ifname: &request.ifname };
            plugin::execute(command, &call, &bytes)
        } else {
            let args: Vec<_> = request.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let path: Vec<_> = self.bin_dirs.iter().map(|d| d.to_string_lossy()).collect();
            let env = [
                ("CNI_COMMAND", command.word().to_owned()),
                ("CNI_CONTAINERID", request.container_id.clone()),
                ("CNI_NETNS", netns.into_owned()),
                ("CNI_IFNAME", request.ifname.clone()),
                ("CNI_ARGS", args.join(";")),
                ("CNI_PATH", path.join(":")),
            ];
            exec::run(&self.find(one)?, &env, &bytes, exec::PLUGIN_TIMEOUT)
        };
        outcome.map_err(|source| CallerError::Plugin {
            kind: one.kind.clone(),
            network: network.name.clone(),
            verb: command.word(),
            source: Box::new(source),
        })
    }

    fn cache_path(&self, network: &NetworkConfig, request: &NetworkRequest) -> Result<PathBuf, CallerError> {
        for (what, value) in [("container id", &request.container_id), ("interface name", &request.ifname)] {
            if !is_identifier(value) {
                return Err(CallerError::Name { what, value: value.clone() });
            }
        }
        Ok(self.results().join(format!("{}-{}-{}", network.name, request.container_id, request.ifname)))
    }

    fn results(&self) -> PathBuf {
        self.cache_dir.join("results")
    }

    fn store(
        &self,
        path: &Path,
        network: &NetworkConfig,
        request: &NetworkRequest,
        result: &Value,
    ) -> Result<(), CallerError> {
        let entry = json!({
            "kind": "cniCacheV1",
            "containerId": request.container_id,
            "config": BASE64.encode(&network.bytes),
            "ifName": request.ifname,
            "networkName": network.name,
            "netns": request.netns.to_string_lossy(),
            "cniArgs": request.args.iter().map(|(k, v)| [k, v]).collect::<Vec<_>>(),
            "capabilityArgs": request.capabilities,
            "result": result,
        });
        let failed = |step| move |source| CallerError::Cache { step, path: path.to_owned(), source };
        std::fs::create_dir_all(self.results()).map_err(failed("making the directory of"))?;
        // Whole or not at all: a half-written result would make DEL fail for ever. The name is no identifier, so it is
        // never taken for an entry.
        let partial =
            path.with_file_name(format!(".{}.partial", path.file_name().and_then(|n| n.to_str()).unwrap_or("result")));
        std::fs::write(&partial, entry.to_string()).map_err(failed("writing"))?;
        std::fs::rename(&partial, path).map_err(failed("renaming"))
    }

    /// The configuration and result of an attachment. A damaged entry counts as none: DEL then works without it.
    fn cached(&self, path: &Path) -> Result<Option<(Option<NetworkConfig>, Value)>, CallerError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CallerError::Cache { step: "reading", path: path.to_owned(), source }),
        };
        let Ok(mut entry) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
        let config = entry["config"]
            .as_str()
            .and_then(|text| BASE64.decode(text).ok())
            .and_then(|bytes| NetworkConfig::parse(&bytes, "(cached)").ok());
        Ok(Some((config, entry["result"].take())))
    }

    fn cache_entries(&self) -> Result<Vec<(PathBuf, Value)>, CallerError> {
        let dir = self.results();
        let failed = |path: &Path, source| CallerError::Cache { step: "reading", path: path.to_owned(), source };
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(&dir, e)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| failed(&dir, e))?.path();
            let hidden = path.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
            if hidden {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|e| failed(&path, e))?;
            // A damaged entry tells nothing; the built-in plugin's GC finds its pod by the address record.
            if let Ok(entry) = serde_json::from_slice::<Value>(&bytes) {
                all.push((path, entry));
            }
        }
        Ok(all)
    }
}

fn remove_cached(path: &Path) -> Result<(), CallerError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(CallerError::Cache { step: "removing", path: path.to_owned(), source: e })
        }
        _ => Ok(()),
    }
}

/// Upstream: libcni/api.go `buildOneConfig`, `injectRuntimeConfig`.
fn inject(
    network: &NetworkConfig,
    one: &Plugin,
    request: &NetworkRequest,
    previous: Option<&Value>,
    command: Command,
    live: &[Attachment],
) -> Map<String, Value> {
    let mut config = one.config.clone();
    config.insert("name".into(), network.name.clone().into());
    config.insert("cniVersion".into(), network.cni_version.clone().into());
    let told: Map<String, Value> = request
        .capabilities
        .iter()
        .filter(|(name, _)| one.capabilities.contains(name))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if !told.is_empty() {
        config.insert("runtimeConfig".into(), told.into());
    }
    match command {
        Command::Gc => {
            let all: Vec<_> =
                live.iter().map(|a| json!({ "containerID": a.container_id, "ifname": a.ifname })).collect();
            config.insert("cni.dev/valid-attachments".into(), all.clone().into());
            config.insert("cni.dev/attachments".into(), all.into());
        }
        Command::Del if !network.at_least("0.4.0") => {}
        _ => {
            if let Some(previous) = previous {
                config.insert("prevResult".into(), previous.clone());
            }
        }
    }
    config
}
