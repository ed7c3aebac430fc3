//! A component's own server: health for everybody, metrics for who may read them, over TLS.
//!
//! Upstream: `k8s.io/apiserver/pkg/server/options` as kube-scheduler and kube-controller-manager use them.

use super::{Entry, Said, alone, fixed, flag};
use crate::ports::Listen;
use anyhow::Context;
use http::{Method, Request, Response, StatusCode, header};
use skiff_base::clock::SharedClock;
use skiff_base::health::{Health, Part};
use skiff_base::metrics::{Collect, Kind, ProcessMetrics, Registry, Text};
use skiff_base::pki::{self, Pair};
use skiff_base::task::{OnFailure, Supervisor};
use skiff_client::ClientMetrics;
use skiff_client::delegated::{Delegated, Denied};
use skiff_client::leader::LeaderElector;
use skiff_net::server::{Options as NetOptions, Server};
use skiff_net::tls::Identity;
use skiff_net::{Body, Peer, Service, ServiceFuture};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How the API server is reached.
pub(crate) const CONNECTION: &[Entry] = &[alone("kubeconfig", "How to reach the API server, and as whom.")];

/// The server's flags.
pub(crate) const FLAGS: &[Entry] = &[
    flag("bind-address", "Address of health and metrics."),
    flag("secure-port", "Port of health and metrics; 0 for none. A default that is taken moves to a free port."),
    flag("tls-cert-file", "Certificate to show; one that nobody has signed is made in memory when absent."),
    flag("tls-private-key-file", "Its key."),
    alone("client-ca-file", "Authority of client certificates; what the cluster says when absent."),
    alone("authentication-kubeconfig", "As whom tokens are reviewed; --kubeconfig when absent."),
    alone("authorization-kubeconfig", "As whom it is asked who may read metrics; --kubeconfig when absent."),
    flag("authorization-always-allow-paths", "Paths for everybody; a last `*` stands for anything below."),
    flag("http2-max-streams-per-connection", "Streams of one connection; 100 when absent."),
    flag("disable-http2-serving", "HTTP/1.1 only."),
    fixed("profiling", "false", "There is none."),
    fixed("contention-profiling", "false", "There is none."),
];

/// What they mean.
pub(crate) struct Serving {
    /// `None`: not at all.
    pub(crate) listen: Option<Listen>,
    tls: Option<(PathBuf, PathBuf)>,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) authentication: Option<PathBuf>,
    pub(crate) authorization: Option<PathBuf>,
    always_allow: Vec<String>,
    max_streams: Option<u32>,
    http2: bool,
}

impl Serving {
    pub(super) fn read(said: &Said, default: SocketAddr, mistakes: &mut Vec<String>) -> Self {
        let listen = said.listen(default, "secure-port", "bind-address", mistakes);
        let default_paths = || ["/healthz", "/readyz", "/livez"].map(str::to_owned).to_vec();
        Self {
            listen: (listen.at.port() != 0).then_some(listen),
            tls: pair(said, mistakes),
            client_ca: said.path("client-ca-file"),
            authentication: said.path("authentication-kubeconfig"),
            authorization: said.path("authorization-kubeconfig"),
            always_allow: said.list("authorization-always-allow-paths").unwrap_or_else(default_paths),
            // 0 is upstream's word for its own default.
            max_streams: said.number("http2-max-streams-per-connection", mistakes).filter(|streams| *streams > 0),
            http2: !said.switch("disable-http2-serving").unwrap_or(false),
        }
    }

    /// Listens and serves to those whom `delegated` lets. Gives the port.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        telling: &Telling,
        delegated: Delegated,
        clock: &SharedClock,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Option<u16>> {
        let Some(listen) = &self.listen else { return Ok(None) };
        let listener = listen.bind(name)?;
        let port = listener.local_addr()?.port();
        let certificate = Certificate::take(self.tls.clone(), name, listen.at.ip(), clock.wall())?;
        let config = skiff_net::tls::server_config(certificate.identity(), None, self.http2)?;
        certificate.keep(clock, supervisor);
        let mut options = NetOptions { max_connections: 256, ..NetOptions::default() };
        if let Some(streams) = self.max_streams {
            options.max_streams = streams;
        }
        let service = ComponentServer {
            health: Arc::clone(&telling.health),
            metrics: Arc::clone(&telling.metrics),
            delegated,
            always_allow: self.always_allow.clone(),
        };
        Server::tls(listener, config, Arc::new(service), options, Arc::clone(clock)).spawn(supervisor, name);
        tracing::debug!(component = name, port, "serving health and metrics");
        Ok(Some(port))
    }
}

/// `--tls-cert-file` and `--tls-private-key-file`, which go together.
pub(super) fn pair(said: &Said, mistakes: &mut Vec<String>) -> Option<(PathBuf, PathBuf)> {
    match (said.path("tls-cert-file"), said.path("tls-private-key-file")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            let (certificate, key) = (said.typed("tls-cert-file"), said.typed("tls-private-key-file"));
            mistakes.push(format!("{certificate} and {key} go together"));
            None
        }
    }
}

/// A certificate and its key from files, which have to fit.
pub(crate) fn read_pair(certificate: &Path, key: &Path) -> anyhow::Result<Pair> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let pair = Pair { certificate: read(certificate)?, key: read(key)? };
    Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes())
        .with_context(|| format!("{} and {} are no usable pair", certificate.display(), key.display()))?;
    Ok(pair)
}

/// How often a shown certificate is looked at: what changed in its files, or whether its end comes near.
const LOOK_PERIOD: Duration = Duration::from_secs(60);

/// A certificate that a component shows: from files, and then what they hold is followed; or made here, signed by nobody,
/// and made again before it ends (`apiserver/pkg/server/dynamiccertificates`).
pub(crate) struct Certificate {
    files: Option<(PathBuf, PathBuf)>,
    name: &'static str,
    address: IpAddr,
    identity: Arc<Identity>,
    /// The chain that is shown.
    shown: String,
}

impl Certificate {
    /// The first one to show.
    pub(crate) fn take(
        files: Option<(PathBuf, PathBuf)>,
        name: &'static str,
        address: IpAddr,
        now: SystemTime,
    ) -> anyhow::Result<Self> {
        let pair = match &files {
            Some((certificate, key)) => read_pair(certificate, key)?,
            None => make_pair(name, address, now)?,
        };
        let identity = Identity::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes())?;
        Ok(Self { files, name, address, identity, shown: pair.certificate })
    }

    /// What is shown, whatever it is by then.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity)
    }

    /// One look; whether another certificate is shown from now on.
    fn turn(&mut self, now: SystemTime) -> anyhow::Result<bool> {
        let pair = match &self.files {
            Some((certificate, key)) => read_pair(certificate, key)?,
            None if pki::fresh(&self.shown, now) => return Ok(false),
            None => make_pair(self.name, self.address, now)?,
        };
        if pair.certificate == self.shown {
            return Ok(false);
        }
        self.identity.replace(pair.certificate.as_bytes(), pair.key.as_bytes())?;
        self.shown = pair.certificate;
        Ok(true)
    }

    /// Looks until the end.
    pub(crate) fn keep(mut self, clock: &SharedClock, supervisor: &Supervisor) {
        let clock = Arc::clone(clock);
        supervisor.spawn_abortable("shown certificate", OnFailure::Forget, async move {
            loop {
                clock.sleep(LOOK_PERIOD).await;
                match self.turn(clock.wall()) {
                    Ok(false) => (),
                    Ok(true) => tracing::info!(component = self.name, "another certificate is shown"),
                    // While files are replaced, certificate and key do not fit for a moment.
                    Err(error) => {
                        tracing::warn!(
                            component = self.name,
                            error = format!("{error:#}"),
                            "the old certificate stays"
                        );
                    }
                }
            }
        });
    }
}

fn make_pair(name: &str, address: IpAddr, now: SystemTime) -> Result<Pair, pki::PkiError> {
    let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    if !address.is_unspecified() && !ips.contains(&address) {
        ips.push(address);
    }
    pki::self_signed(name, &["localhost".to_owned(), crate::config::host_name()], &ips, now)
}

/// What a component tells of itself.
#[derive(Clone)]
pub(crate) struct Telling {
    pub(crate) health: Arc<Health>,
    metrics: Arc<Registry>,
    /// Its clients, queues and elections.
    pub(crate) client: Arc<ClientMetrics>,
}

impl Telling {
    /// What every component tells: the process, the release, its clients.
    pub(crate) fn new(clock: &SharedClock) -> Self {
        let metrics = Arc::new(Registry::new());
        metrics.register(Arc::new(ProcessMetrics::new(clock.wall())));
        metrics.register(Arc::new(BuildInfo));
        let client = ClientMetrics::register(&metrics);
        Self { health: Arc::new(Health::new()), metrics, client }
    }

    /// What the component counts by itself.
    pub(crate) fn measure(&self, part: Arc<dyn Collect>) {
        self.metrics.register(part);
    }

    /// Whether it leads, and whether its election is well.
    pub(crate) fn watch(&self, elector: &Arc<LeaderElector>) {
        self.client.leading(elector);
        let watched = Arc::clone(elector);
        self.health.add("leaderElection", Part::Live, Arc::new(move || watched.check()));
    }
}

struct BuildInfo;
impl Collect for BuildInfo {
    fn collect(&self, out: &mut Text) {
        let version = skiff_server::version::git_version();
        let labels = [
            ("major", skiff_server::version::MAJOR),
            ("minor", skiff_server::version::MINOR),
            ("git_version", version.as_str()),
            ("platform", "linux/amd64"),
        ];
        let help = "A metric with a constant '1' value labeled by major, minor, git version and platform.";
        out.family("kubernetes_build_info", help, Kind::Gauge);
        out.sample("kubernetes_build_info", "", &labels, 1.0);
    }
}

struct ComponentServer {
    health: Arc<Health>,
    metrics: Arc<Registry>,
    delegated: Delegated,
    always_allow: Vec<String>,
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    answer
}

const PLAIN: &str = "text/plain; charset=utf-8";

impl ComponentServer {
    /// Whether everybody may ask for this path.
    fn is_open(&self, path: &str) -> bool {
        self.always_allow.iter().any(|own| match own.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => own == path,
        })
    }

    async fn answer(&self, peer: &Peer, request: Request<()>) -> Response<Body> {
        let path = request.uri().path();
        if !self.is_open(path)
            && let Err(denied) = self.delegated.check(peer, &request).await
        {
            let status = match &denied {
                Denied::Unauthorized => StatusCode::UNAUTHORIZED,
                Denied::Forbidden { .. } => StatusCode::FORBIDDEN,
                Denied::Review(error) => {
                    tracing::warn!(%error, path, "nobody can be let in: the API server does not answer");
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            };
            return text(status, PLAIN, format!("{denied}\n"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "method not allowed\n");
        }
        if path == "/metrics" {
            return text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics.render());
        }
        let query = request.uri().query().unwrap_or_default();
        let pairs = || query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let verbose = pairs().any(|(key, _)| key == "verbose");
        let excluded = pairs().filter(|(key, _)| *key == "exclude").map(|(_, value)| value);
        match self.health.answer(path, verbose, excluded) {
            Some(answer) => {
                let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                text(status, PLAIN, answer.text)
            }
            None => text(StatusCode::NOT_FOUND, PLAIN, "404 page not found\n"),
        }
    }
}

impl Service for ComponentServer {
    fn call(&self, peer: &Peer, request: Request<Body>) -> ServiceFuture<'_> {
        let peer = peer.clone();
        // No answer depends on a body.
        let request = request.map(drop);
        Box::pin(async move { self.answer(&peer, request).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_certificate_of_nobody_is_made_again_before_it_ends() {
        let now = SystemTime::now();
        let mut certificate = Certificate::take(None, "kube-scheduler", HERE, now).unwrap();
        assert!(!certificate.turn(now + 200 * DAY).unwrap());
        assert!(certificate.turn(now + 300 * DAY).unwrap());
        assert!(!certificate.turn(now + 400 * DAY).unwrap());
        assert!(pki::not_after(&certificate.shown).unwrap() > now + 600 * DAY);
    }

    #[test]
    fn files_are_followed_and_half_written_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let write = |pair: &Pair, key: bool| {
            std::fs::write(&files.0, &pair.certificate).unwrap();
            if key {
                std::fs::write(&files.1, &pair.key).unwrap();
            }
        };
        let now = SystemTime::now();
        let made = || make_pair("kubelet", HERE, now).unwrap();
        let (first, second) = (made(), made());
        write(&first, true);
        let mut certificate = Certificate::take(Some(files.clone()), "kubelet", HERE, now).unwrap();
        assert!(!certificate.turn(now).unwrap());
        write(&second, false);
        assert!(certificate.turn(now).is_err(), "the key is still the first's");
        assert_eq!(certificate.shown, first.certificate);
        write(&second, true);
        assert!(certificate.turn(now).unwrap());
        assert_eq!(certificate.shown, second.certificate);
    }
}
