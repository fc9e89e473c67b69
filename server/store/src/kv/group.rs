//! Group commit: while one group is on its way to the disk, the next gathers.
//!
//! The first caller that finds no leader starts one on a blocking thread; the leader writes group
//! after group until nobody waits. There is never more than one, so commits have one order.
//! (Blocking threads hold tokio's paused clock still, which a thread of our own would not.)

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::{Core, Kv};
use crate::{Commit, CommitError, Revision, StoreError};

/// Most commits in one group: bounds how long the first of them waits.
const MAX_GROUP: usize = 256;
/// Most commits that wait; who comes later waits outside.
const MAX_WAITING: usize = 4096;

type Answer = Result<Revision, CommitError>;
type Waiting = (Commit, oneshot::Sender<Answer>);

/// Commits that wait for the leader.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    idle: Condvar,
    places: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    led: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            idle: Condvar::new(),
            places: Semaphore::new(MAX_WAITING),
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many commits wait for the next group.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Blocks until no leader is at work.
    pub(super) fn wait_idle(&self) {
        let idle = self.idle.wait_while(self.lock(), |state| state.led);
        drop(idle.unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a caller hears whose commit was dropped on the way.
pub(super) fn gone() -> CommitError {
    CommitError::Store(StoreError::Closed("it is shutting down".to_owned()))
}

/// Queues a commit and waits for its group; a caller that stops waiting does not stop its commit.
pub(super) async fn commit<K: Kv>(queue: &Arc<Queue>, core: &Arc<Core<K>>, commit: Commit) -> Answer {
    let _place = queue.places.acquire().await.map_err(|_closed| gone())?;
    let (tell, told) = oneshot::channel();
    let lead = {
        let mut state = queue.lock();
        state.waiting.push((commit, tell));
        !std::mem::replace(&mut state.led, true)
    };
    if lead {
        let leader = Leader {
            queue: Arc::clone(queue),
            core: Some(Arc::clone(core)),
        };
        tokio::task::spawn_blocking(move || leader.run());
    }
    told.await.unwrap_or_else(|_dropped| Err(gone()))
}

/// The one who writes. However it ends, even dropped unstarted, it leaves its place free and nobody waiting.
struct Leader<K: Kv> {
    queue: Arc<Queue>,
    core: Option<Arc<Core<K>>>,
}

impl<K: Kv> Leader<K> {
    fn run(mut self) {
        while let Some(core) = &self.core {
            let group = {
                let mut state = self.queue.lock();
                if state.waiting.is_empty() {
                    // Under the lock, so that no commit comes between this look and the end.
                    self.core = None;
                    state.led = false;
                    break;
                }
                let size = state.waiting.len().min(MAX_GROUP);
                state.waiting.drain(..size).collect::<Vec<_>>()
            };
            let (commits, tells): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            for (tell, answer) in tells.into_iter().zip(core.write(commits)) {
                let _caller_left = tell.send(answer);
            }
        }
        self.queue.idle.notify_all();
    }
}

impl<K: Kv> Drop for Leader<K> {
    fn drop(&mut self) {
        if self.core.take().is_none() {
            return;
        }
        let mut state = self.queue.lock();
        state.waiting.clear();
        state.led = false;
        drop(state);
        self.queue.idle.notify_all();
    }
}
