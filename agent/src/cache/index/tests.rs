//! The index answers as comparing with every entry would.

use proptest::prelude::*;

use super::*;
use crate::testing::{entry, selectors};

#[test]
fn an_entry_without_selectors_matches_nobody() {
    let index = EntryIndex::new([entry("free", &[])]);
    assert!(index.matching(&selectors(&["unix:uid:0"])).is_empty());
    assert!(index.matching(&SelectorSet::new()).is_empty());
}

#[test]
fn a_process_that_lacks_one_selector_does_not_match() {
    let index = EntryIndex::new([entry("both", &["unix:uid:1", "unix:gid:1"])]);
    assert!(index.matching(&selectors(&["unix:uid:1"])).is_empty());
    assert_eq!(
        index
            .matching(&selectors(&["unix:uid:1", "unix:gid:1", "unix:gid:2"]))
            .len(),
        1
    );
}

#[test]
fn svids_come_oldest_first_then_by_id() {
    let aged = |id: &str, created_at| {
        let mut entry = Entry::clone(&entry(id, &["unix:uid:1"]));
        entry.version.created_at = created_at;
        Arc::new(entry)
    };
    let index = EntryIndex::new([aged("c", 7), aged("b", 7), aged("z", 3)]);
    let ids: Vec<_> = index
        .identities(&selectors(&["unix:uid:1"]))
        .iter()
        .map(|e| e.id.to_string())
        .collect();
    assert_eq!(ids, ["z", "b", "c"]);
}

#[test]
fn of_two_equal_hints_only_the_oldest_is_given() {
    let hinted = |id: &str, created_at, hint: &str| {
        let mut entry = Entry::clone(&entry(id, &["unix:uid:1"]));
        entry.version.created_at = created_at;
        entry.hint = hint.to_owned();
        Arc::new(entry)
    };
    let index = EntryIndex::new([
        hinted("young", 9, "db"),
        hinted("old", 1, "db"),
        hinted("plain", 2, ""),
        hinted("other", 3, ""),
    ]);
    let ids: Vec<_> = index
        .identities(&selectors(&["unix:uid:1"]))
        .iter()
        .map(|e| e.id.to_string())
        .collect();
    assert_eq!(ids, ["old", "plain", "other"]);
}

#[test]
fn an_entry_for_a_store_of_secrets_is_not_served() {
    let mut stored = Entry::clone(&entry("stored", &["unix:uid:1"]));
    stored.store_svid = true;
    let index = EntryIndex::new([Arc::new(stored)]);
    assert!(index.identities(&selectors(&["unix:uid:1"])).is_empty());
}

fn some_selectors() -> impl Strategy<Value = SelectorSet> {
    proptest::collection::btree_set("[ab]:[cde]", 0..6)
        .prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

proptest! {
    #[test]
    fn matching_equals_the_naive_subset(
        sets in proptest::collection::vec(some_selectors(), 0..30),
        process in some_selectors(),
    ) {
        let entries: Vec<Arc<Entry>> = sets
            .into_iter()
            .enumerate()
            .map(|(n, selectors)| {
                let plain = entry(&format!("e{n:03}"), &[]);
                Arc::new(Entry { selectors, ..Entry::clone(&plain) })
            })
            .collect();
        let index = EntryIndex::new(entries.clone());
        let found: Vec<_> = index.matching(&process).iter().map(|e| e.id.clone()).collect();
        let naive: Vec<_> = entries
            .iter()
            .filter(|e| !e.selectors.is_empty() && e.selectors.is_subset(&process))
            .map(|e| e.id.clone())
            .collect();
        prop_assert_eq!(found, naive);
    }
}
