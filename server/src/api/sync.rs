//! SPIRE's protocol of `SyncAuthorizedEntries`: everything at once where it is little, else revisions
//! first and then the entries that the agent asks for. All of one exchange shows one moment.

use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use tonic::Status;
use vouchsafe_proto::spire::api::server::entry::v1::{
    EntryRevision, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};

use super::conversation::Outgoing;
use crate::convert::entry::message;
use crate::index::IndexedEntry;

/// Entries, or revisions, in one message (SPIRE's number: agents take the first page's length for it).
pub(super) const PAGE_ROWS: usize = 500;

/// Serves one exchange about entries that are in order of id.
pub(super) async fn serve(
    entries: Vec<Arc<IndexedEntry>>,
    mut incoming: impl Stream<Item = Result<SyncAuthorizedEntriesRequest, Status>> + Unpin,
    outgoing: Outgoing<SyncAuthorizedEntriesResponse>,
) -> Result<(), Status> {
    let Some(first) = incoming.try_next().await? else {
        return Ok(());
    };
    if !first.ids.is_empty() {
        return Err(Status::invalid_argument(
            "specifying IDs on initial request is not supported",
        ));
    }
    let mask = first.output_mask;
    if mask.is_some_and(|mask| !mask.revision_number) {
        return Err(Status::invalid_argument("revision number cannot be masked"));
    }
    let mask = mask.as_ref();
    if entries.len() <= PAGE_ROWS {
        let entries = entries.iter().map(|entry| message(entry, mask)).collect();
        let all = SyncAuthorizedEntriesResponse {
            entries,
            ..SyncAuthorizedEntriesResponse::default()
        };
        return outgoing.send(all).await;
    }
    let pages = entries.chunks(PAGE_ROWS);
    let last = pages.len() - 1;
    for (place, page) in pages.enumerate() {
        let revisions = SyncAuthorizedEntriesResponse {
            entry_revisions: page.iter().map(|entry| revision(entry)).collect(),
            more: place < last,
            ..SyncAuthorizedEntriesResponse::default()
        };
        outgoing.send(revisions).await?;
    }
    while let Some(SyncAuthorizedEntriesRequest { mut ids, .. }) = incoming.try_next().await? {
        ids.sort_unstable();
        ids.dedup();
        let find = |id: &String| entries.binary_search_by(|entry| entry.id.as_str().cmp(id)).ok();
        let wanted: Vec<&Arc<IndexedEntry>> = ids
            .iter()
            .filter_map(find)
            .filter_map(|place| entries.get(place))
            .collect();
        let mut pages = wanted.chunks(PAGE_ROWS).peekable();
        loop {
            let page = pages.next().unwrap_or_default();
            let answer = SyncAuthorizedEntriesResponse {
                entries: page.iter().map(|entry| message(entry, mask)).collect(),
                more: pages.peek().is_some(),
                ..SyncAuthorizedEntriesResponse::default()
            };
            let more = answer.more;
            outgoing.send(answer).await?;
            if !more {
                break;
            }
        }
    }
    Ok(())
}

fn revision(entry: &IndexedEntry) -> EntryRevision {
    EntryRevision {
        id: entry.id.to_string(),
        revision_number: entry.revision_number,
        created_at: entry.created_at,
    }
}
