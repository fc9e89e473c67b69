//! The floor under figures 1 and 2: a tonic server over the same mTLS that does the raw cryptography of each call, answers
//! as many bytes and does nothing else. No caller, no limits, no entries, no audit. It runs as a process of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use vouchsafe_identity::key::LocalKey;
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::x509::issue::{Issuer, SvidRequest, issue_svid, self_signed_ca};
use vouchsafe_identity::{Bundle, KeyAlgorithm, Signer, TrustDomain, X509Authority};
use vouchsafe_proto::spire::api::server::svid::v1::svid_server::{Svid, SvidServer};
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest, BatchNewX509svidResponse,
    MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest, MintWitsvidResponse, MintX509svidRequest,
    MintX509svidResponse, NewDownstreamX509caRequest, NewDownstreamX509caResponse, NewJwtsvidRequest,
    NewJwtsvidResponse, batch_new_x509svid_response,
};
use vouchsafe_proto::spire::api::types::{Jwtsvid, X509svid};
use vouchsafe_runtime::tls::{
    self, AcceptLimits, BundleHandle, ChannelTimes, ClientAuth, PeerRule, ServerAddress, SvidHandle,
};
use vouchsafe_runtime::{Clock, TaskGroup};

use crate::entries;
use crate::raw::Work;
use crate::wait::until;

const TRUST_DOMAIN: &str = "bare.test";
const ROOT: &str = "root.der";
const LEAF: &str = "leaf.der";
const KEY: &str = "key.der";
const ADDRESS: &str = "address";
/// About as long as an X.509-SVID of figure 1, in bytes.
const SVID_BYTES: usize = 600;
/// About as long as a JWT-SVID of figure 2, in bytes.
const TOKEN_BYTES: usize = 400;

struct Floor(Work);

#[tonic::async_trait]
impl Svid for Floor {
    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let results = request.get_ref().params.iter().map(|item| {
            if !(self.0.verify() && self.0.sign()) {
                return Err(Status::internal("the cryptographic library failed"));
            }
            Ok(batch_new_x509svid_response::Result {
                status: None,
                svid: Some(X509svid {
                    id: Some(entries::id(&item.entry_id)),
                    cert_chain: vec![vec![7; SVID_BYTES]],
                    ..X509svid::default()
                }),
            })
        });
        let results = results.collect::<Result<_, _>>()?;
        Ok(Response::new(BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        if !self.0.es256() {
            return Err(Status::internal("the cryptographic library failed"));
        }
        let svid = Jwtsvid {
            id: Some(entries::id(&request.get_ref().entry_id)),
            token: "7".repeat(TOKEN_BYTES),
            ..Jwtsvid::default()
        };
        Ok(Response::new(NewJwtsvidResponse { svid: Some(svid) }))
    }

    async fn mint_x509svid(
        &self,
        _request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        Err(nothing_else())
    }

    async fn mint_jwtsvid(
        &self,
        _request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        Err(nothing_else())
    }

    async fn mint_witsvid(
        &self,
        _request: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(nothing_else())
    }

    async fn batch_new_witsvid(
        &self,
        _request: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(nothing_else())
    }

    async fn new_downstream_x509ca(
        &self,
        _request: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        Err(nothing_else())
    }
}

fn nothing_else() -> Status {
    Status::unimplemented("the bare issuer answers two calls")
}

/// The identity that both sides show, and the bundle that they verify it by, from the files of a folder.
fn identity(folder: &Path) -> anyhow::Result<(SvidHandle, BundleHandle)> {
    let svid = SvidHandle::new();
    svid.set(
        &[std::fs::read(folder.join(LEAF))?],
        &std::fs::read(folder.join(KEY))?,
    )?;
    let bundles = BundleHandle::new();
    let mut bundle = Bundle::empty(TrustDomain::new(TRUST_DOMAIN)?);
    bundle.x509_authorities.push(X509Authority {
        certificate: std::fs::read(folder.join(ROOT))?,
        tainted: false,
    });
    bundles.set(bundle);
    Ok((svid, bundles))
}

/// Writes a CA and an SVID of it to a folder.
fn make_identity(folder: &Path) -> anyhow::Result<()> {
    let trust_domain = TrustDomain::new(TRUST_DOMAIN)?;
    let now = Clock::system().now();
    let (from, to) = (now - Duration::from_secs(60), now + Duration::from_secs(86_400));
    let (ca, key) = (
        LocalKey::generate("ca", KeyAlgorithm::EcP256)?,
        LocalKey::generate("leaf", KeyAlgorithm::EcP256)?,
    );
    let root = self_signed_ca(&trust_domain, &ca, from, to, &[1; 16])?;
    let request = SvidRequest {
        spiffe_id: trust_domain.with_path("/bare")?,
        public_key: CheckedKey::new(key.public_key_spki())?,
        dns_names: Vec::new(),
        not_before: from,
        not_after: to,
        serial: [2; 16],
    };
    let svid = issue_svid(&request, &Issuer::new(&root, Arc::new(ca))?)?;
    std::fs::write(folder.join(ROOT), root)?;
    std::fs::write(
        folder.join(LEAF),
        svid.chain.first().context("an SVID has a leaf")?,
    )?;
    std::fs::write(folder.join(KEY), &*key.to_pkcs8())?;
    Ok(())
}

/// Serves with the identity in a folder, and writes its address there, until it is killed.
///
/// # Errors
/// When the folder lacks something, or no port can be bound.
pub async fn serve(folder: &Path) -> anyhow::Result<()> {
    let (svid, bundles) = identity(folder)?;
    let config = tls::server_config(
        &svid,
        &bundles,
        &Clock::system(),
        ClientAuth::Required,
        PeerRule::Any,
    )?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (group, _failures) = TaskGroup::new();
    let incoming = tls::incoming(listener, config, AcceptLimits::default(), &group);
    let floor = Floor(Work::new()?);
    // Whole or not at all: the other side waits for it.
    std::fs::write(folder.join("new"), address)?;
    std::fs::rename(folder.join("new"), folder.join(ADDRESS))?;
    tonic::transport::Server::builder()
        .max_concurrent_streams(1024)
        .add_service(SvidServer::new(floor))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// A bare issuer that runs; it is killed when dropped.
#[derive(Debug)]
pub struct BareIssuer {
    child: Child,
    folder: tempfile::TempDir,
    address: ServerAddress,
}

impl BareIssuer {
    /// Starts this program as one, and waits until it listens.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        make_identity(folder.path())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bare-issuer").arg(folder.path());
        let child = command
            .kill_on_drop(true)
            .spawn()
            .context("cannot run the bare issuer")?;
        let file = folder.path().join(ADDRESS);
        let address = until("the bare issuer listens", async || {
            std::fs::read_to_string(&file).ok()
        })
        .await?;
        Ok(Self {
            child,
            address: address.parse()?,
            folder,
        })
    }

    /// Its process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> anyhow::Result<i32> {
        Ok(i32::try_from(
            self.child.id().context("the bare issuer has ended")?,
        )?)
    }

    /// So many new connections.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn channels(&self, count: usize) -> anyhow::Result<Vec<Channel>> {
        let (svid, bundles) = identity(self.folder.path())?;
        let one = || {
            let config = tls::client_config(Some(&svid), &bundles, &Clock::system(), PeerRule::Any)?;
            Ok(tls::channel(&self.address, config, ChannelTimes::default()))
        };
        (0..count).map(|_| one()).collect()
    }
}
