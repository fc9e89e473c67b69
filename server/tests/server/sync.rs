//! SPIRE's synchronisation protocol, below and above one page.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, EntryRevision,
    SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use vouchsafe_proto::spire::api::types::{self, EntryMask};

use crate::support::*;

struct Exchange {
    ask: mpsc::Sender<SyncAuthorizedEntriesRequest>,
    answers: Streaming<SyncAuthorizedEntriesResponse>,
}

impl Exchange {
    async fn open(server: &TestServer, agent: &Identity, first: SyncAuthorizedEntriesRequest) -> Self {
        let (ask, asked) = mpsc::channel(4);
        ask.send(first).await.unwrap();
        let mut client = EntryClient::new(server.tls(Some(agent)).await);
        let answers = client
            .sync_authorized_entries(ReceiverStream::new(asked))
            .await
            .unwrap();
        Self {
            ask,
            answers: answers.into_inner(),
        }
    }

    async fn revisions(&mut self) -> Vec<Vec<EntryRevision>> {
        let mut pages = Vec::new();
        loop {
            let page = self.answers.message().await.unwrap().unwrap();
            assert!(page.entries.is_empty());
            pages.push(page.entry_revisions);
            if !page.more {
                return pages;
            }
        }
    }

    async fn entries(&mut self, ids: Vec<String>) -> Vec<types::Entry> {
        let asked = SyncAuthorizedEntriesRequest {
            ids,
            output_mask: None,
        };
        self.ask.send(asked).await.unwrap();
        let mut entries = Vec::new();
        loop {
            let page = self.answers.message().await.unwrap().unwrap();
            assert!(page.entry_revisions.is_empty() && page.entries.len() <= 500);
            entries.extend(page.entries);
            if !page.more {
                return entries;
            }
        }
    }
}

async fn with_entries(count: u32) -> (TestServer, Identity, Vec<types::Entry>) {
    let server = server().await;
    let agent = server.agent().await;
    let mut client = EntryClient::new(server.local().await);
    let entries = (0..count).map(|n| entry(&agent.id(), "/w", n)).collect();
    let asked = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let results = client
        .batch_create_entry(asked)
        .await
        .unwrap()
        .into_inner()
        .results;
    let made = results.into_iter().map(|result| result.entry.unwrap()).collect();
    (server, agent, made)
}

#[tokio::test]
async fn bad_first_requests_are_refused() {
    let (server, agent, _) = with_entries(1).await;
    let with_ids = SyncAuthorizedEntriesRequest {
        ids: vec!["x".to_owned()],
        output_mask: None,
    };
    let mut exchange = Exchange::open(&server, &agent, with_ids).await;
    refused(
        exchange.answers.message().await,
        Code::InvalidArgument,
        "initial request",
    );
    let without_revision = SyncAuthorizedEntriesRequest {
        ids: Vec::new(),
        output_mask: Some(EntryMask::default()),
    };
    let mut exchange = Exchange::open(&server, &agent, without_revision).await;
    refused(
        exchange.answers.message().await,
        Code::InvalidArgument,
        "revision number cannot be masked",
    );
}

#[tokio::test]
async fn up_to_a_page_comes_whole_and_the_stream_ends() {
    for count in [0, 1, 500] {
        let (server, agent, made) = with_entries(count).await;
        let mut exchange = Exchange::open(&server, &agent, SyncAuthorizedEntriesRequest::default()).await;
        let all = exchange.answers.message().await.unwrap().unwrap();
        assert!(all.entry_revisions.is_empty() && !all.more);
        assert_eq!(all.entries.len(), made.len());
        assert!(exchange.answers.message().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn more_than_a_page_comes_as_revisions_first_and_entries_when_asked_for() {
    let (server, agent, made) = with_entries(1203).await;
    let mut made: BTreeMap<String, types::Entry> =
        made.into_iter().map(|entry| (entry.id.clone(), entry)).collect();
    let mask = EntryMask {
        revision_number: true,
        hint: true,
        ..EntryMask::default()
    };
    let first = SyncAuthorizedEntriesRequest {
        output_mask: Some(mask),
        ids: Vec::new(),
    };
    let mut exchange = Exchange::open(&server, &agent, first).await;
    let pages = exchange.revisions().await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 203]);
    let listed: Vec<&EntryRevision> = pages.iter().flatten().collect();
    assert!(listed.is_sorted_by_key(|revision| &revision.id));
    assert!(
        listed
            .iter()
            .all(|revision| made.contains_key(&revision.id) && revision.created_at == START)
    );
    let mut wanted: Vec<String> = made.keys().rev().take(700).cloned().collect();
    wanted.push("unknown".to_owned());
    wanted.push(wanted[0].clone());
    let got = exchange.entries(wanted).await;
    assert_eq!(got.len(), 700);
    assert!(
        got.iter().all(|entry| entry.spiffe_id.is_none()),
        "the mask of the first request holds"
    );
    assert!(exchange.entries(Vec::new()).await.is_empty());

    // An update shows as another revision, a deletion as nothing.
    let mut admin = EntryClient::new(server.local().await);
    let (gone, _) = made.pop_first().unwrap();
    let (changed, _) = made.pop_first().unwrap();
    let update = BatchUpdateEntryRequest {
        entries: vec![types::Entry {
            id: changed.clone(),
            hint: "new".to_owned(),
            ..types::Entry::default()
        }],
        input_mask: Some(EntryMask {
            hint: true,
            ..EntryMask::default()
        }),
        output_mask: None,
    };
    admin.batch_update_entry(update).await.unwrap();
    admin
        .batch_delete_entry(BatchDeleteEntryRequest {
            ids: vec![gone.clone()],
        })
        .await
        .unwrap();
    let mut next = Exchange::open(&server, &agent, SyncAuthorizedEntriesRequest::default()).await;
    let revisions: BTreeMap<String, i64> = next
        .revisions()
        .await
        .into_iter()
        .flatten()
        .map(|revision| (revision.id, revision.revision_number))
        .collect();
    assert_eq!(revisions.len(), 1202);
    assert!(!revisions.contains_key(&gone));
    assert_eq!(revisions[&changed], 1);
    let got = next.entries(vec![changed, gone]).await;
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].hint, "new");
}

#[tokio::test]
async fn another_agents_entries_are_not_given() {
    let (server, agent, _) = with_entries(501).await;
    let other = server.agent().await;
    let foreign = server.entry(entry(&other.id(), "/w", 9999)).await;
    let mut exchange = Exchange::open(&server, &agent, SyncAuthorizedEntriesRequest::default()).await;
    let pages = exchange.revisions().await;
    assert_eq!(pages.iter().flatten().count(), 501);
    assert!(exchange.entries(vec![foreign.id]).await.is_empty());
}
