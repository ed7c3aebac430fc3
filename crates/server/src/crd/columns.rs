//! Columns of custom resources, by the subset of JSONPath that `kubectl get` columns use.
//!
//! Mirrors `pkg/registry/customresource/tableconvertor`.

use crate::kinds::{Column, TableConvertor};
use jiff::Timestamp;
use skiff_machinery::Value;

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// `[?(@.a=="b")]`
    Where(Vec<String>, String),
}

/// A parsed path: `.spec.items[0].name`, `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path(Vec<Step>);

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0:?} is no JSON path: {1}")]
pub(super) struct PathError(String, &'static str);

impl Path {
    /// Parses; the leading dot is required as upstream requires it.
    pub(super) fn parse(text: &str) -> Result<Self, PathError> {
        let wrong = |why| PathError(text.to_owned(), why);
        let mut steps = Vec::new();
        let mut rest = text.trim();
        rest = rest.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(rest);
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let mut name = String::new();
                let mut escaped = false;
                let mut end = after.len();
                for (at, symbol) in after.char_indices() {
                    match symbol {
                        _ if escaped => {
                            name.push(symbol);
                            escaped = false;
                        }
                        '\\' => escaped = true,
                        '.' | '[' => {
                            end = at;
                            break;
                        }
                        plain => name.push(plain),
                    }
                }
                match name.as_str() {
                    "" => return Err(wrong("a field has no name")),
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
                rest = &after[end..];
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = after.find(']').ok_or_else(|| wrong("a bracket is not closed"))?;
                let inner = after[..end].trim();
                rest = &after[end + 1..];
                steps.push(bracket(inner).ok_or_else(|| wrong("a bracket is not understood"))?);
            } else {
                return Err(wrong("a step begins with neither a dot nor a bracket"));
            }
        }
        Ok(Self(steps))
    }

    /// Everything the path finds.
    pub(super) fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.take(value)).collect();
        }
        found
    }
}

fn bracket(inner: &str) -> Option<Step> {
    let quoted = |text: &str| -> Option<String> {
        let quote = text.chars().next().filter(|symbol| matches!(symbol, '\'' | '"'))?;
        Some(text.strip_prefix(quote)?.strip_suffix(quote)?.to_owned())
    };
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(name) = quoted(inner) {
        return Some(Step::Field(name));
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (left, right) = filter.split_once("==")?;
        let path = left.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
        return Some(Step::Where(path, quoted(right.trim()).unwrap_or_else(|| right.trim().to_owned())));
    }
    inner.parse().ok().map(Step::Index)
}

impl Step {
    fn take<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Field(name), value) => value.get(name).into_iter().collect(),
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(map)) => map.iter().map(|(_, value)| value).collect(),
            (Self::Index(index), Value::Array(items)) => {
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let at = if *index < 0 { index + length } else { *index };
                usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
            }
            (Self::Where(path, wanted), Value::Array(items)) => {
                let holds = |item: &&Value| {
                    let found = path.iter().try_fold(*item, |node, key| node.get(key));
                    found.is_some_and(|found| plain(found) == *wanted)
                };
                items.iter().filter(holds).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => skiff_machinery::codec::json::to_string(other),
    }
}

/// The columns of one version of a definition.
pub(super) struct Columns {
    columns: Vec<Column>,
    paths: Vec<Path>,
}

fn column(name: &str, ty: &str, format: &str, description: &str, priority: i64) -> Column {
    Column {
        name: name.to_owned(),
        ty: ty.to_owned(),
        format: format.to_owned(),
        description: description.to_owned(),
        priority: i32::try_from(priority).unwrap_or(0),
    }
}

impl Columns {
    /// Of `additionalPrinterColumns`; without any a name and an age.
    pub(super) fn new(printer: &[Value]) -> Result<Self, PathError> {
        let mut columns = vec![column("Name", "string", "name", "The object's name.", 0)];
        let mut paths = Vec::new();
        for one in printer {
            let text = |key: &str| one.str_at(&[key]).to_owned();
            let priority = one.get("priority").and_then(Value::as_int).unwrap_or(0);
            columns.push(column(&text("name"), &text("type"), &text("format"), &text("description"), priority));
            paths.push(Path::parse(one.str_at(&["jsonPath"]))?);
        }
        if printer.is_empty() {
            columns.push(column("Age", "date", "", "Time since the object was created.", 0));
            paths.push(Path::parse(".metadata.creationTimestamp")?);
        }
        Ok(Self { columns, paths })
    }
}

impl TableConvertor for Columns {
    fn columns(&self) -> &[Column] {
        &self.columns
    }
    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let mut cells = vec![object.str_at(&["metadata", "name"]).into()];
        for (column, path) in self.columns[1..].iter().zip(&self.paths) {
            let found = path.find(object);
            let cell = found.first().map_or(Value::Null, |value| cell(value, &column.ty, now));
            cells.push(cell);
        }
        cells
    }
}

/// `cellForJSONValue`.
fn cell(value: &Value, ty: &str, now: i64) -> Value {
    match (ty, value) {
        ("integer", Value::Int(_)) | ("number", Value::Int(_) | Value::Float(_)) | ("boolean", Value::Bool(_)) => {
            value.clone()
        }
        #[expect(clippy::cast_possible_truncation, reason = "an integer column shows whole numbers")]
        ("integer", Value::Float(number)) => Value::Int(*number as i64),
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => plain(other).into(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => human_duration(now - time.as_second()).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

/// `duration.HumanDuration`: two units where the larger one is small.
fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{small_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        _ if seconds < 2 * 365 * DAY => format!("{}d", seconds / DAY),
        _ if seconds < 8 * 365 * DAY => two(seconds / DAY / 365, "y", seconds / DAY % 365, "d"),
        _ => format!("{}y", seconds / DAY / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::codec::json;

    #[test]
    fn paths_find() {
        let object = json::from_str(r#"{"a":{"b":[{"t":"x","s":1},{"t":"y","s":2}],"c.d":"e"}}"#).unwrap();
        let find =
            |path: &str| -> Vec<String> { Path::parse(path).unwrap().find(&object).into_iter().map(plain).collect() };
        assert_eq!(find(".a.b[0].s"), ["1"]);
        assert_eq!(find(".a.b[-1].t"), ["y"]);
        assert_eq!(find(".a.b[?(@.t==\"y\")].s"), ["2"]);
        assert_eq!(find(".a.b[*].t"), ["x", "y"]);
        assert_eq!(find(".a['c.d']"), ["e"]);
        assert_eq!(find(".a.c\\.d"), ["e"]);
        assert_eq!(find(".x.y"), Vec::<String>::new());
        assert!(Path::parse("a.b").is_err() && Path::parse(".a[").is_err());
    }

    #[test]
    fn durations_are_read_by_people() {
        let shown: Vec<String> =
            [0, 119, 120, 125, 3600, 10_800, 11_000, 100_000, 180_000, 700_000, 70_000_000].map(human_duration).into();
        assert_eq!(shown, ["0s", "119s", "2m", "2m5s", "60m", "3h", "3h3m", "27h", "2d2h", "8d", "2y80d"]);
    }
}
