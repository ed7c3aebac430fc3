//! Network lists on disk (`/etc/cni/net.d`).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::types::{SUPPORTED_VERSIONS, at_least};

/// A list of plugins that together make one network.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkConfig {
    /// Name; part of the key under which results are kept.
    pub name: String,
    /// Version that is spoken with the plugins.
    pub cni_version: String,
    /// CHECK is switched off.
    pub disable_check: bool,
    /// GC is switched off.
    pub disable_gc: bool,
    /// Each plugin's configuration, in the order of ADD.
    pub plugins: Vec<Plugin>,
    /// The file's bytes, kept with results as they are needed for DEL when the file has changed since.
    pub bytes: Vec<u8>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// Name of its executable.
    pub kind: String,
    /// Capabilities that it wants told through `runtimeConfig`.
    pub capabilities: Vec<String>,
    /// All of its configuration.
    pub config: Map<String, Value>,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The directory could not be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Nothing to choose from. (The text that containerd prints, which people search for.)
    #[error("no network config found in {}: cni plugin not initialized", dir.display())]
    NotFound {
        /// Where.
        dir: PathBuf,
    },
    /// A file is not a network list.
    #[error("{origin}: {reason}")]
    Invalid {
        /// File, or `(inline)`.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl NetworkConfig {
    /// The first valid network in the order of file names, as upstream's runtimes choose it. A broken file is passed
    /// over only if a later one is good, else its error is told.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: dir.to_owned(), source };
        let mut files = Vec::new();
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                for entry in entries {
                    files.push(entry.map_err(read)?.path());
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(read(e)),
        }
        files.retain(|f| matches!(f.extension().and_then(|e| e.to_str()), Some("conf" | "conflist" | "json")));
        files.sort();
        let mut first_error = None;
        for file in files {
            let read = std::fs::read(&file).map_err(|source| ConfigError::Read { path: file.clone(), source });
            match read.and_then(|bytes| Self::parse(&bytes, &file.display().to_string())) {
                Ok(found) => return Ok(found),
                Err(e) => {
                    first_error.get_or_insert(e);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| ConfigError::NotFound { dir: dir.to_owned() }))
    }

    /// A list, or the older form of a single plugin.
    pub fn parse(bytes: &[u8], origin: &str) -> Result<Self, ConfigError> {
        let invalid = |reason: String| ConfigError::Invalid { origin: origin.to_owned(), reason };
        let mut root: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| invalid(format!("error parsing configuration list: {e}")))?;
        let name = text(&root, "name").unwrap_or_default();
        if name.is_empty() {
            return Err(invalid("no name".into()));
        }
        if !is_identifier(&name) {
            return Err(invalid(format!("invalid network name {name:?}")));
        }
        let cni_version = choose_version(&root).map_err(&invalid)?;
        let disable_check = flag(&root, "disableCheck").map_err(&invalid)?;
        let disable_gc = flag(&root, "disableGC").map_err(&invalid)?;
        let configs = match root.remove("plugins") {
            Some(Value::Array(plugins)) => plugins,
            Some(_) => return Err(invalid("'plugins' is not a list".into())),
            None if root.contains_key("type") => vec![Value::Object(root)],
            None => return Err(invalid("no 'plugins' key".into())),
        };
        if configs.is_empty() {
            return Err(invalid("no plugins in list".into()));
        }
        let mut plugins = Vec::with_capacity(configs.len());
        for config in configs {
            let Value::Object(config) = config else { return Err(invalid("a plugin is not an object".into())) };
            let kind = text(&config, "type").unwrap_or_default();
            if kind.is_empty() || kind.contains('/') || kind == ".." {
                return Err(invalid(format!("invalid plugin type {kind:?}")));
            }
            let capabilities = config
                .get("capabilities")
                .and_then(Value::as_object)
                .map(|all| all.iter().filter(|(_, on)| on.as_bool() == Some(true)).map(|(k, _)| k.clone()).collect())
                .unwrap_or_default();
            plugins.push(Plugin { kind, capabilities, config });
        }
        Ok(Self { name, cni_version, disable_check, disable_gc, plugins, bytes: bytes.to_vec() })
    }
}

fn text(map: &Map<String, Value>, key: &str) -> Option<String> {
    map.get(key)?.as_str().map(str::to_owned)
}

/// libcni accepts the strings "true" and "false" too.
fn flag(map: &Map<String, Value>, key: &str) -> Result<bool, String> {
    match map.get(key) {
        None => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(format!("invalid value {other} for {key}")),
    }
}

/// The newest of `cniVersions` that we speak, else `cniVersion`.
fn choose_version(root: &Map<String, Value>) -> Result<String, String> {
    let mut offered: Vec<&str> = root
        .get("cniVersions")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    if offered.is_empty() {
        offered.push(root.get("cniVersion").and_then(Value::as_str).unwrap_or("0.1.0"));
    }
    SUPPORTED_VERSIONS.iter().rev().find(|v| offered.contains(*v)).map(|v| (*v).to_owned()).ok_or_else(|| {
        format!("unsupported CNI version {}: spoken are {}", offered.join(", "), SUPPORTED_VERSIONS.join(", "))
    })
}

impl NetworkConfig {
    /// Version at least that.
    pub fn at_least(&self, version: &str) -> bool {
        at_least(&self.cni_version, version)
    }
}

/// The specification's form of names and container ids. They become parts of file names.
pub fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    text.len() <= 255
        && chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// The specification's form of interface names.
pub fn is_interface_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() < 16
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_good_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        assert!(NetworkConfig::load(dir.path()).unwrap_err().to_string().contains("cni plugin not initialized"));
        std::fs::write(dir.path().join("00-bad.conflist"), "{").unwrap();
        assert!(NetworkConfig::load(dir.path()).unwrap_err().to_string().contains("error parsing"));
        let good = r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"p","capabilities":{"x":true,"y":false}}]}"#;
        std::fs::write(dir.path().join("10-a.conflist"), good).unwrap();
        let single = r#"{"cniVersion":"0.4.0","name":"b","type":"q"}"#;
        std::fs::write(dir.path().join("05-b.conf"), single).unwrap();
        std::fs::write(dir.path().join("01-ignored.txt"), "x").unwrap();
        let found = NetworkConfig::load(dir.path()).unwrap();
        assert_eq!((found.name.as_str(), found.plugins[0].kind.as_str()), ("b", "q"));
        let list = NetworkConfig::parse(good.as_bytes(), "x").unwrap();
        assert_eq!(list.plugins[0].capabilities, ["x"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (config, reason) in [
            (r#"{"plugins":[]}"#, "no name"),
            (r#"{"name":"../x","cniVersion":"1.0.0","plugins":[]}"#, "invalid network name"),
            (r#"{"name":"x","cniVersion":"1.0.0","plugins":[]}"#, "no plugins in list"),
            (r#"{"name":"x","cniVersion":"1.0.0"}"#, "no 'plugins' key"),
            (r#"{"name":"x","cniVersion":"9.0.0","plugins":[{"type":"p"}]}"#, "unsupported CNI version 9.0.0"),
            (r#"{"name":"x","cniVersion":"1.0.0","plugins":[{"type":"../../bin/sh"}]}"#, "invalid plugin type"),
        ] {
            let error = NetworkConfig::parse(config.as_bytes(), "x").unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn versions_are_negotiated() {
        let config =
            r#"{"name":"x","cniVersion":"0.3.0","cniVersions":["1.1.0","9.9.9","1.0.0"],"plugins":[{"type":"p"}]}"#;
        assert_eq!(NetworkConfig::parse(config.as_bytes(), "x").unwrap().cni_version, "1.1.0");
    }
}
