//! YAML to tree.

use super::resolve::{Scalar, resolve};
use crate::codec::{DecodeError, Decoded, FieldValidation, MAX_TREE_DEPTH, StrictErrors, json};
use crate::schema::StructType;
use crate::value::{Map, Name, Value};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::collections::HashMap;

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads an object of a built-in type. Only the first document is read; see [`documents`].
pub fn decode(bytes: &[u8], ty: &StructType, validation: FieldValidation) -> Result<Decoded> {
    let read = decode_any(bytes, keep_warnings(validation))?;
    let mut decoded = json::decode(&json::to_vec(&read.value), ty, keep_warnings(validation))?;
    decoded.warnings.splice(0..0, read.warnings);
    if validation == FieldValidation::Strict && !decoded.warnings.is_empty() {
        return Err(DecodeError::Strict(decoded.warnings));
    }
    Ok(decoded)
}

/// Keys set twice and unknown fields are reported together, so neither may refuse on its own.
fn keep_warnings(validation: FieldValidation) -> FieldValidation {
    if validation == FieldValidation::Ignore { validation } else { FieldValidation::Warn }
}

/// Reads a document without a schema, as `YAMLToJSON` followed by JSON would.
pub fn from_slice(bytes: &[u8]) -> Result<Value> {
    Ok(decode_any(bytes, FieldValidation::Ignore)?.value)
}

/// The same with keys that are set twice reported.
pub fn decode_any(bytes: &[u8], validation: FieldValidation) -> Result<Decoded> {
    let text = std::str::from_utf8(bytes).map_err(|_| failed("yaml: invalid leading UTF-8 octet"))?;
    let mut reader = Reader { text, frames: Vec::new(), anchors: HashMap::new(), duplicates: Vec::new(), budget: 0 };
    reader.budget = ALIAS_ALLOWANCE + text.len().saturating_mul(8);
    let value = reader.document()?;
    let mut strict = StrictErrors::new(validation);
    if !reader.duplicates.is_empty() {
        strict.add(format!("yaml: unmarshal errors:\n  {}", reader.duplicates.join("\n  ")));
    }
    strict.finish(value, validation)
}

/// Splits a stream at its `---` lines (`util/yaml.YAMLReader`). Documents that hold nothing but white space are left
/// out.
pub fn documents(text: &str) -> impl Iterator<Item = Result<&str>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        loop {
            let current = rest?;
            let (document, after) = split_at_separator(current);
            match after {
                Some(Err(error)) => {
                    rest = None;
                    return Some(Err(error));
                }
                Some(Ok(next)) => rest = Some(next),
                None => rest = None,
            }
            if !document.trim().is_empty() {
                return Some(Ok(document));
            }
        }
    })
}

/// What stands before the first separator line, and what stands after it.
fn split_at_separator(text: &str) -> (&str, Option<Result<&str>>) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(after) = line.strip_prefix("---") {
            let trimmed = after.trim();
            if !trimmed.is_empty() && !trimmed.starts_with('#') {
                let error = failed(format!("invalid Yaml document separator: {trimmed}"));
                return (&text[..start], Some(Err(error)));
            }
            return (&text[..start], Some(Ok(&text[start + line.len()..])));
        }
        start += line.len();
    }
    (text, None)
}

fn failed(text: impl Into<String>) -> DecodeError {
    DecodeError::Yaml(text.into())
}

/// go-yaml leaves out what it was doing, and counts lines from 0 where its parser, not its scanner, finds the fault.
fn syntax_error(line: usize, info: &str) -> DecodeError {
    let (context, problem) =
        info.split_once(", ").filter(|(context, _)| context.starts_with("while ")).unwrap_or(("", info));
    let line = if context.starts_with("while parsing") { line.saturating_sub(1) } else { line };
    if line == 0 { failed(format!("yaml: {problem}")) } else { failed(format!("yaml: line {line}: {problem}")) }
}

/// Bytes that aliases may add to any document; eight times its length come on top. go-yaml bounds the same thing by a
/// ratio of decoded aliases.
const ALIAS_ALLOWANCE: usize = 1 << 20;

/// A collection that is being read.
struct Frame {
    anchor: usize,
    kind: FrameKind,
}

enum FrameKind {
    Sequence(Vec<Value>),
    Mapping {
        entries: Vec<(Name, Value)>,
        /// The key whose value comes next, and the line it stands on.
        key: Option<Key>,
        /// Where in `entries` each key stands, once there are enough to make looking through them slow.
        index: HashMap<Name, usize>,
    },
}

enum Key {
    Merge,
    Name(Name),
}

struct Reader<'a> {
    text: &'a str,
    frames: Vec<Frame>,
    anchors: HashMap<usize, (Value, usize)>,
    duplicates: Vec<String>,
    /// What copies for anchors and aliases may still cost, in bytes.
    budget: usize,
}

impl Reader<'_> {
    /// The first document; an empty stream is `null`.
    fn document(&mut self) -> Result<Value> {
        for event in Parser::new_from_str(self.text) {
            let (event, span) = event.map_err(|error| syntax_error(error.marker().line(), error.info()))?;
            if let Some(value) = self.event(event, span)? {
                return Ok(value);
            }
        }
        Ok(Value::Null)
    }

    /// Takes in one event; gives the document when it is complete.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Value>> {
        match event {
            Event::SequenceStart(anchor, _) => {
                self.open(anchor, FrameKind::Sequence(Vec::new()))?;
                Ok(None)
            }
            Event::MappingStart(anchor, _) => {
                self.open(anchor, FrameKind::Mapping { entries: Vec::new(), key: None, index: HashMap::new() })?;
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(frame) = self.frames.pop() else { return Ok(None) };
                let value = match frame.kind {
                    FrameKind::Sequence(items) => Value::Array(items),
                    FrameKind::Mapping { entries, .. } => Value::Object(Map::from_entries(entries).0),
                };
                self.remember(frame.anchor, &value)?;
                self.put(value)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let expects_key =
                    matches!(self.frames.last(), Some(Frame { kind: FrameKind::Mapping { key: None, .. }, .. }));
                if expects_key {
                    self.key(&text, style, tag.as_deref(), span)?;
                    if anchor > 0 {
                        self.remember(anchor, &scalar(&text, style, tag.as_deref())?)?;
                    }
                    return Ok(None);
                }
                let value = scalar(&text, style, tag.as_deref())?;
                self.remember(anchor, &value)?;
                self.put(value)
            }
            Event::Alias(anchor) => {
                let Some((value, cost)) = self.anchors.get(&anchor) else {
                    let name: String =
                        self.text.chars().skip(span.start.index() + 1).take_while(|c| !c.is_whitespace()).collect();
                    let name = name.trim_end_matches([',', ']', '}']);
                    return Err(failed(format!("yaml: anchor '{name}' value contains itself")));
                };
                let (value, cost) = (value, *cost);
                self.budget = self.budget.checked_sub(cost).ok_or_else(too_many_aliases)?;
                let value = value.clone();
                let expects_key =
                    matches!(self.frames.last(), Some(Frame { kind: FrameKind::Mapping { key: None, .. }, .. }));
                match value {
                    Value::String(text) if expects_key => {
                        self.key(&text, ScalarStyle::DoubleQuoted, None, span)?;
                        Ok(None)
                    }
                    value => self.put(value),
                }
            }
            Event::DocumentEnd | Event::StreamEnd => Ok(Some(Value::Null)),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => Ok(None),
        }
    }

    fn open(&mut self, anchor: usize, kind: FrameKind) -> Result<()> {
        if self.frames.len() >= MAX_TREE_DEPTH {
            return Err(failed("yaml: exceeded max depth"));
        }
        self.frames.push(Frame { anchor, kind });
        Ok(())
    }

    fn remember(&mut self, anchor: usize, value: &Value) -> Result<()> {
        if anchor > 0 {
            let cost = cost(value);
            self.budget = self.budget.checked_sub(cost).ok_or_else(too_many_aliases)?;
            self.anchors.insert(anchor, (value.clone(), cost));
        }
        Ok(())
    }

    /// Puts a complete value where it belongs; gives it back when it is the document.
    fn put(&mut self, value: Value) -> Result<Option<Value>> {
        let Some(frame) = self.frames.last_mut() else { return Ok(Some(value)) };
        match &mut frame.kind {
            FrameKind::Sequence(items) => items.push(value),
            FrameKind::Mapping { entries, key, index } => match key.take() {
                Some(Key::Name(name)) => set(entries, index, name, value),
                Some(Key::Merge) => merge(entries, index, value)?,
                None => return Err(failed(format!("yaml: invalid map key: {}", json::to_string(&value)))),
            },
        }
        Ok(None)
    }

    fn key(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<()> {
        let plain = style == ScalarStyle::Plain && tag.is_none();
        let Some(Frame { kind: FrameKind::Mapping { entries, key, index }, .. }) = self.frames.last_mut() else {
            return Ok(());
        };
        if plain && text == "<<" {
            *key = Some(Key::Merge);
            return Ok(());
        }
        let meaning = if plain { resolve(text) } else { Scalar::Text };
        let name = match meaning {
            Scalar::Text | Scalar::Timestamp => text.to_owned(),
            Scalar::Bool(flag) => flag.to_string(),
            Scalar::Int(number) => number.to_string(),
            Scalar::Uint(number) => number.to_string(),
            #[expect(clippy::cast_possible_truncation, reason = "sigs.k8s.io/yaml prints keys as 32-bit floats")]
            Scalar::Float(number) => (number as f32).to_string(),
            Scalar::Null => return Err(failed("unsupported map key of type: %!s(<nil>), key: <nil>")),
        };
        let name = Name::from(name);
        if position(entries, index, &name).is_some() {
            let text = matches!(meaning, Scalar::Text | Scalar::Timestamp);
            let shown = if text { crate::error::quote(&name) } else { name.to_string() };
            self.duplicates.push(format!("line {}: key {shown} already set in map", span.start.line()));
        }
        *key = Some(Key::Name(name));
        Ok(())
    }
}

fn too_many_aliases() -> DecodeError {
    failed("yaml: document contains excessive aliasing")
}

/// Mappings up to this size are searched through, larger ones get an index.
const SMALL: usize = 16;

fn position(entries: &[(Name, Value)], index: &HashMap<Name, usize>, name: &Name) -> Option<usize> {
    if index.is_empty() {
        return entries.iter().position(|(known, _)| known == name);
    }
    index.get(name).copied()
}

fn set(entries: &mut Vec<(Name, Value)>, index: &mut HashMap<Name, usize>, name: Name, value: Value) {
    if let Some(at) = position(entries, index, &name) {
        entries[at].1 = value;
        return;
    }
    if !index.is_empty() {
        index.insert(name.clone(), entries.len());
    } else if entries.len() == SMALL {
        index.extend(entries.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)));
        index.insert(name.clone(), entries.len());
    }
    entries.push((name, value));
}

/// `<<`: the entries of a mapping, or of several, the first of which wins.
fn merge(entries: &mut Vec<(Name, Value)>, index: &mut HashMap<Name, usize>, value: Value) -> Result<()> {
    let maps = match value {
        Value::Array(items) => items,
        single => vec![single],
    };
    for map in maps.into_iter().rev() {
        let Value::Object(map) = map else {
            return Err(failed("yaml: map merge requires map or sequence of maps as the value"));
        };
        for (name, value) in map {
            set(entries, index, name, value);
        }
    }
    Ok(())
}

/// Roughly what a copy of a value takes.
fn cost(value: &Value) -> usize {
    const NODE: usize = std::mem::size_of::<Value>();
    NODE + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(cost).sum(),
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + NODE + cost(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value> {
    let core = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    let meaning = match (style, core, tag) {
        (_, Some("str"), _) => Scalar::Text,
        (_, Some("binary"), _) => {
            let bytes = crate::codec::scalar::decode_base64(&text.replace([' ', '\t'], ""))
                .map_err(|_| failed("yaml: !!binary value contains invalid base64 data"))?;
            return Ok(Value::String(json::to_utf8(&bytes).into_owned()));
        }
        (_, Some(_), _) | (ScalarStyle::Plain, None, None) => resolve(text),
        _ => Scalar::Text,
    };
    Ok(match meaning {
        Scalar::Null => Value::Null,
        Scalar::Bool(flag) => Value::Bool(flag),
        Scalar::Int(number) if core == Some("float") => Value::Float(int_to_float(number)),
        Scalar::Int(number) => Value::Int(number),
        #[expect(clippy::cast_precision_loss, reason = "trees hold such numbers as floats")]
        Scalar::Uint(number) => Value::Float(number as f64),
        Scalar::Float(number) if !number.is_finite() => {
            let shown = if number.is_nan() {
                "NaN"
            } else if number > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            };
            return Err(failed(format!("json: unsupported value: {shown}")));
        }
        Scalar::Float(number) => Value::Float(number),
        Scalar::Timestamp | Scalar::Text => Value::String(text.to_owned()),
    })
}

#[expect(clippy::cast_precision_loss, reason = "asked for by `!!float`")]
fn int_to_float(number: i64) -> f64 {
    number as f64
}
