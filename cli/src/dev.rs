//! `vouchsafe dev`: a server and an agent in one process, for someone who wants an SVID in five seconds.

use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::workload::v1::WhoAmIRequest;
use vouchsafe_proto::vouchsafe::workload::v1::workload_info_client::WorkloadInfoClient;
use vouchsafe_runtime::signals::shutdown_signal;
use vouchsafe_runtime::telemetry::{self, LogConfig, LogLevel};
use vouchsafe_runtime::{Clock, config};

use crate::args::Global;
use crate::client::{Connection, workload_request};
use crate::commands::bundle;
use crate::commands::entry::wire_id;
use crate::error::CliError;
use crate::output::Output;

/// How long the join token may be used; the agent joins at once.
const TOKEN_TTL_SECONDS: i32 = 600;
/// How long the agent may take until it serves.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked whether it serves.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// gRPC codes of an entry that was made, or was there from the last time.
const MADE_OR_THERE: [i32; 2] = [0, 6];

/// Flags of `vouchsafe dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Keep state here for the next time; where it is not given, a temporary folder that is removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The trust domain
    #[arg(long, default_value = "example.org", value_name = "NAME")]
    trust_domain: TrustDomain,
    /// The SPIFFE ID that processes of your user get [default: spiffe://TRUST_DOMAIN/dev/UID]
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// What the two daemons log to standard error, such as `info` or `vouchsafe_agent=debug`
    #[arg(long, default_value = "warn", value_name = "LEVEL")]
    log: String,
}

/// What a user needs to know to use it.
#[derive(Debug, Serialize)]
struct Ready {
    spiffe_endpoint_socket: String,
    spiffe_id: String,
    trust_domain: String,
    server_socket: PathBuf,
    agent_admin_socket: PathBuf,
    dir: PathBuf,
}

fn failed(error: impl Display) -> CliError {
    CliError::Daemon(format!("{error:#}"))
}

/// Runs until it is told to stop.
pub(crate) async fn run(args: DevArgs, global: &Global, output: &Output) -> Result<(), CliError> {
    let signal = shutdown_signal().map_err(failed)?;
    let log = LogConfig {
        level: args.log.clone(),
        ..LogConfig::default()
    };
    let log = telemetry::init(&log).map_err(failed)?;
    let place = Place::new(args.dir.as_deref(), log)?;
    let uid = nix::unistd::geteuid().as_raw();
    let spiffe_id = match args.spiffe_id {
        Some(id) => id,
        None => args
            .trust_domain
            .with_path(&format!("/dev/{uid}"))
            .map_err(failed)?,
    };
    let server = place.server(&args.trust_domain).await?;
    let global = place.sockets(global);
    let connection = Connection::server(&global).await?;
    let node = args.trust_domain.with_path("/dev/node").map_err(failed)?;
    let token = prepare(&connection, &node, &spiffe_id, uid).await?;
    let pem = bundle::fetch(&connection).await?.to_pem();
    std::fs::write(place.path("bundle.pem"), pem).map_err(failed)?;
    let agent = place
        .agent(&args.trust_domain, server.addresses().listen, token)
        .await?;
    let ready = Ready {
        spiffe_endpoint_socket: format!("unix://{}", global.workload_socket.display()),
        spiffe_id: spiffe_id.to_string(),
        trust_domain: args.trust_domain.to_string(),
        server_socket: global.server_socket.clone(),
        agent_admin_socket: global.agent_admin_socket.clone(),
        dir: place.path(""),
    };
    let both = together(server, agent, signal, announce(&global, &ready, output));
    let ended = Box::pin(both).await;
    output.note("vouchsafe dev has ended");
    ended
}

/// Runs both daemons until `signal`; the agent ends first, because it needs the server for its last calls.
async fn together(
    server: vouchsafe_server::app::App,
    agent: vouchsafe_agent::app::App,
    signal: impl Future<Output = &'static str>,
    announce: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    let (stop_agent, stop_server) = (CancellationToken::new(), CancellationToken::new());
    let agent_ends = async {
        let told = async {
            tokio::select! {
                name = signal => name,
                () = stop_agent.cancelled() => "the server has ended",
            }
        };
        let ended = agent.run(told).await.map_err(|error| failed(chain(&error)));
        stop_server.cancel();
        ended
    };
    let server_ends = async {
        let told = async {
            stop_server.cancelled().await;
            "the agent has ended"
        };
        let ended = server.run(told).await.map_err(failed);
        stop_agent.cancel();
        ended
    };
    let announced = async {
        tokio::select! {
            told = announce => {
                if told.is_err() {
                    stop_agent.cancel();
                }
                told
            }
            () = stop_server.cancelled() => Ok(()),
        }
    };
    let (agent, server, announced) = tokio::join!(agent_ends, server_ends, announced);
    agent.and(server).and(announced)
}

/// Makes a join token whose agent has an alias, and an entry for the caller's user below that alias.
async fn prepare(
    server: &Connection,
    node: &SpiffeId,
    spiffe_id: &SpiffeId,
    uid: u32,
) -> Result<String, CliError> {
    let request = CreateJoinTokenRequest {
        ttl: TOKEN_TTL_SECONDS,
        token: String::new(),
        agent_id: Some(wire_id(node)),
    };
    let token = server
        .call(AgentClient::new(server.channel.clone()).create_join_token(request))
        .await?;
    let entry = types::Entry {
        spiffe_id: Some(wire_id(spiffe_id)),
        parent_id: Some(wire_id(node)),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: format!("uid:{uid}"),
        }],
        ..types::Entry::default()
    };
    let request = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let made = server
        .call(EntryClient::new(server.channel.clone()).batch_create_entry(request))
        .await?;
    for status in made.results.into_iter().filter_map(|result| result.status) {
        if !MADE_OR_THERE.contains(&status.code) {
            return Err(CliError::Invalid(format!(
                "no entry for `{spiffe_id}`: {}",
                status.message
            )));
        }
    }
    Ok(token.value)
}

/// Waits until this very process would get its identity, then says how to use it.
async fn announce(global: &Global, ready: &Ready, output: &Output) -> Result<(), CliError> {
    let serves = async {
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            look.tick().await;
            let Ok(agent) = Connection::workload(global).await else {
                continue;
            };
            let mut client = WorkloadInfoClient::new(agent.channel.clone());
            let me = agent
                .call(client.who_am_i(workload_request(WhoAmIRequest {})))
                .await;
            if me.is_ok_and(|me| me.spiffe_ids.contains(&ready.spiffe_id)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, serves).await.map_err(|_| {
        CliError::Daemon(format!(
            "the agent does not serve `{}` within {} s: try again with --log info",
            ready.spiffe_id,
            PATIENCE.as_secs()
        ))
    })?;
    output.event(ready, || {
        format!(
            "# Every process of your user is {}. In another shell:\n\
             export SPIFFE_ENDPOINT_SOCKET={}\n\
             export VOUCHSAFE_SERVER_SOCKET={}\n\
             export VOUCHSAFE_AGENT_ADMIN_SOCKET={}\n\
             # Then, for instance: vouchsafe svid x509. Ctrl-C here ends it.",
            ready.spiffe_id,
            ready.spiffe_endpoint_socket,
            ready.server_socket.display(),
            ready.agent_admin_socket.display()
        )
    });
    Ok(())
}

/// Where the state is; a temporary folder goes when this is dropped.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    temporary: Option<TempDir>,
    log: LogLevel,
}

impl Place {
    fn new(dir: Option<&Path>, log: LogLevel) -> Result<Self, CliError> {
        let Some(dir) = dir else {
            let temporary = tempfile::Builder::new()
                .prefix("vouchsafe-dev-")
                .tempdir()
                .map_err(failed)?;
            return Ok(Self {
                dir: temporary.path().to_owned(),
                temporary: Some(temporary),
                log,
            });
        };
        let cannot = |source| CliError::File {
            action: "make",
            path: dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(cannot)?;
        Ok(Self {
            dir: dir.canonicalize().map_err(cannot)?,
            temporary: None,
            log,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.dir.clone()
        } else {
            self.dir.join(name)
        }
    }

    /// The flags with our own sockets in them.
    fn sockets(&self, global: &Global) -> Global {
        Global {
            server_socket: self.path("server.sock"),
            agent_admin_socket: self.path("admin.sock"),
            workload_socket: self.path("agent.sock"),
            ..global.clone()
        }
    }

    async fn server(&self, trust_domain: &TrustDomain) -> Result<vouchsafe_server::app::App, CliError> {
        let mut text = format!(
            "trust_domain = {:?}\ndata_dir = {:?}\nlisten = \"127.0.0.1:0\"\nadmin_socket = {:?}\n",
            trust_domain.name(),
            self.path("server"),
            self.path("server.sock")
        );
        if self.temporary.is_some() {
            text.push_str("store = \"memory\"\nkey_manager = \"memory\"\n");
        }
        let config = config::parse(&text, "vouchsafe dev").map_err(failed)?;
        let host = vouchsafe_server::app::Host {
            clock: Clock::system(),
            log: self.log.clone(),
            ..vouchsafe_server::app::Host::default()
        };
        vouchsafe_server::app::App::build(config, host)
            .await
            .map_err(|error| failed(chain(&error)))
    }

    async fn agent(
        &self,
        trust_domain: &TrustDomain,
        server: SocketAddr,
        token: String,
    ) -> Result<vouchsafe_agent::app::App, CliError> {
        let text = format!(
            "trust_domain = {:?}\ndata_dir = {:?}\nserver_address = \"{server}\"\nworkload_socket = {:?}\n\
             admin_socket = {:?}\ntrust_bundle = {:?}\nsync_interval = \"500ms\"\n\
             join_token = {token:?}\n",
            trust_domain.name(),
            self.path("agent"),
            self.path("agent.sock"),
            self.path("admin.sock"),
            self.path("bundle.pem")
        );
        let config = config::parse(&text, "vouchsafe dev").map_err(failed)?;
        let host = vouchsafe_agent::app::Host {
            clock: Clock::system(),
            log: self.log.clone(),
            credentials: None,
            ..vouchsafe_agent::app::Host::default()
        };
        vouchsafe_agent::app::App::build(config, host, None)
            .await
            .map_err(|error| failed(chain(&error)))
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
