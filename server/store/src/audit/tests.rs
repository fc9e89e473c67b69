//! The sink and the writer: nothing is dropped silently.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use vouchsafe_audit::{Outcome, Principal};
use vouchsafe_identity::{Bundle, ClassName, RunId, SpiffeId, TrustDomain};

use super::*;
use crate::{
    BundleReader, Change, ChangeReader, Class, ClassReader, Entry, EntryId, EntryReader, JoinToken,
    JournalReader, JournalRow, MemoryStore, Node, NodeReader, Revision, Revocation, RevocationReader, Run,
    RunReader, Store, TokenHash, TokenReader, Versioned,
};

/// Longer than the writer ever waits.
const PATIENCE: Duration = Duration::from_secs(60);

fn draft(request_id: &str) -> Draft {
    Draft {
        at: OffsetDateTime::UNIX_EPOCH,
        request_id: request_id.to_owned(),
        traceparent: None,
        principal: Principal::Anonymous {
            source: "127.0.0.1".to_owned(),
        },
        scope: "none".into(),
        action: "/a.B/C".into(),
        outcome: Outcome::Refused,
        code: Some("PERMISSION_DENIED".into()),
        reason: Some("no certificate".to_owned()),
        facts: BTreeMap::new(),
    }
}

/// A store that takes commits only while it is told to.
struct Moody {
    inner: MemoryStore,
    takes: AtomicBool,
    refused: watch::Sender<u32>,
}

impl Moody {
    fn new(takes: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new("server-1"),
            takes: AtomicBool::new(takes),
            refused: watch::Sender::new(0),
        })
    }

    /// Returns when so many commits have been refused.
    async fn has_refused(&self, count: u32) {
        let mut refused = self.refused.subscribe();
        let refused = timeout(PATIENCE, refused.wait_for(|seen| *seen >= count));
        refused.await.expect("it was not asked so often").unwrap();
    }

    /// Returns when so many records are there.
    async fn has_records(&self, count: u64) {
        let mut revisions = self.revisions();
        while self.audit_head().await.unwrap() < count {
            let change = timeout(PATIENCE, revisions.changed()).await;
            change.expect("there are fewer records").unwrap();
        }
    }

    async fn ids(&self) -> Vec<String> {
        let records = self.inner.audit_records(1, usize::MAX).await.unwrap();
        records
            .into_iter()
            .map(|record| record.draft.request_id)
            .collect()
    }
}

#[async_trait]
impl crate::BackupReader for Moody {
    async fn backup(&self, to: mpsc::Sender<crate::BackupPart>) -> Result<(), StoreError> {
        self.inner.backup(to).await
    }
}

#[async_trait]
impl Store for Moody {
    async fn commit(&self, commit: Commit) -> Result<Revision, CommitError> {
        if self.takes.load(Ordering::SeqCst) {
            return self.inner.commit(commit).await;
        }
        self.refused.send_modify(|count| *count += 1);
        Err(CommitError::Store(StoreError::Full("told so".to_owned())))
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.revisions()
    }

    fn takes_writes(&self) -> Result<(), StoreError> {
        self.inner.takes_writes()
    }

    fn server_id(&self) -> &str {
        self.inner.server_id()
    }

    fn restored(&self) -> Option<&crate::RestoreMark> {
        self.inner.restored()
    }
}

/// Hands a reader's methods on to `inner`.
macro_rules! hand_on {
    ($($reader:ident { $($method:ident($($name:ident: $kind:ty),*) -> $result:ty;)+ })+) => {
        $(#[async_trait]
        impl $reader for Moody {
            $(async fn $method(&self, $($name: $kind),*) -> Result<$result, StoreError> {
                self.inner.$method($($name),*).await
            })+
        })+
    };
}

hand_on! {
    EntryReader {
        entry(id: &EntryId) -> Option<Versioned<Entry>>;
        entry_by_shape(shape: &str) -> Option<EntryId>;
        middle_entry() -> Option<EntryId>;
        entries(after: Option<&EntryId>, limit: usize) -> Vec<Versioned<Entry>>;
    }
    NodeReader {
        node(id: &SpiffeId) -> Option<Versioned<Node>>;
        nodes(after: Option<&SpiffeId>, limit: usize) -> Vec<Versioned<Node>>;
    }
    TokenReader {
        token(hash: &TokenHash) -> Option<Versioned<JoinToken>>;
        tokens(after: Option<&TokenHash>, limit: usize) -> Vec<Versioned<JoinToken>>;
    }
    BundleReader {
        bundle(trust_domain: &TrustDomain) -> Option<Versioned<Bundle>>;
        bundles() -> Vec<Versioned<Bundle>>;
    }
    ClassReader {
        class(name: &ClassName) -> Option<Versioned<Class>>;
        classes(after: Option<&ClassName>, limit: usize) -> Vec<Versioned<Class>>;
    }
    RunReader {
        run(id: &RunId) -> Option<Versioned<Run>>;
        runs(after: Option<&RunId>, limit: usize) -> Vec<Versioned<Run>>;
    }
    RevocationReader {
        revocation(run: &RunId) -> Option<Versioned<Revocation>>;
        revocations(after: Option<&RunId>, limit: usize) -> Vec<Versioned<Revocation>>;
    }
    JournalReader {
        journal(server_id: &str) -> Vec<Versioned<JournalRow>>;
    }
    ChangeReader {
        changes(after: Revision, limit: usize) -> Option<Vec<Change>>;
    }
    AuditReader {
        audit_records(from: u64, limit: usize) -> Vec<Record>;
        audit_head() -> u64;
    }
}

fn small() -> AuditConfig {
    AuditConfig {
        queue_records: 2,
        longest_wait: Duration::from_secs(2),
    }
}

type Writing = JoinSet<Result<(), AuditError>>;

/// A writer at work until every sink is gone.
fn at_work(store: &Arc<Moody>, config: &AuditConfig) -> (AuditSink, Writing) {
    begun(store, config, std::future::pending())
}

/// A writer at work until it is told to stop.
fn at_work_until_stopped(store: &Arc<Moody>) -> (AuditSink, Writing, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let stopped = async move { drop(stopped.await) };
    let (sink, writing) = begun(store, &AuditConfig::default(), stopped);
    (sink, writing, stop)
}

fn begun(
    store: &Arc<Moody>,
    config: &AuditConfig,
    stop: impl Future<Output = ()> + Send + 'static,
) -> (AuditSink, Writing) {
    let (sink, writer) = AuditWriter::new(Arc::clone(store) as SharedStore, config);
    let mut writing = JoinSet::new();
    writing.spawn(writer.run(stop));
    (sink, writing)
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_waits_and_then_refuses() {
    let (sink, writer) = AuditWriter::new(Moody::new(true), &small());
    sink.record(draft("a")).await.unwrap();
    sink.record(draft("b")).await.unwrap();
    let begun = tokio::time::Instant::now();
    let refused = sink.record(draft("c")).await.unwrap_err();
    assert!(matches!(refused, AuditError::Busy(_)), "{refused}");
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    drop(writer);
    let refused = sink.record(draft("d")).await.unwrap_err();
    assert!(matches!(refused, AuditError::Closed), "{refused}");
}

#[tokio::test]
async fn a_record_for_which_there_is_no_room_is_given_back() {
    let config = AuditConfig {
        queue_records: 1,
        ..AuditConfig::default()
    };
    let (sink, writer) = AuditWriter::new(Moody::new(true), &config);
    sink.try_record(draft("first")).unwrap();
    assert_eq!(sink.try_record(draft("second")).unwrap_err().request_id, "second");
    drop(writer);
    assert_eq!(sink.try_record(draft("third")).unwrap_err().request_id, "third");
}

#[tokio::test(start_paused = true)]
async fn records_wait_for_a_store_that_takes_none_and_are_written_when_it_does() {
    let store = Moody::new(false);
    let (sink, mut writing) = at_work(&store, &AuditConfig::default());
    sink.record(draft("a")).await.unwrap();
    store.has_refused(1).await;
    sink.record(draft("b")).await.unwrap();
    store.has_refused(60).await;
    assert!(store.ids().await.is_empty());
    store.takes.store(true, Ordering::SeqCst);
    sink.record(draft("c")).await.unwrap();
    store.has_records(3).await;
    assert_eq!(store.ids().await, ["a", "b", "c"]);
    drop(sink);
    writing.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_stored_is_refused_and_holds_up_no_other() {
    let store = Moody::new(true);
    let (sink, writer) = AuditWriter::new(Arc::clone(&store) as SharedStore, &AuditConfig::default());
    let mut bad = draft("bad");
    // RFC 3339 has no offsets with seconds.
    bad.at = bad.at.to_offset(time::UtcOffset::from_hms(1, 2, 3).unwrap());
    let refused = sink.record(bad).await.unwrap_err();
    assert!(
        matches!(refused, AuditError::Store(StoreError::Unstorable(_))),
        "{refused}"
    );
    sink.record(draft("good")).await.unwrap();
    writer.run(std::future::ready(())).await.unwrap();
    assert_eq!(store.ids().await, ["good"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_is_written_at_shutdown() {
    let store = Moody::new(true);
    let (sink, writer) = AuditWriter::new(Arc::clone(&store) as SharedStore, &AuditConfig::default());
    for n in 0..3000 {
        sink.record(draft(&n.to_string())).await.unwrap();
    }
    writer.run(std::future::ready(())).await.unwrap();
    let expected: Vec<String> = (0..3000).map(|n: u32| n.to_string()).collect();
    assert_eq!(store.ids().await, expected);
    assert!(matches!(
        sink.record(draft("late")).await,
        Err(AuditError::Closed)
    ));
    // In batches, not one by one.
    assert_eq!(*store.revisions().borrow(), Revision(3));
}

#[tokio::test(start_paused = true)]
async fn records_that_come_one_by_one_are_gathered() {
    let store = Moody::new(true);
    let (sink, mut writing) = at_work(&store, &AuditConfig::default());
    let begun = tokio::time::Instant::now();
    for n in 0..100 {
        sink.record(draft(&n.to_string())).await.unwrap();
        tokio::task::yield_now().await;
    }
    store.has_records(100).await;
    assert_eq!(*store.revisions().borrow(), Revision(1));
    assert_eq!(begun.elapsed(), GATHER);
    drop(sink);
    writing.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_place_while_records_are_gathered() {
    let store = Moody::new(true);
    let (sink, mut writing) = at_work(&store, &small());
    let begun = tokio::time::Instant::now();
    for n in 0..200 {
        sink.record(draft(&n.to_string())).await.unwrap();
    }
    store.has_records(200).await;
    // The last ones, after whom nobody came.
    assert!(begun.elapsed() <= GATHER, "{:?}", begun.elapsed());
    drop(sink);
    writing.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_amid_the_gathering_writes_what_was_gathered() {
    let store = Moody::new(true);
    let (sink, mut writing, stop) = at_work_until_stopped(&store);
    let begun = tokio::time::Instant::now();
    sink.record(draft("a")).await.unwrap();
    while sink.waiting() > 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(GATHER / 5).await;
    assert!(store.ids().await.is_empty());
    sink.record(draft("b")).await.unwrap();
    stop.send(()).unwrap();
    writing.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(store.ids().await, ["a", "b"]);
    assert_eq!(begun.elapsed(), GATHER / 5);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_at_shutdown_is_an_error() {
    let store = Moody::new(false);
    let (sink, writer) = AuditWriter::new(store, &AuditConfig::default());
    for n in 0..1100 {
        sink.record(draft(&n.to_string())).await.unwrap();
    }
    let lost = writer.run(std::future::ready(())).await.unwrap_err();
    let AuditError::Lost { count, .. } = lost else {
        panic!("{lost}")
    };
    assert_eq!(count, 1100);
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_the_store_takes_none_ends_the_writer() {
    let store = Moody::new(false);
    let (sink, mut writing, stop) = at_work_until_stopped(&store);
    sink.record(draft("a")).await.unwrap();
    store.has_refused(1).await;
    stop.send(()).unwrap();
    let lost = writing.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(lost, AuditError::Lost { .. }), "{lost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_many_callers_all_arrive() {
    let store = Moody::new(true);
    let (sink, mut writing) = at_work(&store, &small());
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let sink = sink.clone();
        callers.spawn(async move {
            for n in 0..50 {
                sink.record(draft(&format!("{caller}-{n}"))).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    drop(sink);
    writing.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(store.audit_head().await.unwrap(), 16 * 50);
}
