//! The life of a daemon after it is built: wait for a signal or a failed task, stop, drain, end.

use std::future::Future;
use std::time::Duration;

use crate::tasks::{TaskFailed, TaskFailures, TaskGroup};

/// Runs until `signal` resolves (to the reason) or an essential task fails; then stops the group and drains it
/// for at most `drain`.
///
/// # Errors
/// [`TaskFailed`] names the task that ended though it had to go on.
pub async fn run(
    group: TaskGroup,
    mut failures: TaskFailures,
    signal: impl Future<Output = &'static str>,
    drain: Duration,
) -> Result<(), TaskFailed> {
    let outcome = tokio::select! {
        reason = signal => {
            tracing::info!(reason, "stopping");
            Ok(())
        }
        Some(failed) = failures.next() => {
            tracing::error!(task = failed.name, error = failed.reason, "a task failed: stopping");
            Err(failed)
        }
    };
    group.stop();
    if !group.drain(drain).await {
        tracing::warn!(
            ?group,
            limit_ms = drain.as_millis(),
            "some tasks did not end in time and are left"
        );
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_signal_stops_the_tasks_and_is_no_failure() {
        let (group, failures) = TaskGroup::new();
        let stopping = group.stopping();
        group.essential("server", async move {
            stopping.cancelled().await;
            Ok::<(), String>(())
        });
        let ended = run(group, failures, async { "SIGTERM" }, DRAIN).await;
        assert!(ended.is_ok());
    }

    #[tokio::test]
    async fn a_failed_task_stops_the_others_and_is_the_result() {
        let (group, failures) = TaskGroup::new();
        let (stopping, seen) = (group.stopping(), group.stopping());
        group.essential("server", async move {
            stopping.cancelled().await;
            Ok::<(), String>(())
        });
        group.essential("index", async { Err::<(), _>("no store") });
        let failed = run(group, failures, std::future::pending(), DRAIN)
            .await
            .unwrap_err();
        assert_eq!(failed.name, "index");
        assert!(seen.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_listen_is_left_after_the_limit() {
        let (group, failures) = TaskGroup::new();
        group.essential("deaf", std::future::pending::<Result<(), String>>());
        let begun = tokio::time::Instant::now();
        run(group, failures, async { "SIGINT" }, DRAIN).await.unwrap();
        assert!(begun.elapsed() >= DRAIN && begun.elapsed() < DRAIN * 2);
    }
}
