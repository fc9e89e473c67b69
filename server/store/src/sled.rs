//! The embedded store: sled, made durable.
//!
//! sled 0.34's `flush` writes the log but does not make the disk keep it, and values of more
//! than about 128 KiB in one leaf go to files that it never syncs. So every sync here is `flush` and
//! then fdatasync of sled's one file, and long values are cut into rows so short that all stay in that file.

mod chunks;
mod disk;
mod reached;

use std::any::Any;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use ::sled::{Batch, Db};

use crate::kv::{DEFAULT_KEEP_CHANGES, Kv, KvStore, Row, Rows};
use crate::{Revision, StoreError};
use chunks::{MAX_KEY_BYTES, Stored};
use disk::{DataSync, DirLock, FileSync};
use reached::Reached;

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
            cache_bytes: 16 << 20,
            keep_changes: DEFAULT_KEEP_CHANGES,
            reserve_bytes: 16 << 20,
        }
    }
}

/// sled as an ordered map of bytes.
#[derive(Debug)]
pub struct SledKv {
    /// Nothing while it could not be read anew.
    db: RwLock<Option<Db>>,
    disk: Box<dyn DataSync>,
    dir: PathBuf,
    cache_bytes: u64,
    reserve_bytes: u64,
    /// How far it has been acknowledged.
    reached: Reached,
    /// What was found damaged first.
    damage: OnceLock<String>,
    /// Whether a sync has failed: then what the kernel shows of the file may not be on the disk.
    sync_failed: AtomicBool,
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
        let kv = SledKv::open_with(dir, config, sync)?;
        Self::open_kv(kv, uuid::Uuid::new_v4().to_string(), config.keep_changes)
    }
}

impl SledKv {
    /// The map in a folder, whatever is in it.
    pub(crate) fn open_map(dir: &Path, config: &SledConfig) -> Result<Self, StoreError> {
        Self::open_with(dir, config, |dir| Ok(Box::new(FileSync::open(dir)?)))
    }

    fn open_with(
        dir: &Path,
        config: &SledConfig,
        sync: impl FnOnce(&Path) -> io::Result<Box<dyn DataSync>>,
    ) -> Result<Self, StoreError> {
        let failed = |e: io::Error| disk_error(&format!("`{}`", dir.display()), &e);
        let lock = disk::prepare(dir)?;
        let db = open_db(dir, config.cache_bytes)?;
        let kv = SledKv {
            db: RwLock::new(Some(db)),
            disk: sync(dir).map_err(failed)?,
            dir: dir.to_owned(),
            cache_bytes: config.cache_bytes,
            reached: Reached::open(dir).map_err(failed)?,
            reserve_bytes: config.reserve_bytes,
            damage: OnceLock::new(),
            sync_failed: AtomicBool::new(false),
            _lock: lock,
        };
        // What a process that was killed wrote last may be in the kernel only; nobody may see it before it is safe.
        kv.flush()?;
        Ok(kv)
    }
}

/// Opens sled's files as they are on the disk, and makes their names durable.
fn open_db(dir: &Path, cache_bytes: u64) -> Result<Db, StoreError> {
    let failed = |e: io::Error| disk_error(&format!("`{}`", dir.display()), &e);
    disk::wait_closed(dir)?;
    disk::forget_cached(dir).map_err(failed)?;
    let open = |dir: &Path| {
        let config = ::sled::Config::new().path(dir).cache_capacity(cache_bytes);
        // Ours is the only flush.
        config.flush_every_ms(None).open()
    };
    disk::tidy(dir, |scratch| {
        guarded("open", || open(scratch))?;
        disk::wait_closed(scratch)
    })?;
    let db = guarded("open", || open(dir)).map_err(|error| match error {
        StoreError::Corrupt(why) => StoreError::Corrupt(damaged(dir, &why)),
        other => other,
    })?;
    disk::sync_tree(dir).map_err(failed)?;
    Ok(db)
}

/// What an operator hears of damage, with the way out.
fn damaged(dir: &Path, why: &str) -> String {
    format!(
        "`{}`: {why}; stop the server, look at the disk, and restore a backup (`vouchsafe-server restore`) or start with \
         a copy of the data_dir that was made while the server was stopped",
        dir.join(disk::DB_FILE).display()
    )
}

impl SledKv {
    /// Runs something on sled, and remembers damage.
    fn on_db<T>(
        &self,
        what: &str,
        work: impl FnOnce(&Db) -> Result<T, ::sled::Error>,
    ) -> Result<T, StoreError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let Some(db) = db.as_ref() else {
            return Err(StoreError::Closed(
                "it could not be read again from its disk".to_owned(),
            ));
        };
        guarded(what, || work(db)).map_err(|error| self.noted(error))
    }

    fn noted(&self, error: StoreError) -> StoreError {
        let StoreError::Corrupt(why) = error else {
            return error;
        };
        let why = damaged(&self.dir, &why);
        if self.damage.set(why.clone()).is_ok() {
            tracing::error!(error = why, "the store is damaged: it takes no writes");
        }
        StoreError::Corrupt(why)
    }

    /// Has sled write what it holds, and the disk keep it.
    fn flush(&self) -> Result<(), StoreError> {
        self.on_db("flush", |db| db.flush())?;
        self.disk.sync().map_err(|e| {
            self.sync_failed.store(true, Ordering::SeqCst);
            disk_error("fdatasync", &e)
        })
    }

    fn look(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let row = self.on_db("read", |db| db.get(key))?;
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
            match self.on_db("read", |db| db.get(key))? {
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
        let missing = StoreError::Corrupt("a part of a long value is missing".to_owned());
        Err(self.noted(missing))
    }
}

impl Kv for SledKv {
    const BLOCKS: bool = true;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.find(key)
    }

    fn range(&self, from: Bound<Vec<u8>>, to: Vec<u8>, limit: usize) -> Result<Vec<Row>, StoreError> {
        let mut rows = Vec::new();
        // A limit may be as good as none, so it is no measure of what to make room for.
        let found = self.on_db("read", |db| {
            let rows = db.range((from, Bound::Excluded(to)));
            rows.take(limit).collect::<Result<Vec<_>, _>>()
        })?;
        for (key, row) in found {
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
        if let Some(why) = self.damage.get() {
            return Err(StoreError::Corrupt(why.clone()));
        }
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
                    let new_id = || self.on_db("count", Db::generate_id);
                    for (key, row) in chunks::cut(key, &value, new_id)? {
                        batch.insert(key, row);
                    }
                }
            }
        }
        self.on_db("write", |db| db.apply_batch(batch))
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

    fn sync(&self, reached: Revision) -> Result<(), StoreError> {
        self.flush()?;
        self.reached.note(reached.0);
        Ok(())
    }

    fn damaged(&self, why: &str) -> StoreError {
        self.noted(StoreError::Corrupt(why.to_owned()))
    }

    fn reached(&self) -> Option<Revision> {
        self.reached.read().map(Revision)
    }

    fn can_reopen(&self) -> bool {
        // The kernel may have dropped what it could not write, and says so only once.
        !self.sync_failed.load(Ordering::SeqCst)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        drop(db.take());
        *db = Some(open_db(&self.dir, self.cache_bytes)?);
        drop(db);
        self.flush()
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
    use io::ErrorKind::{
        FileTooLarge, InvalidData, QuotaExceeded, ReadOnlyFilesystem, StorageFull, UnexpectedEof,
    };
    match error.kind() {
        ReadOnlyFilesystem => StoreError::ReadOnly(format!("{what}: {error}")),
        StorageFull | QuotaExceeded | FileTooLarge => StoreError::Full(format!("{what}: {error}")),
        InvalidData | UnexpectedEof => StoreError::Corrupt(format!("{what}: {error}")),
        _ => StoreError::Io(format!("{what}: {error}")),
    }
}

#[cfg(test)]
mod tests;
