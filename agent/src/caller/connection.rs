//! Connections of callers: each is watched as long as it lasts, and ends when its process ends or becomes another
//! program.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use vouchsafe_attestors::Process;
use vouchsafe_runtime::TaskGroup;
use vouchsafe_runtime::uds::{GuardedListener, GuardedStream, Peer, Presence};
use vouchsafe_workload_attestors::Fingerprint;

use super::exec::Suspicions;
use super::{CallerError, ExecWatch, Gate};

/// Accepted connections that wait for the HTTP/2 server.
const WAITING: usize = 64;

/// What is known of a connection. Handlers find it in a request's extensions.
#[derive(Debug)]
pub struct Connection {
    /// The process that connected.
    pub peer: Arc<Peer>,
    pub(super) presence: Arc<Presence>,
    first: Result<(Process, Fingerprint), String>,
    suspicions: Suspicions,
    condemned: CancellationToken,
}

impl Connection {
    /// What the process was when it connected.
    pub(super) fn first(&self) -> Result<&(Process, Fingerprint), CallerError> {
        self.first
            .as_ref()
            .map_err(|reason| CallerError::UnmeasuredAtFirst(reason.clone()))
    }

    /// The process that connected, as it was then.
    pub(crate) fn process(&self) -> Result<&Process, CallerError> {
        Ok(&self.first()?.0)
    }

    /// Passes on what was found; the connection ends where its process is another program now.
    pub(super) fn unless_changed<T>(&self, found: Result<T, CallerError>) -> Result<T, CallerError> {
        if matches!(found, Err(CallerError::Changed)) {
            self.condemned.cancel();
        }
        found
    }

    /// Whether its process lives and has executed nothing else, as far as the kernel tells of that.
    pub(super) fn check_told(&self) -> Result<(), CallerError> {
        if !self.peer.is_alive() {
            return Err(CallerError::Gone);
        }
        match self.suspicions.has_executed() || self.condemned.is_cancelled() {
            true => self.unless_changed(Err(CallerError::Changed)),
            false => Ok(()),
        }
    }
}

/// Accepts connections, takes down what each process is, and watches it. The stream ends when the group stops.
pub fn incoming(
    listener: GuardedListener,
    gate: Arc<Gate>,
    execs: ExecWatch,
    group: &TaskGroup,
) -> impl Stream<Item = io::Result<CallerStream>> + use<> {
    let (accepted, waiting) = mpsc::channel(WAITING);
    let tasks = group.clone();
    let stopping = group.stopping();
    group.essential("workload connections", async move {
        loop {
            let stream = tokio::select! {
                () = stopping.cancelled() => return Ok::<(), io::Error>(()),
                stream = listener.accept() => stream?,
            };
            let (gate, execs, accepted) = (Arc::clone(&gate), execs.clone(), accepted.clone());
            tasks.passing("workload connection", async move {
                if let Some((stream, watched)) = admit(stream, &gate, &execs).await
                    && accepted.send(Ok(stream)).await.is_ok()
                {
                    watch(&watched, &gate).await;
                }
            });
        }
    });
    ReceiverStream::new(waiting)
}

pub(super) async fn admit(
    stream: GuardedStream,
    gate: &Gate,
    execs: &ExecWatch,
) -> Option<(CallerStream, Arc<Connection>)> {
    let peer = Arc::clone(stream.peer());
    // Listening to execs begins before the first look, so that none falls between.
    let suspicions = execs.of(peer.credentials().pid);
    let first = match gate.first_look(&peer).await {
        Err(CallerError::Gone) => return None,
        Err(error) => Err(tonic::Status::from(error).message().to_owned()),
        Ok(first) => Ok(first),
    };
    let connection = Arc::new(Connection {
        peer,
        presence: Arc::clone(stream.presence()),
        first,
        suspicions,
        condemned: CancellationToken::new(),
    });
    Some((CallerStream::new(stream, Arc::clone(&connection)), connection))
}

/// Ends a connection when its process ends or becomes another program; returns when it has ended.
async fn watch(connection: &Connection, gate: &Gate) {
    let Connection { peer, condemned, .. } = connection;
    loop {
        tokio::select! {
            () = condemned.cancelled() => return,
            () = peer.ended() => {
                tracing::debug!(pid = peer.credentials().pid, "the caller has ended: so does its connection");
                condemned.cancel();
                return;
            }
            () = connection.suspicions.next() => {
                if let Err(error) = gate.check_now(connection).await {
                    let pid = peer.credentials().pid;
                    tracing::info!(pid, %error, "a connection was ended");
                    condemned.cancel();
                    return;
                }
            }
        }
    }
}

/// A connection of a caller, which ends when it is condemned.
#[derive(Debug)]
pub struct CallerStream {
    inner: GuardedStream,
    connection: Arc<Connection>,
    condemned: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Tells the watch that the connection is gone.
    _gone: DropGuard,
}

impl CallerStream {
    fn new(inner: GuardedStream, connection: Arc<Connection>) -> Self {
        let condemned = Box::pin(connection.condemned.clone().cancelled_owned());
        let gone = connection.condemned.clone().drop_guard();
        Self {
            inner,
            connection,
            condemned,
            _gone: gone,
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.condemned.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the process that connected has ended or is another program now",
            )),
        }
    }
}

impl AsyncRead for CallerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check(cx)?;
        Pin::new(&mut this.inner).poll_read(cx, to)
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(cx)?;
        Pin::new(&mut this.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(cx)?;
        Pin::new(&mut this.inner).poll_write_vectored(cx, parts)
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

impl Connected for CallerStream {
    type ConnectInfo = Arc<Connection>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.connection)
    }
}
