//! The change log: what changed at which revision, for readers that keep a copy.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use vouchsafe_identity::{SpiffeId, TrustDomain};

use crate::{EntryId, Revision, StoreError};

/// What changed. A reader fetches the present value itself; a kind that it does not know it skips.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// An entry was made, updated or deleted.
    Entry(EntryId),
    /// A node was attested, renewed, banned or deleted.
    Node(SpiffeId),
    /// A bundle changed.
    Bundle(TrustDomain),
    /// Written by a newer release; skip it.
    #[serde(other)]
    Unknown,
}

/// One change in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit that made it.
    pub revision: Revision,
    /// What changed.
    pub kind: ChangeKind,
}

/// Reads the change log.
#[async_trait]
pub trait ChangeReader: Send + Sync {
    /// Changes of revisions after `after`, whole revisions only, oldest first, until at least `limit` are gathered.
    ///
    /// `None` means that the log has been pruned past `after`: read everything anew.
    async fn changes(&self, after: Revision, limit: usize) -> Result<Option<Vec<Change>>, StoreError>;
}
