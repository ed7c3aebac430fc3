//! The filters in their order.

use super::{ApiRequest, Dispatch, deadline};
use crate::answer;
use crate::authn::service_account::ServiceAccounts;
use crate::authn::{ANONYMOUS, AuthenticationError, Authenticator, impersonation};
use crate::authz::{Authorizer, Decision, Question};
use crate::fairness::{Limits, Seat};
use crate::metrics::{LongRunning, Metrics};
use crate::request::{Query, RequestContext, RequestInfo, UserInfo};
use crate::{health, random, version};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use skiff_base::clock::SharedClock;
use skiff_base::health::Health;
use skiff_machinery::ApiError;
use skiff_net::{Body, Peer, Service, ServiceFuture};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

/// Carries the id under which a request is found in logs, both ways.
pub const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Limits of the filters, with upstream's defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--request-timeout`.
    pub request_timeout: Duration,
    /// `--max-requests-inflight`.
    pub max_requests_inflight: usize,
    /// `--max-mutating-requests-inflight`.
    pub max_mutating_requests_inflight: usize,
}
impl Default for Options {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(60),
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
        }
    }
}

/// What the filters ask.
pub struct Parts {
    /// Who asks.
    pub authenticator: Arc<Authenticator>,
    /// May they.
    pub authorizer: Arc<dyn Authorizer>,
    /// Who answers.
    pub dispatch: Arc<dyn Dispatch>,
    /// Health checks.
    pub health: Arc<Health>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: SharedClock,
}

/// The first filters as a [`Service`]: the API server's front door, for sockets and for callers in this process.
pub struct Front {
    parts: Parts,
    options: Options,
    limits: Limits,
    version: Bytes,
}

/// A request on its way through the filters.
struct Passing {
    info: Arc<RequestInfo>,
    user: Arc<UserInfo>,
    deadline: Option<Duration>,
    seat: Option<Seat>,
    now: String,
}

impl Front {
    /// Puts the filters together.
    pub fn new(parts: Parts, options: Options) -> Arc<Self> {
        let limits = Limits::new(
            options.max_requests_inflight,
            options.max_mutating_requests_inflight,
            parts.metrics.in_flight("readOnly"),
            parts.metrics.in_flight("mutating"),
        );
        Arc::new(Self { parts, options, limits, version: version::json().into() })
    }

    async fn serve(&self, peer: &Peer, request: http::Request<Body>) -> http::Response<Body> {
        let started = self.parts.clock.now();
        let (mut head, body) = request.into_parts();
        let audit_id = audit_id(&head.headers);
        let apply = is_apply(&head.headers);
        let info = match RequestInfo::parse(&head.method, head.uri.path(), head.uri.query()) {
            Ok(info) => Arc::new(info),
            Err(error) => {
                let mut refused = answer::error(&ApiError::bad_request(error.to_string()), &head.headers);
                stamp(&mut refused, audit_id);
                return refused;
            }
        };
        let verb = crate::metrics::verb(&info, apply);
        let dry_run = head.uri.query().is_some_and(|query| query.contains("dryRun=All"));
        let mut answer = match self.pass(peer, &mut head, &info).await {
            Err(error) => answer::error(&error, &head.headers),
            Ok(passing) => {
                let lasting = info.is_long_running().then(|| self.parts.metrics.long_running(&info, verb));
                let seat_and_answer = self.answer(peer, head, body, passing).await;
                hold(seat_and_answer, lasting)
            }
        };
        stamp(&mut answer, audit_id);
        let size = http_body::Body::size_hint(answer.body()).exact();
        let took = self.parts.clock.now().saturating_duration_since(started);
        self.parts.metrics.observe(&info, verb, dry_run, answer.status().as_u16(), took, size);
        answer
    }

    /// Everything before the answer: who, as whom, seat, may they.
    async fn pass(
        &self,
        peer: &Peer,
        head: &mut http::request::Parts,
        info: &Arc<RequestInfo>,
    ) -> Result<Passing, ApiError> {
        let deadline = deadline::deadline(info, head.uri.query(), self.options.request_timeout)?;
        let attempts = &self.parts.metrics.authentication_attempts;
        let user = match self.parts.authenticator.authenticate(peer, &mut head.headers, &info.path).await {
            Ok(user) => {
                attempts.with(&["success"]).increment();
                if user.name == ANONYMOUS && head.version == http::Version::HTTP_2 {
                    peer.connection.close_after_answers();
                }
                user
            }
            Err(error) => {
                attempts
                    .with(&[if matches!(error, AuthenticationError::None) { "failure" } else { "error" }])
                    .increment();
                tracing::debug!(peer = ?peer.address, path = info.path, %error, "not authenticated");
                // Whoever is not known keeps no connection (upstream's `UnauthenticatedHTTP2DOSMitigation`, which is
                // also why anonymous users keep none of HTTP/2 above).
                peer.connection.close_after_answers();
                return Err(ApiError::unauthorized());
            }
        };
        let authorizer = &*self.parts.authorizer;
        let user = match impersonation::impersonate(authorizer, &user, &mut head.headers).await? {
            Some(other) => other,
            None => user,
        };
        let seat = match self.limits.take(info, &user) {
            Ok(seat) => seat,
            Err(crate::fairness::Full) => {
                self.parts.metrics.terminations.with(&["apiserver", "429"]).increment();
                return Err(ApiError::too_many_requests("Too many requests, please try again later.", 1));
            }
        };
        let question = Question::of(&user, info);
        let decision = authorizer.authorize(&question).await;
        if !decision.is_allowed() {
            if let Decision::Deny(reason) = &decision {
                tracing::debug!(user = user.name, path = info.path, reason, "denied");
            }
            return Err(question.forbidden(decision.reason()));
        }
        self.authorize_stream(&question, head).await?;
        let seconds = self.parts.clock.wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(0)).map_err(ApiError::internal)?;
        Ok(Passing { info: Arc::clone(info), user, deadline, seat, now: now.to_string() })
    }

    /// A WebSocket is opened by GET, whatever it does: running something needs the right to create as well
    /// (`AuthorizePodWebsocketUpgradeCreatePermission`; for `nodes/proxy` stricter than upstream, where `get` on it runs
    /// commands in every pod of the node, k8s#136550).
    async fn authorize_stream(&self, question: &Question<'_>, head: &http::request::Parts) -> Result<(), ApiError> {
        let streams = match (question.resource, question.subresource) {
            ("pods", "exec" | "attach" | "portforward") => true,
            ("nodes", "proxy") => head.headers.contains_key(http::header::UPGRADE),
            _ => false,
        };
        if !streams || question.verb != "get" || !question.group.is_empty() {
            return Ok(());
        }
        let question = Question { verb: "create", ..question.clone() };
        let decision = self.parts.authorizer.authorize(&question).await;
        if decision.is_allowed() { Ok(()) } else { Err(question.forbidden(decision.reason())) }
    }

    async fn answer(
        &self,
        peer: &Peer,
        head: http::request::Parts,
        body: Body,
        passing: Passing,
    ) -> (Option<Seat>, http::Response<Body>) {
        let Passing { info, user, deadline, seat, now } = passing;
        if !info.is_resource
            && let Some(answer) = self.own_path(&info, &head)
        {
            return (seat, answer);
        }
        let headers = deadline.map(|_| accept_only(&head.headers));
        let context = RequestContext { user, info, dry_run: false, now };
        let request = ApiRequest { context, parts: head, body, peer: peer.clone() };
        let dispatched = self.parts.dispatch.dispatch(request);
        let (Some(limit), Some(headers)) = (deadline, headers) else { return (seat, dispatched.await) };
        match tokio::time::timeout(limit, dispatched).await {
            Ok(answer) => (seat, answer),
            Err(_) => {
                self.parts.metrics.terminations.with(&["apiserver", "504"]).increment();
                let error = ApiError::timeout("request did not complete within the allotted timeout", true);
                (seat, answer::error(&error, &headers))
            }
        }
    }

    /// Paths that need nothing behind the filters.
    fn own_path(&self, info: &RequestInfo, head: &http::request::Parts) -> Option<http::Response<Body>> {
        let path = info.path.as_str();
        let accounts: Option<&Arc<ServiceAccounts>> = self.parts.authenticator.service_accounts();
        let found = match path {
            "/version" | "/version/" => answer::json(StatusCode::OK, self.version.clone()),
            "/metrics" => {
                let mut answer = answer::text(StatusCode::OK, self.parts.metrics.registry.render());
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            "/openid/v1/jwks" => {
                let mut answer = answer::json(StatusCode::OK, accounts?.jwks());
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
                answer
            }
            "/.well-known/openid-configuration" => {
                let issuer = accounts?.issuer();
                let mut body = String::from("{\"issuer\":");
                answer::json_text(&mut body, issuer);
                body.push_str(",\"jwks_uri\":");
                answer::json_text(&mut body, &format!("{}/openid/v1/jwks", issuer.trim_end_matches('/')));
                body.push_str(
                    ",\"response_types_supported\":[\"id_token\"],\"subject_types_supported\":[\"public\"],\
                     \"id_token_signing_alg_values_supported\":[\"ES256\",\"RS256\"]}",
                );
                answer::json(StatusCode::OK, body)
            }
            _ => health::answer(&self.parts.health, path, &Query::of(&head.uri))?,
        };
        if matches!(head.method, Method::GET | Method::HEAD) {
            return Some(found);
        }
        Some(answer::text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n"))
    }
}

impl Service for Front {
    fn call(&self, peer: &Peer, request: http::Request<Body>) -> ServiceFuture<'_> {
        let peer = peer.clone();
        Box::pin(async move {
            match AssertUnwindSafe(self.serve(&peer, request)).catch_unwind().await {
                Ok(answer) => answer,
                Err(_) => {
                    tracing::error!("a request made the server panic");
                    let text = "This request caused apiserver to panic. Look in the logs for details.\n";
                    answer::text(StatusCode::INTERNAL_SERVER_ERROR, text)
                }
            }
        })
    }
}

/// The client's id when it is a sensible one, else a new one.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    const MAX: usize = 64;
    if let Some(sent) = headers.get(AUDIT_ID)
        && (1..=MAX).contains(&sent.len())
    {
        return sent.clone();
    }
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = random::uuid().hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn stamp(answer: &mut http::Response<Body>, audit_id: HeaderValue) {
    let headers = answer.headers_mut();
    headers.insert(AUDIT_ID, audit_id);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
}

fn is_apply(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"))
}

/// The one header that an error's encoding depends on.
fn accept_only(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    if let Some(accept) = headers.get(http::header::ACCEPT) {
        kept.insert(http::header::ACCEPT, accept.clone());
    }
    kept
}

/// Keeps seat and count until the answer's body is sent, where it is not one ready buffer: the seat bounds what
/// streaming answers hold in memory.
fn hold((seat, answer): (Option<Seat>, http::Response<Body>), lasting: Option<LongRunning>) -> http::Response<Body> {
    if (seat.is_none() && lasting.is_none()) || matches!(answer.body(), Body::Empty | Body::Full(_)) {
        return answer;
    }
    answer.map(|body| Body::stream(Held { body, _seat: seat, _lasting: lasting }))
}

struct Held {
    body: Body,
    _seat: Option<Seat>,
    _lasting: Option<LongRunning>,
}
impl http_body::Body for Held {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
