//! `cargo xtask test`: what the README and CI call. Installs what the tests need where that is possible, then runs all.

use anyhow::{Context, bail};
use std::path::Path;
use std::process::Command;

/// Debian packages by what the tests look for. Tests that miss one say "skipped: why".
const NEEDED: [(&str, &str); 4] = [
    ("/bin/busybox", "busybox-static"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/ip", "iproute2"),
];

/// Runs the whole suite; an error when anything failed.
pub fn run(root: &Path, extra: &[String]) -> anyhow::Result<()> {
    install_missing();
    let status = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(extra)
        .status()
        .context("starting cargo test")?;
    if !status.success() {
        bail!("the suite failed");
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
