//! The gate: nothing runs before it opens, nothing is left where it never does, and what runs is what was measured.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use vouchsafe_launch::verify::{VerifyError, Wanted, verify};
use vouchsafe_launch::{Isolation, LaunchError, Outcome, Recovered, User};
use vouchsafe_sys::PidFd;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::{require, wait};

use crate::rig::{PYTHON, Rig, UID, plan};

#[tokio::test]
async fn nothing_runs_before_the_gate_opens_and_nothing_is_left_where_it_does_not() {
    require!(Need::Root);
    let rig = Rig::new();
    let (plan, mut reader) = plan(PYTHON, &["python3", "-c", "print('ran')"]);
    let prepared = rig.launcher.prepare(plan).unwrap();
    let main = prepared.main().try_clone().unwrap();
    let info = main.info().unwrap();
    assert_eq!((info.ruid, info.euid, info.suid, info.rgid), (UID, UID, UID, UID));
    assert_eq!(info.cgroup_id, prepared.cgroup_id());
    // At the gate it waits for a word, and is not yet the program.
    let pid = main.pid().unwrap();
    let waits = wait::until("it waits at the gate, or is over", async || {
        (is_receiving(pid) || !main.is_alive()).then(|| main.is_alive())
    });
    assert!(waits.await.unwrap(), "it ran, and ended");
    drop(prepared);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
    assert!(!main.is_alive());
    assert_eq!(rig.left(), (0, 0));
}

/// Whether a process waits for a message.
fn is_receiving(pid: i32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split(' ').next().and_then(|number| number.parse().ok());
    number == Some(nix::libc::SYS_recvmsg)
}

#[test]
fn a_supervisor_that_is_killed_takes_the_run_with_it() {
    require!(Need::Root);
    let rig = Rig::new();
    let (plan, _reader) = plan(PYTHON, &["python3", "-c", "import time; time.sleep(600)"]);
    let mut launched = rig.run(plan).unwrap();
    let main = launched.main().try_clone().unwrap();
    let supervisor = main.info().unwrap().ppid;
    nix::sys::signal::kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    // By itself: the agent may have ended too.
    wait_for(&main);
    assert_eq!(launched.wait().unwrap(), Outcome::Lost);
    assert!(!main.is_alive());
    assert_eq!(rig.left(), (1, 0));
}

/// Waits until a process has ended.
fn wait_for(process: &PidFd) {
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut ended, PollTimeout::from(10_000_u16)).unwrap(), 1);
}

#[test]
fn a_restarted_agent_finds_what_lives_and_how_the_rest_ended() {
    require!(Need::Root);
    let rig = Rig::new();
    let (living, _out) = plan(PYTHON, &["python3", "-c", "import time; time.sleep(600)"]);
    let (over, mut output) = plan(PYTHON, &["python3", "-c", "raise SystemExit(7)"]);
    let (lost, _lost_out) = plan(PYTHON, &["python3", "-c", "import time; time.sleep(600)"]);
    let names = [&living, &over, &lost].map(|plan| plan.name.clone());
    let first = rig.run(living).unwrap();
    let second = rig.run(over).unwrap();
    let third = rig.run(lost).unwrap();
    output.read_to_end(&mut Vec::new()).unwrap();
    let ended = second.main().try_clone().unwrap();
    wait_for(&ended);
    let supervisor = PidFd::open(third.main().info().unwrap().ppid).unwrap();
    supervisor.signal(Signal::SIGKILL).unwrap();
    wait_for(&supervisor);
    wait_for(third.main());
    // A group that was made for a run which never came to its record.
    rig.groups.create("never").unwrap();
    let mut found = rig.again().recover().unwrap();
    found.sort_by_key(|(name, _)| names.iter().position(|known| known == name));
    let mut found = found.into_iter().map(|(_, recovered)| recovered);
    let Some(Recovered::Living(mut again)) = found.next() else {
        panic!("a run that lives was not found");
    };
    assert_eq!(again.main().identity().unwrap(), first.main().identity().unwrap());
    assert!(matches!(found.next(), Some(Recovered::Ended(Outcome::Exited(7)))));
    assert!(matches!(found.next(), Some(Recovered::Ended(Outcome::Lost))));
    assert!(!ended.is_alive() && !third.main().is_alive());
    assert_eq!(rig.left(), (3, 1));
    again.signal(Signal::SIGTERM).unwrap();
    assert_eq!(again.wait().unwrap(), Outcome::Signalled(15));
    // What this life started, it reaps as well.
    for mut run in [first, second, third] {
        run.wait().unwrap();
    }
    for name in &names {
        rig.launcher.forget(name).unwrap();
    }
    assert_eq!(rig.left(), (0, 0));
}

/// Seizes a process, says so, and stays its tracer to its end.
const TRACER: &str = "import ctypes, os, sys\npid = int(sys.argv[1])\n\
    assert ctypes.CDLL(None).ptrace(0x4206, pid, 0, 0) == 0\nprint('s', flush=True)\n\
    while os.WIFSTOPPED(os.waitpid(pid, 0x40000000)[1]): pass";

#[test]
fn a_tracer_at_the_gate_is_noticed_before_it_opens() {
    require!(Need::Root);
    let rig = Rig::new();
    let (plan, mut reader) = plan(PYTHON, &["python3", "-c", "print('ran')"]);
    let prepared = rig.launcher.prepare(plan).unwrap();
    let pid = prepared.main().pid().unwrap();
    let mut tracer = Command::new(PYTHON);
    let mut tracer = tracer
        .args(["-c", TRACER, &pid.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seized = [0; 1];
    tracer.stdout.as_mut().unwrap().read_exact(&mut seized).unwrap();
    let error = prepared.release().unwrap_err();
    assert!(
        matches!(error, LaunchError::Verify(VerifyError::Traced { .. })),
        "{error}"
    );
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    tracer.wait().unwrap();
    assert_eq!((text.as_str(), rig.left()), ("", (0, 0)));
}

#[test]
fn what_others_of_its_uid_can_read_is_noticed() {
    require!(Need::Root);
    let rig = Rig::new();
    for (isolation, readable) in [(Isolation::Process, false), (Isolation::None, true)] {
        let (mut plan, _reader) = plan(PYTHON, &["python3", "-c", "import time; time.sleep(600)"]);
        plan.isolation = isolation;
        let mut launched = rig.run(plan).unwrap();
        let wanted = Wanted {
            non_dumpable: true,
            ..Wanted::default()
        };
        let found = verify(launched.main(), &wanted);
        assert_eq!(matches!(found, Err(VerifyError::Dumpable)), readable, "{found:?}");
        launched.kill().unwrap();
        launched.wait().unwrap();
    }
}

fn size(rows: u16, columns: u16) -> rustix::termios::Winsize {
    rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// The user's end of a terminal, and the program's.
fn terminal() -> (OwnedFd, vouchsafe_launch::Stdio) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    rustix::termios::tcsetwinsize(&master, size(30, 101)).unwrap();
    let program = ioctl_tiocgptpeer(&master, flags).unwrap();
    let copies = [
        program.try_clone().unwrap(),
        program.try_clone().unwrap(),
        program,
    ];
    (master, vouchsafe_launch::Stdio::Terminal(copies))
}

#[test]
fn what_is_no_terminal_is_not_taken_for_one() {
    require!(Need::Root);
    let rig = Rig::new();
    let (mut plan, _unused) = plan("/bin/true", &["true"]);
    if let vouchsafe_launch::Stdio::Descriptors(descriptors) = plan.stdio {
        plan.stdio = vouchsafe_launch::Stdio::Terminal(descriptors);
    }
    let error = rig.launcher.prepare(plan).unwrap_err();
    assert!(matches!(error, LaunchError::NoTerminal), "{error}");
    assert_eq!(rig.left(), (0, 0));
}

#[test]
fn a_terminal_is_the_programs_own_and_has_its_size() {
    require!(Need::Root);
    let rig = Rig::new();
    let script = "import os, sys, signal\n\
        signal.signal(signal.SIGWINCH, lambda *_: sys.exit(3 if os.get_terminal_size().lines == 40 else 1))\n\
        print(os.isatty(0), os.tcgetpgrp(0) == os.getpid(), os.get_terminal_size())\n\
        open('/dev/tty').close()\nsignal.pause()";
    let (mut plan, _unused) = plan(PYTHON, &["python3", "-c", script]);
    let (master, stdio) = terminal();
    plan.stdio = stdio;
    let mut launched = rig.run(plan).unwrap();
    let mut terminal = std::fs::File::from(master.try_clone().unwrap());
    let mut text = String::new();
    while !text.contains('\n') {
        let mut chunk = [0; 256];
        let len = terminal.read(&mut chunk).unwrap();
        text.push_str(std::str::from_utf8(&chunk[..len]).unwrap());
    }
    assert_eq!(text, "True True os.terminal_size(columns=101, lines=30)\r\n");
    rustix::termios::tcsetwinsize(&master, size(40, 90)).unwrap();
    assert_eq!(launched.wait().unwrap(), Outcome::Exited(3));
}

/// With 1 for the argument of TIOCSCTTY root takes it: a launcher could take another user's terminal away with a descriptor
/// that it was left with.
#[test]
fn the_terminal_of_another_session_is_not_taken_from_it() {
    require!(Need::Root);
    let rig = Rig::new();
    let (_master, stdio) = terminal();
    let vouchsafe_launch::Stdio::Terminal(descriptors) = stdio else {
        unreachable!("a terminal");
    };
    let again = descriptors.each_ref().map(|end| end.try_clone().unwrap());
    let (mut first, _unused) = plan("/bin/sleep", &["sleep", "600"]);
    first.stdio = vouchsafe_launch::Stdio::Terminal(descriptors);
    let _first = rig.run(first).unwrap();
    let (mut second, _unused) = plan("/bin/true", &["true"]);
    second.stdio = vouchsafe_launch::Stdio::Terminal(again);
    match rig.launcher.prepare(second) {
        Err(LaunchError::Stage { step, .. }) => assert_eq!(step, "taking the terminal"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_terminal_that_is_hung_up_ends_the_program() {
    require!(Need::Root);
    let rig = Rig::new();
    let (mut plan, _unused) = plan("/bin/sleep", &["sleep", "600"]);
    let (master, stdio) = terminal();
    plan.stdio = stdio;
    let mut launched = rig.run(plan).unwrap();
    drop(master);
    assert_eq!(
        launched.wait().unwrap(),
        Outcome::Signalled(Signal::SIGHUP as i32)
    );
}

#[test]
fn what_is_not_to_be_had_is_refused_with_its_reason() {
    require!(Need::Root);
    let rig = Rig::new();
    let refused = |change: &dyn Fn(&mut vouchsafe_launch::Plan)| {
        let (mut plan, _reader) = plan(PYTHON, &["python3", "-c", "pass"]);
        change(&mut plan);
        let error = rig.launcher.prepare(plan).unwrap_err();
        assert_eq!(rig.left(), (0, 0));
        error
    };
    let root = User {
        uid: 0,
        gid: 0,
        groups: vec![],
    };
    assert!(matches!(refused(&|plan| plan.user = None), LaunchError::RootUser));
    assert!(matches!(
        refused(&|plan| plan.user = Some(root.clone())),
        LaunchError::RootUser
    ));
    assert!(matches!(
        refused(&|plan| plan.name = "../x".into()),
        LaunchError::Name { .. }
    ));
    assert!(matches!(
        refused(&|plan| plan.argv.clear()),
        LaunchError::NoArguments
    ));
    let bad = [("A=B".into(), "x".into())];
    assert!(matches!(
        refused(&|plan| plan.env = bad.to_vec()),
        LaunchError::Variable { .. }
    ));
    assert!(matches!(
        refused(&|plan| plan.cwd = "/nonexistent".into()),
        LaunchError::Stage { .. }
    ));
}

#[test]
fn what_is_in_force_is_named() {
    require!(Need::Root);
    let rig = Rig::new();
    for (isolation, user, expected) in [
        (Isolation::Process, true, (true, true)),
        (Isolation::None, true, (false, true)),
        (Isolation::None, false, (false, false)),
    ] {
        let (mut plan, _reader) = plan("/bin/true", &["true"]);
        plan.isolation = isolation;
        plan.immutable = false;
        plan.user = plan.user.filter(|_| user);
        let mut launched = rig.run(plan).unwrap();
        let in_force = launched.in_force().unwrap();
        assert_eq!((in_force.execute_only, in_force.other_uid), expected);
        assert!(in_force.cgroup);
        assert_eq!(launched.wait().unwrap(), Outcome::Exited(0));
    }
}
