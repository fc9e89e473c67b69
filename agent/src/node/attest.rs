//! AttestAgent: the node proves itself on a connection without an SVID, and gets its first one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_attestors::{NodeAttestError, NodeProver};
use vouchsafe_identity::{Bundle, TrustDomain, x509};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, attest_agent_request, attest_agent_response,
};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::types::AttestationData;
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::tls::{
    self, BundleHandle, ChannelTimes, PeerRule, SeenChain, ServerAddress, TlsError,
};

use crate::bootstrap::Bootstrap;
use crate::upstream::client::MAX_ANSWER_BYTES;
use crate::upstream::{UpstreamError, convert};

/// Longest time for the whole exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Path of a server's SPIFFE ID.
pub const SERVER_PATH: &str = "/spire/server";

/// What came of it.
#[derive(Debug)]
pub struct Attestation {
    /// DER certificates, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Whether the node may prove itself the same way again.
    pub reattestable: bool,
    /// The trust domain's bundle.
    pub bundle: Bundle,
}

/// Why the node has not joined.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// It will not help to try again.
    #[error("{0}")]
    Final(String),
    /// It may help to try again.
    #[error("{reason}")]
    Temporary {
        /// What happened.
        reason: String,
        /// How long the server wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
}

impl AttestError {
    fn temporary(reason: &str) -> Self {
        Self::Temporary {
            reason: reason.to_owned(),
            retry_after: None,
        }
    }
}

impl From<Status> for AttestError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::NotFound
            | Code::Unimplemented => Self::Final(status.message().to_owned()),
            _ => {
                let error = UpstreamError::from(status);
                Self::Temporary {
                    reason: error.to_string(),
                    retry_after: error.retry_after(),
                }
            }
        }
    }
}

impl From<TlsError> for AttestError {
    fn from(error: TlsError) -> Self {
        Self::Final(error.to_string())
    }
}

impl From<NodeAttestError> for AttestError {
    fn from(error: NodeAttestError) -> Self {
        Self::Final(error.to_string())
    }
}

/// Attests the node and fetches the bundle on the same connection.
///
/// # Errors
/// [`AttestError`] says whether to try again.
pub async fn attest(
    address: &ServerAddress,
    trust_domain: &TrustDomain,
    bootstrap: &Bootstrap,
    prover: &dyn NodeProver,
    csr: Vec<u8>,
    clock: &Clock,
) -> Result<Attestation, AttestError> {
    let (channel, seen) = open(address, trust_domain, bootstrap, clock)?;
    let exchange = async {
        let (chain, reattestable) = exchange(channel.clone(), prover, csr).await?;
        let bundle = BundleClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .get_bundle(GetBundleRequest::default())
            .await?;
        let bundle = convert::bundle(bundle.into_inner()).map_err(|e| AttestError::Final(e.to_string()))?;
        Ok::<_, AttestError>((chain, reattestable, bundle))
    };
    let (chain, reattestable, bundle) = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange)
        .await
        .map_err(|_elapsed| AttestError::temporary("the server did not answer in time"))??;
    if bundle.trust_domain != *trust_domain {
        return Err(AttestError::Final(format!(
            "the server is one of trust domain `{}`, where `{trust_domain}` is configured",
            bundle.trust_domain
        )));
    }
    if let Some(seen) = seen {
        confirm(&seen, &bundle, clock)?;
    }
    Ok(Attestation {
        chain,
        reattestable,
        bundle,
    })
}

fn open(
    address: &ServerAddress,
    trust_domain: &TrustDomain,
    bootstrap: &Bootstrap,
    clock: &Clock,
) -> Result<(Channel, Option<SeenChain>), AttestError> {
    let server = trust_domain
        .with_path(SERVER_PATH)
        .map_err(|e| AttestError::Final(e.to_string()))?;
    let (config, seen) = match bootstrap {
        Bootstrap::Bundle(bundle) => {
            let bundles = BundleHandle::new();
            bundles.set(bundle.clone());
            (
                tls::client_config(None, &bundles, clock, PeerRule::Exact(server))?,
                None,
            )
        }
        Bootstrap::Insecure => {
            tracing::warn!(
                server = %address,
                "insecure_bootstrap: joining whatever server answers; who stands between can pass for it"
            );
            let (config, seen) = tls::danger_accept_any_server(PeerRule::Exact(server))?;
            (config, Some(seen))
        }
    };
    let channel = tls::channel(address, Arc::clone(&config), ChannelTimes::default());
    Ok((channel, seen))
}

/// The server that was believed without proof must at least be one of the bundle that it gave.
fn confirm(seen: &SeenChain, bundle: &Bundle, clock: &Clock) -> Result<(), AttestError> {
    let chain = seen.get().unwrap_or_default();
    x509::verify_svid(chain, bundle, clock.now())
        .map(drop)
        .map_err(|e| {
            AttestError::Final(format!(
                "the server's own SVID is not one of the bundle that it gave: {e}"
            ))
        })
}

async fn exchange(
    channel: Channel,
    prover: &dyn NodeProver,
    csr: Vec<u8>,
) -> Result<(Vec<Vec<u8>>, bool), AttestError> {
    let ended = || AttestError::temporary("the server ended the exchange early");
    let (requests, sent) = mpsc::channel(1);
    let params = attest_agent_request::Params {
        data: Some(AttestationData {
            r#type: prover.name().to_owned(),
            payload: prover.payload().await?,
        }),
        params: Some(AgentX509svidParams { csr }),
    };
    let step = |step| AttestAgentRequest { step: Some(step) };
    let first = step(attest_agent_request::Step::Params(params));
    requests.send(first).await.map_err(|_| ended())?;
    let answers = AgentClient::new(channel)
        .attest_agent(ReceiverStream::new(sent))
        .await?;
    let mut answers = answers.into_inner();
    loop {
        let answer = answers.message().await?.ok_or_else(ended)?;
        match answer
            .step
            .ok_or_else(|| AttestError::Final("the server sent an empty answer".to_owned()))?
        {
            attest_agent_response::Step::Challenge(challenge) => {
                let response = prover.respond(&challenge).await?;
                let response = step(attest_agent_request::Step::ChallengeResponse(response));
                requests.send(response).await.map_err(|_| ended())?;
            }
            attest_agent_response::Step::Result(result) => {
                let svid = result.svid.ok_or_else(|| {
                    AttestError::Final("the server admitted the node and sent no SVID".to_owned())
                })?;
                return Ok((svid.cert_chain, result.reattestable));
            }
        }
    }
}
