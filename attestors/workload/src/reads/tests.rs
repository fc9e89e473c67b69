//! What hung reads cost, and whom.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Caller;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use vouchsafe_attestors::Reach;
use vouchsafe_sys::PidFd;

use super::*;

fn process_of(uid: u32) -> Process {
    let pidfd = PidFd::of_self().unwrap();
    let pid = pidfd.pid().unwrap();
    Process {
        pidfd: Arc::new(pidfd),
        pid,
        uid,
        gid: 0,
        reach: Reach::Full,
        program: None,
    }
}

#[tokio::test]
async fn reads_that_hang_cost_only_their_own_uid() {
    let reads = Reads::new(Duration::from_millis(50), 3);
    let mut held = Vec::new();
    for _ in 0..3 {
        let (release, wait) = mpsc::channel::<()>();
        held.push(release);
        let process = process_of(1);
        let hung = reads.run(&process, "a test", move || {
            let _ended = wait.recv();
            Ok(())
        });
        assert!(matches!(hung.await, Err(WorkloadAttestError::TimedOut { .. })));
    }
    let same_uid = reads.run(&process_of(1), "a test", || Ok(())).await;
    assert!(matches!(same_uid, Err(WorkloadAttestError::TimedOut { .. })));
    // Only the deadline of this machine's load stands between another uid and its answer.
    let patient = Reads {
        limit: Duration::from_secs(30),
        per_uid: 3,
        owners: None,
        places: Mutex::new(reads.places.lock().unwrap().clone()),
    };
    assert!(patient.run(&process_of(2), "a test", || Ok(())).await.is_ok());
    drop(held);
    assert!(patient.run(&process_of(1), "a test", || Ok(())).await.is_ok());
}

/// Two places a uid, so eight an owner; the runtime has one thread more than those.
#[test]
fn many_uids_of_one_owner_that_hang_leave_threads_to_others() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "1000:100000:65536\n").unwrap();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.max_blocking_threads(9).enable_all().build().unwrap();
    // Ends before the runtime does, also where the test fails: the reads that hang wait for it.
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let limit = Duration::from_millis(300);
    let reads = Reads::new(limit, 2).with_subordinate_uids(file.path());
    let begun = Arc::new(AtomicUsize::new(0));
    let hang = |uid: u32| {
        let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
        let (reads, process) = (&reads, process_of(uid));
        async move {
            let hung = reads.run(&process, "a test", move || {
                begun.fetch_add(1, Ordering::Relaxed);
                drop(gate.lock());
                Ok(())
            });
            assert!(matches!(hung.await, Err(WorkloadAttestError::TimedOut { .. })));
        }
    };
    runtime.block_on(async {
        let uids = (100_000..100_100).chain([1000, 1000]);
        futures_util::future::join_all(uids.map(hang)).await;
        assert_eq!(begun.load(Ordering::Relaxed), 2 * OWNER_READS_FACTOR);
        let patient = Reads {
            limit: PATIENCE,
            per_uid: 2,
            owners: reads.owners.clone(),
            places: Mutex::new(reads.places.lock().unwrap().clone()),
        };
        assert!(patient.run(&process_of(1001), "a test", || Ok(())).await.is_ok());
        drop(held);
        assert!(
            patient
                .run(&process_of(100_100), "a test", || Ok(()))
                .await
                .is_ok()
        );
    });
}

#[tokio::test]
async fn uids_that_nobody_uses_are_forgotten() {
    let reads = Reads::default();
    for uid in 0..2_000 {
        reads.run(&process_of(uid), "a test", || Ok(())).await.unwrap();
    }
    assert!(reads.places.lock().unwrap().len() <= USERS_BEFORE_SWEEP);
}

/// The one worker of this runtime has the sockets, the clock and what was put off to itself.
#[test]
fn reads_that_hang_hold_up_neither_sockets_nor_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    // Ends before the runtime does, also where the test fails: the reads that hang wait for it.
    let gate = Arc::new(Mutex::new(()));
    let (begun, seen) = mpsc::channel();
    let _guard = runtime.enter();
    let listener = UnixListener::bind(&path).unwrap();
    let held = gate.lock().unwrap();
    let reads = Arc::new(Reads::new(Duration::from_millis(200), 8));
    runtime.spawn(serve(listener, reads, Arc::clone(&gate), begun));
    let mut hung = Vec::new();
    for _ in 0..3 {
        hung.push(call(&path, HANG));
        seen.recv_timeout(PATIENCE).expect("the read begins");
    }
    for caller in &mut hung {
        assert_eq!(answer(caller), TIMED_OUT);
    }
    assert_eq!(answer(&mut call(&path, READ)), FOUND);
    drop(held);
}

/// The deadline of what must not hang.
const PATIENCE: Duration = Duration::from_secs(20);

const HANG: u8 = b'h';
const READ: u8 = b'r';
const TIMED_OUT: u8 = b't';
const FOUND: u8 = b'f';

/// Answers each connection after one read, which waits for `gate` where the caller says so.
#[expect(
    clippy::disallowed_methods,
    reason = "the runtime under test ends with its tasks"
)]
async fn serve(listener: UnixListener, reads: Arc<Reads>, gate: Arc<Mutex<()>>, begun: mpsc::Sender<()>) {
    for uid in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        let (reads, gate, begun) = (Arc::clone(&reads), Arc::clone(&gate), begun.clone());
        tokio::spawn(async move { serve_one(stream, &reads, process_of(uid), gate, begun).await });
    }
}

async fn serve_one(
    mut stream: UnixStream,
    reads: &Reads,
    process: Process,
    gate: Arc<Mutex<()>>,
    begun: mpsc::Sender<()>,
) {
    let hangs = stream.read_u8().await.unwrap() == HANG;
    let read = move || {
        begun.send(()).unwrap();
        if hangs {
            drop(gate.lock());
        }
        Ok(())
    };
    let answer = match reads.run(&process, "a test", read).await {
        Ok(()) => FOUND,
        Err(_) => TIMED_OUT,
    };
    stream.write_u8(answer).await.unwrap();
}

fn call(path: &Path, what: u8) -> Caller {
    let mut caller = Caller::connect(path).unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    caller.write_all(&[what]).unwrap();
    caller
}

fn answer(caller: &mut Caller) -> u8 {
    let mut answer = [0];
    caller.read_exact(&mut answer).expect("an answer");
    answer[0]
}
