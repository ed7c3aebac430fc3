//! The cluster's keys and certificates: kubeadm's files under one directory, made when missing, renewed when near their
//! end.
//!
//! Keys are ECDSA P-256: making all of them takes milliseconds, where RSA would take seconds of the start. What an
//! operator puts there (an authority of their own, RSA included where the key is PKCS#8) is used as it stands; an
//! authority without its key is used, and then only what it would have to sign is missing.
//!
//! Keys and kubeconfigs are written `0600`, by renaming a finished file, so a crash leaves either nothing or the whole.
//! The keys that nothing can replace (authorities, service accounts) are synced to disk before they are used; what they
//! sign can be made again, and an empty file, as power loss leaves one, counts as none.

mod files;
mod kubeconfig;
mod requests;

pub use kubeconfig::kubeconfig;
pub use requests::{CertificateRequest, RequestError, Signer};

use files::{read_optional, write_private, write_public};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Certificates say that they are valid from a little before they were made: clocks differ.
const BACKDATE: Duration = Duration::from_secs(60 * 60);

/// Why the files could not be brought in order.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// `read`, `write`, `create`, `sync`.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that holds no usable key or certificate. It is not replaced: somebody may need it.
    #[error("{} holds nothing usable ({why}); move it away to have it made again", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate is due, and the authority's key is not here.
    #[error("{} has to be made, but the key of its authority {authority} is not there", path.display())]
    NoAuthorityKey {
        /// The certificate.
        path: PathBuf,
        /// The authority's name.
        authority: &'static str,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {subject}")]
    Make {
        /// For whom.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// Under which names the API server is reached.
#[derive(Clone, Debug)]
pub struct ServerNames {
    /// The host's name.
    pub node_name: String,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The first address of the service range: the `kubernetes` Service.
    pub service_ip: IpAddr,
    /// Addresses of this host and of load balancers.
    pub addresses: Vec<IpAddr>,
    /// More DNS names.
    pub names: Vec<String>,
}

impl ServerNames {
    fn dns(&self) -> BTreeSet<String> {
        let domain = &self.cluster_domain;
        let mut names: BTreeSet<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(str::to_owned).into();
        names.insert(format!("kubernetes.default.svc.{domain}"));
        names.insert(self.node_name.clone());
        names.extend(self.names.iter().cloned());
        names
    }
    fn ips(&self) -> BTreeSet<IpAddr> {
        let mut ips: BTreeSet<IpAddr> = self.addresses.iter().copied().collect();
        ips.insert(self.service_ip);
        ips.insert(IpAddr::from([127, 0, 0, 1]));
        ips.insert(IpAddr::from(std::net::Ipv6Addr::LOCALHOST));
        ips
    }
}

/// Certificate and key as PEM. The key is not shown by `Debug`.
#[derive(Clone)]
pub struct Pair {
    /// Chain, leaf first.
    pub certificate: String,
    /// PKCS#8.
    pub key: String,
}
impl std::fmt::Debug for Pair {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Pair")
    }
}

/// Everything that a control plane shows and signs with. Paths are under [`Pki::dir`].
#[derive(Clone, Debug)]
pub struct Pki {
    /// `<data-dir>/pki`.
    pub dir: PathBuf,
    /// `ca.crt`: signs clients, kubelets and the API server.
    pub ca: String,
    /// `ca.key`, when it is here.
    pub ca_key: Option<SecretText>,
    /// `apiserver.{crt,key}`.
    pub apiserver: Pair,
    /// `apiserver-kubelet-client.{crt,key}`.
    pub kubelet_client: Pair,
    /// `front-proxy-ca.crt`.
    pub front_proxy_ca: String,
    /// `front-proxy-client.{crt,key}`.
    pub front_proxy_client: Pair,
    /// `sa.key`: signs service account tokens.
    pub service_account_key: SecretText,
    /// `sa.pub`: checks them. May hold several keys after a rotation.
    pub service_account_public: String,
}

/// Text that `Debug` does not show.
#[derive(Clone)]
pub struct SecretText(String);
impl SecretText {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}
impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}
impl std::fmt::Debug for SecretText {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("(secret)")
    }
}

/// A component's client identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// User name (common name).
    pub user: String,
    /// Group (organization).
    pub group: Option<String>,
}
impl Client {
    /// A user, perhaps in a group.
    pub fn new(user: impl Into<String>, group: Option<&str>) -> Self {
        Self { user: user.into(), group: group.map(str::to_owned) }
    }
    /// Who may do everything: `admin.conf`.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", Some("system:masters"))
    }
    /// `controller-manager.conf`.
    pub fn controller_manager() -> Self {
        Self::new("system:kube-controller-manager", None)
    }
    /// `scheduler.conf`.
    pub fn scheduler() -> Self {
        Self::new("system:kube-scheduler", None)
    }
    /// `kube-proxy.conf`.
    pub fn proxy() -> Self {
        Self::new("system:kube-proxy", None)
    }
    /// `kubelet.conf`.
    pub fn kubelet(node: &str) -> Self {
        Self::new(format!("system:node:{node}"), Some("system:nodes"))
    }
}

#[derive(Clone, Copy)]
enum Usage {
    Server,
    Client,
}

/// An authority whose certificate and perhaps key are at hand.
struct Authority {
    name: &'static str,
    certificate: String,
    key: Option<KeyPair>,
    key_pem: Option<String>,
}

/// Brings the directory in order and reads it: what is missing is made, what ends soon is renewed, what no longer names
/// all of `names` is made again.
pub fn ensure(dir: &Path, names: &ServerNames, now: SystemTime) -> Result<Pki, PkiError> {
    files::create_dir(dir)?;
    let ca = authority(dir, "ca", "kubernetes", now)?;
    let front_proxy = authority(dir, "front-proxy-ca", "front-proxy-ca", now)?;
    let new = read_optional(&dir.join("sa.key"))?.is_none();
    let server = Client::new("kube-apiserver", None);
    let kubelet_client = Client::new("kube-apiserver-kubelet-client", Some("kubeadm:cluster-admins"));
    let front_proxy_client = Client::new("front-proxy-client", None);
    let (key, public) = service_account(dir)?;
    if new {
        files::sync_dir(dir)?;
    }
    Ok(Pki {
        dir: dir.to_owned(),
        apiserver: leaf_file(dir, "apiserver", &ca, &server, Usage::Server, Some(names), now)?,
        kubelet_client: leaf_file(dir, "apiserver-kubelet-client", &ca, &kubelet_client, Usage::Client, None, now)?,
        front_proxy_client: leaf_file(
            dir,
            "front-proxy-client",
            &front_proxy,
            &front_proxy_client,
            Usage::Client,
            None,
            now,
        )?,
        front_proxy_ca: front_proxy.certificate,
        ca_key: ca.key_pem.clone().map(SecretText),
        ca: ca.certificate,
        service_account_key: SecretText(key),
        service_account_public: public,
    })
}

impl Pki {
    fn authority(&self) -> Result<Authority, PkiError> {
        let path = self.dir.join("ca.key");
        let key = self.ca_key.as_ref().map(|pem| key_pair(&path, &pem.0)).transpose()?;
        let key_pem = self.ca_key.as_ref().map(|pem| pem.0.clone());
        Ok(Authority { name: "ca", certificate: self.ca.clone(), key, key_pem })
    }

    /// What signs the requests of others; `None` when the authority's key is not here.
    pub fn signer(&self) -> Result<Option<Signer>, PkiError> {
        let key = self.ca_key.as_ref();
        key.map(|key| Signer::new(&self.dir.join("ca.key"), &self.ca, key.reveal())).transpose()
    }

    /// A client certificate signed by the cluster's authority, not written anywhere.
    pub fn client(&self, client: &Client, now: SystemTime) -> Result<Pair, PkiError> {
        sign(&self.dir.join(&client.user), &self.authority()?, client, Usage::Client, None, now)
    }

    /// The kubelet's serving certificate (`kubelet.crt` and `.key` in `dir`), renewed like the others.
    pub fn kubelet_server(
        &self,
        dir: &Path,
        node: &str,
        addresses: &[IpAddr],
        now: SystemTime,
    ) -> Result<Pair, PkiError> {
        files::create_dir(dir)?;
        let wanted = Wanted {
            dns: BTreeSet::from([node.to_owned(), "localhost".to_owned()]),
            ips: addresses.iter().copied().chain([IpAddr::from([127, 0, 0, 1])]).collect(),
        };
        let client = Client::new(format!("system:node:{node}"), Some("system:nodes"));
        leaf_file_for(dir, "kubelet", &self.authority()?, &client, Usage::Server, Some(&wanted), now)
    }

    /// Writes `path` as a kubeconfig of `client` for the server at `url`, unless it is there, points at `url`, trusts
    /// this authority and holds a certificate with enough life left. Returns whether it wrote.
    pub fn ensure_kubeconfig(
        &self,
        path: &Path,
        url: &str,
        client: &Client,
        now: SystemTime,
    ) -> Result<bool, PkiError> {
        if let Some(text) = read_optional(path)?
            && let Some(current) = kubeconfig::parse_ours(&text)
            && current.url == url
            && current.ca.trim() == self.ca.trim()
            && current.user == client.user
            && fresh(&current.certificate, now)
        {
            return Ok(false);
        }
        let pair = self.client(client, now)?;
        if let Some(parent) = path.parent() {
            files::create_parent(parent)?;
        }
        let text = kubeconfig("kubernetes", url, &self.ca, &client.user, &pair);
        write_private(path, &text, false)?;
        Ok(true)
    }
}

fn authority(dir: &Path, file: &'static str, name: &str, now: SystemTime) -> Result<Authority, PkiError> {
    let (crt, key_path) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
    let key_pem = read_optional(&key_path)?;
    let key = key_pem.as_deref().map(|pem| key_pair(&key_path, pem)).transpose()?;
    let certificate = read_optional(&crt)?;
    if let Some(pem) = &certificate {
        let end = not_after(pem).ok_or_else(|| broken(&crt, "not a certificate"))?;
        if key.as_ref().is_some_and(|key| !belongs(pem, key)) {
            return Err(broken(&crt, &format!("it is not the certificate of {}", key_path.display())));
        }
        // Renewed with the same key and name: everything that it has signed stays valid.
        if key.is_none() || end > now + LEAF_LIFETIME {
            return Ok(Authority { name: file, certificate: pem.clone(), key, key_pem });
        }
    }
    let (key, key_pem) = match (key, key_pem) {
        (Some(key), Some(pem)) => (key, pem),
        _ => {
            let key = new_key(name)?;
            let pem = key.serialize_pem();
            write_private(&key_path, &pem, true)?;
            (key, pem)
        }
    };
    let mut params = params(name, None, now, AUTHORITY_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::DnsName(dns_name(name)?)];
    let made = params.self_signed(&key).map_err(|source| make(name, source))?;
    let certificate = made.pem();
    write_public(&crt, &certificate)?;
    Ok(Authority { name: file, certificate, key: Some(key), key_pem: Some(key_pem) })
}

fn service_account(dir: &Path) -> Result<(String, String), PkiError> {
    let (key_path, public_path) = (dir.join("sa.key"), dir.join("sa.pub"));
    match (read_optional(&key_path)?, read_optional(&public_path)?) {
        (Some(key), Some(public)) => Ok((key, public)),
        (Some(pem), None) => {
            let public = key_pair(&key_path, &pem)?.public_key_pem();
            write_public(&public_path, &public)?;
            Ok((pem, public))
        }
        // The key is written first: a public one alone is what somebody left, with tokens that it proves.
        (None, Some(_)) => Err(broken(&public_path, "its private key, sa.key, is missing")),
        (None, None) => {
            let key = new_key("service accounts")?;
            let (pem, public) = (key.serialize_pem(), key.public_key_pem());
            write_private(&key_path, &pem, true)?;
            write_public(&public_path, &public)?;
            Ok((pem, public))
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    dns: BTreeSet<String>,
    ips: BTreeSet<IpAddr>,
}

fn leaf_file(
    dir: &Path,
    file: &str,
    authority: &Authority,
    client: &Client,
    usage: Usage,
    names: Option<&ServerNames>,
    now: SystemTime,
) -> Result<Pair, PkiError> {
    let wanted = names.map(|names| Wanted { dns: names.dns(), ips: names.ips() });
    leaf_file_for(dir, file, authority, client, usage, wanted.as_ref(), now)
}

fn leaf_file_for(
    dir: &Path,
    file: &str,
    authority: &Authority,
    client: &Client,
    usage: Usage,
    wanted: Option<&Wanted>,
    now: SystemTime,
) -> Result<Pair, PkiError> {
    let (crt, key_path) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
    if let (Some(certificate), Some(key)) = (read_optional(&crt)?, read_optional(&key_path)?) {
        let names_hold = wanted.is_none_or(|wanted| {
            subject_names(&certificate)
                .is_some_and(|found| wanted.dns.is_subset(&found.dns) && wanted.ips.is_subset(&found.ips))
        });
        let pair_holds = key_pair(&key_path, &key).is_ok_and(|key| belongs(&certificate, &key));
        if authority.key.is_none() {
            // Made elsewhere, RSA in its old form included, which only TLS reads: what cannot be told here is let pass.
            not_after(&certificate).ok_or_else(|| broken(&crt, "not a certificate"))?;
            return Ok(Pair { certificate, key });
        }
        if pair_holds && names_hold && fresh(&certificate, now) && issued_by(&certificate, &authority.certificate) {
            return Ok(Pair { certificate, key });
        }
    }
    let pair = sign(&crt, authority, client, usage, wanted, now)?;
    // Key first: a certificate without its key would look whole at the next start.
    write_private(&key_path, &pair.key, false)?;
    write_public(&crt, &pair.certificate)?;
    Ok(pair)
}

fn sign(
    path: &Path,
    authority: &Authority,
    client: &Client,
    usage: Usage,
    wanted: Option<&Wanted>,
    now: SystemTime,
) -> Result<Pair, PkiError> {
    let Some(authority_key) = &authority.key else {
        return Err(PkiError::NoAuthorityKey { path: path.to_owned(), authority: authority.name });
    };
    let mut params = params(&client.user, client.group.as_deref(), now, LEAF_LIFETIME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![match usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    if let Some(wanted) = wanted {
        for name in &wanted.dns {
            params.subject_alt_names.push(SanType::DnsName(dns_name(name)?));
        }
        params.subject_alt_names.extend(wanted.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    }
    let failed = |source| make(&client.user, source);
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, authority_key).map_err(failed)?;
    let key = new_key(&client.user)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn params(name: &str, group: Option<&str>, now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + since.saturating_sub(BACKDATE);
    params.not_after = epoch + since + lifetime;
    params
}

fn new_key(subject: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|source| make(subject, source))
}
fn key_pair(path: &Path, pem: &str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem).map_err(|error| broken(path, &error.to_string()))
}
fn dns_name(name: &str) -> Result<rcgen::string::Ia5String, PkiError> {
    name.to_owned().try_into().map_err(|source| make(name, source))
}
fn make(subject: &str, source: rcgen::Error) -> PkiError {
    PkiError::Make { subject: subject.to_owned(), source }
}
fn broken(path: &Path, why: &str) -> PkiError {
    PkiError::Broken { path: path.to_owned(), why: why.to_owned() }
}

fn with_first<T>(pem: &str, read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T) -> Option<T> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&block.contents).ok()?;
    Some(read(&certificate))
}

/// When the first certificate of a PEM text ends.
pub fn not_after(pem: &str) -> Option<SystemTime> {
    let seconds = with_first(pem, |certificate| certificate.validity().not_after.timestamp())?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

/// Whether the certificate is valid now and has a good part of its life left: a fifth of it, at most 90 days.
pub fn fresh(pem: &str, now: SystemTime) -> bool {
    let Some((start, end)) = with_first(pem, |certificate| {
        (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp())
    }) else {
        return false;
    };
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let margin = ((end - start) / 5).min(90 * i64::try_from(DAY.as_secs()).unwrap_or(0));
    start <= now && now < end - margin
}

fn subject_names(pem: &str) -> Option<Wanted> {
    with_first(pem, |certificate| {
        let mut found = Wanted::default();
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return found };
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(name) => drop(found.dns.insert((*name).to_owned())),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(octets) = <[u8; 4]>::try_from(*bytes) {
                        found.ips.insert(IpAddr::from(octets));
                    } else if let Ok(octets) = <[u8; 16]>::try_from(*bytes) {
                        found.ips.insert(IpAddr::from(octets));
                    }
                }
                _ => (),
            }
        }
        found
    })
}

/// Whether the first certificate of a PEM text is of this key.
fn belongs(pem: &str, key: &KeyPair) -> bool {
    use rcgen::PublicKeyData;
    let wanted = key.subject_public_key_info();
    with_first(pem, |certificate| certificate.public_key().raw == wanted.as_slice()).unwrap_or(false)
}

/// User and groups that a client certificate (DER) stands for: common name and organizations.
pub fn subject(certificate: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    Some((name, groups.map(str::to_owned).collect()))
}

/// A server's certificate that nobody has signed, for a component alone that was given none. Not written anywhere.
pub fn self_signed(component: &str, names: &[String], ips: &[IpAddr], now: SystemTime) -> Result<Pair, PkiError> {
    let failed = |source| make(component, source);
    let mut params = params(component, None, now, LEAF_LIFETIME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        params.subject_alt_names.push(SanType::DnsName(dns_name(name)?));
    }
    params.subject_alt_names.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
    let key = new_key(component)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Whether `leaf` names the key of `authority` as its signer's.
fn issued_by(leaf: &str, authority: &str) -> bool {
    let signer = with_first(leaf, |certificate| {
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => None,
        })
    });
    let own = with_first(authority, |certificate| {
        certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    });
    match (signer.flatten(), own.flatten()) {
        (Some(signer), Some(own)) => signer == own,
        // An authority made elsewhere may name no key.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names() -> ServerNames {
        ServerNames {
            node_name: "node-1".into(),
            cluster_domain: "cluster.local".into(),
            service_ip: [10, 96, 0, 1].into(),
            addresses: vec![[192, 0, 2, 7].into()],
            names: Vec::new(),
        }
    }

    #[test]
    fn makes_kubeadms_files_once_and_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let first = ensure(dir.path(), &names(), now).unwrap();
        let mut files: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(
            files,
            [
                "apiserver-kubelet-client.crt",
                "apiserver-kubelet-client.key",
                "apiserver.crt",
                "apiserver.key",
                "ca.crt",
                "ca.key",
                "front-proxy-ca.crt",
                "front-proxy-ca.key",
                "front-proxy-client.crt",
                "front-proxy-client.key",
                "sa.key",
                "sa.pub"
            ]
        );
        for file in files.iter().filter(|file| file.ends_with(".key")) {
            assert_eq!(dir.path().join(file).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        let again = ensure(dir.path(), &names(), now).unwrap();
        assert_eq!(first.apiserver.certificate, again.apiserver.certificate);
        assert_eq!(first.ca, again.ca);
        assert!(subject_names(&first.apiserver.certificate).unwrap().dns.contains("kubernetes.default.svc"));

        let mut more = names();
        more.addresses.push([192, 0, 2, 8].into());
        let wider = ensure(dir.path(), &more, now).unwrap();
        assert_ne!(wider.apiserver.certificate, first.apiserver.certificate, "a new address is a new certificate");
        assert_eq!(wider.ca, first.ca);
    }

    #[test]
    fn renews_what_ends_and_survives_years_off() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let first = ensure(dir.path(), &names(), now).unwrap();
        let conf = dir.path().join("admin.conf");
        assert!(first.ensure_kubeconfig(&conf, "https://127.0.0.1:6443", &Client::admin(), now).unwrap());
        assert!(!first.ensure_kubeconfig(&conf, "https://127.0.0.1:6443", &Client::admin(), now).unwrap());
        assert!(first.ensure_kubeconfig(&conf, "https://127.0.0.1:6444", &Client::admin(), now).unwrap());
        let later = now + 5 * 365 * DAY;
        let second = ensure(dir.path(), &names(), later).unwrap();
        assert_ne!(second.apiserver.certificate, first.apiserver.certificate);
        assert_eq!(second.ca, first.ca);
        assert!(fresh(&second.apiserver.certificate, later));
        assert!(second.ensure_kubeconfig(&conf, "https://127.0.0.1:6444", &Client::admin(), later).unwrap());
        let much_later = now + 10 * 365 * DAY;
        let third = ensure(dir.path(), &names(), much_later).unwrap();
        assert_ne!(third.ca, first.ca, "the authority is renewed");
        assert_eq!(third.ca_key.unwrap().reveal(), first.ca_key.unwrap().reveal(), "with the same key");
    }

    #[test]
    fn a_foreign_authority_is_named_and_a_foreign_leaf_made_again() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = SystemTime::now();
        let first = ensure(dir.path(), &names(), now).unwrap();
        ensure(other.path(), &names(), now).unwrap();
        let copy = |name: &str| std::fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
        copy("apiserver.key");
        let healed = ensure(dir.path(), &names(), now).unwrap();
        assert_ne!(healed.apiserver.certificate, first.apiserver.certificate, "key and certificate did not fit");
        copy("ca.crt");
        let error = ensure(dir.path(), &names(), now).unwrap_err().to_string();
        assert!(error.contains("ca.crt holds nothing usable (it is not the certificate of"), "{error}");
    }

    #[test]
    fn a_component_alone_signs_for_itself() {
        let pair =
            self_signed("kube-scheduler", &["localhost".to_owned()], &[[127, 0, 0, 1].into()], SystemTime::now());
        let found = subject_names(&pair.unwrap().certificate).unwrap();
        assert!(found.dns.contains("localhost") && found.ips.contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn a_public_key_without_its_private_one_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), &names(), SystemTime::now()).unwrap();
        let public = std::fs::read_to_string(dir.path().join("sa.pub")).unwrap();
        std::fs::remove_file(dir.path().join("sa.key")).unwrap();
        let error = ensure(dir.path(), &names(), SystemTime::now()).unwrap_err().to_string();
        assert!(error.contains("sa.pub holds nothing usable (its private key, sa.key, is missing)"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("sa.pub")).unwrap(), public);
    }

    #[test]
    fn a_broken_authority_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.key"), "nonsense").unwrap();
        let error = ensure(dir.path(), &names(), SystemTime::now()).unwrap_err();
        assert!(error.to_string().contains("ca.key holds nothing usable"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("ca.key")).unwrap(), "nonsense");
    }
}
