//! The outermost layer: whose connection it is, and how much one source, and all together, may ask for.
//!
//! The admin socket is not limited here: who may open it is an operator.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::{Code, Status};
use vouchsafe_identity::SpiffeId;
use vouchsafe_runtime::Span;
use vouchsafe_runtime::tls::TlsPeer;
use vouchsafe_runtime::uds::PlainPeer;

use super::Layers;
use super::anonymous::AnonymousCalls;
use super::body::Keep;
use super::places::{Place, Places};
use super::rates::Rates;
use super::step::{Handler, Next, Request, Response, Step};
use crate::authorize::{Rate, rule};
use crate::caller::{Peer, Proof, Source};
use crate::metrics::Refused;

const CALLS: &str = "max_calls";
const FOLLOWERS: &str = "max_followers";
const PER_CALLER: &str = "max_calls_per_caller";
const PER_SOURCE: &str = "max_anonymous_calls_per_source";

/// Limits by source.
#[derive(Debug)]
pub struct SourceLimits {
    calls: Pool,
    followers: Pool,
    callers: Places<SpiffeId>,
    sources: Places<Source>,
    anonymous_timeout: Duration,
    rates: Arc<Rates>,
    anonymous: Arc<AnonymousCalls>,
    refused: [Counter; 2],
}

/// So many places for all together.
#[derive(Debug)]
struct Pool {
    free: Arc<Semaphore>,
    most: u32,
    limit: &'static str,
    unit: &'static str,
    refused: Counter,
}

impl Pool {
    fn new(most: u32, limit: &'static str, unit: &'static str, refused: &Refused) -> Self {
        let places = usize::try_from(most).unwrap_or(usize::MAX);
        Self {
            free: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            most,
            limit,
            unit,
            refused: refused.watch(limit),
        }
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, Status> {
        let Self { most, unit, .. } = self;
        let taken = Arc::clone(&self.free).try_acquire_owned();
        taken.map_err(|_| full(&self.refused, self.limit, format_args!("{most} {unit}")))
    }
}

/// What a call holds until its end.
struct Held {
    _call: OwnedSemaphorePermit,
    _caller: Option<Place<SpiffeId>>,
    _source: Option<Place<Source>>,
}

impl SourceLimits {
    /// The limits of the config.
    pub fn new(layers: &Layers) -> Self {
        let (limits, refused) = (&layers.limits, &layers.metrics.refused);
        Self {
            calls: Pool::new(limits.max_calls, CALLS, "calls at a time", refused),
            followers: Pool::new(limits.max_followers, FOLLOWERS, "streams at a time", refused),
            callers: layers.callers.clone(),
            sources: Places::new(limits.max_anonymous_calls_per_source),
            anonymous_timeout: limits.attestation_timeout.get(),
            rates: Arc::clone(&layers.rates),
            anonymous: Arc::clone(&layers.anonymous),
            refused: [PER_CALLER, PER_SOURCE].map(|limit| refused.watch(limit)),
        }
    }

    async fn admit(&self, peer: &Peer, path: &str) -> Result<Held, Status> {
        let [per_caller, per_source] = &self.refused;
        let (caller, source) = match &peer.proof {
            Proof::Svid { id, .. } => {
                let most = self.callers.limit();
                let place = self.callers.take(id).ok_or_else(|| {
                    full(
                        per_caller,
                        PER_CALLER,
                        format_args!("{most} calls at a time of one caller"),
                    )
                })?;
                (Some(place), None)
            }
            _ => {
                let most = self.sources.limit();
                let place = self.sources.take(&peer.source).ok_or_else(|| {
                    full(
                        per_source,
                        PER_SOURCE,
                        format_args!("{most} calls at a time from one address"),
                    )
                })?;
                (None, Some(place))
            }
        };
        let rule = rule(path).map(|(_, rule)| rule);
        // Of those who show no SVID none gets a place among the followers: the table lets agents through only.
        let stays = caller.is_some() && rule.is_some_and(|rule| rule.stays);
        let pool = if stays { &self.followers } else { &self.calls };
        let call = pool.take()?;
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

fn full(refused: &Counter, limit: &str, what: std::fmt::Arguments<'_>) -> Status {
    refused.inc();
    Status::resource_exhausted(format!("the limit `{limit}` of {what} is reached: try again"))
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
            let most = Span::new(self.anonymous_timeout);
            let text = format!("the call took too long: `attestation_timeout` is {most}");
            let late = |_| Status::deadline_exceeded(text).into_http();
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
