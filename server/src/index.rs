//! The server's registry in memory: entries, nodes and bundles, kept current by the store's change log.
//!
//! Calls of agents are answered from here alone; no store is read on their path. Whoever commits
//! waits with [`Index::wait_for`], so that nobody misses a write of their own.

mod authorized;
mod bundle;
mod concern;
mod entry;
mod feed;
mod filter;
mod followers;
mod history;
mod runs;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use time::OffsetDateTime;
use tokio::sync::watch;
use vouchsafe_identity::SpiffeId;
use vouchsafe_store::{EntryId, Node, Revision, SharedStore, StoreError, Versioned};

pub use bundle::IndexedBundle;
pub use entry::IndexedEntry;
pub use feed::FeedError;
pub use filter::{EntryFilter, NodeFilter, Relation};
use followers::Followers;
pub use followers::{Following, MAX_PENDING, Pending};
pub use history::Missed;
pub use runs::{LiveRun, Number, Revoked, RunFilter, spiffe_id_of};
use state::State;
pub use view::View;

/// What entries make of a SPIFFE ID beyond being a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Privileges {
    /// A live entry with this id is marked admin.
    pub admin: bool,
    /// A live entry with this id is marked downstream.
    pub downstream: bool,
}

/// Part of a list, and where the next part begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows, in order of id.
    pub rows: Vec<T>,
    /// Whether more rows follow the last one.
    pub more: bool,
}

/// Entries and nodes in memory.
#[derive(Debug)]
pub struct Index {
    state: RwLock<State>,
    followers: Followers,
    applied: watch::Sender<Revision>,
}

impl Index {
    /// Reads the store whole; [`Index::follow`] must run from then on.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn load(store: &SharedStore) -> Result<Arc<Self>, StoreError> {
        let at = *store.revisions().borrow();
        let state = feed::load(store, at).await?;
        Ok(Arc::new(Self::showing(state)))
    }

    fn showing(state: State) -> Self {
        let (applied, _) = watch::channel(state.revision);
        Self {
            state: RwLock::new(state),
            followers: Followers::default(),
            applied,
        }
    }

    /// Follows the store's change log; returns only when it can no longer.
    ///
    /// # Errors
    /// [`FeedError`] when the store cannot be read or has been closed.
    pub async fn follow(self: Arc<Self>, store: SharedStore) -> Result<(), FeedError> {
        feed::follow(&self, &store).await
    }

    /// The latest revision that the index shows.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Waits until the index shows a revision.
    pub async fn wait_for(&self, revision: Revision) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as `self`.
        let _shown = applied.wait_for(|shown| *shown >= revision).await;
    }

    /// Lets an agent follow what concerns it, and takes a first look at the same moment. The stream by which
    /// it followed before learns that it was replaced.
    pub fn join<T>(self: &Arc<Self>, agent: &SpiffeId, look: impl FnOnce(&View<'_>) -> T) -> (Following, T) {
        Following::join(self, agent, look)
    }

    /// How many agents follow.
    pub fn followers(&self) -> usize {
        self.followers.count()
    }

    /// One entry.
    pub fn entry(&self, id: &EntryId) -> Option<Arc<IndexedEntry>> {
        self.read()
            .entries
            .get(id.as_str())
            .map(|entry| Arc::clone(&entry.0))
    }

    /// One node, with the revision at which it was last written.
    pub fn node(&self, id: &SpiffeId) -> Option<Arc<Versioned<Node>>> {
        self.read().nodes.get(id).cloned()
    }

    /// The entries that an agent may serve, in order of id.
    pub fn authorized_entries(&self, agent: &SpiffeId, now: OffsetDateTime) -> Vec<Arc<IndexedEntry>> {
        authorized::entries_of(&self.read(), agent, now)
    }

    /// One entry, if the agent may serve it.
    pub fn authorized_entry(
        &self,
        agent: &SpiffeId,
        id: &EntryId,
        now: OffsetDateTime,
    ) -> Option<Arc<IndexedEntry>> {
        let state = self.read();
        let entry = &state.entries.get(id.as_str())?.0;
        authorized::may_serve(&state, agent, entry, now).then(|| Arc::clone(entry))
    }

    /// What live entries make of a SPIFFE ID.
    pub fn privileges(&self, id: &SpiffeId, now: OffsetDateTime) -> Privileges {
        let state = self.read();
        let holders = state.by_spiffe_id.get(id).map(|group| group.all());
        let live = holders.into_iter().flatten().filter(|entry| entry.is_live(now));
        live.fold(Privileges::default(), |sum, entry| Privileges {
            admin: sum.admin || entry.admin,
            downstream: sum.downstream || entry.downstream,
        })
    }

    /// Entries that the filter picks, after an id, at most `limit`.
    pub fn entries(
        &self,
        filter: &EntryFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Page<Arc<IndexedEntry>> {
        let state = self.read();
        let picked = candidates(&state, filter, after).filter(|entry| filter.picks(entry));
        page(picked.cloned(), limit)
    }

    /// How many entries and nodes there are.
    pub fn sizes(&self) -> (usize, usize) {
        let state = self.read();
        (state.entries.len(), state.nodes.len())
    }

    /// How many entries the filter picks.
    pub fn count_entries(&self, filter: &EntryFilter) -> usize {
        let state = self.read();
        candidates(&state, filter, None)
            .filter(|entry| filter.picks(entry))
            .count()
    }

    /// Nodes that the filter picks, after an id, at most `limit`.
    pub fn nodes(
        &self,
        filter: &NodeFilter,
        after: Option<&SpiffeId>,
        limit: usize,
    ) -> Page<Arc<Versioned<Node>>> {
        let state = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = state.nodes.range::<SpiffeId, _>((from, Bound::Unbounded));
        page(
            rows.map(|(_, node)| node)
                .filter(|node| filter.picks(&node.value))
                .cloned(),
            limit,
        )
    }

    /// How many nodes the filter picks.
    pub fn count_nodes(&self, filter: &NodeFilter) -> usize {
        let state = self.read();
        state
            .nodes
            .values()
            .filter(|node| filter.picks(&node.value))
            .count()
    }

    /// Ids of entries that have ended, at most `limit`.
    pub fn ended_entries(&self, now: OffsetDateTime, limit: usize) -> Vec<EntryId> {
        let state = self.read();
        let ended = state.entries.iter().filter(|entry| !entry.0.is_live(now));
        ended.take(limit).map(|entry| entry.0.id.clone()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what keys hold since `upto`, and has those agents look that it concerns.
    fn apply(&self, upto: Revision, news: Vec<feed::News>) {
        let mut state = self.write();
        let concerns = concern::put(&mut state, news);
        for concern in &concerns {
            state.history.add(upto, concern);
        }
        state.revision = upto;
        let woken = self.followers.mark(&concerns);
        drop(state);
        woken.wake();
        self.show(upto);
    }

    fn replace(&self, new: State) {
        let upto = new.revision;
        let mut state = self.write();
        *state = new;
        let woken = self.followers.mark_all();
        drop(state);
        woken.wake();
        self.show(upto);
    }

    /// Nothing that the index shows has changed up to `upto`.
    fn advance(&self, upto: Revision) {
        let mut state = self.write();
        state.revision = state.revision.max(upto);
        drop(state);
        self.show(upto);
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait for a revision.
    fn show(&self, upto: Revision) {
        self.applied.send_if_modified(|applied| {
            let grows = upto > *applied;
            *applied = upto.max(*applied);
            grows
        });
    }
}

/// The smallest group of entries that holds all that the filter picks.
fn candidates<'a>(
    state: &'a State,
    filter: &EntryFilter,
    after: Option<&'a str>,
) -> Box<dyn Iterator<Item = &'a Arc<IndexedEntry>> + 'a> {
    let group = match (&filter.spiffe_id, &filter.parent_id) {
        (Some(id), _) => state.by_spiffe_id.get(id),
        (None, Some(id)) => state.by_parent.get(id),
        (None, None) => return Box::new(state::after_in(&state.entries, after)),
    };
    match group {
        Some(group) => group.after(after),
        None => Box::new(std::iter::empty()),
    }
}

fn page<T>(mut rows: impl Iterator<Item = T>, limit: usize) -> Page<T> {
    let taken: Vec<T> = rows.by_ref().take(limit).collect();
    Page {
        more: rows.next().is_some(),
        rows: taken,
    }
}
