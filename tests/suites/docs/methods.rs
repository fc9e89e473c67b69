//! Which methods of SPIRE's server the running server has: each is called with an empty message, as an operator over
//! the admin socket, as an agent and as a server below, until one of them is let in. It is absent where the answer is
//! `Unimplemented`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper_util::rt::TokioIo;
use prost_reflect::DescriptorPool;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use vouchsafe_agent::bootstrap::Bootstrap;
use vouchsafe_agent::node::attest::attest;
use vouchsafe_identity::x509::csr;
use vouchsafe_identity::{Bundle, KeyAlgorithm, LocalKey, SpiffeId, TrustDomain};
use vouchsafe_node_attestors::join_token::{Prover, Token};
use vouchsafe_proto::FILE_DESCRIPTOR_SET;
use vouchsafe_proto::spire::api::server::svid::v1::MintX509svidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::tls::{self, BundleHandle, ChannelTimes, PeerRule, ServerAddress, SvidHandle};
use vouchsafe_tests::daemons::{Deployment, TRUST_DOMAIN, own_uid};

/// How long a method may take to refuse an empty message, or to take it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Methods by service, as in `svid.SVID`: those that are there, and those that are not.
pub(crate) type Answers = BTreeMap<String, (Vec<String>, Vec<String>)>;

pub(crate) async fn answered() -> anyhow::Result<Answers> {
    let deployment = Deployment::server_alone("").await?;
    let door = Door::of(&deployment).await?;
    let callers = [
        door.operator.clone(),
        door.agent(&deployment).await?,
        door.downstream(&deployment).await?,
    ];
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET)?;
    let mut answers = Answers::new();
    for service in pool.services() {
        let Some(name) = service.full_name().strip_prefix("spire.api.server.") else {
            continue;
        };
        let methods = answers.entry(name.replacen(".v1.", ".", 1)).or_default();
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let absent = first_answer(&callers, &path).await? == Code::Unimplemented;
            let list = if absent { &mut methods.1 } else { &mut methods.0 };
            list.push(method.name().to_owned());
        }
    }
    Ok(answers)
}

/// What the first caller is told who may call the method.
async fn first_answer(callers: &[Channel], path: &str) -> anyhow::Result<Code> {
    for caller in callers {
        let code = call(caller.clone(), path).await?;
        if code != Code::PermissionDenied {
            return Ok(code);
        }
    }
    anyhow::bail!("no caller may call {path}")
}

/// The ways into a server.
struct Door {
    operator: Channel,
    address: ServerAddress,
    trust_domain: TrustDomain,
    bundle: Bundle,
}

impl Door {
    async fn of(deployment: &Deployment) -> anyhow::Result<Self> {
        let config: toml::Table = std::fs::read_to_string(deployment.path("server.toml"))?.parse()?;
        let listen = config
            .get("listen")
            .and_then(toml::Value::as_str)
            .context("listen")?;
        let trust_domain = TrustDomain::new(TRUST_DOMAIN)?;
        let pem = deployment.vouchsafe(&["bundle", "show"]).await?.stdout;
        let socket = deployment.server_socket();
        let connector = tower::service_fn(move |_uri: tonic::transport::Uri| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
        });
        Ok(Self {
            operator: Endpoint::from_static("http://localhost")
                .connect_with_connector(connector)
                .await?,
            address: listen.parse()?,
            bundle: Bundle::from_pem(trust_domain.clone(), &pem)?,
            trust_domain,
        })
    }

    async fn agent(&self, deployment: &Deployment) -> anyhow::Result<Channel> {
        let token = deployment.json(&["token", "generate"]).await?;
        let prover = Prover::new(Token::new(
            token
                .get("value")
                .and_then(serde_json::Value::as_str)
                .context("a token")?,
        )?);
        let key = LocalKey::generate("agent", KeyAlgorithm::EcP256)?;
        let request = csr::create(&key, None, &[])?;
        let bootstrap = Bootstrap::Bundle(self.bundle.clone());
        let joined = attest(
            &self.address,
            &self.trust_domain,
            &bootstrap,
            &prover,
            request,
            &Clock::system(),
        )
        .await?;
        self.channel(&joined.chain, &key)
    }

    async fn downstream(&self, deployment: &Deployment) -> anyhow::Result<Channel> {
        let id = self.trust_domain.with_path("/downstream")?;
        deployment
            .entry(id.as_str(), &[&own_uid()], &["--downstream"])
            .await?;
        let key = LocalKey::generate("downstream", KeyAlgorithm::EcP256)?;
        let chain = self.minted(&id, &key).await?;
        self.channel(&chain, &key)
    }

    async fn minted(&self, id: &SpiffeId, key: &LocalKey) -> anyhow::Result<Vec<Vec<u8>>> {
        let request = MintX509svidRequest {
            csr: csr::create(key, Some(id), &[])?,
            ttl: 0,
        };
        let minted = SvidClient::new(self.operator.clone())
            .mint_x509svid(request)
            .await?;
        Ok(minted.into_inner().svid.context("an SVID")?.cert_chain)
    }

    fn channel(&self, chain: &[Vec<u8>], key: &LocalKey) -> anyhow::Result<Channel> {
        let (svid, bundles) = (SvidHandle::new(), BundleHandle::new());
        svid.set(chain, &key.to_pkcs8())?;
        bundles.set(self.bundle.clone());
        let server = PeerRule::Exact(self.trust_domain.with_path("/spire/server")?);
        let config = tls::client_config(Some(&svid), &bundles, &Clock::system(), server)?;
        Ok(tls::channel(
            &self.address,
            Arc::clone(&config),
            ChannelTimes::default(),
        ))
    }
}

/// Calls a method of any kind; its first answer, or `Ok` where it waits for more.
async fn call(channel: Channel, path: &str) -> anyhow::Result<Code> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = async {
        let requests = Request::new(tokio_stream::once(()));
        let answer = client.streaming(requests, path.parse()?, codec).await;
        let first = match answer {
            Ok(stream) => stream.into_inner().message().await.err(),
            Err(status) => Some(status),
        };
        Ok::<_, anyhow::Error>(first.map_or(Code::Ok, |status| status.code()))
    };
    timeout(PATIENCE, answer)
        .await
        .with_context(|| format!("{path} does not answer"))?
}
