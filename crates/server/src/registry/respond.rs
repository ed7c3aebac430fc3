//! Answers: one object, or a `Status`, in the encoding and shape that the client takes.

use super::cache::{Cache, Encoding, Entry, Media, Slot};
use super::negotiate::{Accepted, Format, Shape};
use super::{table, wire};
use crate::kinds::Resource;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use skiff_machinery::codec::protobuf;
use skiff_machinery::schema::{StructRef, StructType, Type, builtin};
use skiff_machinery::{ApiError, Map, Value, codec};
use skiff_net::Body;
use std::sync::Arc;

/// A kind in one served version, with its cache: what a verb works on.
#[derive(Clone)]
pub(super) struct Scope {
    pub(super) resource: Arc<Resource>,
    pub(super) version: usize,
    pub(super) cache: Arc<Cache>,
    pub(super) slot: Slot,
}

impl Scope {
    pub(super) fn version(&self) -> &crate::kinds::Version {
        &self.resource.versions[self.version]
    }
    /// The columns.
    pub(super) fn table(&self) -> Option<&Arc<dyn crate::kinds::TableConvertor>> {
        match &self.version().custom {
            Some(custom) => custom.table.as_ref(),
            None => self.resource.table.as_ref(),
        }
    }
    /// Whether the kind's schema is one of the generated table.
    pub(super) fn is_builtin(&self) -> bool {
        matches!(self.version().schema, Type::Struct(StructRef::Builtin(_)))
    }
    /// The store key of an object.
    pub(super) fn key(&self, namespace: &str, name: &str) -> Bytes {
        let prefix = self.cache.prefix();
        let mut key = Vec::with_capacity(prefix.len() + namespace.len() + name.len() + 1);
        key.extend_from_slice(prefix);
        if !namespace.is_empty() {
            key.extend_from_slice(namespace.as_bytes());
            key.push(b'/');
        }
        key.extend_from_slice(name.as_bytes());
        key.into()
    }
    /// The store keys of a namespace, or of all.
    pub(super) fn key_prefix(&self, namespace: &str) -> Bytes {
        if namespace.is_empty() { self.cache.prefix().clone() } else { self.key(namespace, "") }
    }
}

/// The encoding of the object itself that an answer of this format is made from.
pub(super) fn media(format: Format) -> Media {
    match format {
        Format::Protobuf => Media::Protobuf,
        Format::Json | Format::Yaml => Media::Json,
    }
}

pub(super) fn object_meta() -> &'static StructType {
    builtin::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("the table holds ObjectMeta")
}

/// What precedes and follows `metadata` in a `PartialObjectMetadata`.
pub(super) const PARTIAL_HEAD: &[u8] = br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#;

/// `PartialObjectMetadata` as a JSON struct.
pub(super) fn partial_json(encoding: &Encoding, out: &mut Vec<u8>) {
    out.extend_from_slice(PARTIAL_HEAD);
    out.extend_from_slice(encoding.slice(encoding.parts.metadata));
    out.push(b'}');
}

/// The protobuf message of an object's metadata; custom resources have no protobuf of their own to slice.
pub(super) async fn metadata_message(scope: &Scope, entry: &Entry) -> Result<Bytes, ApiError> {
    if scope.is_builtin() {
        let encoding = entry.encoding(scope.cache.codec(), scope.slot, Media::Protobuf).await?;
        let (start, end) = encoding.parts.metadata;
        return Ok(encoding.bytes.slice(start as usize..end as usize));
    }
    let tree = entry.tree(scope.cache.codec())?;
    let metadata = tree.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    Ok(codec::protobuf::encode(&metadata, object_meta()).into())
}

/// The bytes of one object's answer.
pub(super) async fn object_bytes(
    scope: &Scope,
    entry: &Entry,
    accepted: Accepted,
    table_options: table::TableOptions,
) -> Result<Bytes, ApiError> {
    let codec = scope.cache.codec();
    let bytes = match (accepted.shape, accepted.format) {
        (Shape::Whole, Format::Json | Format::Protobuf) => {
            entry.encoding(codec, scope.slot, media(accepted.format)).await?.bytes.clone()
        }
        (Shape::Whole, Format::Yaml) => yaml(&codec.served(&*entry.tree(codec)?, scope.slot)?),
        (Shape::Metadata, Format::Protobuf) => {
            let metadata = metadata_message(scope, entry).await?;
            let mut message = Vec::with_capacity(metadata.len() + 8);
            protobuf::put_bytes(&mut message, 1, &metadata);
            return Ok(protobuf::seal("meta.k8s.io/v1", "PartialObjectMetadata", &message).into());
        }
        (Shape::Metadata, format) => {
            let encoding = entry.encoding(codec, scope.slot, Media::Json).await?;
            let mut out = Vec::with_capacity(1024);
            partial_json(&encoding, &mut out);
            out.push(b'\n');
            text_as(out, format)?
        }
        (Shape::Table, format) => {
            let mut table = table::Writer::new(scope, table_options, true);
            table.push(entry)?;
            let revision = entry.revision();
            text_as(table.finish(&table::ListMeta { revision, ..table::ListMeta::default() }), format)?
        }
    };
    Ok(if accepted.pretty && accepted.format == Format::Json { indent(&bytes) } else { bytes })
}

/// JSON text, or the same as YAML.
pub(super) fn text_as(json: Vec<u8>, format: Format) -> Result<Bytes, ApiError> {
    if format != Format::Yaml {
        return Ok(json.into());
    }
    let tree = codec::json::from_slice(&json).map_err(ApiError::internal)?;
    Ok(yaml(&tree))
}

fn yaml(tree: &Value) -> Bytes {
    codec::yaml::to_string(tree).into()
}

/// Re-indents JSON by two blanks, as `json.Indent` does.
pub(super) fn indent(json: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    let mut bytes = json.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_string {
            out.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                if let Some(end) = bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            other => out.push(other),
        }
    }
    out.into()
}

/// An answer with upstream's headers.
pub(super) fn answer(status: StatusCode, format: Format, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

/// Bodies above this size are compressed for clients that take it (writers.go, `defaultGzipThresholdBytes`).
pub(super) const GZIP_THRESHOLD: usize = 128 * 1024;

/// Answers with one object.
pub(super) async fn object(
    status: StatusCode,
    scope: &Scope,
    entry: &Entry,
    accepted: Accepted,
    table_options: table::TableOptions,
) -> Result<Response<Body>, ApiError> {
    let bytes = object_bytes(scope, entry, accepted, table_options).await?;
    Ok(answer(status, accepted.format, bytes.into()))
}

/// Answers with a tree that is no object of the cache (a `Scale`, a review), in its own schema.
pub(crate) fn tree(status: StatusCode, tree: &Value, schema: &Type, accepted: Accepted) -> Response<Body> {
    let bytes: Bytes = match accepted.format {
        Format::Protobuf => {
            wire::encode_protobuf(tree, schema, tree.str_at(&["apiVersion"]), tree.str_at(&["kind"])).into()
        }
        Format::Yaml => yaml(tree),
        Format::Json if accepted.pretty => indent(&wire::encode_json(tree, schema)),
        Format::Json => wire::encode_json(tree, schema).into(),
    };
    answer(status, accepted.format, bytes.into())
}

/// Answers with a success `Status`.
pub(super) fn success(status: StatusCode, details: Map, code: Option<u16>, accepted: Accepted) -> Response<Body> {
    let mut map = Map::new();
    map.insert("kind", "Status");
    map.insert("apiVersion", "v1");
    map.insert("metadata", Map::new());
    map.insert("status", "Success");
    if !details.is_empty() {
        map.insert("details", details);
    }
    if let Some(code) = code {
        map.insert("code", i64::from(code));
    }
    let schema =
        builtin::by_kind("", "v1", "Status").map_or(Type::Json, |found| Type::Struct(StructRef::Builtin(found)));
    tree(status, &Value::Object(map), &schema, accepted)
}

/// Adds `Warning: 299 - "..."` headers, each text once (`net.NewWarningHeader`).
pub(super) fn warn(answer: &mut Response<Body>, warnings: &[String]) {
    for (index, text) in warnings.iter().enumerate() {
        if warnings[..index].contains(text) {
            continue;
        }
        let printable: String = text.chars().filter(|symbol| !symbol.is_control()).collect();
        let quoted = printable.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            answer.headers_mut().append(HeaderName::from_static("warning"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_as_go_does() {
        let text = indent(b"{\"a\":[],\"b\":{\"c\":[1,\"x,{\\\"\"],\"d\":{}}}\n");
        let expected =
            "{\n  \"a\": [],\n  \"b\": {\n    \"c\": [\n      1,\n      \"x,{\\\"\"\n    ],\n    \"d\": {}\n  }\n}\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}
