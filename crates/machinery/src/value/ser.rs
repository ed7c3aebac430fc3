//! Trees as a `serde` destination: typed structs (`k8s-openapi`) become trees.

use super::{Map, Name, Value};
use serde::ser::{
    Error as _, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use std::fmt;

/// Why a typed value is no tree.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ToValueError(String);

impl serde::ser::Error for ToValueError {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self(what.to_string())
    }
}

/// Makes a tree of `T`. Fields that serde skips are absent; for the canonical form of a built-in object put the result
/// through [`codec::retype`](crate::codec::retype).
pub fn to_value<T: Serialize + ?Sized>(source: &T) -> Result<Value, ToValueError> {
    source.serialize(ToValue)
}

struct ToValue;

type Out = Result<Value, ToValueError>;

impl Serializer for ToValue {
    type Ok = Value;
    type Error = ToValueError;
    type SerializeSeq = ToList;
    type SerializeTuple = ToList;
    type SerializeTupleStruct = ToList;
    type SerializeTupleVariant = ToVariant<ToList>;
    type SerializeMap = ToMap;
    type SerializeStruct = ToMap;
    type SerializeStructVariant = ToVariant<ToMap>;

    fn serialize_bool(self, flag: bool) -> Out {
        Ok(Value::Bool(flag))
    }
    fn serialize_i8(self, number: i8) -> Out {
        Ok(Value::Int(number.into()))
    }
    fn serialize_i16(self, number: i16) -> Out {
        Ok(Value::Int(number.into()))
    }
    fn serialize_i32(self, number: i32) -> Out {
        Ok(Value::Int(number.into()))
    }
    fn serialize_i64(self, number: i64) -> Out {
        Ok(Value::Int(number))
    }
    fn serialize_u8(self, number: u8) -> Out {
        Ok(Value::Int(number.into()))
    }
    fn serialize_u16(self, number: u16) -> Out {
        Ok(Value::Int(number.into()))
    }
    fn serialize_u32(self, number: u32) -> Out {
        Ok(Value::Int(number.into()))
    }
    fn serialize_u64(self, number: u64) -> Out {
        i64::try_from(number)
            .map(Value::Int)
            .map_err(|_| ToValueError::custom(format!("{number} does not fit 64 bits")))
    }
    fn serialize_f32(self, number: f32) -> Out {
        self.serialize_f64(number.into())
    }
    fn serialize_f64(self, number: f64) -> Out {
        if number.is_finite() {
            Ok(crate::codec::scalar::double(number))
        } else {
            Err(ToValueError::custom(format!("{number} is no JSON number")))
        }
    }
    fn serialize_char(self, symbol: char) -> Out {
        Ok(Value::String(symbol.to_string()))
    }
    fn serialize_str(self, text: &str) -> Out {
        Ok(Value::String(text.to_owned()))
    }
    fn serialize_bytes(self, bytes: &[u8]) -> Out {
        Ok(crate::codec::scalar::bytes_to_text(bytes))
    }
    fn serialize_none(self) -> Out {
        Ok(Value::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, inner: &T) -> Out {
        inner.serialize(self)
    }
    fn serialize_unit(self) -> Out {
        Ok(Value::Null)
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Out {
        Ok(Value::Null)
    }
    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Out {
        Ok(Value::String(variant.to_owned()))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, inner: &T) -> Out {
        inner.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        inner: &T,
    ) -> Out {
        let inner = inner.serialize(self)?;
        Ok(Value::Object([(Name::Static(variant), inner)].into_iter().collect()))
    }
    fn serialize_seq(self, length: Option<usize>) -> Result<ToList, ToValueError> {
        // A length from outside is a hint, not something to reserve memory by.
        Ok(ToList(Vec::with_capacity(length.unwrap_or(0).min(1024))))
    }
    fn serialize_tuple(self, length: usize) -> Result<ToList, ToValueError> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_struct(self, _name: &'static str, length: usize) -> Result<ToList, ToValueError> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<ToVariant<ToList>, ToValueError> {
        Ok(ToVariant { variant, inner: self.serialize_seq(Some(length))? })
    }
    fn serialize_map(self, _length: Option<usize>) -> Result<ToMap, ToValueError> {
        Ok(ToMap { entries: Vec::new(), key: None })
    }
    fn serialize_struct(self, _name: &'static str, _length: usize) -> Result<ToMap, ToValueError> {
        self.serialize_map(None)
    }
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<ToVariant<ToMap>, ToValueError> {
        Ok(ToVariant { variant, inner: self.serialize_map(None)? })
    }
}

struct ToList(Vec<Value>);

impl ToList {
    fn push<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ToValueError> {
        self.0.push(item.serialize(ToValue)?);
        Ok(())
    }
}
impl SerializeSeq for ToList {
    type Ok = Value;
    type Error = ToValueError;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ToValueError> {
        self.push(item)
    }
    fn end(self) -> Out {
        Ok(Value::Array(self.0))
    }
}
impl SerializeTuple for ToList {
    type Ok = Value;
    type Error = ToValueError;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ToValueError> {
        self.push(item)
    }
    fn end(self) -> Out {
        Ok(Value::Array(self.0))
    }
}
impl SerializeTupleStruct for ToList {
    type Ok = Value;
    type Error = ToValueError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ToValueError> {
        self.push(item)
    }
    fn end(self) -> Out {
        Ok(Value::Array(self.0))
    }
}

struct ToMap {
    entries: Vec<(Name, Value)>,
    key: Option<Name>,
}

impl SerializeMap for ToMap {
    type Ok = Value;
    type Error = ToValueError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ToValueError> {
        self.key = Some(key.serialize(ToKey)?);
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ToValueError> {
        let key = self.key.take().ok_or_else(|| ToValueError::custom("a value came before its key"))?;
        self.entries.push((key, value.serialize(ToValue)?));
        Ok(())
    }
    fn end(self) -> Out {
        Ok(Value::Object(Map::from_entries(self.entries).0))
    }
}
impl SerializeStruct for ToMap {
    type Ok = Value;
    type Error = ToValueError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), ToValueError> {
        self.entries.push((Name::Static(key), value.serialize(ToValue)?));
        Ok(())
    }
    fn end(self) -> Out {
        SerializeMap::end(self)
    }
}

struct ToVariant<T> {
    variant: &'static str,
    inner: T,
}

impl<T> ToVariant<T> {
    fn wrap(variant: &'static str, inner: Value) -> Value {
        Value::Object([(Name::Static(variant), inner)].into_iter().collect())
    }
}
impl SerializeTupleVariant for ToVariant<ToList> {
    type Ok = Value;
    type Error = ToValueError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), ToValueError> {
        self.inner.push(item)
    }
    fn end(self) -> Out {
        Ok(Self::wrap(self.variant, SerializeSeq::end(self.inner)?))
    }
}
impl SerializeStructVariant for ToVariant<ToMap> {
    type Ok = Value;
    type Error = ToValueError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), ToValueError> {
        SerializeStruct::serialize_field(&mut self.inner, key, value)
    }
    fn end(self) -> Out {
        Ok(Self::wrap(self.variant, SerializeMap::end(self.inner)?))
    }
}

/// Map keys: text, or what JSON writers make text of.
struct ToKey;

macro_rules! key_from_number {
    ($($method:ident: $number:ty),*) => {
        $(fn $method(self, number: $number) -> Result<Name, ToValueError> { Ok(Name::from(number.to_string())) })*
    };
}
macro_rules! no_key {
    ($($method:ident($($argument:ty),*) -> $out:ty),* $(,)?) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$out, ToValueError> { Err(no_key()) })*
    };
}

#[cold]
fn no_key() -> ToValueError {
    ToValueError::custom("a map key is text")
}

impl Serializer for ToKey {
    type Ok = Name;
    type Error = ToValueError;
    type SerializeSeq = Impossible<Name, ToValueError>;
    type SerializeTuple = Impossible<Name, ToValueError>;
    type SerializeTupleStruct = Impossible<Name, ToValueError>;
    type SerializeTupleVariant = Impossible<Name, ToValueError>;
    type SerializeMap = Impossible<Name, ToValueError>;
    type SerializeStruct = Impossible<Name, ToValueError>;
    type SerializeStructVariant = Impossible<Name, ToValueError>;

    key_from_number!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_u8: u8, serialize_u16: u16,
        serialize_u32: u32, serialize_u64: u64, serialize_bool: bool, serialize_char: char
    );
    fn serialize_str(self, text: &str) -> Result<Name, ToValueError> {
        Ok(Name::from(text.to_owned()))
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Name, ToValueError> {
        Ok(Name::Static(variant))
    }
    fn serialize_some<T: Serialize + ?Sized>(self, inner: &T) -> Result<Name, ToValueError> {
        inner.serialize(self)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, inner: &T) -> Result<Name, ToValueError> {
        inner.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Name, ToValueError> {
        Err(no_key())
    }
    no_key! {
        serialize_f32(f32) -> Name,
        serialize_f64(f64) -> Name,
        serialize_bytes(&[u8]) -> Name,
        serialize_none() -> Name,
        serialize_unit() -> Name,
        serialize_unit_struct(&'static str) -> Name,
        serialize_seq(Option<usize>) -> Self::SerializeSeq,
        serialize_tuple(usize) -> Self::SerializeTuple,
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant,
        serialize_map(Option<usize>) -> Self::SerializeMap,
        serialize_struct(&'static str, usize) -> Self::SerializeStruct,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant,
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Int(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(map) => serializer.collect_map(map.iter().map(|(name, value)| (name.as_str(), value))),
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(source: serde_json::Value) -> Self {
        match source {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(flag) => Self::Bool(flag),
            // Numbers that fit no integer become floats, as in the decoders.
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => number.as_f64().map_or(Self::Null, Self::Float),
            },
            serde_json::Value::String(text) => Self::String(text),
            serde_json::Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(map) => {
                Self::Object(map.into_iter().map(|(key, value)| (Name::from(key), Self::from(value))).collect())
            }
        }
    }
}

impl From<&Value> for serde_json::Value {
    fn from(source: &Value) -> Self {
        match source {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Int(number) => Self::from(*number),
            Value::Float(number) => Self::from(*number),
            Value::String(text) => Self::String(text.clone()),
            Value::Array(items) => Self::Array(items.iter().map(Self::from).collect()),
            Value::Object(map) => {
                Self::Object(map.iter().map(|(name, value)| (name.to_string(), Self::from(value))).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::de::from_value;
    use crate::{list, object};
    use serde::{Deserialize, Serialize};
    use std::collections::BTreeMap;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    enum Choice {
        Nothing,
        One(i32),
        Pair(i32, String),
        Named { a: bool },
    }

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Sample {
        number: i64,
        ratio: f64,
        text: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        missing: Option<i32>,
        list: Vec<Choice>,
        map: BTreeMap<String, u8>,
        by_number: BTreeMap<u16, bool>,
    }

    #[test]
    fn structs_become_trees_and_come_back() {
        let sample = Sample {
            number: -5,
            ratio: 1.5,
            text: "x".into(),
            missing: None,
            list: vec![Choice::Nothing, Choice::One(1), Choice::Pair(2, "y".into()), Choice::Named { a: true }],
            map: [("b".into(), 2), ("a".into(), 1)].into(),
            by_number: [(7, true)].into(),
        };
        let tree = to_value(&sample).unwrap();
        let expected = object! {
            "number": -5,
            "ratio": 1.5,
            "text": "x",
            "list": list![
                "Nothing",
                object! { "One": 1 },
                object! { "Pair": list![2, "y"] },
                object! { "Named": object! { "a": true } },
            ],
            "map": object! { "a": 1, "b": 2 },
            "by_number": object! { "7": true },
        };
        assert_eq!(tree, expected);
        let mut readable = tree.clone();
        readable.as_object_mut().unwrap().insert("by_number", Map::new());
        assert_eq!(from_value::<Sample>(&readable).unwrap(), Sample { by_number: BTreeMap::new(), ..sample });
        assert!(to_value(&u64::MAX).is_err());
        assert!(to_value(&f64::NAN).is_err());
    }

    #[test]
    fn trees_cross_serde_json() {
        let tree = object! { "a": list![1, 1.5, true, Value::Null, "x"], "b": object! { "c": Map::new() } };
        let json = serde_json::Value::from(&tree);
        assert_eq!(Value::from(json.clone()), tree);
        assert_eq!(serde_json::to_string(&tree).unwrap(), crate::codec::json::to_string(&tree));
        assert_eq!(to_value(&json).unwrap(), tree);
    }
}
