//! A program that runs, whoever started it: this process, or an earlier life of it.

use std::io;
use std::path::PathBuf;
use std::process::Child;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use vouchsafe_sys::{PidFd, SysError, Watched};

use super::InForce;
use crate::LaunchError;
use crate::record::{Outcome, Record};

pub(super) fn readable(pidfd: &PidFd) -> Result<(), LaunchError> {
    loop {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(LaunchError::io("waiting for the supervisor")(errno.into())),
        }
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Launched {
    pub(super) child: Option<Child>,
    pub(super) supervisor: PidFd,
    pub(super) main: PidFd,
    pub(super) record: PathBuf,
    pub(super) boot_id: String,
    pub(super) cgroup_id: Option<u64>,
    pub(super) in_force: Option<InForce>,
}

impl Launched {
    /// The program's process.
    #[must_use]
    pub fn main(&self) -> &PidFd {
        &self.main
    }

    /// The kernel's number of its control group.
    #[must_use]
    pub fn cgroup_id(&self) -> Option<u64> {
        self.cgroup_id
    }

    /// What shields it. Of a run of an earlier life of this process only its record in the agent knows.
    #[must_use]
    pub fn in_force(&self) -> Option<InForce> {
        self.in_force
    }

    /// Sends a signal to the main process.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), vouchsafe_sys::SysError> {
        self.main.signal(signal)
    }

    /// Kills it and all that is in its control group, at once.
    ///
    /// # Errors
    /// Where its record cannot be read, or the group does not obey.
    pub fn kill(&self) -> Result<(), LaunchError> {
        let record = Record::read(&self.record).map_err(LaunchError::io("reading a record"))?;
        if let Some(group) = record.group() {
            group.kill()?;
        }
        // Without a group it is all that is known; and one that was moved out of it ends too.
        match self.main.signal(Signal::SIGKILL) {
            Ok(()) | Err(SysError::Gone) => Ok(()),
            Err(error) => Err(LaunchError::io("killing the program")(io::Error::other(error))),
        }
    }

    /// Waits in this thread until the run is over, its group emptied. The record stays until `Launcher::forget`.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub fn wait(&mut self) -> Result<Outcome, LaunchError> {
        readable(&self.supervisor)?;
        self.wind_up()
    }

    /// The same within tokio.
    ///
    /// # Errors
    /// Where the record cannot be read.
    pub async fn ended(&mut self) -> Result<Outcome, LaunchError> {
        let what = "waiting for the supervisor";
        let held = self
            .supervisor
            .try_clone()
            .map_err(|error| LaunchError::io(what)(io::Error::other(error)))?;
        let watched = Watched::new(held).map_err(LaunchError::io(what))?;
        watched
            .readable()
            .await
            .map(drop)
            .map_err(LaunchError::io(what))?;
        self.wind_up()
    }

    fn wind_up(&mut self) -> Result<Outcome, LaunchError> {
        if let Some(mut child) = self.child.take() {
            child.wait().map_err(LaunchError::io("reaping the supervisor"))?;
        }
        let record = Record::read(&self.record).map_err(LaunchError::io("reading a record"))?;
        Ok(record.settle(&self.boot_id))
    }
}
