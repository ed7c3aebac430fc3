use super::*;

/// Each case: text, and how the first message starts (empty: accepted).
fn check(rule: fn(&str) -> Vec<String>, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let found = rule(text);
        match expected {
            &"" => assert_eq!(found, Vec::<String>::new(), "{text:?}"),
            start => assert!(found.first().is_some_and(|error| error.starts_with(start)), "{text:?}: {found:?}"),
        }
    }
}

#[test]
fn dns_names() {
    const LABEL: &str = "a lowercase RFC 1123 label must consist";
    check(
        is_dns1123_label,
        &[
            ("a", ""),
            ("0", ""),
            ("a--1-2--b", ""),
            ("0123456789-abc", ""),
            ("", LABEL),
            ("A", LABEL),
            ("-a", LABEL),
            ("a-", LABEL),
            ("a_b", LABEL),
            ("a\n", LABEL),
            ("ä", LABEL),
            ("a.b", "must not contain dots"),
        ],
    );
    assert_eq!(is_dns1123_label(&"a".repeat(63)), Vec::<String>::new());
    assert_eq!(is_dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
    const SUB: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'";
    check(
        is_dns1123_subdomain,
        &[("a", ""), ("a.b-c.0", ""), ("a..b", SUB), (".a", SUB), ("a.", SUB), ("a.-b", SUB), ("", SUB), ("a b", SUB)],
    );
    check(is_dns1123_subdomain_with_underscore, &[("_a.b_c", ""), ("a__b", ""), ("__a", "a lower"), ("a_", "a lower")]);
    check(is_dns1035_label, &[("a-1", ""), ("a", ""), ("1a", "a DNS-1035 label"), ("a-", "a DNS-1035"), ("", "a DNS")]);
    check(
        is_wildcard_dns1123_subdomain,
        &[
            ("*.example.com", ""),
            ("*.a", ""),
            ("*", "a wildcard"),
            ("*.", "a wildcard"),
            ("*.*.b", "a wildcard"),
            ("f*.b", "a wildcard"),
            ("a.b", "a wildcard"),
        ],
    );
    assert_eq!(
        is_dns1123_label("A"),
        [
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        ]
    );
    assert_eq!(
        is_dns1123_subdomain("A"),
        [
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ]
    );
}

#[test]
fn label_keys_and_values() {
    let long = "x".repeat(64);
    let prefix = format!("{}/a", "x".repeat(254));
    check(
        is_qualified_name,
        &[
            ("simple", ""),
            ("now-with-dashes", ""),
            ("1-starts-with-num", ""),
            ("1.2.3.4/5678", ""),
            ("UppercaseIsOK123", ""),
            ("example.com/Upper_case.x", ""),
            ("", "name part must be non-empty"),
            ("/a", "prefix part must be non-empty"),
            ("a/", "name part must be non-empty"),
            ("nospecialchars%^=@", "name part must consist"),
            ("_no_underscores_first", "name part must consist"),
            ("only/one/slash", "a valid label key must consist"),
            ("Example.com/a", "prefix part a lowercase RFC 1123 subdomain"),
            (&long, "name part must be no more than 63 characters"),
            (&prefix, "prefix part must be no more than 253 characters"),
        ],
    );
    assert_eq!(is_qualified_name("").len(), 2);
    check(
        is_valid_label_value,
        &[
            ("", ""),
            ("a", ""),
            ("A-b_c.9", ""),
            ("-a", "a valid label must be an empty string"),
            ("a/b", "a valid label"),
        ],
    );
    assert_eq!(is_valid_label_value(&long), ["must be no more than 63 characters"]);
    check(is_prefixed_label_key, &[("a/b", ""), ("b", "must include a prefix"), ("/", "prefix part")]);
}

#[test]
fn other_names() {
    check(is_c_identifier, &[("a1_", ""), ("_", ""), ("1", "a valid C"), ("", "a valid C"), ("a-b", "a valid C")]);
    check(
        is_valid_port_name,
        &[
            ("telnet", ""),
            ("0-a-1", ""),
            ("longerthan15chars", "must be no more than 15 characters"),
            ("", "must contain only alpha-numeric"),
            ("12", "must contain at least one letter (a-z)"),
            ("a--b", "must not contain consecutive hyphens"),
            ("-a", "must not begin or end with a hyphen"),
            ("A", "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
        ],
    );
    check(
        is_valid_percent,
        &[("0%", ""), ("150%", ""), ("%", "a valid percent"), ("1", "a valid"), ("-1%", "a valid")],
    );
    check(
        is_http_header_name,
        &[("X-Requested-With", ""), ("a b", "a valid HTTP"), ("", "a valid"), ("a_b", "a valid")],
    );
    check(
        is_env_var_name,
        &[
            ("my.env-NAME_1", ""),
            (".a", ""),
            (".", "must not be '.'"),
            ("..", "must not be '..'"),
            ("..a", "must not start with '..'"),
            ("1a", "a valid environment variable name must consist of alphabetic"),
            ("", "a valid environment"),
            ("a=b", "a valid environment"),
        ],
    );
    check(
        is_relaxed_env_var_name,
        &[
            ("1 a!\"#", ""),
            ("..", ""),
            ("", "environment variable name must be non-empty"),
            ("a=b", "a valid environment variable name must consist only of printable ASCII"),
            ("a\t", "a valid"),
            ("ä", "a valid"),
        ],
    );
    check(
        is_config_map_key,
        &[
            ("a", ""),
            ("game.properties", ""),
            ("..a", "must not start"),
            ("a/b", "a valid config key"),
            ("", "a valid"),
        ],
    );
    check(
        is_valid_path_segment_name,
        &[("a:b", ""), ("", ""), (".", "may not be '.'"), ("..", "may not be '..'"), ("a/b", "may not contain '/'")],
    );
    assert_eq!(is_valid_path_segment_name("/%"), ["may not contain '/'", "may not contain '%'"]);
    assert_eq!(is_valid_port_num(0), ["must be between 1 and 65535, inclusive"]);
    assert!(is_valid_port_num(65535).is_empty());
    assert_eq!(is_valid_user_id(-1), ["must be between 0 and 4294967295, inclusive"]);
}

#[test]
fn generate_names_may_end_in_a_dash() {
    assert!(NameRule::DnsSubdomain.check("web-", true).is_empty());
    assert!(!NameRule::DnsSubdomain.check("web-", false).is_empty());
    assert!(!NameRule::DnsSubdomain.check("-", true).is_empty());
    assert!(!NameRule::DnsLabel.check("ä-", true).is_empty());
    assert!(NameRule::PathSegment.check("system:x", false).is_empty());
}

#[test]
fn domains() {
    let path = FieldPath::new("name");
    let text = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(is_fully_qualified_name(&path, "a.b.c").is_empty());
    assert_eq!(
        text(is_fully_qualified_name(&path, "a.b")),
        ["name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"]
    );
    assert_eq!(text(is_fully_qualified_name(&path, "")), ["name: Required value"]);
    assert!(is_fully_qualified_domain_name(&path, "a.b.").is_empty());
    assert_eq!(is_fully_qualified_domain_name(&path, "a").len(), 1);
    assert!(is_domain_prefixed_path(&path, "acme.io/foo/bar").is_empty());
    assert_eq!(
        text(is_domain_prefixed_path(&path, "acme.io")),
        ["name: Invalid value: \"acme.io\": must be a domain-prefixed path (such as \"acme.io/foo\")"]
    );
    assert_eq!(is_domain_prefixed_path(&path, "acme.io/f oo").len(), 1);
    assert!(is_domain_prefixed_key(&path, "acme.io/foo").is_empty());
    assert_eq!(is_domain_prefixed_key(&path, "foo").len(), 1);
}

#[test]
fn addresses() {
    for good in ["1.2.3.4", "01.002.3.4", "::", "::1", "1::", "2001:db8::ffff", "::ffff:1.2.3.4", "1:2:3:4:5:6:1.2.3.4"]
    {
        assert_eq!(is_valid_ip(good, false), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "",
        "1.2.3",
        "1.2.3.256",
        "1.2.3.4.5",
        "a",
        ":",
        ":::",
        "1::2::3",
        "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7:8::",
        "fe80::1%eth0",
        "1.2.3.4 ",
        "-1.2.3.4",
        "1:2:3:4:5:6:7:1.2.3.4",
        "12345::",
        "1:",
        "::1.2.3",
        "1.2.3.99999999999",
    ] {
        assert_eq!(is_valid_ip(bad, false), [NOT_AN_IP_TEXT], "{bad}");
    }
    assert_eq!(is_valid_ip("1.2.3.04", true), ["must not have leading 0s"]);
    assert_eq!(is_valid_ip("::ffff:1.2.3.4", true), ["must not be an IPv4-mapped IPv6 address"]);
    assert!(is_valid_ipv4_address("::ffff:1.2.3.4").is_empty());
    assert!(!is_valid_ipv6_address("::ffff:1.2.3.4").is_empty());
    assert!(is_valid_cidr("10.0.0.1/8", false).is_empty());
    assert_eq!(is_valid_cidr("10.0.0.1/8", true), ["must not have bits set beyond the prefix length"]);
    assert!(is_valid_cidr("0.0.0.0/0", true).is_empty());
    assert!(is_valid_cidr("::/0", true).is_empty());
    assert!(is_valid_cidr("1.2.3.4/32", true).is_empty());
    assert_eq!(is_valid_cidr("10.0.0.0/08", true), ["must not have leading 0s in IP or prefix length"]);
    for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/+8", "/8", "10.0.0.0/8x", "10.0.0.0/"] {
        assert_eq!(is_valid_cidr(bad, false).len(), 1, "{bad}");
    }
    assert!(is_valid_interface_address("192.168.1.5/24").is_empty());
    assert_eq!(
        is_valid_interface_address("::ffff:192.168.0.1/120"),
        ["must be in canonical form (\"192.168.0.1/24\")"]
    );
    assert_eq!(
        warnings_for_ip("1.2.3.04"),
        [
            "non-standard IP address \"1.2.3.04\" will be considered invalid in a future Kubernetes release: use \"1.2.3.4\""
        ]
    );
    assert_eq!(
        warnings_for_ip("2001:DB8::0"),
        ["IPv6 address \"2001:DB8::0\" should be in RFC 5952 canonical format (\"2001:db8::\")"]
    );
    assert_eq!(
        warnings_for_cidr("10.0.0.1/8"),
        ["CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)"]
    );
}
const NOT_AN_IP_TEXT: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Against the expressions that the messages show, compiled by an engine that is not ours.
#[test]
fn matchers_agree_with_the_expressions() {
    let expression = |text: &str| regex::Regex::new(&format!("^(?:{text})$")).expect("a valid expression");
    let label = expression(label_fmt!());
    let subdomain = expression(subdomain_fmt!());
    let underscore = expression(concat!(label_underscore_fmt!(), "(\\.", label_underscore_fmt!(), ")*"));
    let qualified = expression(qualified_name_fmt!());
    let dns1035 = expression("[a-z]([-a-z0-9]*[a-z0-9])?");
    let wildcard = expression(concat!("\\*\\.", subdomain_fmt!()));
    let variable = expression("[-._a-zA-Z][-._a-zA-Z0-9]*");
    let seeds =
        ["a-b.c", "example.com/Name_x.y", "*.a.b", "1.2.3.4/24", "2001:db8::ffff", "..a", "MY_VAR", "_a.b_c", "0"];
    crate::testing::mutate(&seeds, 400, |text| {
        let short = text.len() <= 63;
        assert_eq!(is_dns1123_label(text).is_empty(), label.is_match(text) && short, "{text:?}");
        assert_eq!(is_dns1035_label(text).is_empty(), dns1035.is_match(text) && short, "{text:?}");
        if text.len() <= 253 {
            assert_eq!(is_dns1123_subdomain(text).is_empty(), subdomain.is_match(text), "{text:?}");
            assert_eq!(is_dns1123_subdomain_with_underscore(text).is_empty(), underscore.is_match(text), "{text:?}");
            assert_eq!(is_wildcard_dns1123_subdomain(text).is_empty(), wildcard.is_match(text), "{text:?}");
        }
        let plain = variable.is_match(text) && chdir_prefix(text).is_none();
        assert_eq!(is_env_var_name(text).is_empty(), plain, "{text:?}");
        let value = text.is_empty() || qualified.is_match(text);
        assert_eq!(is_valid_label_value(text).is_empty(), value && short, "{text:?}");
        // What the strict readers accept, the sloppy ones do as well, and mean the same.
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            assert_eq!(parse_ip_sloppy(text), Some(address), "{text:?}");
        }
        drop((
            is_qualified_name(text),
            warnings_for_ip(text),
            warnings_for_cidr(text),
            is_valid_interface_address(text),
        ));
        drop((is_valid_cidr(text, true), is_valid_port_name(text), is_config_map_key(text), is_c_identifier(text)));
        drop((is_fully_qualified_name(&FieldPath::ROOT, text), is_domain_prefixed_path(&FieldPath::ROOT, text)));
        drop((NameRule::DnsSubdomain.check(text, true), NameRule::PathSegment.check(text, true)));
    });
}
