//! The process at the other end of a connection. Handlers find it in a request's extensions.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use vouchsafe_sys::{Credentials, PidFd, ProcessIdentity, SysError, Watched, peer_credentials, peer_pidfd};

/// The process that connected, and that alone wrote what was read: held by a pidfd, so that its number
/// cannot pass to another one unnoticed.
#[derive(Debug)]
pub struct Peer {
    credentials: Credentials,
    identity: ProcessIdentity,
    pidfd: Watched<PidFd>,
    /// What it passed along, as long as nobody has taken it and the connection lasts.
    passed: Mutex<Option<Passed>>,
}

/// Standard input, output and error for a program, as a connector passes them along with its first bytes.
pub type Passed = [OwnedFd; 3];

/// The process at the other end of an admin socket, as it was when it connected. To be logged: what it may
/// do rests on its having been able to open the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainPeer {
    /// Process id when it connected.
    pub pid: i32,
    /// Effective user id when it connected.
    pub uid: u32,
    /// Effective group id when it connected.
    pub gid: u32,
}

/// Why a process cannot be a peer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// It connected and ended.
    #[error("the process that connected is gone")]
    Gone,
    #[error("the process that connected cannot be held")]
    Kernel(#[source] SysError),
    #[error("the process that connected cannot be watched")]
    Watch(#[source] io::Error),
}

impl From<SysError> for PeerError {
    fn from(error: SysError) -> Self {
        match error {
            SysError::Gone => Self::Gone,
            other => Self::Kernel(other),
        }
    }
}

impl Peer {
    /// The process that connected `socket`.
    pub(super) fn of(socket: impl AsFd, credentials: Credentials) -> Result<Self, PeerError> {
        let pidfd = peer_pidfd(&socket)?;
        let identity = pidfd.identity()?;
        if !pidfd.is_alive() {
            return Err(PeerError::Gone);
        }
        let pidfd = Watched::new(pidfd).map_err(PeerError::Watch)?;
        Ok(Self {
            credentials,
            identity,
            pidfd,
            passed: Mutex::new(None),
        })
    }

    /// Takes the descriptors that it passed along with the first bytes of the connection: all three, and once.
    /// `None` where it passed none, or the listener does not keep them.
    #[must_use]
    pub fn take_descriptors(&self) -> Option<Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn keep_descriptors(&self, passed: Passed) {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner) = Some(passed);
    }

    /// Its ids when it connected.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.credentials
    }

    /// Which process it is, to compare with another's.
    #[must_use]
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// The process itself.
    #[must_use]
    pub fn pidfd(&self) -> &PidFd {
        self.pidfd.get()
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.pidfd().is_alive()
    }

    /// Waits until the process has exited. Ready as well where it can no longer be watched: who cannot be
    /// watched is treated as gone.
    pub async fn ended(&self) {
        while let Ok(mut guard) = self.pidfd.readable().await {
            if !self.is_alive() {
                return;
            }
            guard.clear_ready();
        }
    }
}

impl PlainPeer {
    pub(super) fn of(socket: impl AsFd) -> Result<Self, SysError> {
        let Credentials { pid, uid, gid } = peer_credentials(socket)?;
        Ok(Self { pid, uid, gid })
    }
}
