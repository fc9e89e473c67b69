//! The daemons that are measured: the real binaries as shipped, with every layer and the audit on. Only limits are
//! raised, and by configuration alone.

use std::path::Path;

use anyhow::Context;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_client::AgentAdminClient;
use vouchsafe_proto::vouchsafe::agent::v1::{HealthRequest, HealthResponse};

use crate::daemons::Deployment;

/// What is raised in the server's configuration, so that the load meets the work and not a limit.
pub const SERVER_LIMITS: &str = "\
[limits]
max_connections = 20000
max_connections_per_source = 20000
max_pending_handshakes = 4096
handshake_timeout = \"1m\"
max_connection_age = \"1h\"
max_calls_per_connection = 1024
max_calls = 100000
max_calls_per_caller = 10000
max_anonymous_calls_per_source = 10000
attestation_timeout = \"2m\"
attestations_per_second_per_source = 1000000
attestation_burst_per_source = 1000000
anonymous_calls_per_second_per_source = 1000000
anonymous_call_burst_per_source = 1000000
signatures_per_second_per_caller = 1000000
signature_burst_per_caller = 1000000
calls_per_second_per_caller = 1000000
call_burst_per_caller = 1000000
";

/// What is raised in the agent's.
pub const AGENT_LIMITS: &str = "\
[limits]
max_connections = 8192
max_connections_per_uid = 8192
";

/// A server without an agent.
///
/// # Errors
/// When it does not come up.
pub async fn server() -> anyhow::Result<Deployment> {
    Deployment::server_alone(SERVER_LIMITS).await
}

/// The server's process.
///
/// # Errors
/// When it is down.
pub fn server_pid(deployment: &Deployment) -> anyhow::Result<i32> {
    deployment.server.as_ref().context("the server is down")?.pid()
}

/// The agent's process.
///
/// # Errors
/// When it is down.
pub fn agent_pid(deployment: &Deployment) -> anyhow::Result<i32> {
    deployment.agent.as_ref().context("the agent is down")?.pid()
}

/// A connection to the server's admin socket.
///
/// # Errors
/// When nobody listens there.
pub async fn admin(deployment: &Deployment) -> anyhow::Result<Channel> {
    socket(&deployment.server_socket()).await
}

/// A new connection to a unix socket.
///
/// # Errors
/// When nobody listens there.
pub async fn socket(path: &Path) -> anyhow::Result<Channel> {
    let path = path.to_owned();
    let connect = tower::service_fn(move |_uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    Ok(endpoint.connect_with_connector(connect).await?)
}

/// How the agent says that it is.
///
/// # Errors
/// When it does not say.
pub async fn agent_health(deployment: &Deployment) -> anyhow::Result<HealthResponse> {
    let mut client = AgentAdminClient::new(socket(&deployment.agent_socket()).await?);
    Ok(client.health(HealthRequest {}).await?.into_inner())
}
