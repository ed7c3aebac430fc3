//! Exec, attach and port-forward as streams in this process.
//!
//! The CRI itself answers these calls with a URL to dial. A runtime in the same process gives the streams directly; for
//! one behind a socket somebody implements [`Streaming`] by dialling.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{CriError, CriFuture};
use crate::v1::{AttachRequest, ExecRequest, PortForwardRequest};

/// Bytes towards a container.
pub type ByteSink = Box<dyn AsyncWrite + Send + Unpin>;
/// Bytes from a container.
pub type ByteSource = Box<dyn AsyncRead + Send + Unpin>;
/// Sets a terminal's size: columns, rows.
pub type Resize = Arc<dyn Fn(u16, u16) -> Result<(), CriError> + Send + Sync>;

/// The streams of a program. Dropping `stdin` ends the program's input; dropping the session lets go of the program
/// without ending it, except that one on a terminal gets a hang-up.
pub struct Session {
    /// If asked for.
    pub stdin: Option<ByteSink>,
    /// If asked for; with a terminal, everything.
    pub stdout: Option<ByteSource>,
    /// If asked for and there is no terminal.
    pub stderr: Option<ByteSource>,
    /// With a terminal.
    pub resize: Option<Resize>,
    /// The program's exit code; the container's, for attach. Its output may still be read afterwards.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, CriError>> + Send>>,
}

/// A connection both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What the kubelet's server needs beyond the CRI's unary calls.
pub trait Streaming: Send + Sync {
    /// Runs a command in a container.
    fn exec<'a>(&'a self, request: ExecRequest) -> CriFuture<'a, Session>;
    /// Joins a container's own program.
    fn attach<'a>(&'a self, request: AttachRequest) -> CriFuture<'a, Session>;
    /// Connects to a port on the pod's loopback.
    fn port_forward<'a>(&'a self, pod_sandbox_id: &'a str, port: u16) -> CriFuture<'a, Box<dyn Duplex>>;
}

/// Gives out the URLs that the CRI's `Exec`, `Attach` and `PortForward` answer with.
pub trait StreamUrls: Send + Sync {
    /// Where a command is run by whoever dials it.
    fn exec(&self, request: ExecRequest) -> Result<String, CriError>;
    /// Where a container's own program is joined.
    fn attach(&self, request: AttachRequest) -> Result<String, CriError>;
    /// Where ports of a pod are reached.
    fn port_forward(&self, request: PortForwardRequest) -> Result<String, CriError>;
}
