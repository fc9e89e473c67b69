//! Keeps the index current: loads everything once, then follows the store's change log in order.

use std::collections::HashSet;
use std::sync::Arc;

use vouchsafe_identity::SpiffeId;
use vouchsafe_store::{ChangeKind, Entry, EntryId, Node, Revision, SharedStore, StoreError, Versioned};

use super::Index;
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
enum News {
    Entry(EntryId, Option<Versioned<Entry>>),
    Node(SpiffeId, Option<Versioned<Node>>),
}

/// Reads every entry and node. What changes meanwhile is read again by the feed.
pub(super) async fn load(store: &SharedStore) -> Result<State, StoreError> {
    let mut state = State::default();
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
        for row in page {
            state.nodes.insert(row.value.id.clone(), Arc::new(row));
        }
    }
    Ok(state)
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
            let state = load(store).await?;
            index.replace(state, target);
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
                _ => {}
            }
        }
        index.apply(upto, |state| news.into_iter().for_each(|item| put(state, item)));
    }
}

fn put(state: &mut State, news: News) {
    match news {
        News::Entry(_, Some(row)) => state.put_entry(row.value.into()),
        News::Entry(id, None) => state.remove_entry(&id),
        News::Node(id, Some(row)) => {
            state.nodes.insert(id, Arc::new(row));
        }
        News::Node(id, None) => {
            state.nodes.remove(&id);
        }
    }
}
