//! What the embedded store does when it is opened: again, twice, damaged, from the future, on a full disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_store::{
    AuditReader, ChangeKind, ChangeReader, Commit, CommitError, EntryReader, JournalReader, KeyPurpose,
    NodeReader, Record, Revision, SledConfig, SledStore, Store, StoreError,
};

use crate::samples::{bundle, draft, entry, entry_id, journal, node};

fn open(dir: &Path) -> Result<SledStore, StoreError> {
    SledStore::open(dir, &SledConfig::default())
}

fn put(record: Record) -> Commit {
    Commit::default().put(record)
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let server_id = store.server_id().to_owned();
    let all = put(Record::Entry(entry("e", 1)))
        .put(Record::Node(node("n")))
        .put(Record::Bundle(bundle("example.org", 1)))
        .put(Record::Journal(journal(&server_id, KeyPurpose::JwtSigner, 'a')))
        .change(ChangeKind::Entry(entry_id("e")))
        .audit(draft("r1"));
    store.commit(all).await.unwrap();
    drop(store);

    let store = open(dir.path()).unwrap();
    assert_eq!(store.server_id(), server_id);
    assert_eq!(*store.revisions().borrow(), Revision(1));
    assert_eq!(
        store.entry(&entry_id("e")).await.unwrap().unwrap().value,
        entry("e", 1)
    );
    assert_eq!(store.journal(&server_id).await.unwrap().len(), 1);
    let changes = store.changes(Revision(0), 10).await.unwrap().unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(store.audit_head().await.unwrap(), 1);

    // Numbers go on where they stood.
    let next = store.commit(Commit::default().audit(draft("r2"))).await.unwrap();
    assert_eq!(next, Revision(2));
    let last = store.audit_records(2, 10).await.unwrap();
    assert_eq!(last.first().unwrap().draft.request_id, "r2");
}

#[tokio::test]
async fn a_change_log_stays_pruned_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = SledConfig {
        keep_changes: 3,
        ..SledConfig::default()
    };
    for round in 0..3 {
        let store = SledStore::open(dir.path(), &config).unwrap();
        for _ in 0..5 {
            let change = Commit::default().change(ChangeKind::Entry(entry_id("e")));
            store.commit(change).await.unwrap();
        }
        let newest = 5 * (round + 1);
        assert_eq!(store.changes(Revision(newest - 4), 10).await.unwrap(), None);
        let kept = store.changes(Revision(newest - 3), 10).await.unwrap().unwrap();
        assert_eq!(kept.len(), 3);
    }
}

#[tokio::test]
async fn only_one_may_hold_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    let StoreError::Locked { path } = &refused else {
        unreachable!("{refused}")
    };
    assert_eq!(path, dir.path().to_str().unwrap());
    assert!(refused.to_string().contains("another process"), "{refused}");
    // The holder goes on, and leaves the place when it closes.
    store.commit(Commit::default()).await.unwrap();
    drop(store);
    open(dir.path()).unwrap();
}

#[tokio::test]
async fn commits_that_nobody_waits_for_are_made_before_the_store_closes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    {
        let mut commit = Box::pin(store.commit(put(Record::Node(node("n")))));
        // Polled once: handed over, not finished.
        assert!(futures_poll(&mut commit).await.is_none());
    }
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(*store.revisions().borrow(), Revision(1));
    assert!(store.node(&node("n").id).await.unwrap().is_some());
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn the_directory_is_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/store");
    drop(open(&path).unwrap());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_file_in_the_way_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    fs::write(&path, "not a directory").unwrap();
    let refused = open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Io(_)), "{refused}");
    assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
}

/// Changes a row behind the store's back.
fn tamper(dir: &Path, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
    // A thread of sled's may hold the file a moment longer than the store lives.
    fs::File::open(dir.join("db")).unwrap().lock().unwrap();
    let db = sled::open(dir).unwrap();
    let mut row = db.get(key).unwrap().unwrap().to_vec();
    change(&mut row);
    db.insert(key, row).unwrap();
    db.flush().unwrap();
}

#[tokio::test]
async fn a_newer_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    tamper(dir.path(), b"mstore", |row| {
        let text = String::from_utf8(row.split_off(10)).unwrap();
        assert!(text.contains("\"format\":3"), "{text}");
        row.extend(text.replace("\"format\":3", "\"format\":7").bytes());
    });
    let refused = open(dir.path()).unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::Newer {
                found: 7,
                known: 3,
                ..
            }
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn a_newer_value_is_refused_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for (uid, id) in [(1, "new"), (2, "old")] {
        store.commit(put(Record::Entry(entry(id, uid)))).await.unwrap();
    }
    drop(store);
    // The version is the first byte after sled's own tag.
    tamper(dir.path(), b"enew", |row| *row.get_mut(1).unwrap() = 2);
    let store = open(dir.path()).unwrap();
    let refused = store.entry(&entry_id("new")).await.unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{refused}"
    );
    let overwrite = store.commit(put(Record::Entry(entry("new", 3)))).await;
    assert!(
        matches!(overwrite, Err(CommitError::Store(StoreError::Newer { .. }))),
        "{overwrite:?}"
    );
    assert!(store.entry(&entry_id("old")).await.unwrap().is_some());
    store.commit(put(Record::Entry(entry("old", 4)))).await.unwrap();
}

#[tokio::test]
async fn a_damaged_value_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.commit(put(Record::Entry(entry("e", 1)))).await.unwrap();
    drop(store);
    for cut in [0, 1, 5, 10, 40] {
        tamper(dir.path(), b"ee", |row| row.truncate(cut));
        let store = open(dir.path()).unwrap();
        let refused = store.entry(&entry_id("e")).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Corrupt(_)),
            "{cut} bytes: {refused}"
        );
        let all = store.entries(None, 10).await.unwrap_err();
        assert!(matches!(all, StoreError::Corrupt(_)), "{cut} bytes: {all}");
        drop(store);
        // Written anew for the next length.
        tamper(dir.path(), b"ee", |row| row.resize(80, b'{'));
    }
}

#[tokio::test]
async fn damaged_files_are_an_error_and_no_panic() {
    type Damage = fn(&Path);
    let overwrite: Damage = |file| {
        let len = usize::try_from(fs::metadata(file).unwrap().len()).unwrap();
        fs::write(file, vec![0xaa; len]).unwrap();
    };
    let cases: [(&str, Damage); 3] = [
        ("snap.", overwrite),
        ("snap.", |file| fs::write(file, "short").unwrap()),
        ("conf", overwrite),
    ];
    for (name, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        // The second opening writes a snapshot of what the first left.
        for n in 0..3 {
            let store = open(dir.path()).unwrap();
            store.commit(put(Record::Entry(entry("e", n)))).await.unwrap();
        }
        let files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name))
            .collect();
        assert!(!files.is_empty(), "no file `{name}`");
        files.iter().for_each(|file| damage(file));
        let refused = open(dir.path()).unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt(_)), "{name}: {refused}");
    }
}

#[tokio::test]
async fn without_room_reads_go_on_and_writes_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.commit(put(Record::Entry(entry("e", 1)))).await.unwrap();
    drop(store);
    let full = SledConfig {
        reserve_bytes: u64::MAX,
        ..SledConfig::default()
    };
    let store = SledStore::open(dir.path(), &full).unwrap();
    let refused = store.commit(put(Record::Entry(entry("e", 2)))).await.unwrap_err();
    assert!(
        matches!(refused, CommitError::Store(StoreError::Full(_))),
        "{refused}"
    );
    assert!(refused.to_string().contains("free some space"), "{refused}");
    let kept = store.entry(&entry_id("e")).await.unwrap().unwrap();
    assert_eq!(kept.value, entry("e", 1));
    assert_eq!(*store.revisions().borrow(), Revision(1));
    drop(store);

    let fresh = tempfile::tempdir().unwrap();
    let refused = SledStore::open(fresh.path(), &full).unwrap_err();
    assert!(matches!(refused, StoreError::Full(_)), "{refused}");
    // Nothing half made stays in the way.
    open(fresh.path()).unwrap();
}

/// Whatever stands in sled's `blobs` was never synced by sled and would be lost with the power.
#[tokio::test]
async fn nothing_is_kept_outside_the_file_that_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let long_path = "/a".repeat(1000);
    let mut commits = Vec::new();
    for n in 0..600_u32 {
        let mut long = node("n");
        long.id = SpiffeId::new(&format!("spiffe://example.org/spire/agent{long_path}/{n}")).unwrap();
        long.agent_version = "v".repeat(2000 + 50 * usize::try_from(n).unwrap());
        commits.push(put(Record::Node(long)));
        let mut wide = entry(&format!("e{n}"), n);
        wide.hint = "h".repeat(3000);
        wide.federates_with = vec![TrustDomain::new("other.org").unwrap(); 20];
        commits.push(put(Record::Entry(wide)).audit(draft(&long_path)));
    }
    for chunk in commits.chunks(100) {
        // All at once, so that groups and batches are large too.
        let mut all = Commit::default();
        for commit in chunk {
            all.mutations.extend(commit.mutations.iter().cloned());
            all.audit.extend(commit.audit.iter().cloned());
        }
        store.commit(all).await.unwrap();
    }
    let outside = || fs::read_dir(dir.path().join("blobs")).unwrap().count();
    assert_eq!(outside(), 0);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.nodes(None, 1000).await.unwrap().len(), 600);
    assert_eq!(outside(), 0);
}
