//! Node attestors: the prover on the node and the verifier on the server.

use async_trait::async_trait;
use time::OffsetDateTime;
use vouchsafe_identity::{SelectorSet, SpiffeId};

/// What a verifier concluded about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The agent's id, under `/spire/agent/<attestor>/`.
    pub agent_id: SpiffeId,
    /// What the verifier found.
    pub selectors: SelectorSet,
    /// Whether the same proof may be given again later.
    pub can_reattest: bool,
    /// Name of the single-use proof that the server must consume in the same commit (the hash of a join token).
    pub consume: Option<String>,
}

/// Why a node was not believed, by whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeAttestError {
    /// The proof is malformed or wrong: the node's fault.
    #[error("{0}")]
    Invalid(String),
    /// The proof is well-formed, but the node may not join.
    #[error("{0}")]
    Denied(String),
    /// The proof could not be checked: the server's fault.
    #[error("{0}")]
    Internal(String),
}

/// Sends a challenge to the node and waits for its response.
#[async_trait]
pub trait Challenger: Send {
    /// One round trip.
    ///
    /// # Errors
    /// [`NodeAttestError`] when the node goes away or answers out of turn.
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError>;
}

/// The half on the node.
#[async_trait]
pub trait NodeProver: Send + Sync {
    /// The attestor's name, such as `join_token`.
    fn name(&self) -> &'static str;
    /// The first payload.
    ///
    /// # Errors
    /// [`NodeAttestError`] when the node has nothing to prove itself with.
    async fn payload(&self) -> Result<Vec<u8>, NodeAttestError>;
    /// The response to a challenge.
    ///
    /// # Errors
    /// [`NodeAttestError`] when the challenge is not one that this attestor knows.
    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError>;
}

/// The half on the server.
#[async_trait]
pub trait NodeVerifier: Send + Sync {
    /// The attestor's name, such as `join_token`.
    fn name(&self) -> &'static str;
    /// Checks a proof.
    ///
    /// # Errors
    /// [`NodeAttestError`], by whose fault it is; the node learns no more than its message.
    async fn verify(
        &self,
        payload: &[u8],
        challenger: &mut dyn Challenger,
        now: OffsetDateTime,
    ) -> Result<Attested, NodeAttestError>;
}
