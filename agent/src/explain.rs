//! Which entries a process matches, and which come nearest, from values alone.

use std::cmp::Reverse;
use std::sync::Arc;

use vouchsafe_identity::{Selector, SelectorSet};

use crate::cache::EntryIndex;
use crate::entry::Entry;

/// Most entries that are named as nearest.
pub const MAX_NEAREST: usize = 5;

/// Type of the selector by which an entry gives a node an alias.
const ALIAS_SELECTOR: &str = "spiffe_id";

/// An entry that a process does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Near {
    /// The entry.
    pub entry: Arc<Entry>,
    /// What the process lacks; never empty.
    pub missing: Vec<Selector>,
    /// What it has of the entry's selectors.
    pub present: Vec<Selector>,
}

/// The entries that the process misses by the fewest selectors; among equal ones those of which it has most, then in
/// the entries' order.
pub fn nearest(entries: &EntryIndex, selectors: &SelectorSet) -> Vec<Near> {
    let mut near: Vec<Near> = entries
        .iter()
        .filter(|entry| !entry.selectors.is_subset(selectors) && !is_alias(entry))
        .map(|entry| {
            let (present, missing) = entry
                .selectors
                .iter()
                .cloned()
                .partition(|selector| selectors.contains(selector));
            Near {
                entry: Arc::clone(entry),
                missing,
                present,
            }
        })
        .collect();
    let distance = |near: &Near| (near.missing.len(), Reverse(near.present.len()));
    near.sort_unstable_by(|a, b| {
        distance(a)
            .cmp(&distance(b))
            .then_with(|| a.entry.age().cmp(&b.entry.age()))
    });
    near.truncate(MAX_NEAREST);
    near
}

/// Whether an entry names a node: no process ever has such a selector.
fn is_alias(entry: &Entry) -> bool {
    entry
        .selectors
        .iter()
        .any(|selector| selector.kind() == ALIAS_SELECTOR)
}

/// Why a process gets no identity, for itself: nothing of other processes and of entries.
pub fn reason(entries: usize, selectors: usize) -> String {
    match entries {
        0 => "the agent has no registration entries: create one whose parent is this node".to_owned(),
        _ => format!(
            "no registration entry matches the {selectors} selectors of this process: `vouchsafe explain PID`, run by the \
             operator of this node, shows what it lacks"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{entry, selectors};

    #[test]
    fn fewest_missing_come_first_and_matching_ones_not_at_all() {
        let index = EntryIndex::new([
            entry("a-far", &["unix:uid:2", "unix:gid:2"]),
            entry("b-near", &["unix:uid:1", "unix:gid:2"]),
            entry("c-nearer", &["unix:uid:1", "unix:user:one", "unix:gid:2"]),
            entry("d-match", &["unix:uid:1"]),
        ]);
        let found = nearest(&index, &selectors(&["unix:uid:1", "unix:user:one"]));
        let ids: Vec<_> = found.iter().map(|near| near.entry.id.to_string()).collect();
        assert_eq!(ids, ["c-nearer", "b-near", "a-far"]);
        assert_eq!(found[0].missing, [Selector::new("unix", "gid:2").unwrap()]);
        assert_eq!(found[0].present.len(), 2);
    }

    #[test]
    fn aliases_of_nodes_are_not_near_to_any_process() {
        let index = EntryIndex::new([entry("alias", &["spiffe_id:spiffe://example.org/spire/agent/x"])]);
        assert!(nearest(&index, &SelectorSet::new()).is_empty());
    }

    #[test]
    fn at_most_five_are_named() {
        let index = EntryIndex::new((0..9).map(|n| entry(&format!("e{n}"), &["unix:uid:1"])));
        assert_eq!(nearest(&index, &SelectorSet::new()).len(), MAX_NEAREST);
    }
}
