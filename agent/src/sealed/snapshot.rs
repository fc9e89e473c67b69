//! What the agent knows and holds at one moment, and how two moments differ. Plain values: no IO, no clock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;

use super::record::{Change, Kind};
use crate::cache::slots::X509Svid;
use crate::entry::EntryId;
use crate::knowledge::Knowledge;

/// One moment. It shares what it holds with the caches.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// Entries, bundles, classes, runs and revocations.
    pub(super) known: Arc<Knowledge>,
    /// X.509-SVIDs by entry.
    pub(super) svids: HashMap<EntryId, Arc<X509Svid>>,
    /// X.509-SVIDs of runs and launch leases.
    pub(super) run_svids: HashMap<EntryId, Arc<X509Svid>>,
    /// When the server was last heard.
    pub(super) heard_at: Option<OffsetDateTime>,
}

impl Snapshot {
    /// All of it, for a new log.
    pub(super) fn all(&self) -> Vec<Change> {
        let entries = self.known.entries.iter().map(|entry| Change::entry(entry));
        let bundles = self.known.bundles.values().map(|bundle| Change::bundle(bundle));
        let svids = self.svids.iter().map(|(id, svid)| Change::svid(id, svid));
        let of_runs = self.run_svids.iter();
        let of_runs = of_runs.map(|(id, svid)| Change::run_svid(id, svid));
        let place = [Change::resume(self.known.resume.as_ref())];
        let classes = self.known.classes.values().map(|class| class_record(class));
        let runs = self.known.runs.values().map(|run| run_record(run));
        let revoked = self.known.revoked.values().map(|one| revocation_record(one));
        let all = entries.chain(bundles).chain(svids).chain(classes).chain(runs);
        let all = all.chain(of_runs).chain(revoked).chain(place);
        all.chain(self.heard()).collect()
    }

    /// What to add to a log that says `before`; nothing when nothing of weight differs.
    pub(super) fn since(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.entries_since(before, &mut changes);
        for (trust_domain, bundle) in &self.known.bundles {
            if before.known.bundles.get(trust_domain) != Some(bundle) {
                changes.push(Change::bundle(bundle));
            }
        }
        for trust_domain in before.known.bundles.keys() {
            if !self.known.bundles.contains_key(trust_domain) {
                changes.push(Kind::BundleGone(trust_domain.name().to_owned()).into());
            }
        }
        let (put, gone) = svids_since(&before.svids, &self.svids);
        changes.extend(put.map(|(id, svid)| Change::svid(id, svid)));
        changes.extend(gone.map(|id| Kind::SvidGone(id.to_string()).into()));
        let (put, gone) = svids_since(&before.run_svids, &self.run_svids);
        changes.extend(put.map(|(id, svid)| Change::run_svid(id, svid)));
        changes.extend(gone.map(|id| Kind::RunSvidGone(id.to_string()).into()));
        self.runs_since(before, &mut changes);
        self.revoked_since(before, &mut changes);
        if !changes.is_empty() {
            changes.push(Change::resume(self.known.resume.as_ref()));
            changes.extend(self.heard());
        }
        changes
    }

    fn entries_since(&self, before: &Self, changes: &mut Vec<Change>) {
        let (old, new) = (&before.known.entries, &self.known.entries);
        if Arc::ptr_eq(old, new) {
            return;
        }
        let mut look = |id: &EntryId| match (old.get(id), new.get(id)) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old == new => {}
            (_, Some(entry)) => changes.push(Change::entry(entry)),
            (Some(_), None) => changes.push(Kind::EntryGone(id.to_string()).into()),
            (None, None) => {}
        };
        // What changed is remembered for a while; else everything is looked at.
        if let Some(steps) = self.known.since(before.known.version) {
            let steps = steps.flat_map(|step| &step.entries);
            let ids: BTreeSet<&EntryId> = steps
                .flat_map(|change| [&change.before, &change.after])
                .flatten()
                .map(|entry| &entry.id)
                .collect();
            ids.into_iter().for_each(look);
            return;
        }
        new.iter().for_each(|entry| look(&entry.id));
        let gone = old.iter().filter(|entry| new.get(&entry.id).is_none());
        gone.for_each(|entry| look(&entry.id));
    }

    fn runs_since(&self, before: &Self, changes: &mut Vec<Change>) {
        let (old, new) = (&before.known.classes, &self.known.classes);
        if !Arc::ptr_eq(old, new) {
            let differ = new.iter().filter(|(name, class)| old.get(*name) != Some(*class));
            changes.extend(differ.map(|(_, class)| class_record(class)));
            let gone = old.keys().filter(|name| !new.contains_key(*name));
            changes.extend(gone.map(|name| Kind::ClassGone(name.to_string()).into()));
        }
        let (old, new) = (&before.known.runs, &self.known.runs);
        if !Arc::ptr_eq(old, new) {
            let differ = new.iter().filter(|(id, run)| old.get(*id) != Some(*run));
            changes.extend(differ.map(|(_, run)| run_record(run)));
            let gone = old.keys().filter(|id| !new.contains_key(*id));
            changes.extend(gone.map(|id| Kind::RunGone(id.to_string()).into()));
        }
    }

    fn revoked_since(&self, before: &Self, changes: &mut Vec<Change>) {
        let (old, new) = (&before.known.revoked, &self.known.revoked);
        if !Arc::ptr_eq(old, new) {
            let differ = new.iter().filter(|(id, one)| old.get(*id) != Some(*one));
            changes.extend(differ.map(|(_, one)| revocation_record(one)));
            let gone = old.keys().filter(|id| !new.contains_key(*id));
            changes.extend(gone.map(|id| Kind::RevocationGone(id.to_string()).into()));
        }
    }

    fn heard(&self) -> Option<Change> {
        self.heard_at.map(|at| Kind::Heard(at.unix_timestamp()).into())
    }
}

fn class_record(class: &Class) -> Change {
    Kind::Class(Box::new(class.clone())).into()
}

/// Those of `new` that differ from `old`, and the ids that are gone.
fn svids_since<'a>(
    old: &'a HashMap<EntryId, Arc<X509Svid>>,
    new: &'a HashMap<EntryId, Arc<X509Svid>>,
) -> (
    impl Iterator<Item = (&'a EntryId, &'a Arc<X509Svid>)>,
    impl Iterator<Item = &'a EntryId>,
) {
    let put = new
        .iter()
        .filter(|(id, svid)| !old.get(*id).is_some_and(|old| Arc::ptr_eq(old, svid)));
    (put, old.keys().filter(|id| !new.contains_key(*id)))
}

fn run_record(run: &LiveRun) -> Change {
    Kind::Run(run.clone()).into()
}

fn revocation_record(revocation: &Revocation) -> Change {
    Kind::Revocation(revocation.clone()).into()
}
