//! What bad input gets, over real HTTP: the cases in `testdata/bad_input.txt`, in their order against one server.
//!
//! ```text
//! > POST /api/v1/namespaces        a request; `$ns` is /api/v1/namespaces/default
//! T token                          who asks; without it `root`
//! H name: value                    a header
//! B {"a":1}                        the body, on one line; \n and \xNN mean bytes
//! G 3145729 x                      or: so many times this
//! < 400 BadRequest: message        what comes back
//! < cause REASON FIELD: message
//! < warning text
//! ```
//!
//! `SKIFF_BLESS=1` writes what comes back into the file, to be read in review.

use crate::api::Answer;
use crate::whole::Whole;
use skiff_machinery::Value;
use std::path::Path;

#[derive(Default)]
struct Case {
    line: usize,
    method: String,
    path: String,
    token: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    expected: Vec<String>,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
        if mark == ">" {
            let (method, path) = rest.split_once(' ').unwrap();
            let path = path.replace("$ns", "/api/v1/namespaces/default");
            cases.push(Case { line: index + 1, method: method.to_owned(), path, ..Case::default() });
            continue;
        }
        let case = cases.last_mut().expect("a case begins with its request");
        match mark {
            "T" => case.token = Some(rest.to_owned()),
            "H" => {
                let (name, value) = rest.split_once(": ").unwrap();
                case.headers.push((name.to_owned(), value.to_owned()));
            }
            "B" => case.body = unescaped(rest),
            "G" => {
                let (count, what) = rest.split_once(' ').unwrap();
                case.body = unescaped(what).repeat(count.parse().unwrap());
            }
            "<" => case.expected.push(rest.to_owned()),
            other => panic!("line {}: {other:?} means nothing", index + 1),
        }
    }
    cases
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => out.push(b'\n'),
                Some(b'x') => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                }
                Some(other) => out.extend([b'\\', other]),
                None => out.push(b'\\'),
            },
            byte => out.push(byte),
        }
    }
    out
}

async fn send(whole: &Whole, case: &Case) -> Answer {
    let mut ask = whole.ask(&case.method, &case.path);
    if case.token.as_deref() != Some("") {
        ask = ask.token(case.token.as_deref().unwrap_or("root"));
    }
    if !case.body.is_empty() {
        ask = ask.body("", case.body.clone());
    }
    for (name, value) in &case.headers {
        ask = ask.header(name, value);
    }
    whole.send(ask).await
}

/// What came back, in the words of the file.
fn told(answer: &Answer) -> Vec<String> {
    let status = answer.status;
    let mut lines = Vec::new();
    let kind = answer.headers.get("content-type").map(|kind| kind.to_str().unwrap()).unwrap_or_default();
    if kind.starts_with("application/json") && status >= 300 {
        let body = answer.json();
        assert_eq!(body.str_at(&["kind"]), "Status");
        assert_eq!(body.get("code").and_then(Value::as_int), Some(i64::from(status)));
        assert_eq!(body.str_at(&["status"]), "Failure");
        lines.push(format!("{status} {}: {}", body.str_at(&["reason"]), body.str_at(&["message"])));
        for cause in body.items_at(&["details", "causes"]) {
            let at = |field: &str| cause.str_at(&[field]).to_owned();
            lines.push(format!("cause {} {}: {}", at("reason"), at("field"), at("message")));
        }
    } else if status >= 300 {
        lines.push(format!("{status} {kind}: {}", answer.text().trim_end()));
    } else {
        lines.push(status.to_string());
    }
    for warning in answer.warnings() {
        lines.push(format!("warning {}", warning.strip_prefix("299 - ").unwrap_or(&warning)));
    }
    lines.iter().map(|line| settled(&line.replace('\n', "\\n"))).collect()
}

/// Without what differs from run to run: times, uids, revisions and generated names.
fn settled(line: &str) -> String {
    let mut out = line.to_owned();
    for (expression, replacement) in [
        (r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        (r#"\\"resourceVersion\\":\\"\d+\\""#, r#"\"resourceVersion\":\"RV\""#),
        (r"(object meta|current): \d+", "$1: RV"),
        (r"B_[a-z0-9]{5}", "B_GENERATED"),
    ] {
        out = regex::Regex::new(expression).unwrap().replace_all(&out, replacement).into_owned();
    }
    out
}

#[tokio::test]
async fn bad_input_gets_upstreams_answers() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bad_input.txt");
    let text = std::fs::read_to_string(&file).unwrap();
    let whole = Whole::start().await;
    let mut wrong = String::new();
    let mut found = Vec::new();
    for case in cases(&text) {
        let answer = told(&send(&whole, &case).await);
        if answer != case.expected {
            wrong.push_str(&format!("\nline {}: {} {}\n", case.line, case.method, case.path));
            answer.iter().for_each(|line| wrong.push_str(&format!("< {line}\n")));
        }
        found.push((case.line, answer));
    }
    if std::env::var_os("SKIFF_BLESS").is_some() {
        std::fs::write(&file, blessed(&text, &found)).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "came back instead:\n{wrong}");
    assert!(found.len() > 50, "{} cases", found.len());
    // After all of this it serves.
    whole.get("/readyz").await.expect(200);
}

fn blessed(text: &str, found: &[(usize, Vec<String>)]) -> String {
    let mut out = String::new();
    let mut pending: &[String] = &[];
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("< ") {
            continue;
        }
        if line.is_empty() {
            pending.iter().for_each(|line| out.push_str(&format!("< {line}\n")));
            pending = &[];
        }
        if let Some((_, answer)) = found.iter().find(|(of, _)| *of == index + 1) {
            pending = answer;
        }
        out.push_str(line);
        out.push('\n');
    }
    pending.iter().for_each(|line| out.push_str(&format!("< {line}\n")));
    out
}
