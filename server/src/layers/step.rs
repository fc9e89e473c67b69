//! A layer as one async function: it gets the request and what comes next, and gives the response.
//!
//! Steps are put together before they become a layer of tower, so that a call is one future and copies the services
//! behind the stack once, however many steps there are.

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
pub trait Handler: Send {
    /// Answers the request.
    fn answer(self, request: Request) -> impl Future<Output = Response> + Send;
}

/// One step.
pub trait Step: Send + Sync + 'static {
    /// Answers the request, or lets the next one do it.
    fn handle<H: Handler>(&self, request: Request, next: Next<H>) -> impl Future<Output = Response> + Send;
}

/// The rest of the stack.
#[derive(Debug)]
pub struct Next<H>(H);

impl<H: Handler> Next<H> {
    /// Lets the rest of the stack answer.
    pub async fn run(self, request: Request) -> Response {
        self.0.answer(request).await
    }
}

/// Two steps as one, the first outside the second.
#[derive(Debug)]
pub struct Then<A, B>(pub A, pub B);

impl<A: Step, B: Step> Step for Then<A, B> {
    async fn handle<H: Handler>(&self, request: Request, next: Next<H>) -> Response {
        let Self(first, second) = self;
        first.handle(request, Next(Inward { step: second, next })).await
    }
}

/// A step with what comes after it.
struct Inward<'a, T, H> {
    step: &'a T,
    next: Next<H>,
}

impl<T: Step, H: Handler> Handler for Inward<'_, T, H> {
    async fn answer(self, request: Request) -> Response {
        self.step.handle(request, self.next).await
    }
}

/// The services behind all steps, which are always ready.
struct Innermost<S>(S);

impl<S> Handler for Innermost<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Send,
{
    async fn answer(mut self, request: Request) -> Response {
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

/// A step before the services.
#[derive(Debug)]
pub struct StepService<T, S>(Arc<T>, S);

impl<T, S: Clone> Clone for StepService<T, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1.clone())
    }
}

impl<T, S> Service<Request> for StepService<T, S>
where
    T: Step,
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The clone is fresh; the one that was polled ready is the one that is used.
        let fresh = self.1.clone();
        let next = Next(Innermost(std::mem::replace(&mut self.1, fresh)));
        let step = Arc::clone(&self.0);
        Box::pin(async move { Ok(step.handle(request, next).await) })
    }
}
