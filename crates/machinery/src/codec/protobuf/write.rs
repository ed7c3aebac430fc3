//! Tree to message.

use super::wire::{FIXED64, VARINT, put_bytes, put_int, put_message, put_tag};
use crate::codec::{json, scalar};
use crate::schema::{Field, SchemaOr, StructType, Type, WireStep};
use crate::value::{Map, Value};
use smallvec::SmallVec;

/// Writes the message of an object, without envelope. `kind` and `apiVersion` are not part of it.
pub fn encode(value: &Value, ty: &StructType) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    encode_into(&mut out, value, ty);
    out
}

/// The same, appended.
pub fn encode_into(out: &mut Vec<u8>, value: &Value, ty: &StructType) {
    if let Value::Object(map) = value {
        write_struct(out, map, ty);
    }
}

fn write_struct(out: &mut Vec<u8>, map: &Map, ty: &StructType) {
    let found = crate::codec::align(map, ty);
    let mut steps = ty.fields.wire_order();
    write_steps(out, &found, ty, &mut steps);
}

/// Writes fields until the wrapper that is open ends.
fn write_steps(out: &mut Vec<u8>, found: &SmallVec<[Option<&Value>; 64]>, ty: &StructType, steps: &mut &[WireStep]) {
    while let Some((step, rest)) = steps.split_first() {
        *steps = rest;
        match *step {
            WireStep::Field(index) => write_field(out, found[usize::from(index)], &ty.fields[usize::from(index)]),
            WireStep::Open(number) => put_message(out, number, |out| write_steps(out, found, ty, steps)),
            WireStep::Close => return,
        }
    }
}

fn write_field(out: &mut Vec<u8>, value: Option<&Value>, field: &Field) {
    let number = field.number;
    match (&field.ty, value) {
        (_, None | Some(Value::Null)) => {
            if !field.pointer {
                write_zero(out, number, &field.ty);
            }
        }
        (Type::List(item), Some(Value::Array(items))) if field.boxed => {
            put_message(out, number, |out| items.iter().for_each(|value| write_value(out, 1, value, item)));
        }
        (Type::List(item), Some(Value::Array(items))) => {
            items.iter().for_each(|value| write_value(out, number, value, item));
        }
        (Type::Map(item), Some(Value::Object(map))) => {
            for (key, value) in map.iter() {
                put_message(out, number, |out| {
                    put_bytes(out, 1, key.as_bytes());
                    match (&**item, value) {
                        (Type::List(inner), Value::Array(items)) => {
                            put_message(out, 2, |out| items.iter().for_each(|value| write_value(out, 1, value, inner)));
                        }
                        (Type::List(_), _) => put_bytes(out, 2, &[]),
                        _ => write_value(out, 2, value, item),
                    }
                });
            }
        }
        (ty, Some(value)) => write_value(out, number, value, ty),
    }
}

/// A field that is no pointer in Go and holds nothing: gogo writes it all the same, except for lists, maps and bytes.
fn write_zero(out: &mut Vec<u8>, number: u32, ty: &Type) {
    match ty {
        Type::List(_) | Type::Map(_) | Type::Bytes => {}
        Type::Bool | Type::Int32 | Type::Int64 => put_int(out, number, 0),
        Type::Double => put_double(out, number, 0.0),
        Type::Struct(entry) => put_message(out, number, |out| write_struct(out, &Map::new(), entry)),
        Type::Quantity => put_message(out, number, |out| put_bytes(out, 1, b"0")),
        Type::IntOrString => write_value(out, number, &Value::Int(0), ty),
        Type::Duration => put_message(out, number, |out| put_int(out, 1, 0)),
        Type::SchemaOr(SchemaOr::Bool, _) => put_message(out, number, |out| put_int(out, 1, 0)),
        Type::String
        | Type::Time
        | Type::MicroTime
        | Type::RawExtension
        | Type::Json
        | Type::FieldsV1
        | Type::SchemaOr(..) => put_bytes(out, number, &[]),
    }
}

fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_tag(out, number, FIXED64);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// One value. A tree that does not fit its type (none comes from a decoder) is written as the type's zero value.
fn write_value(out: &mut Vec<u8>, number: u32, value: &Value, ty: &Type) {
    match (ty, value) {
        (Type::Bool, Value::Bool(flag)) => {
            put_tag(out, number, VARINT);
            out.push(u8::from(*flag));
        }
        (Type::Int32 | Type::Int64, Value::Int(int)) => put_int(out, number, *int),
        (Type::Double, Value::Float(float)) => put_double(out, number, *float),
        #[expect(clippy::cast_precision_loss, reason = "the field is a float")]
        (Type::Double, Value::Int(int)) => put_double(out, number, *int as f64),
        (Type::String, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Type::Bytes, Value::String(text)) => {
            put_bytes(out, number, &scalar::decode_base64(text).unwrap_or_default());
        }
        (Type::Time | Type::MicroTime, Value::String(text)) => match scalar::parse_any_time(text) {
            Some((seconds, nanos)) => put_message(out, number, |out| {
                put_int(out, 1, seconds);
                put_int(out, 2, if matches!(ty, Type::Time) { 0 } else { i64::from(nanos) });
            }),
            None => put_bytes(out, number, &[]),
        },
        (Type::Duration, Value::String(text)) => {
            put_message(out, number, |out| put_int(out, 1, scalar::parse_duration(text).unwrap_or(0)));
        }
        (Type::Quantity, Value::String(text)) => put_message(out, number, |out| put_bytes(out, 1, text.as_bytes())),
        (Type::IntOrString, Value::Int(int)) => put_message(out, number, |out| {
            put_int(out, 1, 0);
            put_int(out, 2, *int);
            put_bytes(out, 3, &[]);
        }),
        (Type::IntOrString, Value::String(text)) => put_message(out, number, |out| {
            put_int(out, 1, 1);
            put_int(out, 2, 0);
            put_bytes(out, 3, text.as_bytes());
        }),
        (Type::RawExtension | Type::Json | Type::FieldsV1, value) if !value.is_null() => {
            put_message(out, number, |out| put_message(out, 1, |out| json::write_value(out, value)));
        }
        (Type::Struct(entry), Value::Object(map)) => put_message(out, number, |out| write_struct(out, map, entry)),
        (Type::SchemaOr(which, entry), value) => put_message(out, number, |out| match (which, value) {
            (SchemaOr::Bool, Value::Bool(flag)) => put_int(out, 1, i64::from(*flag)),
            (SchemaOr::Bool, Value::Object(map)) => {
                put_int(out, 1, 1);
                put_message(out, 2, |out| write_struct(out, map, entry));
            }
            (_, Value::Object(map)) => put_message(out, 1, |out| write_struct(out, map, entry)),
            (SchemaOr::Array, Value::Array(items)) => {
                items.iter().for_each(|item| write_value(out, 2, item, &Type::Struct(entry.clone())));
            }
            (SchemaOr::StringArray, Value::Array(items)) => {
                items.iter().for_each(|item| write_value(out, 2, item, &Type::String));
            }
            _ => {}
        }),
        (ty, _) => write_zero(out, number, ty),
    }
}
