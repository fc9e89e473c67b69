//! Control groups of runs: nobody leaves, the end empties them, and nothing stays behind.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::Command;

use vouchsafe_launch::cgroups::Cgroup;
use vouchsafe_launch::{OnEnd, Outcome};
use vouchsafe_sys::PidFd;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::rig::{PYTHON, Rig, plan};

/// Starts what tries to get away, each saying its number, and ends itself on its last line.
const RUNAWAYS: &str = r#"
import os, subprocess, sys
ways = [["setsid", "-f"], ["nohup"], ["unshare", "-Ur"], ["unshare", "-UrC"]]
for way in ways:
    subprocess.Popen(way + ["sh", "-c", "echo $$; exec sleep 600"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.execv("/bin/sleep", ["sleep", "600"])
    os._exit(0)
try:
    open("/proc/self/cgroup")
    own = [l.strip()[3:] for l in open("/proc/self/cgroup") if l.startswith("0::")][0]
    for mount in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]:
        if os.path.exists(mount + own + "/cgroup.procs"):
            open(mount + os.path.dirname(own) + "/cgroup.procs", "w").write(str(os.getpid()))
    print("moved")
except OSError as error:
    print(error.strerror, flush=True)
sys.stdin.readline()
"#;

#[test]
fn nobody_leaves_the_group_and_its_end_ends_them_all() {
    require!(Need::Root, Need::Namespaces);
    let rig = Rig::new();
    let (mut plan, reader) = plan(PYTHON, &["python3", "-c", RUNAWAYS]);
    let (input, hold) = std::io::pipe().unwrap();
    if let vouchsafe_launch::Stdio::Descriptors([stdin, _, _]) = &mut plan.stdio {
        *stdin = input.into();
    }
    let group = rig.groups.path().join(&plan.name);
    let mut launched = rig.run(plan).unwrap();
    let lines: Vec<String> = BufReader::new(reader)
        .lines()
        .take(6)
        .map(Result::unwrap)
        .collect();
    let told: BTreeSet<i32> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(told.len(), 5, "{lines:?}");
    assert!(lines.iter().any(|line| line == "Permission denied"), "{lines:?}");
    let inside: BTreeSet<i32> = Cgroup::open(&group)
        .unwrap()
        .processes()
        .unwrap()
        .into_iter()
        .collect();
    assert!(told.is_subset(&inside), "{told:?} {inside:?}");
    let held: Vec<PidFd> = inside.iter().filter_map(|pid| PidFd::open(*pid).ok()).collect();
    drop(hold);
    assert_eq!(launched.wait().unwrap(), Outcome::Exited(0));
    assert!(held.iter().all(|pidfd| !pidfd.is_alive()));
    assert!(!group.exists());
}

#[test]
fn where_the_class_says_so_children_go_on() {
    require!(Need::Root);
    let rig = Rig::new();
    let (mut plan, mut reader) = plan("/bin/sh", &["sh", "-c", "setsid -f sleep 600 >/dev/null 2>&1"]);
    plan.on_end = OnEnd::Leave;
    let group = rig.groups.path().join(&plan.name);
    let mut launched = rig.run(plan).unwrap();
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(launched.wait().unwrap(), Outcome::Exited(0));
    assert!(Cgroup::open(&group).unwrap().is_populated().unwrap());
}

#[test]
fn a_pure_unified_hierarchy_serves_as_well() {
    require!(Need::Root);
    // In a mount namespace of its own, this test's program finds only v2, and runs the tests of the gate there.
    let again = std::env::current_exe().unwrap();
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && \
        exec \"$0\" --exact gate::what_is_in_force_is_named groups::where_the_class_says_so_children_go_on";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(again)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("2 passed"), "{text}");
}

#[test]
fn a_name_is_used_once() {
    require!(Need::Root);
    let rig = Rig::new();
    let (mut first, _reader) = plan("/bin/true", &["true"]);
    "same".clone_into(&mut first.name);
    rig.run(first).unwrap().wait().unwrap();
    let (mut second, _reader) = plan("/bin/true", &["true"]);
    "same".clone_into(&mut second.name);
    let error = rig.launcher.prepare(second).unwrap_err();
    assert!(
        matches!(error, vouchsafe_launch::LaunchError::Used { .. }),
        "{error}"
    );
}
