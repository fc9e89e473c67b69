//! How many calls of each user may be open at once, whatever the number of its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the open calls of each user.
#[derive(Debug)]
pub struct CallPlaces {
    max_per_uid: usize,
    open: Mutex<HashMap<u32, usize>>,
}

/// One call's place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<CallPlaces>,
    uid: u32,
}

impl CallPlaces {
    /// Each user has so many.
    pub fn new(max_per_uid: usize) -> Arc<Self> {
        Arc::new(Self {
            max_per_uid,
            open: Mutex::default(),
        })
    }

    /// A place for one more call, if there is one.
    pub(super) fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(uid).or_default();
        if *count >= self.max_per_uid {
            return None;
        }
        *count += 1;
        Some(Place {
            places: Arc::clone(self),
            uid,
        })
    }

    /// The most that each user may have.
    pub(super) fn max_per_uid(&self) -> usize {
        self.max_per_uid
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_at_its_limit_keeps_no_other_out_and_places_come_back() {
        let places = CallPlaces::new(2);
        let first = places.take(1);
        let _second = places.take(1).unwrap();
        assert!(places.take(1).is_none());
        let other = places.take(2);
        drop(first);
        assert!(places.take(1).is_some());
        drop(other);
        assert!(
            !places.open.lock().unwrap().contains_key(&2),
            "no user is remembered for ever"
        );
    }
}
