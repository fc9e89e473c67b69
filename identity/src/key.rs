//! Key algorithms and the trait behind which a private key signs.
//!
//! A key may live in this process, on disk or in a device: callers see only [`Signer`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// Algorithms that authorities and SVIDs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// ECDSA on P-256 with SHA-256: the default of SPIFFE implementations, ES256 in JWT.
    EcP256,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcP256 => f.write_str("ec-p256"),
        }
    }
}

/// Why a key did not sign.
#[derive(Debug, thiserror::Error)]
#[error("key `{key_id}` could not sign: {reason}")]
pub struct SignError {
    /// The key's id in its key manager.
    pub key_id: String,
    /// What the key's keeper says.
    pub reason: String,
}

/// A private key that signs whole messages and never shows itself.
pub trait Signer: Send + Sync + fmt::Debug {
    /// The key's id in its key manager.
    fn key_id(&self) -> &str;
    /// What kind of key this is.
    fn algorithm(&self) -> KeyAlgorithm;
    /// The public half as SubjectPublicKeyInfo in DER (RFC 5280 §4.1.2.7).
    fn public_key_spki(&self) -> &[u8];
    /// Signs `message` (hashed by the key's algorithm).
    ///
    /// The encoding is that of X.509: an ASN.1 `Ecdsa-Sig-Value` for [`KeyAlgorithm::EcP256`].
    ///
    /// # Errors
    /// [`SignError`] when the keeper of the key refuses or fails.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}
