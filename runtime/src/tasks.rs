//! Named tasks: none is forgotten, and one that must run but ends stops the process.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a task ended that had to go on.
#[derive(Debug, thiserror::Error)]
#[error("task `{name}` ended: {reason}")]
pub struct TaskFailed {
    /// The task's name.
    pub name: &'static str,
    /// Its error, as a chain of texts.
    pub reason: String,
}

/// Spawns tasks with names and ends them together. Cheap to clone.
#[derive(Clone)]
pub struct TaskGroup {
    tracker: TaskTracker,
    stop: CancellationToken,
    failures: mpsc::UnboundedSender<TaskFailed>,
    running: Arc<Running>,
}

/// How many tasks of each name have not ended.
#[derive(Debug, Default)]
struct Running(Mutex<BTreeMap<&'static str, usize>>);

/// One task that has not ended.
struct Runs(Arc<Running>, &'static str);

/// The end of a [`TaskGroup`] that hears of tasks that failed.
#[derive(Debug)]
pub struct TaskFailures(mpsc::UnboundedReceiver<TaskFailed>);

impl TaskFailures {
    /// The next task that ended though it had to go on.
    pub async fn next(&mut self) -> Option<TaskFailed> {
        self.0.recv().await
    }
}

impl TaskGroup {
    /// An empty group and the end that hears of its failures.
    pub fn new() -> (Self, TaskFailures) {
        let (failures, heard) = mpsc::unbounded_channel();
        let group = Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            failures,
            running: Arc::default(),
        };
        (group, TaskFailures(heard))
    }

    /// Cancelled when the group is told to stop; tasks wait for it to end in order.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells every task to end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Spawns a task that must run as long as the process: its end before [`TaskGroup::stop`] is a failure.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn essential<E: fmt::Display>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (stop, failures) = (self.stop.clone(), self.failures.clone());
        let inner = tokio::spawn(async move { task.await.map_err(|e| format!("{e:#}")) });
        let runs = self.begin(name);
        self.tracker.spawn(async move {
            let _runs = runs;
            let aborter = inner.abort_handle();
            let _abort_on_drop = AbortOnDrop(aborter);
            let reason = match inner.await {
                Ok(Ok(())) => "returned early".to_owned(),
                Ok(Err(reason)) => reason,
                Err(panic) => panic.to_string(),
            };
            if !stop.is_cancelled() {
                let _unheard = failures.send(TaskFailed { name, reason });
            }
        });
    }

    /// Spawns a task that may end whenever its work is done, such as one connection; it is dropped at stop.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn passing(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, runs) = (self.stop.clone(), self.begin(name));
        let work = async move {
            let _runs = runs;
            tokio::select! {
                () = stop.cancelled() => tracing::trace!(task = name, "dropped at stop"),
                () = task => {}
            }
        };
        tokio::spawn(self.tracker.track_future(work));
    }

    fn begin(&self, name: &'static str) -> Runs {
        *self.running.lock().entry(name).or_default() += 1;
        Runs(Arc::clone(&self.running), name)
    }

    /// Waits until all tasks have ended, at most `limit`; `false` when some had to be left.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TaskGroup").field(&*self.running.lock()).finish()
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let mut running = self.0.lock();
        match running.get_mut(self.1) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                running.remove(self.1);
            }
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_essential_task_that_ends_is_named() {
        let (group, mut failures) = TaskGroup::new();
        group.essential("index", async { Err::<(), _>("no store") });
        let failed = failures.next().await.unwrap();
        assert_eq!(failed.to_string(), "task `index` ended: no store");
    }

    #[tokio::test]
    async fn a_panic_in_an_essential_task_is_a_failure() {
        let (group, mut failures) = TaskGroup::new();
        group.essential("rotator", async {
            assert_eq!(1, 2, "boom");
            Ok::<(), String>(())
        });
        assert!(failures.next().await.unwrap().reason.contains("boom"));
    }

    #[tokio::test]
    async fn tasks_that_have_not_ended_are_named() {
        let (group, _failures) = TaskGroup::new();
        group.essential("deaf", std::future::pending::<Result<(), String>>());
        group.passing("done", async {});
        group.stop();
        assert!(!group.drain(Duration::from_millis(100)).await);
        assert_eq!(format!("{group:?}"), r#"TaskGroup({"deaf": 1})"#);
    }

    #[tokio::test]
    async fn stop_ends_passing_tasks_and_is_no_failure() {
        let (group, mut failures) = TaskGroup::new();
        let stopping = group.stopping();
        group.essential("server", async move {
            stopping.cancelled().await;
            Ok::<(), String>(())
        });
        group.passing("connection", std::future::pending());
        group.stop();
        assert!(group.drain(Duration::from_secs(5)).await);
        drop(group);
        assert!(failures.next().await.is_none());
    }
}
