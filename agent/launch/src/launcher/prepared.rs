//! A process at the gate, with the supervisor that holds it there.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use vouchsafe_sys::PidFd;

use super::{InForce, Launched};
use crate::LaunchError;
use crate::cgroups::Cgroup;
use crate::channel::Channel;
use crate::measure::Measured;
use crate::order::{Answer, Order, Word};
use crate::record::clear;
use crate::verify::{VerifyError, Wanted, verify};

/// How long a supervisor may take to go once it is alone, in milliseconds.
const LEAVE_WITHIN: u16 = 2_000;

/// A group that is cleared away unless its run takes it over.
#[derive(Debug)]
pub(super) struct Made(pub(super) Option<Cgroup>);

impl Made {
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.0.as_ref().map(|group| group.path().to_owned())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let _removed_already = clear(&group);
        }
    }
}

/// The supervisor's process with the connection to it. Without the connection it ends what has not passed the gate.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) path: PathBuf,
    pub(super) channel: Option<Channel>,
    pub(super) child: Option<Child>,
    pub(super) pidfd: Option<PidFd>,
}

impl Supervisor {
    pub(super) fn start(path: &Path, patience: Duration) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::Supervisor {
            path: path.to_owned(),
            source,
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(path);
        let command = command.env_clear().current_dir("/").stdin(OwnedFd::from(theirs));
        let mut child = command.stdout(Stdio::null()).spawn().map_err(failed)?;
        // Held from the beginning: once the gate is open nothing may fail any more for want of a descriptor.
        let held = i32::try_from(child.id()).map_err(io::Error::other);
        let held = held.and_then(|pid| Ok(PidFd::open(pid)?));
        let pidfd = match held {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ended_already = child.kill();
                let _reaped = child.wait();
                return Err(failed(error));
            }
        };
        let channel = Channel::new(ours);
        channel.set_patience(patience).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            channel: Some(channel),
            child: Some(child),
            pidfd: Some(pidfd),
        })
    }

    /// Whether it ends within so many milliseconds.
    fn ends_within(&self, milliseconds: u16) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| {
            let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut ended, PollTimeout::from(milliseconds)) == Ok(1)
        })
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> LaunchError + use<> {
        let path = self.path.clone();
        move |source| LaunchError::Supervisor { path, source }
    }

    fn channel(&mut self) -> Result<&mut Channel, LaunchError> {
        self.channel.as_mut().ok_or(LaunchError::SupervisorEnded)
    }

    /// Gives the order; the process that stands at the gate.
    pub(super) fn order(
        &mut self,
        order: &Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<PidFd, LaunchError> {
        let failed = self.failed();
        self.channel()?.send(order, descriptors).map_err(failed)?;
        match self.answer()? {
            (Answer::Ready, mut descriptors) => {
                let pidfd = descriptors.pop().ok_or(LaunchError::SupervisorEnded)?;
                Ok(PidFd::from_owned(pidfd))
            }
            _ => Err(LaunchError::SupervisorEnded),
        }
    }

    fn open_gate(&mut self) -> Result<(), LaunchError> {
        let failed = self.failed();
        self.channel()?.send(&Word::Go, &[]).map_err(failed)?;
        self.answer().map(drop)
    }

    fn answer(&mut self) -> Result<(Answer, Vec<OwnedFd>), LaunchError> {
        let failed = self.failed();
        let late =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        match self.channel()?.receive::<Answer>() {
            Err(error) if late(&error) => return Err(LaunchError::Late),
            answer => answer.map_err(failed)?,
        }
        .map_or(Err(LaunchError::SupervisorEnded), |answer| match answer {
            (Answer::Failed { step, error }, _) => Err(LaunchError::Stage { step, error }),
            answer => Ok(answer),
        })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // It hears that it is alone, ends what waits at the gate, and goes.
        self.channel = None;
        if let Some(mut child) = self.child.take() {
            // It does not go where what it waits for hangs, in a file system of the launcher's say.
            if !self.ends_within(LEAVE_WITHIN) {
                let _ended_meanwhile = child.kill();
            }
            let _reaped = child.wait();
        }
    }
}

/// A process at the gate: in its cgroup, under its user, not the program yet.
#[derive(Debug)]
pub struct Prepared {
    // Dropped first: the supervisor empties the group.
    pub(super) supervisor: Supervisor,
    pub(super) main: PidFd,
    pub(super) group: Made,
    pub(super) program: Measured,
    pub(super) files: Vec<Measured>,
    pub(super) wanted: Wanted,
    pub(super) in_force: InForce,
    pub(super) record: PathBuf,
    pub(super) boot_id: String,
}

impl Prepared {
    /// The process that will be the program; to be registered before `release`.
    #[must_use]
    pub fn main(&self) -> &PidFd {
        &self.main
    }

    /// The kernel's number of its control group.
    #[must_use]
    pub fn cgroup_id(&self) -> Option<u64> {
        self.wanted.cgroup_id
    }

    /// The program as it was measured.
    #[must_use]
    pub fn program(&self) -> &Measured {
        &self.program
    }

    /// The files as they were measured, in the plan's order.
    #[must_use]
    pub fn files(&self) -> &[Measured] {
        &self.files
    }

    /// What the process will be like, for `verify` to compare with whenever that matters.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// What will shield it.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        self.in_force
    }

    /// Opens the gate, and looks whether what runs is what was measured. It is killed where not.
    ///
    /// # Errors
    /// Where a file has changed since, the program cannot be executed, or it is not what it should be.
    pub fn release(mut self) -> Result<Launched, LaunchError> {
        self.program.still()?;
        for file in &self.files {
            file.still()?;
        }
        let at_gate = Wanted {
            program: None,
            ..self.wanted
        };
        verify(&self.main, &at_gate)?;
        let supervisor = self.supervisor.pidfd.take().ok_or(LaunchError::SupervisorEnded)?;
        self.supervisor.open_gate()?;
        match self.check() {
            Ok(()) => {}
            Err(error) => {
                let _ended_already = self.main.signal(Signal::SIGKILL);
                // The record is of a program that nobody was told of.
                let record = self.record.clone();
                drop(self);
                let _never_written = fs::remove_file(record);
                return Err(error);
            }
        }
        // From here on the supervisor keeps it.
        self.group.0 = None;
        Ok(Launched {
            child: self.supervisor.child.take(),
            supervisor,
            main: self.main,
            record: self.record,
            boot_id: self.boot_id,
            cgroup_id: self.wanted.cgroup_id,
            in_force: Some(self.in_force),
        })
    }

    fn check(&self) -> Result<(), LaunchError> {
        match verify(&self.main, &self.wanted) {
            // A short program may be over by now: nothing is left that could be given an identity.
            Ok(()) | Err(VerifyError::Ended) => {}
            Err(error) => return Err(error.into()),
        }
        for file in &self.files {
            file.still()?;
        }
        Ok(())
    }
}
