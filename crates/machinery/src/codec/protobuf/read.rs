//! Message to tree.

use super::wire::{BYTES, FIXED32, FIXED64, Input, VARINT, failed};
use crate::codec::json::{from_slice, to_utf8};
use crate::codec::{DecodeError, MAX_TREE_DEPTH, collect_slots, scalar};
use crate::schema::{Field, SchemaOr, StructRef, StructType, Type, builtin};
use crate::value::{Map, Name, Value};

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads the message of a type. Fields that the schema does not know are passed over, as protobuf wants it.
pub fn decode(bytes: &[u8], ty: &StructType) -> Result<Value> {
    Reader { slots: Vec::new() }.structure(bytes, ty, 0)
}

struct Reader {
    /// One slot per field of each struct that is being read, the innermost last.
    slots: Vec<Option<Value>>,
}

impl Reader {
    fn structure(&mut self, bytes: &[u8], ty: &StructType, depth: usize) -> Result<Value> {
        if depth >= MAX_TREE_DEPTH {
            return Err(failed("proto: exceeded max depth"));
        }
        if bytes.is_empty() {
            return Ok(Value::Object(Map::new()));
        }
        let base = self.slots.len();
        self.slots.resize_with(base + ty.fields.len(), || None);
        self.fields(bytes, ty, 0, base, depth)?;
        for (field, slot) in ty.fields.iter().zip(&mut self.slots[base..]) {
            if let (Type::Map(_), Some(Value::Object(map))) = (&field.ty, slot) {
                map.put_in_order();
            }
        }
        Ok(Value::Object(collect_slots(&mut self.slots, base, ty)))
    }

    fn fields(&mut self, bytes: &[u8], ty: &StructType, wrapper: u32, base: usize, depth: usize) -> Result<()> {
        let mut input = Input::new(bytes);
        while !input.is_empty() {
            let (number, wire) = input.tag()?;
            if let Some(index) = ty.fields.index_of_number(wrapper, number) {
                self.field(&mut input, wire, &ty.fields[index], base + index, depth)?;
            } else if wire == BYTES && number < 256 && ty.fields.is_wrapper(wrapper * 256 + number) {
                self.fields(input.bytes()?, ty, wrapper * 256 + number, base, depth + 1)?;
            } else {
                input.skip(wire)?;
            }
        }
        Ok(())
    }

    fn field(&mut self, input: &mut Input<'_>, wire: u8, field: &Field, slot: usize, depth: usize) -> Result<()> {
        match &field.ty {
            Type::List(item) => self.list(input, wire, item, field, slot, depth),
            Type::Map(item) => {
                let (key, value) = self.map_entry(expect_bytes(input, wire, field)?, item, field, depth)?;
                // In the order of arrival: inserting each in its place would be slow for hostile maps.
                let slot = self.slots[slot].get_or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = slot {
                    map.push_unordered(key, value);
                }
                Ok(())
            }
            ty => {
                let value = self.value(input, wire, ty, field, depth)?;
                let kept = !(value.is_null() || !field.pointer && scalar::is_zero(&value, field));
                self.slots[slot] = kept.then_some(value);
                Ok(())
            }
        }
    }

    fn list(
        &mut self,
        input: &mut Input<'_>,
        wire: u8,
        item: &Type,
        field: &Field,
        slot: usize,
        depth: usize,
    ) -> Result<()> {
        if field.boxed {
            let list = self.boxed(expect_bytes(input, wire, field)?, item, depth)?;
            self.slots[slot] = (!list.is_null()).then_some(list);
            return Ok(());
        }
        if wire == BYTES && is_number(item) {
            // Packed: Go reads that too, and never writes it.
            let mut inner = Input::new(input.bytes()?);
            while !inner.is_empty() {
                let wire = if matches!(*item, Type::Double) { FIXED64 } else { VARINT };
                let value = leaf(&mut inner, wire, item, field)?;
                push(&mut self.slots[slot], value);
            }
            return Ok(());
        }
        let value = self.value(input, wire, item, field, depth)?;
        push(&mut self.slots[slot], value);
        Ok(())
    }

    /// A list in a message of its own: `items` is number 1.
    fn boxed(&mut self, bytes: &[u8], item: &Type, depth: usize) -> Result<Value> {
        let mut input = Input::new(bytes);
        let mut items = Vec::new();
        let field = Field::default();
        while !input.is_empty() {
            match input.tag()? {
                (1, wire) => items.push(self.value(&mut input, wire, item, &field, depth + 1)?),
                (_, wire) => input.skip(wire)?,
            }
        }
        Ok(if items.is_empty() { Value::Null } else { Value::Array(items) })
    }

    fn map_entry(&mut self, bytes: &[u8], item: &Type, field: &Field, depth: usize) -> Result<(Name, Value)> {
        let mut input = Input::new(bytes);
        let mut key = Name::Static("");
        let mut value = None;
        while !input.is_empty() {
            match input.tag()? {
                (1, BYTES) => key = Name::from(to_utf8(input.bytes()?)),
                (2, wire) => {
                    value = Some(match item {
                        Type::List(inner) => self.boxed(expect_bytes(&mut input, wire, field)?, inner, depth + 1)?,
                        other => self.value(&mut input, wire, other, field, depth + 1)?,
                    });
                }
                (_, wire) => input.skip(wire)?,
            }
        }
        Ok((key, value.unwrap_or_else(|| crate::codec::json::zero(item))))
    }

    fn value(&mut self, input: &mut Input<'_>, wire: u8, ty: &Type, field: &Field, depth: usize) -> Result<Value> {
        match ty {
            Type::Struct(entry) => self.structure(expect_bytes(input, wire, field)?, entry, depth + 1),
            Type::SchemaOr(which, schema) => self.schema_or(expect_bytes(input, wire, field)?, *which, schema, depth),
            _ => leaf(input, wire, ty, field),
        }
    }

    fn schema_or(&mut self, bytes: &[u8], which: SchemaOr, schema: &StructRef, depth: usize) -> Result<Value> {
        let mut input = Input::new(bytes);
        let (mut allows, mut single, mut many) = (false, None, Vec::new());
        while !input.is_empty() {
            match (which, input.tag()?) {
                (SchemaOr::Bool, (1, VARINT)) => allows = input.varint()? != 0,
                (SchemaOr::Bool, (2, BYTES)) | (SchemaOr::Array | SchemaOr::StringArray, (1, BYTES)) => {
                    single = Some(self.structure(input.bytes()?, schema, depth + 1)?);
                }
                (SchemaOr::Array, (2, BYTES)) => many.push(self.structure(input.bytes()?, schema, depth + 1)?),
                (SchemaOr::StringArray, (2, BYTES)) => many.push(Value::String(to_utf8(input.bytes()?).into_owned())),
                (_, (_, wire)) => input.skip(wire)?,
            }
        }
        Ok(match (which, single) {
            (_, Some(schema)) => schema,
            (SchemaOr::Bool, None) => Value::Bool(allows),
            (_, None) if many.is_empty() => Value::Null,
            (_, None) => Value::Array(many),
        })
    }
}

/// Everything that holds no value of a type of its own. Kept out of `value` so that the frames that recurse stay small.
#[inline(never)]
fn leaf(input: &mut Input<'_>, wire: u8, ty: &Type, field: &Field) -> Result<Value> {
    let wanted = match ty {
        Type::Bool | Type::Int32 | Type::Int64 => VARINT,
        Type::Double => FIXED64,
        _ => BYTES,
    };
    if wire != wanted {
        return Err(wrong_wire(wire, field));
    }
    match ty {
        Type::Bool => return Ok(Value::Bool(input.varint()? != 0)),
        #[expect(clippy::cast_possible_truncation, reason = "as Go's generated code truncates")]
        Type::Int32 => return Ok(Value::Int(i64::from(input.varint()? as i32))),
        Type::Int64 => return Ok(Value::Int(input.varint()?.cast_signed())),
        Type::Double => return double(input.fixed64()?),
        _ => {}
    }
    let bytes = input.bytes()?;
    Ok(match ty {
        Type::String => Value::String(to_utf8(bytes).into_owned()),
        Type::Bytes => scalar::bytes_to_text(bytes),
        Type::Time => timestamp(bytes)?.map_or(Value::Null, |(seconds, _)| scalar::time_value(seconds)),
        Type::MicroTime => {
            timestamp(bytes)?.map_or(Value::Null, |(seconds, nanos)| scalar::micro_time_value(seconds, nanos))
        }
        Type::Duration => Value::String(scalar::duration_text(numbers(bytes)?.0)),
        Type::Quantity => {
            let text = to_utf8(last_bytes(bytes, 1)?.unwrap_or(b"0"));
            scalar::quantity_from_text(&text).map_err(failed)?
        }
        Type::IntOrString => int_or_string(bytes)?,
        Type::RawExtension => raw_extension(last_bytes(bytes, 1)?.unwrap_or_default())?,
        Type::Json | Type::FieldsV1 => match last_bytes(bytes, 1)? {
            None | Some([]) => Value::Null,
            Some(raw) => from_slice(raw)?,
        },
        _ => return Err(failed(format!("proto: field {} nests a list in a list", &*field.name))),
    })
}

/// JSON has no word for what is not a number, so Go could not answer with it either.
fn double(bits: u64) -> Result<Value> {
    let number = f64::from_bits(bits);
    if number.is_finite() {
        Ok(scalar::double(number))
    } else {
        Err(failed(format!("json: unsupported value: {number}")))
    }
}

#[cold]
fn wrong_wire(wire: u8, field: &Field) -> crate::codec::DecodeError {
    failed(format!("proto: wrong wireType = {wire} for field {}", &*field.name))
}

fn is_number(ty: &Type) -> bool {
    matches!(ty, Type::Bool | Type::Int32 | Type::Int64 | Type::Double)
}

fn push(slot: &mut Option<Value>, value: Value) {
    match slot {
        Some(Value::Array(items)) => items.push(value),
        other => *other = Some(Value::Array(vec![value])),
    }
}

fn expect_bytes<'a>(input: &mut Input<'a>, wire: u8, field: &Field) -> Result<&'a [u8]> {
    if wire != BYTES {
        return Err(wrong_wire(wire, field));
    }
    input.bytes()
}

/// The last value of a bytes field in a small message.
fn last_bytes(bytes: &[u8], wanted: u32) -> Result<Option<&[u8]>> {
    let mut input = Input::new(bytes);
    let mut found = None;
    while !input.is_empty() {
        match input.tag()? {
            (number, BYTES) if number == wanted => found = Some(input.bytes()?),
            (_, wire) => input.skip(wire)?,
        }
    }
    Ok(found)
}

/// Fields 1 and 2 of a message of integers.
fn numbers(bytes: &[u8]) -> Result<(i64, i64)> {
    let mut input = Input::new(bytes);
    let (mut first, mut second) = (0, 0);
    while !input.is_empty() {
        match input.tag()? {
            (1, VARINT) => first = input.varint()?.cast_signed(),
            (2, VARINT) => second = input.varint()?.cast_signed(),
            (_, wire @ (VARINT | FIXED64 | BYTES | FIXED32)) => input.skip(wire)?,
            (_, wire) => return Err(failed(format!("proto: illegal wireType {wire}"))),
        }
    }
    Ok((first, second))
}

/// `metav1.Timestamp`. An empty message is Go's zero time. Times that four digits of year cannot say are refused, since
/// no JSON could carry them (`metav1.Time.MarshalJSON` fails on them too).
fn timestamp(bytes: &[u8]) -> Result<Option<(i64, u32)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (seconds, nanos) = numbers(bytes)?;
    if !(-62_135_596_800..=253_402_300_799).contains(&seconds) {
        return Err(failed("Time.MarshalJSON: year outside of range [0,9999]"));
    }
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    Ok(Some((seconds, nanos.unwrap_or(0))))
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let mut input = Input::new(bytes);
    let (mut kind, mut number, mut text) = (0, 0, Vec::new());
    while !input.is_empty() {
        match input.tag()? {
            (1, VARINT) => kind = input.varint()?,
            (2, VARINT) => number = input.varint()?,
            (3, BYTES) => text = input.bytes()?.to_vec(),
            (_, wire) => input.skip(wire)?,
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "as Go's generated code truncates")]
    Ok(if kind == 1 { Value::String(to_utf8(&text).into_owned()) } else { Value::Int(i64::from(number as i32)) })
}

/// `runtime.RawExtension`: an object in JSON, or in protobuf with its envelope.
fn raw_extension(raw: &[u8]) -> Result<Value> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if !super::is_enveloped(raw) {
        return from_slice(raw);
    }
    let envelope = super::Envelope::open(raw)?;
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
    let ty = builtin::by_kind(group, version, &envelope.kind).ok_or_else(|| {
        failed(format!("no kind \"{}\" is registered for version \"{}\"", envelope.kind, envelope.api_version))
    })?;
    super::decode_object(raw, ty)
}
