//! What an unquoted scalar means (`go.yaml.in/yaml/v2/resolve.go`).

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    /// Larger than an `i64`.
    Uint(u64),
    Float(f64),
    /// Kept as text, but written in quotes.
    Timestamp,
    Text,
}

pub(super) fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    match text.as_bytes()[0] {
        b'.' => float(text).map_or(Scalar::Text, Scalar::Float),
        b'0'..=b'9' | b'+' | b'-' => {
            if is_timestamp(text) {
                return Scalar::Timestamp;
            }
            let plain = text.replace('_', "");
            integer(&plain).or_else(|| float(&plain).map(Scalar::Float)).unwrap_or(Scalar::Text)
        }
        _ => Scalar::Text,
    }
}

/// Go's `strconv.ParseInt` and `ParseUint` with base 0: a leading `0` means octal.
fn integer(text: &str) -> Option<Scalar> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let size = u64::from_str_radix(digits, base).ok()?;
    match (negative, i64::try_from(size)) {
        (false, Ok(number)) => Some(Scalar::Int(number)),
        (false, Err(_)) => (!text.starts_with('+')).then_some(Scalar::Uint(size)),
        (true, Ok(number)) => Some(Scalar::Int(-number)),
        (true, Err(_)) => (size == i64::MIN.unsigned_abs()).then_some(Scalar::Int(i64::MIN)),
    }
}

/// `yamlStyleFloat`: digits with one dot somewhere and an exponent.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (number, exponent) = unsigned.split_once(['e', 'E']).map_or((unsigned, None), |(n, e)| (n, Some(e)));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fits = all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent_fits = exponent.is_none_or(|text| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        !digits.is_empty() && all_digits(digits)
    });
    if fits && exponent_fits { text.parse().ok().filter(|number: &f64| number.is_finite()) } else { None }
}

/// `parseTimestamp`: a date, or a date and a time, in the loose forms that YAML allows.
fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let year = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if year != 4 || bytes.get(4) != Some(&b'-') {
        return false;
    }
    let mut rest = &text[5..];
    let mut number = |least: u32, most: u32, end: &[char]| -> Option<char> {
        let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
        let value: u32 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        if !(least..=most).contains(&value) {
            return None;
        }
        match rest.chars().next() {
            Some(symbol) if end.contains(&symbol) => {
                rest = &rest[1..];
                Some(symbol)
            }
            None if end.contains(&'\0') => Some('\0'),
            _ => None,
        }
    };
    if number(1, 12, &['-']).is_none() {
        return false;
    }
    let separator = match number(1, 31, &['\0', 'T', 't', ' ']) {
        None => return false,
        Some('\0') => return true,
        Some(separator) => separator,
    };
    if number(0, 23, &[':']).is_none() || number(0, 59, &[':']).is_none() {
        return false;
    }
    let Some(ending) = number(0, 59, &['\0', '.', 'Z', '+', '-']) else { return false };
    let after_fraction =
        if ending == '.' { rest.trim_start_matches(|symbol: char| symbol.is_ascii_digit()) } else { rest };
    let zone = match ending {
        '.' => after_fraction,
        'Z' => return separator != ' ' && rest.is_empty(),
        '\0' => "",
        // The sign was consumed: look at it together with the rest.
        _ => return separator != ' ' && is_offset(rest),
    };
    match (separator, zone) {
        (' ', zone) => zone.is_empty(),
        (_, "Z") => true,
        (_, zone) => zone.strip_prefix(['+', '-']).is_some_and(is_offset),
    }
}

fn is_offset(text: &str) -> bool {
    matches!(text.as_bytes(), [h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit()))
}

/// A number in base 60 of YAML 1.1: read as text, written in quotes for other readers (`isBase60Float`).
pub(super) fn is_base_60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or("");
    let digits_and_underscores = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    if !first.starts_with(|symbol: char| symbol.is_ascii_digit()) || !digits_and_underscores(first) {
        return false;
    }
    let rest: Vec<&str> = parts.collect();
    let minutes = |text: &str| match text.as_bytes() {
        [ones] => ones.is_ascii_digit(),
        [b'0'..=b'5', ones] => ones.is_ascii_digit(),
        _ => false,
    };
    match rest.split_last() {
        None => false,
        Some((last, middle)) => {
            let (last, fraction) = last.split_once('.').unwrap_or((last, ""));
            middle.iter().all(|part| minutes(part)) && minutes(last) && digits_and_underscores(fraction)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_1_1_scalars() {
        for (text, expected) in [
            ("0644", Scalar::Int(420)),
            ("0o644", Scalar::Int(420)),
            ("0x1F", Scalar::Int(31)),
            ("0b101", Scalar::Int(5)),
            ("-017", Scalar::Int(-15)),
            ("08", Scalar::Float(8.0)),
            ("1_000", Scalar::Int(1000)),
            ("18446744073709551615", Scalar::Uint(u64::MAX)),
            ("-9223372036854775808", Scalar::Int(i64::MIN)),
            ("1e3", Scalar::Float(1000.0)),
            ("1.", Scalar::Float(1.0)),
            (".5", Scalar::Float(0.5)),
            ("+1", Scalar::Int(1)),
            ("--1", Scalar::Text),
            ("-", Scalar::Text),
            ("1.2.3", Scalar::Text),
            ("1Gi", Scalar::Text),
            ("yes", Scalar::Bool(true)),
            ("Off", Scalar::Bool(false)),
            ("tRue", Scalar::Text),
            ("~", Scalar::Null),
            ("2026-01-02", Scalar::Timestamp),
            ("2026-01-02T03:04:05Z", Scalar::Timestamp),
            ("2026-1-2 3:4:5.25", Scalar::Timestamp),
            ("2026-01-02T03:04:05.5+02:00", Scalar::Timestamp),
            ("2026-13-02", Scalar::Text),
            ("2026-01-02T03:04:05", Scalar::Text),
        ] {
            assert_eq!(resolve(text), expected, "{text}");
        }
        assert!(is_base_60("1:30") && is_base_60("190:20:30.15"));
        assert!(!is_base_60("1:90") && !is_base_60("a:1") && !is_base_60("15"));
    }
}
