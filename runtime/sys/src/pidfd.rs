//! A process held by a descriptor: it names the same process for ever, whatever becomes of its number.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;

use crate::{SysError, process, raw};

/// `PIDFS_MAGIC`: the file system that pidfds live in since Linux 6.9, with an inode a process.
const PIDFS_MAGIC: i64 = 0x5049_4446;

/// A process, held so that its number cannot be given to another one unnoticed.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// Which process it is: equal for two descriptors of one process, different for any two processes
/// since boot. An `exec` does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessIdentity(Inner);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Inner {
    /// Linux 6.9 and later: the process's inode in pidfs, never used again.
    Inode { device: u64, inode: u64 },
    /// Before: its number and the clock tick at which it started.
    Started { pid: i32, start_time: u64 },
}

impl ProcessIdentity {
    /// The inode that only this process has since boot; none before Linux 6.9.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        match self.0 {
            Inner::Inode { inode, .. } => Some(inode),
            Inner::Started { .. } => None,
        }
    }
}

/// What the kernel says about a process (`PIDFD_GET_INFO`). Ids are as seen from the caller's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidInfo {
    /// Thread id of the process's first thread.
    pub pid: i32,
    /// Process id.
    pub tgid: i32,
    /// Process id of its parent.
    pub ppid: i32,
    /// Real user id.
    pub ruid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Saved user id.
    pub suid: u32,
    /// Real group id.
    pub rgid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Saved group id.
    pub sgid: u32,
    /// Id of its control group in the unified hierarchy (the inode of its folder), where it has one.
    pub cgroup_id: Option<u64>,
}

impl PidFd {
    /// Takes hold of the process that has the number `pid` now.
    ///
    /// # Errors
    /// `Gone` where there is none.
    pub fn open(pid: i32) -> Result<Self, SysError> {
        match raw::pidfd_open(pid) {
            Ok(fd) => Ok(Self(fd)),
            // No process can have such a number.
            Err(Errno::EINVAL) => Err(SysError::Gone),
            Err(Errno::ENOSYS) => Err(SysError::Unsupported {
                feature: "pidfd_open",
                kernel: "5.3",
            }),
            Err(errno) => Err(SysError::of_call("pidfd_open", errno)),
        }
    }

    /// Takes hold of the calling process itself.
    ///
    /// # Errors
    /// As `open`, but for `Gone`.
    pub fn of_self() -> Result<Self, SysError> {
        Self::open(nix::unistd::getpid().as_raw())
    }

    /// Wraps a descriptor that the kernel gave as a pidfd.
    #[must_use]
    pub fn from_owned(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Another descriptor of the same process.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, SysError> {
        self.0.try_clone().map(Self).map_err(|source| SysError::Call {
            call: "duplicating a pidfd",
            source,
        })
    }

    /// The process's number now. For showing, and for paths under `/proc`, between two looks at `is_alive`.
    ///
    /// # Errors
    /// `Gone` once it was reaped, `ForeignPidNamespace` where it has no number here.
    pub fn pid(&self) -> Result<i32, SysError> {
        match self.info() {
            Ok(info) => Ok(info.tgid),
            Err(SysError::Unsupported { .. }) => self.pid_from_fdinfo(),
            Err(error) => Err(error),
        }
    }

    /// Whether the process still runs. A process that has exited and is not yet reaped does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(ready) => return ready == 0,
                Err(Errno::EINTR) => {}
                // What cannot be asked must not be trusted.
                Err(_) => return false,
            }
        }
    }

    /// Which process it is, to compare with another's identity.
    ///
    /// # Errors
    /// On kernels before 6.9 `Gone` once it has exited; later ones can always tell.
    pub fn identity(&self) -> Result<ProcessIdentity, SysError> {
        if on_pidfs()? {
            let stat = fstat(&self.0).map_err(|errno| SysError::of_call("fstat of a pidfd", errno))?;
            let inner = Inner::Inode {
                device: stat.st_dev,
                inode: stat.st_ino,
            };
            return Ok(ProcessIdentity(inner));
        }
        let pid = self.pid_from_fdinfo()?;
        let start_time = process::start_time(pid)?;
        // Read for our process only if it still is that number's holder afterwards.
        if !self.is_alive() {
            return Err(SysError::Gone);
        }
        Ok(ProcessIdentity(Inner::Started { pid, start_time }))
    }

    /// What the kernel says about the process now.
    ///
    /// # Errors
    /// `Gone` once it was reaped, `Unsupported` before Linux 6.13.
    pub fn info(&self) -> Result<PidInfo, SysError> {
        let info = raw::pidfd_info(self.0.as_fd()).map_err(|errno| match errno {
            Errno::ENOTTY | Errno::EINVAL => SysError::Unsupported {
                feature: "PIDFD_GET_INFO",
                kernel: "6.13",
            },
            other => SysError::of_call("PIDFD_GET_INFO", other),
        })?;
        if info.mask & u64::from(libc::PIDFD_INFO_CREDS) == 0 {
            return Err(SysError::Gone);
        }
        let has_cgroup = info.mask & u64::from(libc::PIDFD_INFO_CGROUPID) != 0;
        Ok(PidInfo {
            pid: info.pid.cast_signed(),
            tgid: info.tgid.cast_signed(),
            ppid: info.ppid.cast_signed(),
            ruid: info.ruid,
            euid: info.euid,
            suid: info.suid,
            rgid: info.rgid,
            egid: info.egid,
            sgid: info.sgid,
            cgroup_id: has_cgroup.then_some(info.cgroupid),
        })
    }

    /// Sends it a signal; never another process that has its number by now.
    ///
    /// # Errors
    /// `Gone` once it was reaped, `NotPermitted` where it belongs to somebody else.
    pub fn signal(&self, signal: Signal) -> Result<(), SysError> {
        raw::pidfd_send_signal(self.0.as_fd(), signal as i32)
            .map_err(|errno| SysError::of_call("pidfd_send_signal", errno))
    }

    /// The descriptor itself, to be passed on.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn pid_from_fdinfo(&self) -> Result<i32, SysError> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text =
            fs::read_to_string(path).map_err(|error| SysError::of_proc("reading a pidfd's fdinfo", error))?;
        let pid = text
            .lines()
            .find_map(|line| line.strip_prefix("Pid:"))
            .and_then(|value| value.trim().parse::<i32>().ok());
        match pid {
            Some(pid) if pid > 0 => Ok(pid),
            Some(0) => Err(SysError::ForeignPidNamespace),
            Some(_) => Err(SysError::Gone),
            None => Err(SysError::Malformed {
                pid: nix::unistd::getpid().as_raw(),
                file: "fdinfo",
            }),
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

/// Whether this kernel's pidfds have an inode a process. Asked once, of a pidfd of our own.
fn on_pidfs() -> Result<bool, SysError> {
    static ON_PIDFS: OnceLock<bool> = OnceLock::new();
    if let Some(answer) = ON_PIDFS.get() {
        return Ok(*answer);
    }
    let own = PidFd::of_self()?;
    let stat = fstatfs(&own.0).map_err(|errno| SysError::of_call("fstatfs of a pidfd", errno))?;
    let answer = stat.filesystem_type().0 == PIDFS_MAGIC;
    Ok(*ON_PIDFS.get_or_init(|| answer))
}
