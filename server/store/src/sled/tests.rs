//! The sync, the chunks and what happens when sled errs.
//!
//! Taken out, the fdatasync is missed by `an_answer_never_comes_before_the_sync`: the gate is never entered
//! and the commit is answered. Without the flush before it, `what_is_synced_has_been_written` fails.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use vouchsafe_audit::{Draft, Outcome, Principal};

use super::*;
use crate::{
    AuditReader, ChangeKind, ChangeReader, Commit, CommitError, EntryId, JoinToken, Key, Record, Revision,
    Store, TokenHash, TokenReader,
};

const LONGEST_WAIT: Duration = Duration::from_secs(10);

fn token(hash: &str) -> JoinToken {
    JoinToken {
        hash: TokenHash(hash.to_owned()),
        expires_at: time::OffsetDateTime::UNIX_EPOCH,
        alias: None,
        spent: None,
    }
}

fn commit(hash: &str) -> Commit {
    Commit::default()
        .put(Record::Token(token(hash)))
        .change(ChangeKind::Entry(EntryId::new("e").unwrap()))
        .audit(Draft {
            at: time::OffsetDateTime::UNIX_EPOCH,
            request_id: hash.to_owned(),
            traceparent: None,
            principal: Principal::System {
                component: "test".to_owned(),
            },
            scope: "none".into(),
            action: "token.create".into(),
            outcome: Outcome::Done,
            code: None,
            reason: None,
            facts: BTreeMap::new(),
        })
}

/// A sync that is told by the test when to end, and how.
#[derive(Debug)]
struct Gate {
    dir: PathBuf,
    entered: Sender<Vec<u8>>,
    verdicts: Mutex<Receiver<io::Result<()>>>,
    count: Arc<AtomicUsize>,
}

/// The test's side of a [`Gate`].
struct Keeper {
    entered: Receiver<Vec<u8>>,
    verdicts: Sender<io::Result<()>>,
    count: Arc<AtomicUsize>,
}

impl DataSync for Gate {
    fn sync(&self) -> io::Result<()> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let file = std::fs::read(self.dir.join("db")).unwrap();
        let _test_ended = self.entered.send(file);
        self.verdicts.lock().unwrap().recv().unwrap_or(Ok(()))
    }
}

impl Keeper {
    /// Waits until a sync begins; returns what was in the file then.
    fn entered(&mut self) -> Vec<u8> {
        let waiting = || self.entered.recv_timeout(LONGEST_WAIT);
        let found = tokio::task::block_in_place(waiting);
        found.expect("no sync began")
    }

    fn end(&self, verdict: io::Result<()>) {
        self.verdicts.send(verdict).unwrap();
    }
}

/// A store whose sync is in the test's hands from the first commit on.
fn gated(dir: &Path) -> (Arc<SledStore>, Keeper) {
    let (enter, entered) = channel();
    let (verdicts, judged) = channel();
    let count = Arc::new(AtomicUsize::new(0));
    let gate = Gate {
        dir: dir.to_owned(),
        entered: enter,
        verdicts: Mutex::new(judged),
        count: Arc::clone(&count),
    };
    // One sync when it opens, one for its first row.
    verdicts.send(Ok(())).unwrap();
    verdicts.send(Ok(())).unwrap();
    let store = SledStore::open_with(dir, &SledConfig::default(), |_| Ok(Box::new(gate))).unwrap();
    for _ in 0..2 {
        entered.recv_timeout(LONGEST_WAIT).expect("no sync began");
    }
    count.store(0, Ordering::SeqCst);
    let keeper = Keeper {
        entered,
        verdicts,
        count,
    };
    (Arc::new(store), keeper)
}

/// sled takes any file that begins like a snapshot for one; power was lost while this one was written.
#[tokio::test]
async fn a_snapshot_that_was_never_finished_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), &SledConfig::default()).unwrap();
    store.commit(commit("there")).await.unwrap();
    drop(store);
    for written in [&b""[..], &[0; 100]] {
        std::fs::write(dir.path().join("snap.FFFFFFFFFFFFFFFF.generating"), written).unwrap();
        let store = SledStore::open(dir.path(), &SledConfig::default()).unwrap();
        let there = store.token(&TokenHash("there".to_owned())).await.unwrap();
        assert!(there.is_some());
    }
}

/// The parameters are whole and on the disk before there is anything else: sled opens no store where they are torn.
#[test]
fn a_store_is_begun_with_its_parameters() {
    let dir = tempfile::tempdir().unwrap();
    // Power was lost in each step of the beginning.
    std::fs::create_dir(dir.path().join("new")).unwrap();
    std::fs::write(dir.path().join("new/conf"), [0; 40]).unwrap();
    std::fs::write(dir.path().join("conf.new"), [0; 400]).unwrap();
    let made = disk::tidy(dir.path(), |scratch| {
        assert!(!scratch.exists());
        assert!(!dir.path().join("conf").exists());
        std::fs::create_dir(scratch).unwrap();
        std::fs::write(scratch.join("conf"), "whole").unwrap();
        Ok(())
    });
    made.unwrap();
    assert_eq!(std::fs::read(dir.path().join("conf")).unwrap(), b"whole");
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "nothing else is left");
    disk::tidy(dir.path(), |_| panic!("they are there")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a test has no task group")]
async fn an_answer_never_comes_before_the_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut keeper) = gated(dir.path());
    for revision in 1..=3 {
        let writer = Arc::clone(&store);
        let commit = tokio::spawn(async move { writer.commit(commit(&format!("t{revision}"))).await });
        keeper.entered();
        assert!(!commit.is_finished());
        // Readers are not held up, and hear of nothing that could still be lost.
        assert_eq!(*store.revisions().borrow(), Revision(revision - 1));
        assert_eq!(store.audit_head().await.unwrap(), revision - 1);
        assert_eq!(
            store.changes(Revision(revision - 1), 10).await.unwrap(),
            Some(vec![])
        );
        assert!(store.audit_records(revision, 10).await.unwrap().is_empty());
        keeper.end(Ok(()));
        assert_eq!(commit.await.unwrap().unwrap(), Revision(revision));
        assert_eq!(*store.revisions().borrow(), Revision(revision));
    }
    assert_eq!(keeper.count.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a test has no task group")]
async fn what_is_synced_has_been_written() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut keeper) = gated(dir.path());
    let needle = "a-hash-that-is-found-in-the-file";
    let writer = Arc::clone(&store);
    let commit = tokio::spawn(async move { writer.commit(commit(needle)).await });
    let file = keeper.entered();
    keeper.end(Ok(()));
    commit.await.unwrap().unwrap();
    let found = file.windows(needle.len()).any(|bytes| bytes == needle.as_bytes());
    assert!(found, "sync began before the value was in the file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a test has no task group")]
async fn commits_that_wait_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut keeper) = gated(dir.path());
    let spawn = |n: usize| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.commit(commit(&format!("t{n}"))).await })
    };
    let first = spawn(0);
    keeper.entered();
    // While the first is on its way, sixteen more gather; a permit less each time one has queued.
    let rest: Vec<_> = (1..=16).map(spawn).collect();
    tokio::time::timeout(LONGEST_WAIT, async {
        while store.queued() < 16 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    keeper.end(Ok(()));
    first.await.unwrap().unwrap();
    keeper.entered();
    keeper.end(Ok(()));
    for commit in rest {
        commit.await.unwrap().unwrap();
    }
    assert_eq!(*store.revisions().borrow(), Revision(17));
    assert_eq!(keeper.count.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_closes_the_store_for_writes() {
    for (error, full) in [
        (io::Error::from_raw_os_error(5), false),
        (io::Error::from_raw_os_error(28), true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (store, keeper) = gated(dir.path());
        keeper.end(Ok(()));
        store.commit(commit("kept")).await.unwrap();
        assert!(store.takes_writes().is_ok());
        keeper.end(Err(error));
        match store.commit(commit("lost")).await {
            Err(CommitError::Store(StoreError::Io(_))) if !full => {}
            Err(CommitError::Store(StoreError::Full(_))) if full => {}
            other => panic!("{other:?}"),
        }
        // A sync that failed is never tried again: the kernel may have dropped what it could not write. If it were
        // tried, it would succeed.
        keeper.end(Ok(()));
        let refused = store.commit(commit("refused")).await.unwrap_err();
        assert!(
            matches!(refused, CommitError::Store(StoreError::Closed(_))),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("start the server again"),
            "{refused}"
        );
        assert!(
            matches!(store.takes_writes(), Err(StoreError::Closed(_))),
            "health must tell"
        );
        assert_eq!(keeper.count.load(Ordering::SeqCst), 2);
        assert_eq!(*store.revisions().borrow(), Revision(1));
        assert_eq!(
            store.changes(Revision(1), 10).await.unwrap(),
            Some(vec![]),
            "the lost commit is announced"
        );
        assert!(store.token(&token("kept").hash).await.unwrap().is_some());
    }
}

/// By our own lock: sled has one too, but on a file that it opens late and may hold too long.
#[test]
fn the_lock_has_one_holder_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let held = disk::prepare(dir.path()).unwrap();
    let refused = disk::prepare(dir.path());
    assert!(matches!(refused, Err(StoreError::Locked { .. })), "{refused:?}");
    drop(held);
    assert!(disk::prepare(dir.path()).is_ok());
}

#[test]
fn the_synced_file_is_the_one_that_sled_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), &SledConfig::default()).unwrap();
    let sync = FileSync::open(dir.path()).unwrap();
    let inode = std::fs::metadata(dir.path().join("db")).unwrap().ino();
    assert_eq!(sync.inode(), inode);
    drop(store);
}

fn kv(dir: &Path) -> SledKv {
    let lock = disk::prepare(dir).unwrap();
    SledKv {
        db: RwLock::new(Some(::sled::open(dir).unwrap())),
        disk: Box::new(FileSync::open(dir).unwrap()),
        dir: dir.to_owned(),
        cache_bytes: 1 << 20,
        reached: Reached::open(dir).unwrap(),
        reserve_bytes: 0,
        damage: OnceLock::new(),
        sync_failed: AtomicBool::new(false),
        _lock: lock,
    }
}

/// How many rows sled has, chunks and all.
fn rows(kv: &SledKv) -> usize {
    kv.on_db("count", |db| Ok(db.len())).unwrap()
}

#[test]
fn a_replaced_long_value_leaves_no_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let kv = kv(dir.path());
    for len in [10_000, 50_000, 3072, 3073, 0, 9000] {
        let row = Some(vec![7; len]);
        kv.apply(Rows::from([(b"k".to_vec(), row.clone())])).unwrap();
        assert_eq!(kv.get(b"k").unwrap(), row);
        let chunks = if len > 3072 { len.div_ceil(3072) } else { 0 };
        assert_eq!(rows(&kv), 1 + chunks, "{len} bytes");
    }
    kv.apply(Rows::from([(b"k".to_vec(), None)])).unwrap();
    assert_eq!(rows(&kv), 0);
}

#[test]
fn a_reader_sees_one_long_value_or_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let kv = kv(dir.path());
    let write = |n: u32| {
        let letter = b'a' + u8::try_from(n % 26).unwrap();
        let len = 4000 + usize::try_from(n % 7).unwrap() * 3000;
        kv.apply(Rows::from([(b"k".to_vec(), Some(vec![letter; len]))]))
            .unwrap();
    };
    write(0);
    let whole = |value: &[u8]| {
        let first = *value.first().unwrap();
        assert!(value.iter().all(|byte| *byte == first), "parts of two values");
        assert_eq!(value.len() % 3000, 1000);
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    whole(&kv.get(b"k").unwrap().unwrap());
                    let range = kv.range(Bound::Unbounded, b"z".to_vec(), 10).unwrap();
                    whole(&range.first().unwrap().1);
                }
            });
        }
        (1..500).for_each(write);
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_missing_chunk_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let kv = kv(dir.path());
    kv.apply(Rows::from([(b"k".to_vec(), Some(vec![1; 9000]))]))
        .unwrap();
    assert!(kv.check_room().is_ok());
    let (last, _) = kv.on_db("read", |db| db.last()).unwrap().unwrap();
    kv.on_db("remove", |db| db.remove(last)).unwrap();
    let found = kv.get(b"k");
    assert!(matches!(found, Err(StoreError::Corrupt(_))), "{found:?}");
    // From then on nothing is written, and the file and the way out are named.
    let refused = kv.check_room().unwrap_err().to_string();
    assert!(
        refused.contains("/db`") && refused.contains("start with a copy of the data_dir"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_too_long_is_refused_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(dir.path(), &SledConfig::default()).unwrap();
    let refused = store.commit(commit(&"a".repeat(2200))).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Store(StoreError::Unstorable(_))),
        "{refused}"
    );
    let key = Key::Token(TokenHash("a".repeat(1 << 20)));
    store.commit(Commit::default().delete(key)).await.unwrap();
    assert_eq!(
        store.commit(commit(&"a".repeat(2199))).await.unwrap(),
        Revision(2)
    );
}

#[test]
fn a_panic_in_sled_is_an_error() {
    let text = guarded::<()>("open `x`", || panic!("torn {}", 7)).unwrap_err();
    assert_eq!(text.to_string(), "stored data is damaged: open `x`: torn 7");
}

#[test]
fn rows_of_unknown_form_are_damage() {
    let rows: [&[u8]; 5] = [b"", &[2, 0], &[1], &[1, 0, 0, 0], &[1; 14]];
    for row in rows {
        let read = Stored::read(row);
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{row:?}: {read:?}");
    }
}

proptest! {
    #[test]
    fn a_value_is_the_sum_of_its_chunks(len in 0_usize..20_000, id: u64, fill: u8) {
        let value: Vec<u8> = (0..len).map(|n| fill.wrapping_add(n.to_le_bytes()[0] % 251)).collect();
        let rows = chunks::cut(b"k".to_vec(), &value, || Ok(id)).unwrap();
        prop_assert!(rows.iter().all(|(_, row)| row.len() <= 3073));
        let mut rows = rows.into_iter();
        let (key, first) = rows.next().unwrap();
        prop_assert_eq!(key, b"k".to_vec());
        match Stored::read(&first).unwrap() {
            Stored::Here(here) => {
                prop_assert_eq!(here, value);
                prop_assert_eq!(rows.count(), 0);
            }
            Stored::Chunks { id: found, count } => {
                prop_assert_eq!(found, id);
                let (keys, parts): (Vec<_>, Vec<_>) = rows.unzip();
                prop_assert_eq!(keys, chunks::keys(id, count).collect::<Vec<_>>());
                prop_assert_eq!(parts.concat(), value);
            }
        }
    }
}
