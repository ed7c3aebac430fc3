//! Every file of upstream's `roundtrip` folder that belongs to a kind of the table: one object in JSON, YAML and
//! protobuf, all written by upstream itself.

use skiff_machinery::codec::{FieldValidation, json, protobuf, yaml};
use skiff_machinery::schema::{StructType, builtin};
use std::path::PathBuf;

pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) ty: &'static StructType,
    path: PathBuf,
}

impl Fixture {
    pub(crate) fn read(&self, extension: &str) -> Vec<u8> {
        let path = self.path.with_file_name(format!("{}.{extension}", self.name));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

pub(crate) fn upstream() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/upstream-1.36");
    if !folder.exists() {
        println!("skipped: no upstream reference data here");
        return None;
    }
    Some(folder)
}

pub(crate) fn fixtures() -> Vec<Fixture> {
    let Some(folder) = upstream() else { return Vec::new() };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join("roundtrip")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut parts = name.rsplitn(3, '.');
        let (kind, version, group) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let group = if group == "core" { "" } else { group };
        if let Some(ty) = builtin::by_kind(group, version, kind) {
            found.push(Fixture { name, ty, path });
        }
    }
    found.sort_by(|left, right| left.name.cmp(&right.name));
    assert!(found.len() > 100, "only {} files belong to kinds of the table", found.len());
    found
}

/// The same JSON without white space between tokens.
fn compact(bytes: &[u8]) -> String {
    let (mut out, mut in_string, mut escaped) = (Vec::new(), false, false);
    for &byte in bytes {
        if in_string {
            out.push(byte);
            (in_string, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
        } else if !byte.is_ascii_whitespace() {
            in_string = byte == b'"';
            out.push(byte);
        }
    }
    String::from_utf8(out).unwrap()
}

/// Tells where two texts part, with a little of what stands around.
pub(crate) fn difference(ours: &str, theirs: &str) -> String {
    let at = ours.bytes().zip(theirs.bytes()).take_while(|(left, right)| left == right).count();
    let around = |text: &str| {
        let bytes = &text.as_bytes()[at.saturating_sub(80).min(text.len())..(at + 80).min(text.len())];
        String::from_utf8_lossy(bytes).into_owned()
    };
    format!("at byte {at}\n   ours: {}\n theirs: {}", around(ours), around(theirs))
}

#[test]
fn json_comes_back_byte_for_byte() {
    let mut wrong = Vec::new();
    for fixture in fixtures() {
        let bytes = fixture.read("json");
        match json::decode(&bytes, fixture.ty, FieldValidation::Strict) {
            Err(error) => wrong.push(format!("{}: {error}", fixture.name)),
            Ok(decoded) => {
                let ours = String::from_utf8(json::encode(&decoded.value, fixture.ty)).unwrap();
                let theirs = compact(&bytes);
                if ours != theirs {
                    wrong.push(format!("{}: {}", fixture.name, difference(&ours, &theirs)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} files differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn protobuf_comes_back_byte_for_byte() {
    let mut wrong = Vec::new();
    for fixture in fixtures() {
        let bytes = fixture.read("pb");
        match protobuf::decode_object(&bytes, fixture.ty) {
            Err(error) => wrong.push(format!("{}: {error}", fixture.name)),
            Ok(value) => {
                let ours = protobuf::encode_object(&value, fixture.ty);
                if ours != bytes {
                    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
                    wrong.push(format!("{}: {}", fixture.name, difference(&shown(&ours), &shown(&bytes))));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} files differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn json_and_protobuf_give_one_tree() {
    for fixture in fixtures() {
        let json = json::decode(&fixture.read("json"), fixture.ty, FieldValidation::Strict).unwrap().value;
        let protobuf = protobuf::decode_object(&fixture.read("pb"), fixture.ty).unwrap();
        if json != protobuf {
            let text = |value| json::to_string(value);
            panic!("{}: {}", fixture.name, difference(&text(&json), &text(&protobuf)));
        }
    }
}

#[test]
fn yaml_gives_the_same_tree_and_comes_back() {
    let mut wrong = Vec::new();
    for fixture in fixtures() {
        let (json_bytes, yaml_bytes) = (fixture.read("json"), fixture.read("yaml"));
        let from_json = json::decode(&json_bytes, fixture.ty, FieldValidation::Strict).unwrap().value;
        match yaml::decode(&yaml_bytes, fixture.ty, FieldValidation::Strict) {
            Ok(from_yaml) if from_yaml.value == from_json => {}
            Ok(from_yaml) => {
                let text = |value| json::to_string(value);
                wrong.push(format!("{}: {}", fixture.name, difference(&text(&from_yaml.value), &text(&from_json))));
            }
            Err(error) => wrong.push(format!("{}: {error}", fixture.name)),
        }
        // kubectl prints what the server answered, zero values included.
        let ours = yaml::to_string(&json::from_slice(&json_bytes).unwrap());
        let theirs = String::from_utf8(yaml_bytes).unwrap();
        if ours != theirs {
            wrong.push(format!("{}: {}", fixture.name, difference(&ours, &theirs)));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
