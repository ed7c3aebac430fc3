//! JSON Web Tokens: reading, checking and signing (ES256, RS256; ES384 for checking).
//!
//! The algorithm is the **key's**, never the token's word: `none`, HMAC and any mismatch are refused before a signature
//! is looked at.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::Deserialize;

/// Why a token or key is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwtError {
    /// Not three parts, or not base64, or not JSON.
    #[error("not a JSON Web Token")]
    Malformed,
    /// An algorithm that no key of ours has.
    #[error("no key for this algorithm")]
    Algorithm,
    /// No key made this signature.
    #[error("the signature is not of a known key")]
    Signature,
    /// A key that cannot be used.
    #[error("cannot use the service account key: {0}")]
    Key(String),
}

/// Whether text has the form of a token.
pub fn looks_like(text: &str) -> bool {
    text.split('.').count() == 3 && text.starts_with("ey")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Es256,
    Es384,
    Rs256,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
        }
    }
    fn verification(self) -> &'static dyn signature::VerificationAlgorithm {
        match self {
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

/// A key that checks tokens.
pub struct PublicKey {
    /// Its id in tokens: base64url of the SHA-256 of its DER, as upstream makes it.
    pub id: String,
    algorithm: Algorithm,
    /// As ring wants it: the point, or the RSA key's own DER.
    material: Vec<u8>,
}

impl PublicKey {
    /// Reads every public key of a PEM text; private keys and certificates in it are refused by name.
    pub fn all_from_pem(pem: &str) -> Result<Vec<Self>, JwtError> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
            let (kind, der) = section.map_err(|error| JwtError::Key(format!("{error:?}")))?;
            match kind {
                SectionKind::PublicKey => keys.push(Self::from_der(&der)?),
                other => return Err(JwtError::Key(format!("{other:?} where a public key is wanted"))),
            }
        }
        if keys.is_empty() { Err(JwtError::Key("no public key".to_owned())) } else { Ok(keys) }
    }

    /// Reads a SubjectPublicKeyInfo.
    pub fn from_der(der: &[u8]) -> Result<Self, JwtError> {
        use x509_parser::prelude::FromDer;
        let (_, info) =
            x509_parser::x509::SubjectPublicKeyInfo::from_der(der).map_err(|error| JwtError::Key(error.to_string()))?;
        let material = info.subject_public_key.data.to_vec();
        let algorithm = match info.parsed() {
            Ok(x509_parser::public_key::PublicKey::RSA(_)) => Algorithm::Rs256,
            Ok(x509_parser::public_key::PublicKey::EC(_)) if material.len() == 65 => Algorithm::Es256,
            Ok(x509_parser::public_key::PublicKey::EC(_)) if material.len() == 97 => Algorithm::Es384,
            _ => return Err(JwtError::Key("neither RSA nor ECDSA on P-256 or P-384".to_owned())),
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        Ok(Self { id: URL_SAFE_NO_PAD.encode(digest), algorithm, material })
    }

    /// As a JSON Web Key, for `/openid/v1/jwks`.
    pub fn to_jwk(&self) -> Option<String> {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (id, name) = (&self.id, self.algorithm.name());
        match self.algorithm {
            Algorithm::Es256 | Algorithm::Es384 => {
                let (x, y) = self.material.get(1..)?.split_at((self.material.len() - 1) / 2);
                let curve = if self.algorithm == Algorithm::Es256 { "P-256" } else { "P-384" };
                let (x, y) = (encode(x), encode(y));
                Some(format!(
                    r#"{{"use":"sig","kty":"EC","kid":"{id}","crv":"{curve}","alg":"{name}","x":"{x}","y":"{y}"}}"#
                ))
            }
            Algorithm::Rs256 => {
                use x509_parser::der_parser::asn1_rs::{FromDer, Integer, Sequence};
                let (_, sequence) = Sequence::from_der(&self.material).ok()?;
                let (rest, modulus) = Integer::from_der(&sequence.content).ok()?;
                let (_, exponent) = Integer::from_der(rest).ok()?;
                let trim = |bytes: &[u8]| encode(bytes.strip_prefix(&[0]).unwrap_or(bytes));
                let (n, e) = (trim(modulus.as_ref()), trim(exponent.as_ref()));
                Some(format!(r#"{{"use":"sig","kty":"RSA","kid":"{id}","alg":"{name}","n":"{n}","e":"{e}"}}"#))
            }
        }
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(default)]
    kid: Option<std::borrow::Cow<'a, str>>,
}

/// Checks the signature against the keys and returns the payload's bytes, which say nothing yet about time or audience.
/// The claims are read before only through [`unverified_payload`].
pub fn verify(token: &str, keys: &[PublicKey]) -> Result<Vec<u8>, JwtError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(JwtError::Malformed)?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| JwtError::Malformed);
    let (header, signature) = (decode(header)?, decode(signature)?);
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| JwtError::Malformed)?;
    let same_algorithm = |key: &&PublicKey| key.algorithm.name() == header.alg;
    if !keys.iter().any(|key| same_algorithm(&key)) {
        return Err(JwtError::Algorithm);
    }
    // The key that the token names first; the others too, as ids were not always written.
    let named = |key: &&PublicKey| header.kid.as_deref() == Some(key.id.as_str());
    let in_order = keys.iter().filter(named).chain(keys.iter().filter(|key| !named(key)));
    let good = in_order.filter(same_algorithm).any(|key| {
        UnparsedPublicKey::new(key.algorithm.verification(), &key.material)
            .verify(signed.as_bytes(), &signature)
            .is_ok()
    });
    if good { decode(payload) } else { Err(JwtError::Signature) }
}

/// The payload before its signature was looked at: to find out who issued the token, and for nothing else.
pub fn unverified_payload(token: &str) -> Result<Vec<u8>, JwtError> {
    let payload = token.split('.').nth(1).ok_or(JwtError::Malformed)?;
    URL_SAFE_NO_PAD.decode(payload).map_err(|_| JwtError::Malformed)
}

enum Signing {
    Ecdsa(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// A key that signs tokens.
pub struct SigningKey {
    key: Signing,
    id: String,
    random: SystemRandom,
}

impl SigningKey {
    /// From `sa.key`: PKCS#8 with ECDSA P-256 or RSA, or RSA in its own form. `public` tells the key's id: it is the
    /// first of the public keys that checks what this key signs.
    pub fn from_pem(pem: &str, public: &[PublicKey]) -> Result<Self, JwtError> {
        let random = SystemRandom::new();
        let failed = |error: ring::error::KeyRejected| JwtError::Key(error.to_string());
        let der = rustls_pki_types::PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| JwtError::Key(format!("{error:?}")))?;
        let key = match &der {
            rustls_pki_types::PrivateKeyDer::Pkcs1(der) => {
                Signing::Rsa(Box::new(RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(failed)?))
            }
            rustls_pki_types::PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                match EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, der, &random) {
                    Ok(key) => Signing::Ecdsa(Box::new(key)),
                    Err(_) => Signing::Rsa(Box::new(RsaKeyPair::from_pkcs8(der).map_err(failed)?)),
                }
            }
            _ => return Err(JwtError::Key("neither PKCS#8 nor PKCS#1".to_owned())),
        };
        let mut own = Self { key, id: String::new(), random };
        let probe = own.sign("{}")?;
        let id = public.iter().find(|key| verify(&probe, std::slice::from_ref(key)).is_ok()).map(|key| key.id.clone());
        own.id = id.ok_or_else(|| JwtError::Key("none of the public keys belongs to it".to_owned()))?;
        Ok(own)
    }

    /// Signs claims.
    pub fn sign(&self, claims: &str) -> Result<String, JwtError> {
        let algorithm = match &self.key {
            Signing::Ecdsa(_) => "ES256",
            Signing::Rsa(_) => "RS256",
        };
        let header = format!(r#"{{"alg":"{algorithm}","kid":"{}"}}"#, self.id);
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let failed = |_| JwtError::Key("signing failed".to_owned());
        let signature = match &self.key {
            Signing::Ecdsa(key) => key.sign(&self.random, signed.as_bytes()).map_err(failed)?.as_ref().to_vec(),
            Signing::Rsa(key) => {
                let mut out = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &self.random, signed.as_bytes(), &mut out).map_err(failed)?;
                out
            }
        };
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
