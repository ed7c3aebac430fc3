//! Certificate requests that others made: what they ask for, and certificates for them.
//!
//! A certificate carries the request's subject and key byte for byte, the names that Go's `x509.CertificateRequest` knows
//! (DNS, mail, addresses, URIs), the usages that the signer allows and nothing else of what the request says: extensions
//! are not copied. Mirrors `pkg/controller/certificates/authority`.

use super::{PkiError, broken, key_pair};
use rcgen::{KeyPair, SigningKey};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// Certificates begin so much before they are made: clocks differ.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Those that live shorter end when their life has passed, the others so much earlier as they began.
const SHORT: Duration = Duration::from_secs(8 * 60 * 60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// No PEM block of a request.
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotARequest,
    /// A block that holds something else.
    #[error("the request is malformed: {0}")]
    Malformed(String),
    /// Usages that no certificate can say.
    #[error("unrecognized usage values: [{0}]")]
    Usages(String),
    /// The key did not sign.
    #[error("the authority's key does not sign: {0}")]
    Sign(String),
}

/// A request, read.
#[derive(Clone, Debug, Default)]
pub struct CertificateRequest {
    /// The subject, DER.
    subject: Vec<u8>,
    /// The public key with its algorithm, DER.
    key: Vec<u8>,
    /// The subject's last common name.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// Alternative names.
    pub dns_names: Vec<String>,
    /// Alternative names.
    pub email_addresses: Vec<String>,
    /// Alternative names.
    pub ip_addresses: Vec<IpAddr>,
    /// Alternative names.
    pub uris: Vec<String>,
}

impl CertificateRequest {
    /// Reads PEM. Whether the request is signed by its own key is not asked: the API server has.
    pub fn parse(pem: &[u8]) -> Result<Self, RequestError> {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| RequestError::NotARequest)?;
        if block.label != "CERTIFICATE REQUEST" {
            return Err(RequestError::NotARequest);
        }
        let malformed = |error: &dyn std::fmt::Display| RequestError::Malformed(error.to_string());
        let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|error| malformed(&error))?;
        let info = &request.certification_request_info;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|error| malformed(&error))
        };
        let mut read = Self {
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
            common_name: info.subject.iter_common_name().last().map(text).transpose()?.unwrap_or_default(),
            organizations: info.subject.iter_organization().map(text).collect::<Result<_, _>>()?,
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                read.add_name(name)?;
            }
        }
        Ok(read)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) -> Result<(), RequestError> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.email_addresses.push((*name).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let sixteen = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                let address = four.or_else(|_| sixteen());
                self.ip_addresses.push(address.map_err(|_| {
                    RequestError::Malformed(format!("cannot parse IP address of length {}", bytes.len()))
                })?);
            }
            GeneralName::Invalid(..) => {
                return Err(RequestError::Malformed("a subject alternative name is no text".to_owned()));
            }
            // Names of other kinds are not certified.
            _ => (),
        }
        Ok(())
    }
}

/// An authority that signs requests.
pub struct Signer {
    /// Its subject, DER.
    issuer: Vec<u8>,
    /// Its key's identifier, when it names one.
    key_id: Option<Vec<u8>>,
    not_after: SystemTime,
    key: KeyPair,
    /// The signature algorithm, DER.
    algorithm: &'static [u8],
}

const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
const RSA_SHA256: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];

impl Signer {
    /// From the PEM texts of certificate and key; `path` is named in errors.
    pub fn new(path: &Path, certificate: &str, key: &str) -> Result<Self, PkiError> {
        let key = key_pair(path, key)?;
        if !super::belongs(certificate, &key) {
            return Err(broken(path, "it is not the key of the authority's certificate"));
        }
        let algorithms: [(&rcgen::SignatureAlgorithm, &'static [u8]); 4] = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, ECDSA_SHA256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, ECDSA_SHA384),
            (&rcgen::PKCS_ED25519, ED25519),
            (&rcgen::PKCS_RSA_SHA256, RSA_SHA256),
        ];
        let algorithm = algorithms.iter().find(|(known, _)| key.is_compatible(known)).map(|(_, der)| *der);
        let read = super::with_first(certificate, |certificate| {
            let key_id = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
            (certificate.subject().as_raw().to_vec(), key_id)
        });
        let (issuer, key_id) = read.ok_or_else(|| broken(path, "not a certificate"))?;
        let not_after = super::not_after(certificate).ok_or_else(|| broken(path, "not a certificate"))?;
        let algorithm = algorithm.ok_or_else(|| broken(path, "its kind of key does not sign certificates here"))?;
        Ok(Self { issuer, key_id, not_after, key, algorithm })
    }

    /// A certificate for the request, as PEM. It ends with the authority at the latest.
    pub fn sign(
        &self,
        request: &CertificateRequest,
        usages: &[&str],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, RequestError> {
        let (key_usage, extended) = read_usages(usages)?;
        let not_before = now.checked_sub(BACKDATE).unwrap_or(UNIX_EPOCH);
        let end = if lifetime < SHORT { now + lifetime } else { now + lifetime.saturating_sub(BACKDATE) };
        let not_after = end.min(self.not_after);
        let mut extensions = Vec::new();
        if key_usage != 0 {
            extensions.push(extension(&[0x55, 0x1d, 0x0f], true, &named_bits(key_usage)));
        }
        if !extended.is_empty() {
            let identifiers: Vec<Vec<u8>> = extended.iter().map(|oid| der(0x06, oid)).collect();
            extensions.push(extension(&[0x55, 0x1d, 0x25], false, &der(0x30, &identifiers.concat())));
        }
        // Not an authority.
        extensions.push(extension(&[0x55, 0x1d, 0x13], true, &der(0x30, &[])));
        if let Some(id) = &self.key_id {
            extensions.push(extension(&[0x55, 0x1d, 0x23], false, &der(0x30, &der(0x80, id))));
        }
        let names = alternative_names(request);
        if !names.is_empty() {
            // An empty subject is two bytes; the names are then all there is, and nobody may overlook them.
            let critical = request.subject.len() <= 2;
            extensions.push(extension(&[0x55, 0x1d, 0x11], critical, &der(0x30, &names)));
        }
        let body = der(
            0x30,
            &[
                der(0xa0, &der(0x02, &[2])),
                der(0x02, &serial()),
                self.algorithm.to_vec(),
                self.issuer.clone(),
                der(0x30, &[time(not_before), time(not_after)].concat()),
                request.subject.clone(),
                request.key.clone(),
                der(0xa3, &der(0x30, &extensions.concat())),
            ]
            .concat(),
        );
        let mut signature = self.key.sign(&body).map_err(|error| RequestError::Sign(error.to_string()))?;
        signature.insert(0, 0);
        let certificate = der(0x30, &[body, self.algorithm.to_vec(), der(0x03, &signature)].concat());
        Ok(pem("CERTIFICATE", &certificate))
    }
}

/// A random positive number of 16 bytes.
fn serial() -> [u8; 16] {
    let mut bytes = *uuid::Uuid::new_v4().as_bytes();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    bytes
}

/// Tag, length, contents.
fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = contents.len();
    if length < 0x80 {
        out.push(length.to_le_bytes()[0]);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        out.push(0x80 | bytes.len().to_le_bytes()[0]);
        out.extend(bytes);
    }
    out.extend_from_slice(contents);
    out
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der(0x01, &[0xff]) } else { Vec::new() };
    der(0x30, &[der(0x06, oid), critical, der(0x04, value)].concat())
}

/// A bit string whose first bit is the lowest of `bits`, without the zeros behind the last one.
fn named_bits(bits: u16) -> Vec<u8> {
    let [first, second] = bits.reverse_bits().to_be_bytes();
    let bytes = if second == 0 { vec![first] } else { vec![first, second] };
    let unused = bytes.last().map_or(0, |last| last.trailing_zeros().min(7).to_le_bytes()[0]);
    der(0x03, &[vec![unused], bytes].concat())
}

/// `UTCTime` before 2050, `GeneralizedTime` from there.
fn time(at: SystemTime) -> Vec<u8> {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let stamp = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let stamp = stamp.unwrap_or(jiff::Timestamp::MAX);
    let text = stamp.strftime("%Y%m%d%H%M%SZ").to_string();
    if text.as_str() < "2050" { der(0x17, &text.as_bytes()[2..]) } else { der(0x18, text.as_bytes()) }
}

fn alternative_names(request: &CertificateRequest) -> Vec<u8> {
    let texts =
        |tag: u8, names: &[String]| -> Vec<u8> { names.iter().flat_map(|name| der(tag, name.as_bytes())).collect() };
    let addresses = request.ip_addresses.iter().flat_map(|address| match address {
        IpAddr::V4(address) => der(0x87, &address.octets()),
        IpAddr::V6(address) => der(0x87, &address.octets()),
    });
    let mut names = texts(0x82, &request.dns_names);
    names.extend(texts(0x81, &request.email_addresses));
    names.extend(addresses);
    names.extend(texts(0x86, &request.uris));
    names
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A usage as a bit of the key usage (bit 0 is the lowest), or as an identifier of the extended ones.
enum Usage {
    Key(u16),
    Extended(&'static [u8]),
}

fn usage(name: &str) -> Option<Usage> {
    /// `id-kp`, 1.3.6.1.5.5.7.3, and a number below it.
    macro_rules! purpose {
        ($number:literal) => {
            Usage::Extended(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, $number])
        };
    }
    Some(match name {
        "signing" | "digital signature" => Usage::Key(1),
        "content commitment" => Usage::Key(1 << 1),
        "key encipherment" => Usage::Key(1 << 2),
        "data encipherment" => Usage::Key(1 << 3),
        "key agreement" => Usage::Key(1 << 4),
        "cert sign" => Usage::Key(1 << 5),
        "crl sign" => Usage::Key(1 << 6),
        "encipher only" => Usage::Key(1 << 7),
        "decipher only" => Usage::Key(1 << 8),
        "any" => Usage::Extended(&[0x55, 0x1d, 0x25, 0x00]),
        "server auth" => purpose!(1),
        "client auth" => purpose!(2),
        "code signing" => purpose!(3),
        "email protection" | "s/mime" => purpose!(4),
        "ipsec end system" => purpose!(5),
        "ipsec tunnel" => purpose!(6),
        "ipsec user" => purpose!(7),
        "timestamping" => purpose!(8),
        "ocsp signing" => purpose!(9),
        "microsoft sgc" => Usage::Extended(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x0a, 0x03, 0x03]),
        "netscape sgc" => Usage::Extended(&[0x60, 0x86, 0x48, 0x01, 0x86, 0xf8, 0x42, 0x04, 0x01]),
        _ => return None,
    })
}

/// Key usages as bits, extended ones as sorted identifiers (`keyUsagesFromStrings`).
fn read_usages(usages: &[&str]) -> Result<(u16, Vec<&'static [u8]>), RequestError> {
    let (mut bits, mut extended, mut unknown) = (0, Vec::new(), Vec::new());
    for name in usages {
        match usage(name) {
            Some(Usage::Key(bit)) => bits |= bit,
            Some(Usage::Extended(oid)) => extended.push(oid),
            None => unknown.push(*name),
        }
    }
    if !unknown.is_empty() {
        return Err(RequestError::Usages(unknown.join(" ")));
    }
    extended.sort_unstable();
    extended.dedup();
    Ok((bits, extended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, SanType};
    use x509_parser::certificate::X509Certificate;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn request() -> (CertificateRequest, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        params.subject_alt_names = vec![
            SanType::DnsName("n1".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 7].into()),
            SanType::IpAddress("fd00::7".parse().unwrap()),
            SanType::Rfc822Name("a@example.com".try_into().unwrap()),
            SanType::URI("spiffe://example.com/a".try_into().unwrap()),
        ];
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        (CertificateRequest::parse(pem.as_bytes()).unwrap(), key)
    }
    fn authority(algorithm: &'static rcgen::SignatureAlgorithm, end: SystemTime) -> (Signer, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = super::super::params("kubernetes", None, SystemTime::now(), DAY);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let since = end.duration_since(UNIX_EPOCH).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since;
        let pem = params.self_signed(&key).unwrap().pem();
        (Signer::new(Path::new("ca.key"), &pem, &key.serialize_pem()).unwrap(), pem)
    }

    #[test]
    fn a_request_says_whom_it_is_for() {
        let (request, _) = request();
        assert_eq!((request.common_name.as_str(), request.organizations.len()), ("system:node:n1", 1));
        assert_eq!(request.dns_names, ["n1"]);
        assert_eq!(request.ip_addresses.len(), 2);
        assert_eq!((request.email_addresses.len(), request.uris.len()), (1, 1));
        let error = CertificateRequest::parse(b"nothing").unwrap_err();
        assert_eq!(error.to_string(), "PEM block type must be CERTIFICATE REQUEST");
        let other = pem("CERTIFICATE", &[0x30, 0]);
        assert_eq!(CertificateRequest::parse(other.as_bytes()).unwrap_err(), RequestError::NotARequest);
        let broken = pem("CERTIFICATE REQUEST", &[0x30, 0x03, 0x02, 0x01]);
        assert!(matches!(CertificateRequest::parse(broken.as_bytes()), Err(RequestError::Malformed(_))));
    }

    #[test]
    fn a_certificate_is_believed_and_says_what_was_allowed() {
        let now = SystemTime::now();
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let (signer, ca) = authority(algorithm, now + 1000 * DAY);
            let (request, key) = request();
            let usages = ["digital signature", "decipher only", "client auth", "server auth"];
            let made = signer.sign(&request, &usages, 365 * DAY, now).unwrap();
            let (_, block) = x509_parser::pem::parse_x509_pem(made.as_bytes()).unwrap();
            let (rest, certificate) = X509Certificate::from_der(&block.contents).unwrap();
            assert!(rest.is_empty());
            let (_, ca_block) = x509_parser::pem::parse_x509_pem(ca.as_bytes()).unwrap();
            let (_, ca) = X509Certificate::from_der(&ca_block.contents).unwrap();
            assert_eq!(certificate.issuer().as_raw(), ca.subject().as_raw());
            assert_eq!(certificate.subject().as_raw(), request.subject.as_slice());
            assert!(super::super::belongs(&made, &key));
            let usage = certificate.key_usage().unwrap().unwrap();
            assert!(usage.critical && usage.value.digital_signature() && usage.value.decipher_only());
            assert!(!usage.value.key_encipherment() && !usage.value.encipher_only());
            let extended = certificate.extended_key_usage().unwrap().unwrap().value;
            assert!(extended.client_auth && extended.server_auth && !extended.code_signing);
            assert!(!certificate.is_ca());
            let names = super::super::subject_names(&made).unwrap();
            assert_eq!((names.dns.len(), names.ips.len()), (1, 2));
            let verifier = ring::signature::UnparsedPublicKey::new(
                match algorithm {
                    known if *known == rcgen::PKCS_ECDSA_P384_SHA384 => &ring::signature::ECDSA_P384_SHA384_ASN1,
                    known if *known == rcgen::PKCS_ED25519 => {
                        &ring::signature::ED25519 as &dyn ring::signature::VerificationAlgorithm
                    }
                    _ => &ring::signature::ECDSA_P256_SHA256_ASN1,
                },
                &ca.public_key().subject_public_key.data,
            );
            verifier.verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data).unwrap();
        }
    }

    #[test]
    fn lives_end_with_the_authority_and_short_ones_are_not_cut() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (signer, _) = authority(&rcgen::PKCS_ECDSA_P256_SHA256, now + 10 * DAY);
        let (request, _) = request();
        let life = |lifetime: Duration| {
            let made = signer.sign(&request, &["client auth"], lifetime, now).unwrap();
            super::super::not_after(&made).unwrap().duration_since(now).unwrap()
        };
        assert_eq!(life(Duration::from_secs(600)), Duration::from_secs(600));
        assert_eq!(life(DAY), DAY - BACKDATE);
        assert_eq!(life(20 * DAY), 10 * DAY);
        assert_eq!(
            signer.sign(&request, &["client auth", "flying"], DAY, now).unwrap_err().to_string(),
            "unrecognized usage values: [flying]"
        );
    }

    #[test]
    fn bits_and_lengths_are_minimal() {
        assert_eq!(named_bits(1), [0x03, 0x02, 0x07, 0x80]);
        assert_eq!(named_bits(0b101), [0x03, 0x02, 0x05, 0xa0]);
        assert_eq!(named_bits(1 << 8), [0x03, 0x03, 0x07, 0x00, 0x80]);
        assert_eq!(der(0x04, &[0; 127])[..2], [0x04, 0x7f]);
        assert_eq!(der(0x04, &[0; 128])[..3], [0x04, 0x81, 0x80]);
        assert_eq!(der(0x04, &[0; 300])[..4], [0x04, 0x82, 0x01, 0x2c]);
        assert_eq!(time(UNIX_EPOCH + Duration::from_secs(2_524_608_000))[..2], [0x18, 15], "2050");
        assert_eq!(time(UNIX_EPOCH + Duration::from_secs(2_524_607_999))[..2], [0x17, 13]);
    }
}
