//! A copy of a store at one revision, taken while it works, as a stream of bytes; and a store made from such a copy.
//!
//! The stream: a line that names the format, rows (a mark, two lengths, key and value; a later row of a key replaces an
//! earlier one), an end that says at which revision, and the SHA-256 of all bytes before it. Join tokens stay out, which
//! nobody may use again that were used since; and the change log, which would tell readers that they missed nothing.

mod read;

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::{Revision, StoreError};

pub use read::{RestoreError, Restored, restore};

/// The first bytes of every backup; the number is the format's.
pub(crate) const MAGIC: &[u8] = b"vouchsafe-backup 1\n";
/// Marks of what follows.
pub(crate) const PUT: u8 = 1;
pub(crate) const DELETE: u8 = 2;
pub(crate) const END: u8 = 3;
/// Length of the digest at the end.
pub(crate) const DIGEST_BYTES: usize = 32;

/// What stands at the end of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupEnd {
    /// Everything up to this revision is in it, and nothing after.
    pub revision: Revision,
    /// `seq` of the last audit record.
    pub audit_seq: u64,
    /// The server that it was made of.
    pub server_id: String,
    /// Rows in the stream, those that were replaced counted too.
    pub rows: u64,
}

/// What a store that was made from a backup says of that: it begins a time of its own, and what the lost store said after
/// the backup is not its past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreMark {
    /// Of this restoration alone.
    pub id: String,
    /// When it was done.
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
}

impl RestoreMark {
    /// A number that is above those which the lost store counted up to, one by one, if it counted less than one a second.
    pub fn leap(&self) -> u64 {
        u64::try_from(self.at.unix_timestamp()).unwrap_or_default()
    }
}

/// A piece of a backup.
#[derive(Clone, PartialEq, Eq)]
pub enum BackupPart {
    /// Bytes of the stream.
    Bytes(Vec<u8>),
    /// The stream is whole.
    End {
        /// What it holds.
        end: BackupEnd,
        /// SHA-256 of all its bytes but the last 32, which are this.
        sha256: [u8; DIGEST_BYTES],
    },
}

impl fmt::Debug for BackupPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::End { end, .. } => write!(f, "End({end:?})"),
        }
    }
}

/// Copies of the whole store.
#[async_trait]
pub trait BackupReader: Send + Sync {
    /// Sends a copy of everything, as of one revision, while writes go on; the last part is [`BackupPart::End`]. Ends
    /// early and quietly when the receiver is gone.
    ///
    /// # Errors
    /// [`StoreError::BackupUnderWay`]; [`StoreError::Closed`] when the store takes no writes; and others when the store
    /// cannot be read.
    async fn backup(&self, to: mpsc::Sender<BackupPart>) -> Result<(), StoreError>;
}
