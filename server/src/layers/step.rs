//! A layer as one async function: it gets the request and what comes next, and gives the response.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tower::{Layer, Service};

/// A request of gRPC over HTTP/2.
pub type Request = http::Request<Body>;
/// Its response; refusals are responses too.
pub type Response = http::Response<Body>;

/// What stands further in.
pub trait Handler:
    Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Handler for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// One layer.
pub trait Step: Send + Sync + 'static {
    /// Answers the request, or lets the next one do it.
    fn handle<S: Handler>(&self, request: Request, next: Next<S>) -> impl Future<Output = Response> + Send;
}

/// The rest of the stack.
#[derive(Debug)]
pub struct Next<S>(S);

impl<S: Handler> Next<S> {
    /// Lets the rest of the stack answer. Everything further in is always ready.
    pub async fn run(mut self, request: Request) -> Response {
        match self.0.call(request).await {
            Ok(response) => response,
        }
    }
}

/// Makes a tower layer of a [`Step`].
#[derive(Debug)]
pub struct StepLayer<T>(Arc<T>);

impl<T> StepLayer<T> {
    /// A layer that takes this step.
    pub fn new(step: T) -> Self {
        Self(Arc::new(step))
    }
}

impl<T> Clone for StepLayer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T, S> Layer<S> for StepLayer<T> {
    type Service = StepService<T, S>;

    fn layer(&self, inner: S) -> Self::Service {
        StepService(Arc::clone(&self.0), inner)
    }
}

/// A step with what comes after it.
#[derive(Debug)]
pub struct StepService<T, S>(Arc<T>, S);

impl<T, S: Clone> Clone for StepService<T, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1.clone())
    }
}

impl<T: Step, S: Handler> Service<Request> for StepService<T, S> {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The clone is fresh; the one that was polled ready is the one that is used.
        let fresh = self.1.clone();
        let next = Next(std::mem::replace(&mut self.1, fresh));
        let step = Arc::clone(&self.0);
        Box::pin(async move { Ok(step.handle(request, next).await) })
    }
}
