//! Lets a call through by the table, or refuses it with the reason that agents act on.

use std::sync::Arc;

use tonic::Status;

use super::call::Call;
use super::step::{Handler, Next, Request, Response, Step};
use crate::authorize::{Authorizer, Candidate, Refusal, rule};
use crate::errors::ToStatus;

/// Decides.
#[derive(Debug)]
pub struct Authorize(Authorizer);

impl Authorize {
    /// Decides with the authorizer.
    pub fn new(authorizer: Authorizer) -> Self {
        Self(authorizer)
    }

    async fn decide(&self, request: &mut Request) -> Result<(), Status> {
        let extensions = request.extensions();
        let (Some(call), Some(candidate)) =
            (extensions.get::<Arc<Call>>(), extensions.get::<Arc<Candidate>>())
        else {
            return Err(Status::internal("the caller is not known"));
        };
        let (call, candidate) = (Arc::clone(call), Arc::clone(candidate));
        let path = request.uri().path();
        let Some((method, rule)) = rule(path) else {
            return Err(refused(&Refusal::UnknownMethod(call.method.to_string())));
        };
        let decided = self.0.authorize(method, rule, &candidate, &call.origin()).await;
        call.admit(decided.map_err(|e| refused(&e))?);
        request.extensions_mut().insert(rule);
        Ok(())
    }
}

fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::UnknownMethod(_) => Status::unimplemented(refusal.to_string()),
        Refusal::Denied(_) => Status::permission_denied(refusal.to_string()),
        Refusal::Revoked(_) => Status::unauthenticated(refusal.to_string()),
        Refusal::Agent(e) => e.to_status(),
    }
}

impl Step for Authorize {
    async fn handle<S: Handler>(&self, mut request: Request, next: Next<S>) -> Response {
        match self.decide(&mut request).await {
            Ok(()) => next.run(request).await,
            Err(status) => status.into_http(),
        }
    }
}
