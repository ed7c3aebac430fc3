//! Writes `crates/store/etcd/src/generated/` from `crates/store/etcd/proto/`, which holds names and numbers of etcd's wire
//! protocol.

use anyhow::{Context, bail};
use std::path::Path;
use std::process::Command;

/// `cargo xtask etcd`.
pub(crate) fn generate(root: &Path) -> anyhow::Result<()> {
    let (protos, out) = (root.join("crates/store/etcd/proto"), root.join("crates/store/etcd/src/generated"));
    let mut compiler = protox::Compiler::new([&protos])?;
    compiler.include_source_info(false).include_imports(true).open_file(protos.join("rpc.proto"))?;
    let mut prost = prost_build::Config::new();
    // Keys and values are shared with the store, not copied.
    prost.bytes(["."]);
    std::fs::create_dir_all(&out)?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .build_transport(false)
        .compile_fds_with_config(compiler.file_descriptor_set(), prost)
        .context("generating messages")?;
    let files = ["etcdserverpb.rs", "mvccpb.rs"].map(|name| out.join(name));
    let formatted = Command::new("rustfmt").args(["--edition", "2024"]).args(&files).status()?;
    if !formatted.success() {
        bail!("rustfmt failed on the generated code");
    }
    Ok(())
}
