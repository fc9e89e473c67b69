//! Blocking reads of other processes, on threads of their own: a process can make reads of its files and memory last for
//! ever (FUSE, userfaultfd), and a worker of the runtime that is kept keeps with it what tokio put off on it.
//!
//! Each measurement has a deadline, and each uid a number of reads at once: whoever hangs them hangs only its own uid's.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;
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
        }
    }

    /// Runs `read`, which may block.
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
            let reading = tokio::task::spawn_blocking(move || {
                let found = read();
                drop(place);
                found
            });
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

#[cfg(test)]
mod tests;
