//! Bytes of whole objects: the codecs of the machinery with type meta and envelopes around them, and where the parts
//! are that answers splice.

use super::cache::Parts;
use jiff::Timestamp;
use skiff_machinery::Value;
use skiff_machinery::codec::{DecodeError, Decoded, FieldValidation, json, protobuf, yaml};
use skiff_machinery::schema::{StructRef, StructType, Type};
use std::ops::Range;

fn structure(ty: &Type) -> Option<&StructType> {
    match ty {
        // Custom resources are generic trees: sorted when written, checked by their own schema when read.
        Type::Struct(StructRef::Builtin(entry)) => Some(entry),
        _ => None,
    }
}

/// An object as JSON with a line feed, in the order of its schema; without one (custom resources) sorted.
pub fn encode_json(tree: &Value, schema: &Type) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    match structure(schema) {
        Some(ty) => json::encode_into(&mut out, tree, ty),
        None => json::write_value(&mut out, tree),
    }
    out.push(b'\n');
    out
}

/// Decodes JSON over a schema; without one the tree is generic.
pub fn decode_json(bytes: &[u8], schema: &Type, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    match structure(schema) {
        Some(ty) => json::decode(bytes, ty, validation),
        None => json::decode_any(bytes, validation),
    }
}

/// Decodes YAML into a generic tree.
pub fn decode_yaml(bytes: &[u8], validation: FieldValidation) -> Result<Decoded, DecodeError> {
    yaml::decode_any(bytes, validation)
}

/// Decodes a protobuf message over a schema.
pub fn decode_message(bytes: &[u8], schema: &Type) -> Result<Value, DecodeError> {
    match structure(schema) {
        Some(ty) => protobuf::decode(bytes, ty),
        None => Err(DecodeError::Protobuf("the kind has no protobuf form".to_owned())),
    }
}

/// Wall-clock time as objects show it.
pub fn rfc3339(time: std::time::SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Wall-clock time as seconds since the epoch.
pub fn seconds(time: std::time::SystemTime) -> i64 {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).as_second()
}

/// A time so many seconds later; a text that is no time stays as it is.
pub fn add_seconds(time: &str, seconds: i64) -> String {
    let later =
        time.parse::<Timestamp>().ok().and_then(|time| time.checked_add(jiff::SignedDuration::from_secs(seconds)).ok());
    later.map_or_else(|| time.to_owned(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// An object in upstream's envelope, with a type meta that its tree need not have.
pub fn encode_protobuf(tree: &Value, schema: &Type, api_version: &str, kind: &str) -> Vec<u8> {
    let Some(ty) = structure(schema) else { return encode_json(tree, schema) };
    protobuf::seal(api_version, kind, &protobuf::encode(tree, ty))
}

/// A stored value: protobuf in its envelope, or JSON. `schema` says what an `apiVersion` looks like.
pub fn decode_stored(bytes: &[u8], schema: impl Fn(&str) -> Type) -> Result<(String, Value), String> {
    if protobuf::is_enveloped(bytes) {
        let envelope = protobuf::Envelope::open(bytes).map_err(|_| "its protobuf envelope is damaged")?;
        let ty = schema(&envelope.api_version);
        let ty = structure(&ty).ok_or_else(|| format!("no schema of {} is known", envelope.api_version))?;
        let tree = protobuf::decode(envelope.raw, ty).map_err(|error| error.to_string())?;
        return Ok((envelope.api_version.into_owned(), tree));
    }
    let api_version =
        json_string_field(bytes, "apiVersion").ok_or("it is neither protobuf nor a JSON object with an apiVersion")?;
    let decoded =
        decode_json(bytes, &schema(&api_version), FieldValidation::Ignore).map_err(|error| error.to_string())?;
    Ok((api_version, decoded.value))
}

// --- JSON: a scanner that only finds where things are. It runs over our own output, or over what is decoded anyway.

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// The position behind a string that starts at `at`.
fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The position behind a value that starts at `at`.
fn skip_value(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match *bytes.get(at)? {
            b'"' => {
                at = skip_string(bytes, at)?;
                if depth == 0 {
                    return Some(at);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ if depth == 0 => {
                let rest = bytes.get(at..)?;
                let length =
                    rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace());
                return Some(at + length.unwrap_or(rest.len()));
            }
            _ => {}
        }
        at += 1;
    }
}

/// Calls `found` with key and value range of each field of the struct at `at`, until it says stop.
fn json_fields(bytes: &[u8], at: usize, mut found: impl FnMut(&[u8], usize, usize) -> bool) -> Option<()> {
    let mut at = skip_space(bytes, at);
    if *bytes.get(at)? != b'{' {
        return None;
    }
    at = skip_space(bytes, at + 1);
    while *bytes.get(at)? != b'}' {
        if bytes[at] != b'"' {
            return None;
        }
        let key_end = skip_string(bytes, at)?;
        let key = &bytes[at + 1..key_end - 1];
        let colon = skip_space(bytes, key_end);
        if *bytes.get(colon)? != b':' {
            return None;
        }
        let start = skip_space(bytes, colon + 1);
        let end = skip_value(bytes, start)?;
        if !found(key, start, end) {
            return Some(());
        }
        at = skip_space(bytes, end);
        if *bytes.get(at)? == b',' {
            at = skip_space(bytes, at + 1);
        }
    }
    Some(())
}

/// The text of a string field at the top of a JSON struct; escapes make it unknown.
pub fn json_string_field(bytes: &[u8], name: &str) -> Option<String> {
    let mut text = None;
    json_fields(bytes, 0, |key, start, end| {
        if key != name.as_bytes() {
            return true;
        }
        let value = bytes.get(start..end).and_then(|value| value.strip_prefix(b"\"")?.strip_suffix(b"\""));
        text = value
            .filter(|value| !value.contains(&b'\\'))
            .and_then(|value| std::str::from_utf8(value).ok())
            .map(str::to_owned);
        false
    });
    text
}

fn short(at: usize) -> u32 {
    u32::try_from(at).expect("objects are smaller than 4 GiB")
}

/// Where the parts of an object's JSON are. `None` without `metadata`.
pub fn json_parts(bytes: &[u8]) -> Option<Parts> {
    let mut parts = Parts::default();
    let mut metadata = None;
    let mut type_meta_end = None;
    json_fields(bytes, 0, |key, start, end| {
        match key {
            b"kind" | b"apiVersion" => {}
            _ => {
                if type_meta_end.is_none() {
                    // The quote in front of the key; keys of ours are written without spaces.
                    type_meta_end = Some(start - key.len() - 3);
                }
                if key == b"metadata" {
                    metadata = Some((start, end));
                    return false;
                }
            }
        }
        true
    })?;
    let (start, end) = metadata?;
    parts.body = short(type_meta_end?);
    parts.metadata = (short(start), short(end));
    let mut revision = None;
    json_fields(bytes, start, |key, start, end| {
        if key == b"resourceVersion" {
            revision = Some((short(start + 1), short(end - 1)));
        }
        revision.is_none()
    })?;
    parts.resource_version = revision.unwrap_or_default();
    parts.end = short(bytes.len() - usize::from(bytes.last() == Some(&b'\n')));
    Some(parts)
}

// --- Protobuf.

/// Where the parts of an object in the envelope are. `None` without `metadata`.
pub fn protobuf_parts(bytes: &[u8]) -> Option<Parts> {
    let unknown = bytes.strip_prefix(protobuf::MAGIC)?;
    // Positions in `bytes` of a field's value, from those in the message that begins at `at`.
    let behind = |at: usize, range: Range<usize>| range.start + at..range.end + at;
    let message = behind(protobuf::MAGIC.len(), protobuf::field_range(unknown, 2)?);
    let metadata = behind(message.start, protobuf::field_range(&bytes[message.clone()], 1)?);
    let revision = protobuf::field_range(&bytes[metadata.clone()], 6).unwrap_or_default();
    let revision = behind(metadata.start, revision);
    Some(Parts {
        body: short(message.start),
        end: short(message.end),
        metadata: (short(metadata.start), short(metadata.end)),
        resource_version: (short(revision.start), short(revision.end)),
    })
}

/// A metadata message under another resource version.
pub fn with_revision(metadata: &[u8], revision: i64) -> Vec<u8> {
    let text = revision.to_string();
    let Some(Range { start, end }) = protobuf::field_range(metadata, 6) else { return metadata.to_vec() };
    // The tag is one byte, the length of so short a text another.
    let mut out = Vec::with_capacity(metadata.len() + 8);
    out.extend_from_slice(&metadata[..start - 2]);
    protobuf::put_bytes(&mut out, 6, text.as_bytes());
    out.extend_from_slice(&metadata[end..]);
    out
}

/// A whole object in its envelope under another resource version.
pub fn envelope_with_revision(encoding: &super::cache::Encoding, revision: i64) -> Option<Vec<u8>> {
    let envelope = protobuf::Envelope::open(&encoding.bytes).ok()?;
    let place = protobuf::field_range(envelope.raw, 1)?;
    let metadata = with_revision(&envelope.raw[place.clone()], revision);
    let mut message = Vec::with_capacity(envelope.raw.len() + 8);
    protobuf::put_bytes(&mut message, 1, &metadata);
    message.extend_from_slice(&envelope.raw[place.end..]);
    Some(protobuf::seal(&envelope.api_version, &envelope.kind, &message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_parts_of_json() {
        let text = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a\"}","labels":{"resourceVersion":"x"},"resourceVersion":"42"},"spec":{}}
"#;
        let parts = json_parts(text).unwrap();
        assert!(text[parts.body as usize..].starts_with(b"\"metadata\":{"));
        assert_eq!(&text[parts.resource_version.0 as usize..parts.resource_version.1 as usize], b"42");
        assert!(text[parts.metadata.0 as usize..parts.metadata.1 as usize].ends_with(b"\"42\"}"));
        assert_eq!(parts.end as usize, text.len() - 1);
    }

    #[test]
    fn custom_resources_are_sorted() {
        let text = br#"{"apiVersion":"a/v1","data":[1,{"metadata":2}],"kind":"X","metadata":{"resourceVersion":"7"}}"#;
        let parts = json_parts(text).unwrap();
        assert!(text[parts.body as usize..].starts_with(b"\"data\":["));
        assert_eq!(&text[parts.resource_version.0 as usize..parts.resource_version.1 as usize], b"7");
        assert_eq!(json_string_field(text, "apiVersion").as_deref(), Some("a/v1"));
    }

    #[test]
    fn finds_the_parts_of_protobuf() {
        // metadata (1) with resourceVersion (6) "42", then an empty field 2.
        let message = [0x0a, 4, 0x32, 2, b'4', b'2', 0x12, 0];
        let bytes = protobuf::seal("apps/v1", "Deployment", &message);
        let parts = protobuf_parts(&bytes).unwrap();
        assert_eq!(&bytes[parts.resource_version.0 as usize..parts.resource_version.1 as usize], b"42");
        assert_eq!(&bytes[parts.body as usize..parts.end as usize], message);
        for cut in 0..bytes.len() {
            protobuf_parts(&bytes[..cut]);
        }
    }
}
