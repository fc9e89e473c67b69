//! The classes, runs and revocations that an agent has been told of, where it wants to hear of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_identity::{ClassName, RunId, SpiffeId};
use vouchsafe_runtime::{ItemDigest, SetDigest};
use vouchsafe_store::{Class, Run, Versioned};

use super::Item;
use crate::index::{LiveRun, Missed, Pending, Revoked, View, spiffe_id_of};

/// What an agent holds of them.
#[derive(Debug, Default)]
pub(super) struct HeldRuns {
    pub(super) classes: BTreeMap<ClassName, Arc<Versioned<Class>>>,
    pub(super) runs: BTreeMap<RunId, Arc<LiveRun>>,
    /// All agents hold the same ones, so what they add to the digest is reckoned once.
    pub(super) revocations_digest: SetDigest,
    pub(super) revocations_count: usize,
    /// Only until the agent has been told all of them.
    pub(super) revocations: Arc<BTreeMap<RunId, Arc<Revoked>>>,
}

fn digest_of_class(class: &Class) -> ItemDigest {
    let (created, updated) = (
        class.created_at.unix_timestamp(),
        class.updated_at.unix_timestamp(),
    );
    let names = (class.name.as_str(), class.id.as_str());
    ItemDigest::of_class(names, class.version, created, updated)
}

fn digest_of_run(run: &Run) -> ItemDigest {
    ItemDigest::of_run(
        (&run.id.to_string(), &spiffe_id_of(&run.class_id, run.id)),
        (run.class.as_str(), run.class_version),
        run.admitted_at.unix_timestamp(),
        run.expires_at.unix_timestamp(),
    )
}

/// What these add to the digest of a set.
pub(super) fn digests(
    classes: &BTreeMap<ClassName, Arc<Versioned<Class>>>,
    runs: &BTreeMap<RunId, Arc<LiveRun>>,
) -> impl Iterator<Item = ItemDigest> {
    let classes = classes.values().map(|class| digest_of_class(&class.value));
    classes.chain(runs.values().map(|live| digest_of_run(&live.run)))
}

impl HeldRuns {
    /// All that the agent has to hold.
    pub(super) fn all(view: &View<'_>, agent: &SpiffeId, now: OffsetDateTime) -> Self {
        let (revocations, revocations_digest) = view.revocations();
        Self {
            classes: view.classes_of(agent, now),
            runs: view.runs_of(agent),
            revocations_digest,
            revocations_count: revocations.len(),
            revocations: Arc::clone(revocations),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.classes.len() + self.runs.len() + self.revocations_count
    }

    /// What classes and runs add to the digest; revocations are reckoned apart.
    pub(super) fn digests(&self) -> impl Iterator<Item = ItemDigest> {
        digests(&self.classes, &self.runs)
    }

    /// Compares the classes: an agent has few.
    pub(super) fn compare_classes(
        &mut self,
        view: &View<'_>,
        agent: &SpiffeId,
        now: OffsetDateTime,
        digest: &mut SetDigest,
        items: &mut Vec<Item>,
    ) {
        let held = std::mem::replace(&mut self.classes, view.classes_of(agent, now));
        for (name, class) in &self.classes {
            if let Some(old) = held.get(name) {
                if Arc::ptr_eq(old, class) || old.value == class.value {
                    continue;
                }
                digest.toggle(digest_of_class(&old.value));
            }
            digest.toggle(digest_of_class(&class.value));
            items.push(Item::Class(Arc::clone(class)));
        }
        for (name, gone) in held {
            if !self.classes.contains_key(&name) {
                digest.toggle(digest_of_class(&gone.value));
                items.push(Item::ClassGone(name));
            }
        }
    }

    /// Compares the runs that changed, or all.
    pub(super) fn compare_runs(
        &mut self,
        view: &View<'_>,
        agent: &SpiffeId,
        pending: &Pending,
        digest: &mut SetDigest,
        items: &mut Vec<Item>,
    ) {
        let mut ids: Vec<RunId> = match pending.everything {
            true => {
                let now = view.runs_of(agent);
                self.runs.keys().chain(now.keys()).copied().collect()
            }
            false => pending.runs.iter().copied().collect(),
        };
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let old = self.runs.get(&id).map(|live| digest_of_run(&live.run));
            let Some(new) = view.run_of(agent, &id) else {
                if let Some(old) = old {
                    self.runs.remove(&id);
                    digest.toggle(old);
                    items.push(gone(view, agent, id));
                }
                continue;
            };
            self.runs.insert(id, Arc::clone(new));
            let is = digest_of_run(&new.run);
            if old != Some(is) {
                old.into_iter().for_each(|old| digest.toggle(old));
                digest.toggle(is);
                items.push(Item::Run(Arc::clone(new)));
            }
        }
    }

    /// Adds the revocations that came or went.
    pub(super) fn compare_revocations(&mut self, view: &View<'_>, pending: &Pending, items: &mut Vec<Item>) {
        let (all, digest) = view.revocations();
        if pending.all_revocations && digest != self.revocations_digest {
            // Of those that are over the agent does not hear: it sees by the digest that its set differs.
            items.extend(all.values().map(|one| Item::Revocation(Arc::clone(one))));
        } else {
            items.extend(revocations(all, pending.revocations.iter()));
        }
        (self.revocations_digest, self.revocations_count) = (digest, all.len());
    }

    /// All of it, for an agent that has heard of nothing.
    pub(super) fn items(&self) -> Vec<Item> {
        let classes = self.classes.values().map(|class| Item::Class(Arc::clone(class)));
        let runs = self.runs.values().map(|live| Item::Run(Arc::clone(live)));
        let revocations = self.revocations.values();
        let revocations = revocations.map(|one| Item::Revocation(Arc::clone(one)));
        classes.chain(runs).chain(revocations).collect()
    }

    /// What the agent has missed, as it stands now.
    pub(super) fn since(&self, view: &View<'_>, agent: &SpiffeId, missed: &Missed, items: &mut Vec<Item>) {
        let mut names: Vec<&ClassName> = missed.classes.iter().collect();
        names.sort_unstable();
        items.extend(names.into_iter().map(|name| match self.classes.get(name) {
            Some(class) => Item::Class(Arc::clone(class)),
            None => Item::ClassGone(name.clone()),
        }));
        let mut ids: Vec<RunId> = missed.runs.iter().copied().collect();
        ids.sort_unstable();
        items.extend(ids.into_iter().map(|id| match self.runs.get(&id) {
            Some(live) => Item::Run(Arc::clone(live)),
            None => gone(view, agent, id),
        }));
        items.extend(revocations(&self.revocations, missed.revocations.iter()));
    }
}

/// How these revocations stand, in order of run.
fn revocations<'a>(
    all: &BTreeMap<RunId, Arc<Revoked>>,
    ids: impl Iterator<Item = &'a RunId>,
) -> impl Iterator<Item = Item> {
    let mut ids: Vec<RunId> = ids.copied().collect();
    ids.sort_unstable();
    ids.into_iter().map(|id| match all.get(&id) {
        Some(revoked) => Item::Revocation(Arc::clone(revoked)),
        None => Item::RevocationGone(id),
    })
}

fn gone(view: &View<'_>, agent: &SpiffeId, id: RunId) -> Item {
    let ended = view.end_of(agent, &id);
    Item::RunGone(id, ended.map(|ended| ended.reason.text()).unwrap_or_default())
}
