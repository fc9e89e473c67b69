//! Key managers: where private keys live. One trait, one contract suite, several keepers.

use std::sync::Arc;

use async_trait::async_trait;
use vouchsafe_identity::{KeyAlgorithm, Signer};

/// Why a key manager could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The id has a character that a key id may not hold, or is too long.
    #[error("`{0}` is not a key id: 1 to 128 letters, digits, `.`, `_` or `-`")]
    BadId(String),
    /// Others may read the key file.
    #[error("key file `{path}` has mode {mode:o}, so that others can read it: run `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
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
    /// All key ids, sorted.
    async fn list(&self) -> Result<Vec<String>, KeyError>;
    /// Forgets a key; that there is none is no error.
    async fn remove(&self, key_id: &str) -> Result<(), KeyError>;
}
