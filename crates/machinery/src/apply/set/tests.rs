use super::*;
use crate::testing::{json, mutate, show};

#[test]
fn sets_read_and_write_fields_v1() {
    for text in [
        r#"{}"#,
        r#"{"f:a":{}}"#,
        r#"{"f:a":{".":{},"f:b":{}},"f:c":{"f:d":{}}}"#,
        r#"{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{}}}}}"#,
        r#"{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}"#,
        r#"{"f:finalizers":{".":{},"v:\"x\"":{}},"f:n":{"i:3":{},"v:1.5":{},"v:true":{}}}"#,
        r#"{"f:labels":{"f:a:b.c/d\"e":{}}}"#,
    ] {
        let set = Set::from_fields(&json(text)).unwrap();
        assert_eq!(show(&set.to_fields()), show(&json(text)));
    }
    for (text, accepted) in [
        (r#"{"x:a":{}}"#, true),
        (r#"{"a":{}}"#, false),
        (r#"{"f:a":1}"#, false),
        (r#"{"k:[1]":{}}"#, false),
        (r#"{"v:{":{}}"#, false),
        (r#"{"i:x":{}}"#, false),
        (r#"[]"#, false),
        ("null", true),
    ] {
        assert_eq!(Set::from_fields(&json(text)).is_some(), accepted, "{text}");
    }
}

#[test]
fn set_algebra() {
    let set = |text: &str| Set::from_fields(&json(text)).unwrap();
    let left = set(r#"{"f:a":{".":{},"f:b":{},"f:c":{}},"f:d":{}}"#);
    let right = set(r#"{"f:a":{"f:b":{},"f:x":{}},"f:e":{}}"#);
    for (found, expected) in [
        (left.union(&right), r#"{"f:a":{".":{},"f:b":{},"f:c":{},"f:x":{}},"f:d":{},"f:e":{}}"#),
        (left.intersection(&right), r#"{"f:a":{"f:b":{}}}"#),
        (left.difference(&right), r#"{"f:a":{".":{},"f:c":{}},"f:d":{}}"#),
        (right.difference(&left), r#"{"f:a":{"f:x":{}},"f:e":{}}"#),
        (right.recursive_difference(&left), r#"{"f:e":{}}"#),
        (left.recursive_difference(&set(r#"{"f:a":{"f:b":{}}}"#)), r#"{"f:a":{".":{},"f:c":{}},"f:d":{}}"#),
        (left.leaves(), r#"{"f:a":{"f:b":{},"f:c":{}},"f:d":{}}"#),
    ] {
        assert_eq!(show(&found.to_fields()), expected);
    }
    assert!(left.intersection(&right).is_subset(&left) && left.intersects(&right) && !left.is_subset(&right));
    assert!(left.contains(&[Element::Field("a".into()), Element::Field("b".into())]));
}

#[test]
fn mutated_fields_never_panic() {
    let seeds = [
        r#"{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{}}},"f:x":{"v:1.5":{},"i:3":{}}}}"#,
        r#"{"f:a":{".":{},"v:{\"x\":[1]}":{},"v:null":{},"k:{\"b\":2,\"a\":true}":{}}}"#,
    ];
    mutate(&seeds, 400, |text| {
        let Ok(parsed) = serde_json::from_str::<serde_json::Value>(text) else { return };
        if let Some(set) = Set::from_fields(&json(&parsed.to_string())) {
            assert_eq!(Set::from_fields(&set.to_fields()), Some(set.clone()), "{text}");
            assert!(set.difference(&set).is_empty() && set.union(&set) == set && set.intersection(&set) == set);
            let mut rest = set.clone();
            rest.subtract(&set.leaves());
            assert_eq!(rest, set.difference(&set.leaves()));
            assert_eq!(set.is_subset_of_fields(set.to_fields().as_object().unwrap()), set.is_subset(&set));
            set.for_each(|path| assert!(set.contains(path)));
        }
    });
}
