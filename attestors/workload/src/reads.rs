//! Blocking reads of other processes, on threads of their own: a process can make reads of its files and memory last for
//! ever (FUSE, userfaultfd), and a worker of the runtime that is kept keeps with it what tokio put off on it.
//!
//! That holds for every look below `/proc/PID`, also one that touches no page and no file of the process: the kernel lets
//! such looks wait for an exec that is under way, and closing a file within it can last for ever.
//! Each measurement has a deadline, and each uid and each owner of uids a number of reads at once.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use vouchsafe_attestors::{Process, WorkloadAttestError};

use crate::owners::{Owner, Owners};

/// The longest that one measurement of a process may take; waiting for a place counts.
pub const MAX_READ_TIME: Duration = Duration::from_secs(10);

/// Measurements of one uid's processes that may be under way at once, unless the config says otherwise.
pub const DEFAULT_READS_PER_UID: usize = 8;

/// Measurements that may be under way at once of a user's and of all its subordinate uids' processes together, as a multiple
/// of those of one uid.
pub const OWNER_READS_FACTOR: usize = 4;

/// Users whose places are remembered before those that nobody uses are forgotten.
const USERS_BEFORE_SWEEP: usize = 256;

/// Carries out blocking reads, limited in time and in number for each uid and each owner of uids. One for all attestors of
/// an agent.
#[derive(Debug)]
pub struct Reads {
    limit: Duration,
    per_uid: usize,
    owners: Option<Arc<Owners>>,
    places: Mutex<HashMap<User, Weak<Semaphore>>>,
}

/// Who has places of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum User {
    Uid(u32),
    Owner(Owner),
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
            owners: None,
            places: Mutex::default(),
        }
    }

    /// The same, where the uids that `file` (subuid(5)) gives to one user share `OWNER_READS_FACTOR` times the places of a
    /// uid, the user's own among them. The file is read now, and again when it has changed.
    #[must_use]
    pub fn with_subordinate_uids(mut self, file: &Path) -> Self {
        self.owners = Some(Owners::of_file(file));
        self
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
        let work = async {
            let place = self.place(process.uid).await.map_err(io::Error::other)?;
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

    /// A place of the uid's, and one of its owner's where it has one.
    async fn place(&self, uid: u32) -> Result<Place, AcquireError> {
        let own = self.places_of(User::Uid(uid), self.per_uid);
        let own = own.acquire_owned().await?;
        let owner = self.owners.as_ref().and_then(|owners| owners.of(uid));
        let owners = match owner {
            Some(owner) => {
                let among = self.per_uid.saturating_mul(OWNER_READS_FACTOR);
                let places = self.places_of(User::Owner(owner), among.min(Semaphore::MAX_PERMITS));
                Some(places.acquire_owned().await?)
            }
            None => None,
        };
        Ok(Place {
            _own: own,
            _owners: owners,
        })
    }

    fn places_of(&self, user: User, number: usize) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = places.get(&user).and_then(Weak::upgrade) {
            return known;
        }
        if places.len() >= USERS_BEFORE_SWEEP {
            places.retain(|_, held| held.strong_count() > 0);
        }
        let fresh = Arc::new(Semaphore::new(number));
        places.insert(user, Arc::downgrade(&fresh));
        fresh
    }
}

/// Kept by a read until it comes back.
#[derive(Debug)]
struct Place {
    _own: OwnedSemaphorePermit,
    _owners: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
mod tests;
