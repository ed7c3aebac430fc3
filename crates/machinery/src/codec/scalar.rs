//! Leaf values that have a form of their own: checked as Go's decoders check them, and brought to the text that Go would
//! write. The errors are Go's.

use crate::schema::{Field, Type};
use crate::value::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

type Outcome = Result<Value, String>;

/// Go's decoder does not look at the unused bits of the last character.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// `resource.ErrFormatWrong`.
pub(crate) const QUANTITY_FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Whether a field that is no pointer in Go holds its zero value here, so that the tree need not keep it. Empty lists
/// and maps count where Go omits them.
pub(crate) fn is_zero(value: &Value, field: &Field) -> bool {
    match (value, &field.ty) {
        (Value::Null, _) => true,
        (Value::Bool(flag), Type::Bool) => !flag,
        (Value::Int(number), Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString) => *number == 0,
        (Value::String(text), Type::String | Type::Bytes) => text.is_empty(),
        (Value::String(text), Type::Quantity) => text == "0",
        (Value::String(text), Type::Duration) => text == "0s",
        (Value::Object(map), Type::Struct(_)) => map.is_empty(),
        (Value::Object(map), Type::Map(_)) => !field.always && map.is_empty(),
        (Value::Array(items), Type::List(_)) => !field.always && items.is_empty(),
        _ => false,
    }
}

/// A float as trees hold it: integral values as integers, whichever encoding they came in.
pub(crate) fn double(number: f64) -> Value {
    // Up to 2^53 every integer has one float, so nothing is lost.
    if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 {
        #[expect(clippy::cast_possible_truncation, reason = "integral and within 2^53")]
        return Value::Int(number as i64);
    }
    Value::Float(number)
}

/// Go's `strconv.FormatFloat(number, 'g', -1, 64)`, which is also its `%v`.
pub(crate) fn go_float(number: f64) -> String {
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    if exponent.parse().is_ok_and(|exponent: i32| (-4..6).contains(&exponent)) {
        return format!("{number}");
    }
    let (sign, size) = exponent.strip_prefix('-').map_or(('+', exponent), |size| ('-', size));
    format!("{digits}e{sign}{size:0>2}")
}

/// `[]byte`: standard base64, in which Go overlooks line ends.
pub(crate) fn bytes_from_text(text: &str) -> Outcome {
    decode_base64(text).map(|bytes| bytes_to_text(&bytes))
}

/// Bytes of a base64 text, or Go's error.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let stripped;
    let clean = if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_some() {
        stripped = text.replace(['\n', '\r'], "");
        &stripped
    } else {
        text
    };
    LENIENT.decode(clean).map_err(|error| {
        let offset = match error {
            base64::DecodeError::InvalidByte(offset, _) | base64::DecodeError::InvalidLastSymbol(offset, _) => offset,
            // Go names the start of the group that is not complete.
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => clean.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {offset}")
    })
}

pub(crate) fn bytes_to_text(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

/// `resource.Quantity`: its canonical text.
pub(crate) fn quantity_from_text(text: &str) -> Outcome {
    let trimmed = text.trim();
    if is_canonical_quantity(trimmed.as_bytes()) {
        return Ok(Value::String(trimmed.to_owned()));
    }
    canonical_quantity(trimmed).map(Value::String)
}

/// Recognises the common forms that are canonical already: a whole number that is no multiple of the next unit.
fn is_canonical_quantity(text: &[u8]) -> bool {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 12 || text[0] == b'0' {
        return text == b"0";
    }
    let number = text[..digits].iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    match &text[digits..] {
        b"" | b"m" | b"k" | b"M" | b"G" => number % 1000 != 0,
        b"Ki" | b"Mi" | b"Gi" => number % 1024 != 0,
        _ => false,
    }
}

fn canonical_quantity(text: &str) -> Result<String, String> {
    crate::quantity::Quantity::canonical(text).map_err(|error| error.to_string())
}

/// `metav1.Time`: UTC, whole seconds. Go's zero time is `null`.
pub(crate) fn time_from_text(text: &str) -> Outcome {
    if is_canonical_time(text.as_bytes()) {
        return Ok(Value::String(text.to_owned()));
    }
    parse_time(text, false).map(|(seconds, _)| time_value(seconds))
}

/// `metav1.MicroTime`: UTC, always six digits of fraction.
pub(crate) fn micro_time_from_text(text: &str) -> Outcome {
    parse_time(text, true).map(|(seconds, nanos)| micro_time_value(seconds, nanos))
}

/// 0001-01-01T00:00:00Z, which Go takes for "no time".
const ZERO_TIME: i64 = -62_135_596_800;

/// Seconds since 1970 as `metav1.Time` writes them.
pub(crate) fn time_value(seconds: i64) -> Value {
    if seconds == ZERO_TIME { Value::Null } else { Value::String(format!("{}Z", civil(seconds))) }
}

/// Seconds and nanoseconds since 1970 as `metav1.MicroTime` writes them.
pub(crate) fn micro_time_value(seconds: i64, nanos: u32) -> Value {
    if (seconds, nanos) == (ZERO_TIME, 0) {
        return Value::Null;
    }
    Value::String(format!("{}.{:06}Z", civil(seconds), nanos / 1000))
}

/// `2006-01-02T15:04:05Z` with every part in range (days above 28 take the long way).
fn is_canonical_time(text: &[u8]) -> bool {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'Z'] = text else {
        return false;
    };
    let pair = |tens: u8, ones: u8| {
        let both = tens.is_ascii_digit() && ones.is_ascii_digit();
        if both { (tens - b'0') * 10 + (ones - b'0') } else { u8::MAX }
    };
    pair(y1, y2) >= 1
        && pair(y1, y2) < 100
        && pair(y3, y4) < 100
        && (1..=12).contains(&pair(m1, m2))
        && (1..=28).contains(&pair(d1, d2))
        && pair(h1, h2) < 24
        && pair(n1, n2) < 60
        && pair(s1, s2) < 60
}

/// `2006-01-02T15:04:05` of seconds since 1970 (the days-to-civil algorithm on eras of 400 years).
fn civil(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Seconds and nanoseconds since 1970 of a text in RFC 3339, as `time.Parse` reads it with the layout of `metav1.Time`
/// (any fraction or none) or `metav1.MicroTime` (exactly six digits).
pub(crate) fn parse_time(text: &str, micro: bool) -> Result<(i64, u32), String> {
    let mut parser = TimeParser { text, rest: text, micro };
    let year = parser.number("2006", 4, 4)?;
    parser.symbol("-")?;
    let month = parser.number("01", 2, 2)?;
    parser.in_range((1..=12).contains(&month), "month")?;
    parser.symbol("-")?;
    let day = parser.number("02", 2, 2)?;
    parser.symbol("T")?;
    let hour = parser.number("15", 1, 2)?;
    parser.in_range(hour < 24, "hour")?;
    parser.symbol(":")?;
    let minute = parser.number("04", 2, 2)?;
    parser.in_range(minute < 60, "minute")?;
    parser.symbol(":")?;
    let second = parser.number("05", 2, 2)?;
    parser.in_range(second < 60, "second")?;
    let nanos = parser.fraction()?;
    let offset = parser.zone()?;
    if !parser.rest.is_empty() {
        let extra = crate::error::quote(parser.rest);
        return Err(format!("parsing time {}: extra text: {extra}", crate::error::quote(text)));
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    parser.in_range((1..=days).contains(&day), "day")?;
    Ok((days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

/// Seconds and nanoseconds of a time as trees hold it, with or without fraction.
pub(crate) fn parse_any_time(text: &str) -> Option<(i64, u32)> {
    parse_time(text, false).ok()
}

struct TimeParser<'a> {
    text: &'a str,
    rest: &'a str,
    micro: bool,
}

impl TimeParser<'_> {
    fn error(&self, element: &str) -> String {
        let layout = if self.micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
        let (text, rest) = (crate::error::quote(self.text), crate::error::quote(self.rest));
        format!(
            "parsing time {text} as {}: cannot parse {rest} as {}",
            crate::error::quote(layout),
            crate::error::quote(element)
        )
    }
    fn in_range(&self, fits: bool, what: &str) -> Result<(), String> {
        if fits { Ok(()) } else { Err(format!("parsing time {}: {what} out of range", crate::error::quote(self.text))) }
    }
    fn number(&mut self, element: &str, least: usize, most: usize) -> Result<i64, String> {
        let digits = self.rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if digits < least {
            return Err(self.error(element));
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        number.parse().map_err(|_| self.error(element))
    }
    fn symbol(&mut self, symbol: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(symbol).ok_or_else(|| self.error(symbol))?;
        Ok(())
    }
    fn fraction(&mut self) -> Result<u32, String> {
        let digits = match self.rest.strip_prefix(['.', ',']) {
            Some(rest) => rest.bytes().take_while(u8::is_ascii_digit).count(),
            None => 0,
        };
        let digits = match (self.micro, digits) {
            (true, 6..) => 6,
            (true, _) => return Err(self.error(".000000")),
            (false, 0) => return Ok(0),
            (false, any) => any,
        };
        let nanos = self.rest[1..=digits].bytes().chain(std::iter::repeat(b'0')).take(9);
        let nanos = nanos.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
        self.rest = &self.rest[1 + digits..];
        Ok(nanos)
    }
    /// Seconds east of UTC.
    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2, ..] = self.rest.as_bytes() else {
            return Err(self.error("Z07:00"));
        };
        if ![h1, h2, m1, m2].iter().all(u8::is_ascii_digit) {
            return Err(self.error("Z07:00"));
        }
        let pair = |tens: u8, ones: u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
        let (hours, minutes) = (pair(h1, h2), pair(m1, m2));
        self.in_range(hours <= 24, "time zone offset hour")?;
        self.in_range(minutes <= 60, "time zone offset minute")?;
        self.rest = &self.rest[6..];
        let seconds = hours * 3600 + minutes * 60;
        Ok(if sign == b'-' { -seconds } else { seconds })
    }
}

/// `metav1.Duration`: the text that Go's `Duration.String` gives.
pub(crate) fn duration_from_text(text: &str) -> Outcome {
    parse_duration(text).map(|nanos| Value::String(duration_text(nanos)))
}

/// Nanoseconds of Go's duration text (`time.ParseDuration`).
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let quoted = || crate::error::quote(text);
    let invalid = || format!("time: invalid duration {}", quoted());
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (digits, after) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if fraction.contains('.') || whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_length = after.bytes().take_while(|byte| !byte.is_ascii_digit() && *byte != b'.').count();
        let (unit, next) = after.split_at(unit_length);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(format!("time: missing unit in duration {}", quoted())),
            _ => return Err(format!("time: unknown unit {} in duration {}", crate::error::quote(unit), quoted())),
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| invalid())?.into() };
        let mut part = whole * scale;
        if !fraction.is_empty() {
            let kept = &fraction[..fraction.len().min(18)];
            let numerator: i128 = kept.parse().map_err(|_| invalid())?;
            let denominator = 10_i128.pow(u32::try_from(kept.len()).map_err(|_| invalid())?);
            part += numerator * scale / denominator;
        }
        total += part;
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return Err(invalid());
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// `time.Duration.String`.
pub(crate) fn duration_text(nanos: i64) -> String {
    let (sign, size) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let scaled = |unit: u64, name: &str| {
        let (whole, part) = (size / unit, size % unit);
        let mut text = format!("{sign}{whole}");
        if part > 0 {
            let width = unit.ilog10() as usize;
            text.push('.');
            text.push_str(format!("{part:0width$}").trim_end_matches('0'));
        }
        text + name
    };
    match size {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{size}ns"),
        1_000..1_000_000 => scaled(1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => scaled(1_000_000, "ms"),
        _ => {
            let seconds = size / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let below_minute = size - (hours * 60 + minutes) * 60_000_000_000;
            let mut text = format!("{}", below_minute / 1_000_000_000);
            let part = below_minute % 1_000_000_000;
            if part > 0 {
                text.push('.');
                text.push_str(format!("{part:09}").trim_end_matches('0'));
            }
            match (hours, minutes) {
                (0, 0) => format!("{sign}{text}s"),
                (0, _) => format!("{sign}{minutes}m{text}s"),
                _ => format!("{sign}{hours}h{minutes}m{text}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(outcome: Outcome) -> String {
        match outcome {
            Ok(Value::String(text)) => text,
            Ok(other) => format!("{other:?}"),
            Err(error) => error,
        }
    }

    #[test]
    fn times() {
        for (input, expected) in [
            ("2026-07-04T12:30:45Z", "2026-07-04T12:30:45Z"),
            ("2026-07-04T12:30:45.987654321+02:00", "2026-07-04T10:30:45Z"),
            ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z"),
            ("0001-01-01T00:00:00Z", "Null"),
            ("2023-02-29T00:00:00Z", "parsing time \"2023-02-29T00:00:00Z\": day out of range"),
            ("2023-13-01T00:00:00Z", "parsing time \"2023-13-01T00:00:00Z\": month out of range"),
            (
                "tomorrow",
                "parsing time \"tomorrow\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"tomorrow\" as \"2006\"",
            ),
            ("2023-01-01T00:00:00Zx", "parsing time \"2023-01-01T00:00:00Zx\": extra text: \"x\""),
        ] {
            assert_eq!(text(time_from_text(input)), expected, "{input}");
        }
        assert_eq!(text(micro_time_from_text("2026-07-04T12:30:45.123456Z")), "2026-07-04T12:30:45.123456Z");
        assert!(micro_time_from_text("2026-07-04T12:30:45Z").is_err());
    }

    #[test]
    fn civil_and_back() {
        for day in (-800_000..800_000).step_by(97) {
            let text = format!("{}Z", civil(day * 86_400));
            if text.starts_with('-') {
                continue;
            }
            assert_eq!(parse_time(&text, false).unwrap().0, day * 86_400, "{text}");
        }
    }

    #[test]
    fn durations() {
        for (input, expected) in [
            ("1h", "1h0m0s"),
            ("90s", "1m30s"),
            ("1.5h", "1h30m0s"),
            ("-1.5ms", "-1.5ms"),
            ("0", "0s"),
            ("1us", "1\u{b5}s"),
            ("100ms", "100ms"),
            ("1.000000001s", "1.000000001s"),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("", "time: invalid duration \"\""),
        ] {
            assert_eq!(text(duration_from_text(input)), expected, "{input}");
        }
        assert!(parse_duration("9223372036854775808ns").is_err());
        assert_eq!(parse_duration("-9223372036854775808ns"), Ok(i64::MIN));
    }

    #[test]
    fn base64_as_go_reads_it() {
        assert_eq!(text(bytes_from_text("aGVs\nbG8=")), "aGVsbG8=");
        assert_eq!(text(bytes_from_text("aGVsb===")), "illegal base64 data at input byte 5");
        assert_eq!(text(bytes_from_text("a b")), "illegal base64 data at input byte 1");
    }
}
