//! Text to tokens (the lexis of `cel-spec/doc/langdef.md`).

use super::CompileError;
use super::ast::Literal;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Ident(String),
    /// `` `a-b` ``: only after a dot.
    Quoted(String),
    Literal(Literal),
    /// An operator or a bracket.
    Op(&'static str),
    End,
}

const OPERATORS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", ".?", "[?", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(",
    ")", "[", "]", "{", "}",
];

/// Words that are no names, beside the literals and `in`.
pub(super) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

/// Every token with its place.
pub(super) fn tokens(source: &str) -> Result<Vec<(usize, Token)>, CompileError> {
    let bytes = source.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte.is_ascii_whitespace() {
            at += 1;
        } else if bytes[at..].starts_with(b"//") {
            at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at);
        } else if let Some((literal, end)) = quoted(source, at)? {
            out.push((at, Token::Literal(literal)));
            at = end;
        } else if byte.is_ascii_digit() || byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
            let (literal, end) = number(source, at)?;
            out.push((at, Token::Literal(literal)));
            at = end;
        } else if byte == b'`' {
            let end = source[at + 1..].find('`').ok_or_else(|| syntax(source, at, "a backtick is not closed"))?;
            out.push((at, Token::Quoted(source[at + 1..at + 1 + end].to_owned())));
            at += end + 2;
        } else if is_name_start(byte) {
            let end = at + bytes[at..].iter().take_while(|byte| is_name_start(**byte) || byte.is_ascii_digit()).count();
            let word = &source[at..end];
            let token = match word {
                "true" => Token::Literal(Literal::Bool(true)),
                "false" => Token::Literal(Literal::Bool(false)),
                "null" => Token::Literal(Literal::Null),
                "in" => Token::Op("in"),
                // After a dot they are fields (upstream's parser says so with `a.__if__`, but takes the plain word).
                _ if RESERVED.contains(&word) && !matches!(out.last(), Some((_, Token::Op("." | ".?")))) => {
                    return Err(syntax(source, at, &format!("reserved identifier: {word}")));
                }
                _ => Token::Ident(word.to_owned()),
            };
            out.push((at, token));
            at = end;
        } else if let Some(operator) = OPERATORS.iter().find(|operator| source[at..].starts_with(**operator)) {
            // `[?` only opens an optional element or index; `a ? [x] : y` has a space or another order.
            out.push((at, Token::Op(operator)));
            at += operator.len();
        } else {
            let symbol = source[at..].chars().next().unwrap_or_default();
            return Err(syntax(source, at, &format!("token recognition error at: '{symbol}'")));
        }
    }
    out.push((source.len(), Token::End));
    Ok(out)
}

fn syntax(source: &str, at: usize, what: &str) -> CompileError {
    CompileError::at(source, at, format!("Syntax error: {what}"))
}

fn number(source: &str, start: usize) -> Result<(Literal, usize), CompileError> {
    let bytes = source.as_bytes();
    let fault = |what: &str| syntax(source, start, what);
    if bytes[start..].starts_with(b"0x") || bytes[start..].starts_with(b"0X") {
        let digits = bytes[start + 2..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let end = start + 2 + digits;
        let text = &source[start + 2..end];
        return if matches!(bytes.get(end), Some(b'u' | b'U')) {
            Ok((Literal::Uint(u64::from_str_radix(text, 16).map_err(|_| fault("invalid uint literal"))?), end + 1))
        } else {
            Ok((Literal::Int(i64::from_str_radix(text, 16).map_err(|_| fault("invalid int literal"))?), end))
        };
    }
    let digits = |from: usize| from + bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = digits(start);
    let mut float = false;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        float = true;
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            float = true;
            end = digits(end + 1 + sign);
        }
    }
    let text = &source[start..end];
    if float {
        return Ok((Literal::Double(text.parse().map_err(|_| fault("invalid double literal"))?), end));
    }
    if matches!(bytes.get(end), Some(b'u' | b'U')) {
        return Ok((Literal::Uint(text.parse().map_err(|_| fault("invalid uint literal"))?), end + 1));
    }
    // The smallest integer is written with a minus in front: the parser puts them together.
    match text.parse::<u64>() {
        Ok(number) => match i64::try_from(number) {
            Ok(number) => Ok((Literal::Int(number), end)),
            Err(_) if number == 1 << 63 => Ok((Literal::Int(i64::MIN), end)),
            Err(_) => Err(fault("invalid int literal")),
        },
        Err(_) => Err(fault("invalid int literal")),
    }
}

/// A string or bytes literal that begins here, and where it ends.
fn quoted(source: &str, start: usize) -> Result<Option<(Literal, usize)>, CompileError> {
    let bytes = source.as_bytes();
    let (mut at, mut raw, mut binary) = (start, false, false);
    while let Some(prefix) = bytes.get(at) {
        match prefix {
            b'r' | b'R' if !raw => raw = true,
            b'b' | b'B' if !binary => binary = true,
            b'"' | b'\'' => break,
            _ => return Ok(None),
        }
        at += 1;
    }
    let Some(&quote) = bytes.get(at) else { return Ok(None) };
    let triple = bytes[at..].starts_with(&[quote; 3]);
    let close: &[u8] = if triple { &[quote; 3] } else { &[quote] };
    let close = close.to_vec();
    at += close.len();
    let mut out = Vec::new();
    loop {
        let Some(&byte) = bytes.get(at) else { return Err(syntax(source, start, "a string is not closed")) };
        if bytes[at..].starts_with(&close) {
            at += close.len();
            break;
        }
        if byte == b'\n' && !triple {
            return Err(syntax(source, start, "a string is not closed"));
        }
        if byte == b'\\' && !raw {
            at = escape(source, at, binary, &mut out)?;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    if binary {
        return Ok(Some((Literal::Bytes(out), at)));
    }
    let text = String::from_utf8(out).map_err(|_| syntax(source, start, "a string is no UTF-8"))?;
    Ok(Some((Literal::String(text), at)))
}

/// Writes what the escape at `at` stands for; where it ends.
fn escape(source: &str, at: usize, binary: bool, out: &mut Vec<u8>) -> Result<usize, CompileError> {
    let bytes = source.as_bytes();
    let fault = || syntax(source, at, "an escape that does not exist");
    let digits = |from: usize, count: usize, radix: u32| -> Result<u32, CompileError> {
        let text = source.get(from..from + count).ok_or_else(fault)?;
        u32::from_str_radix(text, radix).map_err(|_| fault())
    };
    let code = |code: u32, out: &mut Vec<u8>| -> Result<(), CompileError> {
        if binary {
            out.push(u8::try_from(code).map_err(|_| fault())?);
        } else {
            let mut buffer = [0; 4];
            let symbol = char::from_u32(code).ok_or_else(fault)?;
            out.extend_from_slice(symbol.encode_utf8(&mut buffer).as_bytes());
        }
        Ok(())
    };
    let kind = *bytes.get(at + 1).ok_or_else(fault)?;
    let length = match kind {
        b'n' => return plain(out, b'\n', at),
        b't' => return plain(out, b'\t', at),
        b'r' => return plain(out, b'\r', at),
        b'a' => return plain(out, 7, at),
        b'b' => return plain(out, 8, at),
        b'f' => return plain(out, 12, at),
        b'v' => return plain(out, 11, at),
        b'\\' | b'"' | b'\'' | b'`' | b'?' => return plain(out, kind, at),
        b'x' | b'X' => 2,
        b'u' => 4,
        b'U' => 8,
        b'0'..=b'3' => {
            code(digits(at + 1, 3, 8)?, out)?;
            return Ok(at + 4);
        }
        _ => return Err(fault()),
    };
    code(digits(at + 2, length, 16)?, out)?;
    Ok(at + 2 + length)
}

#[expect(clippy::unnecessary_wraps, reason = "the caller returns it")]
fn plain(out: &mut Vec<u8>, byte: u8, at: usize) -> Result<usize, CompileError> {
    out.push(byte);
    Ok(at + 2)
}
