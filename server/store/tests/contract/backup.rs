//! A backup holds one revision, taken under load; what is not whole is not restored; a restored store begins anew.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vouchsafe_store::backup::{RestoreError, restore};
use vouchsafe_store::{
    AuditReader, BackupEnd, BackupPart, BackupReader, BundleReader, ChangeKind, ChangeReader, ClassReader,
    Commit, CommitError, EntryReader, Expect, JournalReader, Key, KeyPurpose, MemoryStore, NodeReader,
    Record, Revision, RunReader, SledConfig, SledStore, Store, StoreError, TokenReader,
};

use crate::samples::{bundle, class, draft, entry, entry_id, journal, node, run, token, trust_domain};

fn open(dir: &Path) -> SledStore {
    SledStore::open(dir, &SledConfig::default()).unwrap()
}

/// A backup whose parts are taken one by one.
struct Running {
    parts: mpsc::Receiver<BackupPart>,
    copying: JoinSet<Result<(), StoreError>>,
    bytes: Vec<u8>,
    end: Option<BackupEnd>,
}

impl Running {
    fn begin<S: BackupReader + 'static>(store: &Arc<S>) -> Self {
        let (to, parts) = mpsc::channel(1);
        let store = Arc::clone(store);
        let mut copying = JoinSet::new();
        copying.spawn(async move { store.backup(to).await });
        Self {
            parts,
            copying,
            bytes: Vec::new(),
            end: None,
        }
    }

    /// Whether there was one more part.
    async fn take(&mut self) -> bool {
        match self.parts.recv().await {
            Some(BackupPart::Bytes(more)) => self.bytes.extend(more),
            Some(BackupPart::End { end, sha256 }) => {
                assert!(self.bytes.ends_with(&sha256));
                self.end = Some(end);
            }
            None => return false,
        }
        true
    }

    /// The whole stream, and its end.
    async fn whole(mut self) -> (Vec<u8>, BackupEnd) {
        while self.take().await {}
        self.copying.join_next().await.unwrap().unwrap().unwrap();
        (self.bytes, self.end.unwrap())
    }
}

async fn backup<S: BackupReader + 'static>(store: Arc<S>) -> (Vec<u8>, BackupEnd) {
    Running::begin(&store).whole().await
}

fn restored(bytes: &[u8], dir: &Path) -> Result<SledStore, RestoreError> {
    let file = dir.join("backup");
    fs::write(&file, bytes).unwrap();
    let now = time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
    restore(File::open(file).unwrap(), &dir.join("store"), now)?;
    Ok(open(&dir.join("store")))
}

async fn some_store() -> Arc<MemoryStore> {
    let store = MemoryStore::new("server-1");
    let all = Commit::default()
        .put(Record::Entry(entry("e", 1)))
        .put(Record::Node(node("n")))
        .put(Record::Token(token("hash")))
        .put(Record::Bundle(bundle("example.org", 7)))
        .put(Record::Journal(journal("server-1", KeyPurpose::JwtSigner, 'a')))
        .put(Record::Class(class("c")))
        .put(Record::Run(run(1)))
        .put(Record::RunPlace(class("c").name, 1, run(1).id))
        .change(ChangeKind::Entry(entry_id("e")))
        .audit(draft("r1"));
    store.commit(all).await.unwrap();
    Arc::new(store)
}

#[tokio::test]
async fn everything_but_tokens_comes_back_and_old_revisions_are_not_believed() {
    let store = some_store().await;
    let (bytes, end) = backup(Arc::clone(&store)).await;
    assert_eq!((end.revision, end.audit_seq), (Revision(1), 1));
    let dir = tempfile::tempdir().unwrap();
    let again = restored(&bytes, dir.path()).unwrap();
    assert_eq!(again.server_id(), "server-1");
    let mark = again.restored().cloned().unwrap();
    assert_eq!(mark.leap(), 20_000 * 24 * 3600);
    assert!(store.restored().is_none());
    let id = entry_id("e");
    assert_eq!(again.entry(&id).await.unwrap(), store.entry(&id).await.unwrap());
    assert_eq!(
        again.entry_by_shape(&entry("e", 1).shape()).await.unwrap(),
        Some(id.clone())
    );
    let node = node("n").id;
    assert_eq!(again.node(&node).await.unwrap(), store.node(&node).await.unwrap());
    let td = trust_domain("example.org");
    assert_eq!(again.bundle(&td).await.unwrap(), store.bundle(&td).await.unwrap());
    assert_eq!(again.journal("server-1").await.unwrap().len(), 1);
    let name = class("c").name;
    assert_eq!(
        again.class(&name).await.unwrap(),
        store.class(&name).await.unwrap()
    );
    assert_eq!(
        again.run(&run(1).id).await.unwrap(),
        store.run(&run(1).id).await.unwrap()
    );
    for place in [Key::ClassId(class("c").id), Key::RunPlace(name, 1)] {
        let taken = again
            .commit(Commit::default().expect(Expect::Absent(place)))
            .await;
        assert!(matches!(taken, Err(CommitError::Conflict(_))), "{taken:?}");
    }
    assert_eq!(
        again.audit_records(1, 9).await.unwrap(),
        store.audit_records(1, 9).await.unwrap()
    );
    assert!(
        again.tokens(None, 9).await.unwrap().is_empty(),
        "a spent token must not come back"
    );

    let head = *again.revisions().borrow();
    for known in [Revision(0), Revision(1), Revision(1000), Revision(head.0 + 1)] {
        assert_eq!(again.changes(known, 9).await.unwrap(), None, "{known:?}");
    }
    // It goes on: the audit log without a gap, the revisions from there.
    let change = Commit::default().change(ChangeKind::Entry(id)).audit(draft("r2"));
    assert_eq!(again.commit(change).await.unwrap(), Revision(head.0 + 1));
    assert_eq!(again.audit_head().await.unwrap(), 2);
    assert_eq!(again.changes(head, 9).await.unwrap().unwrap().len(), 1);
    // The same backup once more, or one of what was restored: each begins a time of its own.
    let (of_restored, _) = backup(Arc::new(again)).await;
    for bytes in [bytes, of_restored] {
        let dir = tempfile::tempdir().unwrap();
        let other = restored(&bytes, dir.path()).unwrap();
        assert_ne!(other.restored().unwrap().id, mark.id);
    }
}

/// Each commit writes the same number to many entries, and adds and removes one: a copy of parts of two would show.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_one_revision() {
    const WIDE: u32 = 12;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir.path().join("first")));
    let commit = |n: u64| {
        let mut commit = Commit::default().audit(draft(&n.to_string()));
        for uid in 0..WIDE {
            let mut value = entry(&format!("e{uid}"), uid);
            value.hint = n.to_string();
            // Long, so that some are cut, and so that there are pages.
            value.dns_names = vec!["name.example.org".to_owned(); 300];
            commit = commit.put(Record::Entry(value));
        }
        commit = commit.put(Record::Node(node(&format!("n{n}"))));
        commit.delete(vouchsafe_store::Key::Node(
            node(&format!("n{}", n.saturating_sub(1))).id,
        ))
    };
    store.commit(commit(1)).await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let mut load = tokio::task::JoinSet::new();
    let writer = Arc::clone(&store);
    load.spawn(async move {
        let mut n = 1;
        while stopped.try_recv().is_err() {
            n += 1;
            writer.commit(commit(n)).await.unwrap();
        }
        n
    });
    for round in 0..5 {
        let (bytes, end) = backup(Arc::clone(&store)).await;
        let place = dir.path().join(format!("round{round}"));
        fs::create_dir(&place).unwrap();
        let again = restored(&bytes, &place).unwrap();
        let n = end.revision.0.to_string();
        let hints: BTreeMap<_, _> = again
            .entries(None, 100)
            .await
            .unwrap()
            .into_iter()
            .map(|row| (row.value.id.to_string(), row.value.hint))
            .collect();
        assert_eq!(hints.len(), WIDE as usize);
        assert!(hints.values().all(|hint| *hint == n), "{n}: {hints:?}");
        let nodes = again.nodes(None, 100).await.unwrap();
        assert_eq!(nodes.len(), 1, "{nodes:?}");
        assert_eq!(again.audit_head().await.unwrap(), end.revision.0);
        let records = again.audit_records(1, usize::MAX).await.unwrap();
        assert_eq!(records.len() as u64, end.revision.0);
    }
    stop.send(()).unwrap();
    assert!(load.join_next().await.unwrap().unwrap() > 1);
}

/// One whose caller is slow to read its end is no reason to refuse the next, and must not spoil it.
#[tokio::test]
async fn a_backup_that_still_sends_its_end_leaves_the_next_one_whole() {
    const MANY: u32 = 3000;
    let store = Arc::new(MemoryStore::new("server-1"));
    store.commit(hinted(0, "first")).await.unwrap();
    let slow = Running::begin(&store);
    // A part is there, so all is read, and its revision is known.
    tokio::time::timeout(Duration::from_secs(60), async {
        while slow.parts.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let many = (1..MANY).fold(Commit::default(), |commit, uid| {
        commit.put(Record::Entry(entry(&format!("e{uid:04}"), uid)))
    });
    store.commit(many.audit(draft("many"))).await.unwrap();
    let mut next = Running::begin(&store);
    next.take().await;
    assert_another_is_under_way(&store).await;

    let (_, end) = slow.whole().await;
    assert_eq!(end.revision, Revision(1));
    assert_another_is_under_way(&store).await;
    store.commit(hinted(0, "new")).await.unwrap();

    let (bytes, end) = next.whole().await;
    assert_eq!((end.revision, end.audit_seq), (Revision(3), 3));
    let dir = tempfile::tempdir().unwrap();
    let again = restored(&bytes, dir.path()).unwrap();
    let first = again.entry(&entry_id("e0000")).await.unwrap().unwrap();
    assert_eq!(first.value.hint, "new");
    assert_eq!(
        again.entries(None, usize::MAX).await.unwrap().len(),
        MANY as usize
    );
    assert_eq!(again.audit_records(1, usize::MAX).await.unwrap().len(), 3);
    backup(store).await;
}

fn hinted(uid: u32, hint: &str) -> Commit {
    let mut value = entry(&format!("e{uid:04}"), uid);
    value.hint = hint.to_owned();
    Commit::default().put(Record::Entry(value)).audit(draft(hint))
}

async fn assert_another_is_under_way(store: &MemoryStore) {
    let (to, parts) = mpsc::channel(1);
    drop(parts);
    let refused = store.backup(to).await.unwrap_err();
    assert!(matches!(refused, StoreError::BackupUnderWay), "{refused}");
}

#[tokio::test]
async fn nobody_holds_up_a_second_backup_for_ever() {
    let store = some_store().await;
    let (to, parts) = mpsc::channel(1);
    drop(parts);
    // The receiver left at once: that is no error, and the next one is made.
    store.backup(to).await.unwrap();
    backup(store).await;
}

#[tokio::test]
async fn what_is_not_empty_is_not_restored_into() {
    let (bytes, _) = backup(some_store().await).await;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("store")).unwrap();
    fs::write(dir.path().join("store/db"), "mine").unwrap();
    let refused = restored(&bytes, dir.path()).unwrap_err();
    assert!(matches!(refused, RestoreError::NotEmpty(_)), "{refused}");
    assert_eq!(fs::read(dir.path().join("store/db")).unwrap(), b"mine");
}

#[tokio::test]
async fn what_is_cut_or_changed_is_refused_and_leaves_nothing() {
    let (bytes, _) = backup(some_store().await).await;
    let dir = tempfile::tempdir().unwrap();
    for length in (0..bytes.len()).step_by(41) {
        let refused = restored(&bytes[..length], dir.path()).unwrap_err();
        assert!(
            matches!(refused, RestoreError::Foreign | RestoreError::Damaged),
            "{length}: {refused}"
        );
    }
    for place in (0..bytes.len()).step_by(37) {
        let mut changed = bytes.clone();
        changed[place] ^= 4;
        let refused = restored(&changed, dir.path()).unwrap_err();
        assert!(
            matches!(refused, RestoreError::Foreign | RestoreError::Damaged),
            "{place}: {refused}"
        );
    }
    let mut longer = bytes.clone();
    longer.push(0);
    restored(&longer, dir.path()).unwrap_err();
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|name| name.unwrap().file_name())
        .collect();
    assert_eq!(left, ["backup"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Bytes that nobody wrote, under a digest that fits: an error, and no store.
    #[test]
    fn garbage_with_a_right_digest_is_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = b"vouchsafe-backup 1\n".to_vec();
        bytes.extend(body);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        bytes.extend(digest.as_ref());
        let dir = tempfile::tempdir().unwrap();
        prop_assert!(restored(&bytes, dir.path()).is_err());
        prop_assert!(!dir.path().join("store").exists());
    }
}
