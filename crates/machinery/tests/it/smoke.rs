//! A few seconds of deterministic fuzzing for every run: files of upstream (or a pod of our own) with bytes changed,
//! cut, repeated and swapped. The same properties as the targets in `fuzz/`, which run for hours.

use crate::hostile::processor_time;
use crate::roundtrip::fixtures;
use skiff_machinery::codec::{FieldValidation, json, protobuf, yaml};
use skiff_machinery::schema::{StructType, builtin};
use std::time::{Duration, Instant};

/// How long each format is tried.
const SPAN: Duration = Duration::from_millis(1000);

/// A small generator of pseudo-random numbers (xorshift), seeded the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }
}

fn mutate(random: &mut Random, input: &[u8]) -> Vec<u8> {
    // Pieces that mean something to one of the parsers.
    const PIECES: [&[u8]; 16] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"\\u",
        b"null",
        b"1e999",
        b"-",
        b": ",
        b"&a ",
        b"*a",
        b"\n  ",
        b"k8s\0",
        b"\xff\xff",
        b"\0",
    ];
    let mut out = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(out.len() + 1);
        match random.below(6) {
            0 if at < out.len() => out[at] = u8::try_from(random.below(256)).unwrap(),
            1 => out.truncate(at),
            2 => out.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied()).for_each(drop),
            3 => {
                let end = (at + random.below(64)).min(out.len());
                out.drain(at..end).for_each(drop);
            }
            4 => {
                let end = (at + random.below(64)).min(out.len());
                let copy = out[at..end].to_vec();
                let to = random.below(out.len() + 1);
                out.splice(to..to, copy).for_each(drop);
            }
            _ if at < out.len() => out[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    out
}

fn corpus(extension: &str) -> Vec<(&'static StructType, Vec<u8>)> {
    let mut found: Vec<_> = fixtures().iter().map(|fixture| (fixture.ty, fixture.read(extension))).collect();
    let pod = builtin::by_kind("", "v1", "Pod").unwrap();
    let own = include_bytes!("../../benches/pod.json");
    let tree = json::decode(own, pod, FieldValidation::Strict).unwrap().value;
    let bytes = match extension {
        "json" => own.to_vec(),
        "yaml" => yaml::to_string(&tree).into_bytes(),
        _ => protobuf::encode_object(&tree, pod),
    };
    found.push((pod, bytes));
    found
}

fn smoke(extension: &str, mut property: impl FnMut(&'static StructType, &[u8])) {
    let corpus = corpus(extension);
    let mut random = Random(0x5eed_0000_0000_0001);
    let start = Instant::now();
    let mut tried = 0;
    while start.elapsed() < SPAN {
        let (ty, input) = &corpus[random.below(corpus.len())];
        let mutant = mutate(&mut random, input);
        let before = processor_time();
        property(ty, &mutant);
        let used = processor_time() - before;
        assert!(used < Duration::from_secs(2), "slow on {:?}", mutant.escape_ascii().to_string());
        tried += 1;
    }
    println!("{extension}: {tried} mutants");
    assert!(tried > 20);
}

#[test]
fn json_mutants() {
    smoke("json", |ty, input| {
        if let Ok(decoded) = json::decode(input, ty, FieldValidation::Warn) {
            let text = json::encode(&decoded.value, ty);
            let again = json::decode(&text, ty, FieldValidation::Strict).unwrap();
            assert_eq!(json::encode(&again.value, ty), text, "{}", input.escape_ascii());
        }
        if let Ok(value) = json::from_slice(input) {
            let text = json::to_vec(&value);
            assert_eq!(json::to_vec(&json::from_slice(&text).unwrap()), text);
        }
    });
}

#[test]
fn protobuf_mutants() {
    smoke("pb", |ty, input| {
        if let Ok(value) = protobuf::decode_object(input, ty) {
            let message = protobuf::encode_object(&value, ty);
            let again = protobuf::decode_object(&message, ty).unwrap();
            // Bytes, not trees: `1.0` inside a raw object is written as `1`.
            assert_eq!(protobuf::encode_object(&again, ty), message, "{}", input.escape_ascii());
            let text = json::encode(&value, ty);
            json::decode(&text, ty, FieldValidation::Strict).unwrap();
        }
    });
}

#[test]
fn yaml_mutants() {
    smoke("yaml", |ty, input| {
        if let Ok(value) = yaml::from_slice(input) {
            let text = yaml::to_string(&value);
            let again = yaml::from_slice(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(json::to_string(&again), json::to_string(&value), "{text}");
        }
        drop(yaml::decode(input, ty, FieldValidation::Strict));
    });
}
