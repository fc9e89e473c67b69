//! Connections to admin sockets: whoever could open the socket may speak. `:authority` is mended here too,
//! so that administrators may use any gRPC library.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

use super::frames::FrameError;
use super::guarded::accept_patiently;
use super::limits::{Limiter, Permit};
use super::mended::{CHUNK_BYTES, Mended};
use super::throttle::Throttle;
use super::{ConnectionLimits, Listener, PlainPeer};

/// Accepts connections to an admin socket.
#[derive(Debug)]
pub struct PlainListener {
    listener: Listener,
    limiter: Arc<Limiter>,
    refusals: Throttle,
}

/// One connection to an admin socket.
#[derive(Debug)]
pub struct PlainStream {
    inner: UnixStream,
    peer: PlainPeer,
    mended: Mended,
    ended: Option<FrameError>,
    _permit: Permit,
}

impl PlainListener {
    /// Serves a socket that `uds::bind` bound.
    #[must_use]
    pub fn new(listener: Listener, limits: ConnectionLimits) -> Self {
        Self {
            listener,
            limiter: Limiter::new(limits),
            refusals: Throttle::new(),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        self.listener.path()
    }

    /// The next connection that is within the limits. Others are closed.
    ///
    /// # Errors
    /// Where the socket itself fails for good.
    pub async fn accept(&self) -> io::Result<PlainStream> {
        loop {
            let inner = accept_patiently(&self.listener, &self.refusals).await?;
            let refused: Box<dyn std::error::Error> = match PlainPeer::of(&inner) {
                Ok(peer) => match self.limiter.admit(peer.uid) {
                    Ok(permit) => {
                        let mended = Mended::default();
                        return Ok(PlainStream {
                            inner,
                            peer,
                            mended,
                            ended: None,
                            _permit: permit,
                        });
                    }
                    Err(error) => error.into(),
                },
                Err(error) => error.into(),
            };
            if let Some(suppressed) = self.refusals.permit() {
                let error = refused.as_ref();
                tracing::warn!(error, path = %self.path().display(), suppressed, "a connection was refused");
            }
        }
    }

    /// All connections to come. The socket's file goes when it is dropped.
    pub fn into_incoming(self) -> impl Stream<Item = io::Result<PlainStream>> + Send {
        futures_util::stream::unfold(self, async |listener| Some((listener.accept().await, listener)))
    }
}

impl PlainStream {
    /// The process that connected.
    #[must_use]
    pub fn peer(&self) -> PlainPeer {
        self.peer
    }
}

impl AsyncRead for PlainStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.mended.give(to) || to.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.ended {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            let mut chunk = [0; CHUNK_BYTES];
            let mut received = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut received))?;
            if received.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.ended = this.mended.push(received.filled()).err();
        }
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

impl Connected for PlainStream {
    type ConnectInfo = PlainPeer;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer
    }
}
