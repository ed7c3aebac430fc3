//! A schema and an object, split at the first zero byte: no schema makes an object harm the server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_machinery::FieldPath;
use skiff_machinery::codec::{FieldValidation, json};
use skiff_machinery::schema::{builtin, structural};

fuzz_target!(|input: &[u8]| {
    let Some(at) = input.iter().position(|byte| *byte == 0) else { return };
    let ty = builtin::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
    let Ok(schema) = json::decode(&input[..at], ty.expect("a type of the table"), FieldValidation::Ignore) else {
        return;
    };
    let path = FieldPath::new("schema");
    drop(structural::check(&schema.value, &path));
    let Ok(parsed) = structural::Structural::parse(&schema.value, &path) else { return };
    let Ok(mut object) = json::from_slice(&input[at + 1..]) else { return };
    parsed.prune(&mut object);
    assert!(parsed.prune(&mut object).is_empty(), "pruning once is enough");
    parsed.default(&mut object);
    drop(parsed.validate(&object));
    drop(parsed.to_type());
});
