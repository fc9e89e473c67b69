//! Keeps the index current: loads everything once, then follows the store's change log in order.

use std::collections::HashSet;

use vouchsafe_identity::{Bundle, SpiffeId, TrustDomain};
use vouchsafe_store::{ChangeKind, Entry, EntryId, Node, Revision, SharedStore, StoreError, Versioned};

use super::Index;
use super::bundle::IndexedBundle;
use super::history::{History, MAX_CHANGES};
use super::state::State;

/// Rows read from the store at a time.
const PAGE_ROWS: usize = 1024;

/// Why the index can no longer follow the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The store could not be read.
    #[error("the index cannot read the store")]
    Store(#[from] StoreError),
    /// The store was dropped.
    #[error("the store has been closed")]
    Closed,
}

/// What a changed key holds now.
#[derive(Debug)]
pub(super) enum News {
    Entry(EntryId, Option<Versioned<Entry>>),
    Node(SpiffeId, Option<Versioned<Node>>),
    Bundle(TrustDomain, Option<Versioned<Bundle>>),
}

/// Reads every entry, node and bundle. What changes after revision `at` is read again by the feed.
pub(super) async fn load(store: &SharedStore, at: Revision) -> Result<State, StoreError> {
    let mut state = State {
        revision: at,
        history: history(store, at).await?,
        ..State::default()
    };
    let mut after = None;
    loop {
        let page = store.entries(after.as_ref(), PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.value.id.clone());
        page.into_iter().for_each(|row| state.put_entry(row.value.into()));
    }
    let mut after = None;
    loop {
        let page = store.nodes(after.as_ref(), PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.value.id.clone());
        page.into_iter().for_each(|row| state.put_node(row));
    }
    for row in store.bundles().await? {
        let bundle = IndexedBundle::from(row.value);
        state
            .bundles
            .insert(bundle.bundle.trust_domain.clone(), bundle.into());
    }
    Ok(state)
}

/// The last changes up to revision `at`, as far as the store remembers them.
async fn history(store: &SharedStore, at: Revision) -> Result<History, StoreError> {
    let revisions = u64::try_from(MAX_CHANGES).unwrap_or(u64::MAX);
    let floor = Revision(at.0.saturating_sub(revisions));
    let Some(changes) = store.changes(floor, usize::MAX).await? else {
        return Ok(History::from(at));
    };
    let mut history = History::from(floor);
    let upto = changes.into_iter().take_while(|change| change.revision <= at);
    upto.for_each(|change| history.add_stored(change));
    Ok(history)
}

/// Follows the change log for ever.
pub(super) async fn follow(index: &Index, store: &SharedStore) -> Result<(), FeedError> {
    let mut news = store.revisions();
    loop {
        let target = *news.borrow_and_update();
        if target > index.applied() {
            catch_up(index, store, target).await?;
        }
        news.changed().await.map_err(|_closed| FeedError::Closed)?;
    }
}

/// Applies all changes up to `target`.
async fn catch_up(index: &Index, store: &SharedStore, target: Revision) -> Result<(), StoreError> {
    loop {
        let Some(changes) = store.changes(index.applied(), PAGE_ROWS).await? else {
            tracing::warn!("the change log has been pruned past the index: reading everything anew");
            index.replace(load(store, target).await?);
            continue;
        };
        let Some(upto) = changes.last().map(|change| change.revision) else {
            index.advance(target);
            return Ok(());
        };
        let kinds: HashSet<ChangeKind> = changes.into_iter().map(|change| change.kind).collect();
        let mut news = Vec::with_capacity(kinds.len());
        for kind in kinds {
            match kind {
                ChangeKind::Entry(id) => news.push(News::Entry(id.clone(), store.entry(&id).await?)),
                ChangeKind::Node(id) => news.push(News::Node(id.clone(), store.node(&id).await?)),
                ChangeKind::Bundle(td) => news.push(News::Bundle(td.clone(), store.bundle(&td).await?)),
                _ => {}
            }
        }
        index.apply(upto, news);
    }
}
