//! Simulated agents: each joins by a token of its own and calls the server over mTLS with its own SVID.

use std::sync::Arc;

use anyhow::Context;
use tokio_stream::iter;
use tonic::transport::Channel;
use vouchsafe_identity::key::LocalKey;
use vouchsafe_identity::x509::csr;
use vouchsafe_identity::{Bundle, TrustDomain};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_request,
    attest_agent_response,
};
use vouchsafe_proto::spire::api::types::AttestationData;
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::tls::{self, BundleHandle, ChannelTimes, PeerRule, ServerAddress, SvidHandle};

use crate::daemons::{Deployment, TRUST_DOMAIN};
use crate::entries;

/// Path of the alias that simulated agents have in common.
pub const ALIAS: &str = "/node/test";
/// Longest life of a join token, in seconds.
const TOKEN_TTL: i32 = 600;

/// The server as agents know it before they join.
#[derive(Debug, Clone)]
pub struct Home {
    address: ServerAddress,
    bundles: BundleHandle,
    expect: PeerRule,
    /// One key and CSR for all: a simulated agent need not keep it secret from the next one.
    key: Arc<LocalKey>,
    csr: Vec<u8>,
}

impl Home {
    /// The server of a deployment.
    ///
    /// # Errors
    /// When it does not show its bundle.
    pub async fn of(deployment: &Deployment) -> anyhow::Result<Self> {
        let shown = deployment
            .vouchsafe(&["bundle", "show", "--format", "pem"])
            .await?;
        let trust_domain = TrustDomain::new(TRUST_DOMAIN)?;
        let bundles = BundleHandle::new();
        bundles.set(Bundle::from_pem(trust_domain.clone(), &shown.stdout)?);
        let key = LocalKey::generate("fleet", vouchsafe_identity::KeyAlgorithm::EcP256)?;
        Ok(Self {
            address: deployment.server_address().parse()?,
            bundles,
            expect: PeerRule::Exact(trust_domain.with_path("/spire/server")?),
            csr: csr::create(&key, None, &[])?,
            key: Arc::new(key),
        })
    }

    /// A new connection, with an SVID or without.
    fn channel(&self, svid: Option<&SvidHandle>) -> anyhow::Result<Channel> {
        let config = tls::client_config(svid, &self.bundles, &Clock::system(), self.expect.clone())?;
        Ok(tls::channel(&self.address, config, ChannelTimes::default()))
    }

    /// Makes a token to join with; its holder gets the alias [`ALIAS`].
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn token(admin: &Channel) -> anyhow::Result<String> {
        let request = CreateJoinTokenRequest {
            ttl: TOKEN_TTL,
            token: String::new(),
            agent_id: Some(entries::id(ALIAS)),
        };
        let made = AgentClient::new(admin.clone()).create_join_token(request).await?;
        Ok(made.into_inner().value)
    }

    /// Joins with a token.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn join(&self, token: String) -> anyhow::Result<Member> {
        let params = attest_agent_request::Params {
            data: Some(AttestationData {
                r#type: "join_token".to_owned(),
                payload: token.into_bytes(),
            }),
            params: Some(AgentX509svidParams {
                csr: self.csr.clone(),
            }),
        };
        let request = AttestAgentRequest {
            step: Some(attest_agent_request::Step::Params(params)),
        };
        let answers = AgentClient::new(self.channel(None)?)
            .attest_agent(iter([request]))
            .await?;
        let answer = answers.into_inner().message().await?.context("no answer")?;
        let Some(attest_agent_response::Step::Result(result)) = answer.step else {
            anyhow::bail!("a join token is answered by a challenge");
        };
        let issued = result.svid.context("the node joined and got no SVID")?;
        let svid = SvidHandle::new();
        svid.set(&issued.cert_chain, &self.key.to_pkcs8())?;
        Ok(Member {
            path: issued.id.context("an SVID without an id")?.path,
            home: self.clone(),
            svid,
        })
    }
}

/// An agent that has joined.
#[derive(Debug, Clone)]
pub struct Member {
    /// Path of its SPIFFE ID.
    pub path: String,
    home: Home,
    svid: SvidHandle,
}

impl Member {
    /// A new connection that shows its SVID.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn channel(&self) -> anyhow::Result<Channel> {
        self.home.channel(Some(&self.svid))
    }
}

/// So many agents that join one after the other.
///
/// # Errors
/// When one is refused.
pub async fn join(deployment: &Deployment, admin: &Channel, count: usize) -> anyhow::Result<Vec<Member>> {
    let home = Home::of(deployment).await?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        members.push(home.join(Home::token(admin).await?).await?);
    }
    Ok(members)
}
