//! A trust domain in a few lines, and a server that tells who came, for the tests of TLS.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rustls::ClientConfig;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use vouchsafe_identity::key::random_serial;
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::x509::issue::{Issuer, SvidRequest, issue_svid, self_signed_ca};
use vouchsafe_identity::{Bundle, KeyAlgorithm, LocalKey, Signer, SpiffeId, TrustDomain, X509Authority};

use super::*;
use crate::{TaskFailures, TaskGroup};

pub(super) const HOUR: time::Duration = time::Duration::HOUR;
const DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn start() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000)
}

pub(super) fn id(uri: &str) -> SpiffeId {
    SpiffeId::new(uri).unwrap()
}

pub(super) fn key() -> LocalKey {
    LocalKey::generate("key", KeyAlgorithm::EcP256).unwrap()
}

/// A trust domain with one authority that is valid for a day.
pub(super) struct Domain {
    pub(super) name: TrustDomain,
    issuer: Issuer,
}

impl Domain {
    pub(super) fn new(name: &str) -> Self {
        let name = TrustDomain::new(name).unwrap();
        let signer: Arc<dyn Signer> = Arc::new(key());
        let (from, to) = (start() - HOUR, start() + HOUR * 24);
        let ca = self_signed_ca(&name, &*signer, from, to, &random_serial().unwrap()).unwrap();
        let issuer = Issuer::new(&ca, signer).unwrap();
        Self { name, issuer }
    }

    pub(super) fn bundle(&self) -> Bundle {
        let authority = X509Authority {
            certificate: self.issuer.certificate().to_vec(),
            tainted: false,
        };
        Bundle {
            x509_authorities: vec![authority],
            ..Bundle::empty(self.name.clone())
        }
    }

    /// An SVID of this path, valid from an hour ago for an hour from now.
    pub(super) fn chain(&self, path: &str, key: &dyn Signer) -> Vec<Vec<u8>> {
        let request = SvidRequest {
            spiffe_id: self.name.with_path(path).unwrap(),
            public_key: CheckedKey::new(key.public_key_spki()).unwrap(),
            dns_names: Vec::new(),
            not_before: start() - HOUR,
            not_after: start() + HOUR,
            serial: random_serial().unwrap(),
        };
        issue_svid(&request, &self.issuer).unwrap().chain
    }

    pub(super) fn svid(&self, path: &str) -> SvidHandle {
        let (key, handle) = (key(), SvidHandle::new());
        handle.set(&self.chain(path, &key), &key.to_pkcs8()).unwrap();
        handle
    }
}

pub(super) fn trusting<'a>(domains: impl IntoIterator<Item = &'a Domain>) -> BundleHandle {
    let bundles = BundleHandle::new();
    domains.into_iter().for_each(|d| bundles.set(d.bundle()));
    bundles
}

/// A server that sends one byte to each client that it lets in, and tells who it was.
pub(super) struct Server {
    pub(super) address: ServerAddress,
    pub(super) clock: Clock,
    pub(super) svid: SvidHandle,
    pub(super) bundles: BundleHandle,
    came: mpsc::UnboundedReceiver<Arc<TlsPeer>>,
    group: TaskGroup,
    _failures: TaskFailures,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.group.stop();
    }
}

impl Server {
    /// Serves as `/spire/server` of the domain and trusts the domain's own members.
    pub(super) async fn of(domain: &Domain, client: ClientAuth) -> Self {
        Self::with(domain, client, PeerRule::Any, AcceptLimits::default()).await
    }

    pub(super) async fn with(
        domain: &Domain,
        client: ClientAuth,
        rule: PeerRule,
        limits: AcceptLimits,
    ) -> Self {
        Self::changed(domain, client, rule, limits, |_| {}).await
    }

    /// The same, with something about its TLS that is not as ours.
    pub(super) async fn changed(
        domain: &Domain,
        client: ClientAuth,
        rule: PeerRule,
        limits: AcceptLimits,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let (clock, bundles) = (Clock::manual(start()), trusting([domain]));
        let svid = domain.svid("/spire/server");
        let config = server_config(&svid, &bundles, &clock, client, rule).unwrap();
        let mut config = ServerConfig::clone(&config);
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let (group, failures) = TaskGroup::new();
        let mut connections = incoming(listener, Arc::new(config), limits, &group);
        let (tell, came) = mpsc::unbounded_channel();
        let held = group.clone();
        group.passing("test server", async move {
            while let Some(Ok(mut connection)) = connections.next().await {
                let tell = tell.clone();
                held.passing("test connection", async move {
                    if connection.write_all(b"!").await.is_ok() {
                        let _test_is_over = tell.send(connection.peer().clone());
                        // Until the client closes, so that the place stays taken.
                        let _closed = connection.read(&mut [0]).await;
                    }
                });
            }
        });
        Self {
            address,
            clock,
            svid,
            bundles,
            came,
            group,
            _failures: failures,
        }
    }

    /// A client of this server with this SVID.
    pub(super) fn client(&self, svid: Option<&SvidHandle>, bundles: &BundleHandle) -> Arc<ClientConfig> {
        client_config(svid, bundles, &self.clock, PeerRule::Any).unwrap()
    }

    /// Connects, and waits until the server has let the client in.
    pub(super) async fn talk(
        &mut self,
        config: &Arc<ClientConfig>,
    ) -> Result<(Talk, Arc<TlsPeer>), Box<dyn std::error::Error + Send + Sync>> {
        let mut stream = connect(&self.address, config.clone(), DEADLINE).await?;
        let mut answer = [0_u8; 1];
        stream.read_exact(&mut answer).await?;
        let peer = self.came.recv().await.ok_or("the server is gone")?;
        Ok((Talk(stream), peer))
    }

    /// Connects, and tells why it was refused, by either side.
    pub(super) async fn refusal(&mut self, config: &Arc<ClientConfig>) -> String {
        let refused = match self.talk(config).await {
            Ok((_talk, peer)) => unreachable!("was let in as {peer:?}"),
            Err(refused) => refused,
        };
        let mut text = refused.to_string();
        let mut cause = refused.source();
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        text
    }
}

/// An open connection, as the client sees it.
pub(super) struct Talk(pub(super) tokio_rustls::client::TlsStream<tokio::net::TcpStream>);

impl Talk {
    pub(super) fn tls(&self) -> &rustls::ClientConnection {
        self.0.get_ref().1
    }
}
