//! Closing without losing the last answer.
//!
//! A request that is refused before its body was read (413, 401) is answered while the peer still sends. Closing then
//! makes the kernel answer the unread bytes with a reset, and the reset overtakes the answer. So after the half close
//! what still comes is read and thrown away, for [`LONGEST`] at most, or until the peer closes. Go's net/http does the
//! same (`closeWriteAndWait`).

use crate::io::Patience;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a closed connection is read from (`rstAvoidanceDelay` of Go's net/http).
pub(crate) const LONGEST: Duration = Duration::from_millis(500);

/// A stream whose shutdown waits until the peer has had the chance to read what was written last. A connection that has
/// changed protocols (see [`Patience`]) is left alone: what comes after its half close belongs to whoever took it over.
pub(crate) struct Lingering<T> {
    inner: T,
    upgraded: Patience,
    half_closed: Option<Pin<Box<Sleep>>>,
}

impl<T> Lingering<T> {
    /// `upgraded` says whether the connection has changed protocols.
    pub(crate) fn new(inner: T, upgraded: Patience) -> Self {
        Self { inner, upgraded, half_closed: None }
    }
}

impl<T: AsyncRead + Unpin> Lingering<T> {
    /// Reads and throws away until the peer closes or the time is over.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(over) = &mut self.half_closed else { return Poll::Ready(()) };
        if over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut space = [MaybeUninit::uninit(); 16 * 1024];
        // A peer that never stops gives the other tasks their turn after each round.
        for _ in 0..16 {
            let mut buffer = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => (),
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lingering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.half_closed.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
            if self.upgraded.granted() {
                return Poll::Ready(Ok(()));
            }
            self.half_closed = Some(Box::pin(tokio::time::sleep_until(Instant::now() + LONGEST)));
        }
        self.poll_discard(cx).map(Ok)
    }
}
