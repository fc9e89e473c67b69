//! Keys in memory: gone when the process ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::{KeyAlgorithm, LocalKey, Signer};

use super::{KeyError, KeyManager, check_id};

/// Keeps keys in this process's memory.
#[derive(Debug, Default)]
pub struct MemoryKeys {
    keys: Mutex<BTreeMap<String, Arc<LocalKey>>>,
}

impl MemoryKeys {
    /// Holds no key yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, Arc<LocalKey>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyManager for MemoryKeys {
    async fn generate(&self, key_id: &str, algorithm: KeyAlgorithm) -> Result<Arc<dyn Signer>, KeyError> {
        check_id(key_id)?;
        let key = LocalKey::generate(key_id, algorithm).map_err(|e| KeyError::Crypto(e.to_string()))?;
        let key = Arc::new(key);
        self.keys().insert(key_id.to_owned(), key.clone());
        Ok(key)
    }

    async fn get(&self, key_id: &str) -> Result<Option<Arc<dyn Signer>>, KeyError> {
        check_id(key_id)?;
        let key = self.keys().get(key_id).cloned();
        Ok(key.map(|key| key as Arc<dyn Signer>))
    }

    async fn export(&self, key_id: &str) -> Result<Option<Secret<Vec<u8>>>, KeyError> {
        check_id(key_id)?;
        let key = self.keys().get(key_id).cloned();
        Ok(key.map(|key| Secret::from(key.to_pkcs8())))
    }

    async fn list(&self) -> Result<Vec<String>, KeyError> {
        Ok(self.keys().keys().cloned().collect())
    }

    async fn remove(&self, key_id: &str) -> Result<(), KeyError> {
        check_id(key_id)?;
        self.keys().remove(key_id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::contract;

    #[tokio::test]
    async fn keeps_the_contract() {
        contract::keeps(|| async { MemoryKeys::new() }).await;
    }
}
