//! Makes the generated, committed files of the workspace from the pinned upstream inputs.
//!
//! `cargo xtask test` runs the whole suite, `cargo xtask lint` looks only at the form, `cargo xtask tools` makes what only the
//! black-box tests call, `cargo xtask conformance` runs upstream's own tests. `cargo xtask schema` writes
//! `crates/machinery/src/schema/table.bin`, `cargo xtask reference` the tables of gates and flags in `crates/base`,
//! `cargo xtask etcd` the messages of `crates/store/etcd`.

#![expect(clippy::print_stderr, reason = "a tool for people at a terminal")]

mod conformance;
mod etcd;
mod reference;
mod schema;
mod suite;
mod tools;

use anyhow::{Context, bail};
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let upstream = root.join("../shared/upstream-1.36");
    match std::env::args().nth(1).as_deref() {
        Some("schema") => {
            let facts = root.join("xtask/gotypes/facts.tsv");
            let table = schema::generate(&upstream, &facts)?;
            let out = root.join("crates/machinery/src/schema/table.bin");
            std::fs::write(&out, &table).with_context(|| format!("writing {}", out.display()))
        }
        Some("reference") => reference::generate(&upstream, &root),
        Some("etcd") => etcd::generate(&root),
        Some("test") => suite::run(&root, &std::env::args().skip(2).collect::<Vec<_>>()),
        Some("conformance") => conformance::run(&root, &std::env::args().skip(2).collect::<Vec<_>>()),
        Some("lint") => suite::lint(&root),
        Some("tools") => {
            tools::make(&root, &tools::target(&root));
            Ok(())
        }
        other => bail!("usage: cargo xtask test|conformance|lint|tools|schema|reference|etcd (got {other:?})"),
    }
}
