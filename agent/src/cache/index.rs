//! Finds the entries whose selectors are a subset of what a process has.
//!
//! Each entry stands under the rarest of its selectors alone, so that a process whose selectors are mostly common
//! ones (`unix:uid:0`) is compared with few entries.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use vouchsafe_identity::{Selector, SelectorSet};

use crate::entry::{Entry, EntryId};

/// All entries that this agent may serve, in the order in which the Workload API gives their SVIDs: the oldest
/// first, among equally old ones by id.
#[derive(Debug, Default)]
pub struct EntryIndex {
    ordered: Vec<Arc<Entry>>,
    by_id: HashMap<EntryId, usize>,
    by_rarest: HashMap<Selector, Vec<usize>>,
}

impl EntryIndex {
    /// Builds the index; of entries with the same id the last one counts.
    pub fn new(entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        let unique: HashMap<EntryId, Arc<Entry>> = entries.into_iter().map(|e| (e.id.clone(), e)).collect();
        let mut ordered: Vec<_> = unique.into_values().collect();
        ordered.sort_unstable_by(|a, b| (a.version.created_at, &a.id).cmp(&(b.version.created_at, &b.id)));
        let mut frequency: HashMap<&Selector, usize> = HashMap::new();
        for selector in ordered.iter().flat_map(|entry| &entry.selectors) {
            *frequency.entry(selector).or_default() += 1;
        }
        let mut by_rarest: HashMap<Selector, Vec<usize>> = HashMap::new();
        for (at, entry) in ordered.iter().enumerate() {
            let rarest = entry
                .selectors
                .iter()
                .min_by_key(|selector| frequency.get(selector).copied().unwrap_or_default());
            if let Some(rarest) = rarest {
                by_rarest.entry(rarest.clone()).or_default().push(at);
            }
        }
        let by_id = ordered
            .iter()
            .enumerate()
            .map(|(at, entry)| (entry.id.clone(), at))
            .collect();
        Self {
            ordered,
            by_id,
            by_rarest,
        }
    }

    /// The entries whose selectors the process has, all of them. An entry without selectors matches nobody.
    pub fn matching(&self, selectors: &SelectorSet) -> Vec<Arc<Entry>> {
        let mut found: Vec<usize> = selectors
            .iter()
            .filter_map(|selector| self.by_rarest.get(selector))
            .flatten()
            .copied()
            .filter(|at| {
                self.ordered
                    .get(*at)
                    .is_some_and(|entry| entry.selectors.is_subset(selectors))
            })
            .collect();
        found.sort_unstable();
        found
            .into_iter()
            .filter_map(|at| self.ordered.get(at).cloned())
            .collect()
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
        self.by_id.get(id).and_then(|at| self.ordered.get(*at))
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.ordered.iter()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }

    /// Whether the other index holds the same entries in the same state.
    pub fn same_as(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self
                .iter()
                .zip(other.iter())
                .all(|(a, b)| Arc::ptr_eq(a, b) || a == b)
    }
}

#[cfg(test)]
mod tests;
