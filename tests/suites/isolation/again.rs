//! What a restarted agent takes for a run of before, where the numbers of processes were given to others meanwhile.

use std::fs;
use std::process::{Child, Command};

use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};
use vouchsafe_launch::record::Process;
use vouchsafe_launch::{Outcome, Recovered};
use vouchsafe_sys::PidFd;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::rig::{PYTHON, Rig, plan};

/// A stranger that has this number, which is free.
fn stranger(pid: i32) -> Child {
    fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
    let child = Command::new("sleep").arg("600").spawn().unwrap();
    assert_eq!(child.id(), pid.cast_unsigned());
    child
}

#[test]
fn a_record_of_before_the_host_was_started_names_nobody() {
    require!(Need::Root);
    let rig = Rig::new();
    let (plan, _reader) = plan(PYTHON, &["python3", "-c", "import time; time.sleep(600)"]);
    let record = rig.path().join(format!("records/{}.json", plan.name));
    let launched = rig.run(plan).unwrap();
    let mut text: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    *text.get_mut("boot_id").unwrap() = json!("another");
    fs::write(&record, text.to_string()).unwrap();
    let found = rig.again().recover().unwrap();
    assert!(
        matches!(found.as_slice(), [(_, Recovered::Ended(Outcome::Lost))]),
        "{found:?}"
    );
    assert!(
        launched.main().is_alive(),
        "its number is not that of the record's"
    );
}

/// A file is empty where the host lost its power before it was on disk.
#[test]
fn a_record_that_cannot_be_read_is_nobodys_and_what_it_was_of_is_ended() {
    require!(Need::Root);
    let rig = Rig::new();
    let (lost, _lost_out) = plan(PYTHON, &["python3", "-c", "import time; time.sleep(600)"]);
    let (living, _out) = plan(PYTHON, &["python3", "-c", "import time; time.sleep(600)"]);
    let names = [&lost, &living].map(|plan| plan.name.clone());
    let [lost, _living] = [lost, living].map(|plan| rig.run(plan).unwrap());
    fs::write(rig.path().join(format!("records/{}.json", names[0])), "").unwrap();
    let found = rig.again().recover().unwrap();
    assert!(
        matches!(found.as_slice(), [(name, Recovered::Living(_))] if *name == names[1]),
        "{found:?}"
    );
    assert!(!lost.main().is_alive());
}

fn numbers_that_strangers_have() {
    let rig = Rig::new();
    let (plan, _reader) = plan(PYTHON, &["python3", "-c", "import time; time.sleep(600)"]);
    let record = rig.path().join(format!("records/{}.json", plan.name));
    let mut launched = rig.run(plan).unwrap();
    let main = launched.main().info().unwrap();
    PidFd::open(main.ppid).unwrap().signal(Signal::SIGKILL).unwrap();
    assert_eq!(launched.wait().unwrap(), Outcome::Lost);
    // It is the first process of this namespace that reaps what has no parent.
    waitpid(Pid::from_raw(main.pid), None).unwrap();
    let mut text: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let mut strangers = Vec::new();
    for (name, pid) in [("supervisor", main.ppid), ("main", main.pid)] {
        let mut child = stranger(pid);
        // As if all of it had come about within one tick of the clock.
        let start_time = Process::of(pid).unwrap().start_time;
        *text.get_mut(name).unwrap().get_mut("start_time").unwrap() = json!(start_time);
        assert!(child.try_wait().unwrap().is_none());
        strangers.push(child);
    }
    fs::write(&record, text.to_string()).unwrap();
    let found = rig.again().recover().unwrap();
    assert!(
        matches!(found.as_slice(), [(_, Recovered::Ended(Outcome::Lost))]),
        "{found:?}"
    );
    for mut stranger in strangers {
        assert!(stranger.try_wait().unwrap().is_none(), "strangers are left alone");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

#[test]
fn a_stranger_that_has_the_number_of_a_run_is_not_taken_for_it() {
    require!(Need::Root, Need::Namespaces, Need::Pidfs);
    // This test once more, as the first process of a namespace in which nobody else takes numbers.
    if std::process::id() == 1 {
        return numbers_that_strangers_have();
    }
    let name = "again::a_stranger_that_has_the_number_of_a_run_is_not_taken_for_it";
    let output = Command::new("unshare")
        .args(["-pm", "--mount-proc", "--fork", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
