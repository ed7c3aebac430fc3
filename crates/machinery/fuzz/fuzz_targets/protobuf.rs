//! Protobuf over every built-in type: the first two bytes choose it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_machinery::codec::{FieldValidation, json, protobuf};
use skiff_machinery::schema::builtin;

fuzz_target!(|input: &[u8]| {
    let [low, high, message @ ..] = input else { return };
    let types = builtin::all_types();
    let ty = &types[usize::from(u16::from_le_bytes([*low, *high])) % types.len()];
    drop(protobuf::decode_object(message, ty));
    if let Ok(value) = protobuf::decode(message, ty) {
        let message = protobuf::encode(&value, ty);
        let again = protobuf::decode(&message, ty).expect("what was written can be read");
        // Bytes, not trees: `1.0` inside a raw object is written as `1`.
        assert_eq!(protobuf::encode(&again, ty), message);
        json::decode(&json::encode(&value, ty), ty, FieldValidation::Strict).expect("JSON carries it too");
    }
});
