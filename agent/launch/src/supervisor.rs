//! The process beside a run: starts the stage, passes the gate's word on, waits for the program, writes down how it
//! ended, empties the cgroup. It outlives the agent, and what it watches does not outlive it.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{getpid, setsid};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use vouchsafe_sys::PidFd;

use crate::cgroups::Cgroup;
use crate::channel::Channel;
use crate::order::{Answer, Order, Word};
use crate::record::{self, Outcome, Process, Record};
use crate::{OnEnd, stage};

/// The argument that makes the program a stage.
const STAGE: &CStr = c"stage";
/// This program, whatever stands at its path by now.
const SELF: &CStr = c"/proc/self/exe";
/// How it is called.
const NAME: &CStr = c"vouchsafe-supervisor";

/// `vouchsafe-supervisor`. Standard input is the connection to whoever started it.
#[must_use]
pub fn main() -> ExitCode {
    let Ok(connection) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let channel = Channel::new(UnixStream::from(connection));
    if std::env::args()
        .nth(1)
        .is_some_and(|argument| argument.as_bytes() == STAGE.to_bytes())
    {
        stage::run(channel);
        // What comes back has not become the program.
        return ExitCode::FAILURE;
    }
    match supervise(channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn supervise(mut channel: Channel) -> io::Result<()> {
    // Signals to the agent's group are not for the run.
    let _leader_already = setsid();
    let Some((mut order, descriptors)) = channel.receive::<Order>()? else {
        return Ok(());
    };
    let group = order
        .cgroup
        .as_deref()
        .map(Cgroup::open)
        .transpose()
        .map_err(io::Error::other)?;
    let started = start(&mut channel, &mut order, descriptors, group.as_ref());
    let ended = match started {
        Ok(Some((mut stage, record))) => {
            let outcome = Some(stage.wait()?);
            Record { outcome, ..record }.write(&order.record)
        }
        Ok(None) => Ok(()),
        Err(error) => {
            let step = "supervising".to_owned();
            let told = channel.send(
                &Answer::Failed {
                    step,
                    error: error.to_string(),
                },
                &[],
            );
            told.and(Err(error))
        }
    };
    if let Some(group) = group.filter(|_| order.on_end == OnEnd::Kill) {
        record::clear(&group).map_err(io::Error::other)?;
    }
    ended
}

/// The stage, which is the program later: killed and reaped should we not come to the end.
struct Stage {
    /// Not yet reaped, it still has its number.
    pid: Pid,
    pidfd: PidFd,
    ended: Option<Outcome>,
}

impl Stage {
    /// Starts it, in the group where the kernel can do that; whether it is there. Our copy of its end of the connection goes with
    /// this: only then the exec is seen as the connection's end.
    fn spawn(connection: UnixStream, group: Option<&Cgroup>) -> io::Result<(Self, bool)> {
        let group = group.map(Cgroup::folder).transpose().map_err(io::Error::other)?;
        let in_group =
            group.map(|group| vouchsafe_sys::spawn_in_group(group, SELF, &[NAME, STAGE], &connection));
        if let Some(Ok((pid, pidfd))) = in_group {
            let pid = number(pid)?;
            let ended = None;
            return Ok((Self { pid, pidfd, ended }, true));
        }
        // Before Linux 5.7, and where a filter of system calls has never heard of it, it goes there by itself.
        let text = |text: &'static CStr| OsStr::from_bytes(text.to_bytes());
        let mut command = Command::new(text(SELF));
        command.arg0(text(NAME)).arg(text(STAGE)).env_clear();
        let spawned = command
            .stdin(OwnedFd::from(connection))
            .stdout(Stdio::null())
            .spawn()?;
        let pid = i32::try_from(spawned.id()).map_err(io::Error::other)?;
        let stage = Self {
            pid: number(pid)?,
            pidfd: PidFd::open(pid)?,
            ended: None,
        };
        Ok((stage, false))
    }

    fn wait(&mut self) -> io::Result<Outcome> {
        loop {
            let status = match waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(Errno::INTR) | Ok(None) => continue,
                Ok(Some((_, status))) => status,
                Err(errno) => return Err(errno.into()),
            };
            let ended = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Outcome::Exited(code),
                (None, Some(signal)) => Outcome::Signalled(signal),
                (None, None) => continue,
            };
            self.ended = Some(ended);
            return Ok(ended);
        }
    }
}

fn number(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("a child without a number"))
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ended_already = self.pidfd.signal(Signal::SIGKILL);
            let _reaped = self.wait();
        }
    }
}

/// Brings the program to run; nothing where it was not let through the gate.
fn start(
    channel: &mut Channel,
    order: &mut Order,
    descriptors: Vec<OwnedFd>,
    group: Option<&Cgroup>,
) -> io::Result<Option<(Stage, Record)>> {
    let (ours, theirs) = UnixStream::pair()?;
    let (stage, in_group) = Stage::spawn(theirs, group)?;
    order.in_group = in_group;
    let mut below = Channel::new(ours);
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    below.send(&*order, &borrowed)?;
    // Pipes end for their readers only when nobody else holds them.
    drop(descriptors);
    match below.receive::<Answer>()? {
        Some((Answer::Ready, _)) => channel.send(&Answer::Ready, &[stage.pidfd.as_fd()])?,
        other => return refused(channel, other),
    }
    // The end of the connection is the end of whoever would have registered the program.
    let Some((Word::Go, _)) = channel.receive::<Word>()? else {
        return Ok(None);
    };
    let record = Record {
        boot_id: record::boot_id()?,
        supervisor: Process::of(getpid().as_raw()).map_err(io::Error::other)?,
        main: Process::of(stage.pid.as_raw_pid()).map_err(io::Error::other)?,
        cgroup: group.map(|group| (group.path().to_owned(), group.id())),
        on_end: order.on_end,
        outcome: None,
    };
    record.write(&order.record)?;
    let passed = below
        .send(&Word::Go, &[])
        .and_then(|()| below.receive::<Answer>());
    match passed {
        // Closed by the exec, or by an end that is told below.
        Ok(None) => {}
        other => {
            std::fs::remove_file(&order.record)?;
            return refused(channel, other?);
        }
    }
    // An agent that is gone by now finds the record.
    let _gone = channel.send(&Answer::Started, &[]);
    Ok(Some((stage, record)))
}

fn refused<T>(channel: &mut Channel, answer: Option<(Answer, Vec<OwnedFd>)>) -> io::Result<Option<T>> {
    let answer = match answer {
        Some((answer @ Answer::Failed { .. }, _)) => answer,
        _ => Answer::Failed {
            step: "preparing".to_owned(),
            error: "the process ended before it was the program".to_owned(),
        },
    };
    channel.send(&answer, &[])?;
    Ok(None)
}
