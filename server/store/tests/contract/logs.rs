//! Revisions, the change log and the audit log.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use vouchsafe_store::{Change, ChangeKind, Commit, Record, Revision, SharedStore};

use crate::Make;
use crate::samples::{draft, entry, entry_id, node, trust_domain};

const KEEP: u64 = 1000;

fn entry_change(id: &str) -> ChangeKind {
    ChangeKind::Entry(entry_id(id))
}

pub(crate) async fn revisions_grow_by_one_and_are_announced(make: Make) {
    let store = make(KEEP);
    let mut revisions = store.revisions();
    for expected in 1..=5 {
        let revision = store.commit(Commit::default().audit(draft("r"))).await.unwrap();
        assert_eq!(revision, Revision(expected));
        timeout(Duration::from_secs(10), revisions.changed())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(*revisions.borrow_and_update(), revision);
    }
    // Who comes late sees where it stands, and no old news.
    let late = store.revisions();
    assert_eq!(*late.borrow(), Revision(5));
    assert!(!late.has_changed().unwrap());
}

pub(crate) async fn changes_come_in_order_by_whole_revisions(make: Make) {
    let store = make(KEEP);
    let three = Commit::default()
        .change(entry_change("a"))
        .change(ChangeKind::Node(node("n").id))
        .change(ChangeKind::Bundle(trust_domain("example.org")));
    store.commit(three).await.unwrap();
    store.commit(Commit::default()).await.unwrap();
    store
        .commit(Commit::default().change(entry_change("b")))
        .await
        .unwrap();
    let change = |revision, kind| Change {
        revision: Revision(revision),
        kind,
    };
    let first = [
        change(1, entry_change("a")),
        change(1, ChangeKind::Node(node("n").id)),
        change(1, ChangeKind::Bundle(trust_domain("example.org"))),
    ];
    let last = change(3, entry_change("b"));
    let read = async |after, limit| store.changes(Revision(after), limit).await.unwrap().unwrap();
    assert_eq!(read(0, 1).await, first, "a revision is never cut");
    assert_eq!(read(0, 3).await, first);
    assert_eq!(
        read(0, 4).await,
        [&first[..], std::slice::from_ref(&last)].concat()
    );
    assert_eq!(read(1, 10).await, std::slice::from_ref(&last));
    assert_eq!(read(2, 10).await, [last]);
    assert_eq!(read(3, 10).await, []);
    assert_eq!(read(0, 0).await, []);
}

pub(crate) async fn a_pruned_change_log_says_so(make: Make) {
    let store = make(10);
    for n in 1..=30 {
        store
            .commit(Commit::default().change(entry_change(&format!("e{n}"))))
            .await
            .unwrap();
    }
    assert_eq!(store.changes(Revision(0), 100).await.unwrap(), None);
    assert_eq!(store.changes(Revision(15), 100).await.unwrap(), None);
    let kept = store.changes(Revision(20), 100).await.unwrap().unwrap();
    let revisions: Vec<u64> = kept.iter().map(|change| change.revision.0).collect();
    assert_eq!(revisions, (21..=30).collect::<Vec<_>>());
}

pub(crate) async fn a_reader_ahead_of_the_log_starts_anew(make: Make) {
    let store = make(KEEP);
    store.commit(Commit::default()).await.unwrap();
    assert_eq!(store.changes(Revision(1), 10).await.unwrap(), Some(Vec::new()));
    assert_eq!(store.changes(Revision(2), 10).await.unwrap(), None);
}

pub(crate) async fn audit_records_have_no_gaps(make: Make) {
    let store = make(KEEP);
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            for n in 0..10 {
                let name = format!("{caller}-{n}");
                let commit = Commit::default().audit(draft(&name)).audit(draft(&name));
                store.commit(commit).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    assert_eq!(store.audit_head().await.unwrap(), 320);
    let mut records = Vec::new();
    loop {
        let from = u64::try_from(records.len()).unwrap() + 1;
        let page = store.audit_records(from, 50).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 50);
        records.extend(page);
    }
    let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=320).collect::<Vec<_>>());
    // The records of one commit stand together, and are what was handed in.
    for pair in records.chunks(2) {
        let [first, second] = pair else { unreachable!() };
        assert_eq!(first.draft, second.draft);
        assert_eq!(first.draft, draft(&first.draft.request_id));
    }
    assert_eq!(store.audit_records(0, 1).await.unwrap().first().unwrap().seq, 1);
    assert_eq!(
        store.audit_records(320, 10).await.unwrap().first().unwrap().seq,
        320
    );
    // Many at once share rows; a reader may begin and end anywhere.
    let many = Commit {
        audit: (0..40).map(|n| Arc::new(draft(&format!("many-{n}")))).collect(),
        ..Commit::default()
    };
    store.commit(many).await.unwrap();
    for from in 300..=360_u64 {
        let page = store.audit_records(from, 7).await.unwrap();
        let seqs: Vec<u64> = page.iter().map(|record| record.seq).collect();
        assert_eq!(seqs, (from..(from + 7).min(361)).collect::<Vec<_>>());
    }
    assert!(store.audit_records(361, 10).await.unwrap().is_empty());
    assert!(store.audit_records(u64::MAX, 10).await.unwrap().is_empty());
}

pub(crate) async fn the_log_belongs_to_the_server(make: Make) {
    let store = make(KEEP);
    store.commit(Commit::default().audit(draft("r"))).await.unwrap();
    let records = store.audit_records(1, 1).await.unwrap();
    let record = records.first().unwrap();
    assert!(
        record.log_id.contains(store.server_id()),
        "`{}` does not name `{}`",
        record.log_id,
        store.server_id()
    );
    assert_eq!(record.schema, vouchsafe_audit::SCHEMA_VERSION);
}

/// Reads the change log as an index does, until revision `until`.
async fn follow(store: SharedStore, until: Revision) -> Vec<Change> {
    let mut revisions = store.revisions();
    let mut seen = Vec::new();
    let mut at = Revision(0);
    while at < until {
        revisions.wait_for(|news| *news > at).await.unwrap();
        let changes = store.changes(at, 7).await.unwrap().unwrap();
        for change in &changes {
            // What a change speaks of is there to be read.
            if let ChangeKind::Entry(id) = &change.kind {
                assert!(store.entry(id).await.unwrap().unwrap().revision >= change.revision);
            }
        }
        at = changes.last().unwrap().revision;
        assert!(at <= *store.revisions().borrow());
        seen.extend(changes);
    }
    seen
}

pub(crate) async fn followers_see_every_change_once(make: Make) {
    const CALLERS: u32 = 8;
    const EACH: u32 = 20;
    let store = make(KEEP);
    let until = Revision(u64::from(CALLERS * EACH));
    let mut followers = JoinSet::new();
    for _ in 0..3 {
        followers.spawn(follow(Arc::clone(&store), until));
    }
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            for n in 0..EACH {
                let id = format!("e-{caller}-{n}");
                let create = Commit::default()
                    .put(Record::Entry(entry(&id, caller * EACH + n)))
                    .change(entry_change(&id));
                store.commit(create).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let all = timeout(Duration::from_secs(60), followers.join_all())
        .await
        .unwrap();
    for seen in all {
        let revisions: Vec<u64> = seen.iter().map(|change| change.revision.0).collect();
        assert_eq!(revisions, (1..=until.0).collect::<Vec<_>>());
    }
}
