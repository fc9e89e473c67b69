//! Uids that runs have for themselves.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Which uids of pools runs of this node have at present. Cheap to clone: all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    uids: BTreeSet<u32>,
    /// After which one to look, so that a uid rests for as long as may be.
    last: u32,
}

/// A uid that nobody else gets until this is dropped.
#[derive(Debug)]
pub struct Place {
    users: Users,
    uid: u32,
}

impl Place {
    /// The uid.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.uids.remove(&self.uid);
    }
}

impl Users {
    /// A uid of the pool that no run has, the one after the last given first.
    pub fn any(&self, first: u32, last: u32) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = taken.last.saturating_add(1).clamp(first, last);
        let free = (after..=last)
            .chain(first..after)
            .find(|uid| !taken.uids.contains(uid))?;
        Some(self.give(&mut taken, free))
    }

    /// This uid, which a run has already.
    pub fn this(&self, uid: u32) -> Place {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.give(&mut taken, uid)
    }

    fn give(&self, taken: &mut Taken, uid: u32) -> Place {
        taken.uids.insert(uid);
        taken.last = uid;
        let users = self.clone();
        Place { users, uid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_runs_have_one_uid_and_a_uid_rests_before_it_is_given_again() {
        let users = Users::default();
        let first = users.any(70, 72).unwrap();
        let second = users.any(70, 72).unwrap();
        assert_eq!((first.uid(), second.uid()), (70, 71));
        drop(first);
        let third = users.any(70, 72).unwrap();
        assert_eq!(third.uid(), 72);
        let fourth = users.any(70, 72).unwrap();
        assert_eq!(fourth.uid(), 70);
        assert!(users.any(70, 72).is_none());
        drop(second);
        assert_eq!(users.any(70, 72).unwrap().uid(), 71);
    }

    #[test]
    fn a_uid_that_a_run_has_already_is_not_given_again() {
        let users = Users::default();
        let _held = users.this(70);
        assert!(users.any(70, 70).is_none());
        assert_eq!(users.any(80, 80).unwrap().uid(), 80);
    }

    #[test]
    fn the_last_uid_of_all_is_given_too() {
        let users = Users::default();
        let held = users.any(u32::MAX, u32::MAX).unwrap();
        assert_eq!(held.uid(), u32::MAX);
        assert!(users.any(u32::MAX, u32::MAX).is_none());
    }
}
