//! Compact tables of upstream's feature gates and component flags, for `skiff-base`.

use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::path::Path;

/// The release whose gates count.
const RELEASE: (u32, u32) = (1, 36);

/// Writes `crates/base/src/gates.tsv` and `crates/base/src/flags/COMPONENT.txt`.
pub(crate) fn generate(upstream: &Path, root: &Path) -> Result<()> {
    let base = root.join("crates/base/src");
    let write =
        |path: &Path, text: &str| std::fs::write(path, text).with_context(|| format!("writing {}", path.display()));
    let gates = read(&upstream.join("feature-gates.yaml"))?;
    write(&base.join("gates.tsv"), &gates_table(&gates)?)?;
    for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"] {
        let flags = read(&upstream.join(format!("flags/{component}.txt")))?;
        let mut lines: Vec<&str> = flags.lines().map(str::trim_end).filter(|line| line.starts_with("--")).collect();
        lines.sort_unstable();
        lines.dedup();
        write(&base.join(format!("flags/{component}.txt")), &(lines.join("\n") + "\n"))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// One line for each gate of [`RELEASE`]: name, stage, default, whether it is locked; sorted by name.
fn gates_table(yaml: &str) -> Result<String> {
    let mut gates: Vec<(String, Vec<Spec>)> = Vec::new();
    for line in yaml.lines() {
        if let Some(name) = line.strip_prefix("- name: ") {
            gates.push((name.to_owned(), Vec::new()));
            continue;
        }
        let Some((_, specs)) = gates.last_mut() else { continue };
        if let Some(default) = line.strip_prefix("  - default: ") {
            specs.push(Spec { default: default.to_owned(), ..Spec::default() });
            continue;
        }
        let Some((key, value)) = line.trim().split_once(": ") else { continue };
        let Some(spec) = specs.last_mut() else { continue };
        match key {
            "lockToDefault" => spec.locked = value == "true",
            "preRelease" => value.clone_into(&mut spec.stage),
            "version" => spec.version = version(value)?,
            other => bail!("unknown key {other}"),
        }
    }
    gates.sort_by(|left, right| left.0.cmp(&right.0));
    let mut out = String::new();
    for (name, specs) in gates {
        let newest = specs.into_iter().filter(|spec| spec.version <= RELEASE).max_by_key(|spec| spec.version);
        let Some(spec) = newest else { continue };
        let locked = if spec.locked { "locked" } else { "" };
        let stage = if spec.stage.is_empty() { "GA" } else { &spec.stage };
        writeln!(out, "{name}\t{stage}\t{}\t{locked}", spec.default)?;
    }
    Ok(out)
}

#[derive(Default)]
struct Spec {
    default: String,
    locked: bool,
    stage: String,
    version: (u32, u32),
}

fn version(text: &str) -> Result<(u32, u32)> {
    let (major, minor) = text.trim_matches('"').split_once('.').context("a version has two parts")?;
    Ok((major.parse()?, minor.parse()?))
}
