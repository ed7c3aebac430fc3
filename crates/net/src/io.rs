//! The byte stream under HTTP: plain or TLS, and a guard against peers that stop reading.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Something one can read from and write to, whatever carries it.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A boxed [`Duplex`].
pub type BoxDuplex = Box<dyn Duplex>;

/// Ends the stream when a write has waited for `limit`: a peer that takes no bytes pins everything queued for it.
/// [`Patience`] switches that off, for connections that have changed protocols: a person may stop a terminal's output
/// for as long as they like, and nothing is queued then but what the pipes hold.
pub struct Guarded<T> {
    inner: T,
    patience: Patience,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// Whether a [`Guarded`] stream waits for its peer without end.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<AtomicBool>);
impl Patience {
    /// From now on it does.
    pub fn grant(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was granted.
    pub fn granted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<T> Guarded<T> {
    /// Guards `inner`.
    pub fn new(inner: T, limit: Duration) -> Self {
        Self { inner, patience: Patience::default(), limit, stalled: None, waiting: false }
    }

    /// To switch the guard off later.
    pub fn patience(&self) -> Patience {
        self.patience.clone()
    }

    /// What is guarded.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    fn check<R>(&mut self, poll: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if poll.is_ready() || self.patience.granted() {
            self.waiting = false;
            return poll;
        }
        let deadline = Instant::now() + self.limit;
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if !std::mem::replace(&mut self.waiting, true) {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.check(poll, cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.check(poll, cx)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.check(poll, cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.check(poll, cx)
    }
}
