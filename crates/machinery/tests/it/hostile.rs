//! Input made to hurt: every decoder answers with an error (or a value) soon, on a small stack, without taking much
//! more memory than the input.

use skiff_machinery::Value;
use skiff_machinery::codec::{FieldValidation, json, protobuf, yaml};
use skiff_machinery::schema::{StructType, builtin};
use std::fmt::Write;
use std::time::Duration;

/// What a row of RELIABILITY allows, times what an unoptimised build and several passes cost.
const SOON: Duration = Duration::from_secs(5);

fn pod() -> &'static StructType {
    builtin::by_kind("", "v1", "Pod").unwrap()
}
fn definition() -> &'static StructType {
    builtin::by_kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap()
}

/// Processor time that the calling thread has used: what others do on the machine must not fail a test.
pub(crate) fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Runs on a thread with the stack that async workers have.
fn on_a_small_stack(name: &str, work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let timed = move || (work(), processor_time());
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(timed).unwrap();
    let (outcome, used) = thread.join().unwrap_or_else(|_| panic!("{name}: panicked"));
    println!("{name}: {used:?}");
    assert!(used < SOON, "{name}: took {used:?}");
    outcome
}

/// Decodes with and without a schema, and walks over what comes out in every way that recurses.
fn json_row(name: &'static str, text: String) -> Result<(), String> {
    on_a_small_stack(name, move || {
        let typed = [
            json::decode(text.as_bytes(), pod(), FieldValidation::Strict),
            json::decode(text.as_bytes(), definition(), FieldValidation::Warn),
        ];
        for decoded in typed.into_iter().flatten() {
            drop(json::encode(&decoded.value, definition()));
            drop(protobuf::encode_object(&decoded.value, definition()));
        }
        let value = json::from_slice(text.as_bytes()).map_err(|error| error.to_string())?;
        walk(&value)
    })
}

fn yaml_row(name: &'static str, text: String) -> Result<(), String> {
    on_a_small_stack(name, move || {
        drop(yaml::decode(text.as_bytes(), pod(), FieldValidation::Strict));
        let value = yaml::from_slice(text.as_bytes()).map_err(|error| error.to_string())?;
        drop(yaml::to_string(&value));
        walk(&value)
    })
}

fn walk(value: &Value) -> Result<(), String> {
    let text = json::to_string(value);
    assert!(json::from_str(&text).is_ok(), "what was written can be read");
    assert_eq!(value.clone(), *value);
    Ok(())
}

#[test]
fn deep_json() {
    for depth in [450, 5_000, 20_000, 1_000_000] {
        let arrays = "[".repeat(depth) + &"]".repeat(depth);
        let objects = "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        let schemas = "{\"spec\":{\"versions\":[{\"schema\":{\"openAPIV3Schema\":".to_owned()
            + &"{\"items\":".repeat(depth)
            + "{}"
            + &"}".repeat(depth)
            + "}}]}}";
        let properties = "{\"spec\":{\"versions\":[{\"schema\":{\"openAPIV3Schema\":".to_owned()
            + &"{\"properties\":{\"a\":".repeat(depth)
            + "{}"
            + &"}}".repeat(depth)
            + "}}]}}";
        for text in [arrays, objects, schemas, properties] {
            let outcome = json_row("deep", text);
            // Four of the shapes are as deep as they are long, and one twice as deep.
            assert!(outcome.is_err() || depth < 500, "{depth}");
        }
        assert!(json_row("deep, open", "[".repeat(depth)).is_err());
    }
    let deep = json::from_str(&("[".repeat(450) + &"]".repeat(450))).unwrap();
    on_a_small_stack("deep YAML", move || {
        drop(yaml::to_string(&deep));
        Ok(())
    })
    .unwrap();
    // What is skipped may be as deep as Go allows.
    let skipped = |depth: usize| format!("{{\"nobody\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(json::decode(skipped(9_000).as_bytes(), pod(), FieldValidation::Ignore).is_ok());
    let error = json::decode(skipped(20_000).as_bytes(), pod(), FieldValidation::Ignore).unwrap_err();
    assert_eq!(error.to_string(), "exceeded max depth");
}

#[test]
fn large_json() {
    let megabyte = "x".repeat(1 << 20);
    let digits = "9".repeat(1 << 20);
    let mut many_keys = String::from("{");
    let mut same_keys = String::from("{");
    for index in 0..100_000 {
        write!(many_keys, "{}\"k{}\":1", if index > 0 { "," } else { "" }, index * 7919 % 100_003).unwrap();
        write!(same_keys, "{}\"k\":{index}", if index > 0 { "," } else { "" }).unwrap();
    }
    many_keys.push('}');
    same_keys.push('}');
    let labels = format!("{{\"metadata\":{{\"labels\":{}}}}}", many_keys.replace(":1", ":\"v\""));
    let repeated = format!(
        "{{\"metadata\":{{\"labels\":{}}}}}",
        same_keys.replace(':', ":\"").replace(',', "\",").replace('}', "\"}")
    );
    for (name, text, good) in [
        ("a long key", format!("{{\"{megabyte}\":1}}"), true),
        ("a long text", format!("{{\"a\":\"{megabyte}\"}}"), true),
        ("a long escape", format!("{{\"a\":\"{}\"}}", "\\u00e9".repeat(1 << 18)), true),
        ("a long number", digits.clone(), false),
        ("a long fraction", format!("0.{digits}"), true),
        ("a long exponent", format!("1e{digits}"), false),
        ("many keys", many_keys.clone(), true),
        ("one key many times", same_keys, true),
        ("many labels", labels, true),
        ("one label many times", repeated, true),
        ("many unknown fields", many_keys, true),
        ("many empty objects", format!("{{\"items\":[{}{{}}]}}", "{},".repeat(100_000)), true),
        (
            "many containers",
            format!("{{\"spec\":{{\"containers\":[{}{{}}]}}}}", "{\"name\":\"\"},".repeat(30_000)),
            true,
        ),
        ("nothing", String::new(), false),
        ("a null byte", "\0".to_owned(), false),
    ] {
        let outcome = json_row(name, text);
        assert_eq!(outcome.is_ok(), good, "{name}: {outcome:?}");
    }
    let number = format!("{{\"spec\":{{\"priority\":{digits}}}}}");
    let error = json::decode(number.as_bytes(), pod(), FieldValidation::Strict).unwrap_err().to_string();
    assert!(error.len() < 500, "a message does not repeat a megabyte");
    let unknown: String = (0..1_000).map(|index| format!("\"u{index}\":1,")).collect();
    let decoded = json::decode(format!("{{{unknown}\"z\":1}}").as_bytes(), pod(), FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings.len(), 100, "as many as upstream tells");
}

#[test]
fn yaml_bombs() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..40 {
        let below = format!("*a{}", level - 1);
        writeln!(laughs, "a{level}: &a{level} [{}]", [below.as_str(); 9].join(", ")).unwrap();
    }
    let mut text_bomb = format!("a: &a {}\nb:\n", "x".repeat(1 << 20));
    for _ in 0..10_000 {
        text_bomb.push_str("- *a\n");
    }
    let merges =
        format!("a: &a {{{}}}\n", (0..1_000).map(|index| format!("k{index}: 1")).collect::<Vec<_>>().join(", "))
            + &(0..20_000).map(|index| format!("m{index}: {{<<: *a}}\n")).collect::<String>();
    let nested_anchors = (0..2_000).map(|index| format!("&n{index} [")).collect::<String>() + &"]".repeat(2_000);
    let keys: String = (0..30_000).map(|index| format!("k{}: 1\n", index * 7919 % 30_011)).collect();
    for (name, text, good) in [
        ("a billion laughs", laughs, false),
        ("one text many times", text_bomb, false),
        ("one mapping many times", merges, false),
        ("anchors in anchors", nested_anchors, false),
        ("deep flow", "[".repeat(100_000), false),
        ("deep flow mappings", "{a: ".repeat(20_000), false),
        ("deep blocks", (0..2_000).fold(String::new(), |text, level| text + &" ".repeat(level) + "a:\n"), false),
        ("deep dashes", "- ".repeat(50_000), false),
        ("many keys", keys.clone(), true),
        ("a long key", format!("? {}\n: 1\n", "k".repeat(1 << 20)), true),
        ("a long number", "9".repeat(1 << 16), true),
        ("many spaces", " ".repeat(1 << 20), true),
        ("many comments", "#\n".repeat(1 << 18), true),
        ("many quotes", "'".repeat(1 << 16), true),
        ("an alias to itself", "a: &a [*a]\n".to_owned(), false),
        ("an unknown alias", "a: *b\n".to_owned(), false),
        ("many documents", "---\n".repeat(1 << 16), true),
    ] {
        let outcome = yaml_row(name, text);
        assert_eq!(
            outcome.is_ok(),
            good,
            "{name}: {:?}",
            outcome.map_err(|text| text.chars().take(200).collect::<String>())
        );
    }
    let stream = "---\n".repeat(1 << 16) + "a: 1\n---\nb: 2\n--- bad\n";
    let documents: Vec<_> = yaml::documents(&stream).collect();
    // Upstream drops what it read before a bad separator.
    assert!(matches!(documents.as_slice(), [Ok("a: 1\n"), Err(_)]), "{documents:?}");
}

/// A message that nests field 1 in itself.
fn nested(depth: usize, number: u8) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for _ in 0..depth {
        let mut length = out.len();
        let mut head = vec![number << 3 | 2];
        while length >= 0x80 {
            head.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        head.push(u8::try_from(length).unwrap());
        head.extend(out);
        out = head;
    }
    out
}

#[test]
fn protobuf_bombs() {
    let schema = builtin::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    for (name, ty, message, good) in [
        // Field 28 is `not`: a schema in a schema.
        ("deep", schema, nested_not(20_000), false),
        ("deep enough", schema, nested_not(450), true),
        ("groups that never end", pod(), vec![0x7b; 1 << 20], false),
        ("groups in groups", pod(), [vec![0x7b; 1 << 16], vec![0x7c; 1 << 16]].concat(), true),
        ("a length past the end", pod(), vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], false),
        ("a huge length", pod(), vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], false),
        ("a varint without end", pod(), vec![0xff; 1 << 16], false),
        ("field number 0", pod(), vec![0x02, 0x00], false),
        ("the wrong wire type", pod(), vec![0x08, 0x01], false),
        ("many empty containers", pod(), containers(100_000), true),
        ("many labels", pod(), labels(100_000), true),
        ("unknown fields", pod(), [0xf8, 0x07, 0x01].repeat(100_000), true),
        ("nothing", pod(), Vec::new(), true),
        ("nested unknown", pod(), nested(10_000, 15), true),
    ] {
        let outcome = on_a_small_stack(name, move || {
            let value = protobuf::decode(&message, ty).map_err(|error| error.to_string())?;
            drop(protobuf::encode(&value, ty));
            walk(&value)
        });
        assert_eq!(outcome.is_ok(), good, "{name}: {outcome:?}");
    }
    assert!(protobuf::decode_object(b"k8s", pod()).is_err());
    assert!(protobuf::decode_object(b"k8s\0\x12\xff", pod()).is_err());
    assert!(protobuf::decode_object(b"k8s\0", pod()).is_ok(), "an empty envelope is an empty object");
}

/// Metadata with that many labels, in an order that is no order.
fn labels(count: usize) -> Vec<u8> {
    let mut metadata = Vec::new();
    for index in 0..count {
        let key = format!("k{:06}", index * 7919 % 100_003);
        // Field 11 of ObjectMeta: a message of key and value.
        metadata.extend([0x5a, 12, 0x0a, 7]);
        metadata.extend(key.as_bytes());
        metadata.extend([0x12, 1, b'v']);
    }
    let mut length = metadata.len();
    let mut out = vec![0x0a];
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend(metadata);
    out
}

/// `not` has number 28, whose tag takes two bytes.
fn nested_not(depth: usize) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for _ in 0..depth {
        let mut length = out.len();
        let mut head = vec![0xe2, 0x01];
        while length >= 0x80 {
            head.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        head.push(u8::try_from(length).unwrap());
        head.extend(out);
        out = head;
    }
    out
}

/// A pod whose spec holds that many containers of two bytes each.
fn containers(count: usize) -> Vec<u8> {
    let mut length = count * 2;
    let mut out = vec![0x12];
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend([0x12, 0x00].repeat(count));
    out
}
