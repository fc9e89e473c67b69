//! The outermost layer: whose connection it is, and how much one source, and all together, may ask for.
//!
//! The admin socket is not limited here: who may open it is an operator.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::{Code, Status};
use vouchsafe_identity::SpiffeId;
use vouchsafe_runtime::tls::TlsPeer;
use vouchsafe_runtime::uds::PlainPeer;

use super::anonymous::AnonymousCalls;
use super::body::Keep;
use super::places::{Place, Places};
use super::rates::Rates;
use super::step::{Handler, Next, Request, Response, Step};
use crate::authorize::{Rate, rule};
use crate::caller::{Peer, Proof, Source};
use crate::config::Limits;

/// Limits by source.
#[derive(Debug)]
pub struct SourceLimits {
    calls: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    callers: Places<SpiffeId>,
    sources: Places<Source>,
    anonymous_timeout: Duration,
    rates: Arc<Rates>,
    anonymous: Arc<AnonymousCalls>,
}

/// What a call holds until its end.
struct Held {
    _call: OwnedSemaphorePermit,
    _caller: Option<Place<SpiffeId>>,
    _source: Option<Place<Source>>,
}

impl SourceLimits {
    /// The limits of the config.
    pub fn new(limits: &Limits, rates: Arc<Rates>, anonymous: Arc<AnonymousCalls>) -> Self {
        let places = |count: u32| {
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
        };
        Self {
            calls: places(limits.max_calls),
            followers: places(limits.max_followers),
            callers: Places::new(limits.max_calls_per_caller),
            sources: Places::new(limits.max_anonymous_calls_per_source),
            anonymous_timeout: limits.attestation_timeout.get(),
            rates,
            anonymous,
        }
    }

    async fn admit(&self, peer: &Peer, path: &str) -> Result<Held, Status> {
        let busy = || Status::resource_exhausted("too many calls at a time: try again");
        let (caller, source) = match &peer.proof {
            Proof::Svid { id, .. } => (Some(self.callers.take(id).ok_or_else(busy)?), None),
            _ => (None, Some(self.sources.take(&peer.source).ok_or_else(busy)?)),
        };
        let rule = rule(path).map(|(_, rule)| rule);
        // Of those who show no SVID none gets a place among the followers: the table lets agents through only.
        let stays = caller.is_some() && rule.is_some_and(|rule| rule.stays);
        let places = if stays { &self.followers } else { &self.calls };
        let call = Arc::clone(places).try_acquire_owned().map_err(|_| busy())?;
        let attests = rule.is_some_and(|rule| rule.rate == Rate::Attestation);
        let taken = match (attests, peer.is_anonymous()) {
            (true, _) => self.rates.attestations.take(&peer.source, 1).await,
            (false, true) => self.rates.anonymous_calls.take(&peer.source, 1).await,
            (false, false) => Ok(()),
        };
        taken.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        Ok(Held {
            _call: call,
            _caller: caller,
            _source: source,
        })
    }
}

impl Step for SourceLimits {
    async fn handle<S: Handler>(&self, mut request: Request, next: Next<S>) -> Response {
        let Some(peer) = peer_of(request.extensions()) else {
            tracing::error!("a connection names no peer; its call is refused");
            return Status::internal("the connection names no peer").into_http();
        };
        let peer = Arc::new(peer);
        request.extensions_mut().insert(Arc::clone(&peer));
        if peer.source == Source::Socket {
            return next.run(request).await;
        }
        let held = match self.admit(&peer, request.uri().path()).await {
            Ok(held) => held,
            Err(status) => {
                let method = rule(request.uri().path()).map_or("unknown", |(name, _)| name);
                self.anonymous.note(peer.source, method, Code::ResourceExhausted);
                return status.into_http();
            }
        };
        let run = next.run(request);
        let response = if peer.is_anonymous() {
            // A request that never ends must not hold its place for ever.
            let late = |_| Status::deadline_exceeded("the call took too long").into_http();
            timeout(self.anonymous_timeout, run).await.unwrap_or_else(late)
        } else {
            run.await
        };
        response.map(|body| Keep::around(body, held))
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
