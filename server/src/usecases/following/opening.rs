//! How a stream begins: with the whole set, with what the agent has missed, or with nothing to tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_identity::TrustDomain;
use vouchsafe_runtime::SetDigest;
use vouchsafe_runtime::set_digest::DIGEST_BYTES;
use vouchsafe_store::{EntryId, Revision};

use super::runs::HeldRuns;
use super::{Audience, Item, MAX_CHANGES, Told};
use crate::index::{Missed, View};

/// Up to where an agent says that it has followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The log that the revision counts in.
    pub log_id: String,
    /// The revision.
    pub revision: Revision,
    /// The digest of the agent's set.
    pub digest: [u8; DIGEST_BYTES],
}

/// Why an agent gets the whole set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WholeReason {
    /// It has no resume point.
    First,
    /// What changed since its resume point is not remembered, or the point is not of this log.
    Pruned,
    /// More has changed than is worth telling one by one.
    TooMany,
    /// Its set differs from what it should be.
    Digest,
    /// It did not keep up.
    Slow,
}

impl WholeReason {
    /// The name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Pruned => "pruned",
            Self::TooMany => "too_many",
            Self::Digest => "digest",
            Self::Slow => "slow",
        }
    }
}

/// How a stream begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// With the whole set.
    Whole(WholeReason),
    /// With these changes, and then the resume point; there may be none.
    Changes(Vec<Item>),
}

/// Reckons what the agent has to hold, and how it gets there.
pub fn open(
    view: &View<'_>,
    audience: Audience<'_>,
    log_id: &str,
    resume: Option<&Resume>,
    now: OffsetDateTime,
) -> (Told, Opening) {
    let told = Told::everything(view, audience, now);
    let Some(resume) = resume else {
        return (told, Opening::Whole(WholeReason::First));
    };
    if resume.log_id != log_id || resume.revision > told.revision {
        return (told, Opening::Whole(WholeReason::Pruned));
    }
    if resume.digest == *told.point().digest.as_bytes() {
        return (told, Opening::Changes(Vec::new()));
    }
    // Up to now it was told entries and bundles alone.
    if let Some(runs) = &told.runs
        && resume.digest == *told.digest_without(runs).as_bytes()
    {
        let items = runs.items();
        return (told, Opening::Changes(items));
    }
    let missed = view.missed(audience.agent, resume.revision);
    let missed = match audience.runs {
        true => missed,
        false => missed.map(Missed::without_runs),
    };
    let opening = match missed {
        None => Opening::Whole(WholeReason::Pruned),
        Some(missed) if missed == Missed::default() => Opening::Whole(WholeReason::Digest),
        Some(missed) if missed.everything || missed.all_classes || missed.count() > MAX_CHANGES => {
            Opening::Whole(WholeReason::TooMany)
        }
        Some(missed) => Opening::Changes(told.since(view, &missed)),
    };
    (told, opening)
}

impl Told {
    /// What the agent has missed, as it stands now. Of what it has never had it is told the end too.
    fn since(&self, view: &View<'_>, missed: &Missed) -> Vec<Item> {
        let mut ids: Vec<&str> = missed.entries.iter().map(AsRef::as_ref).collect();
        ids.sort_unstable();
        let mut entries = Vec::with_capacity(ids.len());
        let mut bundles: BTreeSet<&TrustDomain> = missed.bundles.iter().collect();
        if !ids.is_empty() {
            // An entry that is gone or differs may have been the last one that needed a bundle.
            let unwanted = |name: &&TrustDomain| !self.bundles.contains_key(*name);
            bundles.extend(view.trust_domains().filter(unwanted));
        }
        for id in ids {
            let place = self.entries.binary_search_by(|entry| entry.id.as_str().cmp(id));
            if let Some(entry) = place.ok().and_then(|at| self.entries.get(at)) {
                bundles.extend(&entry.federates_with);
                entries.push(Item::Entry(Arc::clone(entry)));
            } else if let Ok(id) = EntryId::new(id) {
                entries.push(Item::EntryGone(id));
            }
        }
        let (mut items, mut gone) = (Vec::new(), Vec::new());
        for name in bundles {
            match self.bundles.get(name) {
                Some(bundle) => items.push(Item::Bundle(Arc::clone(bundle))),
                None => gone.push(Item::BundleGone(name.clone())),
            }
        }
        items.extend(entries);
        items.extend(gone);
        if let Some(runs) = &self.runs {
            runs.since(view, &self.agent, missed, &mut items);
        }
        items
    }

    fn digest_without(&self, runs: &HeldRuns) -> SetDigest {
        let mut digest = self.digest;
        runs.digests().for_each(|one| digest.toggle(one));
        digest
    }
}
