//! A server with everything in memory and a clock that tests move, and callers of every kind.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use vouchsafe_identity::x509::csr;
use vouchsafe_identity::x509::svid::{LeafInfo, parse_leaf};
use vouchsafe_identity::{
    Bundle, JwtAuthority, KeyAlgorithm, LocalKey, SpiffeId, TrustDomain, X509Authority,
};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::attest_agent_response::Step as Answer;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, RenewAgentRequest, attest_agent_request,
};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::svid::v1::MintX509svidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::tls::{self, BundleHandle, ChannelTimes, PeerRule, SvidHandle};
use vouchsafe_runtime::{Clock, TaskFailed};
use vouchsafe_server::app::{Addresses, App, Host};
use vouchsafe_server::config::Config;

pub(crate) const TRUST_DOMAIN: &str = "example.org";
pub(crate) const START: i64 = 1_900_000_000;

/// A server that runs until it is dropped.
pub(crate) struct TestServer {
    pub(crate) clock: Clock,
    pub(crate) addresses: Addresses,
    pub(crate) dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) ended: Option<JoinHandle<Result<(), TaskFailed>>>,
}

/// An SVID with its key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) key: Arc<LocalKey>,
    pub(crate) chain: Vec<Vec<u8>>,
}

impl Identity {
    pub(crate) fn leaf(&self) -> LeafInfo {
        parse_leaf(&self.chain[0]).unwrap()
    }

    pub(crate) fn id(&self) -> SpiffeId {
        self.leaf().spiffe_id
    }
}

pub(crate) fn config(dir: &TempDir, extra: &str) -> Config {
    let path = dir.path().display();
    let text = format!(
        "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = \"{path}/data\"\nlisten = \"127.0.0.1:0\"\n\
         admin_socket = \"{path}/server.sock\"\n{extra}\n"
    );
    toml::from_str(&text).unwrap()
}

/// A server with memory for store and keys.
pub(crate) async fn server() -> TestServer {
    server_with("").await
}

pub(crate) async fn server_with(extra: &str) -> TestServer {
    let dir = tempfile::tempdir().unwrap();
    let config = config(
        &dir,
        &format!("store = \"memory\"\nkey_manager = \"memory\"\n{extra}"),
    );
    start(dir, config).await
}

/// A server that keeps what it has in a folder.
pub(crate) async fn server_on_disk(dir: TempDir) -> TestServer {
    server_on_disk_at(dir, START).await
}

/// The same, started at some time.
pub(crate) async fn server_on_disk_at(dir: TempDir, now: i64) -> TestServer {
    let config = config(&dir, "");
    start_at(dir, config, now).await
}

async fn start(dir: TempDir, config: Config) -> TestServer {
    start_at(dir, config, START).await
}

async fn start_at(dir: TempDir, config: Config, now: i64) -> TestServer {
    let clock = Clock::manual(OffsetDateTime::from_unix_timestamp(now).unwrap());
    let app = App::build(
        config,
        Host {
            clock: clock.clone(),
            ..Host::default()
        },
    )
    .await
    .unwrap();
    let addresses = app.addresses().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let signal = async {
        let _dropped = stopped.await;
        "test"
    };
    let ended = spawn(app.run(signal));
    TestServer {
        clock,
        addresses,
        dir,
        stop: Some(stop),
        ended: Some(ended),
    }
}

impl TestServer {
    /// Over the admin socket.
    pub(crate) async fn local(&self) -> Channel {
        local(&self.addresses).await
    }

    /// Over TLS, with an SVID or without.
    pub(crate) async fn tls(&self, identity: Option<&Identity>) -> Channel {
        let bundles = BundleHandle::new();
        bundles.set(self.bundle().await);
        self.tls_trusting(identity, &bundles)
    }

    pub(crate) fn tls_trusting(&self, identity: Option<&Identity>, bundles: &BundleHandle) -> Channel {
        let svid = identity.map(|identity| {
            let handle = SvidHandle::new();
            handle
                .set_signer(&identity.chain, Arc::clone(&identity.key) as _)
                .unwrap();
            handle
        });
        let server = id("/spire/server");
        let config =
            tls::client_config(svid.as_ref(), bundles, &self.clock, PeerRule::Exact(server)).unwrap();
        let address = self.addresses.listen.to_string().parse().unwrap();
        tls::channel(&address, config, ChannelTimes::default())
    }

    pub(crate) async fn bundle(&self) -> Bundle {
        let mut client = BundleClient::new(self.local().await);
        let got = client.get_bundle(GetBundleRequest::default()).await.unwrap();
        bundle_of(got.into_inner())
    }

    pub(crate) async fn token(&self, ttl: i32) -> String {
        self.token_with(ttl, None).await
    }

    pub(crate) async fn token_with(&self, ttl: i32, alias: Option<&SpiffeId>) -> String {
        let asked = CreateJoinTokenRequest {
            ttl,
            agent_id: alias.map(message),
            ..CreateJoinTokenRequest::default()
        };
        let mut client = AgentClient::new(self.local().await);
        client.create_join_token(asked).await.unwrap().into_inner().value
    }

    /// An agent that has joined.
    pub(crate) async fn agent(&self) -> Identity {
        let token = self.token(600).await;
        attest(self.tls(None).await, &token).await.unwrap()
    }

    /// An SVID that an operator minted.
    pub(crate) async fn minted(&self, path: &str) -> Identity {
        let key = key();
        let csr = csr::create(key.as_ref(), Some(&id(path)), &[]).unwrap();
        let mut client = SvidClient::new(self.local().await);
        let minted = client
            .mint_x509svid(MintX509svidRequest { csr, ttl: 0 })
            .await
            .unwrap();
        Identity {
            key,
            chain: minted.into_inner().svid.unwrap().cert_chain,
        }
    }

    /// An entry that stands; its id.
    pub(crate) async fn entry(&self, entry: types::Entry) -> types::Entry {
        let mut client = EntryClient::new(self.local().await);
        let asked = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let mut results = client
            .batch_create_entry(asked)
            .await
            .unwrap()
            .into_inner()
            .results;
        let result = results.pop().unwrap();
        assert_eq!(result.status.unwrap().code, 0);
        result.entry.unwrap()
    }

    /// Stops the server and waits until it has ended.
    pub(crate) async fn stop(mut self) -> TempDir {
        drop(self.stop.take());
        let ended = tokio::time::timeout(Duration::from_secs(20), self.ended.take().unwrap()).await;
        ended.unwrap().unwrap().unwrap();
        self.dir
    }
}

pub(crate) async fn local(addresses: &Addresses) -> Channel {
    let path = addresses.admin_socket.clone();
    let connect = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connect).await.unwrap()
}

pub(crate) fn key() -> Arc<LocalKey> {
    Arc::new(LocalKey::generate("test", KeyAlgorithm::EcP256).unwrap())
}

pub(crate) fn id(path: &str) -> SpiffeId {
    TrustDomain::new(TRUST_DOMAIN).unwrap().with_path(path).unwrap()
}

pub(crate) fn message(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    }
}

pub(crate) fn selector(kind: &str, value: &str) -> types::Selector {
    types::Selector {
        r#type: kind.to_owned(),
        value: value.to_owned(),
    }
}

/// An entry under a parent.
pub(crate) fn entry(parent: &SpiffeId, path: &str, uid: u32) -> types::Entry {
    types::Entry {
        parent_id: Some(message(parent)),
        spiffe_id: Some(message(&id(path))),
        selectors: vec![selector("unix", &format!("uid:{uid}"))],
        ..types::Entry::default()
    }
}

pub(crate) fn bundle_of(message: types::Bundle) -> Bundle {
    Bundle {
        x509_authorities: message
            .x509_authorities
            .into_iter()
            .map(|authority| X509Authority {
                certificate: authority.asn1,
                tainted: authority.tainted,
            })
            .collect(),
        jwt_authorities: message
            .jwt_authorities
            .into_iter()
            .map(|authority| JwtAuthority {
                key_id: authority.key_id,
                public_key: authority.public_key,
                expires_at: OffsetDateTime::from_unix_timestamp(authority.expires_at).ok(),
                tainted: authority.tainted,
            })
            .collect(),
        sequence: message.sequence_number,
        ..Bundle::empty(TrustDomain::new(&message.trust_domain).unwrap())
    }
}

pub(crate) fn attest_request(kind: &str, payload: &[u8], csr: Vec<u8>) -> AttestAgentRequest {
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: kind.to_owned(),
            payload: payload.to_vec(),
        }),
        params: Some(AgentX509svidParams { csr }),
    };
    AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(params)),
    }
}

/// Joins with a token.
pub(crate) async fn attest(channel: Channel, token: &str) -> Result<Identity, Status> {
    attest_with(channel, token, key()).await
}

/// Joins with a token and a key.
pub(crate) async fn attest_with(
    channel: Channel,
    token: &str,
    key: Arc<LocalKey>,
) -> Result<Identity, Status> {
    let csr = csr::create(key.as_ref(), None, &[]).unwrap();
    let request = attest_request("join_token", token.as_bytes(), csr);
    let mut client = AgentClient::new(channel);
    let mut answers = client
        .attest_agent(tokio_stream::once(request))
        .await?
        .into_inner();
    let answer = answers.message().await?.unwrap();
    let Some(Answer::Result(result)) = answer.step else {
        panic!("a join token knows no challenge");
    };
    Ok(Identity {
        key,
        chain: result.svid.unwrap().cert_chain,
    })
}

/// Renews; the agent's next SVID.
pub(crate) async fn renew(channel: Channel) -> Result<Identity, Status> {
    let key = key();
    let csr = csr::create(key.as_ref(), None, &[]).unwrap();
    let params = Some(AgentX509svidParams { csr });
    let renewed = AgentClient::new(channel)
        .renew_agent(RenewAgentRequest { params })
        .await?;
    Ok(Identity {
        key,
        chain: renewed.into_inner().svid.unwrap().cert_chain,
    })
}

/// The reason that agents act on.
pub(crate) fn reason(status: &Status) -> Option<types::permission_denied_details::Reason> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct RpcStatus {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    use prost::Message;
    if status.details().is_empty() {
        return None;
    }
    let details = RpcStatus::decode(status.details()).ok()?;
    assert_eq!(details.code, i32::from(status.code()));
    assert_eq!(details.message, status.message());
    let any = details.details.first()?;
    assert_eq!(
        any.type_url,
        "type.googleapis.com/spire.api.types.PermissionDeniedDetails"
    );
    let reason = types::PermissionDeniedDetails::decode(any.value.as_slice()).ok()?;
    reason.reason.try_into().ok()
}

/// That a call was refused, and how.
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, text: &str) -> Status {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(
        status.message().contains(text),
        "`{}` says nothing of `{text}`",
        status.message()
    );
    status
}

/// A task that stands beside the test.
#[expect(clippy::disallowed_methods, reason = "tests have no task group")]
pub(crate) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task)
}

/// Sends and takes messages as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = from.remaining();
        Ok(Some(from.copy_to_bytes(len)))
    }
}
