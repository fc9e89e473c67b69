//! The store in memory: for tests and `vouchsafe dev`; nothing of it outlives the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use crate::StoreError;
use crate::kv::{DEFAULT_KEEP_CHANGES, Kv, KvStore, Row, Rows};

/// A store that lives as long as the process.
pub type MemoryStore = KvStore<MemoryKv>;

/// An ordered map in memory.
#[derive(Debug, Default)]
pub struct MemoryKv(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl KvStore<MemoryKv> {
    /// An empty store of the server with this id.
    pub fn new(server_id: &str) -> Self {
        Self::keeping(server_id, DEFAULT_KEEP_CHANGES)
    }

    /// An empty store whose change log keeps the last `keep_changes` revisions.
    pub fn keeping(server_id: &str, keep_changes: u64) -> Self {
        Self::fresh(MemoryKv::default(), server_id.to_owned(), keep_changes)
    }
}

impl Kv for MemoryKv {
    const BLOCKS: bool = false;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Ok(map.get(key).cloned())
    }

    fn range(&self, from: Bound<Vec<u8>>, to: Vec<u8>, limit: usize) -> Result<Vec<Row>, StoreError> {
        // `BTreeMap::range` panics on a range that ends before it begins.
        if matches!(&from, Bound::Included(first) | Bound::Excluded(first) if *first >= to) {
            return Ok(Vec::new());
        }
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let rows = map.range((from, Bound::Excluded(to))).take(limit);
        Ok(rows.map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    fn check_room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn check_key(&self, _key: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn apply(&self, rows: Rows) -> Result<(), StoreError> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, row) in rows {
            match row {
                Some(row) => map.insert(key, row),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self, _reached: crate::Revision) -> Result<(), StoreError> {
        Ok(())
    }
    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Corrupt(why.to_owned())
    }

    fn reached(&self) -> Option<crate::Revision> {
        None
    }

    fn can_reopen(&self) -> bool {
        true
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
