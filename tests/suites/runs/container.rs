//! An agent in a container: namespaces of its own, and a subtree of control groups that was delegated to it.

use std::fs;
use std::process::{Command, Output};

use nix::poll::PollTimeout;
use vouchsafe_launch::cgroups::{Cgroup, CgroupRoot};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

/// What must be as it is outside: who gets what, that nobody gets away, that the end empties the group, that runs are
/// found again.
const TESTS: [&str; 4] = [
    "identity::the_main_process_alone_has_the_runs_identity_and_its_key_stays_its_own",
    "escapes::whatever_way_a_child_is_started_it_gets_neither_identity_nor_key",
    "life::a_run_that_the_operator_kills_ends_and_has_no_identity_any_more",
    "life::an_agent_that_was_killed_finds_the_run_again_which_keeps_its_identity",
];

/// Enters the group, which is the top of the hierarchy from then on, in namespaces of its own.
const INTO: &str = "echo $$ > \"$1\"/cgroup.procs && shift && exec unshare -Cmpf --mount-proc --kill-child sh -c '\
    umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && test \"$(cat /proc/self/cgroup | tail -1)\" = 0::/ && \
    exec \"$0\" --test-threads=1 --exact \"$@\"' \"$@\"";

/// A subtree of its own, until this is dropped.
struct Delegated(CgroupRoot);

impl Delegated {
    fn new(name: &str) -> (Self, Cgroup) {
        let root = CgroupRoot::of_self(&format!("vouchsafe.test-{name}-{}", std::process::id())).unwrap();
        let group = root.create("container").unwrap();
        (Self(root), group)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for group in self.0.list().unwrap_or_default() {
            let _gone = group.kill();
            let _gone = group.wait_empty_for(PollTimeout::from(5000_u16));
            let _gone = group.remove();
        }
        let _kept_for_looking = fs::remove_dir(self.0.path());
    }
}

fn passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let expected = format!("{} passed", TESTS.len());
    assert!(
        output.status.success() && text.contains(&expected),
        "{text} {complaint}"
    );
}

#[test]
fn runs_are_launched_told_apart_killed_and_found_again_in_a_container() {
    require!(Need::Root, Need::Namespaces);
    let (_root, group) = Delegated::new("container");
    let output = Command::new("sh")
        .args(["-c", INTO, "sh"])
        .arg(group.path())
        .arg(std::env::current_exe().unwrap())
        .args(TESTS)
        .output()
        .unwrap();
    passed(&output);
    assert_eq!(group.processes().unwrap(), Vec::<i32>::new(), "nothing is left");
}
