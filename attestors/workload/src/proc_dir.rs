//! `/proc/<pid>` of one process, through one descriptor: once it is open it can only speak of that process,
//! and a look at the pidfd afterwards shows that it was the right one.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use vouchsafe_attestors::{FileId, Process, WorkloadAttestError};

/// Room that is made for a file before it is read; most hold less.
const READ_BYTES: usize = 4096;

/// Longest `/proc/<pid>/status` that is read, in bytes; 65,536 groups make some 700,000.
const MAX_STATUS_BYTES: u64 = 1024 * 1024;

/// Which file was looked at.
pub(crate) fn id_of(stat: &FileStat) -> FileId {
    FileId {
        dev: stat.st_dev,
        ino: stat.st_ino,
    }
}

/// Which file a descriptor refers to.
pub(crate) fn file_id(fd: impl AsFd) -> io::Result<FileId> {
    Ok(id_of(&fstat(fd)?))
}

/// The folder of one process under `/proc`.
#[derive(Debug)]
pub(crate) struct ProcDir<'a> {
    dir: OwnedFd,
    process: &'a Process,
}

impl<'a> ProcDir<'a> {
    /// Opens the folder of the process.
    ///
    /// # Errors
    /// `Gone` when it has ended; `Unreadable` when it cannot be seen from here.
    pub(crate) fn open(process: &'a Process) -> Result<Self, WorkloadAttestError> {
        let path = format!("/proc/{}", process.pid);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = if process.pid > 0 {
            open(path.as_str(), flags, Mode::empty())
        } else {
            Err(Errno::ENOENT)
        };
        let dir = opened.map_err(|errno| failed(process, "`/proc/PID`", errno.into()))?;
        let this = Self { dir, process };
        // Alive after opening: so the number was this process's all the time.
        this.still_alive()?;
        Ok(this)
    }

    /// Fails once the process has ended.
    ///
    /// # Errors
    /// `Gone`.
    pub(crate) fn still_alive(&self) -> Result<(), WorkloadAttestError> {
        still_alive(self.process)
    }

    /// The error for something that could not be read: `Gone` where the process has ended.
    pub(crate) fn failed(&self, what: &'static str, source: io::Error) -> WorkloadAttestError {
        failed(self.process, what, source)
    }

    /// Follows one of the folder's links (`exe`, `cwd`, `root`) to what it stands for.
    pub(crate) fn open_link(&self, name: &CStr, flags: OFlag) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        Ok(openat(&self.dir, name, flags, Mode::empty())?)
    }

    /// The file that the process executes, without the right to read it.
    ///
    /// # Errors
    /// `Changed` where it is not the one that is known of the process; within, where it cannot be opened.
    pub(crate) fn executable(&self) -> Result<io::Result<OwnedFd>, WorkloadAttestError> {
        let opened = self.open_link(c"exe", OFlag::O_PATH);
        let opened = opened.and_then(|exe| Ok((file_id(&exe)?, exe)));
        match (opened, self.process.program) {
            (Ok((found, _)), Some(known)) if found != known => Err(WorkloadAttestError::Changed {
                pid: self.process.pid,
            }),
            (opened, _) => Ok(opened.map(|(_, exe)| exe)),
        }
    }

    /// What one of the links reads as.
    pub(crate) fn read_link(&self, name: &CStr) -> io::Result<OsString> {
        Ok(readlinkat(&self.dir, name)?)
    }

    /// The contents of a file, up to `limit` bytes and one more.
    pub(crate) fn read(&self, name: &CStr, limit: u64) -> io::Result<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = File::from(openat(&self.dir, name, flags, Mode::empty())?);
        // With room for what such files hold, one read gets it, not eight.
        let mut bytes = Vec::with_capacity(READ_BYTES);
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Credentials as the process has them now.
    ///
    /// # Errors
    /// `Gone`, or `Unreadable` where the file cannot be read or is not as documented.
    pub(crate) fn status(&self) -> Result<Status, WorkloadAttestError> {
        let what = "`/proc/PID/status`";
        let bytes = self
            .read(c"status", MAX_STATUS_BYTES)
            .map_err(|e| self.failed(what, e))?;
        Status::parse(&bytes).ok_or_else(|| self.failed(what, io::ErrorKind::InvalidData.into()))
    }
}

impl ProcDir<'_> {
    /// What the process may do to files, beyond what its effective ids say.
    ///
    /// # Errors
    /// As [`ProcDir::status`].
    pub(crate) fn powers(&self) -> Result<Powers, WorkloadAttestError> {
        let what = "`/proc/PID/status`";
        let bytes = self
            .read(c"status", MAX_STATUS_BYTES)
            .map_err(|e| self.failed(what, e))?;
        Powers::parse(&bytes).ok_or_else(|| self.failed(what, io::ErrorKind::InvalidData.into()))
    }

    /// Who owns one of the folder's files: of a process that others of its user may look into, that user.
    pub(crate) fn owner_of(&self, name: &CStr) -> io::Result<u32> {
        Ok(fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_uid)
    }
}

impl AsFd for ProcDir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Fails once the process has ended.
///
/// # Errors
/// `Gone`.
pub(crate) fn still_alive(process: &Process) -> Result<(), WorkloadAttestError> {
    if process.pidfd.is_alive() {
        return Ok(());
    }
    Err(WorkloadAttestError::Gone { pid: process.pid })
}

/// Which file a link in the folder of the process stands for. Read by number: look whether the process still lives
/// afterwards.
pub(crate) fn linked_file(process: &Process, name: &str) -> io::Result<FileId> {
    let path = format!("/proc/{}/{name}", process.pid);
    let stat = fstatat(AT_FDCWD, path.as_str(), AtFlags::empty())?;
    Ok(id_of(&stat))
}

/// The error for something that could not be read: `Gone` where the process has ended.
pub(crate) fn failed(process: &Process, what: &'static str, source: io::Error) -> WorkloadAttestError {
    let pid = process.pid;
    if process.pidfd.is_alive() {
        return WorkloadAttestError::Unreadable { what, pid, source };
    }
    WorkloadAttestError::Gone { pid }
}

/// What `/proc/<pid>/status` says about credentials.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// Effective user id.
    pub(crate) uid: u32,
    /// Effective group id.
    pub(crate) gid: u32,
    /// Supplementary groups, in the kernel's order.
    pub(crate) groups: Vec<u32>,
    /// In how many PID namespaces it has a number, counted from that of this `/proc`.
    pub(crate) pid_namespaces: usize,
}

impl Status {
    fn parse(bytes: &[u8]) -> Option<Self> {
        // Lossy: only the command's name may hold other bytes, and there the kernel escapes line breaks.
        let text = String::from_utf8_lossy(bytes);
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(':').map(str::split_ascii_whitespace)
        };
        Some(Self {
            // Real, effective, saved, file system.
            uid: field("Uid")?.nth(1)?.parse().ok()?,
            gid: field("Gid")?.nth(1)?.parse().ok()?,
            groups: field("Groups")?
                .map(|id| id.parse().ok())
                .collect::<Option<_>>()?,
            pid_namespaces: field("NSpid").map_or(0, Iterator::count),
        })
    }
}

/// All ids and capabilities of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Powers {
    /// Real, effective, saved and file system.
    pub(crate) uids: Vec<u32>,
    /// Likewise, and the supplementary groups.
    pub(crate) gids: Vec<u32>,
    /// Permitted or effective capabilities, as bits.
    pub(crate) capabilities: u64,
}

impl Powers {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.strip_prefix(':').map(str::split_ascii_whitespace)
        };
        let numbers = |name: &str| -> Option<Vec<u32>> { field(name)?.map(|id| id.parse().ok()).collect() };
        let bits = |name: &str| u64::from_str_radix(field(name)?.next()?, 16).ok();
        let (uids, mut gids) = (numbers("Uid")?, numbers("Gid")?);
        if uids.len() != 4 || gids.len() != 4 {
            return None;
        }
        gids.extend(numbers("Groups")?);
        Some(Self {
            uids,
            gids,
            capabilities: bits("CapPrm")? | bits("CapEff")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_ids_count() {
        let text = "Name:\ta\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t10 11 \nNSpid:\t7\t1\n";
        let expected = Status {
            uid: 2,
            gid: 6,
            groups: vec![10, 11],
            pid_namespaces: 2,
        };
        assert_eq!(Status::parse(text.as_bytes()), Some(expected));
    }

    #[test]
    fn no_groups_are_no_groups() {
        let text = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \nNSpid:\t7\n";
        assert_eq!(Status::parse(text.as_bytes()).unwrap().groups, Vec::<u32>::new());
    }

    #[test]
    fn powers_have_every_id_and_both_sets_of_capabilities() {
        let text = "Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t10 \nCapPrm:\t0000000000000001\n\
                    CapEff:\t00000000000000f0\n";
        let expected = Powers {
            uids: vec![1, 2, 3, 4],
            gids: vec![5, 6, 7, 8, 10],
            capabilities: 0xf1,
        };
        assert_eq!(Powers::parse(text.as_bytes()), Some(expected));
        for without in ["Uid", "Gid", "Groups", "CapPrm", "CapEff", "\t4"] {
            assert_eq!(
                Powers::parse(text.replace(without, "").as_bytes()),
                None,
                "{without}"
            );
        }
    }

    #[test]
    fn a_status_without_an_id_is_refused() {
        for text in [
            "",
            "Uid:\t0\nGid:\t0\t0\t0\t0\nGroups:\t\n",
            "Uid:\t0\tx\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t\n",
            "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t1 x\n",
            "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n",
            "Uid:\t0\t4294967296\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t\n",
        ] {
            assert_eq!(Status::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
