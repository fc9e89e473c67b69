//! A stream is kept open by whoever shares the socket, when the process that it belongs to is that no more.

use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::node::{end, message};
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

use super::tally::{Tally, attack, node, rounds, sleeper};

/// Streams that one removal ends.
const STREAMS: usize = 10;

/// Without the watch on execs the program that the caller became goes on reading what its predecessor is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_kept_across_exec() {
    let [sleep, seconds] = sleeper();
    let node = node("", &[&own_uid()]).await;
    attack(&node, "keep_by_exec", &[&sleep, &seconds]).await.close();
}

/// Without the watch on the process a child goes on reading what its dead parent is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_kept_across_exit() {
    let node = node("", &[&own_uid()]).await;
    attack(&node, "keep_by_exit", &[]).await.close();
}

/// Without the look at a process whose ids have changed, it keeps its stream until the next message.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_kept_across_a_change_of_user() {
    require!(Need::Root);
    let node = node("", &[&own_uid()]).await;
    attack(&node, "keep_by_setuid", &[]).await.close();
}

/// Without the end of streams that have no identity any more, a process keeps what it had. The agent hears of the removal
/// as it hears of all changes; what counts from then on is its own doing.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_kept_across_the_removal_of_its_entry() {
    let node = node("", &[&own_uid()]).await;
    let mut tally = Tally::new("keep_by_removal");
    for _ in 0..rounds().div_ceil(STREAMS) {
        node.upstream.put_entry("victim", &[&own_uid()], |_| {});
        node.given(&["/victim"]).await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let mut stream = node.x509().await.unwrap();
            message(&mut stream).await.unwrap();
            streams.push(stream);
        }
        node.upstream.change(|server| server.entries.clear());
        until("the agent hears of it", async || {
            (node.health().await.ok()?.entries == 0).then_some(())
        })
        .await
        .unwrap();
        let heard = Instant::now();
        for mut stream in streams {
            end(&mut stream).await.unwrap();
            tally.notice(heard.elapsed().max(Duration::from_millis(1)));
        }
    }
    tally.close();
}
