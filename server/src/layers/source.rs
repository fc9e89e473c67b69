//! The outermost layer: whose connection it is, and how much one source, and all together, may ask for.
//!
//! The admin socket is not limited here: who may open it is an operator.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};
use vouchsafe_runtime::tls::TlsPeer;
use vouchsafe_runtime::uds::PlainPeer;

use super::anonymous::AnonymousCalls;
use super::body::Keep;
use super::rates::Rates;
use super::step::{Handler, Next, Request, Response, Step};
use crate::authorize::{Rate, rule};
use crate::caller::{Peer, Proof, Source};
use crate::config::Limits;

/// Limits by source.
#[derive(Debug)]
pub struct SourceLimits {
    calls: Arc<Semaphore>,
    rates: Arc<Rates>,
    anonymous: Arc<AnonymousCalls>,
}

impl SourceLimits {
    /// The limits of the config.
    pub fn new(limits: &Limits, rates: Arc<Rates>, anonymous: Arc<AnonymousCalls>) -> Self {
        let calls = usize::try_from(limits.max_calls).unwrap_or(usize::MAX);
        Self {
            calls: Arc::new(Semaphore::new(calls.min(Semaphore::MAX_PERMITS))),
            rates,
            anonymous,
        }
    }

    async fn admit(&self, peer: &Peer, path: &str) -> Result<OwnedSemaphorePermit, Status> {
        let busy = || Status::resource_exhausted("too many calls at a time: try again");
        let permit = Arc::clone(&self.calls).try_acquire_owned().map_err(|_| busy())?;
        let attests = rule(path).is_some_and(|(_, rule)| rule.rate == Rate::Attestation);
        let taken = match (attests, peer.is_anonymous()) {
            (true, _) => self.rates.attestations.take(&peer.source, 1).await,
            (false, true) => self.rates.anonymous_calls.take(&peer.source, 1).await,
            (false, false) => Ok(()),
        };
        taken.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        Ok(permit)
    }
}

impl Step for SourceLimits {
    async fn handle<S: Handler>(&self, mut request: Request, next: Next<S>) -> Response {
        let Some(peer) = peer_of(request.extensions()) else {
            tracing::error!("a connection names no peer; its call is refused");
            return Status::internal("the connection names no peer").into_http();
        };
        let peer = Arc::new(peer);
        let permit = if peer.source == Source::Socket {
            None
        } else {
            match self.admit(&peer, request.uri().path()).await {
                Ok(permit) => Some(permit),
                Err(status) => {
                    let method = rule(request.uri().path()).map_or("unknown", |(name, _)| name);
                    self.anonymous.note(peer.source, method, Code::ResourceExhausted);
                    return status.into_http();
                }
            }
        };
        request.extensions_mut().insert(peer);
        next.run(request).await.map(|body| Keep::around(body, permit))
    }
}

/// The peer as the listener that accepted its connection saw it.
fn peer_of(extensions: &http::Extensions) -> Option<Peer> {
    if let Some(tls) = extensions.get::<Arc<TlsPeer>>() {
        let ip: IpAddr = tls.addr.ip();
        let proof = tls.svid.as_ref().map_or(Proof::None, |svid| Proof::Svid {
            id: svid.leaf.spiffe_id.clone(),
            serial: svid.leaf.serial.clone(),
            expires_at: svid.leaf.not_after,
        });
        return Some(Peer {
            source: Source::of(ip),
            proof,
        });
    }
    let local = extensions.get::<PlainPeer>()?;
    Some(Peer {
        source: Source::Socket,
        proof: Proof::Local {
            uid: local.uid,
            pid: local.pid,
        },
    })
}
