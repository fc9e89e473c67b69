//! Trust bundles, our own and those of federated trust domains.

use async_trait::async_trait;
use vouchsafe_identity::{Bundle, TrustDomain};

use crate::{StoreError, Versioned};

/// Reads bundles.
#[async_trait]
pub trait BundleReader: Send + Sync {
    /// The bundle of a trust domain, or `None`.
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Versioned<Bundle>>, StoreError>;
    /// All bundles, in order of trust domain.
    async fn bundles(&self) -> Result<Vec<Versioned<Bundle>>, StoreError>;
}
