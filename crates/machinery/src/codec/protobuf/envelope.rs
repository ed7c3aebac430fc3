//! What upstream puts around a message: `runtime.Unknown` after a magic prefix, list bodies, watch frames
//! (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf/protobuf.go`).

use super::wire::{BYTES, Input, failed, field_len, put_bytes, put_message, put_tag, put_varint};
use crate::codec::DecodeError;
use crate::codec::json::to_utf8;
use crate::schema::{StructType, builtin};
use crate::value::Value;
use std::borrow::Cow;

/// What every protobuf object starts with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Whether bytes start as a protobuf object.
pub fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// An opened `runtime.Unknown`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object inside.
    pub api_version: Cow<'a, str>,
    /// Its `kind`.
    pub kind: Cow<'a, str>,
    /// Its message.
    pub raw: &'a [u8],
    /// Encoding of `raw`; empty: as it is.
    pub content_encoding: Cow<'a, str>,
    /// Media type of `raw`; empty: protobuf.
    pub content_type: Cow<'a, str>,
}

impl<'a> Envelope<'a> {
    /// Opens the envelope, magic included.
    pub fn open(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| {
            failed("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
        })?;
        let empty = || Cow::Borrowed("");
        let mut envelope =
            Self { api_version: empty(), kind: empty(), raw: &[], content_encoding: empty(), content_type: empty() };
        let mut input = Input::new(body);
        while !input.is_empty() {
            match input.tag()? {
                (1, BYTES) => {
                    let mut meta = Input::new(input.bytes()?);
                    while !meta.is_empty() {
                        match meta.tag()? {
                            (1, BYTES) => envelope.api_version = to_utf8(meta.bytes()?),
                            (2, BYTES) => envelope.kind = to_utf8(meta.bytes()?),
                            (_, wire) => meta.skip(wire)?,
                        }
                    }
                }
                (2, BYTES) => envelope.raw = input.bytes()?,
                (3, BYTES) => envelope.content_encoding = to_utf8(input.bytes()?),
                (4, BYTES) => envelope.content_type = to_utf8(input.bytes()?),
                (_, wire) => input.skip(wire)?,
            }
        }
        Ok(envelope)
    }
}

fn put_type_meta(out: &mut Vec<u8>, api_version: &str, kind: &str) {
    out.extend_from_slice(MAGIC);
    put_message(out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
    });
}

/// Content encoding and content type, both empty: Go writes them because they are no pointers.
const TAIL: [u8; 4] = [0x1a, 0, 0x22, 0];

/// Puts the message of an object into its envelope.
pub fn seal(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + api_version.len() + kind.len() + 24);
    put_type_meta(&mut out, api_version, kind);
    put_bytes(&mut out, 2, message);
    out.extend_from_slice(&TAIL);
    out
}

/// Reads an object from its envelope; `apiVersion` and `kind` come from there.
pub fn decode_object(bytes: &[u8], ty: &StructType) -> Result<Value, DecodeError> {
    let envelope = Envelope::open(bytes)?;
    if !envelope.content_encoding.is_empty() {
        return Err(failed(format!("unable to decode content encoding \"{}\"", envelope.content_encoding)));
    }
    let mut value = super::decode(envelope.raw, ty)?;
    if let Value::Object(map) = &mut value {
        for (key, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
            if !text.is_empty() && ty.field(key).is_some() {
                map.insert(key, text.into_owned());
            }
        }
    }
    Ok(value)
}

/// Writes an object with its envelope, which takes `apiVersion` and `kind` from the tree.
pub fn encode_object(value: &Value, ty: &StructType) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    put_type_meta(&mut out, value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    put_message(&mut out, 2, |out| super::encode_into(out, value, ty));
    out.extend_from_slice(&TAIL);
    out
}

/// The start of a list whose items are at hand as messages: write this, then [`list_item_head`] and the message of each
/// item, then [`list_tail`]. All lists of upstream have `metadata` as field 1 and `items` as field 2.
pub fn list_head(
    api_version: &str,
    kind: &str,
    metadata: &Value,
    item_lengths: impl IntoIterator<Item = usize>,
) -> Vec<u8> {
    let list_meta = builtin::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").expect("a type of the table");
    let mut meta = Vec::with_capacity(64);
    let no_metadata = Value::Object(crate::Map::new());
    let metadata = if metadata.as_object().is_some() { metadata } else { &no_metadata };
    put_message(&mut meta, 1, |out| super::encode_into(out, metadata, list_meta));
    let items: usize = item_lengths.into_iter().map(field_len).sum();
    let mut out = Vec::with_capacity(meta.len() + 64);
    put_type_meta(&mut out, api_version, kind);
    put_tag(&mut out, 2, BYTES);
    put_varint(&mut out, (meta.len() + items) as u64);
    out.extend_from_slice(&meta);
    out
}

/// What stands before the message of one list item.
pub fn list_item_head(out: &mut Vec<u8>, length: usize) {
    put_tag(out, 2, BYTES);
    put_varint(out, length as u64);
}

/// What ends a list.
pub fn list_tail() -> &'static [u8] {
    &TAIL
}

/// One frame of a watch stream: a four-byte big-endian length and a `metav1.WatchEvent` without envelope, whose object
/// is an enveloped message.
pub fn watch_event(kind: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut frame = watch_event_head(kind, enveloped.len());
    frame.extend_from_slice(enveloped);
    frame
}

/// What stands before the enveloped object of such a frame; nothing follows it.
pub fn watch_event_head(kind: &str, length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(48);
    put_bytes(&mut body, 1, kind.as_bytes());
    put_tag(&mut body, 2, BYTES);
    put_varint(&mut body, field_len(length) as u64);
    put_tag(&mut body, 1, BYTES);
    put_varint(&mut body, length as u64);
    let total = u32::try_from(body.len() + length).expect("an object is smaller than 4 GiB");
    let mut frame = Vec::with_capacity(4 + body.len() + length);
    frame.extend_from_slice(&total.to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}
