//! The presence proof on a real HTTP/2 server: our PINGs among its frames, and who may answer them. Each negative
//! test says what happens without the defence it is about.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use vouchsafe_runtime::serving::{self, Settings};
use vouchsafe_runtime::uds::frames::FrameWriter;
use vouchsafe_runtime::uds::{ConnectionLimits, GuardedListener, Presence, PresenceError, SocketConfig};

const DEADLINE: Duration = Duration::from_secs(30);

/// How long one that does not answer is waited for.
const SHORT: Duration = Duration::from_millis(50);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A served connection of this very process.
struct Connection {
    _folder: TempDir,
    _server: JoinSet<()>,
    presence: Arc<Presence>,
}

fn listener() -> (TempDir, PathBuf, GuardedListener) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let config = SocketConfig {
        path: path.clone(),
        mode: 0o777,
        group: None,
        handed: vouchsafe_runtime::Handed::default(),
    };
    let listener = GuardedListener::bind(&config, ConnectionLimits::default()).unwrap();
    (folder, path, listener)
}

/// Connects, and serves the connection.
async fn serve() -> (Connection, UnixStream) {
    let (folder, path, listener) = listener();
    let client = UnixStream::connect(&path).await.unwrap();
    let stream = listener.accept().await.unwrap();
    let presence = Arc::clone(stream.presence());
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (_reporter, health) = tonic_health::server::health_reporter();
        // One connection, and no end, for the end would close it.
        let incoming = futures_util::stream::once(async { Ok::<_, std::io::Error>(stream) });
        let incoming = futures_util::StreamExt::chain(incoming, futures_util::stream::pending());
        let settings = Settings {
            max_calls: 200,
            max_header_bytes: 16 * 1024,
            keepalive_after: None,
            max_age: None,
        };
        serving::serve(Routes::new(health), incoming, settings, CancellationToken::new()).await;
    });
    let connection = Connection {
        _folder: folder,
        _server: server,
        presence,
    };
    (connection, client)
}

async fn channel(client: UnixStream) -> Channel {
    let mut client = Some(client);
    let connect = tower::service_fn(move |_uri| {
        let client = client.take();
        async move {
            let client = client.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
            client.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
        .unwrap()
}

/// Reads one frame: its kind, its flags, its payload.
async fn frame(client: &mut UnixStream) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[2])];
    client.read_exact(&mut payload).await.unwrap();
    (head[3], head[4], payload)
}

/// The next PING's payload.
async fn ping(client: &mut UnixStream) -> [u8; 8] {
    let asked = async {
        loop {
            if let (6, 0, payload) = frame(client).await {
                return payload.try_into().unwrap();
            }
        }
    };
    timeout(DEADLINE, asked).await.unwrap()
}

/// A client that has said nothing but hello, and was greeted.
async fn greeted() -> (Connection, UnixStream) {
    let (connection, mut client) = serve().await;
    client.write_all(PREFACE).await.unwrap();
    assert_eq!(timeout(DEADLINE, frame(&mut client)).await.unwrap().0, 4);
    (connection, client)
}

#[tokio::test]
async fn an_http2_client_proves_its_presence_among_its_calls() {
    let (connection, client) = serve().await;
    let channel = channel(client).await;
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let mut health = HealthClient::new(channel.clone());
        let presence = Arc::clone(&connection.presence);
        calls.spawn(async move {
            health.check(HealthCheckRequest::default()).await.unwrap();
            presence.prove(DEADLINE).await.unwrap();
            health.check(HealthCheckRequest::default()).await.unwrap();
        });
    }
    while let Some(call) = timeout(DEADLINE, calls.join_next()).await.unwrap() {
        call.unwrap();
    }
}

/// Without the wait for the answer (`Presence::prove`) one that never speaks would do.
#[tokio::test]
async fn a_client_that_does_not_answer_is_not_present() {
    let (connection, _client) = greeted().await;
    let error = connection.presence.prove(SHORT).await.unwrap_err();
    assert!(matches!(error, PresenceError::NoAnswer { .. }), "{error}");
}

/// Without the comparison with the nonces that left (`Presence::claim`) any answer would do, also one that was
/// written before the question.
#[tokio::test]
async fn an_answer_to_another_question_proves_nothing() {
    let (connection, mut client) = greeted().await;
    for guess in [[0; 8], [0xff; 8], *b"presence"] {
        client.write_all(&FrameWriter::ping_answer(&guess)).await.unwrap();
    }
    let error = connection.presence.prove(SHORT).await.unwrap_err();
    assert!(matches!(error, PresenceError::NoAnswer { .. }), "{error}");
    // The first one's answer comes late: it is not the second one's.
    let first = ping(&mut client).await;
    let asked = async { connection.presence.prove(SHORT).await.unwrap_err() };
    let late = async {
        let second = ping(&mut client).await;
        assert_ne!(first, second);
        client.write_all(&FrameWriter::ping_answer(&first)).await.unwrap();
    };
    let (error, ()) = tokio::join!(asked, late);
    assert!(matches!(error, PresenceError::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn one_answer_serves_those_who_asked_before_the_question_left_and_nobody_after() {
    let (connection, mut client) = serve().await;
    // Nothing may precede the server's greeting, which waits for the client's: so the question waits as well.
    let together = async {
        let ask = || connection.presence.prove(DEADLINE);
        let (one, other, ()) = tokio::join!(ask(), ask(), async {
            client.write_all(PREFACE).await.unwrap();
            let nonce = ping(&mut client).await;
            let mut answer = FrameWriter::ping_answer(&nonce);
            // In pieces, as a slow writer would.
            let rest = answer.split_off(11);
            client.write_all(&answer).await.unwrap();
            client.flush().await.unwrap();
            client.write_all(&rest).await.unwrap();
        });
        one.unwrap();
        other.unwrap();
    };
    timeout(DEADLINE, together).await.unwrap();
    let error = connection.presence.prove(SHORT).await.unwrap_err();
    assert!(matches!(error, PresenceError::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn each_question_has_a_nonce_of_its_own() {
    let (connection, mut client) = greeted().await;
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let (proved, ()) = tokio::join!(connection.presence.prove(DEADLINE), async {
            let nonce = ping(&mut client).await;
            assert!(seen.insert(nonce));
            client.write_all(&FrameWriter::ping_answer(&nonce)).await.unwrap();
        });
        proved.unwrap();
    }
}

/// Who reads nothing fills its socket: questions then wait, and end with their time.
#[tokio::test]
async fn a_client_that_reads_nothing_costs_its_own_time_alone() {
    let (connection, mut client) = greeted().await;
    // The server must answer each of these, and cannot: nobody reads.
    let pings = FrameWriter::ping(b"keepaliv").repeat(4096);
    let flood = async {
        loop {
            client.write_all(&pings).await.unwrap();
        }
    };
    let _full = timeout(SHORT * 10, flood).await.unwrap_err();
    for _ in 0..3 {
        let error = connection.presence.prove(SHORT).await.unwrap_err();
        assert!(matches!(error, PresenceError::NoAnswer { .. }), "{error}");
    }
}
