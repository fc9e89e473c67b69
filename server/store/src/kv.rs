//! A store on top of any ordered map of bytes: one core for the in-memory and the sled adapter.
//!
//! Reads go straight to the map: both adapters answer from memory or with one short read of a
//! file, which costs less than a hop to another thread; callers that want all of a kind read
//! it by pages. Writes go through one writer, which is the only place that counts revisions.

mod copy;
mod group;
mod read;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::codec::{self, FORMAT, Head, Kind, Meta};
use crate::{Commit, CommitError, RestoreMark, Revision, Store, StoreError};
use group::Queue;
use writer::Writer;

/// How many revisions the change log keeps unless the configuration says otherwise.
pub const DEFAULT_KEEP_CHANGES: u64 = 100_000;

/// Rows to write: a value, or `None` to remove the row.
pub type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key with its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// An ordered map of bytes that can be written atomically.
pub trait Kv: Send + Sync + 'static {
    /// Whether a write waits for a disk: then commits are gathered in groups and written off the async threads.
    const BLOCKS: bool;

    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Up to `limit` rows with keys from `from` to before `to`, in order.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    fn range(&self, from: Bound<Vec<u8>>, to: Vec<u8>, limit: usize) -> Result<Vec<Row>, StoreError>;

    /// Whether there is room to write.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is not; nothing has been written then, and it may be asked again.
    fn check_room(&self) -> Result<(), StoreError>;

    /// Whether a value may stand under this key.
    ///
    /// # Errors
    /// [`StoreError::Unstorable`] when it may not.
    fn check_key(&self, key: &[u8]) -> Result<(), StoreError>;

    /// Writes all rows or none; readers see them at once, and [`Kv::sync`] makes them durable.
    ///
    /// # Errors
    /// [`StoreError`] when they were not written; the map must not be written any more.
    fn apply(&self, rows: Rows) -> Result<(), StoreError>;

    /// Returns when all that was applied survives a loss of power; then notes beside the map that it has been
    /// acknowledged up to `reached`, so that a map which lost its end is known at the next open. The note need not be
    /// durable: what it says is never more than what is.
    ///
    /// # Errors
    /// [`StoreError`] when it may not survive; the map must not be written any more.
    fn sync(&self, reached: Revision) -> Result<(), StoreError>;

    /// The error that says what is damaged, where, and what to do; nothing is written from then on.
    fn damaged(&self, why: &str) -> StoreError;

    /// What was noted last, if that can be read.
    fn reached(&self) -> Option<Revision>;

    /// Whether [`Kv::reopen`] may mend what failed; a failed sync only a new start of the process mends.
    fn can_reopen(&self) -> bool;

    /// Reads the map from its disk again after a failed write, so that it may be written again. Readers wait.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read; it may be tried again while [`Kv::can_reopen`] says so.
    fn reopen(&self) -> Result<(), StoreError>;
}

/// A [`Store`] in an ordered map of bytes.
///
/// A value may be read a moment before it is durable; the change log, the audit log and
/// [`Store::revisions`] show durable commits only.
pub struct KvStore<K: Kv> {
    core: Arc<Core<K>>,
    queue: Arc<Queue>,
}

/// What readers and the writer share.
struct Core<K> {
    kv: K,
    server_id: String,
    restored: Option<RestoreMark>,
    writer: Mutex<Writer>,
    /// Revision up to which the change log is pruned, or about to be.
    changes_floor: AtomicU64,
    /// `seq` of the last durable audit record.
    audit_head: AtomicU64,
    durable: watch::Sender<Revision>,
}

impl<K: Kv> KvStore<K> {
    /// A store in an empty map, which gets nothing written by this.
    pub(crate) fn fresh(kv: K, server_id: String, keep_changes: u64) -> Self {
        Self::start(kv, (server_id, None), Head::default(), keep_changes)
    }

    /// The store in a map, which is made ready for `new_server_id` if it is empty.
    pub(crate) fn open_kv(kv: K, new_server_id: String, keep_changes: u64) -> Result<Self, StoreError> {
        let Some(meta) = kv.get(&codec::meta_key())? else {
            if !kv.range(Bound::Unbounded, vec![u8::MAX], 1)?.is_empty() {
                return Err(kv.damaged("the store has data but no format"));
            }
            read_head(&kv)?;
            let meta = Meta {
                format: FORMAT,
                server_id: new_server_id,
                restored: None,
            };
            let row = codec::encode(Kind::Meta, Revision::default(), &meta)?;
            kv.check_room()?;
            kv.apply(Rows::from([(codec::meta_key(), Some(row))]))?;
            kv.sync(Revision::default())?;
            return Ok(Self::fresh(kv, meta.server_id, keep_changes));
        };
        let meta: Meta = codec::decode(Kind::Meta, &meta)?.value;
        if meta.format > FORMAT {
            return Err(StoreError::Newer {
                what: "store".to_owned(),
                found: meta.format,
                known: FORMAT,
            });
        }
        let head = read_head(&kv)?;
        if meta.format < FORMAT {
            // What this release writes, those before it cannot read.
            let meta = Meta {
                format: FORMAT,
                ..meta.clone()
            };
            let row = codec::encode(Kind::Meta, Revision::default(), &meta)?;
            kv.check_room()?;
            kv.apply(Rows::from([(codec::meta_key(), Some(row))]))?;
            kv.sync(head.revision)?;
        }
        Ok(Self::start(
            kv,
            (meta.server_id, meta.restored),
            head,
            keep_changes,
        ))
    }

    /// How many commits wait for the next group.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queue.waiting()
    }

    fn start(
        kv: K,
        (server_id, restored): (String, Option<RestoreMark>),
        head: Head,
        keep_changes: u64,
    ) -> Self {
        let core = Core {
            kv,
            writer: Mutex::new(Writer::new(&server_id, head, keep_changes)),
            server_id,
            restored,
            changes_floor: AtomicU64::new(head.changes_floor.0),
            audit_head: AtomicU64::new(head.audit_seq),
            durable: watch::Sender::new(head.revision),
        };
        Self {
            core: Arc::new(core),
            queue: Arc::default(),
        }
    }
}

/// Where the counters of a map stand, which must have all that was acknowledged.
fn read_head<K: Kv>(kv: &K) -> Result<Head, StoreError> {
    let head: Head = match kv.get(&codec::head_key())? {
        Some(head) => codec::decode(Kind::Meta, &head)?.value,
        None => Head::default(),
    };
    let reached = kv.reached().unwrap_or_default();
    if head.revision < reached {
        return Err(kv.damaged(&format!(
            "it ends at revision {}, and {} was acknowledged: what follows cannot be read",
            head.revision.0, reached.0
        )));
    }
    Ok(head)
}

impl<K: Kv> Core<K> {
    /// Makes each commit that can be made, all of them durable at once, and tells how each ended.
    fn write(&self, commits: Vec<Commit>) -> Vec<Result<Revision, CommitError>> {
        // A writer that panicked has closed itself: see `Writer::write`.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let results = writer.write(&self.kv, commits, |floor| {
            self.changes_floor.store(floor.0, Ordering::SeqCst);
        });
        let head = writer.durable();
        self.audit_head.store(head.audit_seq, Ordering::SeqCst);
        self.durable.send_if_modified(|revision| {
            let news = *revision != head.revision;
            *revision = head.revision;
            news
        });
        results
    }
}

#[async_trait]
impl<K: Kv> Store for KvStore<K> {
    async fn commit(&self, commit: Commit) -> Result<Revision, CommitError> {
        if K::BLOCKS {
            return group::commit(&self.queue, &self.core, commit).await;
        }
        let results = self.core.write(vec![commit]);
        results.into_iter().next().unwrap_or_else(|| Err(group::gone()))
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.core.durable.subscribe()
    }

    fn takes_writes(&self) -> Result<(), StoreError> {
        // A writer that is at work is not closed, or tells the callers it works for.
        if let Ok(writer) = self.core.writer.try_lock() {
            writer.check_open()?;
        }
        self.core.kv.check_room()
    }

    fn server_id(&self) -> &str {
        &self.core.server_id
    }

    fn restored(&self) -> Option<&RestoreMark> {
        self.core.restored.as_ref()
    }
}

impl<K: Kv> Drop for KvStore<K> {
    /// Waits for the commits that are being made, so that the map is closed when this returns.
    fn drop(&mut self) {
        self.queue.wait_idle();
    }
}

impl<K: Kv> fmt::Debug for KvStore<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revision = *self.core.durable.borrow();
        write!(f, "KvStore({}, revision {})", self.core.server_id, revision.0)
    }
}

#[cfg(test)]
mod tests;
