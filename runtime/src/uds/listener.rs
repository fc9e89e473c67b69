//! Binds a unix socket that has its mode from its first moment on, takes the place of one that nobody
//! listens on any more, and removes its file when dropped, if it is still the one that was made.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, fchownat};
use tokio::net::UnixListener;
use vouchsafe_sys::SysError;

use crate::handed::Handed;

/// Longest path of a unix socket (`sockaddr_un` has room for 108 bytes with the closing zero).
pub const MAX_PATH_BYTES: usize = 107;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Mode of the socket's file before it has its owner and listens.
const PRIVATE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// Where a socket stands and who may connect.
#[derive(Debug, Clone)]
pub struct SocketConfig {
    /// The socket's file. Its folder must exist.
    pub path: PathBuf,
    /// The file's mode, as in `0o600`. Who may write to it may connect.
    pub mode: u32,
    /// The file's group, by name or number; the process's own where there is none.
    pub group: Option<String>,
    /// Sockets that a service manager bound already: the one at `path` is taken, with the mode and group that it has.
    pub handed: Handed,
}

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path does not fit into a socket address.
    #[error(
        "the socket path `{}` has {len} bytes, more than the {MAX_PATH_BYTES} that a unix socket allows; choose a shorter one",
        path.display()
    )]
    TooLong {
        /// The path as configured.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// The mode has bits that a socket does not.
    #[error("the socket mode `{mode:o}` is not a mode between 0 and 777; use 600 or 660, for example")]
    Mode {
        /// The mode as configured.
        mode: u32,
    },
    /// The socket that was handed over may be opened by more users than the configuration wants.
    #[error(
        "the socket `{}` that the service manager handed over has mode {mode:o}, more than {most:o}: set `SocketMode=0{most:o}` \
         in its unit", path.display()
    )]
    Open {
        /// The path as configured.
        path: PathBuf,
        /// The mode of its file.
        mode: u32,
        /// The mode that is wanted.
        most: u32,
    },
    /// The group does not exist.
    #[error("there is no group `{group}` on this machine; create it, or name another one")]
    UnknownGroup {
        /// The group as configured.
        group: String,
    },
    /// Another process listens there.
    #[error("another process listens on `{}`; stop it, or choose another socket path", path.display())]
    Taken {
        /// The path as configured.
        path: PathBuf,
    },
    /// Something that is no socket stands there. It is never removed.
    #[error("`{}` exists and is not a socket; remove it, or choose another socket path", path.display())]
    NotASocket {
        /// The path as configured.
        path: PathBuf,
    },
    /// The folder is missing.
    #[error("the folder of the socket `{}` does not exist; create it", path.display())]
    NoFolder {
        /// The path as configured.
        path: PathBuf,
    },
    /// The kernel lacks what the socket needs.
    #[error("the socket `{}` cannot be guarded on this kernel", path.display())]
    Kernel {
        /// The path as configured.
        path: PathBuf,
        /// What is missing.
        #[source]
        source: SysError,
    },
    /// Any other failure.
    #[error("{what} the socket `{}` failed", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The path as configured.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

/// A listening socket and its file.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
    file: SocketFile,
    /// Options that connections did not get from the listener, for they were made before it had them.
    late: Option<Prepare>,
}

/// Sets options of a socket.
pub(super) type Prepare = fn(BorrowedFd<'_>) -> Result<(), SysError>;

/// The socket's file, removed when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    file: Pinned,
    /// Whether the file was made here.
    made: bool,
}

/// A file that is held, not opened: while it is, no other file can have its inode, whatever becomes of
/// its name.
#[derive(Debug)]
struct Pinned(File);

/// Binds a socket for admin clients, and listens. Must be called within a tokio runtime.
///
/// # Errors
/// Names the path and the next step.
pub fn bind(config: &SocketConfig) -> Result<Listener, BindError> {
    bind_with(config, |_| Ok(()))
}

/// The same, with options that are set before anyone can connect.
pub(super) fn bind_with(config: &SocketConfig, prepare: Prepare) -> Result<Listener, BindError> {
    let at = Site { path: &config.path };
    at.check(config)?;
    if let Some(handed) = config.handed.unix(&config.path) {
        return at.adopt(handed, config.mode, prepare);
    }
    let group = config.group.as_deref().map(|name| at.group(name)).transpose()?;
    at.clear()?;

    let socket = at.socket(SockFlag::SOCK_NONBLOCK)?;
    prepare(socket.as_fd()).map_err(|source| BindError::Kernel {
        path: config.path.clone(),
        source,
    })?;
    at.make(&socket)?;
    let file = at.settle(config.mode, group)?;
    let backlog = Backlog::new(BACKLOG).map_err(|errno| at.failed("listening on", errno))?;
    listen(&socket, backlog).map_err(|errno| at.failed("listening on", errno))?;
    if !file.is_still_ours() {
        // Another process took the path between bind and listen.
        return Err(BindError::Taken {
            path: config.path.clone(),
        });
    }
    let inner = UnixListener::from_std(socket.into()).map_err(|error| at.io("listening on", error))?;
    Ok(Listener {
        inner,
        file,
        late: None,
    })
}

impl Listener {
    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub(super) async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        let (stream, _) = self.inner.accept().await?;
        if let Some(prepare) = self.late {
            prepare(stream.as_fd()).map_err(io::Error::other)?;
        }
        Ok(stream)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl SocketFile {
    fn is_still_ours(&self) -> bool {
        self.file.is_at(&self.path).unwrap_or(false)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.made
            && self.is_still_ours()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file could not be removed");
        }
    }
}

impl Pinned {
    fn at(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self(File::from(open(path, flags, Mode::empty())?)))
    }

    /// Whether this very file stands at `path`.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let (own, there) = (self.0.metadata()?, fs::symlink_metadata(path)?);
        Ok(own.dev() == there.dev() && own.ino() == there.ino())
    }
}

/// Whether this host has a group of that name, or the name is a number.
///
/// # Errors
/// [`BindError::UnknownGroup`]. That groups cannot be looked up is found out when a socket is bound.
pub fn check_group(name: &str) -> Result<(), BindError> {
    match find_group(name) {
        Ok(None) => Err(BindError::UnknownGroup {
            group: name.to_owned(),
        }),
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}

fn find_group(name: &str) -> nix::Result<Option<Gid>> {
    if let Ok(gid) = name.parse() {
        return Ok(Some(Gid::from_raw(gid)));
    }
    Ok(Group::from_name(name)?.map(|group| group.gid))
}

/// One path, and what may go wrong there.
struct Site<'a> {
    path: &'a Path,
}

impl Site<'_> {
    fn io(&self, what: &'static str, source: io::Error) -> BindError {
        BindError::Io {
            what,
            path: self.path.to_path_buf(),
            source,
        }
    }

    fn failed(&self, what: &'static str, errno: Errno) -> BindError {
        self.io(what, errno.into())
    }

    fn check(&self, config: &SocketConfig) -> Result<(), BindError> {
        let len = self.path.as_os_str().len();
        if len > MAX_PATH_BYTES {
            return Err(BindError::TooLong {
                path: self.path.to_path_buf(),
                len,
            });
        }
        if config.mode > 0o777 {
            return Err(BindError::Mode { mode: config.mode });
        }
        Ok(())
    }

    /// Listens on a socket that a service manager bound; its file stays when the listener is dropped.
    fn adopt(
        &self,
        handed: std::os::unix::net::UnixListener,
        most: u32,
        prepare: Prepare,
    ) -> Result<Listener, BindError> {
        let file = Pinned::at(self.path).map_err(|error| self.io("looking at", error))?;
        let metadata = file.0.metadata().map_err(|error| self.io("looking at", error))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & !most != 0 {
            return Err(BindError::Open {
                path: self.path.to_path_buf(),
                mode,
                most,
            });
        }
        prepare(handed.as_fd()).map_err(|source| BindError::Kernel {
            path: self.path.to_path_buf(),
            source,
        })?;
        let inner = UnixListener::from_std(handed).map_err(|error| self.io("listening on", error))?;
        Ok(Listener {
            inner,
            file: SocketFile {
                path: self.path.to_path_buf(),
                file,
                made: false,
            },
            late: Some(prepare),
        })
    }

    fn group(&self, name: &str) -> Result<Gid, BindError> {
        let found = find_group(name).map_err(|errno| self.failed("looking up the group of", errno))?;
        found.ok_or_else(|| BindError::UnknownGroup {
            group: name.to_owned(),
        })
    }

    fn address(&self) -> Result<UnixAddr, BindError> {
        UnixAddr::new(self.path).map_err(|errno| self.failed("naming", errno))
    }

    fn socket(&self, flags: SockFlag) -> Result<OwnedFd, BindError> {
        socket(
            AddressFamily::Unix,
            SockType::Stream,
            flags | SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(|errno| self.failed("making", errno))
    }

    /// Makes way where a socket is left over that nobody listens on.
    fn clear(&self) -> Result<(), BindError> {
        let stale = match Pinned::at(self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.io("looking at", error)),
        };
        let metadata = stale.0.metadata().map_err(|error| self.io("looking at", error))?;
        if !metadata.file_type().is_socket() {
            return Err(BindError::NotASocket {
                path: self.path.to_path_buf(),
            });
        }
        let probe = self.socket(SockFlag::SOCK_NONBLOCK)?;
        match connect(probe.as_raw_fd(), &self.address()?) {
            Err(Errno::ECONNREFUSED) => self.remove(&stale),
            Err(Errno::ENOENT) => Ok(()),
            // EAGAIN: a listener that is behind. EPROTOTYPE: one of another kind.
            Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(BindError::Taken {
                path: self.path.to_path_buf(),
            }),
            Err(errno) => Err(self.failed("connecting to", errno)),
        }
    }

    /// Removes the file only if it is the one that was found stale: of two processes that start at once,
    /// one must not remove the other's fresh socket.
    fn remove(&self, stale: &Pinned) -> Result<(), BindError> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".stale-{}", nix::unistd::getpid()));
        let aside = PathBuf::from(name);
        match fs::rename(self.path, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.io("replacing", error)),
        }
        if stale.is_at(&aside).map_err(|error| self.io("replacing", error))? {
            return fs::remove_file(&aside).map_err(|error| self.io("replacing", error));
        }
        // It was another's: put it back, unless a third one stands there by now.
        match fs::hard_link(&aside, self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.io("restoring", error)),
        }
        fs::remove_file(&aside).map_err(|error| self.io("restoring", error))?;
        Err(BindError::Taken {
            path: self.path.to_path_buf(),
        })
    }

    /// Makes the file. It is private from its first moment on, for who could open it could connect.
    fn make(&self, socket: &OwnedFd) -> Result<(), BindError> {
        // The file that bind makes gets the mode of the socket itself, less the umask.
        fchmod(socket, PRIVATE_MODE).map_err(|errno| self.failed("preparing", errno))?;
        match nix::sys::socket::bind(socket.as_raw_fd(), &self.address()?) {
            Ok(()) => Ok(()),
            Err(Errno::EADDRINUSE) => Err(BindError::Taken {
                path: self.path.to_path_buf(),
            }),
            Err(Errno::ENOENT) => Err(BindError::NoFolder {
                path: self.path.to_path_buf(),
            }),
            Err(errno) => Err(self.failed("binding", errno)),
        }
    }

    /// Gives the new file its group and mode. Works on the file itself, not on whatever has its name.
    fn settle(&self, mode: u32, group: Option<Gid>) -> Result<SocketFile, BindError> {
        let file = Pinned::at(self.path).map_err(|error| self.io("opening", error))?;
        // From here on the file goes if anything fails.
        let made = SocketFile {
            path: self.path.to_path_buf(),
            file,
            made: true,
        };
        if let Some(gid) = group {
            fchownat(&made.file.0, "", None, Some(gid), AtFlags::AT_EMPTY_PATH)
                .map_err(|errno| self.failed("setting the group of", errno))?;
        }
        let itself = format!("/proc/self/fd/{}", made.file.0.as_raw_fd());
        fs::set_permissions(itself, Permissions::from_mode(mode))
            .map_err(|error| self.io("setting the mode of", error))?;
        Ok(made)
    }
}

#[cfg(test)]
mod tests;
