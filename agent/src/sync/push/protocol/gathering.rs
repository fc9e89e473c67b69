//! A whole set that comes page by page. The old one stays until the last page.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use vouchsafe_identity::{Bundle, TrustDomain};
use vouchsafe_runtime::set_digest::{ItemDigest, SetDigest};

use super::{MAX_ENTRIES, ProtocolError, Told, entry_digest};
use crate::entry::{Entry, EntryId, EntryVersion};
use crate::knowledge::Whole;

/// What came so far.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Why the server sends the whole set.
    pub(super) reason: i32,
    entries: HashMap<EntryId, Arc<Entry>>,
    unusable: BTreeMap<EntryId, EntryVersion>,
    bundles: BTreeMap<TrustDomain, Bundle>,
}

impl Gathering {
    pub(super) fn new(reason: i32) -> Self {
        Self {
            reason,
            ..Self::default()
        }
    }

    /// Adds an entry; of those with the same id the last counts.
    pub(super) fn entry(&mut self, id: EntryId, told: Told) -> Result<(), ProtocolError> {
        self.entries.remove(&id);
        self.unusable.remove(&id);
        match told {
            Told::Usable(entry) => drop(self.entries.insert(id, entry)),
            Told::Unusable(version) => drop(self.unusable.insert(id, version)),
            Told::Gone => {}
        }
        if self.entries.len() + self.unusable.len() > MAX_ENTRIES {
            return Err(ProtocolError::TooMany);
        }
        Ok(())
    }

    pub(super) fn bundle(&mut self, bundle: Bundle) {
        self.bundles.insert(bundle.trust_domain.clone(), bundle);
    }

    pub(super) fn has_bundle_of(&self, trust_domain: &TrustDomain) -> bool {
        self.bundles.contains_key(trust_domain)
    }

    /// The set, its digest, and what of it cannot be used.
    pub(super) fn finish(self) -> (Whole, SetDigest, Arc<BTreeMap<EntryId, EntryVersion>>) {
        let usable = self.entries.iter().map(|(id, entry)| (id, entry.version));
        let unusable = self.unusable.iter().map(|(id, version)| (id, *version));
        let entries = usable
            .chain(unusable)
            .map(|(id, version)| entry_digest(id, version));
        let digest = entries
            .chain(self.bundles.values().map(ItemDigest::of_bundle))
            .collect();
        let whole = Whole {
            entries: self.entries.into_values().collect(),
            bundles: self.bundles.into_values().collect(),
            resume: None,
        };
        (whole, digest, Arc::new(self.unusable))
    }
}
