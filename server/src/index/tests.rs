//! The index answers as the plain rule does, whatever was put in and taken out.

use std::collections::BTreeSet;

use proptest::prelude::*;
use time::OffsetDateTime;
use vouchsafe_identity::{Selector, SelectorSet, TrustDomain};
use vouchsafe_store::Entry;

use super::feed::News;
use super::*;

const NOW: i64 = 1_800_000_000;

pub(super) fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW).unwrap()
}

pub(super) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&format!("spiffe://example.org{path}")).unwrap()
}

pub(super) fn selectors(numbers: &[u8]) -> SelectorSet {
    numbers
        .iter()
        .map(|n| Selector::new("t", &n.to_string()).unwrap())
        .collect()
}

pub(super) fn entry(name: &str, parent: &str, spiffe_id: &str, has: &[u8]) -> Entry {
    Entry::new(
        EntryId::new(name).unwrap(),
        id(spiffe_id),
        id(parent),
        selectors(has),
        now(),
    )
}

pub(super) fn node(path: &str, has: &[u8]) -> Node {
    Node {
        id: id(path),
        attestation_type: "join_token".to_owned(),
        serial: "01".to_owned(),
        expires_at: now(),
        next_serial: None,
        next_expires_at: None,
        handed_out_before: Vec::new(),
        selectors: selectors(has),
        banned: false,
        can_reattest: false,
        agent_version: String::new(),
    }
}

pub(super) fn versioned<T>(value: T) -> Versioned<T> {
    let revision = Revision(1);
    Versioned { value, revision }
}

fn index(entries: &[Entry], nodes: &[Node]) -> Index {
    let mut state = State::default();
    for entry in entries {
        state.put_entry(entry.clone().into());
    }
    for node in nodes {
        state.put_node(versioned(node.clone()));
    }
    Index::showing(state)
}

fn names(entries: &[Arc<IndexedEntry>]) -> Vec<String> {
    entries.iter().map(|entry| entry.id.to_string()).collect()
}

#[test]
fn an_agent_that_is_not_known_gets_only_its_own_children() {
    let index = index(
        &[
            entry("alias", "/spire/server", "/node", &[1]),
            entry("below-alias", "/node", "/a", &[9]),
            entry("own", "/spire/agent/x", "/b", &[9]),
        ],
        &[],
    );
    assert_eq!(
        names(&index.authorized_entries(&id("/spire/agent/x"), now())),
        ["own"]
    );
}

#[test]
fn an_alias_needs_all_of_its_selectors_and_is_itself_not_served() {
    let index = index(
        &[
            entry("alias-1", "/spire/server", "/node/one", &[1, 2]),
            entry("alias-2", "/spire/server", "/node/two", &[1, 3]),
            entry("one", "/node/one", "/a", &[9]),
            entry("two", "/node/two", "/b", &[9]),
        ],
        &[node("/spire/agent/x", &[1, 2])],
    );
    assert_eq!(
        names(&index.authorized_entries(&id("/spire/agent/x"), now())),
        ["one"]
    );
}

#[test]
fn cycles_of_parents_end() {
    let index = index(
        &[
            entry("1", "/spire/agent/x", "/a", &[1]),
            entry("2", "/a", "/b", &[1]),
            entry("3", "/b", "/a", &[1]),
            entry("4", "/b", "/b", &[1]),
        ],
        &[node("/spire/agent/x", &[])],
    );
    let agent = id("/spire/agent/x");
    assert_eq!(
        names(&index.authorized_entries(&agent, now())),
        ["1", "2", "3", "4"]
    );
    for name in ["1", "2", "3", "4"] {
        let asked = EntryId::new(name).unwrap();
        assert!(index.authorized_entry(&agent, &asked, now()).is_some());
        assert!(
            index
                .authorized_entry(&id("/spire/agent/y"), &asked, now())
                .is_none()
        );
    }
}

#[test]
fn an_ended_entry_gives_nothing_and_cuts_off_what_hangs_below() {
    let mut ended = entry("mid", "/spire/agent/x", "/mid", &[1]);
    ended.expires_at = Some(now());
    ended.admin = true;
    let index = index(&[ended, entry("leaf", "/mid", "/leaf", &[1])], &[]);
    let agent = id("/spire/agent/x");
    assert!(index.authorized_entries(&agent, now()).is_empty());
    let leaf = EntryId::new("leaf").unwrap();
    assert!(index.authorized_entry(&agent, &leaf, now()).is_none());
    assert!(!index.privileges(&id("/mid"), now()).admin);
    assert_eq!(index.ended_entries(now(), 10), [EntryId::new("mid").unwrap()]);
}

#[test]
fn pages_cover_everything_once() {
    let entries: Vec<Entry> = (0..25)
        .map(|n| entry(&format!("e{n:02}"), "/p", "/s", &[n]))
        .collect();
    let index = index(&entries, &[]);
    for filter in [
        EntryFilter::default(),
        EntryFilter {
            parent_id: Some(id("/p")),
            ..EntryFilter::default()
        },
    ] {
        let (mut seen, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = index.entries(&filter, after.as_deref(), 10);
            seen.extend(names(&page.rows));
            if !page.more {
                break;
            }
            after = seen.last().cloned();
        }
        assert_eq!(seen.len(), 25);
        assert!(seen.is_sorted());
    }
}

/// What SPIRE's rule says, written down as a fixpoint over all entries.
fn naive(entries: &[Entry], nodes: &[Node], agent: &SpiffeId) -> Vec<String> {
    let live: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.expires_at.is_none_or(|end| end > now()))
        .collect();
    let mut parents: BTreeSet<SpiffeId> = BTreeSet::from([agent.clone()]);
    if let Some(node) = nodes.iter().find(|node| node.id == *agent) {
        let aliases = live.iter().filter(|entry| {
            entry.parent_id == id("/spire/server") && entry.selectors.is_subset(&node.selectors)
        });
        parents.extend(aliases.map(|entry| entry.spiffe_id.clone()));
    }
    loop {
        let more: BTreeSet<SpiffeId> = live
            .iter()
            .filter(|entry| parents.contains(&entry.parent_id))
            .map(|entry| entry.spiffe_id.clone())
            .collect();
        if more.is_subset(&parents) {
            break;
        }
        parents.extend(more);
    }
    let mut found: Vec<String> = live
        .iter()
        .filter(|entry| parents.contains(&entry.parent_id))
        .map(|entry| entry.id.to_string())
        .collect();
    found.sort();
    found
}

fn related(row: &BTreeSet<String>, asked: &BTreeSet<String>, relation: Relation) -> bool {
    match relation {
        Relation::Exact => row == asked,
        Relation::Subset => !row.is_empty() && row.is_subset(asked),
        Relation::Superset => row.is_superset(asked),
        Relation::Any => !row.is_disjoint(asked),
    }
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

prop_compose! {
    pub(super) fn any_entry()(
        name in 0..12u8,
        parent in prop::sample::select(vec!["/spire/server", "/spire/agent/x", "/spire/agent/y", "/a", "/b", "/c"]),
        spiffe_id in prop::sample::select(vec!["/a", "/b", "/c", "/d"]),
        has in prop::collection::vec(0..4u8, 1..3),
        federates in prop::collection::vec(prop::sample::select(vec!["a.test", "b.test", "c.test"]), 0..3),
        ended in prop::bool::weighted(0.2),
        downstream: bool,
        hint in prop::sample::select(vec!["", "h"]),
    ) -> Entry {
        let mut made = entry(&format!("e{name}"), parent, spiffe_id, &has);
        let domains: BTreeSet<&str> = federates.into_iter().collect();
        made.federates_with = domains.into_iter().map(|td| TrustDomain::new(td).unwrap()).collect();
        made.expires_at = ended.then(|| now() - time::Duration::seconds(1));
        made.downstream = downstream;
        made.hint = hint.to_owned();
        made
    }
}

fn any_relation() -> impl Strategy<Value = Relation> {
    prop::sample::select(vec![
        Relation::Exact,
        Relation::Subset,
        Relation::Superset,
        Relation::Any,
    ])
}

proptest! {
    /// After any series of puts and removals, the index answers as a plain walk over the entries does.
    #[test]
    fn answers_as_the_plain_rule_does(
        steps in prop::collection::vec((any_entry(), prop::bool::weighted(0.2)), 0..40),
        node_has in prop::collection::vec(0..4u8, 0..4),
        asked in prop::collection::btree_set(0..4u8, 1..3),
        asked_domains in prop::collection::btree_set(prop::sample::select(vec!["a.test", "b.test", "c.test"]), 1..3),
        relation in any_relation(),
        parent in prop::option::of(prop::sample::select(vec!["/a", "/spire/server"])),
        spiffe_id in prop::option::of(prop::sample::select(vec!["/a", "/z"])),
    ) {
        let mut kept: Vec<Entry> = Vec::new();
        let nodes = [node("/spire/agent/x", &node_has)];
        let index = index(&[], &nodes);
        for (step, removes) in steps {
            kept.retain(|entry| entry.id != step.id);
            let row = (!removes).then(|| versioned(step.clone()));
            index.apply(Revision(1), vec![News::Entry(step.id.clone(), row)]);
            if !removes {
                kept.push(step);
            }
        }
        for agent in ["/spire/agent/x", "/spire/agent/y", "/spire/agent/unknown"].map(id) {
            let expected = naive(&kept, &nodes, &agent);
            prop_assert_eq!(&names(&index.authorized_entries(&agent, now())), &expected);
            for entry in &kept {
                let served = index.authorized_entry(&agent, &entry.id, now()).is_some();
                prop_assert_eq!(served, expected.contains(&entry.id.to_string()));
            }
        }
        let asked: Vec<u8> = asked.into_iter().collect();
        let filter = EntryFilter {
            spiffe_id: spiffe_id.map(id),
            parent_id: parent.map(id),
            selectors: Some((selectors(&asked), relation)),
            federates_with: Some((asked_domains.iter().map(|td| TrustDomain::new(td).unwrap()).collect(), relation)),
            hint: Some(String::new()),
            downstream: Some(false),
        };
        let mut expected: Vec<String> = kept
            .iter()
            .filter(|entry| spiffe_id.is_none_or(|asked| entry.spiffe_id == id(asked)))
            .filter(|entry| parent.is_none_or(|asked| entry.parent_id == id(asked)))
            .filter(|entry| related(&texts(&entry.selectors), &texts(selectors(&asked)), relation))
            .filter(|entry| related(&texts(&entry.federates_with), &texts(&asked_domains), relation))
            .filter(|entry| entry.hint.is_empty() && !entry.downstream)
            .map(|entry| entry.id.to_string())
            .collect();
        expected.sort();
        prop_assert_eq!(names(&index.entries(&filter, None, usize::MAX).rows), expected.clone());
        prop_assert_eq!(index.count_entries(&filter), expected.len());
    }
}
