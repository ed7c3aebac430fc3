//! Trees as a `serde` source, so that typed structs (`k8s-openapi`) are read-only views of a tree.

use super::{Map, Value};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};
use std::fmt;

/// Why a tree does not fit a type: the path to the node and what was expected there.
#[derive(Debug)]
pub struct FromValueError {
    path: Vec<String>,
    what: String,
}

impl fmt::Display for FromValueError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            let steps: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
            write!(out, "{}: ", steps.join("."))?;
        }
        out.write_str(&self.what)
    }
}
impl std::error::Error for FromValueError {}
impl serde::de::Error for FromValueError {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self { path: Vec::new(), what: what.to_string() }
    }
}
impl FromValueError {
    fn below(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }
}

/// Reads a tree as `T`.
pub fn from_value<T: DeserializeOwned>(tree: &Value) -> Result<T, FromValueError> {
    T::deserialize(tree)
}

impl<'de> Deserializer<'de> for &'de Value {
    type Error = FromValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            Value::Object(map) => visitor.visit_map(Entries::new(map)),
        }
    }
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Value::Int(number) => visitor.visit_f64(*number as f64),
            _ => self.deserialize_any(visitor),
        }
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.deserialize_unit(visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Object(map) if map.len() == 1 => visitor.visit_enum(OneEntry { map }),
            other => Err(FromValueError::invalid_type(Unexpected::Other(other.type_name()), &"a variant name")),
        }
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 char str string bytes byte_buf unit seq tuple tuple_struct map
        struct identifier
    }
}

struct Items<'de> {
    items: std::slice::Iter<'de, Value>,
    index: usize,
}
impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = FromValueError;
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Self::Error> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|error| error.below(index.to_string()))
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de> {
    map: &'de Map,
    next: usize,
}
impl<'de> Entries<'de> {
    fn new(map: &'de Map) -> Self {
        Self { map, next: 0 }
    }
}
impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = FromValueError;
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let Some((name, _)) = self.map.entries.get(self.next) else { return Ok(None) };
        self.next += 1;
        let key = serde::de::value::BorrowedStrDeserializer::<FromValueError>::new(name.as_str());
        seed.deserialize(key).map(Some)
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Self::Error> {
        let entry = self.next.checked_sub(1).and_then(|index| self.map.entries.get(index));
        let (name, value) = entry.ok_or_else(|| FromValueError::custom("a value was asked for before its key"))?;
        seed.deserialize(value).map_err(|error| error.below(name.as_str()))
    }
    fn size_hint(&self) -> Option<usize> {
        Some(self.map.len() - self.next)
    }
}

struct OneEntry<'de> {
    map: &'de Map,
}
impl<'de> EnumAccess<'de> for OneEntry<'de> {
    type Error = FromValueError;
    type Variant = &'de Value;
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self::Variant), Self::Error> {
        let (name, value) =
            self.map.entries.first().ok_or_else(|| FromValueError::custom("a variant name is missing"))?;
        let key = serde::de::value::BorrowedStrDeserializer::<FromValueError>::new(name.as_str());
        Ok((seed.deserialize(key)?, value))
    }
}
impl<'de> VariantAccess<'de> for &'de Value {
    type Error = FromValueError;
    fn unit_variant(self) -> Result<(), Self::Error> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Self::Error> {
        seed.deserialize(self)
    }
    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_any(visitor)
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{list, object};
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Thing {
        name: String,
        #[serde(default)]
        replicas: Option<i32>,
        ports: Vec<u16>,
        ratio: f64,
    }

    #[test]
    fn reads_a_tree_as_a_struct_and_skips_what_it_does_not_know() {
        let tree = object! {
            "name": "a", "replicas": 3, "ports": list![80, 443], "ratio": 1, "unknown": object! { "x": list![] },
        };
        let thing: Thing = from_value(&tree).unwrap();
        assert_eq!(thing, Thing { name: "a".into(), replicas: Some(3), ports: vec![80, 443], ratio: 1.0 });
    }

    #[test]
    fn names_the_path_of_what_does_not_fit() {
        let tree = object! { "name": "a", "ports": list![80, "web"], "ratio": 1.5 };
        let error = from_value::<Thing>(&tree).unwrap_err().to_string();
        assert!(error.starts_with("ports.1: invalid type: string \"web\""), "{error}");
    }
}
