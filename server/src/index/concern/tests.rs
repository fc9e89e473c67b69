//! The agents that are found are those whose entries differ, whatever the registry and the change.

use proptest::prelude::*;

use super::super::authorized::entries_of;
use super::super::tests::{any_entry, entry, id, node, now, selectors, versioned};
use super::*;

const AGENTS: [&str; 3] = ["/spire/agent/x", "/spire/agent/y", "/spire/agent/z"];

/// One change by itself.
fn put(state: &mut State, news: News) -> Vec<Concern> {
    super::put(state, vec![news])
}

fn served(state: &State) -> Vec<Vec<Arc<IndexedEntry>>> {
    AGENTS
        .iter()
        .map(|agent| entries_of(state, &id(agent), now()))
        .collect()
}

fn found(concerns: &[Concern], picks: impl Fn(&What) -> bool) -> HashSet<SpiffeId> {
    let picked = concerns.iter().filter(|concern| picks(&concern.what));
    picked
        .flat_map(|concern| match &concern.who {
            Who::These(agents) => HashSet::clone(agents),
            Who::Anybody => panic!("entries and nodes concern agents by name"),
        })
        .collect()
}

fn differing(before: &[Vec<Arc<IndexedEntry>>], after: &[Vec<Arc<IndexedEntry>>]) -> HashSet<SpiffeId> {
    let changed = AGENTS.iter().zip(before.iter().zip(after));
    changed
        .filter(|(_, (before, after))| before != after)
        .map(|(agent, _)| id(agent))
        .collect()
}

#[test]
fn a_node_that_changes_its_serial_only_looks_at_its_standing() {
    let mut state = State::default();
    let mut row = node("/spire/agent/x", &[1]);
    put(
        &mut state,
        News::Node(row.id.clone(), Some(versioned(row.clone()))),
    );
    row.serial = "02".to_owned();
    let concerns = put(
        &mut state,
        News::Node(row.id.clone(), Some(versioned(row.clone()))),
    );
    assert_eq!(concerns.len(), 1);
    assert_eq!(concerns[0].what, What::Standing);
    let gone = put(&mut state, News::Node(row.id.clone(), None));
    assert_eq!(
        found(&gone, |what| *what == What::Entries),
        HashSet::from([row.id])
    );
    assert!(state.nodes_by_selector.is_empty());
}

#[test]
fn an_alias_that_nothing_hangs_on_concerns_nobody() {
    let mut state = State::default();
    let row = node("/spire/agent/x", &[1]);
    put(&mut state, News::Node(row.id.clone(), Some(versioned(row))));
    let alias = entry("alias", "/spire/server", "/node", &[1]);
    let concerns = put(
        &mut state,
        News::Entry(alias.id.clone(), Some(versioned(alias.clone()))),
    );
    assert_eq!(concerns, []);
    let below = entry("below", "/node", "/a", &[9]);
    put(&mut state, News::Entry(below.id.clone(), Some(versioned(below))));
    let concerns = put(&mut state, News::Entry(alias.id, None));
    assert_eq!(
        concerns,
        [Concern::of(What::Entries, HashSet::from([id("/spire/agent/x")]))]
    );
}

#[test]
fn entries_of_a_batch_with_one_parent_share_whom_they_concern() {
    let mut state = State::default();
    let row = node("/spire/agent/x", &[1]);
    let agent = row.id.clone();
    put(&mut state, News::Node(row.id.clone(), Some(versioned(row))));
    let alias = entry("alias", "/spire/server", "/node", &[1]);
    let batch = [("one", "/a"), ("two", "/b")].map(|(name, spiffe_id)| entry(name, "/node", spiffe_id, &[9]));
    let batch = [vec![alias], batch.to_vec()].concat();
    let news = batch
        .into_iter()
        .map(|entry| News::Entry(entry.id.clone(), Some(versioned(entry))));
    let concerns = super::put(&mut state, news.collect());
    let [one, two] = concerns.as_slice() else {
        panic!("{concerns:?}")
    };
    assert_eq!(found(&concerns, |_| true), HashSet::from([agent]));
    assert!(one.shares_agents(two));
}

proptest! {
    /// That walks are remembered within a batch shows in nothing.
    #[test]
    fn a_batch_concerns_whom_its_changes_concern_one_by_one(
        entries in prop::collection::vec(any_entry(), 0..20),
        nodes_have in prop::collection::vec(prop::collection::vec(0..4u8, 0..4), 3),
        changes in prop::collection::vec((any_entry(), prop::bool::weighted(0.3)), 1..20),
        node_at in 0..20usize,
        node_has in prop::collection::vec(0..4u8, 0..4),
    ) {
        let [mut together, mut singly] = [(); 2].map(|()| {
            let mut state = State::default();
            for (agent, has) in AGENTS.iter().zip(&nodes_have) {
                state.put_node(versioned(node(agent, has)));
            }
            for entry in &entries {
                state.put_entry(entry.clone().into());
            }
            state
        });
        let news = || {
            let changes = changes.iter().map(|(entry, removes)| {
                News::Entry(entry.id.clone(), (!removes).then(|| versioned(entry.clone())))
            });
            let mut news: Vec<_> = changes.collect();
            let node = node(AGENTS[1], &node_has);
            news.insert(node_at.min(news.len()), News::Node(node.id.clone(), Some(versioned(node))));
            news
        };
        let one_by_one: Vec<_> = news().into_iter().flat_map(|item| put(&mut singly, item)).collect();
        prop_assert_eq!(super::put(&mut together, news()), one_by_one);
    }

    #[test]
    fn those_are_found_whose_entries_differ(
        entries in prop::collection::vec(any_entry(), 0..30),
        nodes_have in prop::collection::vec(prop::collection::vec(0..4u8, 0..4), 3),
        changes in prop::collection::vec((any_entry(), prop::bool::weighted(0.3)), 1..10),
        node_change in prop::collection::vec(0..4u8, 0..4),
    ) {
        let mut state = State::default();
        for (agent, has) in AGENTS.iter().zip(&nodes_have) {
            state.put_node(versioned(node(agent, has)));
        }
        for entry in entries {
            state.put_entry(entry.into());
        }
        for (revision, (mut change, removes)) in (1..).zip(changes) {
            change.revision_number = revision;
            let old = state.entries.get(change.id.as_str()).map(|old| Arc::clone(&old.0));
            let all_live = state.entries.iter().all(|entry| entry.0.is_live(now())) && change.expires_at.is_none();
            let alias = change.parent_id.path() == "/spire/server" || old.as_deref().is_some_and(is_alias);
            let before = served(&state);
            let row = (!removes).then(|| versioned(change.clone()));
            let concerns = put(&mut state, News::Entry(change.id.clone(), row));
            let differ = differing(&before, &served(&state));
            let found = found(&concerns, |_| true);
            prop_assert!(differ.is_subset(&found), "{differ:?} differ, {found:?} are found");
            if all_live && !alias {
                prop_assert_eq!(&differ, &found);
            }
            // One that is told of a single entry needs to look at nothing else.
            for concern in &concerns {
                let (What::Entry(id), Who::These(who)) = (&concern.what, &concern.who) else { continue };
                for (agent, (before, after)) in AGENTS.iter().zip(before.iter().zip(&served(&state))) {
                    let others = |set: &[Arc<IndexedEntry>]| {
                        set.iter().filter(|entry| entry.id.as_str() != &**id).cloned().collect::<Vec<_>>()
                    };
                    prop_assert!(!who.contains(&super::super::tests::id(agent)) || others(before) == others(after));
                }
            }
        }
        let before = served(&state);
        let mut changed = node(AGENTS[0], &node_change);
        changed.serial = "02".to_owned();
        let concerns = put(&mut state, News::Node(changed.id.clone(), Some(versioned(changed))));
        let differ = differing(&before, &served(&state));
        prop_assert!(differ.is_subset(&found(&concerns, |what| *what == What::Entries)));
        let same = selectors(&node_change) == selectors(&nodes_have[0]);
        prop_assert_eq!(concerns.len() == 1, same);
    }
}
