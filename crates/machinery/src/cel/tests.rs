use super::*;
use crate::codec::json;
use crate::object;

const BUDGET: u64 = 1_000_000;

/// The result as JSON, or the first line of what is wrong.
fn run(source: &str) -> String {
    let object = object! {
        "name": "web", "replicas": 3, "ratio": 1.5, "on": true, "empty": crate::Map::new(),
        "labels": object! { "a": "1", "b": "2" },
        "ports": crate::list![object! { "name": "http", "port": 80 }, object! { "name": "dns", "port": 53 }],
    };
    let variables = [Variable { name: "self", shape: None, optional: false }];
    let program = match Program::compile(source, &variables, Wanted::Any) {
        Ok(program) => program,
        Err(error) => return error.to_string().lines().next().unwrap().to_owned(),
    };
    let bindings = [Binding { name: "self", value: Some(&object), shape: None, optional: false }];
    match program.evaluate(&bindings, &mut BUDGET.clone()) {
        Ok(Output::Bool(flag)) => flag.to_string(),
        Ok(Output::String(text)) => crate::error::quote(&text),
        Ok(Output::Other(value)) => json::to_string(&value),
        Err(error) => error.to_string(),
    }
}

/// A line: an expression, `=>`, what it gives.
fn table(lines: &str) {
    let mut wrong = Vec::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (source, wanted) = line.split_once(" => ").unwrap();
        let found = run(source.trim());
        if found != wanted.trim() {
            wrong.push(format!("{source} gives {found}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_language() {
    table(
        r#"
        1 + 2 * 3 => 7
        (1 + 2) * 3 => 9
        -7 / 2 => -3
        -7 % 2 => -1
        cel.bind(x, 2 + 1, x * x) => 9
        [1, 2].map(x, cel.bind(y, x * 2, y + x)) => [3,6]
        7u / 2u => 3
        1.5 + 1.0 => 2.5
        0x10 + 1 => 17
        --3 => 3
        -(-3) => 3
        -9223372036854775808 => -9223372036854775808
        9223372036854775807 + 1 => integer overflow
        1 / 0 => division by zero
        "a" + 'b' + r'\n' + """c"d""" => "ab\\nc\"d"
        "\x41\u00e9\101\t" => "AéA\t"
        b"ab" == bytes("ab") => true
        1 < 2 && 2.5 > 2 && 1u <= 1 => true
        !true || !!true => true
        true ? 'y' : 'n' => "y"
        1 in [1, 2] && !(3 in [1, 2]) && 'a' in {'a': 1} => true
        [1, 2] + [3] => [1,2,3]
        {'a': 1, 'b': [true, null]} => {"a":1,"b":[true,null]}
        {'a': 1}['a'] + {'a': 1}.a => 2
        [1, 2][1] => 2
        [1, 2][5] => index out of bounds: 5
        {'a': 1}['b'] => no such key: b
        {1: 'x', true: 'y'}[true] => "y"
        type(1) == int && type('a') == string && type([]) == list => true
        type(duration('1s')) == google.protobuf.Duration => true
        null == null => true
        [1, 2] == [1, 2] && {'a': 1} == {'a': 1} && [1] != [2] => true
        dyn(1) == dyn(1.0) && dyn(1) == dyn(1u) => true
        dyn('a') == dyn(1) => false
        dyn('a') < dyn(1) => no such overload
        dyn('a') + dyn(1) => no such overload
        self.missing == 1 || true => true
        true || self.missing == 1 => true
        false && self.missing == 1 => false
        self.missing == 1 || false => no such key: missing
        // a comment => ERROR: <input>:1:13: Syntax error: unexpected <EOF>
        "#,
    );
}

#[test]
fn fields_and_macros() {
    table(
        r#"
        self.name => "web"
        self.replicas + 1 => 4
        self.ratio => 1.5
        has(self.name) && !has(self.nothing) => true
        has(self.labels.a) && !has(self.labels.z) => true
        self.ports.all(p, p.port > 0) => true
        self.ports.exists(p, p.name == 'dns') => true
        self.ports.exists_one(p, p.port > 60) => true
        self.ports.map(p, p.port) => [80,53]
        self.ports.map(p, p.port > 60, p.name) => ["http"]
        self.ports.filter(p, p.port < 60).size() => 1
        self.labels.all(k, k in ['a', 'b']) => true
        self.labels.map(k, self.labels[k]) => ["1","2"]
        self.labels.exists(k, v, k == 'b' && v == '2') => true
        [1, 2, 3].transformList(i, v, i > 0, v * 10) => [20,30]
        {'x': 1}.transformMap(k, v, v + 1) => {"x":2}
        [1, 2, 3].all(i, v, i < v) => true
        [0, 1].exists(x, 1 / x == 1) => true
        [0, 2].exists(x, 1 / x == 1) => division by zero
        [0, 1].all(x, 1 / x > 5) => false
        [1, 2].map(x, [3].map(y, x * y)) => [[3],[6]]
        self.?name => "web"
        self.?missing.?deeper.orValue('none') => "none"
        self[?'name'].hasValue() => true
        [1][?3].orValue(7) => 7
        optional.of(1).optMap(x, x + 1).value() => 2
        optional.none().optMap(x, 1).hasValue() => false
        optional.of(2).optFlatMap(x, optional.of(x * 2)).orValue(0) => 4
        optional.none().value() => optional.none() dereference
        optional.ofNonZeroValue('').or(optional.of('x')).value() => "x"
        [?optional.of(1), ?optional.none(), 3] => [1,3]
        {?'a': optional.none(), 'b': 2} => {"b":2}
        "#,
    );
}

#[test]
fn what_does_not_compile() {
    table(
        r#"
        1 + 'a' => ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'
        1 == 'a' => ERROR: <input>:1:3: found no matching overload for '_==_' applied to '(int, string)'
        other.x => ERROR: <input>:1:1: undeclared reference to 'other' (in container '')
        nothing(1) => ERROR: <input>:1:1: undeclared reference to 'nothing' (in container '')
        'a'.size(1) => ERROR: <input>:1:4: found no matching overload for 'size' applied to 'string.(int)'
        (1).all(x, true) => ERROR: <input>:1:2: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)
        [1].all(x, 'a') => ERROR: <input>:1:12: expected type 'bool' but found 'string'
        [1].all(x.y, true) => ERROR: <input>:1:10: argument must be a simple name
        has(self) => ERROR: <input>:1:1: invalid argument to has() macro
        'a' && true => ERROR: <input>:1:1: found no matching overload for '_&&_' applied to '(string, bool)'
        true ? 1 : 'a' => ERROR: <input>:1:1: found no matching overload for '_?_:_' applied to '(bool, int, string)'
        'a'.b => ERROR: <input>:1:4: type 'string' does not support field selection
        1 +  => ERROR: <input>:1:4: Syntax error: unexpected <EOF>
        'a => ERROR: <input>:1:1: Syntax error: a string is not closed
        if => ERROR: <input>:1:1: Syntax error: reserved identifier: if
        self.a[ => ERROR: <input>:1:8: Syntax error: unexpected <EOF>
        Pod{name: 'x'} => ERROR: <input>:1:1: undeclared reference to 'Pod' (in container '')
        a # b => ERROR: <input>:1:3: Syntax error: token recognition error at: '#'
        {[1]: 2} => ERROR: <input>:1:2: unsupported key type: list(int)
        "#,
    );
    let deep = "(".repeat(300) + "1" + &")".repeat(300);
    assert!(run(&deep).contains("deeper than 40 levels"));
    let long = "1".to_owned() + &" + 1".repeat(2000);
    assert!(run(&long).contains("more than 120 levels"));
    let chain = "true".to_owned() + &" && true".repeat(2000);
    assert_eq!(run(&chain), "true", "chains of one operator are no deep trees");
    let negated = "!".repeat(5001) + "true";
    assert_eq!(run(&negated), "false");
}

/// What is just deep enough fits half of a worker's stack, in a debug build too.
#[test]
fn the_deepest_expressions_fit_the_stack() {
    let work = || {
        let deep = "(".repeat(39) + "1" + &")".repeat(39);
        assert_eq!(run(&deep), "1");
        let nested = "[1].map(x, ".repeat(38) + "x" + &")".repeat(38);
        assert!(run(&nested).starts_with("[[[["), "{}", run(&nested));
        let chain = "1".to_owned() + &" + 1".repeat(118);
        assert_eq!(run(&chain), "119");
        let members = "self".to_owned() + &".?x".repeat(118);
        assert_eq!(run(&format!("{members}.hasValue()")), "false");
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn strings_and_lists() {
    table(
        r#"
        'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c') => true
        'abc'.matches('^a.c$') && matches('abc', 'b') => true
        'abc'.matches('(') => error parsing regexp: unclosed group: `(`
        size('héé') => 3
        'tacocat'.charAt(3) => "o"
        'tacocat'.indexOf('c') => 2
        'tacocat'.indexOf('c', 3) => 4
        'tacocat'.indexOf('x') => -1
        'tacocat'.indexOf('a', 9) => index out of range: 9
        'tacocat'.lastIndexOf('a') => 5
        'tacocat'.lastIndexOf('a', 4) => 1
        'TaCo'.lowerAscii() + 'TaCo'.upperAscii() => "tacoTACO"
        'hello hello'.replace('he', 'we', 1) => "wello hello"
        'a,b,c'.split(',') => ["a","b","c"]
        'a,b,c'.split(',', 2) => ["a","b,c"]
        'tacocat'.substring(4) => "cat"
        'tacocat'.substring(0, 4) => "taco"
        'tacocat'.substring(5, 2) => invalid substring range. start: 5, end: 2
        '  x '.trim() => "x"
        ['a', 'b'].join('-') => "a-b"
        "%s is %d, %.2f%% of %s, %x %b".format(['a', 3, 1.5, ['x', 1], 255, 5]) => "a is 3, 1.50% of [x, 1], ff 101"
        '%d'.format(['a']) => error during formatting: %d cannot be used for string
        strings.quote('a"b') => "\"a\\\"b\""
        'abc 123'.find('[0-9]+') => "123"
        '1 2 3'.findAll('[0-9]', 2) => ["1","2"]
        [1, 2, 3].isSorted() && ![2, 1].isSorted() => true
        [1, 2, 3].sum() + [1, 5].max() + [4, 2].min() => 13
        [].max() => max called on empty list
        ['a', 'b', 'a'].indexOf('a') + ['a', 'b', 'a'].lastIndexOf('a') => 2
        sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 2]) => true
        int('5') + int(2.9) + int(3u) => 10
        int('x') => strconv.ParseInt: parsing "x": invalid syntax
        uint(-1) => unsigned integer overflow
        double('1.5') + double(1) => 2.5
        string(1) + string(true) + string(2.5) => "1true2.5"
        bool('true') => true
        "#,
    );
}

#[test]
fn times_and_kubernetes_types() {
    table(
        r#"
        duration('90m').getHours() => 1
        duration('1h') > duration('59m') && duration('1h') - duration('30m') == duration('1800s') => true
        duration('1x') => invalid duration: "1x"
        string(duration('1.5s')) => "1.5s"
        timestamp('2024-02-29T12:30:00Z').getFullYear() => 2024
        timestamp('2024-02-29T12:30:00Z').getDayOfYear() => 59
        timestamp('2024-02-29T23:30:00Z').getHours('+02:00') => 1
        timestamp('2024-02-29T12:30:00Z') + duration('1h') == timestamp('2024-02-29T13:30:00Z') => true
        timestamp('x') => invalid timestamp: "x"
        quantity('1Gi').isGreaterThan(quantity('1000Mi')) => true
        quantity('500m').add(quantity('1500m')).asInteger() => 2
        quantity('50k').sub(1000).compareTo(quantity('49k')) => 0
        isQuantity('1.3Gi') && !isQuantity('x') => true
        quantity('1.5').isInteger() => false
        isIP('10.0.0.1') && isIP('::1') && !isIP('10.0.0.256') && !isIP('::ffff:1.2.3.4') => true
        ip('10.0.0.1').family() + ip('::1').family() => 10
        ip('127.0.0.1').isLoopback() && ip('224.0.0.1').isLinkLocalMulticast() && ip('8.8.8.8').isGlobalUnicast() => true
        ip.isCanonical('::1') && !ip.isCanonical('0::1') => true
        cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP('11.0.0.1') => true
        cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') => true
        cidr('10.1.2.3/8').prefixLength() => 8
        isCIDR('10.0.0.0/33') => false
        url('https://user@example.com:80/a/b?x=1&x=2&y=%20').getHost() => "example.com:80"
        url('https://example.com:80/a').getHostname() + url('https://[::1]:81/').getHostname() => "example.com::1"
        url('https://[::1]:81/').getPort() => "81"
        url('https://example.com/a?x=1&x=2&y=%20').getQuery() => {"x":["1","2"],"y":[" "]}
        isURL('/just/a/path') && isURL('ftp://x') && !isURL('not a url') && !isURL('') => true
        semver('1.2.3').major() + semver('1.2.3').patch() => 4
        semver('1.0.0-alpha.2').isLessThan(semver('1.0.0-alpha.10')) && semver('1.0.0').isGreaterThan(semver('1.0.0-rc')) => true
        isSemver('v1.0') || !isSemver('v1.0', true) => false
        format.dns1123Label().validate('Not OK').hasValue() => true
        format.dns1123Label().validate('ok').hasValue() => false
        format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000').hasValue() => false
        format.named('nothing').hasValue() => false
        "#,
    );
}

#[test]
fn dear_expressions_are_stopped() {
    let nested = "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, \
        [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, a+b+c+d+e+f > 0))))))";
    let limit = "operation cancelled: actual cost limit exceeded";
    assert_eq!(run(nested), limit);
    // Nor does a decided side of `||` hide it.
    assert_eq!(run(&format!("{nested} || true")), limit);
    let text = "'x'".to_owned() + &".replace('x', 'xxxxxxxxxx')".repeat(8);
    assert!(run(&text).contains("too long") || run(&text) == limit, "{}", run(&text).len());
    let program = Program::compile("1 + 2", &[], Wanted::Any).unwrap();
    let mut budget = 10;
    program.evaluate(&[], &mut budget).unwrap();
    assert!(budget < 10 && budget > 0, "{budget}");
}

#[test]
fn what_it_gives_is_asked_for() {
    let compile = |source, wanted| Program::compile(source, &[], wanted).err().map(|error| error.to_string());
    assert_eq!(compile("1 == 1", Wanted::Bool), None);
    assert_eq!(compile("1 + 1", Wanted::Bool).unwrap(), "ERROR: <input>:1:3: must evaluate to bool\n | 1 + 1\n | ..^");
    assert!(compile("'a'", Wanted::String).is_none() && compile("1", Wanted::String).is_some());
    let program = Program::compile(
        "a == 1 || b.all(x, x == a)",
        &[Variable { name: "a", shape: None, optional: false }, Variable { name: "b", shape: None, optional: false }],
        Wanted::Bool,
    )
    .unwrap();
    assert!(program.uses("a") && program.uses("b") && !program.uses("c"));
}

#[test]
fn mutated_sources_never_panic() {
    let seeds = [
        "self.ports.all(p, p.port > 0 && has(p.name)) ? 'a'.format([1, 2.5]) : [?optional.of(1)][0]",
        "quantity('1Gi').add(2).compareTo(quantity('1')) == -9223372036854775808 || !cidr('10.0.0.0/8').containsIP('::1')",
        "\"\\u00e9\\x41\".matches('^[a-z]+$') && url('https://a:1/b?c').getQuery()['c'] == ['%s'.format(['x'])]",
        "timestamp('2024-01-01T00:00:00Z') - duration('1h') < self.x && semver('1.2.3-a+b').major() in {1: 2}",
    ];
    crate::testing::mutate(&seeds, 2000, |source| {
        run(source);
    });
}

/// Allows `get` by whom it is told to.
struct OnlyGet;
impl super::Access for OnlyGet {
    fn decide(&self, question: &super::AccessQuestion) -> super::AccessAnswer {
        let who = question.service_account.as_ref().map_or("me".to_owned(), |(space, name)| format!("{space}/{name}"));
        let what = format!("{who} {} {}{}/{}", question.verb, question.path, question.group, question.resource);
        super::AccessAnswer { allowed: question.verb == "get", reason: what, error: None }
    }
    fn request_resource(&self) -> super::AccessQuestion {
        super::AccessQuestion { resource: "pods".to_owned(), ..Default::default() }
    }
}

#[test]
fn variables_are_found_when_they_are_asked_for() {
    use super::{Activation, Environment, Found, Output, Program, Variable, Wanted};
    let object = json::from_str(r#"{"a":[1,2,3]}"#).unwrap();
    let variables = [Variable { name: "object", shape: None, optional: false }];
    let mut known: Vec<(String, Found<'_>)> = Vec::new();
    let mut programs = Vec::new();
    for (name, source) in [
        ("sum", "object.a.map(x, x * 2).sum()"),
        ("more", "variables.sum + 1"),
        ("broken", "object.b"),
        ("text", "'a'"),
    ] {
        let environment = Environment { variables: &variables, composed: Some(&known), ..Default::default() };
        let (program, found) = Program::compile_in(source, &environment, Wanted::Any).unwrap();
        known.push((name.to_owned(), found));
        programs.push((name.to_owned(), program));
    }
    let environment = Environment { variables: &variables, composed: Some(&known), authorizer: true, makes: true };
    let compile = |source: &str, wanted| Program::compile_in(source, &environment, wanted).map(|(program, _)| program);
    for (source, wrong) in [
        ("variables.nothing == 1", "undefined field 'nothing'"),
        ("variables.text + 1 == 2", "no matching overload for '_+_' applied to '(string, int)'"),
        ("variables.text", "must evaluate to bool"),
        ("authorizer.path('/x').allowed()", "no matching overload for 'allowed' applied to 'pathcheck.()'"),
        (
            "Object{spec: Object.status{}} == Object{}",
            "unexpected type name \"Object.status\", expected \"Object.spec\"",
        ),
        ("JSONPatch{op: 1} == JSONPatch{}", "expected type of field 'op' is 'string' but provided type is 'int'"),
        ("Pod{} == Pod{}", "undeclared reference to 'Pod'"),
    ] {
        let error = compile(source, Wanted::Bool).unwrap_err().to_string();
        assert!(error.contains(wrong), "{source}: {error}");
    }
    let bindings = [super::Binding { name: "object", value: Some(&object), shape: None, optional: false }];
    for (source, expected) in [
        ("variables.more == 13 && variables.sum == 12", Ok("true")),
        ("false && variables.broken == 1", Ok("false")),
        ("variables.broken == 1", Err("no such key: b")),
        ("has(variables.broken)", Ok("true")),
        ("[1].exists(object, variables.sum == 12)", Ok("true")),
        ("authorizer.group('apps').resource('deployments').check('get').allowed()", Ok("true")),
        ("authorizer.requestResource.check('create').reason()", Ok("\"me create /pods\"")),
        ("authorizer.serviceAccount('a', 'b').path('/x').check('get').reason()", Ok("\"a/b get /x/\"")),
        (
            "Object{spec: Object.spec{replicas: variables.sum, ?off: optional.none()}}",
            Ok("{\"spec\":{\"replicas\":12}}"),
        ),
        (
            "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b~c'), value: Object.x{y: [1]}}]",
            Ok("[{\"op\":\"add\",\"path\":\"/metadata/labels/a~1b~0c\",\"value\":{\"y\":[1]}}]"),
        ),
    ] {
        let program = compile(source, Wanted::Any).unwrap();
        let mut activation = Activation::new(&bindings).unwrap().composing(&programs).asking(&OnlyGet);
        let mut budget = 1_000_000;
        let found = activation.evaluate(&program, &mut budget).map(|output| match output {
            Output::Bool(flag) => flag.to_string(),
            Output::String(text) => format!("{text:?}"),
            Output::Other(value) => json::to_string(&value),
        });
        let found = found.map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{source}");
    }
}
