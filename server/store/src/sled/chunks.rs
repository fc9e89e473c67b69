//! Long values as several short rows, so that no leaf of sled's tree outgrows its log.
//!
//! A leaf has about twenty rows at most, and goes to a file of its own beyond 128 KiB. Chunks are
//! written once under an id that is never used again: who reads a value while it is replaced finds a
//! chunk missing and looks again, and never sees parts of two values.

use crate::StoreError;
use crate::codec::AUDIT_ROW_BYTES;
use crate::kv::Row;

/// Longest value in one row, in bytes.
const CHUNK_BYTES: usize = 3 << 10;
// A row of the audit log that is full still is one row.
const _: () = assert!(AUDIT_ROW_BYTES <= CHUNK_BYTES);
/// Longest key, in bytes: that of the longest SPIFFE ID, with room.
pub(super) const MAX_KEY_BYTES: usize = 2200;
/// First byte of the keys of chunks; the keys of values are text of kinds, and begin lower.
const CHUNK_PREFIX: u8 = 0xff;
const HERE: u8 = 0;
const CHUNKS: u8 = 1;

/// What a row says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// The value itself.
    Here(Vec<u8>),
    /// Where the value's chunks are.
    Chunks {
        /// Their common id.
        id: u64,
        /// How many there are.
        count: u32,
    },
}

impl Stored {
    /// Reads a row.
    pub(super) fn read(row: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Corrupt("a row has an unknown form".to_owned());
        match row.split_first() {
            Some((&HERE, value)) => Ok(Self::Here(value.to_vec())),
            Some((&CHUNKS, place)) => {
                let (id, rest) = place.split_first_chunk().ok_or_else(damaged)?;
                let count = rest.try_into().map_err(|_len| damaged())?;
                Ok(Self::Chunks {
                    id: u64::from_be_bytes(*id),
                    count: u32::from_be_bytes(count),
                })
            }
            _ => Err(damaged()),
        }
    }
}

/// The keys of a value's chunks, in order.
pub(super) fn keys(id: u64, count: u32) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(move |index| {
        let mut key = vec![CHUNK_PREFIX];
        key.extend_from_slice(&id.to_be_bytes());
        key.extend_from_slice(&index.to_be_bytes());
        key
    })
}

/// The rows of a value; a long one takes a new id.
pub(super) fn cut(
    key: Vec<u8>,
    value: &[u8],
    new_id: impl FnOnce() -> Result<u64, StoreError>,
) -> Result<Vec<Row>, StoreError> {
    if value.len() <= CHUNK_BYTES {
        let mut row = Vec::with_capacity(1 + value.len());
        row.push(HERE);
        row.extend_from_slice(value);
        return Ok(vec![(key, row)]);
    }
    let id = new_id()?;
    let count = u32::try_from(value.len().div_ceil(CHUNK_BYTES))
        .map_err(|_big| StoreError::Unstorable(format!("a value of {} bytes is too long", value.len())))?;
    let mut place = vec![CHUNKS];
    place.extend_from_slice(&id.to_be_bytes());
    place.extend_from_slice(&count.to_be_bytes());
    let chunks = value.chunks(CHUNK_BYTES).map(<[u8]>::to_vec);
    let mut rows = vec![(key, place)];
    rows.extend(keys(id, count).zip(chunks));
    Ok(rows)
}
