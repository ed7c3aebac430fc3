//! `skiff-shim DIR`: becomes the shim of the sandbox in `DIR`. Standard output is a pipe on which one line is written
//! when the namespaces stand and the socket listens: `ready`, or why not.

mod container;
mod logfile;
mod program;
mod rootfs;
mod sandbox;
mod server;
mod user;

use std::io::Write;
use std::path::{Path, PathBuf};

/// A step of making something, or the reason it failed in words for people.
type Step<T> = Result<T, String>;

fn step<T>(what: &str, result: std::io::Result<T>) -> Step<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Tells the shim's own log, which is its standard error.
fn complain(what: std::fmt::Arguments<'_>) {
    // Nobody is left to tell if the log itself cannot be written.
    let _ = writeln!(std::io::stderr(), "{} {what}", now());
}

fn main() -> std::process::ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        complain(format_args!("usage: skiff-shim DIR"));
        return std::process::ExitCode::FAILURE;
    };
    let server = match prepare(&dir) {
        Ok(server) => server,
        Err(reason) => {
            // If nobody hears it, the shim's own log has it.
            answer(&reason);
            return std::process::ExitCode::FAILURE;
        }
    };
    if !answer("ready") {
        // Whoever started us has died; a successor may already have looked for us in vain.
        server.abandon();
        return std::process::ExitCode::FAILURE;
    }
    match server.run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn prepare(dir: &Path) -> Step<server::Server> {
    step("starting a session", rustix::process::setsid().map(drop).map_err(Into::into))?;
    step("marking descriptors", skiff_linux::process::close_on_exec_from(3))?;
    step("becoming a subreaper", skiff_linux::process::become_subreaper())?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // The socket is bound by a relative name: its full path may be longer than an address holds.
    step("entering the sandbox directory", rustix::process::chdir(dir).map_err(Into::into))?;
    let spec = step("reading the sandbox", std::fs::read(skiff_shim::protocol::SANDBOX_SPEC))?;
    let spec: skiff_shim::protocol::SandboxSpec =
        serde_json::from_slice(&spec).map_err(|error| format!("reading the sandbox: {error}"))?;
    let sandbox = sandbox::Sandbox::make(dir, &spec)?;
    step("listening", server::Server::new(sandbox))
}

/// One line for who started us, then standard output is nobody's; `false` if nobody listens.
fn answer(line: &str) -> bool {
    let told = writeln!(std::io::stdout(), "{line}");
    if let Err(error) = &told {
        complain(format_args!("{line} (nobody listens: {error})"));
    }
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    match rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()) {
        Ok(null) => {
            if let Err(error) = skiff_linux::process::install_fd(std::os::fd::AsFd::as_fd(&null), 1) {
                complain(format_args!("closing standard output: {error}"));
            }
        }
        Err(error) => complain(format_args!("opening /dev/null: {error}")),
    }
    told.is_ok()
}
