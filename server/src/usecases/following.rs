//! What an agent that follows by push has been told, and what it must be told next.
//!
//! The server keeps for each stream what the agent holds, so that it tells exactly the difference. No IO:
//! the index is looked at through a [`View`], all of whose answers show one moment.

mod bundles;
mod opening;
mod runs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_identity::{ClassName, RunId, SpiffeId, TrustDomain};
use vouchsafe_runtime::{ItemDigest, SetDigest};
use vouchsafe_store::{Class, EntryId, Revision, Versioned};

use crate::index::{IndexedBundle, IndexedEntry, LiveRun, Pending, Revoked, View};

pub use bundles::{Authority, Taint};
pub use opening::{Opening, Resume, WholeReason, open};
use runs::HeldRuns;

/// More changes at once than this are told as the whole set, if that is not more.
pub const MAX_CHANGES: usize = 1000;

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An entry that is new or differs.
    Entry(Arc<IndexedEntry>),
    /// An entry that the agent must no longer serve.
    EntryGone(EntryId),
    /// A bundle that is new or differs.
    Bundle(Arc<IndexedBundle>),
    /// A bundle that the agent no longer needs.
    BundleGone(TrustDomain),
    /// An authority that is no longer trusted to sign.
    Taint(Taint),
    /// A class that is new or differs.
    Class(Arc<Versioned<Class>>),
    /// A class that no longer runs on the agent's node.
    ClassGone(ClassName),
    /// A run that was admitted.
    Run(Arc<LiveRun>),
    /// A run that has ended, and how.
    RunGone(RunId, String),
    /// The SVIDs of a run are revoked.
    Revocation(Arc<Revoked>),
    /// All SVIDs of that run have ended by themselves.
    RevocationGone(RunId),
}

/// Whom is told, and what beyond entries and bundles.
#[derive(Debug, Clone, Copy)]
pub struct Audience<'a> {
    /// The agent.
    pub agent: &'a SpiffeId,
    /// The server's trust domain.
    pub own: &'a TrustDomain,
    /// Whether classes, runs and revocations are told.
    pub runs: bool,
}

/// Up to where an agent has been told, and what it has to hold there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The revision of the store.
    pub revision: Revision,
    /// The digest of the agent's set.
    pub digest: SetDigest,
}

/// What one agent has been told.
#[derive(Debug)]
pub struct Told {
    agent: SpiffeId,
    own: TrustDomain,
    /// In order of id.
    entries: Vec<Arc<IndexedEntry>>,
    bundles: BTreeMap<TrustDomain, Arc<IndexedBundle>>,
    /// Only where the agent wants to hear of them.
    runs: Option<HeldRuns>,
    /// Of all but the revocations.
    digest: SetDigest,
    revision: Revision,
    /// When an entry or an alias of the agent ends, in Unix seconds.
    next_end: Option<i64>,
}

impl Told {
    /// Everything that the agent has to hold now, as if it had been told all of it.
    pub fn everything(view: &View<'_>, audience: Audience<'_>, now: OffsetDateTime) -> Self {
        let agent = audience.agent;
        let mut told = Self {
            agent: agent.clone(),
            own: audience.own.clone(),
            entries: view.authorized_entries(agent, now),
            bundles: BTreeMap::new(),
            runs: audience.runs.then(|| HeldRuns::all(view, agent, now)),
            digest: SetDigest::default(),
            revision: view.revision(),
            next_end: None,
        };
        told.bundles = told.wanted_bundles(view);
        let entries = told.entries.iter().map(|entry| digest_of(entry));
        let bundles = told.bundles.values().map(|bundle| bundle.digest);
        let runs = told.runs.iter().flat_map(HeldRuns::digests);
        told.digest = entries.chain(bundles).chain(runs).collect();
        told.next_end = told.first_end(view, now);
        told
    }

    /// Up to where the agent is with all that was told.
    pub fn point(&self) -> Point {
        let revocations = self.runs.as_ref().map(|runs| runs.revocations_digest);
        Point {
            revision: self.revision,
            digest: self.digest.with(revocations.unwrap_or_default()),
        }
    }

    /// The entries, in order of id.
    pub fn entries(&self) -> &[Arc<IndexedEntry>] {
        &self.entries
    }

    /// The bundles, in order of trust domain.
    pub fn bundles(&self) -> impl ExactSizeIterator<Item = &Arc<IndexedBundle>> {
        self.bundles.values()
    }

    /// The classes, in order of name.
    pub fn classes(&self) -> impl Iterator<Item = &Arc<Versioned<Class>>> {
        self.runs.iter().flat_map(|runs| runs.classes.values())
    }

    /// The runs, in order of id.
    pub fn runs(&self) -> impl Iterator<Item = &Arc<LiveRun>> {
        self.runs.iter().flat_map(|runs| runs.runs.values())
    }

    /// The revocations, in order of run; none once they have been told.
    pub fn revocations(&self) -> impl Iterator<Item = &Arc<Revoked>> {
        self.runs.iter().flat_map(|runs| runs.revocations.values())
    }

    /// That all of it has been told: what is only there for that is let go.
    pub fn has_been_told(&mut self) {
        if let Some(runs) = &mut self.runs {
            runs.revocations = Arc::default();
        }
    }

    /// How much the agent holds.
    pub fn len(&self) -> usize {
        self.entries.len() + self.bundles.len() + self.runs.as_ref().map_or(0, HeldRuns::len)
    }

    /// Whether the agent holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When something of the agent's ends by itself.
    pub fn next_end(&self) -> Option<OffsetDateTime> {
        // A time beyond all dates never comes.
        OffsetDateTime::from_unix_timestamp(self.next_end?).ok()
    }

    /// What has to be told after a look at what is pending; from then on it counts as told.
    pub fn catch_up(&mut self, view: &View<'_>, pending: &Pending, now: OffsetDateTime) -> Vec<Item> {
        let mut items = Vec::new();
        let federation = if pending.everything {
            self.compare_all(view, now, &mut items)
        } else {
            self.compare_some(view, pending, now, &mut items)
        };
        if federation || pending.bundles {
            self.compare_bundles(view, &mut items);
        }
        if let Some(runs) = &mut self.runs {
            let (agent, digest) = (&self.agent, &mut self.digest);
            if pending.everything || pending.classes {
                runs.compare_classes(view, agent, now, digest, &mut items);
                // A class may be the first that hangs on an alias.
                let alias = view.first_alias_end(agent, now);
                self.next_end = [self.next_end, alias].into_iter().flatten().min();
            }
            runs.compare_runs(view, agent, pending, digest, &mut items);
            runs.compare_revocations(view, pending, &mut items);
        }
        self.revision = view.revision();
        items
    }

    /// Compares all entries; true when it may matter for bundles.
    fn compare_all(&mut self, view: &View<'_>, now: OffsetDateTime, items: &mut Vec<Item>) -> bool {
        let new = view.authorized_entries(&self.agent, now);
        let old = std::mem::replace(&mut self.entries, new);
        let mut federation = false;
        let mut before = old.iter().peekable();
        for entry in &self.entries {
            while let Some(gone) = before.next_if(|old| old.id < entry.id) {
                federation |= !gone.federates_with.is_empty();
                self.digest.toggle(digest_of(gone));
                items.push(Item::EntryGone(gone.id.clone()));
            }
            match before.next_if(|old| old.id == entry.id) {
                Some(same) if same == entry => continue,
                Some(other) => {
                    federation |= other.federates_with != entry.federates_with;
                    self.digest.toggle(digest_of(other));
                }
                None => federation |= !entry.federates_with.is_empty(),
            }
            self.digest.toggle(digest_of(entry));
            items.push(Item::Entry(Arc::clone(entry)));
        }
        for gone in before {
            federation |= !gone.federates_with.is_empty();
            self.digest.toggle(digest_of(gone));
            items.push(Item::EntryGone(gone.id.clone()));
        }
        self.next_end = self.first_end(view, now);
        federation
    }

    /// Compares the entries that changed; true when it may matter for bundles.
    fn compare_some(
        &mut self,
        view: &View<'_>,
        pending: &Pending,
        now: OffsetDateTime,
        items: &mut Vec<Item>,
    ) -> bool {
        let mut federation = false;
        let mut ids: Vec<&str> = pending.entries.iter().map(AsRef::as_ref).collect();
        ids.sort_unstable();
        for id in ids {
            let place = self.entries.binary_search_by(|entry| entry.id.as_str().cmp(id));
            let new = view.authorized_entry(&self.agent, id, now);
            let old = match (place, new) {
                (Ok(at), Some(new)) => self
                    .entries
                    .get_mut(at)
                    .map(|held| std::mem::replace(held, Arc::clone(new))),
                (Ok(at), None) => Some(self.entries.remove(at)),
                (Err(at), Some(new)) => {
                    self.entries.insert(at, Arc::clone(new));
                    None
                }
                (Err(_), None) => None,
            };
            if old.as_ref() == new {
                continue;
            }
            if let Some(old) = &old {
                self.digest.toggle(digest_of(old));
            }
            if let Some(new) = new {
                self.digest.toggle(digest_of(new));
                // It may be the first one that hangs on an alias.
                let end = new.expires_at.map(i64::from);
                let alias = view.first_alias_end(&self.agent, now);
                self.next_end = [self.next_end, end, alias].into_iter().flatten().min();
                items.push(Item::Entry(Arc::clone(new)));
            } else if let Some(old) = &old {
                items.push(Item::EntryGone(old.id.clone()));
            }
            let federates_with = |entry: Option<&Arc<IndexedEntry>>| {
                entry.map_or(Box::default(), |entry| entry.federates_with.clone())
            };
            federation |= federates_with(old.as_ref()) != federates_with(new);
        }
        federation
    }

    /// Compares the bundles. What is new goes before the entries that need it, what is gone after them.
    fn compare_bundles(&mut self, view: &View<'_>, items: &mut Vec<Item>) {
        let wanted = self.wanted_bundles(view);
        let held = std::mem::replace(&mut self.bundles, wanted);
        let mut first = Vec::new();
        for (trust_domain, bundle) in &self.bundles {
            match held.get(trust_domain) {
                Some(old) if old.digest == bundle.digest => continue,
                Some(old) => {
                    self.digest.toggle(old.digest);
                    match bundles::taints(&old.bundle, &bundle.bundle) {
                        Some(taints) => first.extend(taints.into_iter().map(Item::Taint)),
                        None => first.push(Item::Bundle(Arc::clone(bundle))),
                    }
                }
                None => first.push(Item::Bundle(Arc::clone(bundle))),
            }
            self.digest.toggle(bundle.digest);
        }
        for (trust_domain, gone) in held {
            if !self.bundles.contains_key(&trust_domain) {
                self.digest.toggle(gone.digest);
                items.push(Item::BundleGone(trust_domain));
            }
        }
        items.splice(0..0, first);
    }

    /// The bundles that the entries need, and our own; as far as there are such.
    fn wanted_bundles(&self, view: &View<'_>) -> BTreeMap<TrustDomain, Arc<IndexedBundle>> {
        let mut names: BTreeSet<&TrustDomain> = BTreeSet::from([&self.own]);
        names.extend(self.entries.iter().flat_map(|entry| &entry.federates_with));
        let found = names.into_iter().filter_map(|name| {
            let bundle = view.bundle(name)?;
            Some((name.clone(), Arc::clone(bundle)))
        });
        found.collect()
    }

    fn first_end(&self, view: &View<'_>, now: OffsetDateTime) -> Option<i64> {
        let ends = self.entries.iter().filter_map(|entry| entry.expires_at);
        let alias = view.first_alias_end(&self.agent, now);
        ends.map(i64::from).chain(alias).min()
    }
}

fn digest_of(entry: &IndexedEntry) -> ItemDigest {
    ItemDigest::of_entry(entry.id.as_str(), entry.revision_number, entry.created_at)
}
