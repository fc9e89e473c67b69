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

/// Who used a token: told the answer again if it was lost on its way, and nobody else is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// SHA-256 of the node's public key (SubjectPublicKeyInfo, DER), lower-case hex.
    pub public_key_sha256: String,
    /// Serial of the SVID that the node was given, lower-case hex.
    pub serial: String,
}

/// A token that an operator made. It stays until it expires.
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
    /// Who used it. `None`: nobody yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
}

/// Reads join tokens.
#[async_trait]
pub trait TokenReader: Send + Sync {
    /// One token, used or not, or `None` when there is none.
    async fn token(&self, hash: &TokenHash) -> Result<Option<Versioned<JoinToken>>, StoreError>;
    /// Up to `limit` tokens with hashes after `after`, in order of hash (to prune the expired).
    async fn tokens(
        &self,
        after: Option<&TokenHash>,
        limit: usize,
    ) -> Result<Vec<Versioned<JoinToken>>, StoreError>;
}
