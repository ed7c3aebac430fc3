//! Writes `crates/node/cri/src/generated/` from the CRI's `api.proto`.
//!
//! The input is upstream's file (`k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`), given by path; it is not kept in
//! this repository. Two files come out: the messages with the gRPC client and server, and `contract.rs`, in which every
//! RPC of both services appears four times: in an object-safe trait, in that trait for a gRPC client, in the tonic
//! server trait for an adapter around `dyn`, and as a forwarding through `Arc`. Comments of the input are left out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

const OUT: &str = "crates/node/cri/src/generated";
/// Messages that carry credentials or environment values; their `Debug` is written by hand.
const NO_DEBUG: [&str; 2] = ["runtime.v1.AuthConfig", "runtime.v1.KeyValue"];

struct Rpc {
    name: String,
    method: String,
    request: String,
    response: String,
    streams: bool,
}

/// `xtask cri <api.proto>`.
pub(crate) fn generate(proto: &Path) -> anyhow::Result<()> {
    let dir = proto.parent().context("the proto file has no directory")?;
    let mut compiler = protox::Compiler::new([dir])?;
    compiler.include_source_info(false).include_imports(true).open_file(proto)?;
    let files = compiler.file_descriptor_set();

    std::fs::create_dir_all(OUT)?;
    let mut prost = prost_build::Config::new();
    prost.skip_debug(NO_DEBUG);
    tonic_prost_build::configure()
        .out_dir(OUT)
        .build_transport(false)
        .compile_fds_with_config(files.clone(), prost)
        .context("generating messages")?;

    let mut contract = String::from("// Written by `cargo xtask cri`; do not edit.\n\nuse super::*;\n\n");
    for file in &files.file {
        for service in &file.service {
            let rpcs: Vec<Rpc> = service
                .method
                .iter()
                .map(|method| Rpc {
                    name: method.name().to_owned(),
                    method: snake(method.name()),
                    request: type_name(method.input_type()),
                    response: type_name(method.output_type()),
                    streams: method.server_streaming(),
                })
                .collect();
            write_service(&mut contract, service.name(), &rpcs)?;
        }
    }
    let path = PathBuf::from(OUT).join("contract.rs");
    std::fs::write(&path, contract)?;
    let messages = PathBuf::from(OUT).join("runtime.v1.rs");
    let formatted = Command::new("rustfmt").args(["--edition", "2024"]).args([&path, &messages]).status()?;
    if !formatted.success() {
        bail!("rustfmt failed on the generated code");
    }
    Ok(())
}

fn write_service(out: &mut String, service: &str, rpcs: &[Rpc]) -> anyhow::Result<()> {
    let module = snake(service);
    let client = format!("{module}_client::{service}Client<tonic::transport::Channel>");

    writeln!(out, "/// The CRI's `{service}` as an object-safe trait; a method not overridden answers `Unimplemented`.")?;
    writeln!(out, "pub trait {service}: Send + Sync {{")?;
    for rpc in rpcs {
        writeln!(out, "/// `{}`.", rpc.name)?;
        writeln!(
            out,
            "fn {}<'a>(&'a self, request: {}) -> CriFuture<'a, {}> {{ let _unused = request; unimplemented_rpc(\"{}\") }}",
            rpc.method,
            rpc.request,
            rpc.result(),
            rpc.name
        )?;
    }
    writeln!(out, "}}\n")?;

    writeln!(out, "impl<S: {service} + ?Sized> {service} for std::sync::Arc<S> {{")?;
    for rpc in rpcs {
        writeln!(
            out,
            "fn {}<'a>(&'a self, request: {}) -> CriFuture<'a, {}> {{ (**self).{}(request) }}",
            rpc.method,
            rpc.request,
            rpc.result(),
            rpc.method
        )?;
    }
    writeln!(out, "}}\n")?;

    writeln!(out, "impl {service} for {client} {{")?;
    for rpc in rpcs {
        let answer = if rpc.streams { "incoming(answer.into_inner())" } else { "answer.into_inner()" };
        writeln!(
            out,
            "fn {m}<'a>(&'a self, request: {}) -> CriFuture<'a, {}> {{
                let mut client = self.clone();
                Box::pin(async move {{ let answer = {module}_client::{service}Client::{m}(&mut client, request).await?; Ok({answer}) }})
            }}",
            rpc.request,
            rpc.result(),
            m = rpc.method,
        )?;
    }
    writeln!(out, "}}\n")?;

    writeln!(out, "#[tonic::async_trait]")?;
    writeln!(out, "impl {module}_server::{service} for Served<dyn {service}> {{")?;
    for rpc in rpcs {
        let (result, answer) = if rpc.streams {
            writeln!(out, "type {}Stream = OutgoingStream<{}>;", rpc.name, rpc.response)?;
            (format!("Self::{}Stream", rpc.name), "outgoing(answer)")
        } else {
            (rpc.response.clone(), "answer")
        };
        writeln!(
            out,
            "async fn {m}(&self, request: tonic::Request<{}>) -> Result<tonic::Response<{result}>, tonic::Status> {{
                let answer = self.0.{m}(request.into_inner()).await?;
                Ok(tonic::Response::new({answer}))
            }}",
            rpc.request,
            m = rpc.method,
        )?;
    }
    writeln!(out, "}}\n")?;
    Ok(())
}

impl Rpc {
    fn result(&self) -> String {
        if self.streams { format!("CriStream<{}>", self.response) } else { self.response.clone() }
    }
}

fn type_name(full: &str) -> String {
    full.rsplit('.').next().unwrap_or(full).to_owned()
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
