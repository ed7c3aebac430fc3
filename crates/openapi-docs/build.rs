//! Takes the descriptions of Kubernetes' types out of the sources of the `k8s-openapi` crate (Apache-2.0), which the
//! workspace depends on anyway, and writes them as one compressed block.
//!
//! Only text is read, nothing of that crate is compiled here: its generated `json_schema` functions have one shape, and
//! less than what they are known to hold is an error rather than a build without descriptions. `cargo metadata` says
//! where the sources are, so vendored and replaced registries work.
//!
//! The block: for each type, sorted, a line with its name and then `field <tab> text` lines sorted by field; the type's
//! own text has the empty name. Line feeds in texts are `\n`, backslashes doubled.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of Kubernetes whose sources are read.
const VERSION: &str = "v1_36";
/// What the sources hold at least.
const LEAST_TYPES: usize = 650;
const LEAST_TEXTS: usize = 3300;

type Texts = BTreeMap<String, BTreeMap<String, String>>;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("docs.zz");
    let sources = sources();
    println!("cargo::rerun-if-changed={}", sources.display());
    let mut texts = Texts::new();
    read_folder(&sources.join("src").join(VERSION), &mut texts);
    let count: usize = texts.values().map(BTreeMap::len).sum();
    assert!(
        texts.len() >= LEAST_TYPES && count >= LEAST_TEXTS,
        "only {} types and {count} descriptions found in {}: the generated code has another shape than this reads",
        texts.len(),
        sources.display()
    );
    let mut block = String::new();
    for (name, fields) in &texts {
        writeln!(block, "{name}").expect("a string");
        for (field, text) in fields {
            let text = text.replace('\\', "\\\\").replace('\n', "\\n");
            writeln!(block, "{field}\t{text}").expect("a string");
        }
    }
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(block.as_bytes()).expect("in memory");
    std::fs::write(out, encoder.finish().expect("in memory")).expect("OUT_DIR can be written");
}

/// Where the sources of `k8s-openapi` are.
fn sources() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let manifest = Path::new(&here).join("../../Cargo.toml");
    println!("cargo::rerun-if-changed={}", manifest.with_file_name("Cargo.lock").display());
    let target = std::env::var("TARGET").expect("cargo sets it");
    let cargo = std::env::var_os("CARGO").expect("cargo sets it");
    let mut said = String::new();
    // What is here already is enough as a rule; a first build of a part of the workspace may have to fetch the rest.
    for network in [&["--offline"][..], &[]] {
        let mut command = Command::new(&cargo);
        command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &target]).args(network);
        command.arg("--manifest-path").arg(&manifest);
        let output = command.output().expect("cargo can be run");
        if output.status.success() {
            let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
            let packages = metadata["packages"].as_array().expect("a list of packages");
            let package = packages.iter().find(|package| package["name"] == "k8s-openapi");
            let path = package.and_then(|package| package["manifest_path"].as_str()).expect("it is a dependency");
            return Path::new(path).parent().expect("a manifest stands in a folder").to_owned();
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    panic!("cargo metadata cannot say where k8s-openapi is: {said}");
}

fn read_folder(folder: &Path, texts: &mut Texts) {
    for entry in std::fs::read_dir(folder).expect("the version's folder can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_folder(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read_file(&std::fs::read_to_string(&path).expect("a source file"), texts);
        }
    }
}

/// The string literal that stands at the start of `text`.
fn literal(text: &str) -> Option<String> {
    let rest = text.strip_prefix('"')?;
    let mut out = String::new();
    let mut symbols = rest.chars();
    loop {
        match symbols.next()? {
            '"' => return Some(out),
            '\\' => match symbols.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'u' => {
                    let code: String = symbols.by_ref().skip(1).take_while(|symbol| *symbol != '}').collect();
                    out.push(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)?);
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

/// Reads what stands in one file. Indentation tells the levels of the generated schema apart: 12 the type, 16 its
/// fields, 20 what is said of a field.
fn read_file(source: &str, texts: &mut Texts) {
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if !line.trim_start().starts_with("fn schema_name()") {
            continue;
        }
        let Some(name) = lines.next().and_then(|line| literal(line.trim())) else { continue };
        let mut found = BTreeMap::new();
        let mut field = String::new();
        for line in lines.by_ref() {
            let text = line.trim_start();
            let indent = line.len() - text.len();
            if indent == 0 && text == "}" {
                break;
            }
            let said = text.strip_prefix("\"description\": ").filter(|_| indent == 12 || indent == 20).or_else(|| {
                text.split_once(".insert(\"description\".into(), ").filter(|_| indent == 20).map(|(_, rest)| rest)
            });
            match said.and_then(literal) {
                Some(said) if indent == 12 => found.insert(String::new(), said),
                Some(said) if !field.is_empty() => found.insert(field.clone(), said),
                _ => None,
            };
            if indent == 16
                && let Some(key) = literal(text)
            {
                field = key;
            }
        }
        texts.insert(name, found);
    }
}
