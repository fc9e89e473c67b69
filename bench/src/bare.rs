//! What any gRPC server of this kind costs: a tonic server on a unix socket that answers bytes which it was given, and
//! does nothing else, or first makes sure who calls. It runs as a process of its own, as the agent does.

use std::path::Path;
use std::pin::Pin;

use anyhow::Context;
use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use vouchsafe_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};

use crate::attesting::{self, Connector};
use crate::rig;
use crate::wait::until;

/// The answers that it gives.
#[derive(Debug, Clone)]
struct Answers {
    x509: X509svidResponse,
    jwt: JwtsvidResponse,
}

/// Makes sure who calls, where the connection says by whom it was made.
async fn attest<T>(request: &Request<T>) -> Result<(), Status> {
    match request.extensions().get::<Connector>() {
        Some(connector) => connector.attest().await,
        None => Ok(()),
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Answers {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        attest(&request).await?;
        let answer = self.x509.clone();
        // The stream stays open, as the agent's does.
        let stream = futures_util::stream::once(async { Ok(answer) }).chain(futures_util::stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        attest(&request).await?;
        Ok(Response::new(self.jwt.clone()))
    }

    async fn fetch_x509_bundles(
        &self,
        _request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(nothing_else())
    }

    async fn fetch_jwt_bundles(
        &self,
        _request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(nothing_else())
    }

    async fn validate_jwtsvid(
        &self,
        _request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(nothing_else())
    }

    async fn fetch_witsvid(
        &self,
        _request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(nothing_else())
    }

    async fn fetch_wit_bundles(
        &self,
        _request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(nothing_else())
    }
}

fn nothing_else() -> Status {
    Status::unimplemented("the bare server answers two calls")
}

/// Whether callers are only answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whoever calls is answered.
    Plain,
    /// Who calls is made sure of first, by what cannot be left out.
    Attesting,
}

/// Serves on `socket` the answers that stand in two files, until it is killed.
///
/// # Errors
/// When a file cannot be read, or the socket not be bound.
pub async fn serve(kind: Kind, socket: &Path, x509: &Path, jwt: &Path) -> anyhow::Result<()> {
    let answers = Answers {
        x509: X509svidResponse::decode(std::fs::read(x509)?.as_slice())?,
        jwt: JwtsvidResponse::decode(std::fs::read(jwt)?.as_slice())?,
    };
    let server = tonic::transport::Server::builder();
    let mut server = server.max_concurrent_streams(1024);
    let router = server.add_service(SpiffeWorkloadApiServer::new(answers));
    match kind {
        Kind::Plain => {
            let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
            router.serve_with_incoming(incoming).await?;
        }
        Kind::Attesting => router.serve_with_incoming(attesting::incoming(socket)?).await?,
    }
    Ok(())
}

/// Starts this program as a bare server in `folder`, and waits until it answers; it is killed when dropped.
///
/// # Errors
/// When it does not come up.
pub async fn start(
    kind: Kind,
    folder: &Path,
    x509: &X509svidResponse,
    jwt: &JwtsvidResponse,
) -> anyhow::Result<(Child, std::path::PathBuf)> {
    let name = format!("{kind:?}");
    let socket = folder.join(format!("{name}.sock"));
    let (x509_file, jwt_file) = (
        folder.join(format!("{name}.x509")),
        folder.join(format!("{name}.jwt")),
    );
    std::fs::write(&x509_file, x509.encode_to_vec())?;
    std::fs::write(&jwt_file, jwt.encode_to_vec())?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("bare").args([&socket, &x509_file, &jwt_file]);
    if kind == Kind::Attesting {
        command.arg("--attesting");
    }
    let child = command
        .kill_on_drop(true)
        .spawn()
        .context("cannot run the bare server")?;
    until("the bare server answers", async || {
        rig::socket(&socket).await.ok()
    })
    .await?;
    Ok((child, socket))
}
