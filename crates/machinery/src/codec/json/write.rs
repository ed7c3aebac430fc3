//! JSON as Go writes it: `<`, `>`, `&`, U+2028 and U+2029 escaped, floats in Go's shortest form, struct fields in the
//! order of the schema, map keys sorted (`encoding/json/encode.go`).

use crate::schema::{Field, StructType, Type};
use crate::value::{Map, Value};

/// Writes a tree without a schema: map keys sorted, as Go writes maps.
pub fn to_string(value: &Value) -> String {
    String::from_utf8(to_vec(value)).expect("what is written is UTF-8")
}

/// The same as bytes.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_value(&mut out, value);
    out
}

/// Writes an object over its type: fields in Go's order, zero values where Go writes them. No line end.
pub fn encode(value: &Value, ty: &StructType) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    encode_into(&mut out, value, ty);
    out
}

/// The same, appended.
pub fn encode_into(out: &mut Vec<u8>, value: &Value, ty: &StructType) {
    match value {
        Value::Object(map) => write_struct(out, map, ty),
        other => write_value(out, other),
    }
}

/// A value of any type, appended.
pub fn encode_type_into(out: &mut Vec<u8>, value: &Value, ty: &Type) {
    match (ty, value) {
        (Type::Struct(entry), Value::Object(map)) => write_struct(out, map, entry),
        (Type::List(item), Value::Array(items)) => {
            out.push(b'[');
            for (index, value) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                encode_type_into(out, value, item);
            }
            out.push(b']');
        }
        (Type::Map(item), Value::Object(map)) => write_map(out, map, |out, value| encode_type_into(out, value, item)),
        (Type::SchemaOr(_, schema), Value::Object(map)) => write_struct(out, map, schema),
        (Type::SchemaOr(_, schema), Value::Array(items)) if items.iter().all(|item| item.as_object().is_some()) => {
            encode_type_into(out, value, &Type::List(std::sync::Arc::new(Type::Struct(schema.clone()))));
        }
        (_, other) => write_value(out, other),
    }
}

/// Writes a tree without a schema, appended.
pub fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        Value::Float(number) => write_float(out, *number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(out, item);
            }
            out.push(b']');
        }
        Value::Object(map) => write_map(out, map, write_value),
    }
}

fn write_map(out: &mut Vec<u8>, map: &Map, write: impl Fn(&mut Vec<u8>, &Value)) {
    out.push(b'{');
    for (index, (name, value)) in map.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, name);
        out.push(b':');
        write(out, value);
    }
    out.push(b'}');
}

/// Whether Go would find its zero value here. Only asked of fields that are no pointers.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) => true,
        Value::Float(number) => *number == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Int(_) => false,
    }
}

fn write_struct(out: &mut Vec<u8>, map: &Map, ty: &StructType) {
    if is_custom(ty) {
        return write_custom(out, map, ty);
    }
    let found = crate::codec::align(map, ty);
    out.push(b'{');
    let mut first = true;
    for (field, value) in ty.fields.iter().zip(found) {
        let value = match value {
            Some(Value::Null) | None if field.always => None,
            Some(Value::Null) | None => continue,
            Some(value) if !field.always && !field.pointer && is_empty(value) => continue,
            Some(value) => Some(value),
        };
        if !first {
            out.push(b',');
        }
        first = false;
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b"\":");
        match value {
            Some(value) => encode_type_into(out, value, &field.ty),
            None => write_zero(out, field),
        }
    }
    out.push(b'}');
}

/// What Go writes for a field that holds nothing and is not omitted.
fn write_zero(out: &mut Vec<u8>, field: &Field) {
    match &field.ty {
        _ if field.pointer => out.extend_from_slice(b"null"),
        Type::Bool => out.extend_from_slice(b"false"),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => out.push(b'0'),
        Type::String => out.extend_from_slice(b"\"\""),
        Type::Quantity => out.extend_from_slice(b"\"0\""),
        Type::Duration => out.extend_from_slice(b"\"0s\""),
        Type::Struct(entry) => write_struct(out, &Map::new(), entry),
        Type::Bytes
        | Type::Time
        | Type::MicroTime
        | Type::RawExtension
        | Type::Json
        | Type::FieldsV1
        | Type::SchemaOr(..)
        | Type::List(_)
        | Type::Map(_) => out.extend_from_slice(b"null"),
    }
}

/// Custom types have no field order and no omission: a tree of theirs is written as it is.
fn is_custom(ty: &StructType) -> bool {
    ty.preserve_unknown || ty.additional.is_some() || ty.name.is_empty()
}

fn write_custom(out: &mut Vec<u8>, map: &Map, ty: &StructType) {
    out.push(b'{');
    for (index, (name, value)) in map.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, name);
        out.push(b':');
        match ty.field(name) {
            Some(field) => encode_type_into(out, value, &field.ty),
            None => write_value(out, value),
        }
    }
    out.push(b'}');
}

/// Bytes that may need an escape. 0xE2 starts U+2028 and U+2029.
static SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = true;
        byte += 1;
    }
    special[b'"' as usize] = true;
    special[b'\\' as usize] = true;
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'&' as usize] = true;
    special[0xe2] = true;
    special
};

/// Writes text in quotes, escaped as Go does.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut written = 0;
    let mut at = 0;
    while let Some(step) = bytes[at..].iter().position(|byte| SPECIAL[usize::from(*byte)]) {
        at += step;
        let byte = bytes[at];
        if byte == 0xe2 {
            let separator =
                bytes[at..].starts_with("\u{2028}".as_bytes()) || bytes[at..].starts_with("\u{2029}".as_bytes());
            if separator {
                out.extend_from_slice(&bytes[written..at]);
                out.extend_from_slice(if bytes[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                at += 3;
                written = at;
            } else {
                at += 1;
            }
            continue;
        }
        out.extend_from_slice(&bytes[written..at]);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            other => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(other >> 4)]);
                out.push(HEX[usize::from(other & 15)]);
            }
        }
        at += 1;
        written = at;
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

/// Go's `floatEncoder`: plain notation between 1e-6 and 1e21, else an exponent without leading zeros.
fn write_float(out: &mut Vec<u8>, number: f64) {
    use std::io::Write;
    if !number.is_finite() {
        // JSON has no word for it, and Go refuses to encode it; a tree gets none from any decoder.
        return out.extend_from_slice(b"null");
    }
    let size = number.abs();
    let written = if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{number:e}");
        let signed = text.replace('e', if size < 1.0 { "e" } else { "e+" });
        write!(out, "{signed}")
    } else {
        write!(out, "{number}")
    };
    written.expect("a Vec takes all");
}
