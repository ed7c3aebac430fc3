//! Answers that are made in one place: the failure `Status`, in the encoding the client can read.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use skiff_machinery::error::{Cause, Details};
use skiff_machinery::{ApiError, Reason};
use skiff_net::Body;

/// `application/json`.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// `application/vnd.kubernetes.protobuf`.
pub const PROTOBUF: HeaderValue = HeaderValue::from_static("application/vnd.kubernetes.protobuf");

/// Answers with `error` as a `metav1.Status`. Protobuf when the client asks for it first, JSON otherwise: whatever else
/// it accepts, a client must be able to read why it was refused.
pub fn error(error: &ApiError, request_headers: &HeaderMap) -> http::Response<Body> {
    let (kind, body) =
        if wants_protobuf(request_headers) { (PROTOBUF, status_protobuf(error)) } else { (JSON, status_json(error)) };
    let mut answer = http::Response::new(Body::Full(body.into()));
    *answer.status_mut() = http::StatusCode::from_u16(error.code()).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Some(seconds) = error.retry_after_seconds() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// A plain-text answer with upstream's headers.
pub fn text(status: http::StatusCode, body: impl Into<Body>) -> http::Response<Body> {
    let mut answer = http::Response::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// A JSON answer.
pub fn json(status: http::StatusCode, body: impl Into<Bytes>) -> http::Response<Body> {
    let mut answer = http::Response::new(Body::Full(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

fn wants_protobuf(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else { return false };
    let first = accept.split([',', ';']).next().unwrap_or_default().trim();
    first == "application/vnd.kubernetes.protobuf"
}

/// The `Status` in the order in which Go writes its fields.
pub fn status_json(error: &ApiError) -> Vec<u8> {
    let mut out = String::with_capacity(256);
    out.push_str(r#"{"kind":"Status","apiVersion":"v1","metadata":{"#);
    if let Some(token) = error.continue_token() {
        out.push_str(r#""continue":"#);
        json_text(&mut out, token);
    }
    out.push_str(r#"},"status":"Failure","message":"#);
    json_text(&mut out, error.message());
    if error.reason() != Reason::Unknown {
        out.push_str(r#","reason":"#);
        json_text(&mut out, error.reason().as_str());
    }
    if let Some(details) = error.details() {
        out.push_str(r#","details":"#);
        details_json(&mut out, details);
    }
    out.push_str(r#","code":"#);
    out.push_str(itoa::Buffer::new().format(error.code()));
    out.push_str("}\n");
    out.into_bytes()
}

fn details_json(out: &mut String, details: &Details) {
    let mut fields = Fields::begin(out);
    fields.text("name", &details.name);
    fields.text("group", &details.group);
    fields.text("kind", &details.kind);
    fields.text("uid", &details.uid);
    if !details.causes.is_empty() {
        let out = fields.key("causes");
        out.push('[');
        for (index, Cause { reason, message, field }) in details.causes.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            let mut cause = Fields::begin(out);
            cause.text("reason", reason);
            cause.text("message", message);
            cause.text("field", field);
            cause.end();
        }
        out.push(']');
    }
    if details.retry_after_seconds != 0 {
        fields.key("retryAfterSeconds").push_str(itoa::Buffer::new().format(details.retry_after_seconds));
    }
    fields.end();
}

/// Writes one JSON struct, leaving out empty text.
struct Fields<'a> {
    out: &'a mut String,
    first: bool,
}

impl<'a> Fields<'a> {
    fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }
    fn key(&mut self, key: &str) -> &mut String {
        if !std::mem::take(&mut self.first) {
            self.out.push(',');
        }
        json_text(self.out, key);
        self.out.push(':');
        self.out
    }
    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            let out = self.key(key);
            json_text(out, value);
        }
    }
    fn end(self) {
        self.out.push('}');
    }
}

/// Writes quoted JSON text with Go's escapes (`<`, `>` and `&` too).
pub fn json_text(out: &mut String, text: &str) {
    use std::fmt::Write;
    out.push('"');
    for symbol in text.chars() {
        match symbol {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                write!(out, "\\u{:04x}", u32::from(symbol)).expect("writing to a String cannot fail");
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
}

/// The `Status` as protobuf in upstream's envelope: `k8s\0`, then `runtime.Unknown` with type meta and raw bytes.
pub fn status_protobuf(error: &ApiError) -> Vec<u8> {
    let mut list_meta = Vec::new();
    // ListMeta writes selfLink, resourceVersion and continue even when empty, as gogo's marshaller does.
    for (number, text) in [(1, ""), (2, ""), (3, error.continue_token().unwrap_or_default())] {
        field(&mut list_meta, number, text.as_bytes());
    }
    let mut status = Vec::with_capacity(256);
    field(&mut status, 1, &list_meta);
    field(&mut status, 2, b"Failure");
    field(&mut status, 3, error.message().as_bytes());
    field(&mut status, 4, error.reason().as_str().as_bytes());
    if let Some(details) = error.details() {
        let mut bytes = Vec::new();
        for (number, text) in [(1, &details.name), (2, &details.group), (3, &details.kind)] {
            field(&mut bytes, number, text.as_bytes());
        }
        for Cause { reason, message, field: path } in &details.causes {
            let mut cause = Vec::new();
            for (number, text) in [(1, reason), (2, message), (3, path)] {
                field(&mut cause, number, text.as_bytes());
            }
            field(&mut bytes, 4, &cause);
        }
        number(&mut bytes, 5, u64::from(details.retry_after_seconds.unsigned_abs()));
        field(&mut bytes, 6, details.uid.as_bytes());
        field(&mut status, 5, &bytes);
    }
    number(&mut status, 6, u64::from(error.code()));
    let mut type_meta = Vec::new();
    field(&mut type_meta, 1, b"v1");
    field(&mut type_meta, 2, b"Status");
    let mut out = b"k8s\0".to_vec();
    field(&mut out, 1, &type_meta);
    field(&mut out, 2, &status);
    field(&mut out, 3, b"");
    field(&mut out, 4, b"");
    out
}

fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
fn number(out: &mut Vec<u8>, number: u8, value: u64) {
    out.push(number << 3);
    varint(out, value);
}
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::GroupResource;

    #[test]
    fn status_has_upstreams_bytes() {
        let error = ApiError::not_found(&GroupResource::new("", "pods"), "a<b");
        assert_eq!(
            String::from_utf8(status_json(&error)).unwrap(),
            "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"pods \\\"a\\u003cb\\\" \
             not found\",\"reason\":\"NotFound\",\"details\":{\"name\":\"a\\u003cb\",\"kind\":\"pods\"},\"code\":404}\n"
        );
        let bytes = status_protobuf(&error);
        assert!(bytes.starts_with(b"k8s\0\x0a\x0c\x0a\x02v1\x12\x06Status\x12"));
        assert!(bytes.ends_with(b"\x30\x94\x03\x1a\x00\x22\x00"));
    }
}
