//! The binary: options to one validated configuration, then build, spawn, serve, drain. No logic of its own.

mod addons;
mod agent;
mod claim;
mod cleanup;
mod components;
mod config;
mod cri;
mod dns;
#[cfg(test)]
mod documents;
mod image;
mod inprocess;
mod keep;
mod node_images;
mod node_network;
mod node_runtime;
mod ports;
mod preflight;
mod progress;
mod reach;
mod renewal;
mod server;
mod signals;
mod usage;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use usage::UsageError;

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
    /// Runs a control plane and a node on this machine.
    Server(Box<config::Flags>),
    /// Runs the scheduler alone, with upstream's flags (`skiff kube-scheduler --help`).
    #[command(disable_help_flag = true)]
    KubeScheduler(Passed),
    /// Runs the controllers alone, with upstream's flags.
    #[command(disable_help_flag = true)]
    KubeControllerManager(Passed),
    /// Runs a node's kubelet alone, with upstream's flags.
    #[command(disable_help_flag = true)]
    Kubelet(Passed),
    /// Runs the proxy for service addresses alone, with upstream's flags.
    #[command(disable_help_flag = true)]
    KubeProxy(Passed),
    /// Runs the cluster's DNS server.
    Dns(dns::Flags),
    /// Runs the embedded container runtime alone, behind its CRI socket.
    Cri(cri::Flags),
    /// Answers as a CNI plug-in (CNI_COMMAND and the rest of that contract).
    Cni,
    /// Imports, pulls, lists and removes the node's images.
    Image(image::Flags),
    /// Ends all pods of this machine and removes what was made for them; shows first what it will do.
    Cleanup(cleanup::Flags),
    /// Measures how fast and how small a server is, as rows with what each has to reach.
    Bench(skiff_bench::Flags),
    /// Says which version this is.
    Version(skiff_cli::version::Flags),
    /// Writes a script that completes these commands in a shell.
    Completion(skiff_cli::completion::Flags),
}

/// A component's command line, which is read in upstream's syntax ([`components`]).
#[derive(Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

/// The command line; called by a component's name, the executable is that component.
fn command_line() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments.first().and_then(|first| Path::new(first).file_name()).and_then(OsStr::to_str);
    if let Some(name) = called.and_then(|called| components::alone::NAMES.iter().find(|name| **name == called)) {
        arguments.insert(1, OsString::from(*name));
    }
    arguments
}

/// Reads the command line, and the file that it names.
fn read(arguments: Vec<OsString>) -> Result<Command, UsageError> {
    let command = Cli::command();
    let mut matches = command.clone().get_matches_from(&arguments);
    let file = matches.subcommand_matches("server").and_then(|server| server.get_one::<std::path::PathBuf>("config"));
    if let (Some(file), Some(server)) = (file.cloned(), matches.subcommand_matches("server")) {
        let flags = command.find_subcommand("server").expect("there is a command `server`").clone();
        let more = config::file::arguments(&file, &flags, server)?;
        matches = command.get_matches_from(arguments.into_iter().chain(more));
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match (cli.command, matches.subcommand_matches("server")) {
        (Command::Server(mut flags), Some(server)) => {
            flags.note_asked(server);
            Ok(Command::Server(flags))
        }
        (command, _) => Ok(command),
    }
}

fn main() -> ExitCode {
    let command = match read(command_line()) {
        Ok(command) => command,
        Err(error) => return last_words(&error.into()),
    };
    let outcome = match command {
        Command::Server(flags) => server::run(*flags),
        Command::KubeScheduler(passed) => components::alone::run("kube-scheduler", passed.arguments),
        Command::KubeControllerManager(passed) => components::alone::run("kube-controller-manager", passed.arguments),
        Command::Kubelet(passed) => components::alone::run("kubelet", passed.arguments),
        Command::KubeProxy(passed) => components::alone::run("kube-proxy", passed.arguments),
        Command::Dns(flags) => dns::run(flags),
        Command::Image(flags) => image::run(flags),
        Command::Cri(flags) => cri::run(flags),
        Command::Cleanup(flags) => cleanup::run(&flags),
        Command::Bench(flags) => {
            skiff_bench::run(&flags, node_images::OWN_IMAGE, &mut std::io::stdout()).map_err(Into::into)
        }
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
            let mut command = components::alone::with_flags(Cli::command());
            skiff_cli::completion::run(&flags, &mut command, &mut std::io::stdout()).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => last_words(&error),
    }
}

/// Starts logging to standard error; `SKIFF_LOG` sets levels, else `directives` do.
fn telemetry(directives: &str) {
    let level = std::env::var("SKIFF_LOG").unwrap_or_else(|_| directives.to_owned());
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).init();
}

/// The error and what it stands on, one line each; 2 for a mistake of whoever typed it, as clap has it, else 1.
#[expect(clippy::print_stderr, reason = "the last words of a process")]
fn last_words(error: &anyhow::Error) -> ExitCode {
    eprintln!("skiff: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some errors end with what they stand on.
        if !said.ends_with(&cause) {
            eprintln!("  because {cause}");
            said = cause;
        }
    }
    ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
}
