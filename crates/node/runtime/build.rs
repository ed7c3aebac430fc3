//! Builds the shim with its own profile (small, one codegen unit) for the same target, to be embedded.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"));
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../../..");
    let (target, target_dir) = (variable("TARGET"), PathBuf::from(variable("OUT_DIR")).join("shim"));
    for watched in ["crates/node/shim", "crates/node/linux", "Cargo.lock", ".cargo/config.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(watched).display());
    }
    // A target directory of its own: the outer cargo holds the lock of the other one. What the outer cargo says about
    // this package (features, profile) must not reach the inner one; its flags for rustc and its job server must.
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(&workspace).args(["build", "--quiet", "--package", "skiff-shim", "--bin", "skiff-shim"]);
    cargo.args(["--profile", "shim", "--target", &target, "--target-dir"]).arg(&target_dir);
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_FEATURE_") || name.starts_with("CARGO_CFG_") || name.starts_with("CARGO_PKG_") {
            cargo.env_remove(name);
        }
    }
    let status = cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTC_WORKSPACE_WRAPPER").status();
    assert!(status.is_ok_and(|status| status.success()), "building skiff-shim failed");
    let program = target_dir.join(target).join("shim").join("skiff-shim");
    println!("cargo::rustc-env=SKIFF_SHIM={}", program.display());
}
