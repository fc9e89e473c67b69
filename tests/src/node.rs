//! An agent in this process, joined to an [`Upstream`], in a folder that is gone at the end; and callers of its
//! sockets.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use vouchsafe_agent::{App, AppError, Config, Host};
use vouchsafe_proto::vouchsafe::agent::v1 as admin;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_client::AgentAdminClient;
use vouchsafe_proto::vouchsafe::types::v1::HealthStatus;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{X509svidRequest, X509svidResponse};
use vouchsafe_runtime::config;
use vouchsafe_runtime::notify::Notifier;

use crate::running::Running;
use crate::upstream::{TOKEN, TRUST_DOMAIN, Upstream};
use crate::wait::{DEADLINE, until};

/// Asks for entries often, so that tests need not wait.
const SYNC_INTERVAL: &str = "100ms";

/// An agent and its server.
#[derive(Debug)]
pub struct Node {
    folder: TempDir,
    /// The server.
    pub upstream: Upstream,
    /// How the agent knows its server, and whatever else a test sets.
    more: String,
    running: Option<Running<AppError>>,
}

impl Node {
    /// A server and an agent that has joined it and heard its entries.
    ///
    /// # Errors
    /// When one of them does not come up within the deadline.
    pub async fn start() -> anyhow::Result<Self> {
        let mut node = Self::down("").await?;
        node.run(Some(TOKEN)).await?;
        node.healthy().await?;
        Ok(node)
    }

    /// A server, and an agent that was not started yet, with further lines of configuration.
    ///
    /// # Errors
    /// When the server does not start.
    pub async fn down(more: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vouchsafe-test-").tempdir()?;
        // Workloads under other uids must reach the socket; the agent makes its own folder private.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)?;
        let upstream = Upstream::start().await?;
        std::fs::write(folder.path().join("bundle.pem"), upstream.bundle_pem())?;
        let trust = format!("trust_bundle = {:?}", folder.path().join("bundle.pem"));
        let more = match more.contains("insecure_bootstrap") {
            true => more.to_owned(),
            false => format!("{trust}\n{more}"),
        };
        Ok(Self {
            folder,
            upstream,
            more,
            running: None,
        })
    }

    /// The agent's configuration.
    ///
    /// # Errors
    /// When the further lines are not right.
    pub fn config(&self) -> anyhow::Result<Config> {
        Ok(config::parse(&self.config_text(), "the test's agent.toml")?)
    }

    /// The same as the text of a file.
    #[must_use]
    pub fn config_text(&self) -> String {
        format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ndata_dir = {:?}\nserver_address = \"{}\"\nworkload_socket = {:?}\n\
             admin_socket = {:?}\nsync_interval = \"{SYNC_INTERVAL}\"\n{}\n",
            self.path("agent"),
            self.upstream.address(),
            self.workload_socket(),
            self.admin_socket(),
            self.more
        )
    }

    /// Builds the agent and lets it run.
    ///
    /// # Errors
    /// What `App::build` says.
    pub async fn run(&mut self, token: Option<&str>) -> anyhow::Result<()> {
        let token = token
            .map(vouchsafe_node_attestors::join_token::Token::new)
            .transpose()?;
        let host = Host {
            notifier: Notifier::new(None),
            credentials: None,
            ..Host::default()
        };
        let app = App::build(self.config()?, host, token).await?;
        self.running = Some(Running::start("agent", |signal| app.run(signal)));
        Ok(())
    }

    /// Tells the agent to end, and waits for that.
    ///
    /// # Errors
    /// What the agent ended with, or that it does not end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.running.take().context("the agent runs")?.stop().await
    }

    /// Waits for the agent to end by itself.
    ///
    /// # Errors
    /// When it ends without an error, or does not within the deadline.
    pub async fn failure(&mut self) -> anyhow::Result<AppError> {
        self.running.take().context("the agent runs")?.failure().await
    }

    /// Waits until the agent says that it serves.
    ///
    /// # Errors
    /// When it does not within the deadline.
    pub async fn healthy(&self) -> anyhow::Result<()> {
        let serving = i32::from(HealthStatus::Serving);
        until("the agent is healthy", async || {
            let health = self.health().await.ok()?;
            (health.status == serving).then_some(())
        })
        .await
    }

    /// The agent's health.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn health(&self) -> anyhow::Result<admin::HealthResponse> {
        let mut client = AgentAdminClient::new(channel(&self.admin_socket()).await?);
        Ok(client.health(admin::HealthRequest {}).await?.into_inner())
    }

    /// Why a process gets what it gets.
    ///
    /// # Errors
    /// The agent's status.
    pub async fn explain(&self, pid: Option<i32>) -> anyhow::Result<admin::ExplainResponse> {
        let mut client = AgentAdminClient::new(channel(&self.admin_socket()).await?);
        Ok(client.explain(admin::ExplainRequest { pid }).await?.into_inner())
    }

    /// A client of the Workload API, on a new connection of this process.
    ///
    /// # Errors
    /// When it cannot connect.
    pub async fn workload(&self) -> anyhow::Result<SpiffeWorkloadApiClient<Channel>> {
        Ok(SpiffeWorkloadApiClient::new(
            channel(&self.workload_socket()).await?,
        ))
    }

    /// A stream of this process's X.509-SVIDs.
    ///
    /// # Errors
    /// The agent's status.
    pub async fn x509(&self) -> anyhow::Result<Streaming<X509svidResponse>> {
        let mut client = self.workload().await?;
        Ok(client
            .fetch_x509svid(with_header(X509svidRequest {}))
            .await?
            .into_inner())
    }

    /// Waits until this process is given exactly these identities.
    ///
    /// # Errors
    /// When it is not within the deadline.
    pub async fn given(&self, paths: &[&str]) -> anyhow::Result<X509svidResponse> {
        until(&format!("this process is given {paths:?}"), async || {
            let response = message(&mut self.x509().await.ok()?).await.ok()?;
            (self::paths(&response) == paths).then_some(response)
        })
        .await
    }

    /// The socket of the Workload API.
    #[must_use]
    pub fn workload_socket(&self) -> PathBuf {
        self.path("workload.sock")
    }

    /// The admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.path("admin.sock")
    }

    /// A path in the folder, which every user can reach.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A connection to a unix socket.
///
/// # Errors
/// When there is none to be had.
pub async fn channel(path: &Path) -> anyhow::Result<Channel> {
    let path = path.to_owned();
    let connect = tower::service_fn(move |_uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    Ok(endpoint.connect_with_connector(connect).await?)
}

/// A request with the security header.
pub fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

/// The next message of a stream.
///
/// # Errors
/// When the stream ends, with its status where it has one, or none comes within the deadline.
pub async fn message<T>(stream: &mut Streaming<T>) -> anyhow::Result<T> {
    let next = timeout(DEADLINE, stream.message())
        .await
        .context("no message came")?;
    next?.context("the stream ended")
}

/// The status with which a stream ends.
///
/// # Errors
/// When it ends without, or does not within the deadline.
pub async fn end<T>(stream: &mut Streaming<T>) -> anyhow::Result<Status> {
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_message)) => {}
                Ok(None) => bail!("the stream ended well"),
                Err(status) => return Ok(status),
            }
        }
    };
    timeout(DEADLINE, ended).await.context("the stream did not end")?
}

/// The paths of the identities in a message, in order.
#[must_use]
pub fn paths(response: &X509svidResponse) -> Vec<&str> {
    let prefix = format!("spiffe://{TRUST_DOMAIN}");
    let svids = response.svids.iter();
    svids
        .map(|svid| svid.spiffe_id.strip_prefix(&prefix).unwrap_or(&svid.spiffe_id))
        .collect()
}

/// The certificates that stand one after another, leaf first.
///
/// # Errors
/// When they are not DER.
pub fn certificates(concatenated: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    use x509_parser::prelude::FromDer;

    let mut rest = concatenated;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (after, _) = x509_parser::certificate::X509Certificate::from_der(rest)?;
        let (one, _) = rest.split_at(rest.len() - after.len());
        found.push(one.to_vec());
        rest = after;
    }
    ensure!(!found.is_empty(), "no certificate");
    Ok(found)
}
