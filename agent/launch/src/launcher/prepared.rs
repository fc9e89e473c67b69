//! A process at the gate, with the supervisor that holds it there.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// How long the supervisor may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

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
}

impl Supervisor {
    pub(super) fn start(path: &Path) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::Supervisor {
            path: path.to_owned(),
            source,
        };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(path);
        let command = command.env_clear().current_dir("/").stdin(OwnedFd::from(theirs));
        let child = command.stdout(Stdio::null()).spawn().map_err(failed)?;
        let channel = Channel::new(ours);
        channel.set_patience(PATIENCE).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            channel: Some(channel),
            child: Some(child),
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
        match self.channel()?.receive::<Answer>().map_err(failed)? {
            Some((Answer::Failed { step, error }, _)) => Err(LaunchError::Stage { step, error }),
            Some(answer) => Ok(answer),
            None => Err(LaunchError::SupervisorEnded),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // It hears that it is alone, ends what waits at the gate, and goes.
        self.channel = None;
        if let Some(mut child) = self.child.take() {
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
        let child = self.supervisor.child.take();
        let pid = child
            .as_ref()
            .and_then(|child| i32::try_from(child.id()).ok())
            .unwrap_or_default();
        let supervisor = PidFd::open(pid).map_err(|error| LaunchError::Io {
            what: "holding the supervisor",
            source: io::Error::other(error),
        })?;
        Ok(Launched {
            child,
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
