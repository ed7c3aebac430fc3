//! Lists (Kubernetes' `library/lists.go`) and sets (cel-go's `ext/sets.go`).

use super::super::EvalError;
use super::super::eval::Machine;
use super::super::value::{Outcome, Val, contains, failed};
use super::{no_overload, numbers};
use std::cmp::Ordering;

pub(super) fn call<'v>(machine: &mut Machine<'v>, name: &str, args: &[Val<'v>]) -> Option<Outcome<'v>> {
    let [list, rest @ ..] = args else { return None };
    if !list.is_list() {
        return None;
    }
    Some(match (name, rest) {
        ("isSorted", []) => sorted(list),
        ("sum", []) => sum(list),
        ("min", []) => extreme(list, "min", Ordering::Less),
        ("max", []) => extreme(list, "max", Ordering::Greater),
        ("indexOf", [wanted]) => place(list, wanted, false),
        ("lastIndexOf", [wanted]) => place(list, wanted, true),
        ("sets.contains", [other]) if other.is_list() => {
            pairs(machine, list, other).and_then(|()| has_all(list, other)).map(Val::Bool)
        }
        ("sets.equivalent", [other]) if other.is_list() => {
            pairs(machine, list, other).and_then(|()| Ok(has_all(list, other)? && has_all(other, list)?)).map(Val::Bool)
        }
        ("sets.intersects", [other]) if other.is_list() => {
            pairs(machine, list, other).and_then(|()| intersects(list, other)).map(Val::Bool)
        }
        _ => return None,
    })
}

/// Every item is compared with every other.
fn pairs(machine: &mut Machine<'_>, left: &Val<'_>, right: &Val<'_>) -> Result<(), EvalError> {
    machine.spend(left.len().unwrap_or(0) as u64 * right.len().unwrap_or(0) as u64)
}

fn has_all<'v>(list: &Val<'v>, wanted: &Val<'v>) -> Result<bool, EvalError> {
    let items = list.items()?;
    for item in wanted.items()? {
        if !contains(&items, &item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn intersects<'v>(list: &Val<'v>, other: &Val<'v>) -> Result<bool, EvalError> {
    let items = list.items()?;
    for item in other.items()? {
        if contains(&items, &item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn sorted<'v>(list: &Val<'v>) -> Outcome<'v> {
    for pair in list.items()?.windows(2) {
        match pair[0].compare(&pair[1]) {
            Some(Ordering::Greater) => return Ok(Val::Bool(false)),
            Some(_) => {}
            None => return no_overload(),
        }
    }
    Ok(Val::Bool(true))
}

fn sum<'v>(list: &Val<'v>) -> Outcome<'v> {
    let mut items = list.items()?.into_iter();
    let Some(first) = items.next() else { return Ok(Val::Int(0)) };
    items.try_fold(first, |left, right| numbers::call("_+_", &[left, right]).unwrap_or_else(no_overload))
}

fn extreme<'v>(list: &Val<'v>, name: &str, wanted: Ordering) -> Outcome<'v> {
    let mut items = list.items()?.into_iter();
    let Some(mut best) = items.next() else { return failed(format!("{name} called on empty list")) };
    for item in items {
        match item.compare(&best) {
            Some(found) if found == wanted => best = item,
            Some(_) => {}
            None => return no_overload(),
        }
    }
    Ok(best)
}

fn place<'v>(list: &Val<'v>, wanted: &Val<'v>, last: bool) -> Outcome<'v> {
    let mut found = -1;
    for (index, item) in (0..).zip(list.items()?) {
        if item.equal(wanted)? {
            found = index;
            if !last {
                break;
            }
        }
    }
    Ok(Val::Int(found))
}
