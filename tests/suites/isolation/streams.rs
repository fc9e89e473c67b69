//! Exit status, signals and streams pass through.

use std::io::{Read, Write};

use vouchsafe_launch::Outcome;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::rig::{PYTHON, Rig, plan};

#[test]
fn exit_status_signals_and_arguments_pass_through() {
    require!(Need::Root);
    let rig = Rig::new();
    assert_eq!(rig.python("raise SystemExit(42)").0, Outcome::Exited(42));
    let (outcome, _) = rig.python("import os; os.kill(os.getpid(), 9)");
    assert_eq!(outcome, Outcome::Signalled(9));
    let script = "import os, sys, signal\n\
        print(sys.argv[1:], dict(os.environ), os.getcwd(), os.getuid(), os.getgroups())\n\
        print(signal.getsignal(13) == signal.SIG_IGN, signal.pthread_sigmask(0, []), os.getsid(0) == os.getpid())\n\
        print(sorted(os.listdir('/proc/self/fd')))";
    let (_, text) = rig.output(|_| {}, PYTHON, &["python3", "-c", script, "ä b", ""]);
    let expected = format!(
        "['ä b', ''] {{'PATH': '/usr/bin:/bin', 'LC_CTYPE': 'C.UTF-8'}} / {uid} []\nTrue set() True\n['0', '1', '2', '3']\n",
        uid = crate::rig::UID
    );
    assert_eq!(text, expected);
}

#[test]
fn sigpipe_ends_a_program_as_it_does_from_a_shell() {
    require!(Need::Root);
    let rig = Rig::new();
    let (plan, reader) = plan("/usr/bin/yes", &["yes"]);
    let mut launched = rig.run(plan).unwrap();
    drop(reader);
    assert_eq!(launched.wait().unwrap(), Outcome::Signalled(13));
}

#[test]
fn bytes_go_in_and_come_out() {
    require!(Need::Root);
    let rig = Rig::new();
    let (mut plan, mut reader) = plan("/bin/cat", &["cat"]);
    let (input, mut writer) = std::io::pipe().unwrap();
    if let vouchsafe_launch::Stdio::Descriptors([stdin, _, _]) = &mut plan.stdio {
        *stdin = input.into();
    }
    let mut launched = rig.run(plan).unwrap();
    writer.write_all(b"through").unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(
        (launched.wait().unwrap(), text.as_str()),
        (Outcome::Exited(0), "through")
    );
}
