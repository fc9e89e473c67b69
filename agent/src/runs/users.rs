//! Uids that runs have, of which those of pools are a run's alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Which uids runs of this node have at present. Cheap to clone: all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    uids: BTreeMap<u32, Holders>,
    /// After which one to look, so that a uid rests for as long as may be.
    last: u32,
}

#[derive(Debug, Default)]
struct Holders {
    count: usize,
    /// Whether it is of a pool, and so only for one run and what that launches.
    alone: bool,
}

/// A uid that no pool gives anybody else until this is dropped.
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

    /// Whether it is of a pool.
    pub fn is_alone(&self) -> bool {
        let taken = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.uids.get(&self.uid).is_some_and(|holders| holders.alone)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holders) = taken.uids.get_mut(&self.uid) {
            holders.count = holders.count.saturating_sub(1);
            if holders.count == 0 {
                taken.uids.remove(&self.uid);
            }
        }
    }
}

impl Users {
    /// A uid of the pool that no run has, the one after the last given first.
    pub fn any(&self, first: u32, last: u32) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = taken.last.saturating_add(1).clamp(first, last);
        let free = (after..=last)
            .chain(first..after)
            .find(|uid| !taken.uids.contains_key(uid))?;
        taken.last = free;
        Some(self.give(&mut taken, free, true))
    }

    /// This uid, which others may have too; not where it is alone a run's, unless that run asks.
    pub fn shared(&self, uid: u32, by_its_run: bool) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let alone = taken.uids.get(&uid).is_some_and(|holders| holders.alone);
        (by_its_run || !alone).then(|| self.give(&mut taken, uid, alone))
    }

    /// This uid, which a run has already.
    pub fn again(&self, uid: u32, alone: bool) -> Place {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.last = uid;
        self.give(&mut taken, uid, alone)
    }

    fn give(&self, taken: &mut Taken, uid: u32, alone: bool) -> Place {
        let holders = taken.uids.entry(uid).or_default();
        holders.count = holders.count.saturating_add(1);
        holders.alone |= alone;
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
        let held = users.again(70, true);
        assert!(users.any(70, 70).is_none());
        assert!(users.shared(70, false).is_none());
        assert_eq!(users.any(80, 80).unwrap().uid(), 80);
        drop(held);
        let shared = users.again(70, false);
        assert!(!shared.is_alone());
        assert!(users.shared(70, false).is_some());
        assert!(users.any(70, 70).is_none(), "who shares it was there first");
    }

    #[test]
    fn the_uid_of_a_run_stays_its_own_until_all_that_it_launched_has_ended() {
        let users = Users::default();
        let parent = users.any(70, 70).unwrap();
        assert!(
            users.shared(70, false).is_none(),
            "of a fixed uid, or from outside"
        );
        let child = users.shared(70, true).unwrap();
        assert!(child.is_alone());
        drop(parent);
        assert!(users.any(70, 70).is_none());
        assert!(users.shared(70, false).is_none());
        drop(child);
        assert!(users.any(70, 70).is_some());
    }

    #[test]
    fn the_last_uid_of_all_is_given_too() {
        let users = Users::default();
        let held = users.any(u32::MAX, u32::MAX).unwrap();
        assert_eq!(held.uid(), u32::MAX);
        assert!(users.any(u32::MAX, u32::MAX).is_none());
    }
}
