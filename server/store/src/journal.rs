//! The key journal: which key of which server is in which slot and state.
//!
//! Rows are `(server_id, purpose, algorithm, slot, state)`, so that purposes and algorithms that
//! come later live by the same rows.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::KeyAlgorithm;

use crate::{StoreError, Versioned};

/// What a key signs; a key signs one kind of thing only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeyPurpose {
    /// Signs X.509-SVIDs.
    X509Ca,
    /// Signs JWT-SVIDs.
    JwtSigner,
}

impl KeyPurpose {
    /// The name in keys, logs and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X509Ca => "x509-ca",
            Self::JwtSigner => "jwt-signer",
        }
    }
}

/// State of the key in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SlotState {
    /// Published in the bundle, not signing yet.
    Prepared,
    /// Signing.
    Active,
    /// No longer signing; what it signed still verifies.
    Old,
}

/// Names one slot of one server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JournalKey {
    /// The server that owns the key.
    pub server_id: String,
    /// What it signs.
    pub purpose: KeyPurpose,
    /// The key's algorithm; several may live side by side for one purpose.
    pub algorithm: KeyAlgorithm,
    /// A small letter.
    pub slot: char,
}

/// What is in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRow {
    /// Which slot.
    pub key: JournalKey,
    /// Its state.
    pub state: SlotState,
    /// The key's id in the key manager.
    pub key_id: String,
    /// What peers know it by: subject key id (hex) of a CA, `kid` of a JWT key.
    pub authority_id: String,
    /// Public half, SubjectPublicKeyInfo in DER; after a restart the key manager must still have its private half.
    pub public_key: Vec<u8>,
    /// The CA's certificate, DER; empty for JWT keys.
    #[serde(default)]
    pub certificate: Vec<u8>,
    /// When it was made.
    #[serde(with = "time::serde::timestamp")]
    pub issued_at: OffsetDateTime,
    /// When it expires.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
    /// Its private half was not in the key manager any more when it was needed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// Reads the key journal.
#[async_trait]
pub trait JournalReader: Send + Sync {
    /// All rows of one server, in order of purpose, algorithm and slot.
    async fn journal(&self, server_id: &str) -> Result<Vec<Versioned<JournalRow>>, StoreError>;
}
