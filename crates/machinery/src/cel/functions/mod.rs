//! Functions: which one a call means is decided by the values it is called with.

mod access;
mod convert;
mod lists;
mod network;
mod numbers;
mod strings;
mod times;

pub(super) use access::AccessStep;
pub(super) use convert::to_text;
pub(super) use network::{Semver, Url};

use super::EvalError;
use super::eval::Machine;
use super::value::{Outcome, Val, contains, failed, some};
use std::rc::Rc;

/// The error of a call with values that no overload takes; only `dyn` values come here.
fn no_overload<'v>() -> Outcome<'v> {
    failed("no such overload")
}

/// A number that may be an index.
pub(super) fn as_index(value: &Val<'_>) -> Option<i64> {
    match value {
        Val::Int(number) => Some(*number),
        Val::Uint(number) => i64::try_from(*number).ok(),
        #[expect(clippy::cast_possible_truncation, reason = "it is an integer of moderate size")]
        Val::Double(number) if number.fract() == 0.0 && number.abs() < 1e15 => Some(*number as i64),
        _ => None,
    }
}

/// What it costs to look at a whole value, beyond the call itself.
fn weight(value: &Val<'_>) -> u64 {
    match value {
        Val::Str(text) => text.len() as u64 / 10,
        Val::Bytes(bytes) => bytes.len() as u64 / 10,
        Val::Array(..) | Val::List(_) | Val::Object(..) | Val::Map(_) => value.len().unwrap_or(0) as u64,
        _ => 0,
    }
}

/// Calls a function with its receiver, if it has one, in front.
pub(super) fn call<'v>(machine: &mut Machine<'v>, name: &str, method: bool, mut args: Vec<Val<'v>>) -> Outcome<'v> {
    // Whatever a function does, it looks at its arguments once at least.
    for argument in &args {
        machine.spend(weight(argument))?;
    }
    if let Some(outcome) = numbers::call(name, &args) {
        return outcome;
    }
    match (name, args.as_slice()) {
        ("_==_", [left, right]) => {
            machine.spend(left.len().unwrap_or(0) as u64 / 10)?;
            Ok(Val::Bool(left.equal(right)?))
        }
        ("_!=_", [left, right]) => Ok(Val::Bool(!left.equal(right)?)),
        ("!_", [Val::Bool(flag)]) => Ok(Val::Bool(!flag)),
        ("@in", [wanted, range]) => {
            if range.is_list() {
                Ok(Val::Bool(contains(&range.items()?, wanted)?))
            } else if matches!(range, Val::Object(..) | Val::Map(_)) {
                Ok(Val::Bool(range.key(wanted)?.is_some()))
            } else {
                no_overload()
            }
        }
        ("size", [value]) => match value.len() {
            Some(length) => Ok(Val::Int(i64::try_from(length).unwrap_or(i64::MAX))),
            None => no_overload(),
        },
        ("dyn", [_]) => Ok(args.remove(0)),
        ("type", [value]) => Ok(Val::Type(value.type_name())),
        ("optional.of", [_]) => Ok(some(args.remove(0))),
        ("optional.none", []) => Ok(Val::Optional(None)),
        ("optional.ofNonZeroValue", [value]) => {
            Ok(if is_zero(value) { Val::Optional(None) } else { some(args.remove(0)) })
        }
        ("hasValue", [Val::Optional(inner)]) => Ok(Val::Bool(inner.is_some())),
        ("value", [Val::Optional(inner)]) => match inner {
            Some(inner) => Ok((**inner).clone()),
            None => failed("optional.none() dereference"),
        },
        ("or", [Val::Optional(inner), Val::Optional(_)]) => Ok(args.swap_remove(usize::from(inner.is_none()))),
        ("orValue", [Val::Optional(inner), _]) => match inner {
            Some(inner) => Ok((**inner).clone()),
            None => Ok(args.remove(1)),
        },
        _ => {
            let found = convert::call(name, &args)
                .or_else(|| strings::call(name, &args))
                .or_else(|| lists::call(machine, name, &args))
                .or_else(|| times::call(name, &args))
                .or_else(|| access::call(machine, name, &args))
                .or_else(|| network::call(name, method, &args));
            found.unwrap_or_else(no_overload)
        }
    }
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) | Val::Optional(None) => true,
        Val::Double(number) => *number == 0.0,
        Val::Duration(nanos) => *nanos == 0,
        other => other.len() == Some(0),
    }
}

/// A list of texts.
fn texts<'v>(items: impl IntoIterator<Item = String>) -> Val<'v> {
    Val::List(Rc::new(items.into_iter().map(super::value::text).collect()))
}

/// The texts of a list.
fn strings_of<'v>(list: &Val<'v>) -> Result<Vec<String>, EvalError> {
    let each = |item: Val<'v>| match item {
        Val::Str(text) => Ok(text.into_owned()),
        _ => failed("no such overload"),
    };
    list.items()?.into_iter().map(each).collect()
}
