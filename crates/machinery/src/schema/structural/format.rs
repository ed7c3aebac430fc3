//! `format` of strings (`k8s.io/kube-openapi/pkg/validation/strfmt`).

use regex::Regex;
use std::net::Ipv6Addr;
use std::sync::OnceLock;

/// Whether text has a format; formats that are not known hold for every text.
pub(super) fn holds(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => is_date_time(text),
        "date" => is_date(text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some(b'3')),
        "uuid4" => uuid(text, Some(b'4')),
        "uuid5" => uuid(text, Some(b'5')),
        "ipv4" => {
            ipv4(text) || text.contains('.') && text.parse().is_ok_and(|ip: Ipv6Addr| ip.to_ipv4_mapped().is_some())
        }
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "byte" => !text.is_empty() && crate::codec::scalar::decode_base64(text).is_ok(),
        "duration" => is_duration(text),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "hexcolor" => matches(&HEX_COLOR, "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", text),
        "rgbcolor" => matches(&RGB_COLOR, RGB, text),
        "ssn" => matches(&SSN, r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$", text),
        "k8s-short-name" => is_label(text) && text.len() <= 63,
        "k8s-long-name" => text.len() <= 253 && text.split('.').all(is_label),
        _ => true,
    }
}

static HEX_COLOR: OnceLock<Regex> = OnceLock::new();
static RGB_COLOR: OnceLock<Regex> = OnceLock::new();
static SSN: OnceLock<Regex> = OnceLock::new();
static DURATION: OnceLock<Regex> = OnceLock::new();
static LETTER: OnceLock<Regex> = OnceLock::new();
static WORD: OnceLock<Regex> = OnceLock::new();
const RGB: &str = r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$";

fn matches(cell: &OnceLock<Regex>, pattern: &str, text: &str) -> bool {
    cell.get_or_init(|| Regex::new(pattern).expect("written here and tested")).is_match(text)
}

/// A time with its zone; `t` and `z` may be small.
fn is_date_time(text: &str) -> bool {
    crate::codec::scalar::parse_time(&text.to_ascii_uppercase(), false).is_ok()
}

/// As Go's old parser has it: octets may begin with zeros.
fn ipv4(text: &str) -> bool {
    let octets: Vec<&str> = text.split('.').collect();
    let octet = |octet: &str| {
        let digits = octet.trim_start_matches('0');
        !octet.is_empty()
            && octet.bytes().all(|byte| byte.is_ascii_digit())
            && (digits.is_empty() || digits.parse::<u8>().is_ok())
    };
    octets.len() == 4 && octets.into_iter().all(octet)
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && crate::codec::scalar::parse_time(&format!("{text}T00:00:00Z"), false).is_ok()
}

fn uuid(text: &str, version: Option<u8>) -> bool {
    let hex: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    // Each dash may be left out.
    let shaped = hex.len() == 32
        && groups
            .iter()
            .scan(0, |sum, length| {
                *sum += length;
                Some(*sum)
            })
            .all(|sum| [8, 12, 16, 20, 32].contains(&sum));
    let variant = match version {
        Some(b'3') | None => true,
        Some(_) => matches!(hex.get(16), Some(b'8' | b'9' | b'a' | b'b' | b'A' | b'B')),
    };
    shaped
        && hex.iter().all(u8::is_ascii_hexdigit)
        && version.is_none_or(|version| hex.get(12) == Some(&version))
        && variant
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let plain = !length.is_empty()
        && length.bytes().all(|byte| byte.is_ascii_digit())
        && (length == "0" || !length.starts_with('0'));
    let Some(length) = length.parse::<u8>().ok().filter(|_| plain) else { return false };
    ipv4(address) && length <= 32 || address.parse::<Ipv6Addr>().is_ok() && length <= 128
}

fn is_mac(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some(&separator) = bytes.get(2) else { return false };
    let (width, counts): (usize, &[usize]) = match separator {
        b':' | b'-' => (2, &[6, 8, 20]),
        _ if bytes.get(4) == Some(&b'.') => (4, &[3, 4, 10]),
        _ => return false,
    };
    let separator = if width == 2 { char::from(separator) } else { '.' };
    let groups: Vec<&str> = text.split(separator).collect();
    counts.contains(&groups.len())
        && groups.iter().all(|group| group.len() == width && group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `url.ParseRequestURI`: an absolute URI or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let letters = scheme.starts_with(|symbol: char| symbol.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    letters && !rest.split('/').nth(2).unwrap_or("").contains(' ')
}

/// `mail.ParseAddress` of a bare address.
fn is_email(text: &str) -> bool {
    let inner = text.rsplit_once('<').map_or(text, |(_, address)| address.trim_end_matches('>'));
    let Some((local, domain)) = inner.rsplit_once('@') else { return false };
    let atom = |text: &str| {
        !text.is_empty()
            && text.chars().all(|symbol| {
                symbol.is_ascii_alphanumeric() || !symbol.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(symbol)
            })
    };
    local.split('.').all(atom) && domain.split('.').all(atom)
}

/// One label of letters, digits and symbols with at most one dash after its first character, or several labels and a
/// top level of letters alone. (An address is no host name, and `a.b-c` none either.) Written out, because as one
/// expression over all of Unicode it takes seconds to compile.
fn is_hostname(text: &str) -> bool {
    let labels: Vec<Vec<char>> = text.split('.').map(|label| label.chars().collect()).collect();
    let Some((last, others)) = labels.split_last() else { return false };
    if text.len() > 255 {
        return false;
    }
    if others.is_empty() {
        return match last.as_slice() {
            [first, '-', rest @ ..] | [first, rest @ ..] => {
                is_word(*first) && rest.len() <= 62 && rest.iter().copied().all(is_word)
            }
            [] => false,
        };
    }
    let label = |label: &Vec<char>| {
        label.len() <= 63
            && label.first().copied().is_some_and(is_word)
            && label.last().copied().is_some_and(is_word)
            && label.iter().all(|symbol| *symbol == '-' || is_word(*symbol))
    };
    let letter = |symbol: &char| matches(&LETTER, r"^\p{L}$", symbol.encode_utf8(&mut [0; 4]));
    others.iter().all(label) && (2..=63).contains(&last.len()) && last.iter().all(letter)
}

/// A digit, or what Unicode calls a letter or a symbol.
fn is_word(symbol: char) -> bool {
    match symbol {
        '0'..='9' | 'a'..='z' | 'A'..='Z' => true,
        other => matches(&WORD, r"^[\p{S}\p{L}]$", other.encode_utf8(&mut [0; 4])),
    }
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// Go's duration, or anything in which a whole number stands before the word for a unit.
fn is_duration(text: &str) -> bool {
    const WORDS: [&str; 14] = ["ns", "us", "\u{b5}s", "ms", "s", "m", "h", "hr", "d", "w", "wk", "min", "sec", "day"];
    const BEGINNINGS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    if crate::codec::scalar::parse_duration(text).is_ok() {
        return true;
    }
    let pairs = DURATION.get_or_init(|| Regex::new(r"[0-9]+\s*([A-Za-z\x{b5}]+)").expect("written here and tested"));
    pairs.captures_iter(text).any(|pair| {
        let unit = pair[1].to_lowercase();
        WORDS.contains(&unit.as_str()) || BEGINNINGS.iter().any(|beginning| unit.starts_with(beginning))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "yesterday"),
            ("date", "2026-01-02", "2026-1-2"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uri", "http://a/b", "a b"),
            ("email", "a@b.c", "a"),
            ("hostname", "a.b-c.de", "-a"),
            ("byte", "aGk=", "a"),
            ("duration", "1h30m", "soon"),
            ("duration", "2 days", "2 moons"),
            ("hexcolor", "#fff", "#ff"),
            ("rgbcolor", "rgb(1,2,3)", "rgb(1,2)"),
            ("k8s-short-name", "a-b", "a.b"),
        ] {
            assert!(holds(format, good), "{format} {good}");
            assert!(!holds(format, bad), "{format} {bad}");
        }
        assert!(holds("no-such-format", "x"));
    }
}
