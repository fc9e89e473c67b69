//! An agent in a container: namespaces of its own, and a subtree of control groups that was delegated to it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::poll::PollTimeout;
use vouchsafe_launch::cgroups::{Cgroup, CgroupRoot};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

/// What must be as it is outside: who gets what, that nobody gets away, that the end empties the group, that runs are
/// found again.
const TESTS: [&str; 4] = [
    "identity::the_main_process_alone_has_the_runs_identity_and_its_key_stays_its_own",
    "escapes::whatever_way_a_child_is_started_it_gets_neither_identity_nor_key",
    "life::a_run_that_the_operator_kills_ends_and_has_no_identity_any_more",
    "life::an_agent_that_was_killed_finds_the_run_again_which_keeps_its_identity",
];

/// Enters the group, which is the top of the hierarchy from then on, in namespaces of its own.
const INTO: &str = "echo $$ > \"$1\"/cgroup.procs && shift && $UNSHARE sh -c 'read go && \
    exec unshare -Cmpf --mount-proc --kill-child sh -c \"$INSIDE\" \"$@\"' sh \"$@\"";
const INSIDE: &str = "mount -t cgroup2 none /sys/fs/cgroup && test \"$(tail -n 1 /proc/self/cgroup)\" = 0::/ && \
    exec \"$0\" --test-threads=1 --exact \"$@\"";
/// Users and groups that a container with a user namespace has.
const IDS: &str = "0 0 70000";

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

/// Has the tests pass in a container, with a user namespace of its own or without.
async fn contained(name: &str, own_users: bool) {
    let (_root, group) = Delegated::new(name);
    let mut command = Command::new("sh");
    command.args(["-c", INTO, "sh"]).arg(group.path());
    command.arg(std::env::current_exe().unwrap()).args(TESTS);
    command.env("UNSHARE", if own_users { "exec unshare -U" } else { "exec" });
    command.env("INSIDE", INSIDE).stdin(Stdio::piped());
    let mut container = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if own_users {
        let process = Path::new("/proc").join(container.id().to_string());
        let outside = fs::read_link("/proc/self/ns/user").unwrap();
        until("it has a user namespace", async || {
            let inside = fs::read_link(process.join("ns/user")).ok()?;
            (inside != outside).then_some(())
        })
        .await
        .unwrap();
        for map in ["uid_map", "gid_map"] {
            fs::write(process.join(map), IDS).unwrap();
        }
    }
    writeln!(container.stdin.take().unwrap()).unwrap();
    let waited = tokio::task::spawn_blocking(|| container.wait_with_output());
    passed(&waited.await.unwrap().unwrap());
    assert_eq!(group.processes().unwrap(), Vec::<i32>::new(), "nothing is left");
}

#[tokio::test]
async fn runs_are_launched_told_apart_killed_and_found_again_in_a_container() {
    require!(Need::Root, Need::Namespaces);
    contained("container", false).await;
}

#[tokio::test]
async fn so_they_are_in_one_whose_root_is_not_the_hosts() {
    require!(Need::Root, Need::Namespaces);
    contained("users", true).await;
}
