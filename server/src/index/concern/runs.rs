//! Whom a change of a class or of a run concerns: the nodes that the class names, now or before, and the run's node.

use std::collections::HashSet;

use vouchsafe_identity::{ClassName, RunId, SpiffeId};
use vouchsafe_store::class::ClassNodes;
use vouchsafe_store::{Class, Run, Versioned};

use super::{Concern, What, Who, with_all_selectors};
use crate::index::state::{State, is_alias};

pub(super) fn put_class(state: &mut State, name: ClassName, row: Option<Versioned<Class>>) -> Vec<Concern> {
    let nodes_before = state.runs.class(&name).map(|class| class.spec.nodes.clone());
    let nodes_after = row.as_ref().map(|row| row.value.spec.nodes.clone());
    state.runs.put_class(&name, row);
    let mut agents = HashSet::new();
    let mut seen = HashSet::new();
    for nodes in [nodes_before, nodes_after].into_iter().flatten() {
        let ClassNodes::These(nodes) = nodes else {
            let (what, who) = (What::Class(name), Who::Anybody);
            return vec![Concern { what, who }];
        };
        for id in nodes {
            if seen.insert(id.clone()) {
                named(state, &id, &mut agents);
            }
        }
    }
    vec![Concern::of(What::Class(name), agents)]
}

/// The nodes that a class means by this id: the agent's own, or an alias's.
fn named(state: &State, id: &SpiffeId, found: &mut HashSet<SpiffeId>) {
    if state.nodes.contains_key(id) {
        found.insert(id.clone());
    }
    let holders = state.by_spiffe_id.get(id).map(|group| group.all());
    for holder in holders.into_iter().flatten() {
        if is_alias(holder) {
            with_all_selectors(state, holder, found);
        } else if state.nodes.contains_key(&holder.parent_id) {
            // An alias that came with a join token.
            found.insert(holder.parent_id.clone());
        }
    }
}

pub(super) fn put_run(state: &mut State, id: RunId, row: Option<Versioned<Run>>) -> Vec<Concern> {
    let before = state.runs.live(&id).map(told);
    let node_before = before.as_ref().map(|told| told.0.clone());
    state.runs.put_run(id, row);
    let after = state.runs.live(&id).map(told);
    // That it was started is the agent's own news.
    if before == after {
        return Vec::new();
    }
    let agents = node_before.into_iter().chain(after.map(|told| told.0));
    vec![Concern::of(What::Run(id), agents.collect::<HashSet<_>>())]
}

/// What its node is told of a run.
fn told(run: &Run) -> (SpiffeId, u64, i64, i64) {
    let (admitted, expires) = (run.admitted_at.unix_timestamp(), run.expires_at.unix_timestamp());
    (run.node.clone(), run.class_version, admitted, expires)
}
