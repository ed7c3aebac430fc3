//! YAML: what is read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_machinery::codec::{FieldValidation, json, yaml};
use skiff_machinery::schema::builtin;

fuzz_target!(|input: &[u8]| {
    let pod = builtin::by_kind("", "v1", "Pod").expect("a kind of the table");
    drop(yaml::decode(input, pod, FieldValidation::Strict));
    if let Ok(text) = std::str::from_utf8(input) {
        yaml::documents(text).for_each(drop);
    }
    if let Ok(value) = yaml::from_slice(input) {
        let text = yaml::to_string(&value);
        let again = yaml::from_slice(text.as_bytes()).expect("what was written can be read");
        assert_eq!(json::to_string(&again), json::to_string(&value), "{text}");
    }
});
