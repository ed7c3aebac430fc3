//! Who asks a kubelet, and may they (`pkg/kubelet/server/auth.go`).

use super::Refusal;
use crate::shared::Shared;
use http::{Method, Request, StatusCode};
use parking_lot::Mutex;
use skiff_client::delegated::{self, User};
use skiff_machinery::object;
use skiff_net::tls::ClientTrust;
use skiff_net::{Body, Peer};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const ALLOWED_FOR: Duration = Duration::from_secs(300);
const REFUSED_FOR: Duration = Duration::from_secs(30);
const REMEMBERED: usize = 1024;

/// Who, a verb and a subresource of `nodes`.
type Question = (User, &'static str, &'static str);

/// Decides who may ask.
pub struct Guard {
    client_ca: ClientTrust,
    answers: Mutex<HashMap<Question, (bool, Instant)>>,
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
        let user = match delegated::by_certificate(&self.client_ca, peer, shared.clock.wall()) {
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
        let node = object! {
            "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource,
            "name": shared.node_name.as_str(),
        };
        // A check that cannot be made is a refusal.
        let reviewed = delegated::review_access(&shared.client, user, ("resourceAttributes", node)).await;
        let allowed = reviewed.map_err(Refusal::internal)?;
        let mut answers = self.answers.lock();
        if answers.len() >= REMEMBERED {
            answers.clear();
        }
        answers.insert(key, (allowed, now + if allowed { ALLOWED_FOR } else { REFUSED_FOR }));
        Ok(allowed)
    }
}

async fn by_token(shared: &Shared, request: &Request<Body>) -> Result<User, Refusal> {
    let header = request.headers().get(http::header::AUTHORIZATION);
    let token = header.and_then(delegated::bearer).ok_or_else(unauthorized)?;
    let user = delegated::review_token(&shared.client, token).await.map_err(Refusal::internal)?;
    user.ok_or_else(unauthorized)
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
