//! Another process writes on the connection of one that is entitled.

use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use super::tally::{attack, node};

/// Without the comparison of each chunk's sender with the connector, `nobody` is answered in root's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_passed() {
    require!(Need::Root);
    let node = node("", &[&own_uid()]).await;
    attack(&node, "passed", &[]).await.close();
}

/// Without the same comparison a child is answered in its parent's name, and may prove its parent's presence.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_on_its_parents_connection() {
    let node = node("", &[&own_uid()]).await;
    attack(&node, "child", &[]).await.close();
}

/// Without the comparison of credentials a process keeps what its former user was given.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_in_between() {
    require!(Need::Root);
    let node = node("", &[&own_uid()]).await;
    attack(&node, "setuid_between", &[]).await.close();
}
