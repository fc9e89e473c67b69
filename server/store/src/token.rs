//! Join tokens: single-use secrets with which a node joins. Only their hash is kept.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::SpiffeId;

use crate::{StoreError, Versioned};

/// SHA-256 of a join token, lower-case hex.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(pub String);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({}…)", self.0.get(..8).unwrap_or_default())
    }
}

/// A token that an operator made and no node has used yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Hash of the token's text.
    pub hash: TokenHash,
    /// Until when it may be used.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
    /// The alias that the joining agent gets, if the operator named one.
    #[serde(default)]
    pub alias: Option<SpiffeId>,
}

/// Reads join tokens.
#[async_trait]
pub trait TokenReader: Send + Sync {
    /// One token, or `None` when there is none or it has been used.
    async fn token(&self, hash: &TokenHash) -> Result<Option<Versioned<JoinToken>>, StoreError>;
    /// Up to `limit` tokens with hashes after `after`, in order of hash (to prune the expired).
    async fn tokens(
        &self,
        after: Option<&TokenHash>,
        limit: usize,
    ) -> Result<Vec<Versioned<JoinToken>>, StoreError>;
}
