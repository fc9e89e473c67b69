//! The core on a map that fails, panics or blocks.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use super::*;
use crate::memory::MemoryKv;
use crate::{JoinToken, Record, TokenHash, TokenReader};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    NoRoom,
    Apply,
    Sync,
    PanicInApply,
    PanicInSync,
    Reopen,
}

/// A map whose writes block, and go wrong as told.
struct Faulty {
    inner: MemoryKv,
    fault: Mutex<Fault>,
    synced: AtomicBool,
    applied: AtomicUsize,
    sync_failed: AtomicBool,
    reopened: AtomicUsize,
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) == fault
    }
}

impl Kv for Faulty {
    const BLOCKS: bool = true;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }

    fn range(&self, from: Bound<Vec<u8>>, to: Vec<u8>, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.inner.range(from, to, limit)
    }

    fn check_room(&self) -> Result<(), StoreError> {
        if self.is(Fault::NoRoom) {
            return Err(StoreError::Full("no room".to_owned()));
        }
        Ok(())
    }

    fn check_key(&self, _key: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn apply(&self, rows: Rows) -> Result<(), StoreError> {
        assert!(!self.is(Fault::PanicInApply), "told to panic");
        if self.is(Fault::Apply) {
            return Err(StoreError::Io("told to fail".to_owned()));
        }
        self.applied.fetch_add(1, Ordering::SeqCst);
        self.inner.apply(rows)
    }

    fn sync(&self, _reached: crate::Revision) -> Result<(), StoreError> {
        assert!(!self.is(Fault::PanicInSync), "told to panic");
        if self.is(Fault::Sync) {
            self.sync_failed.store(true, Ordering::SeqCst);
            return Err(StoreError::Io("told to fail".to_owned()));
        }
        self.synced.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Corrupt(why.to_owned())
    }

    fn reached(&self) -> Option<crate::Revision> {
        None
    }

    fn can_reopen(&self) -> bool {
        !self.sync_failed.load(Ordering::SeqCst)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        self.reopened.fetch_add(1, Ordering::SeqCst);
        if self.is(Fault::Reopen) {
            return Err(StoreError::Io("told to fail".to_owned()));
        }
        Ok(())
    }
}

fn store() -> KvStore<Faulty> {
    let kv = Faulty {
        inner: MemoryKv::default(),
        fault: Mutex::new(Fault::None),
        synced: AtomicBool::new(false),
        applied: AtomicUsize::new(0),
        sync_failed: AtomicBool::new(false),
        reopened: AtomicUsize::new(0),
    };
    KvStore::fresh(kv, "server-1".to_owned(), 100)
}

fn commit(hash: &str) -> Commit {
    Commit::default().put(Record::Token(JoinToken {
        hash: TokenHash(hash.to_owned()),
        expires_at: time::OffsetDateTime::UNIX_EPOCH,
        alias: None,
        spent: None,
    }))
}

#[tokio::test]
async fn a_failed_write_is_the_last() {
    for fault in [Fault::Apply, Fault::Sync, Fault::PanicInApply, Fault::PanicInSync] {
        let store = store();
        store.commit(commit("kept")).await.unwrap();
        *store.core.kv.fault.lock().unwrap() = fault;
        let failed = store.commit(commit("lost")).await;
        assert!(
            matches!(failed, Err(CommitError::Store(_))),
            "{fault:?}: {failed:?}"
        );
        // Not even when the cause has gone.
        *store.core.kv.fault.lock().unwrap() = Fault::None;
        for _ in 0..3 {
            let refused = store.commit(commit("refused")).await;
            assert!(
                matches!(refused, Err(CommitError::Store(StoreError::Closed(_)))),
                "{fault:?}: {refused:?}"
            );
        }
        assert_eq!(*store.revisions().borrow(), Revision(1));
        let kept = store.token(&TokenHash("kept".to_owned())).await.unwrap();
        assert!(kept.is_some());
    }
}

#[tokio::test]
async fn want_of_room_passes() {
    let store = store();
    *store.core.kv.fault.lock().unwrap() = Fault::NoRoom;
    let refused = store.commit(commit("t")).await;
    assert!(
        matches!(refused, Err(CommitError::Store(StoreError::Full(_)))),
        "{refused:?}"
    );
    assert_eq!(store.core.kv.applied.load(Ordering::SeqCst), 0);
    *store.core.kv.fault.lock().unwrap() = Fault::None;
    assert_eq!(store.commit(commit("t")).await.unwrap(), Revision(1));
}

#[tokio::test]
async fn a_conflict_writes_nothing_at_all() {
    let store = store();
    store.commit(commit("t")).await.unwrap();
    store.core.kv.synced.store(false, Ordering::SeqCst);
    let key = crate::Key::Token(TokenHash("t".to_owned()));
    let refused = store.commit(commit("t").expect(crate::Expect::Absent(key))).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    assert_eq!(store.core.kv.applied.load(Ordering::SeqCst), 1);
    assert!(!store.core.kv.synced.load(Ordering::SeqCst));
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let store = store();
    // One blocking thread, which is busy: the leader never starts.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (free, busy) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        tokio::task::spawn_blocking(move || busy.recv());
        let mut commit = Box::pin(store.commit(commit("t")));
        std::future::poll_fn(|context| {
            assert!(commit.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    });
    let closing = std::thread::spawn(move || runtime.shutdown_background());
    closing.join().unwrap();
    drop(free);
    // Would wait for ever if the leader that never ran still held its place.
    drop(store);
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_does_not_run_on_while_a_commit_is_made() {
    let store = store();
    let begun = tokio::time::Instant::now();
    for n in 0..50 {
        let limit = std::time::Duration::from_secs(5);
        let made = tokio::time::timeout(limit, store.commit(commit(&n.to_string())));
        made.await.unwrap().unwrap();
    }
    assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
}

async fn later() {
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_write_that_failed_the_map_is_read_again_and_writes_go_on() {
    let store = store();
    store.commit(commit("kept")).await.unwrap();
    *store.core.kv.fault.lock().unwrap() = Fault::Apply;
    store.commit(commit("lost")).await.unwrap_err();
    *store.core.kv.fault.lock().unwrap() = Fault::Reopen;
    later().await;
    let refused = store.commit(commit("refused")).await.unwrap_err().to_string();
    assert!(refused.contains("tried again by itself"), "{refused}");
    *store.core.kv.fault.lock().unwrap() = Fault::NoRoom;
    later().await;
    store.commit(commit("no room")).await.unwrap_err();
    assert_eq!(store.core.kv.reopened.load(Ordering::SeqCst), 1);
    *store.core.kv.fault.lock().unwrap() = Fault::None;
    assert_eq!(store.commit(commit("again")).await.unwrap(), Revision(2));
    assert!(store.takes_writes().is_ok());
    assert_eq!(store.core.kv.reopened.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_sync_that_failed_nothing_is_tried_again() {
    let store = store();
    store.commit(commit("kept")).await.unwrap();
    *store.core.kv.fault.lock().unwrap() = Fault::Sync;
    store.commit(commit("lost")).await.unwrap_err();
    *store.core.kv.fault.lock().unwrap() = Fault::None;
    for _ in 0..3 {
        later().await;
        let refused = store.commit(commit("refused")).await.unwrap_err().to_string();
        assert!(refused.contains("start the server again"), "{refused}");
    }
    assert_eq!(store.core.kv.reopened.load(Ordering::SeqCst), 0);
}
