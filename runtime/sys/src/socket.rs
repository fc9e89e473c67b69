//! Who stands at the other end of a unix socket, and who wrote each chunk of its bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use crate::{PidFd, SysError, raw};

/// A process as the kernel vouched for it when it connected or wrote. The number may since have been
/// given to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Process id.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// One chunk of bytes with its sender.
#[derive(Debug)]
pub struct Received {
    /// How many bytes were written to the buffer; 0 at the end of the stream.
    pub len: usize,
    /// Who wrote them, as the writer's kernel credentials (or a privileged writer) say.
    pub sender: Option<Credentials>,
    /// The writer itself. `None` where the kernel could not make a pidfd: treat as unknown.
    pub pidfd: Option<PidFd>,
    /// Descriptors that came along, in the sender's order; each is closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// The process that connected this socket (for a socket from `accept`), as it was then.
///
/// # Errors
/// Where `fd` is no unix socket.
pub fn peer_credentials(fd: impl AsFd) -> Result<Credentials, SysError> {
    let peer =
        getsockopt(&fd, sockopt::PeerCredentials).map_err(|errno| SysError::of_call("SO_PEERCRED", errno))?;
    Ok(Credentials {
        pid: peer.pid(),
        uid: peer.uid(),
        gid: peer.gid(),
    })
}

/// A pidfd of the process that connected this socket.
///
/// # Errors
/// `Unsupported` before Linux 6.5; `Gone` where an older kernel cannot name a process that was reaped.
pub fn peer_pidfd(fd: impl AsFd) -> Result<PidFd, SysError> {
    match getsockopt(&fd, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(PidFd::from_owned(pidfd)),
        Err(Errno::ENOPROTOOPT) => Err(SysError::Unsupported {
            feature: "SO_PEERPIDFD",
            kernel: "6.5",
        }),
        // What kernels before 6.16 say of a peer that has been reaped.
        Err(Errno::EINVAL | Errno::ENODATA) => Err(SysError::Gone),
        Err(errno) => Err(SysError::of_call("SO_PEERPIDFD", errno)),
    }
}

/// Has each received chunk come with its sender's credentials. Sockets accepted later inherit it.
///
/// # Errors
/// Where `fd` is no unix socket.
pub fn pass_credentials(fd: impl AsFd) -> Result<(), SysError> {
    setsockopt(&fd, sockopt::PassCred, &true).map_err(|errno| SysError::of_call("SO_PASSCRED", errno))
}

/// Has each received chunk come with a pidfd of its sender. Sockets accepted later inherit it.
///
/// # Errors
/// `Unsupported` before Linux 6.5.
pub fn pass_pidfd(fd: impl AsFd) -> Result<(), SysError> {
    setsockopt(&fd, raw::PassPidfd, &true).map_err(|errno| match errno {
        Errno::ENOPROTOOPT => SysError::Unsupported {
            feature: "SO_PASSPIDFD",
            kernel: "6.5",
        },
        other => SysError::of_call("SO_PASSPIDFD", other),
    })
}

/// Receives one chunk, without waiting, with its sender. Bytes of two senders never share a chunk.
///
/// # Errors
/// `WouldBlock` where nothing is there yet; `InvalidData` where control data did not fit, so that the
/// sender or descriptors may be missing.
pub fn receive_with_sender(fd: impl AsFd, buf: &mut [u8]) -> io::Result<Received> {
    let received = raw::receive(fd.as_fd(), buf)?;
    if received.control_truncated {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "control data of a received chunk was cut off",
        ));
    }
    Ok(Received {
        len: received.len,
        sender: received.sender.map(|sender| Credentials {
            pid: sender.pid,
            uid: sender.uid,
            gid: sender.gid,
        }),
        pidfd: received.pidfd.map(PidFd::from_owned),
        descriptors: received.descriptors,
    })
}
