//! What one turn of an HTTP/2 connection writes leaves together.
//!
//! h2 writes and flushes frame by frame, and TLS makes a record and a system call of each: for a thousand watchers that is
//! most of what an event costs. So a connection's frames are kept in [`Gathering`] and sent when its turn is over, by
//! [`Turns`], which is what polls the connection. Nothing waits for a timer: a turn ends when the connection has nothing
//! more to do.
//!
//! When many streams are answered at the same time the connection's task is woken by the first of them, and would go
//! first. A connection that has seen that lets whoever is ready go before it takes its turn.

use parking_lot::Mutex;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Kept at most; four TLS records. A larger write goes through.
const MOST: usize = 64 * 1024;
/// For so many turns a connection that has sent several frames at once lets others go first.
const CROWDED: u8 = 16;
/// Otherwise it does so every so many turns, to find out.
const PROBE: u8 = 32;

struct State<T> {
    inner: T,
    kept: Vec<u8>,
    sent: usize,
    /// Writes in this turn.
    writes: usize,
    /// What is below may hold bytes back, as TLS does.
    unflushed: bool,
    failed: Option<io::Error>,
}

impl<T: AsyncWrite + Unpin> State<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        while self.sent < self.kept.len() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.kept[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
            self.unflushed = true;
        }
        self.sent = 0;
        self.kept.clear();
        if self.unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for `length` bytes, sending what is kept when there is none.
    fn poll_room(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<()>> {
        self.writes += 1;
        if self.failed.is_some() || self.kept.len() + length > MOST {
            return self.poll_send(cx);
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream that keeps what is written until [`Turns`] sends it; large writes go through. Flushing is left to [`Turns`], too.
pub(crate) struct Gathering<T>(Arc<Mutex<State<T>>>);

/// Polls a connection that writes into a [`Gathering`], and sends what was written in each turn.
pub(crate) struct Turns<T> {
    state: Arc<Mutex<State<T>>>,
    crowded: u8,
    probe: u8,
    /// Others have been let go first.
    let_others: bool,
}

/// Both ends. The lock between them is never contended: they are used by one task.
pub(crate) fn gathering<T: AsyncWrite + Unpin>(inner: T) -> (Gathering<T>, Turns<T>) {
    let state = State { inner, kept: Vec::new(), sent: 0, writes: 0, unflushed: false, failed: None };
    let state = Arc::new(Mutex::new(state));
    (Gathering(Arc::clone(&state)), Turns { state, crowded: 0, probe: 0, let_others: false })
}

impl<T: AsyncWrite + Unpin> Turns<T> {
    /// One turn of `connection`.
    pub(crate) fn poll<C: Future>(&mut self, connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<C::Output> {
        if !std::mem::replace(&mut self.let_others, false) && self.is_crowded() {
            self.let_others = true;
            // The runtime wakes this task when everybody who was ready has run.
            let after_others = pin!(tokio::task::yield_now());
            if after_others.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        let ended = connection.poll(cx);
        let mut state = self.state.lock();
        let several = std::mem::take(&mut state.writes) > 1;
        self.crowded = if several { CROWDED } else { self.crowded.saturating_sub(1) };
        if ended.is_pending()
            && let Poll::Ready(Err(error)) = state.poll_send(cx)
        {
            // Told to the connection at its next turn.
            state.kept.clear();
            state.sent = 0;
            state.failed = Some(error);
            cx.waker().wake_by_ref();
        }
        // A connection at rest holds nothing.
        if self.crowded == 0 && state.kept.is_empty() {
            state.kept = Vec::new();
        }
        ended
    }

    fn is_crowded(&mut self) -> bool {
        self.probe = (self.probe + 1) % PROBE;
        self.crowded > 0 || self.probe == 0
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathering<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathering<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.lock();
        ready!(state.poll_room(cx, buf.len()))?;
        if buf.len() > MOST {
            state.unflushed = true;
            return Pin::new(&mut state.inner).poll_write(cx, buf);
        }
        state.kept.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.lock();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        ready!(state.poll_room(cx, length))?;
        if length > MOST {
            state.unflushed = true;
            return Pin::new(&mut state.inner).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|buf| state.kept.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.lock().failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.lock();
        ready!(state.poll_send(cx))?;
        Pin::new(&mut state.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::task::Waker;

    /// Takes so much at each write, and holds back what it took until so many flushes were tried.
    #[derive(Default)]
    struct Slow {
        takes: VecDeque<usize>,
        flushes: usize,
        held: Vec<u8>,
        sent: Vec<u8>,
        writes: usize,
    }

    impl AsyncRead for Slow {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let Some(takes) = self.takes.pop_front() else { return Poll::Pending };
            let taken = takes.min(buf.len());
            self.held.extend_from_slice(&buf[..taken]);
            self.writes += 1;
            Poll::Ready(Ok(taken))
        }
        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.flushes > 0 {
                self.flushes -= 1;
                return Poll::Pending;
            }
            let held = std::mem::take(&mut self.held);
            self.sent.extend(held);
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    fn turn(turns: &mut Turns<Slow>, mut work: impl FnMut(&mut Context<'_>)) {
        let mut cx = Context::from_waker(Waker::noop());
        let connection = std::future::poll_fn(|cx| {
            work(cx);
            Poll::<()>::Pending
        });
        let mut connection = pin!(connection);
        // A crowded connection lets others go first.
        assert!(turns.poll(connection.as_mut(), &mut cx).is_pending());
        if turns.let_others {
            assert!(turns.poll(connection, &mut cx).is_pending());
        }
    }

    fn write(end: &mut Gathering<Slow>, cx: &mut Context<'_>, text: &[u8]) {
        assert_eq!(Pin::new(&mut *end).poll_write(cx, text).map(Result::unwrap), Poll::Ready(text.len()));
        assert!(Pin::new(end).poll_flush(cx).is_ready());
    }

    #[test]
    fn a_turns_writes_leave_as_one() {
        let (mut end, mut turns) = gathering(Slow { takes: [1000, 1000].into(), ..Slow::default() });
        turn(&mut turns, |cx| {
            write(&mut end, cx, b"one ");
            write(&mut end, cx, b"two");
        });
        let state = turns.state.lock();
        assert_eq!((&state.inner.sent[..], state.inner.writes), (&b"one two"[..], 1));
    }

    #[test]
    fn what_could_not_leave_leaves_at_a_later_turn() {
        let (mut end, mut turns) = gathering(Slow { takes: [2].into(), flushes: 1, ..Slow::default() });
        turn(&mut turns, |cx| write(&mut end, cx, b"one"));
        turns.state.lock().inner.takes.push_back(10);
        // All is taken, and held back below.
        turn(&mut turns, |_| ());
        assert!(turns.state.lock().inner.sent.is_empty());
        turn(&mut turns, |_| ());
        assert_eq!(turns.state.lock().inner.sent, b"one");
    }

    #[test]
    fn more_than_is_kept_waits_for_the_peer() {
        let (mut end, mut turns) = gathering(Slow::default());
        let piece = vec![1; MOST / 2];
        turn(&mut turns, |cx| {
            if turns_hold(&end) == 0 {
                write(&mut end, cx, &piece);
                write(&mut end, cx, &piece);
            }
            assert!(Pin::new(&mut end).poll_write(cx, b"x").is_pending());
        });
        assert_eq!(turns_hold(&end), MOST);
    }

    fn turns_hold(end: &Gathering<Slow>) -> usize {
        end.0.lock().kept.len()
    }
}
