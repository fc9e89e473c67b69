//! Blocking reads of other processes, where the runtime can do without the thread.
//!
//! A process can make reads of its files and memory last for ever (FUSE, userfaultfd). So each measurement
//! has a deadline, and each uid a number of reads at once: whoever hangs them hangs only its own uid's.
//!
//! To change threads for a read and back costs more than most reads. So a runtime may have workers to spare: as many
//! reads as that are done on the workers themselves, and whoever hangs those has only taken the spare ones.

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

    /// Runs `read` on a thread that may block.
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
        // is this one, which does nothing.
        tokio::spawn(std::future::ready(()));
        let found = read();
        drop(places);
        found
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use vouchsafe_attestors::Reach;
    use vouchsafe_sys::PidFd;

    use super::*;

    fn process_of(uid: u32) -> Process {
        let pidfd = PidFd::of_self().unwrap();
        let pid = pidfd.pid().unwrap();
        Process {
            pidfd: Arc::new(pidfd),
            pid,
            uid,
            gid: 0,
            reach: Reach::Full,
        }
    }

    #[tokio::test]
    async fn reads_that_hang_cost_only_their_own_uid() {
        let reads = Reads::new(Duration::from_millis(50), 3);
        let mut held = Vec::new();
        for _ in 0..3 {
            let (release, wait) = mpsc::channel::<()>();
            held.push(release);
            let process = process_of(1);
            let hung = reads.run(&process, "a test", move || {
                let _ended = wait.recv();
                Ok(())
            });
            assert!(matches!(hung.await, Err(WorkloadAttestError::TimedOut { .. })));
        }
        let same_uid = reads.run(&process_of(1), "a test", || Ok(())).await;
        assert!(matches!(same_uid, Err(WorkloadAttestError::TimedOut { .. })));
        // Only the deadline of this machine's load stands between another uid and its answer.
        let patient = Reads {
            limit: Duration::from_secs(30),
            per_uid: 3,
            places: Mutex::new(reads.places.lock().unwrap().clone()),
            spare: Arc::clone(&reads.spare),
        };
        assert!(patient.run(&process_of(2), "a test", || Ok(())).await.is_ok());
        drop(held);
        assert!(patient.run(&process_of(1), "a test", || Ok(())).await.is_ok());
    }

    #[tokio::test]
    async fn uids_that_nobody_uses_are_forgotten() {
        let reads = Reads::default();
        for uid in 0..2_000 {
            reads.run(&process_of(uid), "a test", || Ok(())).await.unwrap();
        }
        assert!(reads.places.lock().unwrap().len() <= UIDS_BEFORE_SWEEP);
    }

    /// In a thread of its own, which hangs where the workers do.
    #[test]
    fn reads_that_hang_keep_the_spare_workers_and_no_other() {
        let (done, seen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(3).enable_all().build().unwrap();
            runtime.block_on(hang_more_than_can_be_spared());
            done.send(()).unwrap();
        });
        seen.recv_timeout(Duration::from_secs(60))
            .expect("no worker is left");
    }

    async fn hang_more_than_can_be_spared() {
        let reads = Reads::new(Duration::from_millis(200), 3).with_spare_workers(2);
        let mut held = Vec::new();
        for uid in 0..5 {
            let (release, wait) = mpsc::channel::<()>();
            held.push(release);
            let process = process_of(uid);
            let hung = reads.run(&process, "a test", move || {
                let _ended = wait.recv();
                Ok(())
            });
            assert!(matches!(hung.await, Err(WorkloadAttestError::TimedOut { .. })));
        }
        assert_eq!(reads.spare.available_permits(), 0);
        // Only the deadline of this machine's load stands between others and their answers.
        let patient = Reads {
            limit: Duration::from_secs(30),
            per_uid: 3,
            places: Mutex::default(),
            spare: Arc::clone(&reads.spare),
        };
        for uid in 0..10 {
            patient.run(&process_of(uid), "a test", || Ok(())).await.unwrap();
        }
        drop(held);
        // Who hung gives back what it took.
        while reads.spare.available_permits() < 2 {
            tokio::task::yield_now().await;
        }
    }
}
