//! What holds for any answers that a server may give to an agent that polls (`SyncAuthorizedEntries`): the exchange is
//! refused, or ends with entries that the agent had in the version told, or that were told.

use std::collections::HashSet;
use std::sync::Arc;

use prost::Message;
use vouchsafe_agent::entry::{Entry, EntryId};
use vouchsafe_agent::sync::protocol::{Exchange, Step};
use vouchsafe_agent::upstream::convert;
use vouchsafe_proto::spire::api::server::entry::v1::SyncAuthorizedEntriesResponse;

/// Answers, each with its length before it; the first one is what the agent knows already.
pub(crate) fn check(mut data: &[u8]) {
    let Ok(before) = SyncAuthorizedEntriesResponse::decode_length_delimited(&mut data) else {
        return;
    };
    let known = convert::entries(before.entries);
    let (mut exchange, first) = Exchange::begin(known.iter().cloned());
    assert!(first.output_mask.is_some() && first.ids.is_empty());
    let mut told: Vec<Arc<Entry>> = Vec::new();
    let mut revisions = HashSet::new();
    while let Ok(answer) = SyncAuthorizedEntriesResponse::decode_length_delimited(&mut data) {
        told.extend(convert::entries(answer.entries.iter().cloned()));
        let ids = answer
            .entry_revisions
            .iter()
            .map(|one| EntryId::from(one.id.as_str()));
        revisions.extend(ids);
        match exchange.answer(answer) {
            Err(_) => return,
            Ok(Step::Wait) => {}
            Ok(Step::Send(request)) => {
                assert!(!request.ids.is_empty() && request.output_mask.is_none());
                let asked = request.ids.iter().map(|id| EntryId::from(id.as_str()));
                assert!(
                    asked.collect::<HashSet<_>>().is_subset(&revisions),
                    "asks for what was not told"
                );
            }
            Ok(Step::Done(entries)) => {
                let real =
                    |entry| told.contains(entry) || (known.contains(entry) && revisions.contains(&entry.id));
                assert!(entries.iter().all(real), "{entries:?}");
                return;
            }
        }
    }
}
