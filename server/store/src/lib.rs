//! The server's entities and where they are kept.
//!
//! Reads go through one trait an entity; every write goes through the one door
//! [`Store::commit`], which is atomic: a change, its place in the change log and its audit
//! record become durable together or not at all.

pub mod audit;
pub mod backup;
pub mod bundle;
pub mod change;
pub mod class;
mod codec;
pub mod commit;
pub mod entry;
pub mod error;
pub mod journal;
pub mod kv;
pub mod memory;
pub mod node;
pub mod revocation;
pub mod run;
pub mod sled;
pub mod token;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

pub use crate::sled::{SledConfig, SledStore};
pub use audit::{AuditConfig, AuditError, AuditPlace, AuditReader, AuditSink, AuditWriter};
pub use backup::{BackupEnd, BackupPart, BackupReader, RestoreMark};
pub use bundle::BundleReader;
pub use change::{Change, ChangeKind, ChangeReader};
pub use class::{Class, ClassReader};
pub use commit::{Commit, CommitError, Expect, Key, Mutation, Record};
pub use entry::{Entry, EntryId, EntryReader};
pub use error::StoreError;
pub use journal::{JournalKey, JournalReader, JournalRow, KeyPurpose, SlotState};
pub use memory::MemoryStore;
pub use node::{HandedOut, Node, NodeReader};
pub use revocation::{Revocation, RevocationReader};
pub use run::{Run, RunReader};
pub use token::{JoinToken, Spent, TokenHash, TokenReader};

/// Number of a commit; grows by one with each, in the order in which they became durable.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A value with the revision at which it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// When it was last written.
    pub revision: Revision,
}

/// Everything the server keeps.
#[async_trait]
pub trait Store:
    EntryReader
    + NodeReader
    + TokenReader
    + BundleReader
    + JournalReader
    + ClassReader
    + RunReader
    + RevocationReader
    + ChangeReader
    + AuditReader
    + BackupReader
{
    /// Writes all of `commit` or nothing of it; when it returns `Ok`, the write survives a loss of power.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] when an expectation does not hold (nothing is written), and
    /// [`CommitError::Store`] when the write could not be made durable (it may be there after a restart).
    async fn commit(&self, commit: Commit) -> Result<Revision, CommitError>;

    /// The latest durable revision, and news of each later one.
    fn revisions(&self) -> watch::Receiver<Revision>;

    /// Whether the store would take a write now; what it holds can be read in any case.
    ///
    /// # Errors
    /// [`StoreError::Full`] while there is no room, [`StoreError::Closed`] after a write that failed.
    fn takes_writes(&self) -> Result<(), StoreError>;

    /// The id of this server, made at the first open; rows that belong to one server carry it.
    fn server_id(&self) -> &str;

    /// That the store was made from a backup, if it was; of several the last.
    fn restored(&self) -> Option<&RestoreMark>;
}

/// A store that is shared between the parts of a server.
pub type SharedStore = Arc<dyn Store>;
