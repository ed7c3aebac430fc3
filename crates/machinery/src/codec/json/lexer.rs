//! The tokens of JSON, with Go's words for what is wrong with them (`encoding/json/scanner.go`).

use crate::codec::DecodeError;
use std::borrow::Cow;

/// Deepest nesting that is read at all (`maxNestingDepth`).
const MAX_NESTING: usize = 10_000;

/// A number as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Number<'a> {
    pub(crate) text: &'a str,
    /// Has neither fraction nor exponent.
    pub(crate) integer: bool,
}

/// What a value starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    True,
    False,
    Null,
}

impl Kind {
    /// What Go calls it in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Number => "number",
            Self::True | Self::False => "bool",
            Self::Null => "null",
        }
    }
}

pub(crate) struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Result<T> = std::result::Result<T, DecodeError>;

/// What the parser was about to read, in Go's words.
mod looking {
    pub(super) const VALUE: &str = "looking for beginning of value";
    pub(super) const KEY: &str = "looking for beginning of object key string";
    pub(super) const AFTER_KEY: &str = "after object key";
    pub(super) const AFTER_PAIR: &str = "after object key:value pair";
    pub(super) const AFTER_ELEMENT: &str = "after array element";
    pub(super) const AFTER_TOP: &str = "after top-level value";
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }
    /// The error for the byte at the current position, or for the missing one.
    #[cold]
    fn unexpected(&self, context: &str) -> DecodeError {
        let Some(byte) = self.peek() else {
            return DecodeError::Syntax("unexpected end of JSON input".to_owned());
        };
        let shown = match byte {
            b'\'' => "\\'".to_owned(),
            b'"' => "\"".to_owned(),
            // Go turns the byte into a rune before it quotes it.
            other => {
                let quoted = crate::error::quote(&char::from(other).to_string());
                quoted[1..quoted.len() - 1].to_owned()
            }
        };
        DecodeError::Syntax(format!("invalid character '{shown}' {context}"))
    }

    /// What the next value is, without consuming it.
    pub(crate) fn kind(&mut self) -> Result<Kind> {
        self.skip_space();
        Ok(match self.peek() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            Some(b't') => Kind::True,
            Some(b'f') => Kind::False,
            Some(b'n') => Kind::Null,
            _ => return Err(self.unexpected(looking::VALUE)),
        })
    }

    /// Consumes `true`, `false` or `null`.
    pub(crate) fn literal(&mut self, word: &'static str) -> Result<()> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                let context = format!("in literal {word} (expecting '{}')", char::from(expected));
                return Err(self.unexpected(&context));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn digits(&mut self, context: &str) -> Result<()> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected(context));
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    /// Consumes a number.
    pub(crate) fn number(&mut self) -> Result<Number<'a>> {
        let start = self.at;
        let mut integer = true;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            integer = false;
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).expect("digits and signs are ASCII");
        Ok(Number { text, integer })
    }

    /// Consumes a string. Bytes that are not UTF-8 become U+FFFD one by one, as do lone surrogates.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        let Some(step) = memchr::memchr2(b'"', b'\\', &self.bytes[start..]) else {
            self.refuse_control(start, self.bytes.len())?;
            self.at = self.bytes.len();
            return Err(self.unexpected(""));
        };
        self.refuse_control(start, start + step)?;
        self.at += step;
        if self.bytes[self.at] == b'\\' {
            return self.escaped_string(start).map(Cow::Owned);
        }
        let raw = &self.bytes[start..self.at];
        self.at += 1;
        Ok(to_utf8(raw))
    }

    fn refuse_control(&mut self, from: usize, to: usize) -> Result<()> {
        // Folding first keeps the common case free of branches.
        let lowest = self.bytes[from..to].iter().fold(u8::MAX, |low, byte| low.min(*byte));
        if lowest < 0x20 {
            let offset = self.bytes[from..to].iter().position(|byte| *byte < 0x20).unwrap_or(0);
            self.at = from + offset;
            return Err(self.unexpected("in string literal"));
        }
        Ok(())
    }

    /// The rest of a string whose first backslash is at the current position.
    fn escaped_string(&mut self, start: usize) -> Result<String> {
        let mut out = String::with_capacity(self.at - start + 64);
        out.push_str(&to_utf8(&self.bytes[start..self.at]));
        loop {
            let plain = self.at;
            let step = memchr::memchr2(b'"', b'\\', &self.bytes[plain..]).unwrap_or(self.bytes.len() - plain);
            self.refuse_control(plain, plain + step)?;
            out.push_str(&to_utf8(&self.bytes[plain..plain + step]));
            self.at = plain + step;
            match self.peek() {
                None => return Err(self.unexpected("")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(_) => {
                    self.at += 1;
                    self.escape(&mut out)?;
                }
            }
        }
    }

    /// One escape; the backslash is consumed.
    fn escape(&mut self, out: &mut String) -> Result<()> {
        let symbol = match self.peek() {
            Some(same @ (b'"' | b'\\' | b'/')) => char::from(same),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.hex4()?;
                let symbol = self.code_point(first);
                out.push(symbol);
                return Ok(());
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        out.push(symbol);
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else { return Err(self.unexpected("in \\u hexadecimal character escape")) };
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    /// The character that starts with this UTF-16 unit. Looks for the second half of a surrogate pair.
    fn code_point(&mut self, first: u32) -> char {
        if let Some(symbol) = char::from_u32(first) {
            return symbol;
        }
        let rest = &self.bytes[self.at..];
        if first < 0xdc00 && rest.len() >= 6 && rest[..2] == *b"\\u" {
            let digits =
                std::str::from_utf8(&rest[2..6]).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
            let second = digits.and_then(|text| u32::from_str_radix(text, 16).ok());
            if let Some(second @ 0xdc00..=0xdfff) = second {
                self.at += 6;
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            }
        }
        char::REPLACEMENT_CHARACTER
    }

    /// Consumes `{` or `[`; `true` when the bracket closes at once (and is then consumed too).
    pub(crate) fn open(&mut self, close: u8) -> bool {
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(close) {
            self.at += 1;
            return true;
        }
        false
    }
    /// Consumes a key and its colon.
    pub(crate) fn key(&mut self) -> Result<Cow<'a, str>> {
        self.skip_space();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(looking::KEY));
        }
        let key = self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected(looking::AFTER_KEY));
        }
        self.at += 1;
        Ok(key)
    }
    /// After a value in an object: `true` when another key follows.
    pub(crate) fn more_keys(&mut self) -> Result<bool> {
        self.more(b'}', looking::AFTER_PAIR)
    }
    /// After a value in an array: `true` when another follows.
    pub(crate) fn more_items(&mut self) -> Result<bool> {
        self.more(b']', looking::AFTER_ELEMENT)
    }
    fn more(&mut self, close: u8, context: &str) -> Result<bool> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.unexpected(context)),
        }
    }
    /// Only white space may be left.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.skip_space();
        if self.at < self.bytes.len() { Err(self.unexpected(looking::AFTER_TOP)) } else { Ok(()) }
    }
    pub(crate) fn too_deep() -> DecodeError {
        DecodeError::Syntax("exceeded max depth".to_owned())
    }

    /// Consumes and checks one value of any depth without recursion. `depth` is how deep it stands.
    pub(crate) fn skip(&mut self, depth: usize) -> Result<()> {
        // One bit per level would do; a byte is simpler and as bounded.
        let mut open: Vec<u8> = Vec::new();
        loop {
            let closed_at_once = match self.kind()? {
                kind @ (Kind::Object | Kind::Array) => {
                    let close = if kind == Kind::Object { b'}' } else { b']' };
                    if depth + open.len() >= MAX_NESTING {
                        return Err(Self::too_deep());
                    }
                    let closed = self.open(close);
                    if !closed {
                        open.push(close);
                        if kind == Kind::Object {
                            self.key()?;
                        }
                    }
                    closed
                }
                Kind::String => self.string().map(|_| true)?,
                Kind::Number => self.number().map(|_| true)?,
                Kind::True => self.literal("true").map(|()| true)?,
                Kind::False => self.literal("false").map(|()| true)?,
                Kind::Null => self.literal("null").map(|()| true)?,
            };
            if !closed_at_once {
                continue;
            }
            // A value is complete: close what closes, then read the next one.
            loop {
                match open.last() {
                    None => return Ok(()),
                    Some(b'}') => {
                        if self.more_keys()? {
                            self.key()?;
                            break;
                        }
                    }
                    Some(_) => {
                        if self.more_items()? {
                            break;
                        }
                    }
                }
                open.pop();
            }
        }
    }
}

/// Text of bytes that may not be UTF-8: every byte that is no part of a character becomes U+FFFD, as in Go's
/// `unicode/utf8`.
pub(crate) fn to_utf8(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let mut out = String::with_capacity(bytes.len() + 16);
            for chunk in bytes.utf8_chunks() {
                out.push_str(chunk.valid());
                out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
            }
            Cow::Owned(out)
        }
    }
}
