//! The bundles by which peers are verified; they are replaced while the process runs, and count from the next handshake.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use vouchsafe_identity::{Bundle, TrustDomain};

/// Holds one bundle for each trust domain that this process trusts. Cheap to clone: all clones hold the same.
#[derive(Debug, Clone, Default)]
pub struct BundleHandle(Arc<ArcSwap<HashMap<TrustDomain, Arc<Bundle>>>>);

impl BundleHandle {
    /// Holds no bundle: every peer is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a bundle in, in place of the one of the same trust domain.
    pub fn set(&self, bundle: Bundle) {
        let bundle = Arc::new(bundle);
        self.0.rcu(|held| {
            let mut next = HashMap::clone(held);
            next.insert(bundle.trust_domain.clone(), bundle.clone());
            next
        });
    }

    /// Forgets the bundle of a trust domain: its members are refused from now on.
    pub fn remove(&self, trust_domain: &TrustDomain) {
        self.0.rcu(|held| {
            let mut next = HashMap::clone(held);
            next.remove(trust_domain);
            next
        });
    }

    /// The bundle of a trust domain, if it is trusted.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.0.load().get(trust_domain).cloned()
    }
}
