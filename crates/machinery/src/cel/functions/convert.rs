//! From one type to another.

use super::super::EvalError;
use super::super::value::{Outcome, Val, duration_text, failed, parse_duration, parse_timestamp, text, timestamp_text};
use crate::codec::scalar::go_float;
use std::rc::Rc;

/// What `string()` and the key of an error message make of a value.
pub(in super::super) fn to_text(value: &Val<'_>) -> Result<String, EvalError> {
    Ok(match value {
        Val::Null => "null".to_owned(),
        Val::Bool(flag) => flag.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => go_float(*number),
        Val::Str(text) => text.clone().into_owned(),
        Val::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return failed("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Val::Duration(nanos) => duration_text(*nanos),
        Val::Timestamp(nanos) => timestamp_text(*nanos)?,
        Val::Type(name) => (*name).to_owned(),
        Val::Quantity(quantity) => quantity.to_string(),
        Val::Ip(address) => address.to_string(),
        Val::Cidr(cidr) => format!("{}/{}", cidr.address, cidr.prefix),
        Val::Url(url) => url.text().to_owned(),
        Val::Semver(version) => version.to_string(),
        other => return failed(format!("type conversion error from '{}' to 'string'", other.type_name())),
    })
}

pub(super) fn call<'v>(name: &str, args: &[Val<'v>]) -> Option<Outcome<'v>> {
    let [value] = args else { return None };
    Some(match name {
        "string" => to_text(value).map(text),
        "bytes" => match value {
            Val::Bytes(_) => Ok(value.clone()),
            Val::Str(text) => Ok(Val::Bytes(Rc::from(text.as_bytes()))),
            _ => return None,
        },
        "bool" => match value {
            Val::Bool(_) => Ok(value.clone()),
            Val::Str(text) => match text.as_ref() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
                _ => failed(format!("type conversion error from '{text}' to 'bool'")),
            },
            _ => return None,
        },
        "int" => int(value)?,
        "uint" => uint(value)?,
        "double" => double(value)?,
        "duration" => match value {
            Val::Duration(_) => Ok(value.clone()),
            Val::Str(text) => parse_duration(text).map(Val::Duration),
            _ => return None,
        },
        "timestamp" => match value {
            Val::Timestamp(_) => Ok(value.clone()),
            Val::Int(seconds) => timestamp_text(i128::from(*seconds) * 1_000_000_000)
                .map(|_| Val::Timestamp(i128::from(*seconds) * 1_000_000_000)),
            Val::Str(text) => parse_timestamp(text).map(Val::Timestamp),
            _ => return None,
        },
        _ => return None,
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the range is looked at first")]
fn int<'v>(value: &Val<'v>) -> Option<Outcome<'v>> {
    Some(match value {
        Val::Int(_) => Ok(value.clone()),
        Val::Uint(number) => {
            i64::try_from(*number).map_or_else(|_| failed("integer overflow"), |found| Ok(Val::Int(found)))
        }
        Val::Double(number) if number.abs() < 9.223_372_036_854_775e18 => Ok(Val::Int(*number as i64)),
        Val::Double(_) => failed("integer overflow"),
        Val::Str(text) => match text.parse() {
            Ok(number) => Ok(Val::Int(number)),
            Err(_) => failed(format!("strconv.ParseInt: parsing {}: invalid syntax", crate::error::quote(text))),
        },
        Val::Timestamp(nanos) => Ok(Val::Int(nanos.div_euclid(1_000_000_000) as i64)),
        Val::Duration(nanos) => Ok(Val::Int(*nanos as i64)),
        _ => return None,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is looked at first")]
fn uint<'v>(value: &Val<'v>) -> Option<Outcome<'v>> {
    Some(match value {
        Val::Uint(_) => Ok(value.clone()),
        Val::Int(number) => {
            u64::try_from(*number).map_or_else(|_| failed("unsigned integer overflow"), |found| Ok(Val::Uint(found)))
        }
        Val::Double(number) if (0.0..1.844_674_407_370_955e19).contains(number) => Ok(Val::Uint(*number as u64)),
        Val::Double(_) => failed("unsigned integer overflow"),
        Val::Str(text) => match text.parse() {
            Ok(number) => Ok(Val::Uint(number)),
            Err(_) => failed(format!("strconv.ParseUint: parsing {}: invalid syntax", crate::error::quote(text))),
        },
        _ => return None,
    })
}

#[expect(clippy::cast_precision_loss, reason = "that is what is asked for")]
fn double<'v>(value: &Val<'v>) -> Option<Outcome<'v>> {
    Some(match value {
        Val::Double(_) => Ok(value.clone()),
        Val::Int(number) => Ok(Val::Double(*number as f64)),
        Val::Uint(number) => Ok(Val::Double(*number as f64)),
        Val::Str(text) => match text.parse() {
            Ok(number) => Ok(Val::Double(number)),
            Err(_) => failed(format!("strconv.ParseFloat: parsing {}: invalid syntax", crate::error::quote(text))),
        },
        _ => return None,
    })
}
