//! `/proc/<pid>` of one process, through one descriptor: once it is open it can only speak of that process,
//! and a look at the pidfd afterwards shows that it was the right one.

use std::ffi::{CStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat};
use vouchsafe_attestors::{Process, WorkloadAttestError};

/// Room that is made for a file before it is read; most hold less.
const READ_BYTES: usize = 4096;

/// Longest `/proc/<pid>/status` or `stat` that is read, in bytes; 65,536 groups make some 700,000.
const MAX_STATUS_BYTES: u64 = 1024 * 1024;

/// A file, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    /// Device.
    pub(crate) dev: u64,
    /// Inode.
    pub(crate) ino: u64,
}

impl From<&FileStat> for FileId {
    fn from(stat: &FileStat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
        }
    }
}

/// Which file a descriptor refers to.
pub(crate) fn file_id(fd: impl AsFd) -> io::Result<FileId> {
    Ok(FileId::from(&fstat(fd)?))
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
        if self.process.pidfd.is_alive() {
            return Ok(());
        }
        Err(WorkloadAttestError::Gone {
            pid: self.process.pid,
        })
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

    /// Start and layout of the process.
    ///
    /// # Errors
    /// As [`ProcDir::status`].
    pub(crate) fn stat(&self) -> Result<Stat, WorkloadAttestError> {
        let what = "`/proc/PID/stat`";
        let bytes = self
            .read(c"stat", MAX_STATUS_BYTES)
            .map_err(|e| self.failed(what, e))?;
        Stat::parse(&bytes).ok_or_else(|| self.failed(what, io::ErrorKind::InvalidData.into()))
    }
}

impl AsFd for ProcDir<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

fn failed(process: &Process, what: &'static str, source: io::Error) -> WorkloadAttestError {
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

/// What `/proc/<pid>/stat` says about the start of the process and of its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Clock ticks since boot at which the process started.
    pub(crate) started_ticks: u64,
    /// Where its code and its stack start; 0 where the reader has no right to know.
    pub(crate) layout: [u64; 2],
}

impl Stat {
    fn parse(bytes: &[u8]) -> Option<Self> {
        // The command's name stands in parentheses and may hold any byte, these included.
        let end = bytes.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(bytes.get(end + 1..)?).ok()?;
        // The first field after the name is number 3.
        let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse().ok();
        Some(Self {
            started_ticks: field(22)?,
            layout: [field(26)?, field(28)?],
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

    #[test]
    fn a_command_name_cannot_shift_the_fields_of_stat() {
        let fields: Vec<String> = (3..=52).map(|number| number.to_string()).collect();
        let line = format!("7 (a) 9 9 (b\n)) {}\n", fields.join(" "));
        let expected = Stat {
            started_ticks: 22,
            layout: [26, 28],
        };
        assert_eq!(Stat::parse(line.as_bytes()), Some(expected));
        assert_eq!(Stat::parse(b"7 (a) S 1 2\n"), None);
        assert_eq!(Stat::parse(b"7 a S 1 2\n"), None);
    }
}
