//! A process that is not entitled to anything becomes one that is.

use vouchsafe_tests::daemons::own_uid;

use vouchsafe_tests::upstream::TOKEN;

use super::tally::{NO_PRESENCE, attack, node, path_selector, prepared, python, sleeper, victim};

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
