//! Points and spans of time as objects hold them: `metav1.Time`, `metav1.MicroTime`, `metav1.Duration`.
//!
//! Trees keep their text; here it becomes numbers and back. The machinery knows no clock: what "now" is comes from
//! whoever calls.

use crate::codec::scalar;
use crate::value::Value;
use std::fmt;
use std::time::Duration;

/// A text that is no time or no duration; Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TimeError(String);

/// A point in time, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds in the second.
    pub nanos: u32,
}

impl Timestamp {
    /// Reads RFC 3339 with or without a fraction.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let (seconds, nanos) = scalar::parse_time(text, false).map_err(TimeError)?;
        Ok(Self { seconds, nanos })
    }
    /// From a tree's node; `None` when it is absent, `null` or no time.
    pub fn from_value(value: Option<&Value>) -> Option<Self> {
        value.and_then(Value::as_str).and_then(|text| Self::parse(text).ok())
    }
    /// As `metav1.Time` writes it: whole seconds.
    pub fn to_time_text(self) -> String {
        text_of(scalar::time_value(self.seconds))
    }
    /// As `metav1.MicroTime` writes it: six digits of fraction.
    pub fn to_micro_time_text(self) -> String {
        text_of(scalar::micro_time_value(self.seconds, self.nanos))
    }
    /// Nanoseconds since 1970.
    pub fn as_nanos(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }
    /// From nanoseconds since 1970; `None` beyond what 64 bits of seconds hold.
    pub fn from_nanos(nanos: i128) -> Option<Self> {
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
        let nanos = u32::try_from(nanos.rem_euclid(1_000_000_000)).ok()?;
        Some(Self { seconds, nanos })
    }
    /// How long after `earlier` this is; nothing when it is before.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = u128::try_from(self.as_nanos() - earlier.as_nanos()).unwrap_or(0);
        let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
        Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).unwrap_or(0))
    }
    /// Later by `span`, at most the last time there is.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let nanos = self.as_nanos().saturating_add(i128::try_from(span.as_nanos()).unwrap_or(i128::MAX));
        Self::from_nanos(nanos).unwrap_or(Self { seconds: i64::MAX, nanos: 0 })
    }
}

/// Go's zero time has no text.
fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        _ => "0001-01-01T00:00:00Z".to_owned(),
    }
}

/// A span of time as Go writes it (`1h30m0s`); may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration {
    /// Nanoseconds.
    pub nanos: i64,
}

impl GoDuration {
    /// `time.ParseDuration`.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        scalar::parse_duration(text).map(|nanos| Self { nanos }).map_err(TimeError)
    }
    /// As an unsigned span; nothing when negative.
    pub fn as_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanos).unwrap_or(0))
    }
}
impl From<Duration> for GoDuration {
    /// At most about 292 years.
    fn from(span: Duration) -> Self {
        Self { nanos: i64::try_from(span.as_nanos()).unwrap_or(i64::MAX) }
    }
}
impl fmt::Display for GoDuration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&scalar::duration_text(self.nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn times_in_text() {
        for (text, seconds, micros) in [
            ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000000Z"),
            ("2024-01-01T01:00:00.123456789+01:00", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00.123456Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z", "1969-12-31T23:59:59.500000Z"),
        ] {
            let time = Timestamp::parse(text).unwrap();
            assert_eq!((time.to_time_text().as_str(), time.to_micro_time_text().as_str()), (seconds, micros));
        }
        for bad in ["", "2024-02-30T00:00:00Z", "2024-01-01", "2024-01-01T00:00:00", "2024-13-01T00:00:00Z", "x"] {
            assert!(Timestamp::parse(bad).is_err(), "{bad}");
        }
        let (early, late) =
            (Timestamp::parse("2024-01-01T00:00:00Z").unwrap(), Timestamp::parse("2024-01-01T00:01:00.5Z").unwrap());
        assert_eq!(late.since(early), Duration::from_millis(60_500));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.plus(Duration::from_millis(60_500)), late);
        assert_eq!(Timestamp::from_nanos(late.as_nanos()), Some(late));
    }

    #[test]
    fn durations_in_text() {
        for (text, written) in [
            ("0", "0s"),
            ("1h30m", "1h30m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("100ms", "100ms"),
            ("1us", "1µs"),
            ("-2m", "-2m0s"),
            ("1h1ns", "1h0m0.000000001s"),
        ] {
            let span = GoDuration::parse(text).unwrap();
            assert_eq!(span.to_string(), written, "{text}");
            assert_eq!(GoDuration::parse(written).unwrap(), span);
        }
        for bad in ["", "1", "s", "1x", "--1s", "99999999999h"] {
            assert!(GoDuration::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(GoDuration::parse("1500ms").unwrap().as_std(), Duration::from_millis(1500));
    }

    #[test]
    fn mutated_text_never_panics() {
        mutate(
            &["2024-02-29T23:59:59.123456Z", "2024-01-01T01:00:00+01:00", "1h30m0.5s", "-2562047h47m16.854775807s"],
            300,
            |text| {
                if let Ok(time) = Timestamp::parse(text) {
                    assert_eq!(Timestamp::parse(&time.to_time_text()).unwrap().seconds, time.seconds, "{text}");
                    assert_eq!(Timestamp::parse(&time.to_micro_time_text()).unwrap().nanos, time.nanos / 1000 * 1000);
                }
                if let Ok(span) = GoDuration::parse(text) {
                    assert_eq!(GoDuration::parse(&span.to_string()).unwrap(), span, "{text}");
                }
            },
        );
    }
}
