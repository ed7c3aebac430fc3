//! The runtime's end of the conversation with a shim, and the start of one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use skiff_base::task::{OnFailure, Supervisor};
use skiff_linux::fdpass;
use skiff_shim::protocol::{self, Request, Response, SOCKET};
use tokio::io::{AsyncBufReadExt, Interest};
use tokio::net::UnixStream;

/// The embedded helper.
static PROGRAM: &[u8] = include_bytes!(env!("SKIFF_SHIM"));
/// The shim's own log, and the sign that it lives.
const LOG: &str = "shim.log";
/// How long a shim may take to stand.
const START_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("sealing the shim")]
    Seal(#[source] io::Error),
    #[error("starting the shim")]
    Spawn(#[source] io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the shim does not answer")]
    Connect(#[source] io::Error),
    #[error("the conversation with the shim broke off")]
    Broken(#[source] io::Error),
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("the shim answered something else")]
    Unexpected,
}

/// The helper as a descriptor that no container can write to, made once.
fn program() -> Result<BorrowedFd<'static>, ShimError> {
    static SEALED: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(fd) = SEALED.get() {
        return Ok(fd.as_fd());
    }
    let fd = fdpass::sealed_program("skiff-shim", PROGRAM).map_err(ShimError::Seal)?;
    // Two at once: both are the same program, one is dropped.
    Ok(SEALED.get_or_init(|| fd).as_fd())
}

/// Starts the shim of the sandbox in `dir` and waits until its namespaces stand. Answers its process.
pub(crate) async fn start(dir: &Path, tasks: &Supervisor) -> Result<i32, ShimError> {
    let program = program()?;
    let log = std::fs::File::options().create(true).append(true).open(dir.join(LOG)).map_err(ShimError::Spawn)?;
    // The lock goes with the open file, which is the shim's standard error: as long as it is held, the shim lives.
    let locked = rustix::fs::flock(&log, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    locked.map_err(|error| ShimError::Spawn(error.into()))?;
    let (reader, writer) = io::pipe().map_err(ShimError::Spawn)?;
    // Through our own descriptor table; the program itself is then an anonymous file without a path.
    let mut command = tokio::process::Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0("skiff-shim").arg(dir).env_clear().current_dir("/").stdin(Stdio::null()).stdout(writer).stderr(log);
    let mut child = command.spawn().map_err(ShimError::Spawn)?;
    drop(command);
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    // As long as we are its parent its end must be waited for. It is not killed when we end.
    tasks.spawn_abortable(format!("shim {pid}"), OnFailure::Forget, async move {
        if let Err(error) = child.wait().await {
            tracing::warn!(%error, "waiting for a shim");
        }
    });
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(ShimError::Spawn)?;
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader);
    match tokio::time::timeout(START_LIMIT, reader.read_line(&mut line)).await {
        Ok(Ok(_)) if line == "ready\n" => Ok(pid),
        Ok(Ok(_)) => Err(ShimError::Refused(line.trim_end().to_owned())),
        Ok(Err(error)) => Err(ShimError::Spawn(error)),
        Err(_) => {
            kill(pid);
            Err(ShimError::Refused("the shim did not stand in time".to_owned()))
        }
    }
}

/// Whether no shim lives for the sandbox in `dir`, nor comes to live: also one that an earlier runtime has started and
/// that does not listen yet.
pub(crate) fn is_gone(dir: &Path) -> io::Result<bool> {
    let log = match std::fs::File::open(dir.join(LOG)) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&log, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid)
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL)
    {
        tracing::debug!(%error, "a shim to be killed had ended");
    }
}

/// A connection to a shim.
pub(crate) struct Conversation {
    stream: UnixStream,
    input: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Conversation {
    pub(crate) async fn open(dir: &Path) -> Result<Self, ShimError> {
        // Through a descriptor of the directory: the socket's full path may be longer than an address holds.
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, rustix::fs::Mode::empty())
            .map_err(|error| ShimError::Connect(error.into()))?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(ShimError::Connect)?;
        Ok(Self { stream, input: Vec::new(), fds: Vec::new() })
    }

    pub(crate) async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        let frame = protocol::frame(request);
        let mut sent = 0;
        while sent < frame.len() {
            let fds = if sent == 0 { fds } else { &[] };
            sent += self
                .stream
                .async_io(Interest::WRITABLE, || fdpass::send(&self.stream, &frame[sent..], fds))
                .await
                .map_err(ShimError::Broken)?;
        }
        Ok(())
    }

    pub(crate) async fn receive(&mut self) -> Result<Response, ShimError> {
        loop {
            match protocol::unframe(&mut self.input) {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => {}
                Err(error) => return Err(ShimError::Broken(io::Error::other(error))),
            }
            let mut buffer = [0u8; 8192];
            let (stream, fds) = (&self.stream, &mut self.fds);
            let read = stream
                .async_io(Interest::READABLE, || fdpass::receive(stream, &mut buffer, fds))
                .await
                .map_err(ShimError::Broken)?;
            if read == 0 {
                return Err(ShimError::Broken(io::ErrorKind::UnexpectedEof.into()));
            }
            self.input.extend_from_slice(&buffer[..read]);
        }
    }

    /// Sends and waits for the first answer; the shim's refusals become errors.
    pub(crate) async fn ask(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Response, ShimError> {
        self.send(request, fds).await?;
        match self.receive().await? {
            Response::Failed(reason) => Err(ShimError::Refused(reason)),
            Response::NotRunning(id) => Err(ShimError::NotRunning(id)),
            response => Ok(response),
        }
    }
}

/// One question, one answer.
pub(crate) async fn ask(dir: &Path, request: &Request) -> Result<Response, ShimError> {
    Conversation::open(dir).await?.ask(request, &[]).await
}
