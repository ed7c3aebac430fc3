//! What tests of this crate share: trees from JSON text and back, by an implementation that is not ours; a seeded loop
//! that feeds a parser mutated input.

use crate::value::{Map, Value};
use std::time::{Duration, Instant};

/// A tree from JSON text.
pub(crate) fn json(text: &str) -> Value {
    from_serde(serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")))
}
fn from_serde(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(flag),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap()), Value::Int)
        }
        serde_json::Value::String(text) => Value::String(text),
        serde_json::Value::Array(items) => Value::Array(items.into_iter().map(from_serde).collect()),
        serde_json::Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (key, from_serde(value))).collect::<Map>())
        }
    }
}

/// JSON text of a tree, keys sorted.
pub(crate) fn show(value: &Value) -> String {
    to_serde(value).to_string()
}
fn to_serde(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(to_serde).collect::<Vec<_>>().into(),
        Value::Object(map) => serde_json::Value::Object(
            map.iter().map(|(key, value)| (key.as_str().to_owned(), to_serde(value))).collect(),
        ),
    }
}

/// A small generator (xorshift); the same seed gives the same run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Feeds `consume` mutations of `seeds` for about `milliseconds`, at least 2,000 of them. It must not panic, and no
/// single input may take a second.
pub(crate) fn mutate(seeds: &[&str], milliseconds: u64, mut consume: impl FnMut(&str)) {
    let mut random = Random::new(7);
    let started = Instant::now();
    let mut runs = 0;
    while runs < 2_000 || started.elapsed() < Duration::from_millis(milliseconds) {
        let mut bytes = random.pick(seeds).as_bytes().to_vec();
        for _ in 0..=random.below(4) {
            let position = random.below(bytes.len() + 1);
            match random.below(6) {
                0 if position < bytes.len() => {
                    bytes.remove(position);
                }
                1 => bytes.insert(position, u8::try_from(random.below(256)).unwrap()),
                2 => {
                    let other = random.pick(seeds).as_bytes();
                    let start = random.below(other.len() + 1);
                    let end = start + random.below(other.len() - start + 1);
                    bytes.splice(position..position, other[start..end].iter().copied());
                }
                3 => bytes.truncate(position),
                4 if position < bytes.len() => bytes[position] ^= 1 << random.below(8),
                _ => {
                    let end = (position + random.below(8)).min(bytes.len());
                    let piece = bytes[position..end].to_vec();
                    for _ in 0..random.below(6) {
                        bytes.splice(position..position, piece.iter().copied());
                    }
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let begun = Instant::now();
        consume(&text);
        assert!(begun.elapsed() < Duration::from_secs(1), "slow: {text:?}");
        runs += 1;
    }
}
