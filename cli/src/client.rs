//! Connections to the sockets of server and agent.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use vouchsafe_runtime::uds::{Passed, PassingStream};

use crate::args::Global;
use crate::error::CliError;

/// Messages of a server with many entries are larger than gRPC's usual 4 MiB.
pub(crate) const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// One of the sockets, connected.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// The channel for generated clients.
    pub(crate) channel: Channel,
    /// Who is at the other end, for errors.
    pub(crate) what: &'static str,
    timeout: Duration,
}

impl Connection {
    /// Connects to the server's admin socket.
    pub(crate) async fn server(global: &Global) -> Result<Self, CliError> {
        Self::open(
            "server",
            &global.server_socket,
            "--server-socket",
            global.timeout,
            None,
        )
        .await
    }

    /// Connects to the agent's admin socket.
    pub(crate) async fn agent_admin(global: &Global) -> Result<Self, CliError> {
        Self::open(
            "agent",
            &global.agent_admin_socket,
            "--agent-admin-socket",
            global.timeout,
            None,
        )
        .await
    }

    /// Connects to the agent's Workload API socket.
    pub(crate) async fn workload(global: &Global) -> Result<Self, CliError> {
        Self::open(
            "agent",
            &global.workload_socket,
            "--workload-socket",
            global.timeout,
            None,
        )
        .await
    }

    /// Connects to the agent's launch socket; what is passed along is for the first launch.
    pub(crate) async fn launch(global: &Global, passed: Option<Passed>) -> Result<Self, CliError> {
        Self::open(
            "agent",
            &global.launch_socket,
            "--launch-socket",
            global.timeout,
            passed,
        )
        .await
    }

    async fn open(
        what: &'static str,
        path: &Path,
        flag: &'static str,
        timeout: Duration,
        passed: Option<Passed>,
    ) -> Result<Self, CliError> {
        let unreachable = |reason: String| CliError::Unreachable {
            what,
            path: path.to_owned(),
            flag,
            reason,
        };
        let stream = PassingStream::connect(path, passed).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                let path = path.to_owned();
                return CliError::Forbidden { what, path, flag };
            }
            unreachable(error.to_string())
        })?;
        let mut once = Some(stream);
        let connector = tower::service_fn(move |_uri: http::Uri| {
            let stream = once.take().map(TokioIo::new);
            async move {
                stream.ok_or_else(|| {
                    std::io::Error::new(std::io::ErrorKind::NotConnected, "the connection was lost")
                })
            }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(Self {
            channel,
            what,
            timeout,
        })
    }

    /// Waits for an answer, at most the time that the user allows.
    pub(crate) async fn call<T>(
        &self,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, CliError> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refused(status)),
            Err(_) => Err(CliError::Timeout(
                humantime::format_duration(self.timeout).to_string(),
            )),
        }
    }

    /// An error of the other side as one of ours.
    pub(crate) fn refused(&self, status: Status) -> CliError {
        CliError::Call {
            what: self.what,
            status: Box::new(status),
        }
    }
}

/// A request with the header that the Workload API demands (SPIFFE Workload Endpoint §3).
pub(crate) fn workload_request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(
        "workload.spiffe.io",
        tonic::metadata::MetadataValue::from_static("true"),
    );
    request
}
