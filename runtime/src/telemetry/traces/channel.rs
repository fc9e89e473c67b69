//! A client's channel whose calls are traced: each gets a span below what is under way, and carries it to the server.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tonic::Code;
use tonic::body::Body;
use tonic::transport::channel::ResponseFuture;
use tonic::transport::{self, Channel};
use tower::Service;

use super::{Span, Traces};
use crate::metrics::watched::{self, Ending};

/// A channel whose calls are traced, if anything is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TracedChannel {
    inner: Channel,
    traces: Traces,
}

impl Traces {
    /// The channel, traced.
    pub fn channel(&self, inner: Channel) -> TracedChannel {
        let traces = self.clone();
        TracedChannel { inner, traces }
    }
}

impl Ending for Span {
    fn ends_with(&mut self, code: Code) {
        Self::ends_with(self, code);
    }

    fn span(&self) -> Option<&Span> {
        // What reads an answer does so on its own behalf.
        None
    }
}

/// An answer, or that there is none.
type Answer = Result<http::Response<Body>, transport::Error>;

impl Service<http::Request<Body>> for TracedChannel {
    type Response = http::Response<Body>;
    type Error = transport::Error;
    type Future = Either<ResponseFuture, Pin<Box<dyn Future<Output = Answer> + Send>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        Service::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Some(mut span) = self.traces.outgoing(request.uri().path()) else {
            return Either::Left(self.inner.call(request));
        };
        span.inject(request.headers_mut());
        let answer = self.inner.call(request);
        Either::Right(Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(watched::watch(response, span)),
                Err(error) => {
                    span.ends_with(Code::Unavailable);
                    Err(error)
                }
            }
        }))
    }
}
