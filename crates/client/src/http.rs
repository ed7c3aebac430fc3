//! The transport over HTTPS, and kubeconfig files.

use crate::transport::{Transport, TransportFuture};
use base64::Engine;
use skiff_base::task::Supervisor;
use skiff_machinery::Value;
use skiff_machinery::codec::yaml;
use skiff_net::Body;
use skiff_net::client::{Client as Wire, Options};
use skiff_net::tls::{Identity, ServerTrust, client_config};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a kubeconfig cannot be used. Each says which file and what to correct.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// It is not what a kubeconfig looks like.
    #[error("{path}: {what}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
}

/// An API server and who one is there.
pub struct Kubeconfig {
    server: String,
    trust: ServerTrust,
    identity: Option<Arc<Identity>>,
    token: Token,
}

/// A bearer token.
#[derive(Clone)]
enum Token {
    None,
    Fixed(Arc<str>),
    /// Read for each request: the kubelet replaces projected tokens before they end.
    File(PathBuf),
}

fn named<'t>(tree: &'t Value, list: &str, name: &str, field: &str) -> Option<&'t Value> {
    tree.items_at(&[list]).iter().find(|entry| entry.str_at(&["name"]) == name)?.get(field)
}

impl Kubeconfig {
    /// Reads the current context of a file.
    pub fn load(path: &Path) -> Result<Self, KubeconfigError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source });
        let content = |what: String| KubeconfigError::Content { path: path.to_owned(), what };
        let tree = yaml::from_slice(&read(path)?).map_err(|error| content(error.to_string()))?;
        let context = tree.str_at(&["current-context"]);
        let context = named(&tree, "contexts", context, "context")
            .ok_or_else(|| content(format!("current-context {context:?} is not among its contexts")))?;
        let cluster_name = context.str_at(&["cluster"]);
        let cluster = named(&tree, "clusters", cluster_name, "cluster")
            .ok_or_else(|| content(format!("cluster {cluster_name:?} is not among its clusters")))?;
        let nobody = Value::Null;
        let user = named(&tree, "users", context.str_at(&["user"]), "user").unwrap_or(&nobody);
        // Data stands in the file itself, or a path (relative to the file) names another.
        let bytes = |of: &Value, key: &str| -> Result<Option<Vec<u8>>, KubeconfigError> {
            let data = of.str_at(&[&format!("{key}-data")]);
            if !data.is_empty() {
                let decoded = base64::engine::general_purpose::STANDARD.decode(data);
                return decoded.map(Some).map_err(|error| content(format!("{key}-data: {error}")));
            }
            match of.str_at(&[key]) {
                "" => Ok(None),
                file => read(&path.parent().unwrap_or(Path::new("")).join(file)).map(Some),
            }
        };
        let unbuilt = ["exec", "auth-provider", "username", "password", "as"];
        if let Some(field) = unbuilt.iter().find(|field| user.get(field).is_some()) {
            return Err(content(format!("users[].user.{field} is not supported")));
        }
        let trust = match bytes(cluster, "certificate-authority")? {
            _ if cluster.get("insecure-skip-tls-verify").and_then(Value::as_bool) == Some(true) => {
                ServerTrust::DangerNobodyIsChecked
            }
            Some(pem) => ServerTrust::Authority(pem),
            None => return Err(content("the cluster has no certificate-authority".to_owned())),
        };
        let identity = match (bytes(user, "client-certificate")?, bytes(user, "client-key")?) {
            (Some(chain), Some(key)) => {
                Some(Identity::from_pem(&chain, &key).map_err(|error| content(error.to_string()))?)
            }
            (None, None) => None,
            _ => return Err(content("a client certificate needs its key, and the other way round".to_owned())),
        };
        let token = match (user.str_at(&["token"]), user.str_at(&["tokenFile"])) {
            ("", "") => Token::None,
            ("", file) => {
                let file = path.parent().unwrap_or(Path::new("")).join(file);
                read(&file)?;
                Token::File(file)
            }
            (token, _) => Token::Fixed(token.into()),
        };
        let server = cluster.str_at(&["server"]).trim_end_matches('/').to_owned();
        if !server.starts_with("https://") {
            return Err(content(format!("server {server:?} is not an https:// address")));
        }
        Ok(Self { server, trust, identity, token })
    }

    /// From the token and CA that a pod finds in its service account's mount.
    pub fn in_cluster() -> Result<Self, KubeconfigError> {
        let directory = Path::new("/var/run/secrets/kubernetes.io/serviceaccount");
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).map_err(|source| KubeconfigError::Read { path, source })
        };
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| KubeconfigError::Content {
                path: directory.to_owned(),
                what: format!("{name} is not set: not in a pod"),
            })
        };
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        read("token")?;
        Ok(Self {
            server: format!("https://{host}:{port}"),
            trust: ServerTrust::Authority(read("ca.crt")?),
            identity: None,
            token: Token::File(directory.join("token")),
        })
    }

    /// The authority (PEM) that the server's certificate is checked by; `None` when it is not checked.
    pub fn authority(&self) -> Option<&[u8]> {
        match &self.trust {
            ServerTrust::Authority(pem) => Some(pem),
            ServerTrust::DangerNobodyIsChecked => None,
        }
    }

    /// The same server without a credential, for who brings another.
    pub fn without_user(&self) -> Self {
        Self { server: self.server.clone(), trust: self.trust.clone(), identity: None, token: Token::None }
    }

    /// Address of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The transport to it; connections are tasks of `supervisor`.
    pub fn transport(&self, supervisor: &Supervisor) -> Result<Arc<dyn Transport>, skiff_net::tls::TlsError> {
        let tls = client_config(&self.trust, self.identity.clone(), true)?;
        let wire = Wire::new(Options { tls: Some(tls), ..Options::default() }, supervisor.clone());
        Ok(Arc::new(HttpTransport { wire, server: self.server.clone(), token: self.token.clone() }))
    }
}

/// Requests over HTTPS.
struct HttpTransport {
    wire: Wire,
    server: String,
    token: Token,
}

#[derive(Debug, thiserror::Error)]
#[error("the request cannot be written: {0}")]
struct BadRequest(String);

impl Token {
    fn read(&self) -> Result<Option<String>, BadRequest> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(token) => Ok(Some(token.to_string())),
            Self::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| BadRequest(format!("{}: {error}", path.display())))?;
                Ok(Some(text.trim().to_owned()))
            }
        }
    }
}

impl HttpTransport {
    fn address(&self, request: &mut http::Request<Body>) -> Result<(), BadRequest> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("{}{path}", self.server);
        *request.uri_mut() = uri.parse().map_err(|error| BadRequest(format!("{uri}: {error}")))?;
        if let Some(token) = self.token.read()? {
            let mut value = http::HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| BadRequest("the token holds characters that no header can".to_owned()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(http::header::AUTHORIZATION, value);
        }
        Ok(())
    }
}

impl Transport for HttpTransport {
    fn send(&self, mut request: http::Request<Body>) -> TransportFuture<'_> {
        Box::pin(async move {
            let fail = |error| Arc::new(error) as Arc<dyn std::error::Error + Send + Sync>;
            if let Err(error) = self.address(&mut request) {
                return Err(Arc::new(error) as Arc<dyn std::error::Error + Send + Sync>);
            }
            self.wire.send(request).await.map_err(fail)
        })
    }
}
