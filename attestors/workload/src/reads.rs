//! Blocking reads of other processes, where the runtime can do without the thread.
//!
//! A process can make reads of its files and memory last for ever (FUSE, userfaultfd). So each measurement
//! has a deadline, and each uid a number of reads at once: whoever hangs them hangs only its own uid's.
//!
//! To change threads for a read and back costs more than most reads. So a runtime may have workers to spare: as many
//! reads as that are done on the workers themselves. Such a read first leaves the sockets, the clock and the tasks that
//! are ready on its worker to others: whoever hangs it has taken a spare worker. A task that has used up its share there
//! (tokio's budget) and was put off waits with it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use vouchsafe_attestors::{Process, WorkloadAttestError};

/// The longest that one measurement of a process may take; waiting for a place counts.
pub const MAX_READ_TIME: Duration = Duration::from_secs(10);

/// Measurements of one uid's processes that may be under way at once, unless the config says otherwise.
pub const DEFAULT_READS_PER_UID: usize = 8;

/// Uids whose places are remembered before those that nobody uses are forgotten.
const UIDS_BEFORE_SWEEP: usize = 256;

/// Carries out blocking reads, limited in time and in number for each uid. One for all attestors of an agent.
#[derive(Debug)]
pub struct Reads {
    limit: Duration,
    per_uid: usize,
    places: Mutex<HashMap<u32, Weak<Semaphore>>>,
    /// The runtime's workers that may be kept busy.
    spare: Arc<Semaphore>,
}

impl Default for Reads {
    fn default() -> Self {
        Self::new(MAX_READ_TIME, DEFAULT_READS_PER_UID)
    }
}

impl Reads {
    /// Reads that are given up after `limit`, so many at once for each uid.
    #[must_use]
    pub fn new(limit: Duration, per_uid: usize) -> Self {
        Self {
            limit,
            per_uid,
            places: Mutex::default(),
            spare: Arc::new(Semaphore::new(0)),
        }
    }

    /// The same reads, so many of them at once on the runtime's own workers. The runtime must have that many more
    /// workers than it needs: each may be kept for ever.
    #[must_use]
    pub fn with_spare_workers(mut self, workers: usize) -> Self {
        self.spare = Arc::new(Semaphore::new(workers));
        self
    }

    /// Runs `read`, which may block: on a worker where one can be spared, else on a thread for such work.
    ///
    /// # Errors
    /// That of `read`, or `TimedOut`; the thread then keeps its place until it comes back.
    pub(crate) async fn run<T, F>(
        &self,
        process: &Process,
        what: &'static str,
        read: F,
    ) -> Result<T, WorkloadAttestError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, WorkloadAttestError> + Send + 'static,
    {
        let pid = process.pid;
        let unreadable = |source| WorkloadAttestError::Unreadable { what, pid, source };
        let places = self.places_of(process.uid);
        let work = async {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            let reading = match Arc::clone(&self.spare).try_acquire_owned() {
                Ok(spare) if has_other_workers() => on_worker(read, (place, spare)),
                _ => tokio::task::spawn_blocking(move || {
                    let found = read();
                    drop(place);
                    found
                }),
            };
            reading.await.map_err(io::Error::other)
        };
        match tokio::time::timeout(self.limit, work).await {
            Ok(found) => found.map_err(unreadable)?,
            Err(_elapsed) => {
                tracing::warn!(pid, uid = process.uid, what, "gave up on reading a process");
                Err(WorkloadAttestError::TimedOut {
                    what,
                    pid,
                    limit: format!("{:?}", self.limit),
                })
            }
        }
    }

    fn places_of(&self, uid: u32) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = places.get(&uid).and_then(Weak::upgrade) {
            return known;
        }
        if places.len() >= UIDS_BEFORE_SWEEP {
            places.retain(|_, held| held.strong_count() > 0);
        }
        let fresh = Arc::new(Semaphore::new(self.per_uid));
        places.insert(uid, Arc::downgrade(&fresh));
        fresh
    }
}

/// A runtime with one worker can spare none.
fn has_other_workers() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread
}

/// Runs `read` in a task of its own, so that who waits for it can give up.
#[expect(
    clippy::disallowed_methods,
    reason = "no task of the agent's but a read: it ends by itself, and who waits for it says what it is"
)]
fn on_worker<T, F>(read: F, places: (OwnedSemaphorePermit, OwnedSemaphorePermit)) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    tokio::spawn(async move {
        // A worker keeps the task that was woken last to itself, and others cannot take it over: from here on that
        // is the second of these, which do nothing. The first is then there for others, which wakes one that sleeps:
        // this worker may be the one that sockets and the clock wake, and nobody else takes that over unasked.
        tokio::spawn(std::future::ready(()));
        tokio::spawn(std::future::ready(()));
        let found = read();
        drop(places);
        found
    })
}

#[cfg(test)]
mod tests;
