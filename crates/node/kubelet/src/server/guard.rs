//! Who asks a kubelet, and may they (`pkg/kubelet/server/auth.go`).

use super::Refusal;
use crate::shared::Shared;
use http::{Method, Request, StatusCode};
use parking_lot::Mutex;
use skiff_machinery::{Value, object};
use skiff_net::tls::ClientTrust;
use skiff_net::{Body, Peer};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use x509_parser::prelude::{FromDer, X509Certificate};

const ALLOWED_FOR: Duration = Duration::from_secs(300);
const REFUSED_FOR: Duration = Duration::from_secs(30);
const REMEMBERED: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct User {
    name: String,
    groups: Vec<String>,
}

/// Decides who may ask.
pub struct Guard {
    client_ca: ClientTrust,
    answers: Mutex<HashMap<(User, &'static str, &'static str), (bool, Instant)>>,
}

/// Verb and subresources of `nodes` that a request stands for; one of them is enough. Where upstream has a finer one than
/// `proxy`, it stands first (`KubeletFineGrainedAuthz`).
fn attributes(method: &Method, path: &str) -> (&'static str, &'static [&'static str]) {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        // Running something is never reading, whatever the method.
        "exec" | "attach" | "portForward" | "run" | "cri" => ("create", &["proxy"]),
        "containerLogs" | "logs" => ("get", &["log"]),
        "stats" => ("get", &["stats"]),
        "metrics" => ("get", &["metrics"]),
        "checkpoint" => ("create", &["checkpoint"]),
        "pods" | "runningpods" if reads => ("get", &["pods", "proxy"]),
        "configz" if reads => ("get", &["configz", "proxy"]),
        "healthz" | "livez" if reads => ("get", &["healthz", "proxy"]),
        _ => match *method {
            Method::GET | Method::HEAD => ("get", &["proxy"]),
            Method::PUT => ("update", &["proxy"]),
            Method::PATCH => ("patch", &["proxy"]),
            Method::DELETE => ("delete", &["proxy"]),
            _ => ("create", &["proxy"]),
        },
    }
}

fn unauthorized() -> Refusal {
    Refusal(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned())
}

impl Guard {
    /// Trusts client certificates of this CA.
    pub fn new(client_ca: ClientTrust) -> Self {
        Self { client_ca, answers: Mutex::default() }
    }

    /// Lets a request pass, or says why not. The credential is taken out of it.
    pub(super) async fn check(&self, shared: &Shared, peer: &Peer, request: &mut Request<Body>) -> Result<(), Refusal> {
        let user = match self.by_certificate(shared, peer) {
            Some(user) => user,
            None => by_token(shared, request).await?,
        };
        request.headers_mut().remove(http::header::AUTHORIZATION);
        let (verb, subresources) = attributes(request.method(), request.uri().path());
        for subresource in subresources {
            if self.may(shared, &user, verb, subresource).await? {
                return Ok(());
            }
        }
        let asked = subresources.join(",");
        let message = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{asked}])", user.name);
        Err(Refusal(StatusCode::FORBIDDEN, message))
    }

    fn by_certificate(&self, shared: &Shared, peer: &Peer) -> Option<User> {
        let leaf = peer.certificates.first()?;
        if let Err(error) = self.client_ca.verify(&peer.certificates, shared.clock.wall()) {
            tracing::debug!(%error, "client certificate not trusted");
            return None;
        }
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
        let mut groups: Vec<String> = groups.collect();
        groups.push("system:authenticated".to_owned());
        Some(User { name, groups })
    }

    async fn may(
        &self,
        shared: &Shared,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Refusal> {
        let key = (user.clone(), verb, subresource);
        let now = shared.clock.now();
        if let Some((allowed, until)) = self.answers.lock().get(&key)
            && *until > now
        {
            return Ok(*allowed);
        }
        let review = object! {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": object! {
                "user": user.name.as_str(),
                "groups": user.groups.clone(),
                "resourceAttributes": object! {
                    "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource,
                    "name": shared.node_name.as_str(),
                },
            },
        };
        let reviews = shared.client.all("authorization.k8s.io", "v1", "subjectaccessreviews");
        // A check that cannot be made is a refusal.
        let answer = reviews.create(&review, &Default::default()).await.map_err(Refusal::internal)?;
        let allowed = answer.at(&["status", "allowed"]).and_then(Value::as_bool).unwrap_or(false);
        let mut answers = self.answers.lock();
        if answers.len() >= REMEMBERED {
            answers.clear();
        }
        answers.insert(key, (allowed, now + if allowed { ALLOWED_FOR } else { REFUSED_FOR }));
        Ok(allowed)
    }
}

async fn by_token(shared: &Shared, request: &Request<Body>) -> Result<User, Refusal> {
    let header = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(unauthorized)?;
    let review = object! {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": object! { "token": token },
    };
    let reviews = shared.client.all("authentication.k8s.io", "v1", "tokenreviews");
    let answer = reviews.create(&review, &Default::default()).await.map_err(Refusal::internal)?;
    if answer.at(&["status", "authenticated"]).and_then(Value::as_bool) != Some(true) {
        return Err(unauthorized());
    }
    let groups = answer.items_at(&["status", "user", "groups"]).iter().filter_map(Value::as_str);
    Ok(User {
        name: answer.str_at(&["status", "user", "username"]).to_owned(),
        groups: groups.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_commands_is_never_reading() {
        for path in ["/exec/a/b/c", "/attach/a/b/c", "/portForward/a/b", "/run/a/b/c"] {
            assert_eq!(attributes(&Method::GET, path), ("create", &["proxy"][..]));
        }
        assert_eq!(attributes(&Method::GET, "/containerLogs/a/b/c"), ("get", &["log"][..]));
        assert_eq!(attributes(&Method::GET, "/pods"), ("get", &["pods", "proxy"][..]));
        assert_eq!(attributes(&Method::POST, "/pods"), ("create", &["proxy"][..]));
    }
}
