//! Measures gRPC calls: how many of each method end with which code, how long they take, how many are under way.
//!
//! Stands outside every other layer, so that refusals count too. A stream counts when it ends.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Upper ends of the buckets of durations, in seconds: cached answers take well below a millisecond, streams hours.
const BUCKETS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];

/// A histogram of durations.
pub fn durations() -> Histogram {
    Histogram::new(BUCKETS)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

/// Measures calls. Cheap to clone; as a layer it wraps a gRPC service.
#[derive(Clone)]
pub struct CallMeter(Arc<Meter>);

struct Meter {
    name: fn(&str) -> &'static str,
    durations: Family<CallLabels, Histogram>,
    under_way: Family<MethodLabels, Gauge>,
}

impl fmt::Debug for CallMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallMeter")
    }
}

impl CallMeter {
    /// Names methods by `name`, which has one name for all paths that it does not know.
    pub fn new(name: fn(&str) -> &'static str) -> Self {
        Self(Arc::new(Meter {
            name,
            durations: Family::new_with_constructor(durations),
            under_way: Family::default(),
        }))
    }

    /// Adds what is measured to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "call_duration_seconds",
            "Duration of gRPC calls by method and code; of streams until their end",
            self.0.durations.clone(),
        );
        registry.register(
            "calls_under_way",
            "gRPC calls that have not ended, open streams among them, by method",
            self.0.under_way.clone(),
        );
    }

    /// How many calls of a method are under way.
    pub fn under_way(&self, method: &'static str) -> i64 {
        let labels = MethodLabels { method };
        self.0.under_way.get(&labels).map_or(0, |gauge| gauge.get())
    }

    fn begin(&self, path: &str) -> Running {
        let method = (self.0.name)(path);
        self.0.under_way.get_or_create(&MethodLabels { method }).inc();
        Running {
            meter: Arc::clone(&self.0),
            method,
            begun: Instant::now(),
            code: Code::Cancelled,
        }
    }
}

/// A call that has not ended. It counts as cancelled when it is dropped before its code is known.
struct Running {
    meter: Arc<Meter>,
    method: &'static str,
    begun: Instant,
    code: Code,
}

impl Running {
    fn ends_with(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Self { meter, method, .. } = self;
        let code = code_name(self.code);
        let labels = CallLabels { method, code };
        meter
            .durations
            .get_or_create(&labels)
            .observe(self.begun.elapsed().as_secs_f64());
        meter.under_way.get_or_create(&MethodLabels { method }).dec();
    }
}

impl<S> Layer<S> for CallMeter {
    type Service = Metered<S>;

    fn layer(&self, inner: S) -> Metered<S> {
        Metered {
            meter: self.clone(),
            inner,
        }
    }
}

/// A service whose calls are measured.
#[derive(Debug, Clone)]
pub struct Metered<S> {
    meter: CallMeter,
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for Metered<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>, Future: Send + 'static>,
    R: HttpBody<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut running = self.meter.begin(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?.map(Body::new);
            if let Some(status) = Status::from_header_map(response.headers()) {
                running.ends_with(status.code());
                return Ok(response);
            }
            Ok(response.map(|inner| {
                Body::new(Watched {
                    inner,
                    running: Some(running),
                })
            }))
        })
    }
}

/// A body that sees with which code its call ends.
struct Watched {
    inner: Body,
    running: Option<Running>,
}

impl Watched {
    fn end(&mut self, code: Code) {
        if let Some(mut running) = self.running.take() {
            running.ends_with(code);
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    this.end(status.code());
                }
            }
            Some(Err(status)) => this.end(status.code()),
            None => this.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The name of a code in gRPC's own list.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
