//! Attested nodes: the agents that the server knows.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::{SelectorSet, SpiffeId};

use crate::{StoreError, Versioned};

/// SVIDs that can be handed out and unused at a time; the oldest gives way.
const MAX_HANDED_OUT: usize = 4;

/// An SVID that was handed out at a renewal, and that the agent has not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOut {
    /// Its serial number, lower-case hex.
    pub serial: String,
    /// When it expires.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
}

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
    /// Those handed out before it, oldest first. A request that was held up on its way can come after the one that the
    /// agent made in its place, and must not take from it what it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handed_out_before: Vec<HandedOut>,
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

impl Node {
    /// The SVID of this serial number, if it was handed out and not used yet.
    pub fn handed_out(&self, serial: &str) -> Option<HandedOut> {
        let latest = self.latest_handed_out();
        let mut all = self.handed_out_before.iter().cloned().chain(latest);
        all.find(|handed_out| handed_out.serial == serial)
    }

    /// Hands out another one.
    pub fn hand_out(&mut self, serial: String, expires_at: OffsetDateTime) {
        self.handed_out_before.extend(self.latest_handed_out());
        let too_many = (self.handed_out_before.len() + 1).saturating_sub(MAX_HANDED_OUT);
        self.handed_out_before.drain(..too_many);
        self.next_serial = Some(serial);
        self.next_expires_at = Some(expires_at);
    }

    /// None of those handed out can be used any more.
    pub fn forget_handed_out(&mut self) {
        self.next_serial = None;
        self.next_expires_at = None;
        self.handed_out_before.clear();
    }

    fn latest_handed_out(&self) -> Option<HandedOut> {
        Some(HandedOut {
            serial: self.next_serial.clone()?,
            expires_at: self.next_expires_at?,
        })
    }
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
