//! The binary: options to one validated configuration, then build, spawn, serve, drain. No logic of its own.

mod addons;
mod agent;
mod cleanup;
mod control;
mod dns;
mod image;
mod inprocess;
mod node_images;
mod node_network;
mod server;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The whole of Kubernetes in one file.
#[derive(Parser)]
#[command(name = "skiff", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a control plane on this machine.
    Server(Box<server::Flags>),
    /// Runs the cluster's DNS server.
    Dns(dns::Flags),
    /// Answers as a CNI plug-in (CNI_COMMAND and the rest of that contract).
    Cni,
    /// Imports, pulls, lists and removes the node's images.
    Image(image::Flags),
    /// Ends all pods of this machine and removes what was made for them; shows first what it will do.
    Cleanup(cleanup::Flags),
    /// Says which version this is.
    Version(skiff_cli::version::Flags),
    /// Writes a script that completes these commands in a shell.
    Completion(skiff_cli::completion::Flags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Server(flags) => server::run(*flags),
        Command::Dns(flags) => dns::run(flags),
        Command::Image(flags) => image::run(flags),
        Command::Cleanup(flags) => cleanup::run(&flags),
        Command::Cni => {
            let status =
                skiff_cni::plugin::main(|name| std::env::var(name).ok(), &mut std::io::stdin(), &mut std::io::stdout());
            return ExitCode::from(u8::try_from(status).unwrap_or(1));
        }
        Command::Version(flags) => {
            let build = skiff_cli::version::Build {
                skiff: env!("CARGO_PKG_VERSION"),
                kubernetes: skiff_server::version::KUBERNETES_VERSION,
            };
            skiff_cli::version::run(&flags, build, &mut std::io::stdout()).map_err(Into::into)
        }
        Command::Completion(flags) => {
            skiff_cli::completion::run(&flags, &mut Cli::command(), &mut std::io::stdout()).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint_chain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Starts logging to standard error; `SKIFF_LOG` sets levels.
fn telemetry() {
    let level = std::env::var("SKIFF_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
}

/// The error and what it stands on, one line each.
#[expect(clippy::print_stderr, reason = "the last words of a process")]
fn eprint_chain(error: &anyhow::Error) {
    eprintln!("skiff: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because {cause}");
    }
}
