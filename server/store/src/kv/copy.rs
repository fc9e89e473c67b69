//! Copies everything while writes go on.
//!
//! The writer notes which keys it touches meanwhile. Rows are read without holding anybody up; then those that were
//! touched are read again, until so few are left that they are read while the writer waits: that is the copy's revision.

use std::ops::Bound;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::mpsc;

use super::writer::Touched;
use super::{Core, Kv, KvStore};
use crate::backup::{BackupEnd, BackupPart, BackupReader, DELETE, DIGEST_BYTES, END, MAGIC, PUT};
use crate::codec::{self, FORMAT, Head, Kind, Meta};
use crate::{Revision, StoreError};

const PAGE_ROWS: usize = 256;
/// So many rows are read while the writer waits.
const FEW: usize = 256;
/// How often touched rows are read without making the writer wait.
const MOST_ROUNDS: usize = 16;
/// Most rows that are read while the writer waits, where rounds do not make them few.
const MOST_AT_END: usize = 1 << 14;
const PART_BYTES: usize = 64 << 10;

#[async_trait]
impl<K: Kv> BackupReader for KvStore<K> {
    async fn backup(&self, to: mpsc::Sender<BackupPart>) -> Result<(), StoreError> {
        let core = Arc::clone(&self.core);
        let copied = tokio::task::spawn_blocking(move || copy(&core, to)).await;
        copied.map_err(|e| StoreError::Closed(format!("the copy was interrupted: {e}")))?
    }
}

/// Why a copy ends early.
enum Stop {
    /// Nobody listens any more.
    Gone,
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

fn copy<K: Kv>(core: &Core<K>, to: mpsc::Sender<BackupPart>) -> Result<(), StoreError> {
    let noting = core.lock().begin_copy()?;
    match copy_all(core, noting, to) {
        Ok(()) | Err(Stop::Gone) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn copy_all<K: Kv>(core: &Core<K>, noting: Arc<Touched>, to: mpsc::Sender<BackupPart>) -> Result<(), Stop> {
    let mut out = Out::new(to);
    out.bytes(MAGIC)?;
    // A map in memory says nothing about itself; where it does, that row follows and counts.
    let meta = Meta {
        format: FORMAT,
        server_id: core.server_id.clone(),
        restored: core.restored.clone(),
    };
    let meta = codec::encode(Kind::Meta, Revision::default(), &meta)?;
    out.row(&codec::meta_key(), Some(&meta))?;
    let mut from = Bound::Unbounded;
    loop {
        let page = core.kv.range(from, vec![u8::MAX], PAGE_ROWS)?;
        let Some((last, _)) = page.last() else { break };
        from = Bound::Excluded(last.clone());
        for (key, value) in page {
            out.row(&key, Some(&value))?;
        }
        noting.check()?;
    }
    for round in 0.. {
        let writer = core.lock();
        let touched = writer.touched(&noting)?;
        if touched.len() <= FEW || round == MOST_ROUNDS {
            if touched.len() > MOST_AT_END {
                return Err(StoreError::BackupOvertaken { most: MOST_AT_END }.into());
            }
            let head = writer.durable();
            let rows = read(core, touched)?;
            // What is written from here on is of no concern, however slowly the rest is taken.
            drop(noting);
            drop(writer);
            out.rows(rows)?;
            return out.end(head, &core.server_id);
        }
        drop(writer);
        let mut touched = touched.into_iter().peekable();
        // Not all rows at once: of many, the keys alone are sure to fit into memory.
        while touched.peek().is_some() {
            out.rows(read(core, touched.by_ref().take(PAGE_ROWS))?)?;
        }
    }
    Ok(())
}

type TouchedRows = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn read<K: Kv>(core: &Core<K>, keys: impl IntoIterator<Item = Vec<u8>>) -> Result<TouchedRows, StoreError> {
    let read = |key: Vec<u8>| Ok((key.clone(), core.kv.get(&key)?));
    keys.into_iter().map(read).collect()
}

/// The stream on its way.
struct Out {
    to: mpsc::Sender<BackupPart>,
    digest: Context,
    part: Vec<u8>,
    rows: u64,
}

impl Out {
    fn new(to: mpsc::Sender<BackupPart>) -> Self {
        Self {
            to,
            digest: Context::new(&SHA256),
            part: Vec::new(),
            rows: 0,
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.digest.update(bytes);
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART_BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Stop> {
        let part = BackupPart::Bytes(std::mem::take(&mut self.part));
        self.to.blocking_send(part).map_err(|_gone| Stop::Gone)
    }

    fn sized(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let length = u32::try_from(bytes.len())
            .map_err(|_big| StoreError::Unstorable("a value is too long for a backup".to_owned()))?;
        self.bytes(&length.to_be_bytes())?;
        self.bytes(bytes)
    }

    fn row(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Stop> {
        if !Kind::is_kept(key) {
            return Ok(());
        }
        self.bytes(&[if value.is_some() { PUT } else { DELETE }])?;
        self.sized(key)?;
        self.sized(value.unwrap_or_default())?;
        self.rows += 1;
        Ok(())
    }

    fn rows(&mut self, rows: TouchedRows) -> Result<(), Stop> {
        rows.iter()
            .try_for_each(|(key, value)| self.row(key, value.as_deref()))
    }

    fn end(mut self, head: Head, server_id: &str) -> Result<(), Stop> {
        let end = BackupEnd {
            revision: head.revision,
            audit_seq: head.audit_seq,
            server_id: server_id.to_owned(),
            rows: self.rows,
        };
        let text = serde_json::to_vec(&end).map_err(|e| StoreError::Unstorable(e.to_string()))?;
        self.bytes(&[END])?;
        self.sized(&text)?;
        let mut sha256 = [0; DIGEST_BYTES];
        let digest = self.digest.clone().finish();
        sha256
            .iter_mut()
            .zip(digest.as_ref())
            .for_each(|(place, byte)| *place = *byte);
        self.part.extend_from_slice(&sha256);
        self.send()?;
        self.to
            .blocking_send(BackupPart::End { end, sha256 })
            .map_err(|_gone| Stop::Gone)
    }
}

impl<K: Kv> Core<K> {
    fn lock(&self) -> std::sync::MutexGuard<'_, super::Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryKv;

    fn keys(count: usize) -> impl Iterator<Item = Vec<u8>> {
        (0..count).map(|n| [&[Kind::Entry.prefix()][..], &n.to_be_bytes()].concat())
    }

    /// Takes a copy, and has so many keys written before each part: how it ended, and whether it sent an end.
    fn copied(core: &Arc<Core<MemoryKv>>, before_each: usize) -> (Result<(), Stop>, bool) {
        let noting = core.lock().begin_copy().unwrap();
        noting.add(keys(before_each));
        let (to, mut parts) = mpsc::channel(1);
        let (of_copy, its_notes) = (Arc::clone(core), Arc::clone(&noting));
        let copying = std::thread::spawn(move || copy_all(&of_copy, its_notes, to));
        let mut ended = false;
        while let Some(part) = parts.blocking_recv() {
            ended |= matches!(part, BackupPart::End { .. });
            noting.add(keys(before_each));
        }
        (copying.join().unwrap(), ended)
    }

    #[test]
    fn a_copy_that_cannot_keep_up_ends_with_an_error_and_another_can_begin() {
        let store = KvStore::fresh(MemoryKv::default(), "server-1".to_owned(), 100);
        for (keys, limit) in [(MOST_AT_END + 1, MOST_AT_END), (Touched::MOST + 1, Touched::MOST)] {
            let (result, ended) = copied(&store.core, keys);
            let overtaken =
                matches!(result, Err(Stop::Failed(StoreError::BackupOvertaken { most })) if most == limit);
            assert!(overtaken && !ended, "{keys}");
        }
        for keys in [0, FEW + 1, MOST_AT_END] {
            let (result, ended) = copied(&store.core, keys);
            assert!(result.is_ok() && ended, "{keys}");
        }
    }
}
