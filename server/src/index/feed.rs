//! Keeps the index current: loads everything once, then follows the store's change log in order.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vouchsafe_identity::{Bundle, ClassName, RunId, SpiffeId, TrustDomain};
use vouchsafe_store::{
    ChangeKind, Class, Entry, EntryId, Node, Revision, Revocation, Run, SharedStore, StoreError, Versioned,
};

use super::Index;
use super::bundle::IndexedBundle;
use super::entry::IndexedEntry;
use super::history::{History, MAX_CHANGES};
use super::runs::Runs;
use super::state::State;

/// Rows read from the store at a time.
const PAGE_ROWS: usize = 1024;
/// Pages that wait to be put into the index while more are read.
const PAGES_AHEAD: usize = 4;

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
    Class(ClassName, Option<Versioned<Class>>),
    Run(RunId, Option<Versioned<Run>>),
    Revocation(RunId, Option<Versioned<Revocation>>),
}

/// Reads every entry, node and bundle. What changes after revision `at` is read again by the feed.
pub(super) async fn load(store: &SharedStore, at: Revision) -> Result<State, StoreError> {
    let mut state = State {
        revision: at,
        ..State::default()
    };
    load_entries(store, &mut state).await?;
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
    load_runs(store, &mut state).await?;
    state.history = history(store, at, &state.runs).await?;
    Ok(state)
}

/// Reads every class, every run and every revocation.
async fn load_runs(store: &SharedStore, state: &mut State) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = store.classes(after.as_ref(), PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.value.name.clone());
        for row in page {
            state.runs.put_class(&row.value.name.clone(), Some(row));
        }
    }
    let mut after = None;
    loop {
        let page = store.runs(after.as_ref(), PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.value.id);
        page.into_iter()
            .for_each(|row| state.runs.put_run(row.value.id, Some(row)));
    }
    let mut after = None;
    loop {
        let page = store.revocations(after.as_ref(), PAGE_ROWS).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.value.run);
        page.into_iter()
            .for_each(|row| state.runs.put_revocation(row.value.run, Some(row)));
    }
}

/// Reads every entry: reading and decoding take longer than putting in, so two tasks read, each its half of the ids.
async fn load_entries(store: &SharedStore, state: &mut State) -> Result<(), StoreError> {
    let Some(middle) = store.middle_entry().await? else {
        // What comes from now on is read by the feed.
        return Ok(());
    };
    let (pages, mut read) = mpsc::channel(PAGES_AHEAD);
    let mut readers = JoinSet::new();
    readers.spawn(read_entries(
        Arc::clone(store),
        None,
        Some(middle.clone()),
        pages.clone(),
    ));
    readers.spawn(read_entries(Arc::clone(store), Some(middle.clone()), None, pages));
    while let Some(page) = read.recv().await {
        page.into_iter().for_each(|entry| state.put_entry(entry));
    }
    while let Some(reader) = readers.join_next().await {
        reader.map_err(|e| StoreError::Io(format!("reading the entries was given up: {e}")))??;
    }
    // Neither half has the one in the middle.
    if let Some(row) = store.entry(&middle).await? {
        state.put_entry(row.value.into());
    }
    Ok(())
}

/// Reads the entries with ids after `after` and before `until`, by pages.
async fn read_entries(
    store: SharedStore,
    mut after: Option<EntryId>,
    until: Option<EntryId>,
    pages: mpsc::Sender<Vec<IndexedEntry>>,
) -> Result<(), StoreError> {
    loop {
        let page = store.entries(after.as_ref(), PAGE_ROWS).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.value.id.clone());
        let over = until.as_ref().is_some_and(|until| last.value.id >= *until);
        let mine = page.into_iter().map(|row| row.value);
        let mine = mine.take_while(|entry| until.as_ref().is_none_or(|until| entry.id < *until));
        if pages.send(mine.map(IndexedEntry::from).collect()).await.is_err() || over {
            return Ok(());
        }
    }
}

/// The last changes up to revision `at`, as far as the store remembers them.
async fn history(store: &SharedStore, at: Revision, runs: &Runs) -> Result<History, StoreError> {
    let revisions = u64::try_from(MAX_CHANGES).unwrap_or(u64::MAX);
    let floor = Revision(at.0.saturating_sub(revisions));
    let Some(changes) = store.changes(floor, usize::MAX).await? else {
        return Ok(History::from(at));
    };
    let mut history = History::from(floor);
    let upto = changes.into_iter().take_while(|change| change.revision <= at);
    upto.for_each(|change| history.add_stored(change, runs));
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
                ChangeKind::Class(name) => news.push(News::Class(name.clone(), store.class(&name).await?)),
                ChangeKind::Run(id) => news.push(News::Run(id, store.run(&id).await?)),
                ChangeKind::Revocation(id) => {
                    news.push(News::Revocation(id, store.revocation(&id).await?));
                }
                _ => {}
            }
        }
        index.apply(upto, news);
    }
}

#[cfg(test)]
mod tests {
    use vouchsafe_store::{Commit, MemoryStore, Record, Store};

    use super::super::tests::entry;
    use super::*;

    #[tokio::test]
    async fn every_entry_is_read_whatever_its_id() {
        let mut ids: Vec<String> = (0..3 * PAGE_ROWS)
            .map(|n| format!("{:08x}", n * 0x15_5555))
            .collect();
        ids.extend(["-", "7zz", "8", "8-", "80", "Zed", "zed"].map(str::to_owned));
        let store = Arc::new(MemoryStore::new("server-1"));
        let mut commit = Commit::default();
        for id in &ids {
            let made = entry(id, "/spire/agent/x", &format!("/w/{id}"), &[1]);
            commit = commit.put(Record::Entry(made));
        }
        store.commit(commit).await.unwrap();
        let store: SharedStore = store;
        let state = load(&store, Revision(1)).await.unwrap();
        ids.sort();
        let loaded: Vec<&str> = state.entries.iter().map(|entry| entry.0.id.as_str()).collect();
        assert_eq!(loaded, ids);
    }
}
