//! A store from a backup: checked as a whole first, then written into a folder of its own, which gets its name last.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{BackupEnd, DELETE, DIGEST_BYTES, END, MAGIC, PUT, RestoreMark};
use crate::codec::{self, FORMAT, Head, Kind, Meta};
use crate::kv::{Kv, Rows};
use crate::sled::{SledConfig, SledKv};
use crate::{Revision, StoreError};

/// Longest key and value that are read, in bytes: more than the store writes.
const MAX_KEY_BYTES: usize = 64 << 10;
const MAX_VALUE_BYTES: usize = 256 << 20;
/// Rows that are written at once.
const BATCH_ROWS: usize = 1000;
/// How far the revision goes on in a restored store: whoever remembers a revision of the lost store finds it below the
/// change log's floor, or not known, and reads everything anew.
const REVISION_LEAP: u64 = 1 << 32;

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The file is no backup.
    #[error("this is not a backup, or one of a newer release")]
    Foreign,
    /// Its digest is not that of its bytes.
    #[error("the backup is cut short or damaged: its digest does not fit")]
    Damaged,
    /// It is whole, and makes no sense.
    #[error("the backup is malformed: {0}")]
    Malformed(&'static str),
    /// Where it is to go is something already.
    #[error("`{0}` is not empty: a backup is restored into an empty folder only")]
    NotEmpty(String),
    /// The system refused.
    #[error("the backup could not be read or written")]
    Io(#[from] io::Error),
    /// The new store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup says of itself.
    pub end: BackupEnd,
    /// The revision at which the restored store begins.
    pub revision: Revision,
}

/// Makes a store in `dir`, which must not be there or be empty, from a backup. Blocks on the disk.
///
/// # Errors
/// [`RestoreError`]; then there is nothing in `dir`.
pub fn restore(mut backup: File, dir: &Path, now: OffsetDateTime) -> Result<Restored, RestoreError> {
    let there = match fs::read_dir(dir) {
        Ok(mut names) => names.next().is_some(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(e.into()),
    };
    if there {
        return Err(RestoreError::NotEmpty(dir.display().to_string()));
    }
    let length = check_digest(&mut backup)?;
    backup.seek(SeekFrom::Start(0))?;
    let unfinished = dir.with_extension("restoring");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let written = write(BufReader::new(backup.take(length)), &unfinished, now);
    match written {
        Ok(restored) => {
            fs::rename(&unfinished, dir)?;
            if let Some(parent) = dir.parent() {
                File::open(parent)?.sync_all()?;
            }
            Ok(restored)
        }
        Err(error) => {
            let _the_first_error_counts = fs::remove_dir_all(&unfinished);
            Err(error)
        }
    }
}

/// Reads the whole file; how long it is without its digest.
fn check_digest(backup: &mut File) -> Result<u64, RestoreError> {
    let whole = backup.metadata()?.len();
    let mut magic = vec![0; MAGIC.len()];
    match backup.read_exact(&mut magic) {
        Ok(()) if magic == MAGIC => {}
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e.into()),
        _ => return Err(RestoreError::Foreign),
    }
    let length = whole
        .checked_sub(DIGEST_BYTES as u64)
        .ok_or(RestoreError::Damaged)?;
    backup.seek(SeekFrom::Start(0))?;
    let mut context = Context::new(&SHA256);
    let mut left = BufReader::new(&mut *backup).take(length);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = left.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
    let mut told = [0; DIGEST_BYTES];
    backup.seek(SeekFrom::Start(length))?;
    backup.read_exact(&mut told)?;
    if context.finish().as_ref() != told {
        return Err(RestoreError::Damaged);
    }
    Ok(length)
}

fn write(mut from: impl Read, dir: &Path, now: OffsetDateTime) -> Result<Restored, RestoreError> {
    let mut magic = vec![0; MAGIC.len()];
    from.read_exact(&mut magic)?;
    let kv = SledKv::open_map(dir, &SledConfig::default())?;
    let mut rows = Rows::new();
    let mut count = 0;
    loop {
        let [mark] = array(&mut from)?;
        match mark {
            PUT | DELETE => {
                let key = bytes(&mut from, MAX_KEY_BYTES)?;
                let value = bytes(&mut from, MAX_VALUE_BYTES)?;
                if !Kind::is_kept(&key) {
                    return Err(RestoreError::Malformed("a row of no known kind"));
                }
                kv.check_key(&key)?;
                rows.insert(key, (mark == PUT).then_some(value));
                count += 1;
                if rows.len() >= BATCH_ROWS {
                    kv.apply(std::mem::take(&mut rows))?;
                }
            }
            END => break,
            _ => return Err(RestoreError::Malformed("an unknown mark")),
        }
    }
    let end: BackupEnd = serde_json::from_slice(&bytes(&mut from, MAX_KEY_BYTES)?)
        .map_err(|_| RestoreError::Malformed("its end cannot be read"))?;
    if end.rows != count || from.read(&mut [0])? != 0 {
        return Err(RestoreError::Malformed("it has other rows than it says"));
    }
    let revision = Revision(end.revision.0.saturating_add(REVISION_LEAP));
    let head = Head {
        revision,
        audit_seq: end.audit_seq,
        changes_floor: revision,
        change_rows: 0,
    };
    rows.insert(
        codec::head_key(),
        Some(codec::encode(Kind::Meta, revision, &head)?),
    );
    kv.apply(rows)?;
    mark(&kv, now)?;
    kv.sync(revision)?;
    Ok(Restored { end, revision })
}

/// Notes in the store that it was restored.
fn mark(kv: &impl Kv, now: OffsetDateTime) -> Result<(), RestoreError> {
    let meta = kv
        .get(&codec::meta_key())?
        .ok_or(RestoreError::Malformed("it names no server"))?;
    let meta: Meta = codec::decode(Kind::Meta, &meta)?.value;
    if meta.format > FORMAT {
        return Err(RestoreError::Foreign);
    }
    let meta = Meta {
        restored: Some(RestoreMark {
            id: Uuid::new_v4().simple().to_string(),
            at: now,
        }),
        ..meta
    };
    let row = codec::encode(Kind::Meta, Revision::default(), &meta)?;
    Ok(kv.apply(Rows::from([(codec::meta_key(), Some(row))]))?)
}

fn array<const N: usize>(from: &mut impl Read) -> Result<[u8; N], RestoreError> {
    let mut array = [0; N];
    from.read_exact(&mut array)?;
    Ok(array)
}

/// Bytes behind their length.
fn bytes(from: &mut impl Read, most: usize) -> Result<Vec<u8>, RestoreError> {
    let length = u32::from_be_bytes(array(from)?);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > most {
        return Err(RestoreError::Malformed("a row is too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
