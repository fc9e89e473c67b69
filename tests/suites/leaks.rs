//! What is left in a process that has launched two hundred programs: a process of its own, for what others have open and
//! have not reaped would count as well.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use vouchsafe_launch::Outcome;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

#[path = "isolation/rig.rs"]
#[expect(dead_code, reason = "the rig serves other suites too")]
mod rig;

use rig::{Rig, plan};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn two_hundred_runs_at_once_leave_nothing_behind() {
    require!(Need::Root);
    let rig = Rig::new();
    rig.output(|_| {}, "/bin/true", &["true"]);
    let before = descriptors();
    let mut running = Vec::new();
    let (input, hold) = std::io::pipe().unwrap();
    for _ in 0..200 {
        let (mut plan, _reader) = plan("/bin/cat", &["cat"]);
        if let vouchsafe_launch::Stdio::Descriptors([stdin, _, _]) = &mut plan.stdio {
            *stdin = input.try_clone().unwrap().into();
        }
        let name = plan.name.clone();
        running.push((name, rig.run(plan).unwrap()));
    }
    assert_eq!(rig.left(), (201, 200));
    let numbers: BTreeSet<i32> = running.iter().map(|(_, run)| run.main().pid().unwrap()).collect();
    assert_eq!(numbers.len(), 200);
    drop((input, hold));
    for (name, mut run) in running {
        assert_eq!(run.wait().unwrap(), Outcome::Exited(0));
        rig.launcher.forget(&name).unwrap();
    }
    assert_eq!(rig.left(), (1, 0));
    assert!(
        descriptors() <= before,
        "{} descriptors, {before} before",
        descriptors()
    );
    let zombies = Command::new("ps")
        .args(["-o", "stat=", "--ppid", &std::process::id().to_string()])
        .output();
    let text = String::from_utf8(zombies.unwrap().stdout).unwrap();
    assert!(!text.lines().any(|state| state.starts_with('Z')), "{text}");
}
