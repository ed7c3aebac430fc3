//! Strings (cel-go's `ext/strings.go`) and regular expressions (Kubernetes' `library/regex.go`). Places in a string are
//! counted in characters.

use super::super::EvalError;
use super::super::value::{Outcome, Val, failed, text};
use super::{strings_of, texts, to_text};
use regex::Regex;
use std::fmt::Write;

/// Largest compiled expression.
const REGEX_SIZE: usize = 1 << 20;

pub(super) fn compile(pattern: &str) -> Result<Regex, EvalError> {
    match regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build() {
        Ok(found) => Ok(found),
        Err(error) => {
            let error = error.to_string();
            let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            failed(format!("error parsing regexp: {why}: `{pattern}`"))
        }
    }
}

fn number<'v>(found: usize) -> Val<'v> {
    Val::Int(i64::try_from(found).unwrap_or(i64::MAX))
}

pub(super) fn call<'v>(name: &str, args: &[Val<'v>]) -> Option<Outcome<'v>> {
    let [Val::Str(own), rest @ ..] = args else {
        return match (name, args) {
            ("join", [list]) if list.is_list() => Some(strings_of(list).map(|parts| text(parts.concat()))),
            ("join", [list, Val::Str(between)]) if list.is_list() => {
                Some(strings_of(list).map(|parts| text(parts.join(between))))
            }
            _ => None,
        };
    };
    let own: &str = own;
    Some(match (name, rest) {
        ("contains", [Val::Str(other)]) => Ok(Val::Bool(own.contains(&**other))),
        ("startsWith", [Val::Str(other)]) => Ok(Val::Bool(own.starts_with(&**other))),
        ("endsWith", [Val::Str(other)]) => Ok(Val::Bool(own.ends_with(&**other))),
        ("matches", [Val::Str(pattern)]) => compile(pattern).map(|regex| Val::Bool(regex.is_match(own))),
        ("find", [Val::Str(pattern)]) => {
            compile(pattern).map(|regex| text(regex.find(own).map_or("", |found| found.as_str())))
        }
        ("findAll", [Val::Str(pattern)]) => find_all(own, pattern, -1),
        ("findAll", [Val::Str(pattern), Val::Int(limit)]) => find_all(own, pattern, *limit),
        ("charAt", [Val::Int(at)]) => char_at(own, *at),
        ("indexOf", [Val::Str(wanted)]) => index_of(own, wanted, 0),
        ("indexOf", [Val::Str(wanted), Val::Int(from)]) => index_of(own, wanted, *from),
        ("lastIndexOf", [Val::Str(wanted)]) => last_index_of(own, wanted, i64::MAX),
        ("lastIndexOf", [Val::Str(wanted), Val::Int(from)]) => last_index_of(own, wanted, *from),
        ("lowerAscii", []) => Ok(text(own.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(text(own.to_ascii_uppercase())),
        ("replace", [Val::Str(from), Val::Str(to)]) => replace(own, from, to, -1),
        ("replace", [Val::Str(from), Val::Str(to), Val::Int(limit)]) => replace(own, from, to, *limit),
        ("split", [Val::Str(between)]) => Ok(split(own, between, -1)),
        ("split", [Val::Str(between), Val::Int(limit)]) => Ok(split(own, between, *limit)),
        ("substring", [Val::Int(start)]) => substring(own, *start, None),
        ("substring", [Val::Int(start), Val::Int(end)]) => substring(own, *start, Some(*end)),
        ("trim", []) => Ok(text(own.trim())),
        ("reverse", []) => Ok(text(own.chars().rev().collect::<String>())),
        ("strings.quote", []) => Ok(text(crate::error::quote(own))),
        ("format", [list]) if list.is_list() => list.items().and_then(|args| format(own, &args)).map(text),
        _ => return None,
    })
}

fn find_all<'v>(own: &str, pattern: &str, limit: i64) -> Outcome<'v> {
    let regex = compile(pattern)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(texts(regex.find_iter(own).take(limit).map(|found| found.as_str().to_owned())))
}

fn char_at<'v>(own: &str, at: i64) -> Outcome<'v> {
    let length = own.chars().count();
    match usize::try_from(at) {
        Ok(at) if at == length => Ok(text("")),
        Ok(at) if at < length => Ok(text(own.chars().nth(at).map(String::from).unwrap_or_default())),
        _ => failed(format!("index out of range: {at}")),
    }
}

fn index_of<'v>(own: &str, wanted: &str, from: i64) -> Outcome<'v> {
    let length = own.chars().count();
    let Some(from) = usize::try_from(from).ok().filter(|from| *from <= length) else {
        return if wanted.is_empty() && from == 0 {
            Ok(Val::Int(0))
        } else {
            failed(format!("index out of range: {from}"))
        };
    };
    let start: usize = own.chars().take(from).map(char::len_utf8).sum();
    Ok(own[start..].find(wanted).map_or(Val::Int(-1), |found| number(own[..start + found].chars().count())))
}

fn last_index_of<'v>(own: &str, wanted: &str, from: i64) -> Outcome<'v> {
    let length = own.chars().count();
    let end = if from == i64::MAX {
        own.len()
    } else {
        let Some(from) = usize::try_from(from).ok().filter(|from| *from <= length) else {
            return failed(format!("index out of range: {from}"));
        };
        let last = from.saturating_add(wanted.chars().count());
        own.chars().take(last).map(char::len_utf8).sum()
    };
    Ok(own[..end].rfind(wanted).map_or(Val::Int(-1), |found| number(own[..found].chars().count())))
}

fn replace<'v>(own: &str, from: &str, to: &str, limit: i64) -> Outcome<'v> {
    // An empty text is found between all characters: what comes out may be much longer than what goes in.
    let pieces = if from.is_empty() { own.len() + 1 } else { own.len() / from.len() + 1 };
    if pieces.saturating_mul(to.len()) > 4 << 20 {
        return failed("the result of replace is too long");
    }
    Ok(text(match usize::try_from(limit) {
        Ok(limit) => own.replacen(from, to, limit),
        Err(_) => own.replace(from, to),
    }))
}

fn split<'v>(own: &str, between: &str, limit: i64) -> Val<'v> {
    if limit == 0 {
        return texts([]);
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if !between.is_empty() {
        return texts(own.splitn(limit, between).map(str::to_owned));
    }
    // Every character for itself; the rest in the last piece.
    let mut rest = own;
    let mut out = Vec::new();
    while let Some(symbol) = rest.chars().next() {
        if out.len() + 1 == limit {
            out.push(rest.to_owned());
            break;
        }
        out.push(symbol.to_string());
        rest = &rest[symbol.len_utf8()..];
    }
    texts(out)
}

fn substring<'v>(own: &str, start: i64, end: Option<i64>) -> Outcome<'v> {
    let length = own.chars().count();
    let within = |place: i64| usize::try_from(place).ok().filter(|place| *place <= length);
    let Some(first) = within(start) else { return failed(format!("index out of range: {start}")) };
    let last = match end {
        None => length,
        Some(end) => match within(end) {
            Some(last) if last >= first => last,
            Some(_) => return failed(format!("invalid substring range. start: {start}, end: {}", end)),
            None => return failed(format!("index out of range: {end}")),
        },
    };
    Ok(text(own.chars().skip(first).take(last - first).collect::<String>()))
}

/// `"%s is %d".format([...])`.
fn format(pattern: &str, args: &[Val<'_>]) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut symbols = pattern.chars().peekable();
    while let Some(symbol) = symbols.next() {
        if symbol != '%' {
            out.push(symbol);
            continue;
        }
        let mut precision = None;
        if symbols.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = symbols.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().map(|precision| precision.min(100));
        }
        let Some(verb) = symbols.next() else { return failed("unexpected end of string") };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = args.next() else { return failed("index out of range in format") };
        let fault = || failed(format!("error during formatting: %{verb} cannot be used for {}", value.type_name()));
        let written = match (verb, value) {
            ('s', value) => {
                shown(value, &mut out)?;
                Ok(())
            }
            ('d', Val::Int(number)) => write!(out, "{number}"),
            ('d', Val::Uint(number)) => write!(out, "{number}"),
            ('d', Val::Double(number)) => write!(out, "{number}"),
            ('f', value) => match as_double(value) {
                Some(number) => write!(out, "{number:.*}", precision.unwrap_or(6)),
                None => return fault(),
            },
            ('e', value) => match as_double(value) {
                Some(number) => {
                    let text = format!("{number:.*e}", precision.unwrap_or(6));
                    // Two digits at least, and a sign.
                    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                    let exponent: i32 = exponent.parse().unwrap_or(0);
                    let sign = if exponent < 0 { '-' } else { '+' };
                    write!(out, "{digits}e{sign}{:02}", exponent.abs())
                }
                None => return fault(),
            },
            ('b', Val::Int(number)) => signed(&mut out, *number, |number| format!("{number:b}")),
            ('b', Val::Uint(number)) => write!(out, "{number:b}"),
            ('b', Val::Bool(flag)) => write!(out, "{}", u8::from(*flag)),
            ('o', Val::Int(number)) => signed(&mut out, *number, |number| format!("{number:o}")),
            ('o', Val::Uint(number)) => write!(out, "{number:o}"),
            ('x', Val::Int(number)) => signed(&mut out, *number, |number| format!("{number:x}")),
            ('X', Val::Int(number)) => signed(&mut out, *number, |number| format!("{number:X}")),
            ('x', Val::Uint(number)) => write!(out, "{number:x}"),
            ('X', Val::Uint(number)) => write!(out, "{number:X}"),
            ('x' | 'X', Val::Str(_) | Val::Bytes(_)) => {
                let bytes: &[u8] = match value {
                    Val::Str(text) => text.as_bytes(),
                    Val::Bytes(bytes) => bytes,
                    _ => &[],
                };
                let each = |byte: &u8| if verb == 'x' { format!("{byte:02x}") } else { format!("{byte:02X}") };
                out.extend(bytes.iter().map(each));
                Ok(())
            }
            ('d' | 'b' | 'o' | 'x' | 'X', _) => return fault(),
            (other, _) => return failed(format!("unrecognized formatting clause \"{other}\"")),
        };
        if written.is_err() {
            return failed("error during formatting");
        }
    }
    Ok(out)
}

fn signed(out: &mut String, number: i64, digits: impl Fn(u64) -> String) -> std::fmt::Result {
    write!(out, "{}{}", if number < 0 { "-" } else { "" }, digits(number.unsigned_abs()))
}

#[expect(clippy::cast_precision_loss, reason = "shown as a fraction")]
fn as_double(value: &Val<'_>) -> Option<f64> {
    match value {
        Val::Double(number) => Some(*number),
        Val::Int(number) => Some(*number as f64),
        Val::Uint(number) => Some(*number as f64),
        _ => None,
    }
}

/// `%s`: any value.
fn shown(value: &Val<'_>, out: &mut String) -> Result<(), EvalError> {
    match value {
        list if list.is_list() => {
            out.push('[');
            for (index, item) in list.items()?.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                shown(item, out)?;
            }
            out.push(']');
        }
        Val::Object(..) | Val::Map(_) => {
            let mut entries = Vec::new();
            for (key, value) in value.entries()? {
                let mut text = to_text(&key)?;
                text.push_str(": ");
                shown(&value, &mut text)?;
                entries.push(text);
            }
            entries.sort_unstable();
            out.push('{');
            out.push_str(&entries.join(", "));
            out.push('}');
        }
        Val::Double(number) => out.push_str(&number.to_string()),
        other => out.push_str(&to_text(other)?),
    }
    Ok(())
}
