//! The process that becomes the program: enters its cgroup and session, gives away its privileges, waits at the gate,
//! and execs. Should anybody that it answers to end before the gate opens, it ends.

use std::ffi::CString;
use std::fmt::Display;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{
    Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, execveat, setgroups, setresgid, setresuid, setsid,
};

use crate::User;
use crate::cgroups::Cgroup;
use crate::channel::Channel;
use crate::order::{Answer, Order, Word};

/// How often, and after what pause, a program is tried that somebody still holds open for writing: a copy just made can
/// be held for a moment by a process that another thread has just forked.
const BUSY_TRIES: usize = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// What went wrong, and where.
pub(crate) struct Failure {
    step: &'static str,
    error: String,
}

fn at<E: Display>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure {
        step,
        error: error.to_string(),
    }
}

/// Becomes the program of the order that comes over `channel`; comes back only where it cannot.
pub(crate) fn run(mut channel: Channel) {
    if let Err(Failure { step, error }) = become_program(&mut channel) {
        let step = step.to_owned();
        let _nobody_is_left_to_hear = channel.send(&Answer::Failed { step, error }, &[]);
    }
}

fn become_program(channel: &mut Channel) -> Result<(), Failure> {
    let order = channel.receive::<Order>().map_err(at("receiving the order"))?;
    // The supervisor is gone.
    let Some((order, descriptors)) = order else {
        return Ok(());
    };
    let passed: [OwnedFd; 4] = descriptors
        .try_into()
        .map_err(|_| "descriptors are missing")
        .map_err(at("receiving the order"))?;
    let [program, input, output, error] = passed;
    let program = File::from(program);
    if let Some(cgroup) = order.cgroup.as_ref().filter(|_| !order.in_group) {
        let group = Cgroup::open(cgroup).and_then(|group| group.enter());
        group.map_err(at("entering the control group"))?;
    }
    setsid().map_err(at("beginning a session"))?;
    if order.terminal {
        rustix::process::ioctl_tiocsctty(&input).map_err(at("taking the terminal"))?;
    }
    dup2_stdin(&input).map_err(at("standard input"))?;
    dup2_stdout(&output).map_err(at("standard output"))?;
    dup2_stderr(&error).map_err(at("standard error"))?;
    drop((input, output, error));
    vouchsafe_sys::close_on_exec_from(3).map_err(at("closing descriptors"))?;
    vouchsafe_sys::default_signals().map_err(at("resetting signals"))?;
    if let Some(user) = &order.user {
        give_away_privileges(user)?;
    }
    if order.shut {
        prctl::set_dumpable(false).map_err(at("becoming non-dumpable"))?;
    }
    // After the change of user, which would take it back. Who has no supervisor has no end that anybody sees.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("tying itself to the supervisor"))?;
    std::env::set_current_dir(&order.cwd).map_err(at("entering the working directory"))?;
    order
        .harden
        .enforce(&order.program, &program)
        .map_err(at("limiting the program"))?;
    channel.send(&Answer::Ready, &[]).map_err(at("reporting"))?;
    match channel.receive::<Word>().map_err(at("waiting at the gate"))? {
        Some((Word::Go, _)) => exec(&program, &order.argv, &order.env),
        None => Ok(()),
    }
}

/// Becomes a user for good: nothing of the old one may be left.
fn give_away_privileges(user: &User) -> Result<(), Failure> {
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&groups).map_err(at("setting groups"))?;
    setresgid(gid, gid, gid).map_err(at("setting the group"))?;
    setresuid(uid, uid, uid).map_err(at("setting the user"))
}

fn exec(program: &File, argv: &[CString], env: &[CString]) -> Result<(), Failure> {
    for _ in 0..BUSY_TRIES {
        match execveat(program.as_fd(), c"", argv, env, AtFlags::AT_EMPTY_PATH) {
            Err(Errno::ETXTBSY) => std::thread::sleep(BUSY_PAUSE),
            Err(errno) => return Err(at("exec")(errno)),
        }
    }
    Err(at("exec")(Errno::ETXTBSY))
}
