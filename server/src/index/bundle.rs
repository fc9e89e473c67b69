//! A bundle as the index holds it: with its digest, which every agent's digest needs.

use vouchsafe_identity::Bundle;
use vouchsafe_runtime::ItemDigest;

/// One bundle, immutable; a change puts another one in its place.
#[derive(Debug, PartialEq, Eq)]
pub struct IndexedBundle {
    /// The bundle.
    pub bundle: Bundle,
    /// What it adds to the digest of a set.
    pub digest: ItemDigest,
}

impl From<Bundle> for IndexedBundle {
    fn from(bundle: Bundle) -> Self {
        let digest = ItemDigest::of_bundle(&bundle);
        Self { bundle, digest }
    }
}
