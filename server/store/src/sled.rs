//! The embedded store: sled, made durable.
//!
//! sled 0.34's `flush` writes the log but does not make the disk keep it, and values of more
//! than about 128 KiB in one leaf go to files that it never syncs. So every sync here is `flush` and
//! then fdatasync of sled's one file, and long values are cut into rows so short that all stay in that file.

mod chunks;
mod disk;

use std::any::Any;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::sled::{Batch, Db};

use crate::StoreError;
use crate::kv::{DEFAULT_KEEP_CHANGES, Kv, KvStore, Row, Rows};
use chunks::{MAX_KEY_BYTES, Stored};
use disk::{DataSync, DirLock, FileSync};

/// A store in a directory that one process holds.
pub type SledStore = KvStore<SledKv>;

/// How often a reader looks again at a long value that was replaced while it read; more means damage.
const MAX_LOOKS: usize = 100;

/// What an operator may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SledConfig {
    /// Memory for sled's page cache, in bytes.
    pub cache_bytes: u64,
    /// How many revisions the change log keeps.
    pub keep_changes: u64,
    /// Free space, in bytes, below which writes are refused: sled does not recover from a disk that
    /// fills up under it, so it must not come to that.
    pub reserve_bytes: u64,
}

impl Default for SledConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            keep_changes: DEFAULT_KEEP_CHANGES,
            reserve_bytes: 16 << 20,
        }
    }
}

/// sled as an ordered map of bytes.
#[derive(Debug)]
pub struct SledKv {
    db: Db,
    disk: Box<dyn DataSync>,
    dir: PathBuf,
    reserve_bytes: u64,
    // Last, so that nobody else opens the files before sled has closed them.
    _lock: DirLock,
}

impl KvStore<SledKv> {
    /// Opens the store in `dir`, or makes one there (readable by its owner only).
    ///
    /// Blocks on the disk; a torn log is mended, which takes longer.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Newer`] when a newer release
    /// wrote it, [`StoreError::Corrupt`] when it cannot be read, [`StoreError::Full`] and
    /// [`StoreError::Io`] when the disk refuses.
    pub fn open(dir: &Path, config: &SledConfig) -> Result<Self, StoreError> {
        Self::open_with(dir, config, |dir| Ok(Box::new(FileSync::open(dir)?)))
    }

    fn open_with(
        dir: &Path,
        config: &SledConfig,
        sync: impl FnOnce(&Path) -> io::Result<Box<dyn DataSync>>,
    ) -> Result<Self, StoreError> {
        let failed = |e: io::Error| disk_error(&format!("`{}`", dir.display()), &e);
        let lock = disk::prepare(dir)?;
        disk::wait_closed(dir)?;
        let db = guarded(&format!("open `{}`", dir.display()), || {
            ::sled::Config::new()
                .path(dir)
                .cache_capacity(config.cache_bytes)
                // Ours is the only flush.
                .flush_every_ms(None)
                .open()
        })?;
        disk::sync_tree(dir).map_err(failed)?;
        let kv = SledKv {
            db,
            disk: sync(dir).map_err(failed)?,
            dir: dir.to_owned(),
            reserve_bytes: config.reserve_bytes,
            _lock: lock,
        };
        // What a process that was killed wrote last may be in the kernel only; nobody may see it before it is safe.
        kv.sync()?;
        Self::open_kv(kv, uuid::Uuid::new_v4().to_string(), config.keep_changes)
    }
}

impl SledKv {
    fn look(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let row = guarded("read", || self.db.get(key))?;
        row.map(|row| Stored::read(row.as_ref())).transpose()
    }

    /// The value behind a row; `None` when it has been replaced since the row was read.
    fn value(&self, stored: Stored) -> Result<Option<Vec<u8>>, StoreError> {
        let (id, count) = match stored {
            Stored::Here(value) => return Ok(Some(value)),
            Stored::Chunks { id, count } => (id, count),
        };
        let mut value = Vec::new();
        for key in chunks::keys(id, count) {
            match guarded("read", || self.db.get(key))? {
                Some(chunk) => value.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
        Ok(Some(value))
    }

    fn find(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        for _ in 0..MAX_LOOKS {
            let Some(stored) = self.look(key)? else {
                return Ok(None);
            };
            if let Some(value) = self.value(stored)? {
                return Ok(Some(value));
            }
        }
        Err(StoreError::Corrupt(
            "a part of a long value is missing".to_owned(),
        ))
    }
}

impl Kv for SledKv {
    const BLOCKS: bool = true;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.find(key)
    }

    fn range(&self, from: Bound<Vec<u8>>, to: Vec<u8>, limit: usize) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        let mut iter = self.db.range((from, Bound::Excluded(to)));
        while rows.len() < limit {
            let Some((key, row)) = guarded("read", || iter.next().transpose())? else {
                break;
            };
            let value = match self.value(Stored::read(row.as_ref())?)? {
                Some(value) => Some(value),
                None => self.find(&key)?,
            };
            if let Some(value) = value {
                rows.push((key.to_vec(), value));
            }
        }
        Ok(rows)
    }

    fn check_room(&self) -> Result<(), StoreError> {
        let free = disk::free_bytes(&self.dir)?;
        if free < self.reserve_bytes {
            return Err(StoreError::Full(format!(
                "`{}` has {free} bytes left and writes need {}: free some space, then try again",
                self.dir.display(),
                self.reserve_bytes
            )));
        }
        Ok(())
    }

    fn apply(&self, rows: Rows) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (key, value) in rows {
            if let Some(Stored::Chunks { id, count }) = self.look(&key)? {
                chunks::keys(id, count).for_each(|key| batch.remove(key.as_slice()));
            }
            match value {
                None => batch.remove(key),
                Some(value) => {
                    let new_id = || guarded("count", || self.db.generate_id());
                    for (key, row) in chunks::cut(key, &value, new_id)? {
                        batch.insert(key, row);
                    }
                }
            }
        }
        guarded("write", || self.db.apply_batch(batch))
    }

    fn check_key(&self, key: &[u8]) -> Result<(), StoreError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(StoreError::Unstorable(format!(
                "a key of {} bytes is longer than the limit of {MAX_KEY_BYTES} bytes",
                key.len()
            )));
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        guarded("flush", || self.db.flush())?;
        self.disk.sync().map_err(|e| disk_error("fdatasync", &e))
    }
}

/// Runs sled, which panics on some damaged files, and makes one kind of error of all that may happen.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T, ::sled::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::sled::Error::Io(e))) => Err(disk_error(what, &e)),
        Ok(Err(e)) => Err(StoreError::Corrupt(format!("{what}: {e}"))),
        Err(panic) => Err(StoreError::Corrupt(format!(
            "{what}: {}",
            panic_text(panic.as_ref())
        ))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic without a text")
}

fn disk_error(what: &str, error: &io::Error) -> StoreError {
    use io::ErrorKind::{FileTooLarge, InvalidData, QuotaExceeded, StorageFull, UnexpectedEof};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => StoreError::Full(format!("{what}: {error}")),
        InvalidData | UnexpectedEof => StoreError::Corrupt(format!("{what}: {error}")),
        _ => StoreError::Io(format!("{what}: {error}")),
    }
}

#[cfg(test)]
mod tests;
