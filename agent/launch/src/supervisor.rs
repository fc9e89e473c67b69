//! The process beside a run: starts the stage, passes the gate's word on, waits for the program, writes down how it
//! ended, empties the cgroup. It outlives the agent, and what it watches does not outlive it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use nix::unistd::{getpid, setsid};
use vouchsafe_sys::PidFd;

use crate::cgroups::Cgroup;
use crate::channel::Channel;
use crate::order::{Answer, Order, Word};
use crate::record::{self, Outcome, Process, Record};
use crate::{OnEnd, stage};

/// The argument that makes the program a stage.
const STAGE: &str = "stage";
/// This program, whatever stands at its path by now.
const SELF: &str = "/proc/self/exe";

/// `vouchsafe-supervisor`. Standard input is the connection to whoever started it.
#[must_use]
pub fn main() -> ExitCode {
    let Ok(connection) = io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let channel = Channel::new(UnixStream::from(connection));
    if std::env::args().nth(1).is_some_and(|argument| argument == STAGE) {
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
    let Some((order, descriptors)) = channel.receive::<Order>()? else {
        return Ok(());
    };
    let group = order
        .cgroup
        .as_deref()
        .map(Cgroup::open)
        .transpose()
        .map_err(io::Error::other)?;
    let started = start(&mut channel, &order, descriptors, group.as_ref());
    let ended = match started {
        Ok(Some((mut child, record))) => {
            let status = child.wait()?;
            let outcome = Some(outcome(status));
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

/// A child that is killed and reaped should we not come to the end.
struct Held(Option<Child>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Brings the program to run; nothing where it was not let through the gate.
fn start(
    channel: &mut Channel,
    order: &Order,
    descriptors: Vec<OwnedFd>,
    group: Option<&Cgroup>,
) -> io::Result<Option<(Child, Record)>> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = spawn_stage(theirs)?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let mut held = Held(Some(child));
    // Not yet reaped, it still has its number.
    let pidfd = PidFd::open(pid).map_err(io::Error::other)?;
    let mut below = Channel::new(ours);
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    below.send(order, &borrowed)?;
    // Pipes end for their readers only when nobody else holds them.
    drop(descriptors);
    match below.receive::<Answer>()? {
        Some((Answer::Ready, _)) => channel.send(&Answer::Ready, &[pidfd.as_fd()])?,
        other => return refused(channel, other),
    }
    // The end of the connection is the end of whoever would have registered the program.
    let Some((Word::Go, _)) = channel.receive::<Word>()? else {
        return Ok(None);
    };
    let record = Record {
        boot_id: record::boot_id()?,
        supervisor: Process::of(getpid().as_raw()).map_err(io::Error::other)?,
        main: Process::of(pid).map_err(io::Error::other)?,
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
    Ok(held.0.take().map(|child| (child, record)))
}

/// Our copy of the stage's end goes with the command: only then the exec is seen as the connection's end.
fn spawn_stage(connection: UnixStream) -> io::Result<Child> {
    let mut command = Command::new(SELF);
    command.arg0("vouchsafe-supervisor").arg(STAGE).env_clear();
    command
        .stdin(OwnedFd::from(connection))
        .stdout(Stdio::null())
        .spawn()
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

fn outcome(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited(code),
        (None, Some(signal)) => Outcome::Signalled(signal),
        (None, None) => Outcome::Lost,
    }
}
