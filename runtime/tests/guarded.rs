//! Real processes on a real tonic server: only the process that connected is heard, and what it puts into
//! `:authority` is no matter. Each negative test says what happens without the defence it is about.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use vouchsafe_runtime::uds::{
    self, ConnectionLimits, GuardedListener, Peer, PlainListener, PlainPeer, SocketConfig,
};

const DEADLINE: Duration = Duration::from_secs(30);

/// A right authority, and those that gRPC libraries put there on a unix socket.
const AUTHORITIES: [&str; 4] = [
    "localhost",
    "tmp%2Fx%2Fagent.sock",
    "/run/vouchsafe/agent.sock",
    // `tmp%2Fx%2Fagent.sock` in Huffman code.
    "huffman:4d35aa2c3e551611cc5a92ba0e4ebf",
];

/// The pids that calls came from, as the handlers saw them.
type Seen = Arc<Mutex<Vec<i32>>>;

struct Place {
    _folder: TempDir,
    socket: PathBuf,
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    Place {
        _folder: folder,
        socket,
    }
}

fn config(path: &Path) -> SocketConfig {
    SocketConfig {
        path: path.to_path_buf(),
        mode: 0o777,
        group: None,
        handed: vouchsafe_runtime::Handed::default(),
    }
}

fn guarded(place: &Place) -> GuardedListener {
    GuardedListener::bind(&config(&place.socket), ConnectionLimits::default()).unwrap()
}

fn client(mode: &str, place: &Place, authority: &str) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/health.py");
    Command::new("python3")
        .arg(script)
        .args([mode, place.socket.to_str().unwrap(), authority])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// What the client's processes print, all of them together.
async fn said(client: &mut Child) -> String {
    let mut text = String::new();
    client
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .await
        .unwrap();
    text.trim().to_owned()
}

async fn serve_guarded(listener: GuardedListener, seen: Seen) {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let health = InterceptedService::new(health, move |request: tonic::Request<()>| {
        let peer = request.extensions().get::<Arc<Peer>>().unwrap();
        seen.lock().unwrap().push(peer.credentials().pid);
        Ok(request)
    });
    Server::builder()
        .add_service(health)
        .serve_with_incoming(listener.into_incoming())
        .await
        .unwrap();
}

/// Lets one client speak to a guarded server: what it printed, its pid, and whose calls were handled.
async fn try_client(mode: &str, authority: &str) -> (String, i32, Vec<i32>) {
    let place = place();
    let seen = Seen::default();
    let server = serve_guarded(guarded(&place), Arc::clone(&seen));
    let mut client = client(mode, &place, authority);
    let pid = i32::try_from(client.id().unwrap()).unwrap();
    let outcome = tokio::select! {
        () = server => unreachable!("the server ended"),
        outcome = tokio::time::timeout(DEADLINE, said(&mut client)) => outcome.unwrap(),
    };
    let seen = seen.lock().unwrap().clone();
    (outcome, pid, seen)
}

#[tokio::test]
async fn the_connector_itself_is_answered_whatever_its_authority() {
    for authority in AUTHORITIES {
        let (outcome, pid, seen) = try_client("own", authority).await;
        assert_eq!((outcome.as_str(), seen), ("answered", vec![pid]), "{authority}");
    }
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_answered() {
    let (outcome, _, _) = try_client("drip", "tmp%2Fx%2Fagent.sock").await;
    assert_eq!(outcome, "answered");
}

/// Without the comparison of identities in `GuardedStream::check_sender`, the child is answered, in its
/// parent's name.
#[tokio::test]
async fn a_forked_child_that_writes_on_its_parents_connection_is_cut_off() {
    let (outcome, _, seen) = try_client("child", "localhost").await;
    assert_eq!((outcome.as_str(), seen), ("cut", vec![]));
}

#[tokio::test]
async fn the_log_names_both_processes() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let (_, pid, _) = try_client("child", "localhost").await;
    drop(guard);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("another process wrote"))
        .unwrap();
    assert!(
        line.contains(&format!("connector_pid={pid} sender_pid=")),
        "{line}"
    );
    assert!(!line.contains(&format!("sender_pid={pid} ")), "{line}");
}

/// Without that comparison, `nobody` is answered in root's name. Where the test does not run as root, the
/// other process has the same uid: weaker, as a check of uids would then not be enough to pass.
#[tokio::test]
async fn a_process_of_another_uid_that_was_passed_the_connection_is_cut_off() {
    if !nix::unistd::geteuid().is_root() {
        println!("not root: the process that is passed the connection keeps this uid");
    }
    let (outcome, _, seen) = try_client("passed", "localhost").await;
    assert_eq!((outcome.as_str(), seen), ("cut", vec![]));
}

/// Without the look at the pidfd in `Peer::of` the connection is taken; without the comparison as well, the
/// orphan is answered in the name of a process that is gone, and whose number may be another's by now.
#[tokio::test]
async fn a_connector_that_ended_before_accept_is_refused() {
    let place = place();
    let listener = guarded(&place);
    let mut client = client("gone", &place, "localhost");
    tokio::time::timeout(DEADLINE, client.wait())
        .await
        .unwrap()
        .unwrap();

    let seen = Seen::default();
    let outcome = tokio::select! {
        () = serve_guarded(listener, Arc::clone(&seen)) => unreachable!("the server ended"),
        outcome = tokio::time::timeout(DEADLINE, said(&mut client)) => outcome.unwrap(),
    };
    assert_eq!(outcome, "cut");
    assert!(seen.lock().unwrap().is_empty());
}

/// The same at the level of streams: the connection is never handed out, not just never answered. Without
/// the look at the pidfd in `Peer::of`, `accept` gives it here.
#[tokio::test]
async fn accept_passes_over_a_connector_that_is_gone() {
    let place = place();
    let listener = guarded(&place);
    let mut orphan = client("gone", &place, "localhost");
    tokio::time::timeout(DEADLINE, orphan.wait())
        .await
        .unwrap()
        .unwrap();
    let _own = UnixStream::connect(&place.socket).await.unwrap();
    let accepted = tokio::time::timeout(DEADLINE, listener.accept())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(accepted.peer().credentials().pid, nix::unistd::getpid().as_raw());
}

#[tokio::test]
async fn the_end_of_the_peer_is_noticed() {
    let place = place();
    let listener = guarded(&place);
    let mut holder = client("hold", &place, "localhost");
    let stream = tokio::time::timeout(DEADLINE, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let peer = Arc::clone(stream.peer());
    assert!(peer.is_alive());
    assert!(futures_util::poll!(Box::pin(peer.ended())).is_pending());
    holder.start_kill().unwrap();
    tokio::time::timeout(DEADLINE, async { tokio::join!(peer.ended(), peer.ended()) })
        .await
        .unwrap();
    assert!(!peer.is_alive());
}

/// A connection that a foreign chunk has ended gives nothing away either: what a handler would still write
/// on it does not reach the socket.
#[tokio::test]
async fn nothing_is_written_to_a_connection_that_was_ended() {
    let place = place();
    let listener = guarded(&place);
    let mut own = UnixStream::connect(&place.socket).await.unwrap();
    let mut stream = listener.accept().await.unwrap();
    own.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("HTTP/2"), "{error}");
    assert!(stream.write_all(b"secret").await.is_err());
    drop(stream);
    let mut rest = Vec::new();
    own.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_and_places_come_back() {
    let place = place();
    let limits = ConnectionLimits {
        max_connections: 8,
        max_connections_per_uid: 2,
    };
    let listener = GuardedListener::bind(&config(&place.socket), limits).unwrap();
    let _first = UnixStream::connect(&place.socket).await.unwrap();
    let _second = UnixStream::connect(&place.socket).await.unwrap();
    let mut third = UnixStream::connect(&place.socket).await.unwrap();
    let held = (listener.accept().await.unwrap(), listener.accept().await.unwrap());
    let mut byte = [0];
    tokio::select! {
        _ = listener.accept() => unreachable!("a third connection was taken"),
        read = third.read(&mut byte) => assert!(matches!(read, Ok(0) | Err(_))),
    }
    drop(held);
    let _fourth = UnixStream::connect(&place.socket).await.unwrap();
    tokio::time::timeout(DEADLINE, listener.accept())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_admin_socket_names_its_peer_and_mends_the_authority_too() {
    let place = place();
    let listener = PlainListener::new(
        uds::bind(&config(&place.socket)).unwrap(),
        ConnectionLimits::default(),
    );
    let seen = Seen::default();
    let pids = Arc::clone(&seen);
    let (_reporter, health) = tonic_health::server::health_reporter();
    let health = InterceptedService::new(health, move |request: tonic::Request<()>| {
        let peer = request.extensions().get::<PlainPeer>().unwrap();
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        pids.lock().unwrap().push(peer.pid);
        Ok(request)
    });
    let mut client = client("own", &place, "tmp%2Fx%2Fagent.sock");
    let pid = i32::try_from(client.id().unwrap()).unwrap();
    let outcome = tokio::select! {
        _ = Server::builder().add_service(health).serve_with_incoming(listener.into_incoming()) => {
            unreachable!("the server ended")
        }
        outcome = tokio::time::timeout(DEADLINE, said(&mut client)) => outcome.unwrap(),
    };
    assert_eq!(outcome, "answered");
    assert_eq!(*seen.lock().unwrap(), [pid]);
}

#[tokio::test]
async fn the_sockets_file_goes_with_the_listener() {
    let place = place();
    let incoming = guarded(&place).into_incoming();
    assert!(place.socket.exists());
    drop(incoming);
    assert!(!place.socket.exists());
}

/// The client script says what it is told to say: without this, "cut" might mean that it cannot ask at all.
#[tokio::test]
async fn the_holding_client_is_served() {
    let place = place();
    let server = serve_guarded(guarded(&place), Seen::default());
    let mut holder = client("hold", &place, "localhost");
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    tokio::select! {
        () = server => unreachable!("the server ended"),
        line = tokio::time::timeout(DEADLINE, lines.next_line()) => {
            assert_eq!(line.unwrap().unwrap().as_deref(), Some("held"));
        }
    }
}
