//! Whom the two ends of a TLS connection trust, and what they show.
//!
//! A server asks for a client certificate and accepts any whose holder proves to have the key: whether it is *trusted*
//! is for authentication, so that a bad one is answered 401 and not with a broken handshake. A client always checks the
//! server, unless it was told the ugly name.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use std::fmt;
use std::sync::{Arc, RwLock};

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate in the text, or a broken one.
    #[error("cannot read the certificates of {0}")]
    Certificates(&'static str, #[source] rustls::pki_types::pem::Error),
    /// There should be at least one.
    #[error("no certificate in {0}")]
    NoCertificate(&'static str),
    /// No private key, or a broken one.
    #[error("cannot read the private key")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// Key and certificate do not go together, or an algorithm is not supported.
    #[error("cannot use certificate and key")]
    Pair(#[source] rustls::Error),
    /// An authority that cannot be one.
    #[error("cannot use the certificate authority")]
    Authority(#[source] rustls::Error),
    /// Protocol versions.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
    /// A name that no certificate can be checked against.
    #[error("{0:?} is not a server name")]
    ServerName(String),
}

/// What is wrong with the other end's certificate, if that is why there is no connection.
pub fn refused_certificate(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error gives the cause of what it wraps, and not what it wraps, as its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(why)) = found {
            return Some(match why {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "its certificate is of another authority".to_owned()
                }
                other => format!("its certificate is not valid: {other}"),
            });
        }
        next = error.source();
    }
    None
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// Reads every certificate of a PEM text; `what` names it in errors.
pub fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::Certificates(what, error))?;
    if found.is_empty() { Err(TlsError::NoCertificate(what)) } else { Ok(found) }
}

fn certified_key(chain_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(chain_pem, "the key pair")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(TlsError::Key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Pair)
}

/// A certificate that is shown to the other end, and can be renewed while connections come in.
pub struct Identity {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Identity {
    /// From PEM texts: a chain, leaf first, and its key.
    pub fn from_pem(chain_pem: &[u8], key_pem: &[u8]) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self { current: RwLock::new(Arc::new(certified_key(chain_pem, key_pem)?)) }))
    }
    /// From now on shows another certificate.
    pub fn replace(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        let next = Arc::new(certified_key(chain_pem, key_pem)?);
        *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner) = next;
        Ok(())
    }
    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
impl fmt::Debug for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Identity")
    }
}
impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}
impl rustls::client::ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = self.get();
        key.key.choose_scheme(schemes).is_some().then_some(key)
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts every client certificate whose holder has the key.
#[derive(Debug)]
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
}
impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }
    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A server's side: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. `client_ca_pem` only names authorities in the handshake, so
/// that clients with several certificates choose well.
pub fn server_config(
    identity: Arc<Identity>,
    client_ca_pem: Option<&[u8]>,
    http2: bool,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = client_ca_pem {
        for certificate in certificates(pem, "the client CA")? {
            roots.add(certificate).map_err(TlsError::Authority)?;
        }
    }
    let provider = provider();
    let verifier = AnyClient { algorithms: provider.signature_verification_algorithms, hints: roots.subjects() };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(identity);
    config.alpn_protocols = alpn(http2);
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Setup)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn alpn(http2: bool) -> Vec<Vec<u8>> {
    if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] }
}

/// What decides whether a chain of client certificates is trusted: it leads to the CA, is valid now, and may be used by
/// clients. An untrusted one is an error that says why.
pub struct ClientTrust {
    verifier: Arc<dyn ClientCertVerifier>,
}
impl ClientTrust {
    /// Trusts what this CA has signed.
    pub fn from_pem(ca_pem: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_pem, "the client CA")? {
            roots.add(certificate).map_err(TlsError::Authority)?;
        }
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::Authority(rustls::Error::General(error.to_string())))?;
        Ok(Self { verifier })
    }
    /// Whether the chain, leaf first, is trusted at `now`.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: std::time::SystemTime) -> Result<(), rustls::Error> {
        let [leaf, intermediates @ ..] = chain else { return Err(rustls::Error::NoCertificatesPresented) };
        let since = now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.verifier.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since)).map(drop)
    }
}
impl fmt::Debug for ClientTrust {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ClientTrust")
    }
}

/// How a client knows its server.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// It shows a certificate of this CA (PEM, may hold several).
    Authority(Vec<u8>),
    /// Not at all. Whoever sits in between reads and writes everything.
    DangerNobodyIsChecked,
}

/// Lets every server pass; its signature is still checked, so that a broken handshake shows.
#[derive(Debug)]
struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}
impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A client's side. With `http2` both protocols are offered, else HTTP/1.1 alone (upgrades need it).
pub fn client_config(
    trust: &ServerTrust,
    identity: Option<Arc<Identity>>,
    http2: bool,
) -> Result<Arc<rustls::ClientConfig>, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match trust {
        ServerTrust::Authority(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem, "the server CA")? {
                roots.add(certificate).map_err(TlsError::Authority)?;
            }
            builder.with_root_certificates(roots)
        }
        ServerTrust::DangerNobodyIsChecked => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer { algorithms }))
        }
    };
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn(http2);
    Ok(Arc::new(config))
}

/// A host name or address as TLS checks it.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))
}
