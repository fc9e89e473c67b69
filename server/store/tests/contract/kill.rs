//! `kill -9` and a disk that refuses: what was acknowledged is there, and nothing is half there.
//!
//! The process that is killed is this test binary again: it is told the directory by an argument.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tokio::task::JoinSet;
use vouchsafe_store::{
    AuditReader, ChangeKind, ChangeReader, Commit, CommitError, NodeReader, Record, Revision, SledConfig,
    SledStore, Store, StoreError,
};

use crate::samples::{draft, node};

const ROUNDS: u32 = 10;
const CALLERS: u32 = 4;
const DIR: &str = "dir=";

fn open(dir: &Path) -> SledStore {
    SledStore::open(dir, &SledConfig::default()).unwrap()
}

/// The directory that this process was told, if it is one that another started.
fn told() -> Option<PathBuf> {
    std::env::args().find_map(|argument| argument.strip_prefix(DIR).map(PathBuf::from))
}

/// The arguments with which this binary runs only `test`, on `dir`.
fn arguments(test: &str, dir: &Path) -> [String; 4] {
    [
        "--exact".to_owned(),
        "--nocapture".to_owned(),
        format!("kill::{test}"),
        format!("{DIR}{}", dir.display()),
    ]
}

fn this_binary() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn commit_of(name: &str) -> Commit {
    let mut value = node(name);
    // Some values are long, so that they are cut.
    value.agent_version = "v".repeat(name.len() * 300);
    Commit::default()
        .change(ChangeKind::Node(value.id.clone()))
        .put(Record::Node(value))
        .audit(draft(name))
}

/// Writes a line to the process that started this one.
fn tell(line: &str) {
    std::io::stdout()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}

/// Commits until the process is killed, or `limit` a caller, and says each acknowledged one.
async fn commit_and_tell(store: Arc<SledStore>, limit: u64) {
    let from = store.revisions().borrow().0;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            for n in 0..limit {
                let name = format!("{from}-{caller}-{n}");
                let revision = store.commit(commit_of(&name)).await.unwrap();
                tell(&format!("ack {} {name}", revision.0));
            }
        });
    }
    callers.join_all().await;
}

/// Run by the other test, this commits until it is killed; run by itself, it commits a few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_commits() {
    let (dir, limit, _temporary) = match told() {
        Some(dir) => (dir, u64::MAX, None),
        None => {
            let temporary = tempfile::tempdir().unwrap();
            (temporary.path().to_owned(), 10, Some(temporary))
        }
    };
    let store = Arc::new(open(&dir));
    commit_and_tell(Arc::clone(&store), limit).await;
    assert_eq!(*store.revisions().borrow(), Revision(limit * u64::from(CALLERS)));
}

/// Numbers that look random, the same for one seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Reads acknowledgements, kills the process after `count` of them, and returns all that it gave.
fn kill_after(mut child: Child, count: u64) -> Vec<(Revision, String)> {
    let mut acks = Vec::new();
    let mut killed = false;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        // The last line may be cut: then nobody heard it.
        if let Some(ack) = line.strip_suffix('\n').and_then(|line| line.strip_prefix("ack ")) {
            let (revision, name) = ack.split_once(' ').unwrap();
            acks.push((Revision(revision.parse().unwrap()), name.to_owned()));
        }
        line.clear();
        if !killed && acks.len() as u64 >= count {
            child.kill().unwrap();
            killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(killed, "it ended by itself: {status}");
    acks
}

async fn everything_acknowledged_is_there(store: &SledStore, acks: &[(Revision, String)]) {
    for (revision, name) in acks {
        let found = store.node(&node(name).id).await.unwrap().unwrap();
        assert_eq!(found.revision, *revision, "{name}");
        let [Some(record)] = [store.audit_records(revision.0, 1).await.unwrap().pop()] else {
            unreachable!("no audit record {}", revision.0)
        };
        assert_eq!(&record.draft.request_id, name);
    }
}

/// Each commit wrote one value, one change and one audit record: all three have the same numbers.
async fn nothing_is_half_there(store: &SledStore) {
    let head = *store.revisions().borrow();
    assert_eq!(store.audit_head().await.unwrap(), head.0);
    let records = store.audit_records(1, usize::MAX).await.unwrap();
    let changes = store.changes(Revision(0), usize::MAX).await.unwrap().unwrap();
    assert_eq!(u64::try_from(records.len()).unwrap(), head.0);
    assert_eq!(records.len(), changes.len());
    for (number, (record, change)) in (1..).zip(records.iter().zip(&changes)) {
        assert_eq!((record.seq, change.revision), (number, Revision(number)));
        let value = node(&record.draft.request_id);
        assert_eq!(change.kind, ChangeKind::Node(value.id.clone()));
        let found = store.node(&value.id).await.unwrap().unwrap();
        assert_eq!(found.revision, change.revision);
        assert_eq!(
            found.value.agent_version.len(),
            record.draft.request_id.len() * 300
        );
    }
    let nodes = store.nodes(None, usize::MAX).await.unwrap();
    assert_eq!(nodes.len(), records.len());
}

#[tokio::test]
async fn kill_9_at_any_moment_loses_nothing_acknowledged() {
    let seed = u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().unwrap()) | 1;
    println!("seed {seed}");
    let mut numbers = Numbers(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut acks = Vec::new();
    for round in 0..ROUNDS {
        let count = 1 + numbers.next(150);
        let child = Command::new(this_binary())
            .args(arguments("a_process_that_commits", dir.path()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        acks.extend(kill_after(child, count));
        println!("round {round}: killed after {count}, {} acknowledged", acks.len());
        let store = open(dir.path());
        everything_acknowledged_is_there(&store, &acks).await;
        nothing_is_half_there(&store).await;
    }
}

/// Run by the other test under a limit of file size, this commits until the disk refuses; run by itself, a few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_disk_refuses() {
    let Some(dir) = told() else {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).commit(commit_of("n")).await.unwrap();
        return;
    };
    let store = open(&dir);
    for n in 0_u64.. {
        let name = format!("a-name-that-makes-long-values-{n}");
        match store.commit(commit_of(&name)).await {
            Ok(revision) => tell(&format!("ack {} {name}", revision.0)),
            Err(CommitError::Store(StoreError::Full(_))) => break,
            Err(other) => unreachable!("{other}"),
        }
    }
    let head = *store.revisions().borrow();
    // From now on it says that it takes no writes, and reads go on.
    let refused = store.commit(Commit::default()).await.unwrap_err();
    assert!(
        matches!(
            refused,
            // The second, where so much time has gone by that the store was read again.
            CommitError::Store(StoreError::Closed(_) | StoreError::Full(_))
        ),
        "{refused}"
    );
    assert_eq!(*store.revisions().borrow(), head);
    assert_eq!(store.audit_head().await.unwrap(), head.0);
    assert_eq!(store.nodes(None, 1).await.unwrap().len(), 1);
    tell("refused");
}

#[tokio::test]
async fn a_disk_that_refuses_under_sled_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // In blocks of 512 bytes; the signal that goes with the limit is ignored, so that the write fails.
    let limited = "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", limited])
        .arg(this_binary())
        .args(arguments("a_process_whose_disk_refuses", dir.path()))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("refused"), "{text}\n{errors}");
    let acks: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ack ")?.split_once(' '))
        .map(|(revision, name)| (Revision(revision.parse().unwrap()), name.to_owned()))
        .collect();
    assert!(acks.len() > 10, "{text}");
    // Without the limit, it opens and goes on.
    let store = open(dir.path());
    everything_acknowledged_is_there(&store, &acks).await;
    nothing_is_half_there(&store).await;
    store.commit(commit_of("again")).await.unwrap();
}
