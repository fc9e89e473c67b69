//! Finds the entries whose selectors are a subset of what a process has.
//!
//! Each entry stands under one of its selectors alone, that under which the fewest stood when it came, so that a
//! process whose selectors are mostly common ones (`unix:uid:0`) is compared with few entries. Putting an entry in
//! and taking it out cost the same whatever the number of entries, and a copy shares what does not change.

use std::collections::HashSet;
use std::sync::Arc;

use vouchsafe_attestors::Asked;
use vouchsafe_identity::{Selector, SelectorSet};
use vouchsafe_workload_attestors::ask;

use super::shards::Shards;
use crate::entry::{Entry, EntryId};

/// All entries that this agent may serve.
#[derive(Debug, Clone, Default)]
pub struct EntryIndex {
    by_id: Shards<EntryId, Arc<Entry>>,
    by_selector: Shards<Selector, Vec<Arc<Entry>>>,
    /// What its entries want that is looked for only where somebody wants it.
    asked: Asked,
}

impl EntryIndex {
    /// Builds the index; of entries with the same id the last one counts.
    pub fn new(entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        let mut index = Self::default();
        for entry in entries {
            index.put(entry);
        }
        index
    }

    /// Puts an entry in, instead of the one with the same id, which it gives.
    pub fn put(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let before = self.remove(&entry.id);
        for what in entry.selectors.iter().filter_map(ask) {
            self.asked.add(&what);
        }
        let standing = |selector: &&Selector| self.by_selector.get(*selector).map_or(0, Vec::len);
        if let Some(selector) = entry.selectors.iter().min_by_key(standing) {
            match self.by_selector.get_mut(selector) {
                Some(place) => place.push(Arc::clone(&entry)),
                None => {
                    let place = vec![Arc::clone(&entry)];
                    self.by_selector.insert(selector.clone(), place);
                }
            }
        }
        self.by_id.insert(entry.id.clone(), entry);
        before
    }

    /// Takes an entry out, and gives it.
    pub fn remove(&mut self, id: &EntryId) -> Option<Arc<Entry>> {
        let entry = self.by_id.remove(id)?;
        for what in entry.selectors.iter().filter_map(ask) {
            self.asked.remove(&what);
        }
        for selector in &entry.selectors {
            let at = self
                .by_selector
                .get(selector)
                .and_then(|place| place.iter().position(|one| one.id == *id));
            let Some(at) = at else { continue };
            if let Some(place) = self.by_selector.get_mut(selector) {
                place.swap_remove(at);
                if place.is_empty() {
                    self.by_selector.remove(selector);
                }
            }
            break;
        }
        Some(entry)
    }

    /// The entries whose selectors the process has, all of them, in the order in which the Workload API gives their
    /// SVIDs: the oldest first, among equally old ones by id. An entry without selectors matches nobody.
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        let mut found: Vec<Arc<Entry>> = selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(selector))
            .flatten()
            .filter(|entry| entry.selectors.is_subset(selectors))
            .cloned()
            .collect();
        found.sort_unstable_by(|a, b| a.age().cmp(&b.age()));
        found
    }

    /// The entries whose SVIDs the process gets: those that match and are for the Workload API, and of several with
    /// the same hint only the first (Workload API §5.2: hints are unique).
    pub fn identities(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        let mut hints = HashSet::new();
        let mut matching = self.matching(selectors);
        matching
            .retain(|entry| !entry.store_svid && (entry.hint.is_empty() || hints.insert(entry.hint.clone())));
        matching
    }

    /// The entry with that id.
    pub fn get(&self, id: &EntryId) -> Option<&Arc<Entry>> {
        self.by_id.get(id)
    }

    /// What processes are to be measured for, so that each entry can match.
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.by_id.values()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
