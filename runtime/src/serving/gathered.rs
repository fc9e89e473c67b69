//! What a connection writes leaves when its turn ends: HTTP/2 flushes before and after each larger frame, and each time
//! would be a TLS record and a system call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

/// Most that is held back, in bytes; what is more leaves at once.
const HELD_BYTES: usize = 4 * 1024;

/// A connection that HTTP/2 cannot flush. Clones are the same connection.
pub(super) struct Gathered<T>(Arc<Mutex<BufWriter<T>>>);

impl<T> Clone for Gathered<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Gathered<T> {
    pub(super) fn new(connection: T) -> Self {
        Self(Arc::new(Mutex::new(BufWriter::with_capacity(
            HELD_BYTES, connection,
        ))))
    }

    /// Sends what was held back.
    pub(super) fn poll_sent(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|connection| connection.poll_flush(context))
    }

    /// Only the connection's own task asks for it, so that nobody waits.
    fn with<R>(&self, act: impl FnOnce(Pin<&mut BufWriter<T>>) -> R) -> R {
        let mut connection: MutexGuard<'_, _> = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(Pin::new(&mut *connection))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|connection| connection.poll_read(context, bytes))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|connection| connection.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|connection| connection.poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.with(|connection| connection.is_write_vectored())
    }

    /// Nothing leaves before the turn ends.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|connection| connection.poll_shutdown(context))
    }
}
