//! The binary: options to one validated configuration, then build, spawn, serve, drain. No logic of its own.

mod addons;
mod agent;
mod control;
mod dns;
mod inprocess;
mod node_parts;
mod server;

use clap::{Parser, Subcommand};
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
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Server(flags) => server::run(*flags),
        Command::Dns(flags) => dns::run(flags),
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
