//! What stands on disk of a run, so that an agent that was killed learns what lives and how the rest ended. The
//! supervisor writes it before the program runs, and again when it has ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::poll::PollTimeout;
use serde::{Deserialize, Serialize};
use vouchsafe_sys::{PidFd, SysError, start_time};

use crate::OnEnd;
use crate::cgroups::Cgroup;

/// How long killed processes may take to be gone, in milliseconds.
const GONE_WITHIN: u16 = 10_000;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Nobody saw it end: its supervisor was killed, or the host went down.
    Lost,
}

/// A process, to be known again after a restart: a number is given to another process some day, and within one tick of the
/// clock that can be twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in ticks since boot.
    pub start_time: u64,
    /// The inode of its pidfds, which no other process has since boot; none before Linux 6.9.
    #[serde(default)]
    pub inode: Option<u64>,
}

impl Process {
    /// The process that has the number now.
    ///
    /// # Errors
    /// `Gone` where none has.
    pub fn of(pid: i32) -> Result<Self, SysError> {
        Self::held(&PidFd::open(pid)?)
    }

    /// The process that is held.
    ///
    /// # Errors
    /// `Gone` where it has ended.
    pub fn held(pidfd: &PidFd) -> Result<Self, SysError> {
        let pid = pidfd.pid()?;
        let start_time = start_time(pid)?;
        let inode = pidfd.identity()?.inode();
        // Until now the number was its own.
        match pidfd.is_alive() {
            true => Ok(Self {
                pid,
                start_time,
                inode,
            }),
            false => Err(SysError::Gone),
        }
    }

    /// Takes hold of it, where it still is.
    #[must_use]
    pub fn hold(&self) -> Option<PidFd> {
        let pidfd = PidFd::open(self.pid).ok()?;
        let now = Self::held(&pidfd).ok()?;
        self.is(&now).then_some(pidfd)
    }

    /// Whether this, taken down earlier, is the process that has its number now.
    fn is(&self, now: &Self) -> bool {
        // A record of an older agent has no inode.
        let inode = self.inode.is_none() || self.inode == now.inode;
        inode && (self.pid, self.start_time) == (now.pid, now.start_time)
    }
}

/// A run on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The boot that its numbers belong to.
    pub boot_id: String,
    /// Who stands beside it.
    pub supervisor: Process,
    /// The program.
    pub main: Process,
    /// Its control group, with the kernel's number of it.
    pub cgroup: Option<(PathBuf, u64)>,
    /// What becomes of its children.
    pub on_end: OnEnd,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
}

impl Record {
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, path)
    }

    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// Its control group, if that is still there.
    pub(crate) fn group(&self) -> Option<Cgroup> {
        let (path, id) = self.cgroup.as_ref()?;
        Cgroup::open(path).ok().filter(|group| group.id() == *id)
    }

    /// How it ended, where its supervisor is known to be gone; what is left of it is ended as well.
    pub(crate) fn settle(&self, boot_id: &str) -> Outcome {
        if self.boot_id == boot_id {
            if let (Some(group), true) = (self.group(), self.outcome.is_none() || self.on_end == OnEnd::Kill)
            {
                let _removed_by_its_supervisor = clear(&group);
            }
            // Without a control group the process itself is all that is known.
            if let Some(main) = self.main.hold().filter(|_| self.outcome.is_none()) {
                let _ended_by_now = main.signal(nix::sys::signal::Signal::SIGKILL);
            }
        }
        self.outcome.unwrap_or(Outcome::Lost)
    }
}

/// Kills what is in a group and removes it.
pub(crate) fn clear(group: &Cgroup) -> Result<(), crate::cgroups::CgroupError> {
    group.kill()?;
    group.wait_empty_for(PollTimeout::from(GONE_WITHIN))?;
    group.remove()
}

/// The kernel's name for the time since it started.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_the_number_of_another_is_not_taken_for_it() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.hold().is_some());
        // Within one tick a number can be used twice; the inode tells.
        let Some(inode) = own.inode else {
            // Before Linux 6.9 the tick is all there is.
            assert!(vouchsafe_sys::PidFd::of_self().unwrap().info().is_err());
            return;
        };
        let other = |inode| Process { inode, ..own };
        assert!(other(Some(inode + 1)).hold().is_none());
        assert!(other(None).hold().is_some(), "as an older agent noted it");
        let start_time = own.start_time + 1;
        assert!(Process { start_time, ..own }.hold().is_none());
        let now = other(None);
        assert!(!own.is(&now), "what had an inode still has it");
    }

    #[test]
    fn a_process_that_has_ended_is_not_held() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = PidFd::open(i32::try_from(child.id()).unwrap()).unwrap();
        child.wait().unwrap();
        assert!(matches!(Process::held(&pidfd), Err(SysError::Gone)));
    }
}
