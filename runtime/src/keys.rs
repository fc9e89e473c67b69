//! Key managers: where private keys live. One trait, one contract suite, several keepers.

#[cfg(test)]
mod contract;
pub mod disk;
pub mod memory;

use std::sync::Arc;

use async_trait::async_trait;
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::{KeyAlgorithm, Signer};

pub use disk::DiskKeys;
pub use memory::MemoryKeys;

/// Longest key id in bytes.
pub const MAX_KEY_ID_BYTES: usize = 128;

/// Why a key manager could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The id has a character that a key id may not hold, or is too long.
    #[error("`{0}` is not a key id: 1 to {MAX_KEY_ID_BYTES} letters, digits, `.`, `_` or `-`")]
    BadId(String),
    /// Others may read the key file, or enter the folder of keys.
    #[error("`{path}` has mode {mode:o}, so that others can read it: run `chmod {needed:o} {path}`")]
    Exposed {
        /// The file or folder.
        path: String,
        /// Its mode.
        mode: u32,
        /// The mode that it must have.
        needed: u32,
    },
    /// The key file, or the folder of keys, is not a plain one of our own.
    #[error("`{path}` is refused as a place for keys: it is {what}")]
    Foreign {
        /// The file or folder.
        path: String,
        /// What it is instead.
        what: String,
    },
    /// The key file is not a key.
    #[error("key file `{path}` is damaged: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The cryptographic library refused.
    #[error("cannot make or use a key: {0}")]
    Crypto(String),
}

/// Makes, keeps and forgets private keys; a key is used through its [`Signer`] only.
#[async_trait]
pub trait KeyManager: Send + Sync + std::fmt::Debug {
    /// Makes a new key under `key_id`, in place of one that may be there; durable when it returns.
    async fn generate(&self, key_id: &str, algorithm: KeyAlgorithm) -> Result<Arc<dyn Signer>, KeyError>;
    /// The key, or `None`.
    async fn get(&self, key_id: &str) -> Result<Option<Arc<dyn Signer>>, KeyError>;
    /// The key itself in PKCS#8, for a backup that seals it at once; `None` when there is none.
    async fn export(&self, key_id: &str) -> Result<Option<Secret<Vec<u8>>>, KeyError>;
    /// All key ids, sorted.
    async fn list(&self) -> Result<Vec<String>, KeyError>;
    /// Forgets a key; that there is none is no error.
    async fn remove(&self, key_id: &str) -> Result<(), KeyError>;
}

/// Whether a text may name a key, and so be part of a file's name.
fn is_key_id(id: &str) -> bool {
    (1..=MAX_KEY_ID_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn check_id(id: &str) -> Result<(), KeyError> {
    if is_key_id(id) {
        Ok(())
    } else {
        Err(KeyError::BadId(id.to_owned()))
    }
}
