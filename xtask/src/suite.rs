//! `cargo xtask test`: what the README and CI call. Installs what the tests need where that is possible, runs all, then looks at
//! the form.

use crate::tools;
use anyhow::{Context, bail};
use std::path::Path;
use std::process::Command;

/// Debian packages by what the tests look for. Tests that miss one say "skipped: why".
const NEEDED: [(&str, &str); 8] = [
    ("/bin/busybox", "busybox-static"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/usr/share/doc/python3-venv", "python3-venv"),
];

/// Runs the whole suite; an error when anything failed.
pub(crate) fn run(root: &Path, extra: &[String]) -> anyhow::Result<()> {
    install_missing();
    let target = tools::target(root);
    // Built by `cargo test` itself, for the tests of its package; the black-box tests need not build it again.
    let profile = if extra.iter().any(|argument| argument == "--release") { "release" } else { "debug" };
    let executable = target.join("x86_64-unknown-linux-gnu").join(profile).join("skiff");
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root).args(arguments).args(extra);
        cargo
    };
    // Beside the first part of the build, which waits for single crates; after it both cores are busy.
    let compiled = std::thread::scope(|scope| {
        scope.spawn(|| tools::make(root, &target));
        cargo(&["test", "--workspace", "--no-run"]).status().context("starting cargo test")
    })?;
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    if std::env::var_os("SKIFF_BINARY").is_none() {
        tests.env("SKIFF_BINARY", executable);
    }
    let passed = compiled.success() && tests.status().context("starting cargo test")?.success();
    // Last, because it says nothing about what the product does; and also when that is wrong.
    let form = lint(root);
    if !passed {
        bail!("the suite failed");
    }
    form
}

/// Formatting, and clippy without a warning. Clippy of another release has other lints, so it is asked only where the
/// toolchain is the workspace's `rust-version`; where it is not, or is not installed, that is said.
pub(crate) fn lint(root: &Path) -> anyhow::Result<()> {
    let wanted = concat!("0.", env!("CARGO_PKG_RUST_VERSION"));
    let version = Command::new(env!("CARGO")).args(["clippy", "--version"]).output();
    let version = version.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    match version.as_deref().map(String::from_utf8_lossy) {
        Some(version) if version.contains(wanted) => {}
        Some(version) => {
            eprintln!("skipped: lint: this is {}, and the lints are those of {wanted}", version.trim());
            return Ok(());
        }
        None => {
            eprintln!("skipped: lint: no clippy (rustup component add clippy rustfmt)");
            return Ok(());
        }
    }
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    for arguments in [&["fmt", "--all", "--check"][..], &clippy] {
        let status = Command::new(env!("CARGO")).current_dir(root).args(arguments).status();
        if !status.with_context(|| format!("starting cargo {}", arguments[0]))?.success() {
            bail!("cargo {} finds something", arguments[0]);
        }
    }
    Ok(())
}

/// Best effort: a machine without apt, network or root rights still runs what it can.
fn install_missing() {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(path, _)| !Path::new(path).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() || !Path::new("/usr/bin/apt-get").exists() {
        return;
    }
    eprintln!("installing {} for the tests", missing.join(" "));
    let apt = |arguments: &[&str]| {
        let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("apt-get {} did not succeed: tests that need it will say so", arguments.join(" "));
        }
    };
    apt(&["update", "-qq"]);
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(missing);
    apt(&install);
}
