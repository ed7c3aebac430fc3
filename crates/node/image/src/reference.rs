//! Image names: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]` (`distribution/reference`).

use std::fmt;

/// A name, taken apart and completed: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Registry host, with its port if it has one.
    pub host: String,
    /// Repository path.
    pub path: String,
    /// Tag; `latest` when neither tag nor digest was said.
    pub tag: Option<String>,
    /// Digest, `sha256:...`.
    pub digest: Option<String>,
}

/// A text that is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{0}\": invalid reference format")]
pub struct InvalidReference(pub String);

fn is_path(path: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-'))
            && !part.starts_with(['.', '_', '-'])
            && !part.ends_with(['.', '_', '-'])
    };
    path.len() <= 255 && path.split('/').all(part)
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let rest = |byte: u8| word(byte) || matches!(byte, b'.' | b'-');
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(rest)
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "1"));
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let literal = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let fits = match literal {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(label),
    };
    fits && port.parse::<u16>().is_ok()
}

/// Whether a text is `sha256:` and 64 hexadecimal digits: the one algorithm that is accepted.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

impl Reference {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        let wrong = || InvalidReference(text.to_owned());
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if is_digest(digest) => (name, Some(digest.to_owned())),
            Some(_) => return Err(wrong()),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        if !is_host(host) || !is_path(&path) || tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), path, tag, digest })
    }
    /// Host and path.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }
    /// What a registry is asked for: the digest when there is one, else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(out, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(out, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let of = |text: &str| Reference::parse(text).map(|reference| reference.to_string());
        assert_eq!(of("busybox").as_deref(), Ok("docker.io/library/busybox:latest"));
        assert_eq!(of("a/b:1").as_deref(), Ok("docker.io/a/b:1"));
        assert_eq!(of("localhost:5000/x").as_deref(), Ok("localhost:5000/x:latest"));
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(of(&format!("r.io/x@{digest}")), Ok(format!("r.io/x@{digest}")));
        for wrong in ["", "UPPER", "a//b", "a:", "a@sha256:0", "a@md5:00", "../x", "r.io/../x", "a b", "r:99999/x"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
