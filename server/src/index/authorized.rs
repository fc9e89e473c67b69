//! Which entries an agent may serve (SPIRE's rule): children of the agent's id and of its aliases,
//! and theirs in turn, by SPIFFE ID.
//!
//! `entries_of` walks down from the agent; `may_serve` walks up from one entry, so that issuing a
//! single SVID costs no crawl. Both visit each SPIFFE ID once, so that cycles end.

use std::collections::HashSet;
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_identity::SpiffeId;

use super::entry::IndexedEntry;
use super::state::{Group, State};

/// All live entries that the agent may serve, in order of id.
pub(super) fn entries_of(state: &State, agent: &SpiffeId, now: OffsetDateTime) -> Vec<Arc<IndexedEntry>> {
    let mut to_visit: Vec<&SpiffeId> = aliases_of(state, agent, now).collect();
    to_visit.push(agent);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    while let Some(parent) = to_visit.pop() {
        if !seen.insert(parent) {
            continue;
        }
        let children = state.by_parent.get(parent).map(|group| group.all());
        for child in children.into_iter().flatten().filter(|entry| entry.is_live(now)) {
            found.push(Arc::clone(child));
            to_visit.push(&child.spiffe_id);
        }
    }
    found.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    found
}

/// Whether `entry` is among [`entries_of`] the agent.
pub(super) fn may_serve(
    state: &State,
    agent: &SpiffeId,
    entry: &Arc<IndexedEntry>,
    now: OffsetDateTime,
) -> bool {
    if !entry.is_live(now) {
        return false;
    }
    let roots = || std::iter::once(agent).chain(aliases_of(state, agent, now));
    // Most entries hang there, and nothing need be gathered for them.
    if roots().any(|root| *root == entry.parent_id) {
        return true;
    }
    let roots: HashSet<&SpiffeId> = roots().collect();
    let mut seen = HashSet::new();
    let mut to_visit = vec![&entry.parent_id];
    while let Some(parent) = to_visit.pop() {
        if roots.contains(parent) {
            return true;
        }
        if !seen.insert(parent) {
            continue;
        }
        let holders = state.by_spiffe_id.get(parent);
        if holders.is_some_and(|holders| holds_by_root(state, &roots, (parent, holders), now)) {
            return true;
        }
        let holders = holders.map(|group| group.all());
        let live = holders.into_iter().flatten().filter(|entry| entry.is_live(now));
        to_visit.extend(live.map(|entry| &entry.parent_id));
    }
    false
}

/// Whether an entry directly below a root gives this id, where that is quicker to see than from the holders of
/// the id: an id that many agents share, such as the alias of a token, has as many holders.
fn holds_by_root(
    state: &State,
    roots: &HashSet<&SpiffeId>,
    (id, holders): (&SpiffeId, &Group),
    now: OffsetDateTime,
) -> bool {
    let below = roots.iter().filter_map(|root| state.by_parent.get(*root));
    below
        .filter(|below| below.len() < holders.len())
        .flat_map(|below| below.all())
        .any(|entry| entry.spiffe_id == *id && entry.is_live(now))
}

/// When the first of the agent's aliases ends, in Unix seconds.
pub(super) fn first_alias_end(state: &State, agent: &SpiffeId, now: OffsetDateTime) -> Option<i64> {
    let ends = alias_entries_of(state, agent, now).filter_map(|alias| alias.expires_at);
    ends.min().map(i64::from)
}

/// SPIFFE IDs of the agent's aliases.
pub(super) fn aliases_of<'a>(
    state: &'a State,
    agent: &SpiffeId,
    now: OffsetDateTime,
) -> impl Iterator<Item = &'a SpiffeId> {
    alias_entries_of(state, agent, now).map(|alias| &alias.spiffe_id)
}

/// The live alias entries whose selectors the node has, all of them.
fn alias_entries_of<'a>(
    state: &'a State,
    agent: &SpiffeId,
    now: OffsetDateTime,
) -> impl Iterator<Item = &'a Arc<IndexedEntry>> {
    let node = state.nodes.get(agent);
    node.into_iter().flat_map(move |node| {
        let has = &node.value.selectors;
        has.iter()
            .filter_map(|selector| state.aliases.get(selector))
            .flat_map(|group| group.all())
            .filter(move |alias| alias.is_live(now) && alias.selectors.iter().all(|s| has.contains(s)))
    })
}
