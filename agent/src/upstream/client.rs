//! The server by gRPC over TLS, as this agent: every call shows the agent's SVID.
//!
//! A connection stays as it was opened, so after a renewal calls go over a new one; a call that was refused on an old
//! one because of that is made again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport;
use tonic::{Code, Status, Streaming};
use vouchsafe_identity::secret::Secret;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, PostStatusRequest, RenewAgentRequest,
};
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use vouchsafe_proto::vouchsafe::sync::v1::sync_client::SyncClient;
use vouchsafe_proto::vouchsafe::sync::v1::{FollowRequest, FollowResponse};
use vouchsafe_runtime::telemetry::traces::{TracedChannel as Channel, Traces};

use super::convert::moment;
use super::{Authority, IssuedJwt, Refusal, UpstreamError, X509Request};
use crate::cache::rotation::Lifetime;
use crate::entry::EntryId;

/// Longest time for one call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer that is taken, in bytes: a page of 500 entries, or 500 chains.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// How often a call is made at most, if a renewal or an ending connection comes between.
const MAX_TRIES: usize = 3;

/// The server. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    open: Arc<dyn Fn() -> transport::Channel + Send + Sync>,
    traces: Traces,
    link: ArcSwap<Channel>,
    /// Tells that there is a new link.
    opened: watch::Sender<()>,
    refusal: watch::Sender<Option<Refusal>>,
}

/// A connection to the server that shows the SVID of its time. It is made when it is first used, and again when it is
/// lost. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link(Arc<Channel>);

impl Link {
    pub(crate) fn channel(&self) -> Channel {
        Channel::clone(&self.0)
    }
}

impl Upstream {
    /// The server that `open` connects to. Each channel of it shows the SVID of its time.
    pub fn new(open: impl Fn() -> transport::Channel + Send + Sync + 'static) -> Self {
        Self::opened_by(Arc::new(open), Traces::default())
    }

    /// The same server, by calls that are traced.
    #[must_use]
    pub fn traced(self, traces: Traces) -> Self {
        Self::opened_by(Arc::clone(&self.0.open), traces)
    }

    fn opened_by(open: Arc<dyn Fn() -> transport::Channel + Send + Sync>, traces: Traces) -> Self {
        let link = ArcSwap::from_pointee(traces.channel(open()));
        Self(Arc::new(Inner {
            open,
            traces,
            link,
            opened: watch::Sender::new(()),
            refusal: watch::Sender::new(None),
        }))
    }

    /// Calls go over a new connection from now on.
    pub fn reconnect(&self) {
        let channel = self.0.traces.channel((self.0.open)());
        self.0.link.store(Arc::new(channel));
        self.0.opened.send_replace(());
    }

    /// The connection over which calls go at present.
    pub fn link(&self) -> Link {
        Link(self.0.link.load_full())
    }

    /// Whether calls go over a newer connection.
    pub fn is_replaced(&self, link: &Link) -> bool {
        !Arc::ptr_eq(&link.0, &self.0.link.load())
    }

    /// Waits until calls go over a newer connection.
    pub async fn replaced(&self, link: &Link) {
        let mut opened = self.0.opened.subscribe();
        while !self.is_replaced(link) {
            if opened.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes in how a stream over that connection ended. A refusal of a connection that still shows a replaced SVID is
    /// none of this agent.
    pub(crate) fn judge(&self, link: &Link, status: Status) -> UpstreamError {
        let error = UpstreamError::from(status);
        if let UpstreamError::Refused(refusal) = &error
            && !self.is_replaced(link)
        {
            self.0.refusal.send_replace(Some(refusal.clone()));
        }
        error
    }

    /// Opens a stream of changes.
    pub(crate) async fn follow(
        channel: Channel,
        requests: ReceiverStream<FollowRequest>,
    ) -> Result<Streaming<FollowResponse>, Status> {
        let mut client = SyncClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(client.follow(requests).await?.into_inner())
    }

    /// Waits until the server has refused this agent, on whichever call.
    pub async fn refused(&self) -> Refusal {
        let mut heard = self.0.refusal.subscribe();
        loop {
            if let Some(refusal) = heard.borrow_and_update().clone() {
                return refusal;
            }
            if heard.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Makes a call; again where the connection ended under it, or where it went over a connection that shows an SVID
    /// that has been replaced meanwhile.
    pub async fn call<T, F>(&self, make: impl Fn(Channel) -> F) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            let link = self.0.link.load_full();
            let made = tokio::time::timeout(CALL_TIMEOUT, make(Channel::clone(&link))).await;
            let status = match made {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_elapsed) => Status::deadline_exceeded("no answer in time"),
            };
            let replaced = !Arc::ptr_eq(&link, &self.0.link.load());
            let broken = status.code() == Code::Unknown || connection_ended(&status);
            let error = UpstreamError::from(status);
            match &error {
                UpstreamError::Refused(_) | UpstreamError::Unavailable(_)
                    if replaced && tries < MAX_TRIES => {}
                UpstreamError::Unavailable(_) if broken && tries < MAX_TRIES => {}
                UpstreamError::Refused(refusal) => {
                    self.0.refusal.send_replace(Some(refusal.clone()));
                    return Err(error);
                }
                _ => return Err(error),
            }
        }
    }

    /// Asks for a new SVID of this agent; gives the chain, leaf first.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn renew(&self, csr: &[u8]) -> Result<Vec<Vec<u8>>, UpstreamError> {
        let answer = self
            .call(async |channel| {
                let params = AgentX509svidParams { csr: csr.to_vec() };
                let request = RenewAgentRequest { params: Some(params) };
                AgentClient::new(channel).renew_agent(request).await
            })
            .await?;
        let svid = answer.into_inner().svid;
        svid.map(|svid| svid.cert_chain)
            .ok_or_else(|| UpstreamError::Nonsense("a renewal without an SVID".to_owned()))
    }

    /// Tells the server which program this is and which bundle it has.
    ///
    /// # Errors
    /// [`UpstreamError`]; servers need not take it.
    pub async fn post_status(&self, bundle_sequence: u64) -> Result<(), UpstreamError> {
        let posted = self
            .call(async |channel| {
                let request = PostStatusRequest {
                    current_bundle_serial: bundle_sequence,
                    agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                AgentClient::new(channel).post_status(request).await
            })
            .await;
        posted.map(drop)
    }

    pub(crate) fn entries(channel: Channel) -> EntryClient<Channel> {
        EntryClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(crate) fn bundles(channel: Channel) -> BundleClient<Channel> {
        BundleClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn svids(channel: Channel) -> SvidClient<Channel> {
        SvidClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

/// Whether the server ended the connection in an orderly way, as it does with old ones, while the call was on its way.
fn connection_ended(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let hyper = error.downcast_ref::<hyper::Error>();
        if hyper.is_some_and(|e| e.is_closed() || e.is_canceled()) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[async_trait]
impl Authority for Upstream {
    async fn issue_x509(
        &self,
        requests: &[X509Request],
    ) -> Result<Vec<Result<Vec<Vec<u8>>, String>>, UpstreamError> {
        let answer = self
            .call(async |channel| {
                let params = requests
                    .iter()
                    .map(|request| NewX509svidParams {
                        entry_id: request.entry.to_string(),
                        csr: request.csr.clone(),
                    })
                    .collect();
                let request = BatchNewX509svidRequest { params };
                Self::svids(channel).batch_new_x509svid(request).await
            })
            .await?;
        let results = answer.into_inner().results.into_iter();
        Ok(results
            .map(|result| {
                let status = result.status.unwrap_or_default();
                match (Code::from(status.code), result.svid) {
                    (Code::Ok, Some(svid)) => Ok(svid.cert_chain),
                    (Code::Ok, None) => Err("the server sent no SVID".to_owned()),
                    (code, _) => Err(format!("{code:?}: {}", status.message)),
                }
            })
            .collect())
    }

    async fn issue_jwt(&self, entry: &EntryId, audience: &[String]) -> Result<IssuedJwt, UpstreamError> {
        let answer = self
            .call(async |channel| {
                let request = NewJwtsvidRequest {
                    entry_id: entry.to_string(),
                    audience: audience.to_vec(),
                };
                Self::svids(channel).new_jwtsvid(request).await
            })
            .await?;
        let nonsense = |what: &str| UpstreamError::Nonsense(what.to_owned());
        let svid = answer.into_inner().svid.ok_or_else(|| nonsense("no JWT-SVID"))?;
        let not_before = moment(svid.issued_at).ok_or_else(|| nonsense("a JWT-SVID without a start"))?;
        let not_after = moment(svid.expires_at).ok_or_else(|| nonsense("a JWT-SVID without an end"))?;
        Ok(IssuedJwt {
            token: Secret::new(svid.token),
            spiffe_id: None,
            lifetime: Lifetime {
                not_before,
                not_after,
            },
        })
    }
}
