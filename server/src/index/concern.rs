//! Whom a change concerns: found by walking up from the entry that changed, never by looking at all agents.
//!
//! Ends of entries are left out of the walk: an agent that is told of for nothing finds nothing to do, one
//! that is left out would never hear.

mod runs;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use vouchsafe_identity::{ClassName, RunId, SpiffeId, TrustDomain};
use vouchsafe_store::{EntryId, Node, Versioned};

use super::bundle::IndexedBundle;
use super::entry::IndexedEntry;
use super::feed::News;
use super::state::{State, is_alias};

/// What an agent has to look at anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// One entry.
    Entry(Arc<str>),
    /// All entries: which ones it may serve may differ.
    Entries,
    /// Whether it may go on at all.
    Standing,
    /// The bundle of a trust domain.
    Bundle(TrustDomain),
    /// A class.
    Class(ClassName),
    /// All classes: which ones may run there may differ.
    Classes,
    /// A run.
    Run(RunId),
    /// The revocation of a run's SVIDs.
    Revocation(RunId),
}

/// Who has to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// These agents; changes made together share the set.
    These(Arc<HashSet<SpiffeId>>),
    /// Whoever holds that bundle or class; each agent knows best itself.
    Anybody,
}

/// A change as agents see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Concern {
    pub(super) what: What,
    pub(super) who: Who,
}

impl Concern {
    fn of(what: What, who: impl Into<Arc<HashSet<SpiffeId>>>) -> Self {
        let who = Who::These(who.into());
        Self { what, who }
    }

    /// Whether it is known to be about the same agents as another.
    pub(super) fn shares_agents(&self, other: &Self) -> bool {
        match (&self.who, &other.who) {
            (Who::These(these), Who::These(those)) => Arc::ptr_eq(these, those),
            (Who::Anybody, Who::Anybody) => true,
            _ => false,
        }
    }
}

/// The nodes above the parents of entries that change together, as long as none of these changes moves them: most entries of
/// a batch have one parent, and there may be thousands of nodes above it.
#[derive(Debug, Default)]
struct Walks {
    above: HashMap<SpiffeId, Arc<HashSet<SpiffeId>>>,
    /// Every id that they came by.
    seen: HashSet<SpiffeId>,
}

impl Walks {
    /// The nodes above an entry.
    fn above(&mut self, state: &State, entry: &IndexedEntry) -> Arc<HashSet<SpiffeId>> {
        let above = match self.above.get(&entry.parent_id) {
            Some(above) => Arc::clone(above),
            None => {
                let above = Arc::new(above(state, &entry.parent_id, &mut self.seen));
                self.above.insert(entry.parent_id.clone(), Arc::clone(&above));
                above
            }
        };
        if !is_alias(entry) {
            return above;
        }
        let mut found = HashSet::clone(&above);
        with_all_selectors(state, entry, &mut found);
        found.into()
    }

    /// Forgets what no longer holds when an entry that gives this id comes, changes or goes.
    fn moved(&mut self, id: &SpiffeId) {
        if self.seen.contains(id) {
            *self = Self::default();
        }
    }
}

/// Puts what keys hold now into the state, in order; tells whom that concerns.
pub(super) fn put(state: &mut State, news: Vec<News>) -> Vec<Concern> {
    let mut walks = Walks::default();
    news.into_iter()
        .flat_map(|item| put_one(state, &mut walks, item))
        .collect()
}

fn put_one(state: &mut State, walks: &mut Walks, news: News) -> Vec<Concern> {
    match news {
        News::Entry(id, row) => put_entry(state, walks, &id, row.map(|row| row.value.into())),
        News::Node(id, row) => {
            *walks = Walks::default();
            put_node(state, &id, row)
        }
        News::Class(name, row) => runs::put_class(state, name, row),
        News::Run(id, row) => runs::put_run(state, id, row),
        News::Revocation(id, row) => {
            state.runs.put_revocation(id, row);
            let (what, who) = (What::Revocation(id), Who::Anybody);
            vec![Concern { what, who }]
        }
        News::Bundle(trust_domain, row) => {
            match row {
                Some(row) => {
                    let bundle = Arc::new(IndexedBundle::from(row.value));
                    state.bundles.insert(trust_domain.clone(), bundle);
                }
                None => {
                    state.bundles.remove(&trust_domain);
                }
            }
            let (what, who) = (What::Bundle(trust_domain), Who::Anybody);
            vec![Concern { what, who }]
        }
    }
}

fn put_entry(state: &mut State, walks: &mut Walks, id: &EntryId, new: Option<IndexedEntry>) -> Vec<Concern> {
    let old = state.entries.get(id.as_str()).map(|entry| Arc::clone(&entry.0));
    let before = old.as_ref().map(|old| walks.above(state, old));
    match new {
        Some(new) => state.put_entry(new),
        None => state.remove_entry(id),
    }
    let new = state.entries.get(id.as_str()).map(|entry| &entry.0);
    for entry in [old.as_ref(), new].into_iter().flatten() {
        walks.moved(&entry.spiffe_id);
    }
    let after = new.map(|new| walks.above(state, new));
    let who = match (before, after) {
        // What moves nothing has one walk for both, of perhaps thousands of nodes.
        (Some(before), Some(after)) if !Arc::ptr_eq(&before, &after) && !before.is_subset(&after) => {
            Arc::new(&*before | &*after)
        }
        (before, after) => after.or(before).unwrap_or_default(),
    };
    let hangs_below = |entry: &Arc<IndexedEntry>| state.by_parent.contains_key(&entry.spiffe_id);
    let below = old.as_ref().is_some_and(hangs_below) || new.is_some_and(hangs_below);
    if below && moves(old.as_deref(), new.map(AsRef::as_ref)) {
        return vec![Concern::of(What::Entries, who)];
    }
    let mut concerns = Vec::new();
    let names = |entry: &Arc<IndexedEntry>| state.runs.names_node(&entry.spiffe_id);
    if old.as_ref().is_some_and(names) || new.is_some_and(names) {
        concerns.push(Concern::of(What::Classes, Arc::clone(&who)));
    }
    // Nobody serves the entry that gives nodes an alias.
    if [old.as_deref(), new.map(AsRef::as_ref)]
        .into_iter()
        .flatten()
        .all(is_alias)
    {
        return concerns;
    }
    concerns.push(Concern::of(What::Entry(id.as_str().into()), who));
    concerns
}

fn put_node(state: &mut State, id: &SpiffeId, row: Option<Versioned<Node>>) -> Vec<Concern> {
    let old = state.nodes.get(id).map(|node| node.value.selectors.clone());
    let new = row.as_ref().map(|node| &node.value.selectors);
    let moved = old.as_ref() != new;
    match row {
        Some(row) => state.put_node(row),
        None => state.remove_node(id),
    }
    let this = HashSet::from([id.clone()]);
    let mut concerns = vec![Concern::of(What::Standing, this.clone())];
    if moved {
        concerns.push(Concern::of(What::Entries, this));
    }
    concerns
}

/// Whether a change of an entry also changes who may serve what hangs below it.
fn moves(old: Option<&IndexedEntry>, new: Option<&IndexedEntry>) -> bool {
    let (Some(old), Some(new)) = (old, new) else {
        return true;
    };
    old.spiffe_id != new.spiffe_id
        || old.parent_id != new.parent_id
        || old.expires_at != new.expires_at
        || (is_alias(old) && old.selectors != new.selectors)
}

/// The nodes above what has this parent: the parent itself, and those it stands under, directly, by entries between, or by an
/// alias. Every id on the way goes into `passed`.
fn above(state: &State, parent: &SpiffeId, passed: &mut HashSet<SpiffeId>) -> HashSet<SpiffeId> {
    let mut found = HashSet::new();
    let mut seen = HashSet::new();
    let mut to_visit = vec![parent];
    while let Some(id) = to_visit.pop() {
        if !seen.insert(id) {
            continue;
        }
        if state.nodes.contains_key(id) {
            found.insert(id.clone());
        }
        let holders = state.by_spiffe_id.get(id).map(|group| group.all());
        for holder in holders.into_iter().flatten() {
            if is_alias(holder) {
                with_all_selectors(state, holder, &mut found);
            }
            to_visit.push(&holder.parent_id);
        }
    }
    passed.extend(seen.into_iter().cloned());
    found
}

/// The nodes that have an alias: all of its selectors, and it has some.
fn with_all_selectors(state: &State, alias: &IndexedEntry, found: &mut HashSet<SpiffeId>) {
    let groups: Option<Vec<_>> = alias
        .selectors
        .iter()
        .map(|selector| state.nodes_by_selector.get(selector))
        .collect();
    let Some(groups) = groups else { return };
    let Some(fewest) = groups.iter().min_by_key(|nodes| nodes.len()) else {
        return;
    };
    let in_all = fewest
        .iter()
        .filter(|id| groups.iter().all(|nodes| nodes.contains(*id)));
    found.extend(in_all.cloned());
}

#[cfg(test)]
mod tests;
