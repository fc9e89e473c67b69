//! The change log: what changed at which revision, for readers that keep a copy.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vouchsafe_identity::{ClassName, RunId, SpiffeId, TrustDomain};

use crate::{EntryId, Revision, StoreError};

/// What changed. A reader fetches the present value itself; a kind that it does not know it skips.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
#[non_exhaustive]
pub enum ChangeKind {
    /// An entry was made, updated or deleted.
    Entry(EntryId),
    /// A node was attested, renewed, banned or deleted.
    Node(SpiffeId),
    /// A bundle changed.
    Bundle(TrustDomain),
    /// A class was made, updated or deleted.
    Class(ClassName),
    /// A run was admitted, started, ended or forgotten.
    Run(RunId),
    /// The SVIDs of a run were revoked, or have all ended since.
    Revocation(RunId),
    /// Written by a newer release; skip it.
    Unknown,
}

/// A [`ChangeKind`] as it is stored: whatever stands beside a kind that we do not know is left alone.
#[derive(Serialize, Deserialize)]
struct Stored {
    kind: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    id: Value,
}

impl From<ChangeKind> for Stored {
    fn from(change: ChangeKind) -> Self {
        let (kind, id) = match change {
            ChangeKind::Entry(id) => ("entry", Value::String(id.into())),
            ChangeKind::Node(id) => ("node", Value::String(id.into())),
            ChangeKind::Bundle(trust_domain) => ("bundle", Value::String(trust_domain.into())),
            ChangeKind::Class(name) => ("class", Value::String(name.into())),
            ChangeKind::Run(id) => ("run", Value::String(id.into())),
            ChangeKind::Revocation(id) => ("revocation", Value::String(id.into())),
            ChangeKind::Unknown => ("unknown", Value::Null),
        };
        Self {
            kind: kind.to_owned(),
            id,
        }
    }
}

impl TryFrom<Stored> for ChangeKind {
    type Error = serde_json::Error;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        Ok(match stored.kind.as_str() {
            "entry" => Self::Entry(serde_json::from_value(stored.id)?),
            "node" => Self::Node(serde_json::from_value(stored.id)?),
            "bundle" => Self::Bundle(serde_json::from_value(stored.id)?),
            "class" => Self::Class(serde_json::from_value(stored.id)?),
            "run" => Self::Run(serde_json::from_value(stored.id)?),
            "revocation" => Self::Revocation(serde_json::from_value(stored.id)?),
            _ => Self::Unknown,
        })
    }
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
    /// `None` means that the log has been pruned past `after`, or that `after` lies ahead of the log (an
    /// older copy of the store was put back): read everything anew.
    async fn changes(&self, after: Revision, limit: usize) -> Result<Option<Vec<Change>>, StoreError>;
}
