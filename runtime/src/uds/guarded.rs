//! Connections that only the process that made them may write to. A socket is inherited by children and can
//! be passed to others: who wrote each chunk, the kernel says (DESIGN §5.4). A chunk from anyone else ends
//! the connection before a byte of it reaches HTTP/2. Who merely reads a socket it inherited is not noticed.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;
use vouchsafe_sys::{
    Received, SysError, pass_credentials, pass_pidfd, peer_credentials, receive_with_sender,
};

use super::frames::{FrameError, PingPayload};
use super::limits::{LimitError, Limiter, Permit};
use super::listener::bind_with;
use super::mended::{CHUNK_BYTES, Mended};
use super::peer::{Passed, PeerError};
use super::throttle::Throttle;
use super::{BindError, ConnectionLimits, Listener, Peer, Presence, SocketConfig};

/// How long accepting rests where the process has no descriptor left.
pub(super) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Why a connection was ended. Comes as the source of the `io::Error` that the HTTP/2 server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// Another process wrote on the connection.
    #[error("process {sender_pid} wrote on the connection of process {connector_pid}")]
    ForeignSender {
        /// Who connected.
        connector_pid: i32,
        /// Who wrote.
        sender_pid: i32,
    },
    /// The kernel did not say who wrote: the writer was gone, or we have no descriptor left.
    #[error("it is not known who wrote on the connection of process {connector_pid}")]
    UnknownSender {
        /// Who connected.
        connector_pid: i32,
    },
    /// Descriptors came that a listener which keeps them does not take: it takes three, with the first bytes.
    #[error(
        "process {connector_pid} passed {count} descriptors; three are taken, with the first bytes of a connection, and no others"
    )]
    Descriptors {
        /// Who connected.
        connector_pid: i32,
        /// How many came at once.
        count: usize,
    },
    /// What came is not HTTP/2.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl From<GuardError> for io::Error {
    fn from(error: GuardError) -> Self {
        let kind = match error {
            GuardError::ForeignSender { .. } | GuardError::UnknownSender { .. } => {
                io::ErrorKind::PermissionDenied
            }
            GuardError::Descriptors { .. } | GuardError::Frame(_) => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Accepts guarded connections.
#[derive(Debug)]
pub struct GuardedListener {
    listener: Listener,
    limiter: Arc<Limiter>,
    refusals: Throttle,
    /// Shared by the connections, so that many of them cannot flood the log either.
    endings: Arc<Throttle>,
    descriptors: Descriptors,
}

/// What becomes of descriptors that come along with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Descriptors {
    /// They are closed.
    Closed,
    /// Nothing was read yet: three may come.
    Awaited,
    /// Any more end the connection.
    Over,
}

/// One guarded connection.
#[derive(Debug)]
pub struct GuardedStream {
    inner: Arc<UnixStream>,
    presence: Arc<Presence>,
    peer: Arc<Peer>,
    mended: Mended,
    ended: Option<GuardError>,
    endings: Arc<Throttle>,
    descriptors: Descriptors,
    _permit: Permit,
}

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the kernel does not say who connected")]
    Credentials(#[source] SysError),
}

impl GuardedListener {
    /// Binds a socket whose connections are guarded from the first one on. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// As `uds::bind`; `Kernel` where the kernel does not say who wrote (before Linux 6.5).
    pub fn bind(config: &SocketConfig, limits: ConnectionLimits) -> Result<Self, BindError> {
        let listener = bind_with(config, demand_senders)?;
        Ok(Self {
            listener,
            limiter: Limiter::new(limits),
            refusals: Throttle::new(),
            endings: Arc::new(Throttle::new()),
            descriptors: Descriptors::Closed,
        })
    }

    /// Keeps three descriptors that a connector passes along with the first bytes of its connection
    /// ([`Peer::take_descriptors`]). Any others end the connection; without this all are closed.
    #[must_use]
    pub fn keeping_descriptors(self) -> Self {
        Self {
            descriptors: Descriptors::Awaited,
            ..self
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        self.listener.path()
    }

    /// The next connection that is within the limits and whose connector still runs. Others are closed.
    ///
    /// # Errors
    /// Where the socket itself fails for good.
    pub async fn accept(&self) -> io::Result<GuardedStream> {
        loop {
            let stream = accept_patiently(&self.listener, &self.refusals).await?;
            match self.admit(stream) {
                Ok(stream) => return Ok(stream),
                Err(refused) => self.tell(&refused),
            }
        }
    }

    /// All connections to come. The socket's file goes when it is dropped.
    pub fn into_incoming(self) -> impl Stream<Item = io::Result<GuardedStream>> + Send {
        futures_util::stream::unfold(self, async |listener| Some((listener.accept().await, listener)))
    }

    fn admit(&self, stream: UnixStream) -> Result<GuardedStream, Refused> {
        let credentials = peer_credentials(&stream).map_err(Refused::Credentials)?;
        let permit = self.limiter.admit(credentials.uid)?;
        let peer = Arc::new(Peer::of(&stream, credentials)?);
        let inner = Arc::new(stream);
        Ok(GuardedStream {
            presence: Arc::new(Presence::new(Arc::clone(&inner))),
            inner,
            peer,
            mended: Mended::default(),
            ended: None,
            endings: Arc::clone(&self.endings),
            descriptors: self.descriptors,
            _permit: permit,
        })
    }

    fn tell(&self, refused: &Refused) {
        if let Some(suppressed) = self.refusals.permit() {
            let error = refused as &dyn std::error::Error;
            let path = self.path().display();
            tracing::warn!(error, %path, suppressed, "a connection was refused");
        }
    }
}

/// Has every accepted connection say who wrote each chunk.
fn demand_senders(socket: BorrowedFd<'_>) -> Result<(), SysError> {
    pass_credentials(socket)?;
    pass_pidfd(socket)
}

/// Accepts; where descriptors or memory have run out for now, says so and tries again after a rest.
pub(super) async fn accept_patiently(listener: &Listener, warnings: &Throttle) -> io::Result<UnixStream> {
    loop {
        let error = match listener.accept().await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNABORTED | Errno::EINTR) => {}
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
                if let Some(suppressed) = warnings.permit() {
                    tracing::warn!(%error, suppressed, "no connection can be accepted for now");
                }
                tokio::time::sleep(ACCEPT_REST).await;
            }
            _ => return Err(error),
        }
    }
}

impl GuardedStream {
    /// The process that connected.
    #[must_use]
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// By which the process that connected can be asked to answer, while the connection is read.
    #[must_use]
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    fn poll_receive(&self, cx: &mut Context<'_>, chunk: &mut [u8]) -> Poll<io::Result<Received>> {
        loop {
            ready!(self.inner.poll_read_ready(cx))?;
            let received = self
                .inner
                .try_io(Interest::READABLE, || receive_with_sender(&*self.inner, chunk));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Whether the connector wrote this chunk.
    fn check_sender(&self, received: &Received) -> Result<(), GuardError> {
        let connector_pid = self.peer.credentials().pid;
        let unknown = GuardError::UnknownSender { connector_pid };
        let (Some(sender), Some(pidfd)) = (received.sender, &received.pidfd) else {
            return Err(unknown);
        };
        let identity = pidfd.identity().map_err(|_| unknown)?;
        if identity == self.peer.identity() {
            return Ok(());
        }
        Err(GuardError::ForeignSender {
            connector_pid,
            sender_pid: sender.pid,
        })
    }

    /// Keeps what came along, or closes it. To be asked only of what the connector wrote.
    fn take_along(&mut self, passed: Vec<OwnedFd>) -> Result<(), GuardError> {
        let awaited = self.descriptors == Descriptors::Awaited;
        if awaited {
            self.descriptors = Descriptors::Over;
        }
        if passed.is_empty() || self.descriptors == Descriptors::Closed {
            return Ok(());
        }
        let connector_pid = self.peer.credentials().pid;
        let count = passed.len();
        match (awaited, <Passed>::try_from(passed)) {
            (true, Ok(passed)) => {
                self.peer.keep_descriptors(passed);
                Ok(())
            }
            _ => Err(GuardError::Descriptors { connector_pid, count }),
        }
    }

    /// Ends the connection: nothing is read or written any more.
    fn end(&mut self, error: GuardError) {
        self.ended = Some(error);
        drop(self.peer.take_descriptors());
        let Some(suppressed) = self.endings.permit() else {
            return;
        };
        let uid = self.peer.credentials().uid;
        match error {
            GuardError::ForeignSender {
                connector_pid,
                sender_pid,
            } => {
                tracing::warn!(
                    connector_pid,
                    sender_pid,
                    uid,
                    suppressed,
                    "another process wrote on a connection: ended"
                );
            }
            GuardError::UnknownSender { connector_pid } => {
                tracing::warn!(
                    connector_pid,
                    uid,
                    suppressed,
                    "an unknown process wrote on a connection: ended"
                );
            }
            GuardError::Descriptors { connector_pid, count } => {
                tracing::warn!(
                    connector_pid,
                    uid,
                    count,
                    suppressed,
                    "a connection passed descriptors that are not taken: ended"
                );
            }
            GuardError::Frame(error) => {
                let connector_pid = self.peer.credentials().pid;
                tracing::warn!(connector_pid, uid, suppressed, %error, "a connection does not speak HTTP/2: ended");
            }
        }
    }

    fn check_open(&self) -> io::Result<()> {
        self.ended.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Drop for GuardedStream {
    /// What nobody took goes with the connection, even where the peer is still held.
    fn drop(&mut self) {
        drop(self.peer.take_descriptors());
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.mended.give(to) || to.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            this.check_open()?;
            let mut chunk = [0; CHUNK_BYTES];
            let mut received = ready!(this.poll_receive(cx, &mut chunk))?;
            if received.len == 0 {
                return Poll::Ready(Ok(()));
            }
            let bytes = chunk.get(..received.len).unwrap_or_default();
            let passed = std::mem::take(&mut received.descriptors);
            let taken = this.check_sender(&received);
            // Only what the connector wrote can pass anything along, or prove that it is there.
            let taken = taken.and_then(|()| this.take_along(passed)).and_then(|()| {
                let claim = |answer: &PingPayload| this.presence.claim(answer);
                this.mended.push_claiming(bytes, claim).map_err(GuardError::from)
            });
            if let Err(error) = taken {
                this.end(error);
            }
        }
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_open()?;
        self.presence.poll_write(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(self.inner.as_raw_fd(), Shutdown::Write).map_err(io::Error::from))
    }
}

impl Connected for GuardedStream {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.peer)
    }
}
