//! Attested nodes: the agents that the server knows.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::{SelectorSet, SpiffeId};

use crate::{StoreError, Versioned};

/// An agent that proved its node (SPIRE's `types.Agent`).
///
/// Renewal is two-phase: `next_serial` becomes `serial` when the agent first uses it, so that an
/// agent whose answer got lost still has a valid SVID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The agent's SPIFFE ID, under `/spire/agent/`.
    pub id: SpiffeId,
    /// Name of the attestor that verified it.
    pub attestation_type: String,
    /// Serial number (lower-case hex) of the SVID in use.
    pub serial: String,
    /// When the SVID in use expires.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
    /// Serial number of the SVID handed out at renewal and not used yet.
    #[serde(default)]
    pub next_serial: Option<String>,
    /// When the handed out SVID expires.
    #[serde(default, with = "time::serde::timestamp::option")]
    pub next_expires_at: Option<OffsetDateTime>,
    /// What the verifier found.
    pub selectors: SelectorSet,
    /// Whether it is shut out until an operator deletes it.
    pub banned: bool,
    /// Whether it may attest again (and so must, instead of renewing).
    pub can_reattest: bool,
    /// The version that the agent reported, or empty.
    #[serde(default)]
    pub agent_version: String,
}

/// Reads nodes.
#[async_trait]
pub trait NodeReader: Send + Sync {
    /// One node, or `None`.
    async fn node(&self, id: &SpiffeId) -> Result<Option<Versioned<Node>>, StoreError>;
    /// Up to `limit` nodes with ids after `after`, in order of id.
    async fn nodes(&self, after: Option<&SpiffeId>, limit: usize)
    -> Result<Vec<Versioned<Node>>, StoreError>;
}
