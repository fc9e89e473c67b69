//! Processes that ask in another one's place: none gets an SVID. Real processes on a real agent; the agent's server is
//! one of the test, which knows an entry that the process in whose place they ask would match.
//!
//! Each test says what breaks without the defence that it is about; each was seen to fail with the defence taken out.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::BufRead;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;
use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::node::Node;
use vouchsafe_tests::upstream::TOKEN;
use vouchsafe_tests::wait::{DEADLINE, until};
use vouchsafe_tests::{repository, require};

/// How often a race is run.
const RACES: usize = 20;

/// A program that waits and asks nobody anything.
fn sleeper() -> PathBuf {
    std::fs::canonicalize("/bin/sleep").unwrap()
}

/// A node whose one entry has these selectors, and knows it.
async fn node(selectors: &[&str]) -> Node {
    node_with("", selectors).await
}

/// The same, with further lines of configuration.
async fn node_with(more: &str, selectors: &[&str]) -> Node {
    let mut node = Node::down(more).await.unwrap();
    node.run(Some(TOKEN)).await.unwrap();
    node.healthy().await.unwrap();
    node.upstream.put_entry("victim", selectors, |_| {});
    until("the agent knows the entry", async || {
        let health = node.health().await.ok()?;
        (health.entries == 1 && health.cached_svids == 1).then_some(())
    })
    .await
    .unwrap();
    node
}

/// Runs the script, in which all processes together print the words that are given back.
async fn try_as(node: &Node, mode: &str, more: &[&str]) -> Vec<String> {
    let mut client = Command::new("python3")
        .arg(repository().join("tests/clients/impostor.py"))
        .arg(mode)
        .arg(node.workload_socket())
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut output = client.stdout.take().unwrap();
    timeout(DEADLINE, output.read_to_string(&mut said))
        .await
        .unwrap()
        .unwrap();
    said.lines().map(str::to_owned).collect()
}

/// The script can ask: without this, the others would prove nothing.
#[tokio::test]
async fn a_process_that_asks_for_itself_is_answered() {
    let node = node(&[&own_uid()]).await;
    assert_eq!(try_as(&node, "own", &[]).await, ["svid"]);
}

#[tokio::test]
async fn a_process_that_matches_no_entry_is_refused() {
    let node = node(&["unix:uid:4294967294"]).await;
    assert_eq!(try_as(&node, "own", &[]).await, ["refused"]);
}

/// Without the comparison of each chunk's sender with the connector (`GuardedStream::check_sender`) the child is
/// answered in its parent's name.
#[tokio::test]
async fn a_child_on_its_parents_connection_gets_nothing() {
    let node = node(&[&own_uid()]).await;
    assert_eq!(try_as(&node, "child", &[]).await, ["cut"]);
}

/// Without the same comparison `nobody` is answered in root's name.
#[tokio::test]
async fn another_user_that_was_passed_the_socket_gets_nothing() {
    require!(Need::Root);
    let node = node(&[&own_uid()]).await;
    assert_eq!(try_as(&node, "passed", &[]).await, ["cut"]);
}

/// Without the look at the pidfd on accept, and that comparison, an orphan is answered in the name of a process that
/// is gone.
#[tokio::test]
async fn whoever_asks_on_the_connection_of_a_process_that_is_gone_gets_nothing() {
    let node = node(&[&own_uid()]).await;
    assert_eq!(try_as(&node, "gone", &[]).await, ["cut"]);
}

/// Without the first look at accept (`Gate::measure` compares with it, `Watch` ends the connection) the program that
/// the connector became is answered on a connection that another program opened.
#[tokio::test]
async fn a_connector_that_executes_another_program_gets_nothing() {
    let node = node(&[&own_uid()]).await;
    let said = try_as(&node, "exec_then_ask", &[]).await;
    assert!(said == ["cut"] || said == ["refused"], "{said:?}");
}

/// The race in which the asker becomes the right program before it is measured. Without the first look at accept the
/// answer goes to whoever shares the socket.
#[tokio::test]
async fn a_connector_that_asks_and_becomes_the_right_program_gets_nothing() {
    let sleeper = sleeper().display().to_string();
    let node = node(&[&own_uid(), &format!("unix:path:{sleeper}")]).await;
    for _ in 0..RACES {
        let said = try_as(&node, "ask_then_exec", &[&sleeper]).await;
        assert!(said == ["cut"] || said == ["refused"], "{said:?}");
    }
}

/// The same where the connector has become the right program before the agent first looks at it: then all that is
/// measured is right. Without the presence proof (`Gate::measure`) the answer goes to whoever shares the socket, every
/// time. The agent lives in this thread: while the thread waits, no connection is accepted.
#[tokio::test]
async fn a_connector_that_became_the_right_program_before_it_was_accepted_gets_nothing() {
    let sleeper = sleeper().display().to_string();
    let node = node(&[&own_uid(), &format!("unix:path:{sleeper}")]).await;
    let mut client = std::process::Command::new("python3")
        .arg(repository().join("tests/clients/impostor.py"))
        .arg("queued")
        .arg(node.workload_socket())
        .args([sleeper, RACES.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(client.stdout.take().unwrap()).lines();
    for _ in 0..RACES {
        assert_eq!(lines.next().unwrap().unwrap(), "queued");
        let outcome = tokio::task::spawn_blocking(move || (lines.next(), lines));
        let (said, rest) = timeout(DEADLINE, outcome).await.unwrap().unwrap();
        lines = rest;
        // Whoever answers in the other one's place is cut off; whoever does not is refused.
        let said = said.unwrap().unwrap();
        assert!(said == "cut" || said == "refused", "{said}");
    }
    assert!(client.wait().unwrap().success());
}

/// Without the wait for the answer (`Presence::prove`) nothing would show that the program knows its connection.
#[tokio::test]
async fn a_client_that_answers_no_ping_is_refused_unless_its_user_is_exempt() {
    let node = node_with("[attest]\npresence_timeout = \"100ms\"", &[&own_uid()]).await;
    assert_eq!(try_as(&node, "deaf", &[]).await, ["refused"]);
    assert_eq!(try_as(&node, "own", &[]).await, ["svid"]);

    let uid = nix::unistd::geteuid();
    let exempt = format!("[attest]\npresence_timeout = \"100ms\"\npresence_exempt_uids = [{uid}]");
    let node = node_with(&exempt, &[&own_uid()]).await;
    assert_eq!(try_as(&node, "deaf", &[]).await, ["svid"]);
    let health = node.health().await.unwrap();
    let presence = health.parts.iter().find(|part| part.name == "presence").unwrap();
    for telling in ["insecure", &uid.to_string(), "1 calls"] {
        assert!(presence.detail.contains(telling), "{}", presence.detail);
    }
}

/// Another user's exemption is none of one's own.
#[tokio::test]
async fn an_exemption_counts_for_its_user_alone() {
    let uid = nix::unistd::geteuid().as_raw() + 1;
    let more = format!("[attest]\npresence_timeout = \"100ms\"\npresence_exempt_uids = [{uid}]");
    let node = node_with(&more, &[&own_uid()]).await;
    assert_eq!(try_as(&node, "deaf", &[]).await, ["refused"]);
}

/// Without the comparison of credentials a process keeps what its former user was given.
#[tokio::test]
async fn a_process_that_changes_its_user_after_connecting_gets_nothing() {
    require!(Need::Root);
    let node = node(&["unix:uid:65534"]).await;
    let said = try_as(&node, "drop_then_ask", &[]).await;
    assert!(said == ["cut"] || said == ["refused"], "{said:?}");
}

/// Without `Watch` the child goes on reading what its dead parent is sent.
#[tokio::test]
async fn a_stream_ends_when_its_process_ends_though_a_child_holds_the_socket() {
    let node = node(&[&own_uid()]).await;
    assert_eq!(try_as(&node, "hold_then_end", &[]).await, ["svid", "cut"]);
}

/// Without `Watch` the program that the caller became goes on reading what its predecessor is sent.
#[tokio::test]
async fn a_stream_ends_when_its_process_executes_another_program() {
    let node = node(&[&own_uid()]).await;
    assert_eq!(try_as(&node, "hold_then_exec", &[]).await, ["svid", "cut"]);
}
