//! Key algorithms, the trait behind which a private key signs, and a key held in this process.
//!
//! A key may live in this process, on disk or in a device: callers see only [`Signer`].

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::der::{SEQUENCE, fields_of_one};

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

/// Why a key could not be made or read. Nothing of the key is in the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyMaterialError {
    /// The source of randomness or the key generator failed.
    #[error("a {0} key could not be generated: the system's random source failed")]
    Generate(KeyAlgorithm),
    /// The bytes are not a PKCS#8 private key of a kind that is supported.
    #[error("key `{key_id}` is not a PKCS#8 private key on the curve P-256")]
    Malformed {
        /// The id under which the key was to be known.
        key_id: String,
    },
    /// The library could not write the key out.
    #[error("key `{key_id}` could not be encoded")]
    Encode {
        /// The key's id.
        key_id: String,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// A private key in the memory of this process, wiped when dropped.
pub struct LocalKey {
    key_id: String,
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl LocalKey {
    /// Makes a new key from the system's randomness.
    ///
    /// # Errors
    /// [`KeyMaterialError::Generate`] when there is no randomness.
    pub fn generate(key_id: &str, algorithm: KeyAlgorithm) -> Result<Self, KeyMaterialError> {
        match algorithm {
            KeyAlgorithm::EcP256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
                    .map_err(|_| KeyMaterialError::Generate(algorithm))?;
                Self::from_pair(key_id, pair)
            }
        }
    }

    /// Reads a key from a PKCS#8 document (RFC 5958).
    ///
    /// # Errors
    /// [`KeyMaterialError::Malformed`] when the bytes are anything but one P-256 private key.
    pub fn from_pkcs8(key_id: &str, der: &[u8]) -> Result<Self, KeyMaterialError> {
        let malformed = || KeyMaterialError::Malformed {
            key_id: key_id.to_owned(),
        };
        // The library does not mind bytes behind the key.
        fields_of_one(SEQUENCE, der).ok_or_else(malformed)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| malformed())?;
        Self::from_pair(key_id, pair)
    }

    fn from_pair(key_id: &str, pair: EcdsaKeyPair) -> Result<Self, KeyMaterialError> {
        let encode = || KeyMaterialError::Encode {
            key_id: key_id.to_owned(),
        };
        let spki = pair.public_key().as_der().map_err(|_| encode())?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| encode())?;
        Ok(Self {
            key_id: key_id.to_owned(),
            spki: spki.as_ref().to_vec(),
            pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()),
            pair,
        })
    }

    /// The private key as PKCS#8 DER, which the Workload API hands to its workload.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }
}

impl Signer for LocalKey {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn algorithm(&self) -> KeyAlgorithm {
        KeyAlgorithm::EcP256
    }

    fn public_key_spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| SignError {
                key_id: self.key_id.clone(),
                reason: "the cryptographic library refused".to_owned(),
            })
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey")
            .field("key_id", &self.key_id)
            .field("algorithm", &self.algorithm())
            .finish_non_exhaustive()
    }
}

/// A certificate serial number: 128 random bits, never zero (RFC 5280 §4.1.2.2).
///
/// # Errors
/// [`KeyMaterialError::Random`] when the system gives no randomness.
pub fn random_serial() -> Result<[u8; 16], KeyMaterialError> {
    let mut serial = [0u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| KeyMaterialError::Random)?;
    if serial == [0u8; 16] {
        return Err(KeyMaterialError::Random);
    }
    Ok(serial)
}

#[cfg(test)]
mod tests;
