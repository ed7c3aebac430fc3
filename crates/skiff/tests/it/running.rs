//! The executable as a process of a test: it ends with the test, and its words are kept.

use skiff_base::task::Supervisor;
use skiff_client::{Client, Kubeconfig};
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// The executable under test.
pub(crate) fn skiff() -> Command {
    Command::new(env!("CARGO_BIN_EXE_skiff"))
}

/// A moment between two looks at a process: nothing tells a std process' end otherwise.
#[expect(clippy::disallowed_methods, reason = "between looks at a condition, which has a deadline")]
fn moment() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Runs to the end: exit code and standard error. What does not end within a minute is killed.
pub(crate) fn last_words(command: &mut Command) -> (i32, String) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap());
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it runs instead of ending:\n{}", reader.join().unwrap());
        }
        moment();
    };
    (status.code().unwrap_or(-1), reader.join().unwrap())
}

/// A process that runs until it is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; what it says goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = std::fs::File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    /// What it has said on standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts a server and gives what it says when it is ready.
    pub(crate) fn server(command: &mut Command, log: &Path) -> (Self, String) {
        let mut running = Self::start(command, log);
        let mut lines = BufReader::new(running.child.stdout.take().unwrap()).lines();
        let mut said = String::new();
        // Three lines: ready, and two of what to type next.
        while said.lines().count() < 3 {
            match lines.next() {
                Some(line) => said.push_str(&format!("{}\n", line.unwrap())),
                None => panic!("it ended before it was ready:\n{}", running.log()),
            }
        }
        (running, said)
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            moment();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A client by a kubeconfig.
pub(crate) fn client(kubeconfig: &Path, owner: &Supervisor) -> Client {
    let transport = Kubeconfig::load(kubeconfig).unwrap().transport(owner).unwrap();
    Client::new(transport, "skiff-test")
}

/// A client of another address with a token, which does not check whom it talks to.
pub(crate) fn unchecked(dir: &Path, port: u16, token: &str, owner: &Supervisor) -> Client {
    let path = dir.join(format!("unchecked-{port}-{}.conf", token.len()));
    let text = format!(
        "clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: u, user: {{token: '{token}'}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         current-context: x\n"
    );
    std::fs::write(&path, text).unwrap();
    client(&path, owner)
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Asks until there is an answer; fails with what the log says when that takes too long.
pub(crate) async fn eventually<T, F>(what: &str, running: &[&Running], ask: impl Fn() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let logs = || running.iter().map(|one| one.log()).collect::<Vec<_>>();
    skiff_testkit::eventually(what, async || ask().await.ok_or_else(logs)).await
}
