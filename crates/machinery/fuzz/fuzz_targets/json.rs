//! JSON over every built-in type: the first two bytes choose it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_machinery::codec::{FieldValidation, json};
use skiff_machinery::schema::builtin;

fuzz_target!(|input: &[u8]| {
    let [low, high, text @ ..] = input else { return };
    let types = builtin::all_types();
    let ty = &types[usize::from(u16::from_le_bytes([*low, *high])) % types.len()];
    if let Ok(decoded) = json::decode(text, ty, FieldValidation::Warn) {
        let encoded = json::encode(&decoded.value, ty);
        let again = json::decode(&encoded, ty, FieldValidation::Strict).expect("what was written can be read");
        assert_eq!(json::encode(&again.value, ty), encoded);
    }
    if let Ok(value) = json::from_slice(text) {
        let encoded = json::to_vec(&value);
        assert_eq!(json::to_vec(&json::from_slice(&encoded).expect("what was written can be read")), encoded);
    }
});
