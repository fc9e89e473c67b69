//! Calls that match nothing yet: each is held for a while, so that a workload that was started before its entry needs
//! no second try. A held call takes one of the places that its user has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use crate::caller::Caller;

/// How long calls are held, and how many of each user at a time. Cheap to clone: all clones count the same calls.
#[derive(Debug, Clone)]
pub struct Holding {
    time: Duration,
    places: Arc<Places>,
}

#[derive(Debug)]
struct Places {
    per_uid: usize,
    taken: Mutex<HashMap<u32, usize>>,
}

/// The key of the limit, for the error that names it.
const LIMIT_KEY: &str = "limits.max_held_calls_per_uid";

impl Holding {
    /// Holds calls that long, so many of each user; with a time of zero, none.
    pub fn new(time: Duration, per_uid: usize) -> Self {
        let taken = Mutex::default();
        Self {
            time,
            places: Arc::new(Places { per_uid, taken }),
        }
    }

    /// A call has come: if it matches nothing, it may be held from now on.
    pub fn begin(&self, caller: &Caller) -> Hold {
        self.begin_for(caller.connection.peer.credentials().uid)
    }

    fn begin_for(&self, uid: u32) -> Hold {
        Hold {
            uid,
            until: Instant::now() + self.time,
            places: Arc::clone(&self.places),
            place: None,
        }
    }

    /// How many calls are held.
    pub fn held(&self) -> usize {
        self.places.lock().values().sum()
    }
}

/// What holding means for one call.
#[derive(Debug)]
pub struct Hold {
    uid: u32,
    until: Instant,
    places: Arc<Places>,
    place: Option<Place>,
}

impl Hold {
    /// The call matches nothing: it is held, or ends with `unmatched` when its time is over.
    ///
    /// # Errors
    /// `unmatched`; or `ResourceExhausted` when its user has no place left.
    pub fn keep(&mut self, unmatched: Status) -> Result<(), Status> {
        if self.until <= Instant::now() {
            return Err(unmatched);
        }
        if self.place.is_none() {
            self.place = Some(Places::take(&self.places, self.uid)?);
        }
        Ok(())
    }

    /// When the call ends if nothing comes; `None` where it is not held.
    pub fn until(&self) -> Option<Instant> {
        self.place.as_ref().map(|_| self.until)
    }

    /// The call is held no longer; whether it was.
    pub fn release(&mut self) -> bool {
        self.place.take().is_some()
    }
}

/// One of the places of a user.
#[derive(Debug)]
struct Place {
    uid: u32,
    places: Arc<Places>,
}

impl Places {
    fn take(places: &Arc<Self>, uid: u32) -> Result<Place, Status> {
        let mut taken = places.lock();
        let count = taken.entry(uid).or_default();
        if *count >= places.per_uid {
            let limit = places.per_uid;
            return Err(Status::resource_exhausted(format!(
                "no identity issued: no entry matches this process, and {limit} calls of user {uid} that match nothing are \
                 held already, which is the limit (`{LIMIT_KEY}`)"
            )));
        }
        *count += 1;
        drop(taken);
        Ok(Place {
            uid,
            places: Arc::clone(places),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> Status {
        Status::permission_denied("nothing")
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_nothing_is_held() {
        let holding = Holding::new(Duration::ZERO, 5);
        let refused = holding.begin_for(1).keep(denied()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert_eq!(holding.held(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_the_call_and_ends_it() {
        let holding = Holding::new(Duration::from_secs(5), 5);
        let mut hold = holding.begin_for(1);
        tokio::time::advance(Duration::from_secs(4)).await;
        hold.keep(denied()).unwrap();
        assert_eq!(hold.until().unwrap() - Instant::now(), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            hold.keep(denied()).unwrap_err().code(),
            tonic::Code::PermissionDenied
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_has_its_own_places_and_gets_them_back() {
        let holding = Holding::new(Duration::from_secs(5), 2);
        let mut held: Vec<Hold> = (0..3).map(|_| holding.begin_for(1)).collect();
        held[0].keep(denied()).unwrap();
        held[0].keep(denied()).unwrap();
        held[1].keep(denied()).unwrap();
        let refused = held[2].keep(denied()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains(LIMIT_KEY), "{refused}");
        assert!(refused.message().contains("2 calls of user 1"), "{refused}");
        let mut other = holding.begin_for(2);
        other.keep(denied()).unwrap();
        assert!(held[0].release() && !held[0].release());
        held[2].keep(denied()).unwrap();
        assert_eq!(holding.held(), 3);
        drop((held, other));
        assert_eq!(holding.held(), 0);
        assert!(
            holding.places.lock().is_empty(),
            "nothing is remembered of a user"
        );
    }
}
