//! A hash map of which copies are cheap: it consists of many small maps, and a copy shares all of them until one of
//! them is changed. So the next state of 100,000 entries costs a few microseconds, and readers of the last state
//! keep it as it was.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// How many small maps: near the square root of the largest sets that are usual, so that copying the list of maps and
/// copying one map cost about the same.
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 9;

/// The map.
#[derive(Debug, Clone)]
pub(super) struct Shards<K, V> {
    maps: Vec<Arc<HashMap<K, V>>>,
    len: usize,
}

/// Tells which of the small maps a key stands in. The map hashes it once more, with a secret of its own, so here a quick
/// hash will do: whoever could make many keys fall together would make copies dearer, and nothing else.
#[derive(Debug, Default)]
struct Fold(u64);

impl Fold {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (place, byte) in last.iter_mut().zip(rest) {
            *place = *byte;
        }
        self.add(u64::from_le_bytes(last));
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(byte.into());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Shards<K, V> {
    /// The value of a key.
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.maps.get(Self::place(key))?.get(key)
    }

    /// Sets the value of a key; gives the one that it had.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = Self::place(&key);
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
        let place = Self::place(key);
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
        let place = Self::place(key);
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

    fn place<Q: Hash + ?Sized>(key: &Q) -> usize {
        let mut fold = Fold::default();
        key.hash(&mut fold);
        // The lowest bits depend on the lowest bits alone.
        usize::try_from(fold.finish() >> (u64::BITS - SHARD_BITS)).unwrap_or_default()
    }
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self {
            maps: vec![empty; SHARDS],
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

    #[test]
    fn keys_that_are_alike_are_spread() {
        let ids = |n: u32| format!("{n:08x}-0000-4000-8000-000000000000");
        let paths = |n: u32| format!("path:/opt/agents/{n}/bin/agent");
        let hashes = |n: u32| format!("sha256:{n:064x}");
        for key in [&ids as &dyn Fn(u32) -> String, &paths, &hashes] {
            let mut shards = Shards::default();
            for n in 0..51_200 {
                shards.insert(key(n), ());
            }
            let most = shards.maps.iter().map(|map| map.len()).max();
            assert!(most < Some(200), "{most:?} where 100 are due: {}", key(7));
        }
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
