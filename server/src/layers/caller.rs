//! Finds out what the peer may be, by its SVID, by entries and by config.

use std::sync::Arc;

use tonic::Status;

use super::call::Call;
use super::step::{Handler, Next, Request, Response, Step};
use crate::authorize::Authorizer;

/// Finds the caller.
#[derive(Debug)]
pub struct FindCaller(Authorizer);

impl FindCaller {
    /// Asks the authorizer for what the peer may be.
    pub fn new(authorizer: Authorizer) -> Self {
        Self(authorizer)
    }
}

impl Step for FindCaller {
    async fn handle<S: Handler>(&self, mut request: Request, next: Next<S>) -> Response {
        let Some(call) = request.extensions().get::<Arc<Call>>().map(Arc::clone) else {
            return Status::internal("the call was not recorded").into_http();
        };
        let candidate = self.0.candidate(Arc::clone(&call.peer), call.at);
        request.extensions_mut().insert(Arc::new(candidate));
        next.run(request).await
    }
}
