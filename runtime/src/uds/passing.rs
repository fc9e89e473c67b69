//! The other end of a guarded connection whose listener keeps descriptors: passes three along with its first bytes.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use super::Passed;

/// A connection whose first bytes may take descriptors along. They are closed here once they have left.
#[derive(Debug)]
pub struct PassingStream {
    inner: UnixStream,
    passed: Option<Passed>,
}

impl PassingStream {
    /// Connects; `passed` leaves with the first bytes that are written.
    ///
    /// # Errors
    /// Where nobody listens on `path`, or it is not open to this user.
    pub async fn connect(path: &Path, passed: Option<Passed>) -> io::Result<Self> {
        let inner = UnixStream::connect(path).await?;
        Ok(Self { inner, passed })
    }
}

fn send(socket: &UnixStream, bytes: &[u8], passed: &Passed) -> io::Result<usize> {
    let numbers: Vec<RawFd> = passed.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let parts = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, flags, None)?)
}

impl AsyncRead for PassingStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, to)
    }
}

impl AsyncWrite for PassingStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Descriptors need bytes to go with.
        let Some(passed) = this.passed.take_if(|_| !bytes.is_empty()) else {
            return Pin::new(&mut this.inner).poll_write(cx, bytes);
        };
        let written = loop {
            match this.inner.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            let sending = || send(&this.inner, bytes, &passed);
            match this.inner.try_io(Interest::WRITABLE, sending) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break Poll::Ready(other),
            }
        };
        if written.is_pending() {
            this.passed = Some(passed);
        }
        Poll::Ready(ready!(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.passed.is_some() {
            let first = parts.iter().find(|part| !part.is_empty());
            return self.poll_write(cx, first.map(|part| &**part).unwrap_or_default());
        }
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
