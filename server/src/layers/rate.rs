//! How often one caller may call. The admin socket is exempt; callers without an SVID are counted by source.

use std::sync::Arc;

use tonic::Status;

use super::call::Call;
use super::rates::Rates;
use super::step::{Handler, Next, Request, Response, Step};
use crate::authorize::{Rate, Rule};
use crate::caller::Proof;

/// Counts calls.
#[derive(Debug)]
pub struct CallerRate(Arc<Rates>);

impl CallerRate {
    /// Counts with these buckets.
    pub fn new(rates: Arc<Rates>) -> Self {
        Self(rates)
    }

    async fn take(&self, extensions: &http::Extensions) -> Result<(), Status> {
        let (Some(call), Some(rule)) = (extensions.get::<Arc<Call>>(), extensions.get::<Rule>()) else {
            return Err(Status::internal("the caller is not known"));
        };
        let Proof::Svid { id, .. } = &call.peer.proof else {
            return Ok(());
        };
        let taken = match rule.rate {
            Rate::Signature => self.0.signatures.take(id, 1).await,
            Rate::Call => self.0.calls.take(id, 1).await,
            Rate::Attestation => Ok(()),
        };
        taken.map_err(|e| Status::resource_exhausted(e.to_string()))
    }
}

impl Step for CallerRate {
    async fn handle<S: Handler>(&self, request: Request, next: Next<S>) -> Response {
        match self.take(request.extensions()).await {
            Ok(()) => next.run(request).await,
            Err(status) => status.into_http(),
        }
    }
}
