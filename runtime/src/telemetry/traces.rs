//! Traces by OpenTelemetry, off unless an endpoint is configured: a span for each gRPC call, below its caller's where that
//! one sent a `traceparent` (W3C Trace Context), and for what a call waits for.
//!
//! Spans carry names and codes from this program alone: nothing that a caller chose, no identity, no secret.

mod channel;
mod config;
mod sending;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::context::FutureExt;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, ContextGuard, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanLimits};
use prometheus_client::registry::Registry;
use tonic::Code;

pub use channel::TracedChannel;
pub use config::{TracesConfig, TracesError};
use sending::Counted;
pub use sending::TraceSender;

const TRACEPARENT: &str = "traceparent";

/// Makes spans, or none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Traces {
    tracer: Option<Arc<SdkTracer>>,
    counted: Counted,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traces({})", if self.tracer.is_some() { "on" } else { "off" })
    }
}

impl Traces {
    /// Traces as the configuration wants them, and what sends them once it runs. Must be called within a runtime.
    ///
    /// # Errors
    /// [`TracesError`] names the key that is wrong.
    pub fn prepare(config: &TracesConfig, service: &'static str) -> Result<(Self, TraceSender), TracesError> {
        let Some(endpoint) = config.target()? else {
            return Ok((Self::default(), TraceSender::default()));
        };
        let counted = Counted::default();
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let (queue, sender) = sending::queue(endpoint, &resource, &counted);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(sampler)
            .with_span_limits(SpanLimits::default())
            .with_resource(resource)
            .build();
        let tracer = Some(Arc::new(provider.tracer("vouchsafe")));
        Ok((Self { tracer, counted }, sender))
    }

    /// Adds what is counted to a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.counted.register(registry);
    }

    /// Begins the span of a call that came in, below its caller's. `method` is a path of this program's own.
    pub(crate) fn incoming(&self, method: &'static str, headers: &HeaderMap) -> Option<Span> {
        let tracer = self.tracer.as_ref()?;
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        Some(Span::of_call(tracer, SpanKind::Server, method.into(), &parent))
    }

    /// Begins the span of a call that goes out, below what is under way here.
    fn outgoing(&self, path: &str) -> Option<Span> {
        let tracer = self.tracer.as_ref()?;
        let (path, parent) = (path.to_owned(), Context::current());
        Some(Span::of_call(tracer, SpanKind::Client, path.into(), &parent))
    }

    /// Waits for a part of a call, which gets a span of its own if the call has one.
    pub async fn part<T, E>(
        &self,
        name: &'static str,
        part: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let parent = Context::current();
        let Some(tracer) = self.tracer.as_ref().filter(|_| parent.has_active_span()) else {
            return part.await;
        };
        let mut span = Span::begin(tracer, SpanKind::Internal, name.into(), &parent, Vec::new());
        let done = part.with_context(span.context.clone()).await;
        if done.is_err() {
            span.fails(name);
        }
        done
    }
}

/// The call that is under way where this was taken, for what is done on its behalf elsewhere. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OnBehalf(Option<Context>);

impl OnBehalf {
    /// Of the call that is under way here, if it has a span.
    pub fn current() -> Self {
        let context = Context::current();
        Self(context.has_active_span().then_some(context))
    }

    /// Whether there is no such call.
    pub fn is_nobody(&self) -> bool {
        self.0.is_none()
    }

    /// The future, done on behalf of that call.
    pub fn does<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        future.with_context(self.0.unwrap_or_default())
    }
}

/// A span that has not ended. It ends when this is dropped, for a call with the code that came last.
#[derive(Debug)]
pub(crate) struct Span {
    context: Context,
    code: Option<Code>,
}

impl Span {
    fn of_call(tracer: &SdkTracer, kind: SpanKind, path: Cow<'static, str>, parent: &Context) -> Self {
        let name = match path {
            Cow::Borrowed(path) => Cow::Borrowed(path.trim_start_matches('/')),
            Cow::Owned(path) => Cow::Owned(path.trim_start_matches('/').to_owned()),
        };
        let (service, method) = name.rsplit_once('/').unwrap_or(("", &name));
        let attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service.to_owned()),
            KeyValue::new("rpc.method", method.to_owned()),
        ];
        let mut span = Self::begin(tracer, kind, name, parent, attributes);
        // What nobody waited for was cancelled.
        span.code = Some(Code::Cancelled);
        span
    }

    fn begin(
        tracer: &SdkTracer,
        kind: SpanKind,
        name: Cow<'static, str>,
        parent: &Context,
        attributes: Vec<KeyValue>,
    ) -> Self {
        let span = tracer
            .span_builder(name)
            .with_kind(kind)
            .with_attributes(attributes)
            .start_with_context(tracer, parent);
        Self {
            context: parent.with_span(span),
            code: None,
        }
    }

    /// The future, which does what it does on behalf of this span.
    pub(crate) fn around<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        future.with_context(self.context.clone())
    }

    /// What is done until the guard is dropped is done on behalf of this span.
    pub(crate) fn enter(&self) -> ContextGuard {
        self.context.clone().attach()
    }

    /// The call has ended.
    pub(crate) fn ends_with(&mut self, code: Code) {
        self.code = Some(code);
    }

    fn fails(&mut self, what: &'static str) {
        self.context.span().set_status(Status::error(what));
    }

    /// Lets the called one put its span below this one. What vendors added to the trace is not handed on.
    fn inject(&self, headers: &mut HeaderMap) {
        TraceContextPropagator::new().inject_context(&self.context, &mut HeadersMut(headers));
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let span = self.context.span();
        if let Some(code) = self.code {
            span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))));
            if is_fault(code) {
                span.set_status(Status::error(code.description()));
            }
        }
        span.end();
    }
}

/// Whether a code says that this program failed, and not that its caller asked for what it cannot get.
const fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT)
            .then(|| self.0.get(key)?.to_str().ok())
            .flatten()
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (TRACEPARENT, Ok(value)) = (key, HeaderValue::try_from(value)) {
            self.0.insert(HeaderName::from_static(TRACEPARENT), value);
        }
    }
}
