//! Exec, attach and port-forward of the embedded runtime as streams, without a server in between.

use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use skiff_cri::streaming::{Duplex, Session, Streaming};
use skiff_cri::v1::{AttachRequest, ContainerState, ExecRequest, ExecSyncRequest, ExecSyncResponse, NamespaceMode};
use skiff_cri::{CriError, CriFuture};
use skiff_shim::protocol::{Request, Response};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use crate::sandbox::{io_error, shim_error};
use crate::shim::Conversation;
use crate::spec;
use crate::state::{EmbeddedRuntime, Inner};

/// Most output that `ExecSync` keeps of each stream; the rest is read and dropped.
const EXEC_SYNC_LIMIT: usize = 16 << 20;
/// After a command has ended, how long output of processes it left behind is waited for.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long a port may take to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The master of a pseudo-terminal.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let read = guard.try_io(|fd| {
                let mut bytes = [0u8; 8192];
                let room = buffer.remaining().min(bytes.len());
                match rustix::io::read(fd.get_ref(), &mut bytes[..room]) {
                    Ok(read) => {
                        buffer.put_slice(&bytes[..read]);
                        Ok(())
                    }
                    // Everybody on the other side has closed it.
                    Err(rustix::io::Errno::IO) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            });
            if let Ok(result) = read {
                return Poll::Ready(result);
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|fd| rustix::io::write(fd.get_ref(), bytes).map_err(Into::into)) {
                return Poll::Ready(result);
            }
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A program started by [`Inner::launch`].
struct Launched {
    conversation: Conversation,
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    terminal: Option<Terminal>,
}

struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

fn null() -> std::io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

/// Our reading end and the other's writing end.
fn outgoing(wanted: bool) -> std::io::Result<(Option<pipe::Receiver>, OwnedFd)> {
    if !wanted {
        return Ok((None, null()?));
    }
    let (reader, writer) = std::io::pipe()?;
    Ok((Some(pipe::Receiver::from_owned_fd(reader.into())?), writer.into()))
}

/// Our writing end and the other's reading end.
fn incoming(wanted: bool) -> std::io::Result<(Option<pipe::Sender>, OwnedFd)> {
    if !wanted {
        return Ok((None, null()?));
    }
    let (reader, writer) = std::io::pipe()?;
    Ok((Some(pipe::Sender::from_owned_fd(writer.into())?), reader.into()))
}

impl Inner {
    async fn launch(
        &self,
        container_id: &str,
        command: &[String],
        tty: bool,
        wants: Wants,
    ) -> Result<Launched, CriError> {
        let container = self.container(container_id)?;
        if container.current() != ContainerState::ContainerRunning {
            return Err(CriError::failed_precondition(format!("container is not running: {:?}", container.id)));
        }
        let (sandbox, spec) = {
            let record = container.record.lock();
            (record.sandbox_id.clone(), spec::exec(&record.spec, command, tty)?)
        };
        let sandbox = self.sandbox(&sandbox)?;
        let pipes = io_error("making pipes");
        let mut conversation = Conversation::open(&sandbox.dir).await.map_err(shim_error("exec"))?;
        let request = Request::Exec(Box::new(spec));
        let failed = "failed to exec in container";
        if tty {
            conversation.ask(&request, &[]).await.map_err(shim_error(failed))?;
            let master = conversation.fds.pop().ok_or_else(|| CriError::unknown("the shim passed no terminal"))?;
            #[expect(
                deprecated,
                reason = "its successor is unsafe for the sake of other types; an OwnedFd keeps the promise"
            )]
            let watched = AsyncFd::new(master);
            let terminal = Terminal(Arc::new(watched.map_err(io_error("watching the terminal"))?));
            return Ok(Launched { conversation, stdin: None, stdout: None, stderr: None, terminal: Some(terminal) });
        }
        let make =
            || -> std::io::Result<_> { Ok((incoming(wants.stdin)?, outgoing(wants.stdout)?, outgoing(wants.stderr)?)) };
        let ((stdin, its_stdin), (stdout, its_stdout), (stderr, its_stderr)) = make().map_err(pipes)?;
        let fds = [its_stdin.as_fd(), its_stdout.as_fd(), its_stderr.as_fd()];
        conversation.ask(&request, &fds).await.map_err(shim_error(failed))?;
        Ok(Launched { conversation, stdin, stdout, stderr, terminal: None })
    }

    pub(crate) async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, CriError> {
        let wants = Wants { stdin: false, stdout: true, stderr: true };
        let launched = self.launch(&request.container_id, &request.cmd, false, wants).await?;
        let Launched { mut conversation, stdout, stderr, .. } = launched;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let limit = u64::try_from(request.timeout).ok().filter(|limit| *limit > 0).map(Duration::from_secs);
        let code = {
            let collect = async {
                tokio::join!(collect(stdout, &mut out), collect(stderr, &mut err));
            };
            tokio::pin!(collect);
            let mut collected = false;
            let code = {
                let exited = exit_code(&mut conversation);
                tokio::pin!(exited);
                let expired = async {
                    match limit {
                        Some(limit) => self.clock.sleep(limit).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::pin!(expired);
                loop {
                    tokio::select! {
                        code = &mut exited => break Some(code?),
                        () = &mut collect, if !collected => collected = true,
                        () = &mut expired => break None,
                    }
                }
            };
            if !collected && code.is_some() {
                let drained = self.clock.sleep(DRAIN_LIMIT);
                tokio::select! {
                    () = &mut collect => {}
                    () = drained => {}
                }
            }
            code
        };
        let Some(exit_code) = code else {
            let kill = Request::Signal { container: String::new(), signal: libc::SIGKILL };
            conversation.send(&kill, &[]).await.map_err(shim_error("ending the command"))?;
            let limit = request.timeout;
            return Err(CriError::deadline_exceeded(format!(
                "failed to exec in container: timeout {limit}s exceeded: context deadline exceeded"
            )));
        };
        Ok(ExecSyncResponse { stdout: out, stderr: err, exit_code })
    }

    async fn exec_session(&self, request: ExecRequest) -> Result<Session, CriError> {
        if request.tty && request.stderr {
            return Err(CriError::invalid_argument("tty and stderr cannot both be true"));
        }
        if !request.stdin && !request.stdout && !request.stderr {
            return Err(CriError::invalid_argument("one of stdin, stdout, or stderr must be set"));
        }
        let wants = Wants { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
        let launched = self.launch(&request.container_id, &request.cmd, request.tty, wants).await?;
        let Launched { mut conversation, stdin, stdout, stderr, terminal } = launched;
        let exit = Box::pin(async move { exit_code(&mut conversation).await });
        let Some(terminal) = terminal else {
            return Ok(Session {
                stdin: stdin.map(|stream| Box::new(stream) as _),
                stdout: stdout.map(|stream| Box::new(stream) as _),
                stderr: stderr.map(|stream| Box::new(stream) as _),
                resize: None,
                exit,
            });
        };
        let size = terminal.clone();
        Ok(Session {
            stdin: request.stdin.then(|| Box::new(terminal.clone()) as _),
            stdout: request.stdout.then(|| Box::new(terminal) as _),
            stderr: None,
            resize: Some(Arc::new(move |columns, rows| {
                skiff_linux::process::resize_terminal(size.0.get_ref(), columns, rows).map_err(io_error("resizing"))
            })),
            exit,
        })
    }

    async fn attach_session(self: Arc<Self>, request: AttachRequest) -> Result<Session, CriError> {
        let container = self.container(&request.container_id)?;
        if container.current() != ContainerState::ContainerRunning {
            return Err(CriError::failed_precondition(format!("container is not running: {:?}", container.id)));
        }
        let (sandbox, terminal) = {
            let record = container.record.lock();
            (record.sandbox_id.clone(), record.spec.program.tty)
        };
        let sandbox = self.sandbox(&sandbox)?;
        let wants_stderr = request.stderr && !terminal;
        let make = || -> std::io::Result<_> {
            Ok((incoming(request.stdin)?, outgoing(request.stdout)?, outgoing(wants_stderr)?))
        };
        let ((stdin, its_stdin), (stdout, its_stdout), (stderr, its_stderr)) =
            make().map_err(io_error("making pipes"))?;
        let all = [(request.stdin, &its_stdin), (request.stdout, &its_stdout), (wants_stderr, &its_stderr)];
        let fds: Vec<_> = all.iter().filter(|(wanted, _)| *wanted).map(|(_, fd)| fd.as_fd()).collect();
        let mut conversation = Conversation::open(&sandbox.dir).await.map_err(shim_error("attach"))?;
        let ask = Request::Attach {
            container: container.id.clone(),
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: wants_stderr,
        };
        conversation.ask(&ask, &fds).await.map_err(shim_error("attach"))?;
        let resize: Option<skiff_cri::streaming::Resize> = terminal.then(|| {
            let (dir, id, tasks) = (sandbox.dir.clone(), container.id.clone(), self.tasks.clone());
            Arc::new(move |columns, rows| {
                let (dir, request) = (dir.clone(), Request::Resize { container: id.clone(), columns, rows });
                tasks.spawn_abortable("resize", skiff_base::task::OnFailure::Forget, async move {
                    if let Err(error) = crate::shim::ask(&dir, &request).await {
                        tracing::debug!(%error, "resizing an attached terminal");
                    }
                });
                Ok(())
            }) as _
        });
        Ok(Session {
            stdin: stdin.map(|stream| Box::new(stream) as _),
            stdout: stdout.map(|stream| Box::new(stream) as _),
            stderr: stderr.map(|stream| Box::new(stream) as _),
            resize,
            exit: Box::pin(async move { exit_code(&mut conversation).await }),
        })
    }

    async fn forward(&self, sandbox: &str, port: u16) -> Result<tokio::net::TcpStream, CriError> {
        let sandbox = self.sandbox(sandbox)?;
        if sandbox.record.lock().stopped {
            return Err(CriError::failed_precondition(format!("sandbox container {:?} is not running", sandbox.id)));
        }
        let host = spec::namespaces(&sandbox.config)?.network() == NamespaceMode::Node;
        let netns = (!host).then(|| sandbox.netns());
        let connected = crate::state_blocking(move || {
            // IPv4 first, as most servers that listen on one of them listen there.
            let connect = || {
                let to = |ip: std::net::IpAddr| std::net::TcpStream::connect_timeout(&(ip, port).into(), CONNECT_LIMIT);
                to(std::net::Ipv4Addr::LOCALHOST.into()).or_else(|_| to(std::net::Ipv6Addr::LOCALHOST.into()))
            };
            let connected = match netns {
                None => connect(),
                Some(path) => {
                    let netns = std::fs::File::open(path).map_err(io_error("opening the pod's network namespace"))?;
                    skiff_linux::process::in_network(netns.as_fd(), connect)
                }
            };
            connected
                .map_err(io_error(&format!("failed to connect to localhost:{port} inside namespace {:?}", sandbox.id)))
        })
        .await?;
        connected.set_nonblocking(true).map_err(io_error("port-forward"))?;
        tokio::net::TcpStream::from_std(connected).map_err(io_error("port-forward"))
    }
}

/// Keeps the beginning of a stream and reads it to its end, so that the command does not block.
async fn collect(stream: Option<pipe::Receiver>, into: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0u8; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                let room = EXEC_SYNC_LIMIT - into.len();
                into.extend_from_slice(&buffer[..read.min(room)]);
            }
        }
    }
}

async fn exit_code(conversation: &mut Conversation) -> Result<i32, CriError> {
    loop {
        match conversation.receive().await.map_err(shim_error("waiting for the command"))? {
            Response::Exited(exit) => return Ok(exit.code),
            Response::Failed(reason) => return Err(CriError::unknown(reason)),
            _ => {}
        }
    }
}

impl Streaming for EmbeddedRuntime {
    fn exec<'a>(&'a self, request: ExecRequest) -> CriFuture<'a, Session> {
        Box::pin(self.inner.exec_session(request))
    }
    fn attach<'a>(&'a self, request: AttachRequest) -> CriFuture<'a, Session> {
        Box::pin(self.inner.clone().attach_session(request))
    }
    fn port_forward<'a>(&'a self, pod_sandbox_id: &'a str, port: u16) -> CriFuture<'a, Box<dyn Duplex>> {
        Box::pin(async move { Ok(Box::new(self.inner.forward(pod_sandbox_id, port).await?) as _) })
    }
}
