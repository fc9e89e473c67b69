//! A whole set that comes page by page. The old one stays until the last page.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use vouchsafe_identity::{Bundle, ClassName, RunId, TrustDomain};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;
use vouchsafe_runtime::set_digest::{ItemDigest, SetDigest};

use super::runs::{class_digest, class_of, revocation_digest, revocation_of, run_digest, run_of};
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
    classes: BTreeMap<ClassName, Arc<Class>>,
    runs: BTreeMap<RunId, Arc<LiveRun>>,
    revoked: BTreeMap<RunId, Arc<Revocation>>,
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

    pub(super) fn runs(
        &mut self,
        classes: Vec<Class>,
        runs: Vec<LiveRun>,
        revocations: Vec<Revocation>,
    ) -> Result<(), ProtocolError> {
        for class in classes {
            let (name, class) = class_of(class)?;
            self.classes.insert(name, class);
        }
        for run in runs {
            let (id, run) = run_of(run)?;
            self.runs.insert(id, run);
        }
        for revocation in revocations {
            let (id, revocation) = revocation_of(revocation)?;
            self.revoked.insert(id, revocation);
        }
        match self.classes.len() + self.runs.len() + self.revoked.len() > MAX_ENTRIES {
            true => Err(ProtocolError::TooMany),
            false => Ok(()),
        }
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
            .chain(self.classes.values().map(|class| class_digest(class)))
            .chain(self.runs.values().map(|run| run_digest(run)))
            .chain(self.revoked.values().map(|one| revocation_digest(one)))
            .collect();
        let whole = Whole {
            entries: self.entries.into_values().collect(),
            bundles: self.bundles.into_values().collect(),
            classes: self.classes,
            runs: self.runs,
            revoked: self.revoked,
            resume: None,
        };
        (whole, digest, Arc::new(self.unusable))
    }
}
