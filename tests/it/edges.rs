//! The crate graph against its reviewed picture, `tests/edges.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const PICTURE: &str = include_str!("../edges.txt");
const ASYNC_CRATES: [&str; 6] = ["tokio", "hyper", "futures-executor", "async-std", "smol", "mio"];

struct Picture {
    edges: BTreeMap<String, BTreeSet<String>>,
    sections: BTreeMap<String, BTreeSet<String>>,
}

fn picture() -> Picture {
    let mut picture = Picture { edges: BTreeMap::new(), sections: BTreeMap::new() };
    let mut section = None;
    for line in PICTURE.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = Some(name.to_owned());
        } else if let Some(name) = &section {
            picture.sections.entry(name.clone()).or_default().insert(line.to_owned());
        } else {
            let (from, to) = line.split_once(':').expect("CRATE: what it may use");
            picture.edges.insert(from.to_owned(), to.split_whitespace().map(str::to_owned).collect());
        }
    }
    picture
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// Package id -> names of packages it depends on by a normal dependency.
fn normal_dependencies(metadata: &serde_json::Value) -> BTreeMap<String, Vec<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("resolve.nodes");
    let is_normal = |dependency: &serde_json::Value| {
        let kinds = dependency["dep_kinds"].as_array().expect("dep_kinds");
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    nodes
        .iter()
        .map(|node| {
            let dependencies = node["deps"].as_array().expect("deps").iter().filter(|dependency| is_normal(dependency));
            let ids = dependencies.map(|dependency| dependency["pkg"].as_str().expect("pkg").to_owned()).collect();
            (node["id"].as_str().expect("id").to_owned(), ids)
        })
        .collect()
}

fn names(metadata: &serde_json::Value) -> BTreeMap<String, String> {
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect()
}

#[test]
fn crates_use_only_what_the_picture_allows() {
    let metadata = metadata();
    let names = names(&metadata);
    let dependencies = normal_dependencies(&metadata);
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().expect("members").iter().filter_map(|id| id.as_str()).collect();
    let picture = picture();
    let mut wrong = Vec::new();
    for member in &members {
        let name = &names[*member];
        let Some(allowed) = picture.edges.get(name) else {
            wrong.push(format!("{name} is not in tests/edges.txt"));
            continue;
        };
        for used in dependencies[*member].iter().filter(|id| members.contains(id.as_str())) {
            if !allowed.contains(&names[used]) {
                wrong.push(format!("{name} -> {}", names[used]));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that the picture does not allow:\n{}", wrong.join("\n"));
}

#[test]
fn crates_without_io_see_no_async_runtime() {
    let metadata = metadata();
    let names = names(&metadata);
    let dependencies = normal_dependencies(&metadata);
    for name in &picture().sections["no-async"] {
        let start = names.iter().find(|(_, known)| *known == name).map(|(id, _)| id.clone());
        let mut open = vec![start.unwrap_or_else(|| panic!("{name} is no crate of the workspace"))];
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id.clone()) {
                assert!(!ASYNC_CRATES.contains(&names[&id].as_str()), "{name} reaches {}", names[&id]);
                open.extend(dependencies[&id].iter().cloned());
            }
        }
    }
}

#[test]
fn unsafe_stands_only_where_the_picture_allows() {
    let allowed = &picture().sections["unsafe"];
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        if !package["source"].is_null() || allowed.contains(name) {
            continue;
        }
        let manifest = package["manifest_path"].as_str().expect("manifest_path");
        let text = std::fs::read_to_string(manifest).expect("manifest is readable");
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{name} does not take the workspace's lints, which forbid unsafe code"
        );
    }
}
