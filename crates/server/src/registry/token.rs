//! Continue tokens, in upstream's format, so that a list begun on one server can go on at another.
//!
//! Mirrors `EncodeContinue` and `DecodeContinue` (apiserver/pkg/storage/continue.go): base64 of
//! `{"v":"meta.k8s.io/v1","rv":REVISION,"start":"KEY"}`, where the key is relative to the listed prefix and a trailing
//! NUL means "after this key". Revision -1 continues inconsistently.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use skiff_machinery::ApiError;
use skiff_store::Revision;

#[derive(Serialize, Deserialize)]
struct Token<'a> {
    #[serde(borrow)]
    v: std::borrow::Cow<'a, str>,
    #[serde(default)]
    rv: Revision,
    #[serde(borrow, default)]
    start: std::borrow::Cow<'a, str>,
}

/// As Go decodes `base64.RawURLEncoding`: bits behind the last byte do not matter.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Continue {
    /// The revision of the list; -1 for "now".
    pub(super) revision: Revision,
    /// The store key to begin with.
    pub(super) start: Vec<u8>,
}

impl Continue {
    /// A token for the keys after `last`, which begins with `prefix`.
    pub(super) fn encode(revision: Revision, prefix: &[u8], last: &[u8]) -> Option<String> {
        let relative = std::str::from_utf8(last.strip_prefix(prefix)?).ok()?;
        let start = format!("{relative}\0").into();
        let token = serde_json::to_vec(&Token { v: "meta.k8s.io/v1".into(), rv: revision, start }).ok()?;
        Some(URL_SAFE_NO_PAD.encode(token))
    }

    /// Reads a token for a list of `prefix`.
    pub(super) fn decode(token: &str, prefix: &[u8]) -> Result<Self, ApiError> {
        let invalid =
            |why: &str| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = LENIENT.decode(token.trim_end_matches('=')).map_err(|error| {
            let (base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) = error
            else {
                return invalid(&format!("illegal base64 data at input byte {}", token.len() / 4 * 4));
            };
            invalid(&format!("illegal base64 data at input byte {at}"))
        })?;
        let token: Token<'_> = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(invalid(&format!("server does not recognize this encoded version {:?}", token.v)));
        }
        if token.rv == 0 {
            return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(invalid("encoded start key empty (version meta.k8s.io/v1)"));
        }
        // The key must not leave the prefix (`path.Clean` in upstream).
        if token.start.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(invalid(&token.start));
        }
        Ok(Self { revision: token.rv, start: [prefix, token.start.as_bytes()].concat() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_upstreams() {
        let token = Continue::encode(7, b"/registry/pods/", b"/registry/pods/a/b").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(&token).unwrap(), br#"{"v":"meta.k8s.io/v1","rv":7,"start":"a/b\u0000"}"#);
        let read = Continue::decode(&token, b"/registry/pods/").unwrap();
        assert_eq!(read, Continue { revision: 7, start: b"/registry/pods/a/b\0".to_vec() });
        for bad in ["", "x", &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":7,"start":"../secrets/a"}"#)] {
            assert_eq!(Continue::decode(bad, b"/registry/pods/").unwrap_err().code(), 400);
        }
    }
}
