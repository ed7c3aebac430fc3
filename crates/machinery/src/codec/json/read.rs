//! JSON over a built-in type.

use super::lexer::{Kind, Lexer};
use super::read_any::{Step, print_path, read_any, shorten, to_number};
use crate::codec::scalar;
use crate::codec::{DecodeError, Decoded, FieldValidation, MAX_TREE_DEPTH, StrictErrors, collect_slots};
use crate::schema::{Field, SchemaOr, StructRef, StructType, Type};
use crate::value::{Map, Name, Value};
use std::borrow::Cow;

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads an object of a built-in type.
///
/// Mirrors `k8s.io/apimachinery/pkg/runtime/serializer/json.Serializer.Decode` after the kind is known: malformed JSON
/// is told before anything else, then the first value of a wrong type, then (under
/// [`FieldValidation::Strict`]) unknown and duplicate fields. For custom resources use
/// [`decode_any`](super::decode_any) and the structural schema.
pub fn decode(bytes: &[u8], ty: &StructType, validation: FieldValidation) -> Result<Decoded> {
    let mut reader = Reader {
        lexer: Lexer::new(bytes),
        strict: StrictErrors::new(validation),
        path: Vec::new(),
        slots: Vec::new(),
        owner: None,
        error: None,
    };
    let value = match reader.lexer.kind()? {
        Kind::Object => reader.structure(ty, 0)?,
        Kind::Null => {
            reader.lexer.literal("null")?;
            Value::Object(Map::new())
        }
        other => {
            reader.mismatch(other, &go_struct_type(ty), 0)?;
            Value::Null
        }
    };
    reader.lexer.end()?;
    if let Some(error) = reader.error {
        return Err(error);
    }
    reader.strict.finish(value, validation)
}

fn go_struct_type(ty: &StructType) -> String {
    let mut parts = ty.name.rsplit('.');
    let (name, package) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    format!("{package}.{name}")
}

/// What Go calls a type, from the schema alone.
fn go_type(ty: &Type) -> Cow<'static, str> {
    Cow::Borrowed(match ty {
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Double => "float64",
        Type::String => "string",
        Type::Bytes => "[]uint8",
        Type::Time => "v1.Time",
        Type::MicroTime => "v1.MicroTime",
        Type::Duration => "v1.Duration",
        Type::Quantity => "resource.Quantity",
        Type::IntOrString => "intstr.IntOrString",
        Type::RawExtension => "runtime.RawExtension",
        Type::Json => "interface {}",
        Type::FieldsV1 => "v1.FieldsV1",
        Type::SchemaOr(SchemaOr::Bool, _) => "v1.JSONSchemaPropsOrBool",
        Type::SchemaOr(SchemaOr::Array, _) => "v1.JSONSchemaPropsOrArray",
        Type::SchemaOr(SchemaOr::StringArray, _) => "v1.JSONSchemaPropsOrStringArray",
        Type::Struct(entry) => return Cow::Owned(go_struct_type(entry)),
        Type::List(item) => return Cow::Owned(format!("[]{}", go_type(item))),
        Type::Map(item) => return Cow::Owned(format!("map[string]{}", go_type(item))),
    })
}

/// Where a value stands, for the name of its type in a message: the field, and how many lists or maps below it.
#[derive(Clone, Copy)]
struct Place<'t> {
    ty: &'t Type,
    field: Option<&'t Field>,
    below: usize,
}

impl<'t> Place<'t> {
    fn item(self, ty: &'t Type) -> Self {
        Self { ty, below: self.below + 1, ..self }
    }
    fn go_type(self) -> Cow<'static, str> {
        let named = self.field.map_or("", |field| &field.go_type);
        if named.is_empty() {
            return go_type(self.ty);
        }
        let mut rest = named;
        for _ in 0..self.below {
            // `[]v1.Capability` -> `v1.Capability`, `map[v1.Name]string` -> `string`; a named list tells nothing.
            match rest.split_once(']') {
                Some((_, item)) => rest = item,
                None => return go_type(self.ty),
            }
        }
        Cow::Owned(rest.to_owned())
    }
}

struct Reader<'a> {
    lexer: Lexer<'a>,
    strict: StrictErrors,
    /// Where the value stands that is read. Struct fields are `Name::Static`, map keys `Name::Shared`: messages about
    /// types name only the former.
    path: Vec<Step>,
    /// One slot per field of each struct that is being read, the innermost last.
    slots: Vec<Option<Value>>,
    /// Name of the struct whose field is read.
    owner: Option<Name>,
    /// The first value of a wrong type. The rest is still read: a syntax error further on goes first.
    error: Option<DecodeError>,
}

impl Reader<'_> {
    fn fail(&mut self, text: impl Into<String>) {
        if self.error.is_none() {
            self.error = Some(DecodeError::Type(text.into()));
        }
    }

    /// Go's `UnmarshalTypeError`: the path names struct fields only, no indices and no map keys.
    fn type_error(&mut self, found: &str, wanted: &str) {
        if self.error.is_some() {
            return;
        }
        let text = match &self.owner {
            Some(owner) => {
                let fields: Vec<&str> = self
                    .path
                    .iter()
                    .filter_map(|step| match step {
                        Step::Key(name @ Name::Static(_)) => Some(name.as_str()),
                        _ => None,
                    })
                    .collect();
                format!(
                    "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
                    owner.rsplit('.').next().unwrap_or(""),
                    fields.join(".")
                )
            }
            None => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        };
        self.fail(text);
    }

    /// Skips a value of the wrong kind and remembers the error.
    fn mismatch(&mut self, found: Kind, wanted: &str, depth: usize) -> Result<()> {
        self.type_error(found.name(), wanted);
        self.lexer.skip(depth)
    }

    fn structure(&mut self, ty: &StructType, depth: usize) -> Result<Value> {
        if depth >= MAX_TREE_DEPTH {
            return Err(Lexer::too_deep());
        }
        if self.lexer.open(b'}') {
            return Ok(Value::Object(Map::new()));
        }
        let fields: &[Field] = &ty.fields;
        let base = self.slots.len();
        self.slots.resize_with(base + fields.len(), || None);
        let outer = self.owner.replace(ty.name.clone());
        let mut seen = SeenFields::default();
        let mut guess = 0;
        loop {
            match self.known_key(ty, guess)? {
                None => self.lexer.skip(depth + 1)?,
                Some(index) => {
                    let field = &fields[index];
                    guess = index + 1;
                    self.path.push(Step::Key(field.name.clone()));
                    let again = seen.insert(index);
                    if again {
                        self.report("duplicate");
                    }
                    let value = self.value(Place { ty: &field.ty, field: Some(field), below: 0 }, depth + 1)?;
                    self.path.pop();
                    self.put(base + index, field, value, again);
                }
            }
            if !self.lexer.more_keys()? {
                break;
            }
        }
        self.owner = outer;
        Ok(Value::Object(collect_slots(&mut self.slots, base, ty)))
    }

    // What follows is kept out of `structure` and `value` so that their frames stay small: they are the ones that
    // recurse.

    /// Reads a key; the index of its field, or `None` for an unknown one, which is reported.
    #[inline(never)]
    fn known_key(&mut self, ty: &StructType, guess: usize) -> Result<Option<usize>> {
        let key = self.lexer.key()?;
        let fields: &[Field] = &ty.fields;
        // Upstream answers in struct order, so the next key is mostly one of the next fields.
        let ahead = fields[guess.min(fields.len())..].iter().take(4).position(|field| *field.name == *key);
        let found = ahead.map(|step| guess + step).or_else(|| ty.fields.index_of(&key));
        if found.is_none() && self.strict.wanted() {
            self.path.push(Step::Key(Name::from(key)));
            self.report("unknown");
            self.path.pop();
        }
        Ok(found)
    }

    #[cold]
    fn report(&mut self, what: &str) {
        if self.strict.wanted() {
            self.strict.add(format!("{what} field \"{}\"", print_path(&self.path)));
        }
    }

    #[inline(never)]
    fn put(&mut self, slot: usize, field: &Field, value: Value, again: bool) {
        let kept = !(value.is_null() || !field.pointer && scalar::is_zero(&value, field));
        let slot = &mut self.slots[slot];
        match (slot.take(), value) {
            // Go reads a struct or map that comes twice into the one it has already.
            (Some(Value::Object(mut earlier)), Value::Object(later)) if again => {
                merge_into(&mut earlier, later);
                *slot = Some(Value::Object(earlier));
            }
            (_, value) => *slot = kept.then_some(value),
        }
    }

    fn value(&mut self, place: Place<'_>, depth: usize) -> Result<Value> {
        let kind = self.lexer.kind()?;
        match (place.ty, kind) {
            (Type::Struct(entry), Kind::Object) => self.structure(entry, depth),
            (Type::List(item), Kind::Array) => self.list(place, item, depth),
            (Type::Map(item), Kind::Object) => self.map(place, item, depth),
            (Type::SchemaOr(_, schema), Kind::Object) => self.structure(schema, depth),
            (Type::SchemaOr(SchemaOr::Array, schema), Kind::Array) => self.schemas(schema, depth),
            _ => self.leaf(place, kind, depth),
        }
    }

    #[inline(never)]
    fn schemas(&mut self, schema: &StructRef, depth: usize) -> Result<Value> {
        let ty = Type::Struct(schema.clone());
        self.list(Place { ty: &ty, field: None, below: 0 }, &ty, depth)
    }

    /// Everything that holds no value of a type of its own.
    #[inline(never)]
    fn leaf(&mut self, place: Place<'_>, kind: Kind, depth: usize) -> Result<Value> {
        match (place.ty, kind) {
            (Type::RawExtension | Type::Json | Type::FieldsV1, _) => read_any(&mut self.lexer, depth),
            (_, Kind::Null) => {
                self.lexer.literal("null")?;
                Ok(if place.below > 0 { zero(place.ty) } else { Value::Null })
            }
            (Type::String, Kind::String) => Ok(Value::String(self.lexer.string()?.into_owned())),
            (Type::Bool, Kind::True) => self.lexer.literal("true").map(|()| Value::Bool(true)),
            (Type::Bool, Kind::False) => self.lexer.literal("false").map(|()| Value::Bool(false)),
            (Type::Int32 | Type::Int64 | Type::Double, Kind::Number) => self.number(place),
            (Type::Bytes | Type::Time | Type::MicroTime | Type::Duration, Kind::String) => {
                let text = self.lexer.string()?;
                self.scalar(match place.ty {
                    Type::Bytes => scalar::bytes_from_text(&text),
                    Type::Time => scalar::time_from_text(&text),
                    Type::MicroTime => scalar::micro_time_from_text(&text),
                    _ => scalar::duration_from_text(&text),
                })
            }
            // These three decode themselves in Go, through a string.
            (Type::Time | Type::MicroTime | Type::Duration, found) => {
                self.mismatch(found, "string", depth)?;
                Ok(Value::Null)
            }
            (Type::Quantity, _) => self.quantity(kind, depth),
            (Type::IntOrString, _) => self.int_or_string(kind, depth),
            (Type::SchemaOr(which, _), _) => self.schema_or(*which, kind, depth),
            (_, found) => {
                self.mismatch(found, &place.go_type(), depth)?;
                Ok(Value::Null)
            }
        }
    }

    fn scalar(&mut self, outcome: std::result::Result<Value, String>) -> Result<Value> {
        Ok(outcome.unwrap_or_else(|text| {
            self.fail(text);
            Value::Null
        }))
    }

    fn number(&mut self, place: Place<'_>) -> Result<Value> {
        let number = self.lexer.number()?;
        let value = match place.ty {
            Type::Double => match to_number(number) {
                Ok(Value::Float(float)) => Some(scalar::double(float)),
                other => other.ok(),
            },
            Type::Int32 => number.text.parse::<i32>().ok().map(|number| Value::Int(number.into())),
            _ => number.text.parse::<i64>().ok().map(Value::Int),
        };
        Ok(value.unwrap_or_else(|| {
            self.type_error(&format!("number {}", shorten(number.text)), &place.go_type());
            Value::Null
        }))
    }

    /// `resource.Quantity.UnmarshalJSON`: a string or a bare number, whose text is parsed.
    fn quantity(&mut self, kind: Kind, depth: usize) -> Result<Value> {
        let text = match kind {
            Kind::String => self.lexer.string()?,
            Kind::Number => Cow::Borrowed(self.lexer.number()?.text),
            _ => {
                self.lexer.skip(depth)?;
                self.fail(scalar::QUANTITY_FORMAT);
                return Ok(Value::Null);
            }
        };
        self.scalar(scalar::quantity_from_text(&text))
    }

    /// `intstr.IntOrString.UnmarshalJSON`.
    fn int_or_string(&mut self, kind: Kind, depth: usize) -> Result<Value> {
        match kind {
            Kind::String => Ok(Value::String(self.lexer.string()?.into_owned())),
            Kind::Number => {
                let number = self.lexer.number()?;
                Ok(match number.text.parse::<i32>() {
                    Ok(number) => Value::Int(number.into()),
                    Err(_) => {
                        self.type_error(&format!("number {}", shorten(number.text)), "int32");
                        Value::Null
                    }
                })
            }
            found => {
                self.mismatch(found, "int32", depth)?;
                Ok(Value::Null)
            }
        }
    }

    fn schema_or(&mut self, which: SchemaOr, kind: Kind, depth: usize) -> Result<Value> {
        match (which, kind) {
            (SchemaOr::Bool, Kind::True) => self.lexer.literal("true").map(|()| Value::Bool(true)),
            (SchemaOr::Bool, Kind::False) => self.lexer.literal("false").map(|()| Value::Bool(false)),
            (SchemaOr::StringArray, Kind::Array) => {
                let item = Type::String;
                self.list(Place { ty: &item, field: None, below: 0 }, &item, depth)
            }
            // Go is strict about the first of these only.
            _ => {
                self.lexer.skip(depth)?;
                if which == SchemaOr::Bool {
                    self.fail("boolean or JSON schema expected");
                }
                Ok(Value::Null)
            }
        }
    }

    fn list(&mut self, place: Place<'_>, item: &Type, depth: usize) -> Result<Value> {
        if depth >= MAX_TREE_DEPTH {
            return Err(Lexer::too_deep());
        }
        let mut items = Vec::new();
        if self.lexer.open(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            self.path.push(Step::Index(items.len()));
            let value = self.value(place.item(item), depth + 1)?;
            self.path.pop();
            items.push(value);
            if !self.lexer.more_items()? {
                return Ok(Value::Array(items));
            }
        }
    }

    fn map(&mut self, place: Place<'_>, item: &Type, depth: usize) -> Result<Value> {
        if depth >= MAX_TREE_DEPTH {
            return Err(Lexer::too_deep());
        }
        let mut entries = Vec::new();
        if self.lexer.open(b'}') {
            return Ok(Value::Object(Map::new()));
        }
        loop {
            let name = Name::from(self.lexer.key()?);
            self.path.push(Step::Key(name.clone()));
            let value = self.value(place.item(item), depth + 1)?;
            self.path.pop();
            entries.push((name, value));
            if !self.lexer.more_keys()? {
                break;
            }
        }
        let (map, duplicates) = Map::from_entries(entries);
        for name in duplicates {
            self.path.push(Step::Key(name));
            self.report("duplicate");
            self.path.pop();
        }
        Ok(Value::Object(map))
    }
}

fn merge_into(earlier: &mut Map, later: Map) {
    for (name, value) in later {
        match (earlier.get_mut(&name), value) {
            (Some(Value::Object(earlier)), Value::Object(later)) => merge_into(earlier, later),
            (_, value) => drop(earlier.insert(name, value)),
        }
    }
}

/// Go's zero value as list items and map values hold it when the document says `null`.
pub(crate) fn zero(ty: &Type) -> Value {
    match ty {
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::IntOrString => Value::Int(0),
        Type::Double => Value::Float(0.0),
        Type::String => Value::String(String::new()),
        Type::Quantity => Value::String("0".to_owned()),
        Type::Duration => Value::String("0s".to_owned()),
        Type::Struct(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

/// Which fields of a struct were read.
#[derive(Default)]
struct SeenFields {
    bits: smallvec::SmallVec<[u64; 1]>,
}

impl SeenFields {
    /// Marks a field; `true` when it was marked before.
    fn insert(&mut self, index: usize) -> bool {
        let (word, bit) = (index / 64, 1 << (index % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let before = self.bits[word] & bit != 0;
        self.bits[word] |= bit;
        before
    }
}
