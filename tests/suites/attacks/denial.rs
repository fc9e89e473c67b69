//! One user's processes try to keep the agent from serving another user. Each time the other one is served while the
//! attack goes on.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Command;

use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::node::{Node, message};
use vouchsafe_tests::upstream::TOKEN;
use vouchsafe_tests::wait::until;
use vouchsafe_tests::{require, wait};

use super::tally::{Attacker, node, prepared, programs, python, run, script, victim};

/// Pushes that a stream's reader does not read.
const PUSHES: usize = 100;
/// What they may cost in memory, for 200 streams: many times less than the messages.
const MAX_GROWTH_KIB: usize = 48 * 1024;

/// A node that knows `nobody` as well as this user.
async fn for_both(more: &str) -> Node {
    let node = node(more, &[&own_uid()]).await;
    node.upstream.put_entry("nobody", &["unix:uid:65534"], |_| {});
    until("the agent has both SVIDs", async || {
        (node.health().await.ok()?.cached_svids == 2).then_some(())
    })
    .await
    .unwrap();
    node
}

fn start(node: &Node, attack: &str, number: usize, more: &[&str]) -> Attacker {
    let mut command = Command::new(python().0);
    Attacker::start(command.args(script(node, attack, number, more)))
}

/// Without the limit of each user's calls, one user holds as many as all its connections have room for.
#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_one_user_are_bounded() {
    require!(Need::Root);
    let node = for_both("[limits]\nmax_streams_per_uid = 30").await;
    let mut hoarder = start(&node, "hoard", 5, &["20"]);
    assert_eq!(hoarder.line().await.unwrap(), "30 answered, 70 refused");
    node.given(&["/victim"]).await.unwrap();
    hoarder.tell();
}

/// Processes that stop, by themselves or by a tracer, while they are measured or asked to answer. Their own user is
/// served again too, when the time to answer is over, though they hold all the calls that it may have.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_stop_hold_up_nobody_else() {
    require!(Need::Root);
    let node = for_both("[limits]\nmax_streams_per_uid = 60").await;
    let mut frozen = start(&node, "freeze", 60, &[]);
    assert_eq!(frozen.line().await.unwrap(), "stopped");
    for _ in 0..20 {
        node.given(&["/victim"]).await.unwrap();
    }
    until("the user of those that stopped is served", async || {
        let mut another = start(&node, "hoard", 1, &["1"]);
        let line = another.line().await?;
        another.tell();
        (line == "1 answered, 0 refused").then_some(())
    })
    .await
    .unwrap();
    frozen.tell();
}

/// A reader that reads no more costs a bounded amount of memory, whatever is pushed to it.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_stay_small() {
    require!(Need::Root);
    let node = for_both("").await;
    let mut hoarder = start(&node, "hoard", 4, &["50"]);
    assert_eq!(hoarder.line().await.unwrap(), "200 answered, 0 refused");
    let mut stream = node.x509().await.unwrap();
    message(&mut stream).await.unwrap();
    let before = memory_kib();
    for push in 0..PUSHES {
        let hint = format!("{push}-{}", "x".repeat(1000));
        for id in ["victim", "nobody"] {
            let selector = if id == "victim" {
                own_uid()
            } else {
                "unix:uid:65534".to_owned()
            };
            node.upstream
                .put_entry(id, &[&selector], |entry| entry.hint.clone_from(&hint));
        }
        let pushed =
            async { while message(&mut stream).await.unwrap().svids.first().unwrap().hint != hint {} };
        tokio::time::timeout(wait::DEADLINE, pushed).await.unwrap();
    }
    let grown = memory_kib().saturating_sub(before);
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB");
    hoarder.tell();
}

/// What this process, and with it the agent, has in memory.
fn memory_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A pipe, a device, and a file of 100 GB as script: none is read, and the caller has its other selectors.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_as_script_is_not_read_unless_it_is_a_small_file() {
    let node = node("", &[&own_uid()]).await;
    let (pipe, sparse) = (node.path("pipe.py"), node.path("sparse.py"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::File::create(&sparse)
        .unwrap()
        .set_len(100 << 30)
        .unwrap();
    let scripts = [pipe, sparse, "/dev/zero".into()].map(|path| path.display().to_string());
    let [pipe, sparse, device] = &scripts;
    let mut command = Command::new(python().0);
    command.args(script(&node, "misled", 9, &[pipe, sparse, device]));
    assert_eq!(
        run("misled", &mut command).await.wrong(),
        9,
        "each is answered by its other selectors"
    );
}

/// The same of an executable that is followed by a hole of 100 GB.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_program_is_served_without_its_hash() {
    let mut node = prepared("").await;
    node.run(Some(TOKEN)).await.unwrap();
    let (trusted, _) = programs(&node);
    let grown = Command::new("truncate")
        .args(["-s", "100G"])
        .arg(&trusted)
        .status();
    assert!(grown.unwrap().success());
    victim(&node, &[&super::tally::path_selector(&trusted)]).await;
    let mut command = Command::new(&trusted);
    command.env("PYTHONHOME", python().1);
    command.args(script(&node, "own", 3, &[]));
    assert_eq!(
        run("own", &mut command).await.wrong(),
        3,
        "it is answered by its path"
    );
}
