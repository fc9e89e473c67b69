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
    // Found by whichever the index has it under, it lacks the other.
    for one in ["unix:uid:1", "unix:gid:1"] {
        assert!(index.matching(&selectors(&[one])).is_empty(), "{one}");
    }
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

proptest! {
    #[test]
    fn an_index_that_changed_step_by_step_answers_as_one_built_at_once(
        steps in proptest::collection::vec((0_u8..12, proptest::option::of(some_selectors())), 0..60),
        process in some_selectors(),
    ) {
        let mut index = EntryIndex::default();
        let mut plain = std::collections::BTreeMap::new();
        for (n, selectors) in steps {
            let id = format!("e{n:03}");
            let before = match selectors {
                Some(selectors) => {
                    let entry = Arc::new(Entry { selectors, ..Entry::clone(&entry(&id, &[])) });
                    plain.insert(id, Arc::clone(&entry));
                    index.put(entry)
                }
                None => {
                    plain.remove(&id);
                    index.remove(&id.as_str().into())
                }
            };
            if let Some(before) = before {
                prop_assert!(!index.iter().any(|entry| Arc::ptr_eq(entry, &before)));
            }
        }
        let rebuilt = EntryIndex::new(plain.into_values());
        prop_assert_eq!(index.len(), rebuilt.len());
        prop_assert_eq!(index.matching(&process), rebuilt.matching(&process));
        for entry in rebuilt.iter() {
            index.remove(&entry.id);
        }
        prop_assert!(index.is_empty());
        prop_assert_eq!(index.by_selector.len(), 0, "nothing is left behind");
    }
}

/// The next state of a large set must cost little while readers hold the last one.
#[test]
fn a_change_among_100_000_entries_copies_little() {
    let mut index = EntryIndex::new((0..100_000).map(|n| {
        let path = format!("unix:path:/bin/{n}");
        entry(&format!("e{n}"), &["unix:uid:0", &path])
    }));
    let rounds = 200;
    let mut held = index.clone();
    let start = tokio::time::Instant::now();
    for n in 0..rounds {
        let mut next = index.clone();
        next.put(entry(&format!("e{n}"), &["unix:uid:0", "unix:path:/bin/other"]));
        held = std::mem::replace(&mut index, next);
    }
    let each = start.elapsed() / rounds;
    assert_eq!((held.len(), index.len()), (100_000, 100_000));
    println!("one change among 100,000 entries: {each:?}");
    assert!(each < std::time::Duration::from_millis(5), "{each:?}");
    let process = selectors(&["unix:uid:0", "unix:path:/bin/700"]);
    assert_eq!(index.matching(&process).len(), 1);
}

#[test]
fn what_entries_ask_for_comes_and_goes_with_them() {
    let mut index = EntryIndex::default();
    assert!(index.asked().is_empty());
    index.put(entry("a", &["unix:uid:1", "process:script:/a"]));
    assert!(index.asked().is_empty());
    index.put(entry(
        "a",
        &["unix:uid:1", "process:venv:/v", "process:package:Foo_x==1"],
    ));
    index.put(entry("b", &["process:venv:/w"]));
    assert!(index.asked().has("process:venv") && index.asked().has("process:package:foo-x"));
    index.put(entry("a", &["unix:uid:1"]));
    assert!(index.asked().has("process:venv") && !index.asked().has("process:package:foo-x"));
    index.remove(&"b".into());
    assert!(index.asked().is_empty());
}
