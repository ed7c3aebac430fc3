//! Validation rules of custom resources.

use skiff_machinery::codec::json;
use skiff_machinery::schema::structural::{Structural, check};
use skiff_machinery::{FieldPath, Value};

fn parsed(schema: &str) -> Result<Structural, Vec<String>> {
    let schema = json::from_str(schema).unwrap();
    let path = FieldPath::new("schema");
    let texts = |errors: skiff_machinery::ErrorList| errors.iter().map(ToString::to_string).collect();
    let errors = check(&schema, &path);
    if !errors.is_empty() {
        return Err(texts(errors));
    }
    Structural::parse(&schema, &path).map_err(texts)
}

fn tree(text: &str) -> Value {
    json::from_str(text).unwrap()
}

/// What is wrong with an object, after an older one if there was one.
fn mistakes(schema: &Structural, object: &str, old: Option<&str>) -> Vec<String> {
    let errors = match old {
        None => schema.validate(&tree(object)),
        Some(old) => schema.validate_update(&tree(object), &tree(old)),
    };
    errors.iter().map(ToString::to_string).collect()
}

const WIDGET: &str = r#"{"type":"object",
  "x-kubernetes-validations":[{"rule":"self.metadata.name.startsWith('w')","message":"names begin with w"}],
  "properties":{"spec":{"type":"object",
    "x-kubernetes-validations":[
      {"rule":"self.min <= self.max","messageExpression":"'%d is more than %d'.format([self.min, self.max])","fieldPath":".max"},
      {"rule":"!has(self.mode) || self.mode != 'off'","reason":"FieldValueForbidden","message":"it cannot be off"},
      {"rule":"!has(oldSelf.mode) || has(self.mode)","message":"mode stays"}],
    "properties":{
      "min":{"type":"integer"},"max":{"type":"integer"},"mode":{"type":"string"},
      "class-name":{"type":"string","x-kubernetes-validations":[{"rule":"self == oldSelf","message":"immutable"}]},
      "since":{"type":"string","format":"date-time"},"wait":{"type":"string","format":"duration"},
      "port":{"x-kubernetes-int-or-string":true,"x-kubernetes-validations":[{"rule":"type(self) == string || self > 0"}]},
      "size":{"type":"number","x-kubernetes-validations":[{"rule":"self < 10.0"}]},
      "tags":{"type":"array","items":{"type":"string"},"x-kubernetes-list-type":"set"},
      "parts":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],"items":{"type":"object",
        "required":["name"],"properties":{"name":{"type":"string"},"value":{"type":"integer"}},
        "x-kubernetes-validations":[{"rule":"self.value >= oldSelf.value","message":"only grows"}]}}}}}}"#;

#[test]
fn rules_hold_or_say_why_not() {
    let schema = parsed(WIDGET).unwrap();
    let with = |spec: &str| format!(r#"{{"metadata":{{"name":"w"}},"spec":{{"min":1,"max":2{spec}}}}}"#);
    let ask = |spec: &str| mistakes(&schema, &with(spec), None);
    assert_eq!(ask(""), Vec::<String>::new());
    assert_eq!(ask(r#","port":80,"size":3,"wait":"1h","since":"2024-01-01T00:00:00Z""#), Vec::<String>::new());
    assert_eq!(ask(r#","port":"http""#), Vec::<String>::new());
    assert_eq!(
        mistakes(&schema, r#"{"metadata":{"name":"x"},"spec":{"min":3,"max":2}}"#, None),
        [
            "<nil>: Invalid value: \"object\": names begin with w",
            "spec.max: Invalid value: \"object\": 3 is more than 2"
        ]
    );
    assert_eq!(ask(r#","mode":"off""#), ["spec: Forbidden: it cannot be off"]);
    assert_eq!(
        ask(r#","port":0"#),
        ["spec.port: Invalid value: \"integer\": failed rule: type(self) == string || self > 0"]
    );
    assert_eq!(ask(r#","size":10"#), ["spec.size: Invalid value: \"number\": failed rule: self < 10.0"]);
    // Types are looked at first.
    let ill = mistakes(&schema, r#"{"metadata":{"name":"x"},"spec":{"min":"1","max":2}}"#, None);
    assert_eq!(
        ill[1],
        "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"
    );
    assert_eq!(ill.len(), 2, "{ill:?}");
    // A missing field is an error of the rule that asks for it.
    assert_eq!(
        mistakes(&schema, r#"{"metadata":{"name":"w"},"spec":{"min":1}}"#, None),
        ["spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max"]
    );
}

#[test]
fn transitions_see_what_was() {
    let schema = parsed(WIDGET).unwrap();
    let with = |spec: &str| format!(r#"{{"metadata":{{"name":"w"}},"spec":{{"min":1,"max":2{spec}}}}}"#);
    let ask = |old: &str, new: &str| mistakes(&schema, &with(new), Some(&with(old)));
    assert_eq!(ask("", r#","class-name":"a""#), Vec::<String>::new(), "nothing was there before");
    assert_eq!(
        ask(r#","class-name":"a""#, r#","class-name":"b""#),
        ["spec.class-name: Invalid value: \"string\": immutable"]
    );
    assert_eq!(ask(r#","mode":"on""#, ""), ["spec: Invalid value: \"object\": mode stays"]);
    // Items are found again by their keys.
    let old = r#","parts":[{"name":"a","value":1},{"name":"b","value":5}]"#;
    assert_eq!(
        ask(old, r#","parts":[{"name":"b","value":6},{"name":"c","value":0},{"name":"a","value":1}]"#),
        Vec::<String>::new()
    );
    assert_eq!(
        ask(old, r#","parts":[{"name":"b","value":4},{"name":"a","value":1}]"#),
        ["spec.parts[0]: Invalid value: \"object\": only grows"]
    );
}

#[test]
fn sets_and_maps_are_the_same_in_any_order() {
    let schema = parsed(
        r#"{"type":"object","x-kubernetes-validations":[{"rule":"self.s == oldSelf.s && self.l == oldSelf.l && self.m == oldSelf.m"}],
        "properties":{"s":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
        "m":{"type":"object","additionalProperties":{"type":"integer"}},
        "l":{"type":"array","items":{"type":"string"}}}}"#,
    )
    .unwrap();
    let old = r#"{"s":["a","b"],"l":["a","b"],"m":{"x":1,"y":2}}"#;
    let ask = |new: &str| mistakes(&schema, new, Some(old)).len();
    assert_eq!(ask(r#"{"s":["b","a"],"l":["a","b"],"m":{"y":2,"x":1}}"#), 0);
    assert_eq!(ask(r#"{"s":["a","b"],"l":["b","a"],"m":{"x":1,"y":2}}"#), 1);
    assert_eq!(ask(r#"{"s":["a","c"],"l":["a","b"],"m":{"x":1,"y":2}}"#), 1);
    assert_eq!(ask(r#"{"s":["a","b"],"l":["a","b"],"m":{"x":1,"y":3}}"#), 1);
}

#[test]
fn an_optional_old_value_is_there_from_the_first() {
    let schema = parsed(
        r#"{"type":"object","properties":{"n":{"type":"integer","x-kubernetes-validations":[
            {"rule":"!oldSelf.hasValue() ? self == 0 : self >= oldSelf.value()","optionalOldSelf":true,"message":"from 0, upwards"}]}}}"#,
    )
    .unwrap();
    let wrong = vec!["n: Invalid value: \"integer\": from 0, upwards".to_owned()];
    assert_eq!(mistakes(&schema, r#"{"n":0}"#, None), Vec::<String>::new());
    assert_eq!(mistakes(&schema, r#"{"n":1}"#, None), wrong);
    assert_eq!(mistakes(&schema, r#"{"n":2}"#, Some(r#"{"n":1}"#)), Vec::<String>::new());
    assert_eq!(mistakes(&schema, r#"{"n":0}"#, Some(r#"{"n":1}"#)), wrong);
}

#[test]
fn what_did_not_change_is_not_asked_again() {
    let schema = parsed(
        r#"{"type":"object","properties":{
            "a":{"type":"string","maxLength":2,"x-kubernetes-validations":[{"rule":"self != 'x'"}]},
            "o":{"type":"object","required":["b"],"properties":{"b":{"type":"string"},"c":{"type":"string"}}},
            "l":{"type":"array","items":{"type":"string","maxLength":2}},
            "m":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],
                 "items":{"type":"object","required":["k"],"properties":{"k":{"type":"string"},"v":{"type":"string","maxLength":2}}}}}}"#,
    )
    .unwrap();
    // Without the note that rules were not asked.
    let count = |found: Vec<String>| found.iter().filter(|text| !text.starts_with("<nil>")).count();
    let ask = |old: &str, new: &str| count(mistakes(&schema, new, Some(old)));
    assert_eq!(count(mistakes(&schema, r#"{"a":"long"}"#, None)), 1);
    assert_eq!(ask(r#"{"a":"long"}"#, r#"{"a":"long","l":["x"]}"#), 0);
    assert_eq!(ask(r#"{"a":"long"}"#, r#"{"a":"longer"}"#), 1);
    assert_eq!(ask(r#"{"a":"x"}"#, r#"{"a":"x","l":["x"]}"#), 0, "rules too");
    assert_eq!(ask(r#"{"o":{}}"#, r#"{"o":{},"a":"b"}"#), 0);
    assert_eq!(ask(r#"{"o":{}}"#, r#"{"o":{"c":"d"}}"#), 1, "the object that lacks a field has changed");
    assert_eq!(ask(r#"{"l":["long"]}"#, r#"{"l":["long"],"a":"b"}"#), 0);
    assert_eq!(ask(r#"{"l":["long"]}"#, r#"{"l":["long","b"]}"#), 1, "nothing tells which item is which");
    assert_eq!(ask(r#"{"m":[{"k":"1","v":"long"}]}"#, r#"{"m":[{"k":"0"},{"k":"1","v":"long"}]}"#), 0);
    assert_eq!(ask(r#"{"m":[{"k":"1","v":"long"}]}"#, r#"{"m":[{"k":"0","v":"long"},{"k":"1","v":"long"}]}"#), 1);
}

#[test]
fn rules_that_cannot_be_are_refused() {
    let ask = |property: &str| {
        let schema = format!(r#"{{"type":"object","properties":{{"a":{property}}}}}"#);
        parsed(&schema).err().unwrap_or_default().join("\n")
    };
    let rule = |rule: &str| format!(r#"{{"type":"string","x-kubernetes-validations":[{rule}]}}"#);
    for (rules, wanted) in [
        (
            r#"{"rule":"self +"}"#,
            "compilation failed: ERROR: <input>:1:7: Syntax error: unexpected <EOF>\n | self +\n | ......^",
        ),
        (r#"{"rule":"self > 1"}"#, "found no matching overload for '_>_' applied to '(string, int)'"),
        (r#"{"rule":"self"}"#, "must evaluate to bool"),
        (r#"{"rule":" "}"#, "schema.properties[a].x-kubernetes-validations[0]: Required value: rule is not specified"),
        (r#"{"rule":"true","message":"a\nb"}"#, "message must not contain line breaks"),
        (r#"{"rule":"true\n","message":""}"#, "message must be specified if rule contains line breaks"),
        (r#"{"rule":"true","messageExpression":"1"}"#, "messageExpression compilation failed"),
        (r#"{"rule":"true","reason":"Because"}"#, "supported values: \"FieldValueInvalid\""),
        (r#"{"rule":"true","fieldPath":".b"}"#, "fieldPath must be a valid path"),
        (r#"{"rule":"true","optionalOldSelf":true}"#, "does not use `oldSelf`"),
    ] {
        let found = ask(&rule(rules));
        assert!(found.contains(wanted), "{rules}: {found}");
    }
    let item = r#"{"type":"array","items":{"type":"string","x-kubernetes-validations":[{"rule":"self == oldSelf"}]}}"#;
    assert!(ask(item).contains("oldSelf cannot be used on the uncorrelatable portion"), "{}", ask(item));
    let object =
        r#"{"type":"object","properties":{"b":{"type":"string"}},"x-kubernetes-validations":[{"rule":"self.c == 1"}]}"#;
    assert!(ask(object).contains("undefined field 'c'"), "{}", ask(object));
    // Names that are no names in CEL, and objects whose fields are kept without being known.
    let names = r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true,
        "properties":{"a-b":{"type":"string"},"in":{"type":"string"},"x.y/z__":{"type":"string"}},
        "x-kubernetes-validations":[{"rule":"self.a__dash__b + self.__in__ + self.x__dot__y__slash__z__underscores__ == ''"}]}"#;
    assert_eq!(ask(names), "");
    assert!(ask(&names.replace("a__dash__b", "unknown")).contains("undefined field 'unknown'"));
}

#[test]
fn a_dear_rule_ends() {
    let schema = parsed(
        r#"{"type":"object","properties":{"l":{"type":"array","items":{"type":"integer"},
            "x-kubernetes-validations":[{"rule":"self.all(a, self.all(b, self.all(c, a + b + c >= 0)))"}]},
            "o":{"type":"string","x-kubernetes-validations":[{"rule":"self == 'x'"}]}}}"#,
    )
    .unwrap();
    let list = vec!["1"; 2000].join(",");
    let found = mistakes(&schema, &format!(r#"{{"l":[{list}],"o":"y"}}"#), None);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("l: Invalid value: \"array\": call cost exceeds limit for rule: self.all("),
        "{found:?}"
    );
    assert_eq!(found[1], "o: Invalid value: \"string\": failed rule: self == 'x'", "the others are still asked");
}
