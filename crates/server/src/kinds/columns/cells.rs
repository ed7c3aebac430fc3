//! How values look in tables.

use crate::kinds::tree::Tree;
use skiff_machinery::selector::Selector;
use skiff_machinery::time::Timestamp;
use skiff_machinery::{Map, Value};

/// What kubectl shows for nothing.
pub(super) const NONE: &str = "<none>";
/// What it shows for what nobody knows.
pub(super) const UNKNOWN: &str = "<unknown>";

/// `duration.HumanDuration` (k8s.io/apimachinery/pkg/util/duration).
pub(super) fn human(seconds: i64) -> String {
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// Seconds since the epoch of a timestamp field.
pub(super) fn seconds(value: Option<&Value>) -> Option<i64> {
    let nanos = Timestamp::from_value(value)?.as_nanos();
    i64::try_from(nanos.div_euclid(1_000_000_000)).ok()
}

/// `translateTimestampSince`.
pub(super) fn since(value: Option<&Value>, now: i64) -> String {
    seconds(value).map_or_else(|| UNKNOWN.to_owned(), |then| human(now - then))
}

/// Age of an object.
pub(super) fn age(object: &Value, now: i64) -> Value {
    since(object.at(&["metadata", "creationTimestamp"]), now).into()
}

/// Name of an object.
pub(super) fn name(object: &Value) -> Value {
    object.str_at(&["metadata", "name"]).into()
}

/// Text, or `<none>`.
pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// Integer at a path, 0 when missing.
pub(super) fn int(object: &Value, path: &[&str]) -> i64 {
    object.at(path).and_then(Value::as_int).unwrap_or(0)
}

/// Names and images of containers.
pub(super) fn containers(spec: Option<&Value>) -> (Value, Value) {
    let items = spec.map(|spec| spec.items("containers")).unwrap_or(&[]);
    let join = |key: &str| -> Value { items.iter().map(|item| item.text(key)).collect::<Vec<_>>().join(",").into() };
    (join("name"), join("image"))
}

/// A structured label selector.
pub(super) fn label_selector(selector: Option<&Value>) -> Value {
    match Selector::from_label_selector(selector) {
        Ok(selector) if selector.matches_nothing() => NONE.into(),
        Ok(selector) => selector.format().into(),
        Err(error) => error.to_string().into(),
    }
}

/// `labels.FormatLabels`.
pub(super) fn labels(map: Option<&Map>) -> Value {
    let pairs: Vec<String> = map
        .into_iter()
        .flat_map(Map::iter)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    or_none(&pairs.join(","))
}

/// A scalar as text.
pub(super) fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Int(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn durations_as_kubectl_prints_them() {
        const DAY: i64 = 86_400;
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3600, "2d1h"),
            (8 * DAY + 3600, "8d"),
            (730 * DAY, "2y"),
            (731 * DAY, "2y1d"),
            (3000 * DAY, "8y"),
        ] {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
    }
}
