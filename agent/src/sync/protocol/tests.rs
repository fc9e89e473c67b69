//! Exchanges with a server that keeps to the protocol, and with ones that do not.

use proptest::prelude::*;
use vouchsafe_proto::spire::api::server::entry::v1::EntryRevision;

use super::*;
use crate::testing::entry_message as message;

fn known(ids: &[(String, i64)]) -> Vec<Arc<Entry>> {
    convert::entries(ids.iter().map(|(id, revision)| message(id, *revision)))
}

fn revisions(page: &[(String, i64)], more: bool) -> SyncAuthorizedEntriesResponse {
    SyncAuthorizedEntriesResponse {
        entry_revisions: page
            .iter()
            .map(|(id, revision)| EntryRevision {
                id: id.clone(),
                revision_number: *revision,
                created_at: 1,
            })
            .collect(),
        entries: Vec::new(),
        more,
    }
}

/// Plays the server's part to the end; gives the set and the ids that were asked for.
fn play(
    server: &[(String, i64)],
    page_size: usize,
    have: Vec<Arc<Entry>>,
) -> Result<(Vec<Arc<Entry>>, Vec<String>), ProtocolError> {
    let (mut exchange, first) = Exchange::begin(have);
    assert!(first.ids.is_empty() && first.output_mask.is_some());
    if server.len() <= page_size {
        let whole = SyncAuthorizedEntriesResponse {
            entries: server
                .iter()
                .map(|(id, revision)| message(id, *revision))
                .collect(),
            ..SyncAuthorizedEntriesResponse::default()
        };
        let Step::Done(entries) = exchange.answer(whole)? else {
            panic!("a small set is done at once");
        };
        return Ok((entries, Vec::new()));
    }
    let pages: Vec<_> = server.chunks(page_size).collect();
    let mut step = Step::Wait;
    for (at, page) in pages.iter().enumerate() {
        assert_eq!(step, Step::Wait);
        step = exchange.answer(revisions(page, at + 1 < pages.len()))?;
    }
    let mut asked = Vec::new();
    loop {
        match step {
            Step::Done(entries) => return Ok((entries, asked)),
            Step::Wait => panic!("the server has nothing more to say"),
            Step::Send(request) => {
                assert!(request.ids.len() <= page_size, "more than a page was asked for");
                assert!(request.ids.is_sorted());
                asked.extend(request.ids.clone());
                let entries = server
                    .iter()
                    .filter(|(id, _)| request.ids.contains(id))
                    .map(|(id, revision)| message(id, *revision))
                    .collect();
                step = exchange.answer(SyncAuthorizedEntriesResponse {
                    entries,
                    ..SyncAuthorizedEntriesResponse::default()
                })?;
            }
        }
    }
}

fn many(count: usize) -> Vec<(String, i64)> {
    (0..count).map(|n| (format!("e{n:05}"), 1)).collect()
}

#[test]
fn only_what_is_new_or_changed_is_asked_for() {
    let server = many(1203);
    let mut have = known(&server);
    have.remove(7);
    have.extend(known(&[("gone".to_owned(), 1)]));
    let mut changed = server.clone();
    changed[600].1 = 2;
    let (entries, asked) = play(&changed, 500, have).unwrap();
    assert_eq!(entries.len(), 1203);
    assert_eq!(asked, ["e00007", "e00600"]);
    assert!(entries.iter().all(|entry| entry.id.as_str() != "gone"));
}

#[test]
fn an_entry_made_again_under_its_old_id_is_asked_for() {
    let server = many(3);
    let mut have = known(&server);
    let mut again = Entry::clone(&have[1]);
    again.version.created_at = 0;
    have[1] = Arc::new(again);
    let (_, asked) = play(&server, 2, have).unwrap();
    assert_eq!(asked, ["e00001"]);
}

#[test]
fn entries_that_vanish_meanwhile_are_absent() {
    let server = many(4);
    let (mut exchange, _) = Exchange::begin([]);
    let Step::Send(_) = exchange.answer(revisions(&server, false)).unwrap() else {
        panic!("all four are missing");
    };
    let step = exchange.answer(SyncAuthorizedEntriesResponse::default()).unwrap();
    assert_eq!(step, Step::Done(Vec::new()));
}

#[test]
fn entries_in_several_pages_are_waited_for() {
    let server = many(4);
    let (mut exchange, _) = Exchange::begin([]);
    exchange.answer(revisions(&server, false)).unwrap();
    let page = |ids: &[&str], more| SyncAuthorizedEntriesResponse {
        entries: ids.iter().map(|id| message(id, 1)).collect(),
        entry_revisions: Vec::new(),
        more,
    };
    assert_eq!(exchange.answer(page(&["e00000"], true)).unwrap(), Step::Wait);
    let Step::Done(entries) = exchange
        .answer(page(&["e00001", "e00002", "e00003"], false))
        .unwrap()
    else {
        panic!("that was all");
    };
    assert_eq!(entries.len(), 4);
}

#[test]
fn a_server_that_does_not_keep_to_the_protocol_is_refused() {
    let (mut exchange, _) = Exchange::begin([]);
    let empty = SyncAuthorizedEntriesResponse {
        more: true,
        ..SyncAuthorizedEntriesResponse::default()
    };
    assert_eq!(exchange.answer(empty), Err(ProtocolError::EmptyPage));

    let (mut exchange, _) = Exchange::begin([]);
    exchange.answer(revisions(&many(2), true)).unwrap();
    let entries = SyncAuthorizedEntriesResponse {
        entries: vec![message("x", 1)],
        ..SyncAuthorizedEntriesResponse::default()
    };
    assert_eq!(exchange.answer(entries), Err(ProtocolError::OutOfTurn));
}

proptest! {
    #[test]
    fn the_outcome_is_what_the_server_has(
        count in 0_usize..60, page_size in 1_usize..20, have in proptest::collection::vec((0_usize..80, 0_i64..3), 0..60),
    ) {
        let server = many(count);
        let have: Vec<_> = have.into_iter().map(|(n, revision)| (format!("e{n:05}"), revision)).collect();
        let (entries, _) = play(&server, page_size, known(&have)).unwrap();
        let mut told: Vec<_> = entries.iter().map(|e| (e.id.to_string(), e.version.revision)).collect();
        told.sort();
        prop_assert_eq!(told, server);
    }
}
