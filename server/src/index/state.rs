//! The maps of the index and how one change is applied to them. No IO, no lock.

use std::collections::hash_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use vouchsafe_identity::{Selector, SpiffeId, TrustDomain};
use vouchsafe_store::{EntryId, Node, Revision, Versioned};

use super::bundle::IndexedBundle;
use super::entry::{ById, IndexedEntry};
use super::history::History;
use super::runs::Runs;

/// Path of the server's own id, the parent of the entries that give nodes an alias.
const SERVER_PATH: &str = "/spire/server";

/// Entries that share a key; most keys have one.
#[derive(Debug)]
pub(super) enum Group {
    One(ById),
    Many(BTreeSet<ById>),
}

impl Group {
    fn insert(&mut self, entry: ById) {
        match self {
            Self::One(only) if *only == entry => *only = entry,
            Self::One(only) => *self = Self::Many(BTreeSet::from([only.clone(), entry])),
            Self::Many(set) => {
                set.replace(entry);
            }
        }
    }

    /// Takes an entry out; true when none is left.
    fn remove(&mut self, id: &str) -> bool {
        match self {
            Self::One(only) => only.0.id.as_str() == id,
            Self::Many(set) => {
                set.remove(id);
                set.is_empty()
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(set) => set.len(),
        }
    }

    /// The entries in order of id, after `after`.
    pub(super) fn after<'a>(
        &'a self,
        after: Option<&'a str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<IndexedEntry>> + 'a> {
        match self {
            Self::One(only) => Box::new(
                std::iter::once(&only.0).filter(move |entry| after.is_none_or(|id| entry.id.as_str() > id)),
            ),
            Self::Many(set) => Box::new(after_in(set, after)),
        }
    }

    /// All entries in order of id.
    pub(super) fn all(&self) -> Box<dyn Iterator<Item = &Arc<IndexedEntry>> + '_> {
        self.after(None)
    }
}

/// The entries of a set that come after an id.
pub(super) fn after_in<'a>(
    set: &'a BTreeSet<ById>,
    after: Option<&'a str>,
) -> impl Iterator<Item = &'a Arc<IndexedEntry>> + 'a {
    use std::ops::Bound;
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    set.range::<str, _>((from, Bound::Unbounded))
        .map(|entry| &entry.0)
}

/// Everything that the index knows.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeSet<ById>,
    pub(super) by_parent: HashMap<SpiffeId, Group>,
    pub(super) by_spiffe_id: HashMap<SpiffeId, Group>,
    /// Entries that give nodes an alias, by the first of their selectors.
    pub(super) aliases: HashMap<Selector, Group>,
    pub(super) nodes: BTreeMap<SpiffeId, Arc<Versioned<Node>>>,
    pub(super) nodes_by_selector: HashMap<Selector, BTreeSet<SpiffeId>>,
    pub(super) bundles: BTreeMap<TrustDomain, Arc<IndexedBundle>>,
    pub(super) runs: Runs,
    /// Up to which revision of the store all of this holds.
    pub(super) revision: Revision,
    pub(super) history: History,
}

impl State {
    /// Puts an entry in, in place of the one with the same id.
    pub(super) fn put_entry(&mut self, mut entry: IndexedEntry) {
        self.remove_entry(&entry.id);
        if let Some((shared, _)) = self.by_parent.get_key_value(&entry.parent_id) {
            entry.parent_id = shared.clone();
        }
        if let Some((shared, _)) = self.by_spiffe_id.get_key_value(&entry.spiffe_id) {
            entry.spiffe_id = shared.clone();
        }
        let entry = ById(Arc::new(entry));
        insert(&mut self.by_parent, entry.0.parent_id.clone(), entry.clone());
        insert(&mut self.by_spiffe_id, entry.0.spiffe_id.clone(), entry.clone());
        if let Some(first) = alias_key(&entry.0) {
            insert(&mut self.aliases, first.clone(), entry.clone());
        }
        self.entries.insert(entry);
    }

    /// Takes an entry out; that there is none is no error.
    pub(super) fn remove_entry(&mut self, id: &EntryId) {
        let Some(ById(old)) = self.entries.take(id.as_str()) else {
            return;
        };
        remove(&mut self.by_parent, &old.parent_id, id.as_str());
        remove(&mut self.by_spiffe_id, &old.spiffe_id, id.as_str());
        if let Some(first) = alias_key(&old) {
            remove(&mut self.aliases, first, id.as_str());
        }
    }

    /// Puts a node in, in place of the one with the same id.
    pub(super) fn put_node(&mut self, row: Versioned<Node>) {
        self.remove_node(&row.value.id);
        for selector in &row.value.selectors {
            let nodes = self.nodes_by_selector.entry(selector.clone()).or_default();
            nodes.insert(row.value.id.clone());
        }
        self.nodes.insert(row.value.id.clone(), Arc::new(row));
    }

    /// Takes a node out; that there is none is no error.
    pub(super) fn remove_node(&mut self, id: &SpiffeId) {
        let Some(old) = self.nodes.remove(id) else { return };
        for selector in &old.value.selectors {
            let nodes = self.nodes_by_selector.get_mut(selector);
            let left = nodes.is_some_and(|nodes| {
                nodes.remove(id);
                !nodes.is_empty()
            });
            if !left {
                self.nodes_by_selector.remove(selector);
            }
        }
    }
}

/// Whether an entry gives nodes an alias, instead of an identity to processes.
pub(super) fn is_alias(entry: &IndexedEntry) -> bool {
    entry.parent_id.path() == SERVER_PATH
}

fn alias_key(entry: &IndexedEntry) -> Option<&Selector> {
    is_alias(entry).then(|| entry.selectors.first()).flatten()
}

fn insert<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Group>, key: K, entry: ById) {
    match map.entry(key) {
        Place::Occupied(mut place) => place.get_mut().insert(entry),
        Place::Vacant(place) => {
            place.insert(Group::One(entry));
        }
    }
}

fn remove<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Group>, key: &K, id: &str) {
    if map.get_mut(key).is_some_and(|group| group.remove(id)) {
        map.remove(key);
    }
}
