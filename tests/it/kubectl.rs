//! kubectl, unmodified, as the user of a cluster calls it.

use crate::cluster::KUBECONFIG;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// One kubectl.
#[derive(Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Those that there are: one that `KUBECTL` names, or the machine's and the newest, which `cargo xtask test` builds.
pub(crate) fn all() -> Vec<Kubectl> {
    if let Some(program) = std::env::var_os("KUBECTL") {
        return vec![Kubectl { program: program.into() }];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|program| program.exists());
    [installed, Some(crate::world::tools().join("kubectl"))]
        .into_iter()
        .flatten()
        .filter(|program| program.exists())
        .map(|program| Kubectl { program })
        .collect()
}

impl Kubectl {
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", KUBECONFIG).env("HOME", "/run").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs with input.
    pub(crate) fn feed(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that ends before it has read all says why itself.
        drop(child.stdin.take().expect("piped").write_all(input.as_bytes()));
        child.wait_with_output().unwrap().into()
    }

    /// Runs a command that has to succeed; its output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "kubectl {arguments:?}: {said:?}");
        said.out
    }

    /// Runs a command with input that has to succeed; its output.
    pub(crate) fn feed_ok(&self, arguments: &[&str], input: &str) -> String {
        let said = self.feed(arguments, input);
        assert_eq!(said.code, Some(0), "kubectl {arguments:?}: {said:?}");
        said.out
    }

    /// Runs a command that has to fail; what it says about it.
    pub(crate) fn refused(&self, arguments: &[&str], input: &str) -> String {
        let said = self.feed(arguments, input);
        assert_ne!(said.code, Some(0), "kubectl {arguments:?} should be refused: {said:?}");
        said.err
    }

    /// Starts one whose output is read while it runs.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        Running(self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap())
    }

    pub(crate) fn version(&self) -> String {
        self.ok(&["version", "--client"]).lines().next().unwrap_or_default().to_owned()
    }
}

/// A command that is ended with its owner.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, which is as good.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
