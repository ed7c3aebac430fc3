//! What upstream's own libraries made of inputs, recorded by `xtask/gotypes/cases` (see its opening for the commands).

use crate::roundtrip::difference;
use skiff_machinery::Value;
use skiff_machinery::codec::{FieldValidation, json, protobuf, yaml};
use skiff_machinery::schema::{StructType, builtin};

struct Case {
    value: Value,
}

impl Case {
    fn text(&self, key: &str) -> &str {
        self.value.str_at(&[key])
    }
    fn ty(&self) -> Option<&'static StructType> {
        let api_version = self.text("api_version");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        builtin::by_kind(group, version, self.text("kind"))
    }
}

fn cases(file: &str) -> Vec<Case> {
    let path = format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| Case { value: json::from_str(line).unwrap() }).collect()
}

/// Objects that hold nothing or only empty things: which fields does Go write all the same?
fn zero_values_are_written_as_go_writes_them(file: &str, least: usize) {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for case in cases(file) {
        let Some(ty) = case.ty() else { continue };
        compared += 1;
        let name = format!("{} {}", case.text("api_version"), case.text("kind"));
        let theirs = case.text("json");
        let decoded = match json::decode(theirs.as_bytes(), ty, FieldValidation::Strict) {
            Ok(decoded) => decoded.value,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let ours = String::from_utf8(json::encode(&decoded, ty)).unwrap();
        if ours != theirs {
            wrong.push(format!("{name}: JSON {}", difference(&ours, theirs)));
        }
        let message = base64(case.text("protobuf"));
        if message.is_empty() {
            continue;
        }
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let ours = protobuf::encode_object(&decoded, ty);
        if ours != message {
            wrong.push(format!("{name}: protobuf {}", difference(&shown(&ours), &shown(&message))));
        }
        match protobuf::decode_object(&message, ty) {
            Ok(value) => {
                let again = protobuf::encode_object(&value, ty);
                if again != message {
                    wrong.push(format!("{name}: protobuf again {}", difference(&shown(&again), &shown(&message))));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= least, "only {compared} compared");
}

fn base64(text: &str) -> Vec<u8> {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

#[test]
fn empty_objects() {
    zero_values_are_written_as_go_writes_them("empty.jsonl", 150);
}

#[test]
fn hollow_objects() {
    zero_values_are_written_as_go_writes_them("hollow.jsonl", 70);
}

fn texts(case: &Case, key: &str) -> Vec<String> {
    case.value.items_at(&[key]).iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn json_is_read_and_refused_in_upstreams_words() {
    let mut wrong = Vec::new();
    for case in cases("decode-cases.jsonl") {
        let input = case.text("input");
        if !input.starts_with(['{', '[', '"']) {
            continue;
        }
        let ty = case.ty().unwrap();
        // The serializer looks for the kind first, and meets bad syntax there.
        let expected = case.text("error").trim_start_matches("couldn't get version/kind; json parse error: ");
        match json::decode(input.as_bytes(), ty, FieldValidation::Warn) {
            Err(error) => {
                if error.to_string() != expected {
                    wrong.push(format!("{input}\n   ours: {error}\n theirs: {expected}"));
                }
            }
            Ok(decoded) => {
                let ours = String::from_utf8(json::encode(&decoded.value, ty)).unwrap();
                if !expected.is_empty() {
                    wrong.push(format!("{input}\n   ours: {ours}\n theirs: {expected}"));
                } else if ours != case.text("json") {
                    wrong.push(format!("{input}\n {}", difference(&ours, case.text("json"))));
                }
                let strict = texts(&case, "strict");
                if decoded.warnings != strict {
                    wrong.push(format!("{input}\n   ours: {:?}\n theirs: {strict:?}", decoded.warnings));
                }
                let message = base64(case.text("protobuf"));
                let ours = protobuf::encode_object(&decoded.value, ty);
                if ours != message && !message.is_empty() {
                    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
                    wrong.push(format!("{input}\n protobuf {}", difference(&shown(&ours), &shown(&message))));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn yaml_is_read_and_refused_as_upstream_does() {
    let mut wrong = Vec::new();
    for case in cases("decode-cases.jsonl") {
        let input = case.text("input");
        if input.starts_with(['{', '[', '"']) {
            continue;
        }
        let ty = case.ty().unwrap();
        let expected = case.text("error");
        match yaml::decode(input.as_bytes(), ty, FieldValidation::Warn) {
            Err(error) => {
                // Of syntax errors only the line is the same, of impossible keys only the first words.
                let error = error.to_string();
                let comparable = if expected.starts_with("yaml: line") {
                    expected.splitn(3, ':').take(2).collect::<Vec<_>>().join(":")
                } else {
                    expected.split(", value:").next().unwrap_or("").to_owned()
                };
                if expected.is_empty() || !error.starts_with(&comparable) {
                    wrong.push(format!("{input}\n   ours: {error}\n theirs: {expected}"));
                }
            }
            Ok(decoded) => {
                let ours = String::from_utf8(json::encode(&decoded.value, ty)).unwrap();
                let strict = texts(&case, "strict");
                if ours != case.text("json") || decoded.warnings != strict {
                    let (ours, theirs) = (decoded.warnings.join(",") + &ours, strict.join(",") + case.text("json"));
                    wrong.push(format!("{input}\n {expected} {}", difference(&ours, &theirs)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn yaml_is_written_as_kubectl_prints_it() {
    let mut wrong = Vec::new();
    for case in cases("yaml-cases.jsonl") {
        let value = json::from_str(case.text("input")).unwrap();
        let (ours, theirs) = (yaml::to_string(&value), case.text("yaml"));
        if ours != theirs {
            wrong.push(format!("{}\n{}", case.text("input"), difference(&ours, theirs)));
        }
        match yaml::from_slice(ours.as_bytes()) {
            Ok(again) if json::to_string(&again) == json::to_string(&value) => {}
            Ok(again) => wrong.push(format!("{}\n comes back as {}", case.text("input"), json::to_string(&again))),
            Err(error) => wrong.push(format!("{}\n does not come back: {error}\n{ours}", case.text("input"))),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
