//! Serves gRPC on connections as tonic's own server does, but for two things. The calls of a connection are answered by
//! the task that reads it, as far as they get without waiting (`calls`): a signature takes less time than to hand a call
//! to another task and its answer back. And what a connection has to say leaves in one write (`gathered`).

mod calls;
mod deadline;
mod gathered;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt};

use calls::{Answering, Calls};
use deadline::within_deadline;
use gathered::Gathered;

/// How long a client may take to say that it is still there.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How connections are served.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Most calls at a time on one connection.
    pub max_calls: u32,
    /// Largest headers of a call, in bytes.
    pub max_header_bytes: u32,
    /// Silence after which a client is asked whether it is still there.
    pub keepalive_after: Option<Duration>,
    /// Age at which a client is asked to connect anew; what is under way then comes to its end.
    pub max_age: Option<Duration>,
}

/// Answers calls of gRPC. Given to every stack of tower layers around tonic's routes, which are always ready.
pub trait Answer: Clone + Send + 'static {
    /// The answer to one call; one that panics ends alone.
    fn answer(self, request: Request<Body>) -> impl Future<Output = Response<Body>> + Send;
}

impl<S, B> Answer for S
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: HttpBody<Data = Bytes, Error: Into<StdError>> + Send + 'static,
{
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let Ok(answered) = self.oneshot(request).await;
        answered.map(Body::new)
    }
}

/// The bytes of a client, and what is known of who that is.
pub trait Connection: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static {}

impl<C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static> Connection for C {}

/// Serves these connections until `stopping`, and then until the last of their calls has ended. What the listener says of
/// connections that it could not take is its own to log.
pub async fn serve<C: Connection, E>(
    service: impl Answer,
    connections: impl Stream<Item = Result<C, E>>,
    settings: Settings,
    stopping: CancellationToken,
) {
    let standing = TaskTracker::new();
    {
        // Dropped before the calls have ended: nobody shall connect to a server that ends.
        let mut connections = pin!(connections.filter_map(async |one| one.ok()));
        loop {
            let next = tokio::select! {
                () = stopping.cancelled() => None,
                next = connections.next() => next,
            };
            let Some(connection) = next else {
                break;
            };
            let served = connection_served(service.clone(), connection, settings, stopping.clone());
            TokioExecutor::new().execute(standing.track_future(served));
        }
    }
    standing.close();
    standing.wait().await;
}

async fn connection_served(
    service: impl Answer,
    connection: impl Connection,
    settings: Settings,
    stopping: CancellationToken,
) {
    let peer = connection.connect_info();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let service = service.clone();
        within_deadline(request, |request| service.answer(request))
    });
    let calls = Calls::default();
    let mut http = http2::Builder::new(calls.clone());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_calls)
        .max_header_list_size(settings.max_header_bytes)
        .keep_alive_interval(settings.keepalive_after)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let gathered = Gathered::new(connection);
    let connection = http.serve_connection(TokioIo::new(gathered.clone()), service);
    let mut connection = pin!(Answering::new(connection, calls, gathered));
    let aged = async {
        match settings.max_age {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = stopping.cancelled() => None,
        () = aged => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // The client is asked to make no further calls here; those under way are answered.
            connection.as_mut().http().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
