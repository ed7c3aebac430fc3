//! Arithmetic and order.

use super::super::value::{Outcome, Val, failed};
use super::no_overload;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

pub(super) fn call<'v>(name: &str, args: &[Val<'v>]) -> Option<Outcome<'v>> {
    if let ("-_", [value]) = (name, args) {
        return Some(match value {
            Val::Int(number) => number.checked_neg().map_or_else(overflow, |number| Ok(Val::Int(number))),
            Val::Double(number) => Ok(Val::Double(-number)),
            _ => no_overload(),
        });
    }
    let [left, right] = args else { return None };
    let order = |wanted: fn(Ordering) -> bool| {
        Some(match left.compare(right) {
            Some(found) => Ok(Val::Bool(wanted(found))),
            // NaN is in no order.
            None if matches!((left, right), (Val::Double(_), _) | (_, Val::Double(_))) => Ok(Val::Bool(false)),
            None => no_overload(),
        })
    };
    match name {
        "_<_" => order(Ordering::is_lt),
        "_<=_" => order(Ordering::is_le),
        "_>_" => order(Ordering::is_gt),
        "_>=_" => order(Ordering::is_ge),
        "_+_" => Some(add(left, right)),
        "_-_" => Some(subtract(left, right)),
        "_*_" => Some(match (left, right) {
            (Val::Int(left), Val::Int(right)) => {
                left.checked_mul(*right).map_or_else(overflow, |found| Ok(Val::Int(found)))
            }
            (Val::Uint(left), Val::Uint(right)) => {
                left.checked_mul(*right).map_or_else(unsigned_overflow, |found| Ok(Val::Uint(found)))
            }
            (Val::Double(left), Val::Double(right)) => Ok(Val::Double(left * right)),
            _ => no_overload(),
        }),
        "_/_" => Some(match (left, right) {
            (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => failed("division by zero"),
            (Val::Int(left), Val::Int(right)) => {
                left.checked_div(*right).map_or_else(overflow, |found| Ok(Val::Int(found)))
            }
            (Val::Uint(left), Val::Uint(right)) => Ok(Val::Uint(left / right)),
            (Val::Double(left), Val::Double(right)) => Ok(Val::Double(left / right)),
            _ => no_overload(),
        }),
        "_%_" => Some(match (left, right) {
            (Val::Int(_), Val::Int(0)) | (Val::Uint(_), Val::Uint(0)) => failed("modulus by zero"),
            (Val::Int(left), Val::Int(right)) => {
                left.checked_rem(*right).map_or_else(overflow, |found| Ok(Val::Int(found)))
            }
            (Val::Uint(left), Val::Uint(right)) => Ok(Val::Uint(left % right)),
            _ => no_overload(),
        }),
        _ => None,
    }
}

fn overflow<'v>() -> Outcome<'v> {
    failed("integer overflow")
}
fn unsigned_overflow<'v>() -> Outcome<'v> {
    failed("unsigned integer overflow")
}

/// A span that 64 bits of nanoseconds hold.
fn span<'v>(nanos: i128) -> Outcome<'v> {
    if i64::try_from(nanos).is_ok() { Ok(Val::Duration(nanos)) } else { failed("duration overflow") }
}

fn instant<'v>(nanos: i128) -> Outcome<'v> {
    super::super::value::timestamp_text(nanos).map(|_| Val::Timestamp(nanos))
}

fn add<'v>(left: &Val<'v>, right: &Val<'v>) -> Outcome<'v> {
    match (left, right) {
        (Val::Int(left), Val::Int(right)) => {
            left.checked_add(*right).map_or_else(overflow, |found| Ok(Val::Int(found)))
        }
        (Val::Uint(left), Val::Uint(right)) => {
            left.checked_add(*right).map_or_else(unsigned_overflow, |found| Ok(Val::Uint(found)))
        }
        (Val::Double(left), Val::Double(right)) => Ok(Val::Double(left + right)),
        (Val::Str(left), Val::Str(right)) => Ok(Val::Str(Cow::Owned(format!("{left}{right}")))),
        (Val::Bytes(left), Val::Bytes(right)) => Ok(Val::Bytes([&left[..], &right[..]].concat().into())),
        (Val::Duration(left), Val::Duration(right)) => span(left + right),
        (Val::Timestamp(time), Val::Duration(more)) | (Val::Duration(more), Val::Timestamp(time)) => {
            instant(time + more)
        }
        (left, right) if left.is_list() && right.is_list() => {
            let mut items = left.items()?;
            items.extend(right.items()?);
            Ok(Val::List(Rc::new(items)))
        }
        _ => no_overload(),
    }
}

fn subtract<'v>(left: &Val<'v>, right: &Val<'v>) -> Outcome<'v> {
    match (left, right) {
        (Val::Int(left), Val::Int(right)) => {
            left.checked_sub(*right).map_or_else(overflow, |found| Ok(Val::Int(found)))
        }
        (Val::Uint(left), Val::Uint(right)) => {
            left.checked_sub(*right).map_or_else(unsigned_overflow, |found| Ok(Val::Uint(found)))
        }
        (Val::Double(left), Val::Double(right)) => Ok(Val::Double(left - right)),
        (Val::Duration(left), Val::Duration(right)) | (Val::Timestamp(left), Val::Timestamp(right)) => {
            span(left - right)
        }
        (Val::Timestamp(time), Val::Duration(less)) => instant(time - less),
        _ => no_overload(),
    }
}
