//! Parts of timestamps and durations.

use super::super::value::{Outcome, Val, failed};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

pub(super) fn call<'v>(name: &str, args: &[Val<'v>]) -> Option<Outcome<'v>> {
    match args {
        [Val::Duration(nanos)] => {
            let unit = match name {
                "getHours" => 3_600_000_000_000,
                "getMinutes" => 60_000_000_000,
                "getSeconds" => 1_000_000_000,
                "getMilliseconds" => 1_000_000,
                _ => return None,
            };
            Some(Ok(Val::Int(i64::try_from(nanos / unit).unwrap_or(i64::MAX))))
        }
        [Val::Timestamp(nanos)] => part(name, *nanos, "UTC"),
        [Val::Timestamp(nanos), Val::Str(zone)] => part(name, *nanos, zone),
        _ => None,
    }
}

/// A zone by name, or `+02:00`.
fn zone_of(name: &str) -> Option<TimeZone> {
    if let Some((hours, minutes)) = name.split_once(':')
        && let (Ok(whole), Ok(part)) = (hours.parse::<i32>(), minutes.parse::<i32>())
    {
        let seconds = whole * 3600 + if hours.starts_with('-') { -part } else { part } * 60;
        return Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?));
    }
    if name.is_empty() || name == "UTC" { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() }
}

fn part<'v>(name: &str, nanos: i128, zone: &str) -> Option<Outcome<'v>> {
    let Some(tz) = zone_of(zone) else { return Some(failed(format!("unknown time zone {zone}"))) };
    let Ok(time) = Timestamp::from_nanosecond(nanos) else { return Some(failed("timestamp overflow")) };
    let time = time.to_zoned(tz);
    let found = match name {
        "getFullYear" => i64::from(time.year()),
        "getMonth" => i64::from(time.month()) - 1,
        "getDate" => i64::from(time.day()),
        "getDayOfMonth" => i64::from(time.day()) - 1,
        "getDayOfWeek" => i64::from(time.weekday().to_sunday_zero_offset()),
        "getDayOfYear" => i64::from(time.day_of_year()) - 1,
        "getHours" => i64::from(time.hour()),
        "getMinutes" => i64::from(time.minute()),
        "getSeconds" => i64::from(time.second()),
        "getMilliseconds" => i64::from(time.millisecond()),
        _ => return None,
    };
    Some(Ok(Val::Int(found)))
}
