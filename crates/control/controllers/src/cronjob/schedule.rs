//! When a schedule is due: the five fields of cron, its words and `@every`, in a time zone
//! (`github.com/robfig/cron/v3: ParseStandard, SpecSchedule.Next`, whose treatment of clock changes this has too: a time
//! that does not exist is left out, one that comes twice is due twice).

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};
use skiff_machinery::time::GoDuration;

/// A schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    kind: Kind,
    zone: TimeZone,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Fields(Fields),
    Every(SignedDuration),
}

/// Allowed values as bits.
#[derive(Debug, PartialEq)]
struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// Day and weekday are alternatives unless one of them is `*`.
    any_day: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What a field may hold.
struct Bounds {
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const MINUTE: Bounds = Bounds { first: 0, last: 59, names: &[] };
const HOUR: Bounds = Bounds { first: 0, last: 23, names: &[] };
const DAY: Bounds = Bounds { first: 1, last: 31, names: &[] };
const MONTH: Bounds = Bounds { first: 1, last: 12, names: &MONTHS };
const WEEKDAY: Bounds = Bounds { first: 0, last: 6, names: &WEEKDAYS };

impl Bounds {
    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(index) = self.names.iter().position(|name| *name == lower) {
            return Ok(self.first + u32::try_from(index).unwrap_or(0));
        }
        text.parse().map_err(|_| format!("failed to parse int from {text}"))
    }
    /// One part of a list: `*`, `?`, a value, a range, each with an optional step. Says too whether it is a star.
    fn part(&self, text: &str) -> Result<(u64, bool), String> {
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        let star = matches!(range, "*" | "?");
        let (first, mut last) = match range.split_once('-') {
            _ if star => (self.first, self.last),
            Some((first, last)) => (self.number(first)?, self.number(last)?),
            None => (self.number(range)?, self.number(range)?),
        };
        let step = match step {
            None => 1,
            Some(step) => {
                // `5/10` goes on to the end.
                if !range.contains('-') {
                    last = self.last;
                }
                step.parse().map_err(|_| format!("failed to parse int from {step}"))?
            }
        };
        let (lowest, highest) = (self.first, self.last);
        if first < lowest {
            return Err(format!("beginning of range ({first}) below minimum ({lowest}): {text}"));
        }
        if last > highest {
            return Err(format!("end of range ({last}) above maximum ({highest}): {text}"));
        }
        if first > last {
            return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
        }
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        let bits = (first..=last).step_by(step).fold(0, |bits, value| bits | 1u64 << value);
        Ok((bits, star && step == 1))
    }
    fn field(&self, text: &str) -> Result<(u64, bool), String> {
        text.split(',').try_fold((0, false), |(bits, star), part| {
            let (more, is_star) = self.part(part)?;
            Ok((bits | more, star || is_star))
        })
    }
}

impl Schedule {
    /// Reads a schedule; `zone` is for those that name none.
    pub(super) fn parse(text: &str, zone: TimeZone) -> Result<Self, String> {
        let text = text.trim();
        let named = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="));
        let (text, zone) = match named.and_then(|named| named.split_once(' ')) {
            Some((name, rest)) => {
                let zone = TimeZone::get(name).map_err(|error| format!("provided bad location {name}: {error}"))?;
                (rest.trim(), zone)
            }
            None => (text, zone),
        };
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => match text.strip_prefix("@every ") {
                Some(span) => {
                    let span =
                        GoDuration::parse(span).map_err(|error| format!("failed to parse duration {text}: {error}"))?;
                    let seconds = i64::try_from(span.as_std().as_secs()).unwrap_or(i64::MAX).max(1);
                    return Ok(Self { kind: Kind::Every(SignedDuration::from_secs(seconds)), zone });
                }
                None if text.starts_with('@') => return Err(format!("unrecognized descriptor: {text}")),
                None => text,
            },
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        let (day, every_day) = DAY.field(day)?;
        let (weekday, every_weekday) = WEEKDAY.field(weekday)?;
        let fields = Fields {
            minute: MINUTE.field(minute)?.0,
            hour: HOUR.field(hour)?.0,
            day,
            month: MONTH.field(month)?.0,
            weekday,
            any_day: every_day || every_weekday,
        };
        Ok(Self { kind: Kind::Fields(fields), zone })
    }

    /// The zone in which it is due.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first time after `after` at which it is due; `None` when it never is (within five years).
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.kind {
            Kind::Every(span) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*span).ok(),
            Kind::Fields(fields) => {
                let start = Timestamp::from_second(after.as_second()).ok()?.checked_add(1.second()).ok()?;
                fields.next(start.to_zoned(self.zone.clone())).map(|due| due.timestamp())
            }
        }
    }
}

fn has(bits: u64, value: i8) -> bool {
    bits & (1u64 << value) != 0
}

impl Fields {
    fn has_day(&self, at: &Zoned) -> bool {
        let day = has(self.day, at.day());
        let weekday = has(self.weekday, at.weekday().to_sunday_zero_offset());
        if self.any_day { day && weekday } else { day || weekday }
    }

    /// The first matching time at or after `at`.
    fn next(&self, at: Zoned) -> Option<Zoned> {
        let zone = at.time_zone().clone();
        let last_year = at.year() + 5;
        // To the next whole minute.
        let mut at =
            if at.second() == 0 { at } else { at.checked_add((60 - i64::from(at.second())).seconds()).ok()? };
        loop {
            if at.year() > last_year {
                return None;
            }
            at = if !has(self.month, at.month()) {
                at.date().first_of_month().checked_add(1.month()).ok()?.at(0, 0, 0, 0).to_zoned(zone.clone()).ok()?
            } else if !self.has_day(&at) {
                at.date().tomorrow().ok()?.at(0, 0, 0, 0).to_zoned(zone.clone()).ok()?
            } else if !has(self.hour, at.hour()) {
                // Hours as they pass: one that the clock leaves out is left out, one that it repeats comes twice.
                at.checked_add((60 - i64::from(at.minute())).minutes()).ok()?
            } else if !has(self.minute, at.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at);
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(schedule: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(schedule, TimeZone::get(zone).unwrap()).unwrap();
        let mut at: Timestamp = after.parse().unwrap();
        let mut found = Vec::new();
        while let Some(next) = schedule.next(at).filter(|_| found.len() < count) {
            found.push(next.to_string());
            at = next;
        }
        found
    }

    #[test]
    fn fields_ranges_steps_names_and_words() {
        let utc = |schedule, after| due(schedule, "UTC", after, 2);
        assert_eq!(utc("*/15 * * * *", "2026-01-01T00:14:59Z"), ["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]);
        assert_eq!(utc("5/20 1-2 * * *", "2026-01-01T02:30:00Z"), ["2026-01-01T02:45:00Z", "2026-01-02T01:05:00Z"]);
        assert_eq!(
            utc("0 12 * jan,mar mon-fri", "2026-01-30T12:00:00Z"),
            ["2026-03-02T12:00:00Z", "2026-03-03T12:00:00Z"]
        );
        assert_eq!(utc("@monthly", "2026-01-01T00:00:00Z"), ["2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"]);
        assert_eq!(utc("@every 90s", "2026-01-01T00:00:00.5Z"), ["2026-01-01T00:01:30Z", "2026-01-01T00:03:00Z"]);
        assert_eq!(utc("0 0 29 2 *", "2026-01-01T00:00:00Z"), ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
    }

    #[test]
    fn day_and_weekday_are_alternatives_unless_one_is_any() {
        let both = due("0 0 13 * fri", "UTC", "2026-01-01T00:00:00Z", 4);
        assert_eq!(
            both,
            ["2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z", "2026-01-13T00:00:00Z", "2026-01-16T00:00:00Z"]
        );
        assert_eq!(due("0 0 * * fri", "UTC", "2026-01-01T00:00:00Z", 1), ["2026-01-02T00:00:00Z"]);
    }

    #[test]
    fn clocks_that_change() {
        let berlin = |schedule, after, count| due(schedule, "Europe/Berlin", after, count);
        assert_eq!(berlin("30 9 * * *", "2026-07-01T00:00:00Z", 1), ["2026-07-01T07:30:00Z"]);
        // 02:30 does not exist on 2026-03-29, and comes twice on 2026-10-25.
        assert_eq!(berlin("30 2 * * *", "2026-03-28T12:00:00Z", 1), ["2026-03-30T00:30:00Z"]);
        let twice = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"];
        assert_eq!(berlin("30 2 * * *", "2026-10-24T12:00:00Z", 3), twice);
        let named = due("TZ=Europe/Berlin 0 9 * * *", "UTC", "2026-01-01T00:00:00Z", 1);
        assert_eq!(named, ["2026-01-01T08:00:00Z"]);
    }

    #[test]
    fn what_is_no_schedule_is_refused_and_what_never_comes_is_never_due() {
        for text in
            ["", "* * * *", "60 * * * *", "* * 0 * *", "* * * * 7", "5-1 * * * *", "*/0 * * * *", "a * * * *", "@often"]
        {
            assert!(Schedule::parse(text, TimeZone::UTC).is_err(), "{text}");
        }
        assert_eq!(due("59 23 31 2 *", "UTC", "2026-01-01T00:00:00Z", 1), [""; 0]);
    }
}
