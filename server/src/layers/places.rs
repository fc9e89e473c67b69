//! How many calls of each caller, and of each source, are under way.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what is under way, key by key.
#[derive(Debug, Clone)]
pub struct Places<K> {
    limit: u32,
    taken: Arc<Mutex<HashMap<K, u32>>>,
}

/// One place; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place<K: Hash + Eq> {
    key: K,
    taken: Arc<Mutex<HashMap<K, u32>>>,
}

impl<K: Hash + Eq + Clone> Places<K> {
    /// So many places for each key.
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            taken: Arc::default(),
        }
    }

    /// How many places each key has.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// How many of the keys that the rule picks hold a place.
    pub fn held_by(&self, rule: impl Fn(&K) -> bool) -> usize {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.keys().filter(|key| rule(key)).count()
    }

    /// A place for the key, or `None` when all of its places are taken.
    pub fn take(&self, key: &K) -> Option<Place<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(key.clone()).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place {
            key: key.clone(),
            taken: Arc::clone(&self.taken),
        })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_places_and_gets_them_back() {
        let places = Places::new(2);
        let (first, second) = (places.take(&"a"), places.take(&"a"));
        assert!(first.is_some() && second.is_some());
        assert!(places.take(&"a").is_none());
        assert!(places.take(&"b").is_some());
        drop(first);
        assert!(places.take(&"a").is_some());
        drop(second);
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
