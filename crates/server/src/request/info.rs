//! Path and method to [`RequestInfo`]. Mirrors `RequestInfoFactory.NewRequestInfo`
//! (apiserver/pkg/endpoints/request/requestinfo.go).

use super::{Query, RequestInfo};
use http::Method;

/// A path that nothing can be asked of. Answered with 400.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// Broken percent-encoding, or text that is not UTF-8 behind it.
    #[error("the request path is not valid: {0}")]
    Encoding(&'static str),
    /// `/api/v1/watch` without a resource.
    #[error("unable to determine kind and namespace from url, {0:?}")]
    Incomplete(String),
    /// A namespace or name that could mean another path.
    #[error("{what} parameter invalid: {name:?}: {why}")]
    Segment {
        /// `Namespace` or `Name`.
        what: &'static str,
        /// What was sent.
        name: String,
        /// Why it cannot be.
        why: &'static str,
    },
}

/// Decodes percent-encoding once. Borrowing is the common case.
pub fn decode_path(path: &str) -> Result<String, PathError> {
    if !path.bytes().any(|byte| byte == b'%' || byte == 0) {
        return Ok(path.to_owned());
    }
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || bytes.next().and_then(|symbol| char::from(symbol).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(PathError::Encoding("invalid URL escape"));
            };
            u8::try_from(high * 16 + low).unwrap_or(0)
        } else {
            byte
        };
        if byte == 0 {
            return Err(PathError::Encoding("it contains a NUL byte"));
        }
        out.push(byte);
    }
    String::from_utf8(out).map_err(|_| PathError::Encoding("it is not UTF-8"))
}

/// `path.IsValidPathSegmentName` (apimachinery/pkg/api/validation/path/name.go).
pub fn invalid_segment(name: &str) -> Option<&'static str> {
    match name {
        "." => Some("may not be '.'"),
        ".." => Some("may not be '..'"),
        _ if name.contains('/') => Some("may not contain '/'"),
        _ if name.contains('%') => Some("may not contain '%'"),
        _ => None,
    }
}

impl RequestInfo {
    /// Reads method, path (still percent-encoded) and query.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, PathError> {
        let path = decode_path(path)?;
        let mut info = Self::default();
        let known = info.parse_segments(method, &path, query)?;
        if !known {
            info = Self { verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        }
        info.path = path;
        Ok(info)
    }

    /// Whether the path names a resource; fills everything but `path` when it does.
    fn parse_segments(&mut self, method: &Method, path: &str, query: Option<&str>) -> Result<bool, PathError> {
        let all: smallvec::SmallVec<[&str; 12]> = path.trim_matches('/').split('/').collect();
        let mut parts = match all[..] {
            ["api", ref rest @ ..] if rest.len() >= 2 => rest,
            ["apis", group, ref rest @ ..] if rest.len() >= 2 => {
                self.group = group.to_owned();
                rest
            }
            _ => return Ok(false),
        };
        self.is_resource = true;
        self.version = parts[0].to_owned();
        parts = &parts[1..];
        let mut verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        if let [special @ ("watch" | "proxy"), rest @ ..] = parts {
            if rest.is_empty() {
                return Err(PathError::Incomplete(path.to_owned()));
            }
            verb = if *special == "watch" { "watch" } else { "proxy" };
            parts = rest;
        }
        if let ["namespaces", namespace, below @ ..] = parts {
            self.namespace = (*namespace).to_owned();
            // A namespace's own subresources leave the namespace as the object.
            if below.first().is_some_and(|first| !matches!(*first, "status" | "finalize")) {
                parts = below;
            }
        }
        let at = |index: usize| parts.get(index).copied().unwrap_or_default().to_owned();
        self.resource = at(0);
        self.name = at(1);
        let named = if verb == "proxy" {
            2
        } else {
            self.subresource = at(2);
            3
        };
        if let Some(rest @ [_, ..]) = parts.get(named..) {
            self.rest = rest.join("/");
            if path.ends_with('/') {
                self.rest.push('/');
            }
        }
        for (what, name) in [("Namespace", &self.namespace), ("Name", &self.name)] {
            if let Some(why) = invalid_segment(name) {
                return Err(PathError::Segment { what, name: name.clone(), why });
            }
        }
        if self.name.is_empty() && matches!(verb, "get" | "delete" | "watch") {
            verb = self.parse_collection(verb, query);
        }
        self.verb = verb.to_owned();
        Ok(true)
    }

    /// A request without a name: list, watch or deletecollection, by the query.
    fn parse_collection(&mut self, verb: &'static str, query: Option<&str>) -> &'static str {
        let query = Query::parse(query.unwrap_or_default());
        self.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
        self.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
        let verb = match verb {
            "delete" => "deletecollection",
            "get" if query.flag("watch") => "watch",
            "get" => "list",
            other => other,
        };
        if verb != "deletecollection"
            && let Some(name) = exact_name(&self.field_selector)
        {
            self.name = name.to_owned();
        }
        verb
    }
}

/// The name that a field selector asks for exactly (`fields.Selector.RequiresExactMatch("metadata.name")`).
fn exact_name(selector: &str) -> Option<&str> {
    let requirement = selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value))
    })?;
    (!requirement.is_empty() && !requirement.contains('\\') && invalid_segment(requirement).is_none())
        .then_some(requirement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(method: &str, uri: &str) -> String {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
        match RequestInfo::parse(&method.parse().unwrap(), path, query) {
            Err(error) => error.to_string(),
            Ok(info) if !info.is_resource => format!("- {} {}", info.verb, info.path),
            Ok(info) => format!(
                "{} g={} v={} ns={} r={} sub={} n={} rest={}",
                info.verb,
                info.group,
                info.version,
                info.namespace,
                info.resource,
                info.subresource,
                info.name,
                info.rest
            ),
        }
    }

    #[test]
    fn reads_paths_as_upstream_does() {
        // The cases of upstream's requestinfo_test.go, and some hostile ones.
        let cases = [
            ("GET", "/api/v1/namespaces", "list g= v=v1 ns= r=namespaces sub= n= rest="),
            ("GET", "/api/v1/namespaces/other", "get g= v=v1 ns=other r=namespaces sub= n=other rest="),
            ("GET", "/api/v1/namespaces/other/pods", "list g= v=v1 ns=other r=pods sub= n= rest="),
            ("GET", "/api/v1/namespaces/other/pods/foo", "get g= v=v1 ns=other r=pods sub= n=foo rest="),
            ("HEAD", "/api/v1/namespaces/other/pods/foo", "get g= v=v1 ns=other r=pods sub= n=foo rest="),
            ("GET", "/api/v1/pods", "list g= v=v1 ns= r=pods sub= n= rest="),
            ("GET", "/api/v1/pods/", "list g= v=v1 ns= r=pods sub= n= rest="),
            ("GET", "/api/v1/watch/pods", "watch g= v=v1 ns= r=pods sub= n= rest="),
            ("GET", "/api/v1/pods?watch=true", "watch g= v=v1 ns= r=pods sub= n= rest="),
            ("GET", "/api/v1/pods?watch=", "watch g= v=v1 ns= r=pods sub= n= rest="),
            ("GET", "/api/v1/pods?watch=False", "list g= v=v1 ns= r=pods sub= n= rest="),
            ("GET", "/api/v1/pods?watch=0", "list g= v=v1 ns= r=pods sub= n= rest="),
            (
                "GET",
                "/api/v1/pods?watch=1&fieldSelector=metadata.name%3Dfoo",
                "watch g= v=v1 ns= r=pods sub= n=foo rest=",
            ),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name==foo", "list g= v=v1 ns= r=pods sub= n=foo rest="),
            ("GET", "/api/v1/watch/namespaces/other/pods", "watch g= v=v1 ns=other r=pods sub= n= rest="),
            ("GET", "/api/v1/namespaces/other/pods/foo/status", "get g= v=v1 ns=other r=pods sub=status n=foo rest="),
            (
                "PUT",
                "/api/v1/namespaces/other/finalize",
                "update g= v=v1 ns=other r=namespaces sub=finalize n=other rest=",
            ),
            ("DELETE", "/api/v1/namespaces/other/pods", "deletecollection g= v=v1 ns=other r=pods sub= n= rest="),
            ("DELETE", "/api/v1/namespaces/other/pods/foo", "delete g= v=v1 ns=other r=pods sub= n=foo rest="),
            (
                "POST",
                "/apis/apps/v1/namespaces/other/deployments",
                "create g=apps v=v1 ns=other r=deployments sub= n= rest=",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                "patch g=apps v=v1 ns=a r=deployments sub=scale n=b rest=",
            ),
            ("GET", "/api/v1/namespaces/a/pods/b/proxy/x/y?q=1", "get g= v=v1 ns=a r=pods sub=proxy n=b rest=x/y"),
            ("GET", "/api/v1/namespaces/a/pods/b/proxy/x/", "get g= v=v1 ns=a r=pods sub=proxy n=b rest=x/"),
            ("GET", "/apis/batch/v1", "- get /apis/batch/v1"),
            ("GET", "/apis/batch", "- get /apis/batch"),
            ("GET", "/api/v1", "- get /api/v1"),
            ("GET", "/api", "- get /api"),
            ("GET", "/", "- get /"),
            ("GET", "//////", "- get //////"),
            ("POST", "/healthz/etcd", "- post /healthz/etcd"),
            ("GET", "/version", "- get /version"),
            ("GET", "/api/v1/watch", "unable to determine kind and namespace from url, \"/api/v1/watch\""),
            ("GET", "/api/v1/namespaces/%2e%2e/pods/foo", "Namespace parameter invalid: \"..\": may not be '..'"),
            ("GET", "/api/v1/namespaces/a/pods/..", "Name parameter invalid: \"..\": may not be '..'"),
            ("GET", "/api/v1/namespaces/a/secrets/x%2fy", "get g= v=v1 ns=a r=secrets sub=y n=x rest="),
            ("GET", "/api/v1/pods/%00", "the request path is not valid: it contains a NUL byte"),
            ("GET", "/api/v1/pods/%zz", "the request path is not valid: invalid URL escape"),
            ("GET", "/api/v1/pods/%ff", "the request path is not valid: it is not UTF-8"),
            ("GET", "/api/v1/pods/a%25b", "Name parameter invalid: \"a%b\": may not contain '%'"),
        ];
        for (method, uri, expected) in cases {
            assert_eq!(show(method, uri), expected, "{method} {uri}");
        }
    }
}
