//! How long a request may take: `?timeout=`, at most `--request-timeout` (`filters/request_deadline.go`).

use crate::request::{Query, RequestInfo};
use skiff_machinery::ApiError;
use std::time::Duration;

/// The deadline of a request; `None` for one that lasts.
pub fn deadline(info: &RequestInfo, query: Option<&str>, max: Duration) -> Result<Option<Duration>, ApiError> {
    if info.is_long_running() {
        return Ok(None);
    }
    let Some(query) = query.filter(|query| query.contains("timeout=")) else { return Ok(Some(max)) };
    let query = Query::parse(query);
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(Some(max)) };
    let invalid = || {
        ApiError::bad_request(format!(
            "invalid timeout specified in the request URL - failed to parse the timeout value in {}",
            skiff_machinery::error::quote(text)
        ))
    };
    let asked = parse_duration(text).ok_or_else(invalid)?;
    Ok(Some(if asked.is_zero() { max } else { asked.min(max) }))
}

/// Go's `time.ParseDuration`, without signs: `1h30m`, `1.5s`, `100ms`, `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.').filter(|end| *end > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|symbol: char| symbol.is_ascii_digit() || symbol == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(())?;
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_gos_durations() {
        let read = |text: &str| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(read("1h1m1.5s"), Some(3_661_500));
        assert_eq!(read("100ms"), Some(100));
        assert_eq!(read("0"), Some(0));
        for wrong in ["", "5", "s", "1x", "-1s", "1.2.3s", "1e400h"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
