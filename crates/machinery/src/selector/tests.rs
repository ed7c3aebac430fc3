use super::*;
use crate::field::FieldPath;
use crate::selector::labels::validate_label_selector;
use crate::testing::mutate;
use crate::{Map, Value, list, object};

fn labels(pairs: &[(&'static str, &str)]) -> Map {
    pairs.iter().map(|&(key, value)| (key, value)).collect()
}

#[test]
fn canonical_text() {
    for (text, canonical) in [
        ("", ""),
        ("x=a,y=b,z=c", "x=a,y=b,z=c"),
        ("x=", "x="),
        (" x = , z= ", "x=,z="),
        ("y,x", "x,y"),
        ("x!=a,x==b", "x!=a,x==b"),
        ("!x", "!x"),
        ("x>1,z<5", "x>1,z<5"),
        ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z notin ()"),
        ("x in (b, a, b)", "x in (a,b)"),
        ("x in (,)", "x in ()"),
        ("x in (a,)", "x in (,a)"),
        ("in in (in,notin)", "in in (in,notin)"),
        ("notin,in", "in,notin"),
        ("in=in", "in=in"),
        ("example.com/a notin(b)", "example.com/a notin (b)"),
        ("x\t=\r\na", "x=a"),
    ] {
        assert_eq!(Selector::parse(text).unwrap().to_string(), canonical, "{text:?}");
        assert_eq!(Selector::parse(canonical).unwrap(), Selector::parse(text).unwrap(), "{text:?}");
    }
}

#[test]
fn refused_text() {
    for (text, message) in [
        ("x=a||y=b", "unable to parse requirement: values[0][x]: Invalid value: \"a||y\": a valid label must be"),
        ("x==a==b", "found '==', expected: ',' or 'end of string'"),
        ("!x=a", "found '=', expected: ',' or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("x,", "found '', expected: identifier after ','"),
        ("x,,y", "found ',', expected: identifier after ','"),
        ("x a", "unable to parse requirement: found 'a', expected: in, notin, =, ==, !=, gt, lt"),
        ("x in", "unable to parse requirement: found '' expected: '('"),
        ("x in a", "unable to parse requirement: found 'a' expected: '('"),
        ("x in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
        ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("x in (a b)", "unable to parse requirement: found 'b', expected: ',' or ')'"),
        ("x in (a,", "unable to parse requirement: found '', expected: ',', or identifier"),
        ("x=(", "unable to parse requirement: found '(', expected: identifier"),
        (
            "x>a",
            "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must",
        ),
        ("-x", "unable to parse requirement: <nil>: Invalid value: \"-x\": name part must consist of"),
        ("x\0=a", "unable to parse requirement: <nil>: Invalid value:"),
        ("\0", "unable to parse requirement: <nil>: Invalid value:"),
    ] {
        let error = Selector::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(message), "{text:?}: {error}");
    }
}

#[test]
fn matching() {
    let some = labels(&[("foo", "bar"), ("baz", "blah"), ("n", "7")]);
    for (text, expected) in [
        ("", true),
        ("foo=bar", true),
        ("foo==bar,baz=blah", true),
        ("foo=blah", false),
        ("foo!=blah", true),
        ("gone!=x", true),
        ("gone", false),
        ("!gone", true),
        ("foo", true),
        ("!foo", false),
        ("foo in (a,bar)", true),
        ("foo notin (a,bar)", false),
        ("gone notin (a)", true),
        ("gone in ()", false),
        ("n>6", true),
        ("n>7", false),
        ("n<8", true),
        ("foo>1", false),
        ("gone<1", false),
    ] {
        assert_eq!(Selector::parse(text).unwrap().matches(&some), expected, "{text:?}");
    }
    assert!(!Selector::nothing().matches(&some));
    assert!(Selector::parse("!a").unwrap().matches_object(&object! { "metadata": Map::new() }));
}

#[test]
fn exact_matches_lead_into_indexes() {
    let selector = Selector::parse("a=1,b in (2),c in (3,4),d!=5").unwrap();
    let found: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|key| selector.requires_exact_match(key)).collect();
    assert_eq!(found, [Some("1"), Some("2"), None, None, None]);
    let fields = FieldSelector::parse("metadata.name=x,spec.nodeName!=y").unwrap();
    assert_eq!(fields.requires_exact_match("metadata.name"), Some("x"));
    assert_eq!(fields.requires_exact_match("spec.nodeName"), None);
}

#[test]
fn label_selectors_of_objects() {
    assert!(Selector::from_label_selector(None).unwrap().matches_nothing());
    assert!(Selector::from_label_selector(Some(&Value::from(Map::new()))).unwrap().is_empty());
    let selector = object! {
        "matchLabels": object! { "b": "1" },
        "matchExpressions": list![
            object! { "key": "a", "operator": "NotIn", "values": list!["z", "y"] },
            object! { "key": "c", "operator": "Exists" },
        ],
    };
    let parsed = Selector::from_label_selector(Some(&selector)).unwrap();
    assert_eq!(parsed.to_string(), "a notin (y,z),b=1,c");
    assert!(parsed.matches(&labels(&[("b", "1"), ("c", "")])));
    assert!(validate_label_selector(&selector, &FieldPath::new("s"), false).is_empty());

    let bad = object! { "matchExpressions": list![
        object! { "key": "a", "operator": "In" },
        object! { "key": "a", "operator": "Exists", "values": list!["x"] },
        object! { "key": "-", "operator": "Gt", "values": list!["-"] },
    ] };
    let found: Vec<String> =
        validate_label_selector(&bad, &FieldPath::new("s"), false).iter().map(ToString::to_string).collect();
    assert_eq!(
        found[0],
        "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
    );
    assert_eq!(
        found[1],
        "s.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
    );
    assert_eq!(found[2], "s.matchExpressions[2].operator: Invalid value: \"Gt\": not a valid selector operator");
    assert_eq!(found.len(), 5);
    let error = Selector::from_label_selector(Some(&object! { "matchExpressions": list![
    object! { "key": "a", "operator": "Gt", "values": list!["1"] } ] }));
    assert_eq!(error.unwrap_err().to_string(), "\"Gt\" is not a valid pod selector operator");
    let error = Requirement::new("a", Operator::In, [""; 0]).unwrap_err().to_string();
    assert!(error.ends_with(": for 'in', 'notin' operators, values set can't be empty"), "{error}");
}

#[test]
fn field_selectors() {
    for (text, canonical) in [
        ("", ""),
        ("a=b", "a=b"),
        ("c!=d,a==b", "a=b,c!=d"),
        (",,a=b,", "a=b"),
        (r"a=b\,c\=d\\", r"a=b\,c\=d\\"),
        ("a=", "a="),
        ("=", "="),
        ("a!b=c", "a!b=c"),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap().to_string(), canonical, "{text:?}");
    }
    let escaped = FieldSelector::parse(r"a=b\,c\=d\\").unwrap();
    assert_eq!(escaped.requires_exact_match("a"), Some(r"b,c=d\"));
    for (text, message) in [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("x=y,a!b", "invalid selector: 'x=y,a!b'; can't understand 'a!b'"),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        (r"a=b\", r"invalid field selector: invalid escape sequence: \"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), message);
    }
    let lookup = |name: &str| match name {
        "phase" => Some("Running"),
        _ => None,
    };
    for (text, expected) in [("phase=Running", true), ("phase!=Running", false), ("node=", true), ("node!=", false)] {
        assert_eq!(FieldSelector::parse(text).unwrap().matches(lookup), expected, "{text}");
    }
    let renamed = escaped.transform(|_, value| Ok::<_, ()>(("z".to_owned(), value.to_owned()))).unwrap();
    assert_eq!(renamed.to_string(), r"z=b\,c\=d\\");
}

#[test]
fn mutated_text_never_panics() {
    let seeds = [
        "x in (foo,,baz),y,z notin ()",
        "example.com/a=b,!c,d!=e,n>3,m<-4",
        r"metadata.name=a\,b,status.phase!=Running,x==\\",
        "in in (in,notin),notin",
    ];
    let some = labels(&[("x", "foo"), ("n", "7")]);
    mutate(&seeds, 400, |text| {
        if let Ok(selector) = Selector::parse(text) {
            let canonical = selector.to_string();
            assert_eq!(Selector::parse(&canonical).unwrap().to_string(), canonical, "{text:?}");
            assert_eq!(Selector::parse(&canonical).unwrap().matches(&some), selector.matches(&some), "{text:?}");
        }
        if let Ok(selector) = FieldSelector::parse(text) {
            let canonical = selector.to_string();
            let again = FieldSelector::parse(&canonical).unwrap();
            // Terms are sorted as they are written, which escapes can change.
            assert_eq!(again.terms().len(), selector.terms().len(), "{text:?}");
            assert!(selector.terms().iter().all(|term| again.terms().contains(term)), "{text:?} {canonical:?}");
        }
    });
}
