//! The floor under figure 3: what an answer to a process costs that is not left unmeasured. Who wrote each chunk is
//! looked at, the caller answers a PING, is then read once for what its selectors rest on, and its program is still that which
//! connected. No limits, no deadlines, no entries, no metrics, no thread that a read may keep.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;
use tonic::transport::server::Connected;
use vouchsafe_runtime::Handed;
use vouchsafe_runtime::uds::{
    ConnectionLimits, GuardedListener, GuardedStream, Peer, Presence, SocketConfig,
};
use vouchsafe_sys::AuxiliaryVector;

/// How long a caller may take to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What tells one program from another, and one user.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    ids: (u32, u32),
    file: (u64, u64),
    layout: Vec<u8>,
    image: [u8; 16],
}

/// The process that made a connection.
#[derive(Debug, Clone)]
pub struct Connector {
    peer: Arc<Peer>,
    presence: Arc<Presence>,
    /// What it was when it connected; nothing where that could not be seen.
    at_first: Arc<Option<Program>>,
}

impl Connector {
    /// Makes sure who calls.
    ///
    /// # Errors
    /// When that cannot be.
    pub async fn attest(&self) -> Result<(), Status> {
        self.presence.prove(WITHIN).await.map_err(unknown)?;
        self.read().map_err(unknown)?;
        if Some(look(&self.peer).map_err(unknown)?) != *self.at_first {
            return Err(Status::aborted("the caller is another program now"));
        }
        Ok(())
    }

    /// Groups, path, and whether the file is still the one of that path.
    fn read(&self) -> io::Result<()> {
        let pid = self.peer.credentials().pid;
        let status = fs::read(format!("/proc/{pid}/status"))?;
        let path = fs::read_link(format!("/proc/{pid}/exe"))?;
        let here = fs::metadata(path)?;
        if status.is_empty() || !here.is_file() {
            return Err(io::Error::other("the caller has no program"));
        }
        Ok(())
    }
}

fn look(peer: &Peer) -> io::Result<Program> {
    let pid = peer.credentials().pid;
    let info = peer.pidfd().info().map_err(io::Error::other)?;
    let file = fs::metadata(format!("/proc/{pid}/exe"))?;
    let vector = AuxiliaryVector::of(pid).map_err(io::Error::other)?;
    let image = vector.at_random().map_err(io::Error::other)?;
    if !peer.is_alive() {
        return Err(io::Error::other("the caller has ended"));
    }
    Ok(Program {
        ids: (info.euid, info.egid),
        file: (file.dev(), file.ino()),
        layout: vector.expose().to_vec(),
        image: *image.expose(),
    })
}

fn unknown(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// Connections on a socket that is bound now.
///
/// # Errors
/// When it cannot be bound.
pub fn incoming(socket: &Path) -> anyhow::Result<impl Stream<Item = io::Result<Asked>> + Send + use<>> {
    let limits = ConnectionLimits {
        max_connections: 8192,
        max_connections_per_uid: 8192,
    };
    let config = SocketConfig {
        path: socket.to_owned(),
        mode: 0o600,
        group: None,
        handed: Handed::default(),
    };
    let listener = GuardedListener::bind(&config, limits)?;
    Ok(Box::pin(listener.into_incoming()).map(|stream| stream.map(Asked)))
}

/// A connection whose handlers find the [`Connector`].
#[derive(Debug)]
pub struct Asked(GuardedStream);

impl AsyncRead for Asked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl AsyncWrite for Asked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Connected for Asked {
    type ConnectInfo = Connector;

    fn connect_info(&self) -> Connector {
        Connector {
            peer: Arc::clone(self.0.peer()),
            presence: Arc::clone(self.0.presence()),
            at_first: Arc::new(look(self.0.peer()).ok()),
        }
    }
}
