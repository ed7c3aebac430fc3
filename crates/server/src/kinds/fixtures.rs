//! Runs the cases in `testdata/validation/*.txt`: manifests in, mistakes out.
//!
//! ```text
//! # why
//! > ingresses.networking.k8s.io        the kind; `@status` behind it names a view
//! {"spec":{}}                          a new object, as JSON on one or more lines
//! ~ {"spec":{"x":1}}                   or: what an update of it changes, as a merge patch
//! < spec: Invalid value: ...           every mistake, in order; none: it is accepted
//! ! spec.x: deprecated ...             every warning of what is accepted
//! ```
//!
//! `SKIFF_BLESS=1 cargo test -p skiff-server manifests_and_their_mistakes` writes what was found into the files, to be
//! read in review.

use super::builtin::resources;
use super::{Resource, Strategy, SubresourceBehaviour};
use crate::request::{RequestContext, RequestInfo};
use skiff_machinery::Value;
use skiff_machinery::codec::json;
use std::path::Path;
use std::sync::Arc;

struct Case<'t> {
    line: usize,
    kind: &'t str,
    object: String,
    patch: Option<String>,
    answers: Vec<&'t str>,
}

fn cases(text: &str) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(kind) = line.strip_prefix("> ") {
            let (object, patch, answers) = (String::new(), None, Vec::new());
            cases.push(Case { line: index + 1, kind, object, patch, answers });
            continue;
        }
        let case = cases.last_mut().expect("a case begins with its kind");
        if line.starts_with("< ") || line.starts_with("! ") {
            case.answers.push(line);
        } else if let Some(patch) = line.strip_prefix("~ ") {
            case.patch = Some(patch.to_owned());
        } else if let Some(patch) = &mut case.patch {
            patch.push_str(line);
        } else {
            case.object.push_str(line);
        }
    }
    cases
}

fn context(resource: &Resource) -> RequestContext {
    let info = RequestInfo { group: resource.name.group.clone(), ..RequestInfo::default() };
    RequestContext { info: Arc::new(info), ..super::tests::context() }
}

fn merge(target: &mut Value, patch: &Value) {
    let (Some(_), Some(changes)) = (target.as_object(), patch.as_object()) else {
        *target = patch.clone();
        return;
    };
    let map = target.as_object_mut().unwrap();
    for (key, value) in changes.iter() {
        if value.is_null() {
            map.remove(key);
        } else {
            let mut inner = map.get(key).cloned().unwrap_or_else(|| Value::Object(skiff_machinery::Map::new()));
            merge(&mut inner, value);
            map.insert(key.clone(), inner);
        }
    }
}

/// Mistakes, or warnings when there are none, as lines of the file.
fn answers(case: &Case<'_>) -> Vec<String> {
    let (kind, view) = case.kind.split_once('@').unwrap_or((case.kind, ""));
    let kind = kind.trim();
    let resource = resources()
        .into_iter()
        .find(|entry| entry.name.to_string() == kind)
        .unwrap_or_else(|| panic!("line {}: no kind {kind}", case.line));
    let context = context(&resource);
    let read = |text: &str| json::from_str(text).unwrap_or_else(|error| panic!("line {}: {error}", case.line));
    let mut object = read(&case.object);
    merge(&mut object, &read(r#"{"metadata":{"uid":"u"}}"#));
    if object.str_at(&["metadata", "name"]).is_empty() {
        merge(&mut object, &read(r#"{"metadata":{"name":"x"}}"#));
    }
    let main = &*resource.strategy;
    main.default(&resource.storage, &mut object);
    main.prepare_for_create(&context, &mut object);
    let Some(patch) = &case.patch else {
        let prefix = main.validate_name(object.str_at(&["metadata", "name"]), false);
        let named = prefix.into_iter().map(|mistake| format!("metadata.name: {mistake}"));
        let mistakes = named.chain(main.validate(&context, &object).iter().map(ToString::to_string)).collect();
        return lines(mistakes, || main.warnings(&context, &object, None));
    };
    let strategy: &dyn Strategy = match view.trim() {
        "" => main,
        name => match resource.subresources.iter().find(|sub| sub.name == name).map(|sub| &sub.behaviour) {
            Some(SubresourceBehaviour::View(view)) => &**view,
            _ => panic!("line {}: {kind} has no view {name}", case.line),
        },
    };
    let old = object.clone();
    merge(&mut object, &read(patch));
    main.default(&resource.storage, &mut object);
    strategy.prepare_for_update(&context, &mut object, &old);
    let mistakes = strategy.validate_update(&context, &object, &old).iter().map(ToString::to_string).collect();
    lines(mistakes, || strategy.warnings(&context, &object, Some(&old)))
}

fn lines(mistakes: Vec<String>, warnings: impl FnOnce() -> Vec<String>) -> Vec<String> {
    match mistakes.is_empty() {
        true => warnings().into_iter().map(|text| format!("! {}", one_line(&text))).collect(),
        false => mistakes.into_iter().map(|text| format!("< {}", one_line(&text))).collect(),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

/// The file with what is found now.
fn blessed(text: &str, cases: &[Case<'_>]) -> String {
    let mut out = String::new();
    let mut of = None;
    let flush = |of: &mut Option<usize>, out: &mut String| {
        let Some(line) = of.take() else { return };
        let case = cases.iter().find(|case| case.line == line).unwrap();
        for answer in answers(case) {
            out.push_str(&format!("{answer}\n"));
        }
    };
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("< ") || line.starts_with("! ") {
            continue;
        }
        if line.is_empty() {
            flush(&mut of, &mut out);
        }
        if line.starts_with("> ") {
            of = Some(index + 1);
        }
        out.push_str(line);
        out.push('\n');
    }
    flush(&mut of, &mut out);
    out
}

#[test]
fn manifests_and_their_mistakes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/validation");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut wrong = String::new();
    let mut count = 0;
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let cases = cases(&text);
        if std::env::var_os("SKIFF_BLESS").is_some() {
            std::fs::write(file, blessed(&text, &cases)).unwrap();
            continue;
        }
        for case in cases {
            count += 1;
            let found = answers(&case);
            if found != case.answers {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                wrong.push_str(&format!("\n{name}:{} {}\n", case.line, case.kind));
                for line in found {
                    wrong.push_str(&format!("{line}\n"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "found instead:\n{wrong}");
    assert!(count > 60 || std::env::var_os("SKIFF_BLESS").is_some(), "{count} cases");
}
