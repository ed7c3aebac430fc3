//! What black-box tests call and no package brings: the newest kubectl and programs over client libraries, made below
//! `target/tools` from `tests/clients`. Each is best effort: a test that misses one says so.

use std::path::{Path, PathBuf};
use std::process::Command;

/// kubectl's own version, which its build has to be told; that of `k8s.io/kubectl` in `tests/clients/go/go.mod`.
const KUBECTL_VERSION: &str = "v1.37.2";

/// The target directory of the workspace.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Makes all of them in `target/tools`; those that are there are brought up to date.
pub(crate) fn make(root: &Path, target: &Path) {
    let (clients, tools) = (root.join("tests/clients"), target.join("tools"));
    let version = format!("-X k8s.io/component-base/version.gitVersion={KUBECTL_VERSION}");
    let go = |name: &str, package: &str| {
        let mut go = Command::new("go");
        go.current_dir(clients.join("go"))
            .args(["build", "-ldflags", &version, "-o"])
            .arg(tools.join(name))
            .arg(package);
        go
    };
    step("kubectl", go("kubectl", "./kubectl"));
    step("the client-go program", go("client-go", "./client"));

    let python = tools.join("python");
    if !python.join("bin/pip").exists() {
        let mut environment = Command::new("python3");
        environment.args(["-m", "venv"]).arg(&python);
        step("a place for Python packages", environment);
    }
    let mut pip = Command::new(python.join("bin/pip"));
    pip.args(["install", "--quiet", "-r"]).arg(clients.join("python/requirements.txt"));
    step("the Python client", pip);

    // Its own target directory: it has other features than the workspace, and two builds in one wait for each other.
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(clients.join("rust")).args(["build", "--quiet", "--target", "x86_64-unknown-linux-gnu"]);
    cargo.env("CARGO_TARGET_DIR", tools.join("rust"));
    if step("the kube-rs program", cargo) {
        let built = tools.join("rust/x86_64-unknown-linux-gnu/debug/client");
        if let Err(error) = std::fs::copy(&built, tools.join("kube-rs")) {
            eprintln!("{}: {error}", built.display());
        }
    }
}

fn step(what: &str, mut command: Command) -> bool {
    match command.status() {
        Ok(status) if status.success() => true,
        Ok(status) => {
            eprintln!("{what} is not made ({status}): tests that need it will say so");
            false
        }
        Err(error) => {
            eprintln!("{what} is not made ({}: {error})", command.get_program().display());
            false
        }
    }
}
