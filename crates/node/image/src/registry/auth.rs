//! Who one is at a registry: challenges, token servers, and to whom credentials may be shown.

use std::collections::BTreeMap;

use http::Uri;

use super::Credentials;

/// A registry's question who asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token from this place.
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// Of a `WWW-Authenticate` header.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        Some(Self::Bearer { realm: parameters.remove("realm")?, service: parameters.remove("service") })
    }
}

/// Where a token for pulling is asked for.
pub(super) fn token_url(realm: &str, service: Option<&str>, path: &str) -> String {
    let mut url = format!("{realm}{}scope=repository:{path}:pull", if realm.contains('?') { '&' } else { '?' });
    if let Some(service) = service {
        url.push_str(&format!("&service={service}"));
    }
    url
}

/// `Authorization` by user and password, if there is a user.
pub(super) fn basic(credentials: Option<&Credentials>) -> Option<String> {
    use base64::Engine;
    let given = credentials.filter(|given| !given.username.is_empty())?;
    let pair = format!("{}:{}", given.username, given.password);
    Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

/// `key="value",key=value`.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_ascii_lowercase();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(key, value.to_owned());
        rest = tail;
    }
    parameters
}

fn registered_domain(host: &str) -> &str {
    let mut dots = host.rmatch_indices('.');
    dots.next();
    dots.next().map_or(host, |(position, _)| &host[position + 1..])
}

/// Whether a token server may be shown the registry's credentials: same host, or https under the same domain. The realm is
/// the registry's word: credentials must not go to a place that the registry only points at.
pub(super) fn is_trusted_realm(registry: &str, realm: &str) -> bool {
    let (Ok(registry), Ok(realm)) = (registry.parse::<Uri>(), realm.parse::<Uri>()) else { return false };
    let (Some(ours), Some(theirs)) = (registry.host(), realm.host()) else { return false };
    if ours == theirs {
        return realm.scheme_str() == Some("https") || realm.scheme_str() == registry.scheme_str();
    }
    let named = |host: &str| host.parse::<std::net::IpAddr>().is_err() && host.contains('.');
    realm.scheme_str() == Some("https")
        && named(ours)
        && named(theirs)
        && registered_domain(ours) == registered_domain(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let challenge = Challenge::parse("Bearer realm=\"https://a/t?x=1\",service=\"s\", scope=y");
        let realm = "https://a/t?x=1".to_owned();
        assert_eq!(challenge, Some(Challenge::Bearer { realm, service: Some("s".to_owned()) }));
        assert_eq!(Challenge::parse("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer scope=y"), None);
        assert_eq!(
            token_url("https://a/t?x=1", Some("s"), "l/x"),
            "https://a/t?x=1&scope=repository:l/x:pull&service=s"
        );
    }

    #[test]
    fn credentials_do_not_follow_a_realm_elsewhere() {
        let registry = "https://registry-1.docker.io/v2/x";
        assert!(is_trusted_realm(registry, "https://auth.docker.io/token"));
        assert!(!is_trusted_realm(registry, "http://auth.docker.io/token"));
        assert!(!is_trusted_realm(registry, "https://evil.example/token"));
        assert!(!is_trusted_realm(registry, "https://169.254.169.254/token"));
        assert!(is_trusted_realm("http://localhost:5000/v2/x", "http://localhost:5001/token"));
    }
}
