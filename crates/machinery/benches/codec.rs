//! What reading and writing one object costs: `cargo bench -p skiff-machinery --bench codec`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a measuring program")]

use skiff_machinery::codec::{FieldValidation, json, protobuf, yaml};
use skiff_machinery::schema::builtin;
use std::hint::black_box;
use std::time::Instant;

/// A pod as a ReplicaSet makes it and a kubelet reports it.
const POD: &str = include_str!("pod.json");

fn time<T>(name: &str, bytes: usize, mut work: impl FnMut() -> T) {
    // The best of several rounds: what the code costs when nobody else wants the core.
    let mut best = f64::MAX;
    let mut rounds = 20;
    while rounds > 0 {
        let times = 500;
        let start = Instant::now();
        for _ in 0..times {
            black_box(work());
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(times));
        rounds -= 1;
    }
    println!("{name:<40} {:8.2} us   {:6.0} MB/s", best * 1e6, bytes as f64 / best / 1e6);
}

fn measure(name: &str, text: &[u8]) {
    let pod = builtin::by_kind("", "v1", "Pod").unwrap();
    let value = json::decode(text, pod, FieldValidation::Strict).unwrap().value;
    let encoded = json::encode(&value, pod);
    let message = protobuf::encode_object(&value, pod);
    println!("{name}: {} bytes of JSON, {} of protobuf", encoded.len(), message.len());
    time("  json decode (strict)", encoded.len(), || json::decode(&encoded, pod, FieldValidation::Strict).unwrap());
    time("  json decode (ignore)", encoded.len(), || json::decode(&encoded, pod, FieldValidation::Ignore).unwrap());
    time("  json encode", encoded.len(), || json::encode(&value, pod));
    time("  json without schema: decode", encoded.len(), || json::from_slice(&encoded).unwrap());
    let any = json::from_slice(&encoded).unwrap();
    time("  json without schema: encode", encoded.len(), || json::to_vec(&any));
    time("  serde_json::Value: decode", encoded.len(), || {
        serde_json::from_slice::<serde_json::Value>(&encoded).unwrap()
    });
    time("  protobuf decode", message.len(), || protobuf::decode_object(&message, pod).unwrap());
    time("  protobuf encode", message.len(), || protobuf::encode_object(&value, pod));
    time("  clone of the tree", encoded.len(), || value.clone());
    let text = yaml::to_string(&any);
    time("  yaml decode", text.len(), || yaml::decode(text.as_bytes(), pod, FieldValidation::Strict).unwrap());
    time("  yaml encode", text.len(), || yaml::to_string(&any));
}

fn main() {
    let start = Instant::now();
    let pod = builtin::by_kind("", "v1", "Pod").unwrap();
    let opened = start.elapsed();
    let fields = pod.fields.len();
    let first = start.elapsed() - opened;
    let all: usize = builtin::all_types().iter().map(|ty| ty.fields.len()).sum();
    println!("open the table {opened:?}, {fields} fields of one type {first:?}, all {all} {:?}", start.elapsed());
    measure("typical pod", POD.as_bytes());
    let roundtrip = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/upstream-1.36/roundtrip/core.v1.Pod.json");
    match std::fs::read(roundtrip) {
        Ok(text) => measure("core.v1.Pod with every field", &text),
        Err(_) => println!("core.v1.Pod with every field: skipped, no upstream reference data here"),
    }
}
