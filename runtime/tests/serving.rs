//! What a connection is promised whose calls its own task answers: a call that panics, waits or is given up is no matter
//! of the others, and an end is an orderly one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::server::Connected;
use vouchsafe_runtime::serving::{self, Settings};

const DEADLINE: Duration = Duration::from_secs(30);
const SETTINGS: Settings = Settings {
    max_calls: 1000,
    max_header_bytes: 16 * 1024,
    keepalive_after: None,
    max_age: None,
};

/// The server's end of a connection; counts what is written.
struct Wire {
    inner: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl Connected for Wire {
    type ConnectInfo = &'static str;

    fn connect_info(&self) -> &'static str {
        "who connected"
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, to)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What the calls of a test share.
#[derive(Clone)]
struct Doings {
    /// Lets calls go on that wait.
    go: Arc<Semaphore>,
    /// Calls that wait now.
    waiting: Arc<AtomicUsize>,
}

impl Default for Doings {
    fn default() -> Self {
        Self {
            go: Arc::new(Semaphore::new(0)),
            waiting: Arc::default(),
        }
    }
}

struct Waits(Arc<AtomicUsize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Doings {
    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let who = *request.extensions().get::<&'static str>().unwrap();
        let body = match request.uri().path() {
            "/panics" => panic!("as the test wants it"),
            "/waits" => {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                let _waits = Waits(self.waiting);
                self.go.acquire().await.unwrap().forget();
                Bytes::from_static(b"waited")
            }
            "/slow" => {
                // Longer than a connection's turn, so that each call needs one of its own.
                let begun = tokio::time::Instant::now();
                while begun.elapsed() < Duration::from_millis(2) {
                    std::hint::spin_loop();
                }
                Bytes::from_static(b"at last")
            }
            "/large" => Bytes::from(vec![7; 1_000_000]),
            "/medium" => Bytes::from(vec![7; 1_000]),
            "/who" => Bytes::from(who),
            _ => Bytes::from_static(b"now"),
        };
        let trailers = async {
            Some(Ok(HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                "0".parse().unwrap(),
            )])))
        };
        Ok(Response::new(Body::new(Full::new(body).with_trailers(trailers))))
    }
}

type Client = SendRequest<Empty<Bytes>>;

/// A server of one connection, and its client.
struct Served {
    doings: Doings,
    stopping: CancellationToken,
    writes: Arc<AtomicUsize>,
    client: Client,
    server: JoinSet<()>,
    /// The client's side of the connection.
    connection: Tasks,
}

/// Tasks that end together.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.lock().unwrap().spawn(task);
    }
}

async fn served(settings: Settings, buffer: usize) -> Served {
    let (doings, stopping) = (Doings::default(), CancellationToken::new());
    let (near, far) = tokio::io::duplex(buffer);
    let writes = Arc::default();
    let wire = Wire {
        inner: far,
        writes: Arc::clone(&writes),
    };
    let connections = futures_util::stream::iter([Err(std::io::Error::other("one that failed")), Ok(wire)]);
    let answering = doings.clone();
    let service = tower::service_fn(move |request| answering.clone().answer(request));
    let mut server = JoinSet::new();
    server.spawn(serving::serve(
        service,
        connections.chain(futures_util::stream::pending()),
        settings,
        stopping.clone(),
    ));
    let connection = Tasks::default();
    let (client, http) = handshake(connection.clone(), TokioIo::new(near)).await.unwrap();
    connection.execute(async move {
        let _ended = http.await;
    });
    Served {
        doings,
        stopping,
        writes,
        client,
        server,
        connection,
    }
}

/// The body and the trailers, or else why there are none.
fn call(
    client: &Client,
    path: &str,
    headers: &[(&'static str, &str)],
) -> impl Future<Output = hyper::Result<(Response<()>, Bytes)>> + Send + 'static {
    let mut client = client.clone();
    let mut request = Request::builder().uri(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::new()).unwrap();
    async move {
        client.ready().await?;
        let (head, body) = client.send_request(request).await?.into_parts();
        Ok((Response::from_parts(head, ()), body.collect().await?.to_bytes()))
    }
}

async fn body(client: &Client, path: &str) -> hyper::Result<Bytes> {
    let answered = timeout(DEADLINE, call(client, path, &[])).await.unwrap();
    answered.map(|(_, body)| body)
}

async fn is_so(what: &str, so: impl Fn() -> bool) {
    let waited = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, waited)
        .await
        .unwrap_or_else(|_| panic!("{what}: never"));
}

#[tokio::test]
async fn a_call_that_panics_ends_alone() {
    let served = served(SETTINGS, 64 * 1024).await;
    let waits = call(&served.client, "/waits", &[]);
    let mut waits = JoinSet::from_iter([waits]);
    is_so("a call waits", || {
        served.doings.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    assert!(body(&served.client, "/panics").await.is_err());
    assert_eq!(body(&served.client, "/now").await.unwrap(), "now");
    served.doings.go.add_permits(1);
    assert_eq!(waits.join_next().await.unwrap().unwrap().unwrap().1, "waited");
}

#[tokio::test]
async fn a_call_that_waits_holds_up_no_other() {
    let served = served(SETTINGS, 64 * 1024).await;
    let mut waits: JoinSet<_> = (0..20).map(|_| call(&served.client, "/waits", &[])).collect();
    is_so("all wait", || served.doings.waiting.load(Ordering::SeqCst) == 20).await;
    assert_eq!(body(&served.client, "/now").await.unwrap(), "now");
    assert_eq!(body(&served.client, "/who").await.unwrap(), "who connected");
    served.doings.go.add_permits(20);
    while let Some(one) = timeout(DEADLINE, waits.join_next()).await.unwrap() {
        assert_eq!(one.unwrap().unwrap().1, "waited");
    }
}

/// Nothing comes from the client after its calls that would have the server look at the connection again.
#[tokio::test]
async fn calls_that_take_a_turn_each_are_all_answered() {
    let served = served(SETTINGS, 64 * 1024).await;
    let mut calls: JoinSet<_> = (0..20).map(|_| call(&served.client, "/slow", &[])).collect();
    while let Some(one) = timeout(DEADLINE, calls.join_next()).await.unwrap() {
        assert_eq!(one.unwrap().unwrap().1, "at last");
    }
}

#[tokio::test]
async fn more_calls_than_fit_into_a_turn_are_all_answered() {
    let served = served(SETTINGS, 64 * 1024).await;
    let mut calls: JoinSet<_> = (0..900).map(|_| call(&served.client, "/medium", &[])).collect();
    while let Some(one) = timeout(DEADLINE, calls.join_next()).await.unwrap() {
        assert_eq!(one.unwrap().unwrap().1.len(), 1_000);
    }
}

#[tokio::test]
async fn an_answer_leaves_in_one_write() {
    let served = served(SETTINGS, 64 * 1024).await;
    // What HTTP/2 has to say by itself is said.
    body(&served.client, "/medium").await.unwrap();
    body(&served.client, "/medium").await.unwrap();
    let before = served.writes.load(Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(body(&served.client, "/medium").await.unwrap().len(), 1_000);
    }
    assert_eq!(served.writes.load(Ordering::SeqCst) - before, 10);
}

#[tokio::test]
async fn an_answer_larger_than_the_network_holds_comes_whole() {
    let served = served(SETTINGS, 512).await;
    let mut large: JoinSet<_> = (0..3).map(|_| call(&served.client, "/large", &[])).collect();
    while let Some(one) = timeout(DEADLINE, large.join_next()).await.unwrap() {
        assert_eq!(one.unwrap().unwrap().1, vec![7; 1_000_000]);
    }
}

#[tokio::test]
async fn a_call_whose_client_has_gone_is_given_up() {
    let served = served(SETTINGS, 64 * 1024).await;
    let mut waits: JoinSet<_> = (0..3).map(|_| call(&served.client, "/waits", &[])).collect();
    let waiting = Arc::clone(&served.doings.waiting);
    is_so("all wait", || waiting.load(Ordering::SeqCst) == 3).await;
    // One is called off, the others lose their connection.
    waits.abort_all();
    is_so("none that was called off waits", || {
        waiting.load(Ordering::SeqCst) == 0
    })
    .await;
    let mut waits: JoinSet<_> = (0..3).map(|_| call(&served.client, "/waits", &[])).collect();
    is_so("all wait", || waiting.load(Ordering::SeqCst) == 3).await;
    served.connection.0.lock().unwrap().abort_all();
    is_so("none waits", || waiting.load(Ordering::SeqCst) == 0).await;
    assert!(waits.join_next().await.unwrap().unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn the_clients_own_deadline_counts() {
    let served = served(SETTINGS, 64 * 1024).await;
    for (path, header, status) in [
        ("/waits", "50m", "4"),
        ("/waits", "soon", "3"),
        ("/now", "5 S", "3"),
    ] {
        let answer = timeout(DEADLINE, call(&served.client, path, &[("grpc-timeout", header)]));
        let (head, _) = answer.await.unwrap().unwrap();
        assert_eq!(head.headers()["grpc-status"], status, "{path} {header}");
        assert_eq!(served.doings.waiting.load(Ordering::SeqCst), 0, "{path} {header}");
    }
    let (_, body) = call(&served.client, "/now", &[("grpc-timeout", "1S")])
        .await
        .unwrap();
    assert_eq!(body, "now");
}

#[tokio::test]
async fn a_stop_lets_calls_that_are_under_way_come_to_their_end() {
    let mut served = served(SETTINGS, 64 * 1024).await;
    let mut waits = JoinSet::from_iter([call(&served.client, "/waits", &[])]);
    is_so("a call waits", || {
        served.doings.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    served.stopping.cancel();
    while body(&served.client, "/now").await.is_ok() {}
    assert!(
        served.server.try_join_next().is_none(),
        "it did not wait for the call"
    );
    served.doings.go.add_permits(1);
    assert_eq!(waits.join_next().await.unwrap().unwrap().unwrap().1, "waited");
    timeout(DEADLINE, served.server.join_next()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn at_its_age_a_connection_takes_no_further_calls_and_finishes_those_under_way() {
    let age = Duration::from_secs(60);
    let settings = Settings {
        max_age: Some(age),
        ..SETTINGS
    };
    let served = served(settings, 64 * 1024).await;
    let mut waits = JoinSet::from_iter([call(&served.client, "/waits", &[])]);
    is_so("a call waits", || {
        served.doings.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    tokio::time::advance(age - Duration::from_secs(1)).await;
    assert_eq!(body(&served.client, "/now").await.unwrap(), "now");
    tokio::time::advance(Duration::from_secs(2)).await;
    while body(&served.client, "/now").await.is_ok() {}
    served.doings.go.add_permits(1);
    assert_eq!(waits.join_next().await.unwrap().unwrap().unwrap().1, "waited");
}

#[tokio::test]
async fn a_server_that_stops_waits_for_no_further_connection() {
    let stopping = CancellationToken::new();
    let (sender, incoming) = tokio::sync::mpsc::unbounded_channel::<std::io::Result<Wire>>();
    let doings = Doings::default();
    let service = tower::service_fn(move |request| doings.clone().answer(request));
    let incoming = UnboundedReceiverStream::new(incoming);
    let mut server = JoinSet::new();
    server.spawn(serving::serve(service, incoming, SETTINGS, stopping.clone()));
    stopping.cancel();
    timeout(DEADLINE, server.join_next()).await.unwrap();
    assert!(sender.is_closed(), "the listener is still held");
}
