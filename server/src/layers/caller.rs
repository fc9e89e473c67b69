//! Finds out what the peer may be, by its SVID, by entries and by config.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::Status;
use vouchsafe_identity::Bundle;
use vouchsafe_runtime::tls::TlsPeer;

use super::call::Call;
use super::step::{Handler, Next, Request, Response, Step};
use crate::authorize::Authorizer;

/// Finds the caller.
#[derive(Debug)]
pub struct FindCaller {
    authorizer: Authorizer,
    bundle: watch::Receiver<Arc<Bundle>>,
}

impl FindCaller {
    /// Asks the authorizer for what the peer may be, as long as the bundle vouches for the peer's SVID.
    pub fn new(authorizer: Authorizer, bundle: watch::Receiver<Arc<Bundle>>) -> Self {
        Self { authorizer, bundle }
    }

    /// Whether the authority of the peer's SVID was not revoked while the connection was open.
    fn is_vouched_for(&self, request: &Request, now: OffsetDateTime) -> bool {
        let tls = request.extensions().get::<Arc<TlsPeer>>();
        let svid = tls.and_then(|peer| peer.svid.as_ref());
        let bundle = Arc::clone(&self.bundle.borrow());
        svid.is_none_or(|svid| svid.is_vouched_for(&bundle, now))
    }
}

impl Step for FindCaller {
    async fn handle<S: Handler>(&self, mut request: Request, next: Next<S>) -> Response {
        let Some(call) = request.extensions().get::<Arc<Call>>().map(Arc::clone) else {
            return Status::internal("the call was not recorded").into_http();
        };
        let mut candidate = self.authorizer.candidate(Arc::clone(&call.peer), call.at);
        candidate.vouched_for = self.is_vouched_for(&request, call.at);
        request.extensions_mut().insert(Arc::new(candidate));
        next.run(request).await
    }
}
