//! A hash map of which copies are cheap: it consists of many small maps, and a copy shares all of them until one of
//! them is changed. So the next state of 100,000 entries costs a few microseconds, and readers of the last state
//! keep it as it was.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// How many small maps: near the square root of the largest sets that are usual, so that copying the list of maps and
/// copying one map cost about the same.
const SHARDS: usize = 512;

/// The map.
#[derive(Debug, Clone)]
pub(super) struct Shards<K, V> {
    maps: Vec<Arc<HashMap<K, V>>>,
    hasher: RandomState,
    len: usize,
}

impl<K: Clone + Eq + Hash, V: Clone> Shards<K, V> {
    /// The value of a key.
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.maps.get(self.place(key))?.get(key)
    }

    /// Sets the value of a key; gives the one that it had.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = self.place(&key);
        let before = Arc::make_mut(self.maps.get_mut(place)?).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes a key out; gives the value that it had.
    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let place = self.place(key);
        let map = self.maps.get_mut(place)?;
        if !map.contains_key(key) {
            return None;
        }
        let before = Arc::make_mut(map).remove(key);
        self.len -= usize::from(before.is_some());
        before
    }

    /// The value of a key, to change it; `None` where there is none, and then nothing is copied.
    pub(super) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let place = self.place(key);
        let map = self.maps.get_mut(place)?;
        match map.contains_key(key) {
            true => Arc::make_mut(map).get_mut(key),
            false => None,
        }
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.maps.iter().flat_map(|map| map.values())
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let hash = self.hasher.hash_one(key);
        usize::try_from(hash % SHARDS as u64).unwrap_or_default()
    }
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self {
            maps: vec![empty; SHARDS],
            hasher: RandomState::new(),
            len: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_copy_keeps_what_it_had() {
        let mut now = Shards::default();
        now.insert("a", 1);
        let before = now.clone();
        assert_eq!(now.insert("a", 2), Some(1));
        *now.get_mut("a").unwrap() += 1;
        assert_eq!(now.remove("b"), None);
        assert_eq!((before.get("a"), now.get("a")), (Some(&1), Some(&3)));
        assert_eq!(now.remove("a"), Some(3));
        assert_eq!((before.len(), now.len()), (1, 0));
        assert!(now.get_mut("a").is_none());
    }

    proptest! {
        #[test]
        fn it_holds_what_one_map_would(steps in proptest::collection::vec((0_u8..40, proptest::option::of(0_u8..9)), 0..200)) {
            let (mut shards, mut plain) = (Shards::default(), HashMap::new());
            for (key, value) in steps {
                match value {
                    Some(value) => prop_assert_eq!(shards.insert(key, value), plain.insert(key, value)),
                    None => prop_assert_eq!(shards.remove(&key), plain.remove(&key)),
                }
                prop_assert_eq!(shards.len(), plain.len());
            }
            let (mut held, mut expected): (Vec<_>, Vec<_>) = (shards.values().copied().collect(), plain.values().copied().collect());
            held.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(held, expected);
        }
    }
}
