//! Measures and traces gRPC calls: how many of each method end with which code, how long they take, how many are under way.
//!
//! Stands outside every other layer, so that refusals count too. A stream counts when it ends.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as HttpBody;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

use super::watched::{self, Ending};
use crate::telemetry::traces::{Span, Traces};

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
    traces: Traces,
    durations: Family<CallLabels, Histogram>,
    under_way: Family<MethodLabels, Gauge>,
}

impl fmt::Debug for CallMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallMeter")
    }
}

impl CallMeter {
    /// Names methods by `name`, which has one name for all paths that it does not know, and traces them.
    pub fn new(name: fn(&str) -> &'static str, traces: Traces) -> Self {
        Self(Arc::new(Meter {
            name,
            traces,
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
        self.0.traces.register(registry);
    }

    /// How many calls of a method are under way.
    pub fn under_way(&self, method: &'static str) -> i64 {
        let labels = MethodLabels { method };
        self.0.under_way.get(&labels).map_or(0, |gauge| gauge.get())
    }

    fn begin<B>(&self, request: &http::Request<B>) -> Running {
        let method = (self.0.name)(request.uri().path());
        self.0.under_way.get_or_create(&MethodLabels { method }).inc();
        Running {
            meter: Arc::clone(&self.0),
            method,
            begun: Instant::now(),
            code: Code::Cancelled,
            span: self.0.traces.incoming(method, request.headers()),
        }
    }
}

/// A call that has not ended. It counts as cancelled when it is dropped before its code is known.
struct Running {
    meter: Arc<Meter>,
    method: &'static str,
    begun: Instant,
    code: Code,
    span: Option<Span>,
}

impl Ending for Running {
    fn ends_with(&mut self, code: Code) {
        self.code = code;
        if let Some(span) = &mut self.span {
            span.ends_with(code);
        }
    }

    fn span(&self) -> Option<&Span> {
        self.span.as_ref()
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
        let running = self.meter.begin(&request);
        let answer = {
            let _on_behalf = running.span().map(Span::enter);
            self.inner.call(request)
        };
        Box::pin(async move {
            let answer = match running.span() {
                Some(span) => span.around(answer).await,
                None => answer.await,
            };
            Ok(watched::watch(answer?.map(Body::new), running))
        })
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
