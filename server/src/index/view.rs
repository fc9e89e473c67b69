//! One look at the index: all answers show the same moment.

use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_store::{Node, Revision, Versioned};

use super::authorized;
use super::bundle::IndexedBundle;
use super::entry::IndexedEntry;
use super::history::Missed;
use super::state::State;

/// The index at one moment.
#[derive(Debug)]
pub struct View<'a>(pub(super) &'a State);

impl View<'_> {
    /// Up to which revision of the store everything holds.
    pub fn revision(&self) -> Revision {
        self.0.revision
    }

    /// The revision of the last change that agents may have to hear of.
    pub fn changed(&self) -> Revision {
        self.0.history.last()
    }

    /// One node.
    pub fn node(&self, id: &SpiffeId) -> Option<&Versioned<Node>> {
        self.0.nodes.get(id).map(AsRef::as_ref)
    }

    /// The entries that an agent may serve, in order of id.
    pub fn authorized_entries(&self, agent: &SpiffeId, now: OffsetDateTime) -> Vec<Arc<IndexedEntry>> {
        authorized::entries_of(self.0, agent, now)
    }

    /// One entry, if the agent may serve it.
    pub fn authorized_entry(
        &self,
        agent: &SpiffeId,
        id: &str,
        now: OffsetDateTime,
    ) -> Option<&Arc<IndexedEntry>> {
        let entry = &self.0.entries.get(id)?.0;
        authorized::may_serve(self.0, agent, entry, now).then_some(entry)
    }

    /// When the first of the agent's aliases ends, in Unix seconds.
    pub fn first_alias_end(&self, agent: &SpiffeId, now: OffsetDateTime) -> Option<i64> {
        authorized::first_alias_end(self.0, agent, now)
    }

    /// The bundle of a trust domain.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<&Arc<IndexedBundle>> {
        self.0.bundles.get(trust_domain)
    }

    /// The trust domains of all bundles, in order.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.0.bundles.keys()
    }

    /// What an agent that knew everything up to `after` may have missed; `None` when that is not remembered.
    pub fn missed(&self, agent: &SpiffeId, after: Revision) -> Option<Missed> {
        (after <= self.0.revision)
            .then(|| self.0.history.missed(agent, after))
            .flatten()
    }
}
