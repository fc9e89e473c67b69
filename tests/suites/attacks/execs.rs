//! A process that is not entitled to anything becomes one that is.

use std::process::Command;

use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::upstream::TOKEN;

use super::tally::{
    NO_PRESENCE, attack, follow, in_a_pid_namespace, node, path_selector, prepared, python, sleeper, victim,
};

/// At every point of a call: after connecting, within the request, after it, measured, its presence proved.
#[tokio::test(flavor = "multi_thread")]
async fn exec_at_any_point_of_a_call() {
    let [sleep, seconds] = sleeper();
    let node = node("", &[&own_uid(), &path_selector(&sleep)]).await;
    attack(&node, "exec_between", &[&sleep, &seconds]).await.close();
}

/// The same where both programs are Python's interpreter: only the script's path tells them apart.
#[tokio::test(flavor = "multi_thread")]
async fn exec_from_python_to_python() {
    let mut node = prepared("").await;
    node.run(Some(TOKEN)).await.unwrap();
    let python = python().0.display().to_string();
    let good = node.path("good.py").display().to_string();
    victim(&node, &[&own_uid(), &format!("process:script:{good}")]).await;
    attack(&node, "exec_between", &[&python, &good]).await.close();
}

/// It is itself at the first look and at the last, and has given both images the same bytes to know them by: what is measured
/// in between is the right program, which executes whatever it is told. Where the kernel tells of no exec, that is found
/// out because what is read of a program must be read of the file of the first look.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_goes_away_and_comes_back() {
    require!(Need::Root, Need::Namespaces);
    let node = prepared("").await;
    let (trusted, lock) = (node.path("trusted"), node.path("lock"));
    std::fs::write(&lock, "").unwrap();
    // Large, so that the measurement lasts until it is back.
    let script = r#"umask 022; cp "$(command -v flock)" "$1"; head -c 60000000 /dev/zero >>"$1""#;
    let copied = Command::new("sh")
        .args(["-ec", script, "sh"])
        .arg(&trusted)
        .status();
    assert!(copied.unwrap().success());
    let selectors = [own_uid(), path_selector(&trusted)];
    let (trusted, lock) = (trusted.display().to_string(), lock.display().to_string());
    let more = ["away_and_back", &trusted, &lock];
    let attacker = in_a_pid_namespace(&node, "apart", &selectors, &more).await;
    follow("away_and_back", attacker).await.close();
}

/// Without the comparison with what the process was when it was accepted, whoever shares its socket is answered in the
/// name of the program that it became. Nobody proves its presence here, for that would prevent it as well.
#[tokio::test]
async fn exec_between_accept_and_measurement() {
    let [sleep, seconds] = sleeper();
    let node = node(NO_PRESENCE, &[&own_uid(), &path_selector(&sleep)]).await;
    let rounds = attack(&node, "accepted_then_exec", &[&sleep, &seconds]).await;
    rounds.close();
}

/// Without the presence proof the answer goes to whoever shares the socket: the writer is the right program from the
/// first look on.
#[tokio::test]
async fn a_whole_request_and_exec_before_it_is_accepted() {
    let [sleep, seconds] = sleeper();
    let node = node(
        "[attest]\npresence_timeout = \"100ms\"",
        &[&own_uid(), &path_selector(&sleep)],
    )
    .await;
    attack(&node, "queued", &[&sleep, &seconds]).await.close();
}
