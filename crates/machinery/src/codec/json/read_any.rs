//! JSON without a schema: custom resources before their schema is applied, patches, embedded objects.

use super::lexer::{Kind, Lexer, Number};
use crate::codec::{DecodeError, Decoded, FieldValidation, MAX_TREE_DEPTH, StrictErrors};
use crate::value::{Map, Name, Value};
use std::borrow::Cow;
use std::fmt::Write;

type Result<T> = std::result::Result<T, DecodeError>;

/// A step below the object that is read, for messages.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Key(Name),
    Index(usize),
}

/// Prints a path as `sigs.k8s.io/json` does: `spec.containers[0].name`.
pub(crate) fn print_path(steps: &[Step]) -> String {
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Key(key) if out.is_empty() => out.push_str(key),
            Step::Key(key) => {
                out.push('.');
                out.push_str(key);
            }
            Step::Index(index) => write!(out, "[{index}]").expect("a String takes all"),
        }
    }
    out
}

/// Reads JSON into a tree as Go reads it into `map[string]interface{}` (`UnmarshalCaseSensitivePreserveInts`): of
/// duplicate keys the last one wins.
pub fn from_slice(bytes: &[u8]) -> Result<Value> {
    Ok(decode_any(bytes, FieldValidation::Ignore)?.value)
}

/// The same from text.
pub fn from_str(text: &str) -> Result<Value> {
    from_slice(text.as_bytes())
}

/// The same with duplicate keys reported: `duplicate field "spec.a"`.
pub fn decode_any(bytes: &[u8], validation: FieldValidation) -> Result<Decoded> {
    let mut lexer = Lexer::new(bytes);
    let mut reader = AnyReader { strict: StrictErrors::new(validation), path: Vec::new(), bad_number: None };
    let value = reader.value(&mut lexer, 0)?;
    lexer.end()?;
    if let Some(error) = reader.bad_number {
        return Err(error);
    }
    reader.strict.finish(value, validation)
}

/// One value in the middle of a document; duplicates are nobody's business there.
pub(super) fn read_any(lexer: &mut Lexer<'_>, depth: usize) -> Result<Value> {
    let mut reader =
        AnyReader { strict: StrictErrors::new(FieldValidation::Ignore), path: Vec::new(), bad_number: None };
    let value = reader.value(lexer, depth)?;
    reader.bad_number.map_or(Ok(value), Err)
}

/// What an object says it is, from JSON alone: `apiVersion` and `kind`, empty when absent. The whole document is checked.
///
/// Mirrors `k8s.io/apimachinery/pkg/runtime/serializer/json/meta.go`, `SimpleMetaFactory.Interpret`, and its errors.
pub fn type_meta(bytes: &[u8]) -> Result<(String, String)> {
    let failed =
        |error: DecodeError| DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {error}"));
    read_type_meta(bytes).map_err(failed)
}

fn read_type_meta(bytes: &[u8]) -> Result<(String, String)> {
    let (mut api_version, mut kind) = (String::new(), String::new());
    let mut wrong = None;
    let mut lexer = Lexer::new(bytes);
    match lexer.kind()? {
        Kind::Object => {
            let mut more = !lexer.open(b'}');
            while more {
                let key = lexer.key()?;
                let slot = match &*key {
                    "apiVersion" => Some(&mut api_version),
                    "kind" => Some(&mut kind),
                    _ => None,
                };
                match (slot, lexer.kind()?) {
                    (Some(slot), Kind::String) => *slot = lexer.string()?.into_owned(),
                    (Some(_), other) => {
                        if other != Kind::Null {
                            wrong.get_or_insert((other, format!("Go struct field .{key} of type string")));
                        }
                        lexer.skip(1)?;
                    }
                    (None, _) => lexer.skip(1)?,
                }
                more = lexer.more_keys()?;
            }
        }
        Kind::Null => lexer.literal("null")?,
        other => {
            wrong = Some((
                other,
                "Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
                 \"json:\\\"kind,omitempty\\\"\" }"
                    .to_owned(),
            ));
            lexer.skip(0)?;
        }
    }
    lexer.end()?;
    match wrong {
        None => Ok((api_version, kind)),
        Some((found, wanted)) => {
            Err(DecodeError::Type(format!("json: cannot unmarshal {} into {wanted}", found.name())))
        }
    }
}

struct AnyReader {
    strict: StrictErrors,
    path: Vec<Step>,
    /// The first number that does not fit: told only when the rest of the document is well formed.
    bad_number: Option<DecodeError>,
}

impl AnyReader {
    fn value(&mut self, lexer: &mut Lexer<'_>, depth: usize) -> Result<Value> {
        Ok(match lexer.kind()? {
            Kind::Object => return self.object(lexer, depth),
            Kind::Array => return self.array(lexer, depth),
            Kind::String => Value::String(lexer.string()?.into_owned()),
            Kind::Number => {
                let number = lexer.number()?;
                match to_number(number) {
                    Ok(value) => value,
                    Err(error) => {
                        self.bad_number.get_or_insert(error);
                        Value::Null
                    }
                }
            }
            Kind::True => lexer.literal("true").map(|()| Value::Bool(true))?,
            Kind::False => lexer.literal("false").map(|()| Value::Bool(false))?,
            Kind::Null => lexer.literal("null").map(|()| Value::Null)?,
        })
    }

    fn object(&mut self, lexer: &mut Lexer<'_>, depth: usize) -> Result<Value> {
        if depth >= MAX_TREE_DEPTH {
            return Err(Lexer::too_deep());
        }
        let mut entries: Vec<(Name, Value)> = Vec::new();
        if lexer.open(b'}') {
            return Ok(Value::Object(Map::new()));
        }
        loop {
            let name = Name::from(lexer.key()?);
            let value = if self.strict.wanted() {
                self.path.push(Step::Key(name.clone()));
                let value = self.value(lexer, depth + 1)?;
                self.path.pop();
                value
            } else {
                self.value(lexer, depth + 1)?
            };
            entries.push((name, value));
            if !lexer.more_keys()? {
                break;
            }
        }
        let (map, duplicates) = Map::from_entries(entries);
        for name in duplicates {
            self.path.push(Step::Key(name));
            self.strict.add(format!("duplicate field \"{}\"", print_path(&self.path)));
            self.path.pop();
        }
        Ok(Value::Object(map))
    }

    fn array(&mut self, lexer: &mut Lexer<'_>, depth: usize) -> Result<Value> {
        if depth >= MAX_TREE_DEPTH {
            return Err(Lexer::too_deep());
        }
        let mut items = Vec::new();
        if lexer.open(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            let value = if self.strict.wanted() {
                self.path.push(Step::Index(items.len()));
                let value = self.value(lexer, depth + 1)?;
                self.path.pop();
                value
            } else {
                self.value(lexer, depth + 1)?
            };
            items.push(value);
            if !lexer.more_items()? {
                return Ok(Value::Array(items));
            }
        }
    }
}

/// Integers that fit stay integers, everything else becomes a float, as with Go's `preserveInts`.
pub(super) fn to_number(number: Number<'_>) -> Result<Value> {
    if let (true, Ok(integer)) = (number.integer, number.text.parse::<i64>()) {
        return Ok(Value::Int(integer));
    }
    match number.text.parse::<f64>() {
        // Negative zero loses its sign, so that what is written reads back the same.
        Ok(float) if float.is_finite() => Ok(Value::Float(if float == 0.0 { 0.0 } else { float })),
        _ => Err(DecodeError::Type(format!(
            "json: cannot unmarshal number {} into Go value of type float64",
            shorten(number.text)
        ))),
    }
}

/// A hostile number may have a million digits; a message need not.
pub(super) fn shorten(text: &str) -> Cow<'_, str> {
    if text.len() <= 100 { Cow::Borrowed(text) } else { Cow::Owned(format!("{}...", &text[..100])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_kind_in_upstreams_words() {
        let not_an_object =
            r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
        for (input, expected) in [
            (r#"{"spec":{"kind":"No"},"kind":"Pod","apiVersion":"v1"}"#, Ok(("v1", "Pod"))),
            (r#"{"kind":null}"#, Ok(("", ""))),
            ("null", Ok(("", ""))),
            (
                r#"{"kind":5}"#,
                Err("json: cannot unmarshal number into Go struct field .kind of type string".to_owned()),
            ),
            ("[]", Err(format!("json: cannot unmarshal array into Go value of type {not_an_object}"))),
            (r#"{"kind":"Pod""#, Err("unexpected end of JSON input".to_owned())),
        ] {
            let found = type_meta(input.as_bytes());
            let expected = expected
                .map(|(version, kind)| (version.to_owned(), kind.to_owned()))
                .map_err(|text| format!("couldn't get version/kind; json parse error: {text}"));
            assert_eq!(found.map_err(|error| error.to_string()), expected, "{input}");
        }
    }
}
