//! `vouchsafe health`: whether server and agent are well.

use clap::{Args, ValueEnum};
use serde::Serialize;
use vouchsafe_proto::vouchsafe::agent::v1::SyncMode;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_client::AgentAdminClient;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;
use vouchsafe_proto::vouchsafe::types::v1::{HealthPart, HealthStatus};
use vouchsafe_proto::vouchsafe::{agent, server};

use crate::args::Global;
use crate::client::Connection;
use crate::error::CliError;
use crate::output::Output;
use crate::values;

/// Flags of `vouchsafe health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Whom to ask; whichever has a socket on this host where it is not given
    #[arg(value_enum)]
    whom: Option<Whom>,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Whom {
    /// The server, over its admin socket
    Server,
    /// The agent, over its admin socket
    Agent,
}

#[derive(Debug, Serialize)]
struct PartView {
    name: String,
    status: &'static str,
    detail: String,
}

#[derive(Debug, Serialize)]
struct HealthView {
    who: &'static str,
    status: &'static str,
    version: String,
    facts: Vec<(&'static str, String)>,
    parts: Vec<PartView>,
}

/// Runs the command; fails when one who was asked is not serving.
pub(crate) async fn run(args: HealthArgs, global: &Global, output: &Output) -> Result<(), CliError> {
    let both = args.whom.is_none();
    let ask_server = args.whom == Some(Whom::Server) || (both && global.server_socket.exists());
    let ask_agent = args.whom == Some(Whom::Agent) || (both && global.agent_admin_socket.exists());
    if !ask_server && !ask_agent {
        return Err(CliError::NothingThere(format!(
            "neither `{}` nor `{}` is there: name a socket with --server-socket or --agent-admin-socket",
            global.server_socket.display(),
            global.agent_admin_socket.display()
        )));
    }
    let mut views = Vec::new();
    if ask_server {
        views.push(server_health(global).await?);
    }
    if ask_agent {
        views.push(agent_health(global).await?);
    }
    output.show(&views, || {
        views
            .iter()
            .map(HealthView::text)
            .collect::<Vec<_>>()
            .join("\n\n")
    });
    match views
        .iter()
        .find(|view| view.status != "serving" && view.status != "degraded")
    {
        Some(view) => Err(CliError::Unwell(format!("the {} is not serving", view.who))),
        None => Ok(()),
    }
}

async fn server_health(global: &Global) -> Result<HealthView, CliError> {
    let connection = Connection::server(global).await?;
    let mut client = ServerAdminClient::new(connection.channel.clone());
    let answer = connection
        .call(client.health(server::v1::HealthRequest {}))
        .await?;
    let uptime = answer
        .uptime
        .map_or(0, |up| u64::try_from(up.seconds).unwrap_or(0));
    let uptime = humantime::format_duration(std::time::Duration::from_secs(uptime)).to_string();
    Ok(HealthView {
        who: "server",
        status: word(answer.status()),
        version: answer.version.clone(),
        facts: vec![("trust domain", answer.trust_domain.clone()), ("uptime", uptime)],
        parts: parts(&answer.parts),
    })
}

async fn agent_health(global: &Global) -> Result<HealthView, CliError> {
    let connection = Connection::agent_admin(global).await?;
    let mut client = AgentAdminClient::new(connection.channel.clone());
    let answer = connection
        .call(client.health(agent::v1::HealthRequest {}))
        .await?;
    let or = |at: Option<prost_types::Timestamp>, absent: &str| {
        at.map_or_else(|| absent.to_owned(), |at| values::show_time(at.seconds))
    };
    let time = |at| or(at, "never");
    Ok(HealthView {
        who: "agent",
        status: word(answer.status()),
        version: answer.version.clone(),
        facts: vec![
            ("SPIFFE ID", answer.spiffe_id.clone()),
            ("SVID expires", time(answer.svid_expires_at)),
            ("last sync", time(answer.last_sync_at)),
            ("follows by", follows_by(&answer)),
            ("entries", answer.entries.to_string()),
            ("cached SVIDs", answer.cached_svids.to_string()),
            ("held calls", answer.held_calls.to_string()),
            ("earliest expiry", or(answer.earliest_expiry, "none")),
            ("unreachable since", or(answer.unreachable_since, "reachable")),
            ("last sealed", time(answer.sealed_at)),
        ],
        parts: parts(&answer.parts),
    })
}

/// How the agent hears of changes.
fn follows_by(answer: &agent::v1::HealthResponse) -> String {
    match answer.sync_mode() {
        SyncMode::Push => format!("push (revision {})", answer.sync_revision),
        SyncMode::Poll => "polling".to_owned(),
        SyncMode::Unspecified => "nothing yet".to_owned(),
    }
}

fn parts(parts: &[HealthPart]) -> Vec<PartView> {
    let view = |part: &HealthPart| PartView {
        name: part.name.clone(),
        status: word(part.status()),
        detail: part.detail.clone(),
    };
    parts.iter().map(view).collect()
}

fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Serving => "serving",
        HealthStatus::Degraded => "degraded",
        HealthStatus::NotServing => "not serving",
        HealthStatus::Unspecified => "unknown",
    }
}

impl HealthView {
    fn text(&self) -> String {
        let mut lines = vec![format!(
            "{} is {} (version {})",
            self.who, self.status, self.version
        )];
        lines.extend(
            self.facts
                .iter()
                .map(|(name, value)| format!("  {name}: {value}")),
        );
        for part in &self.parts {
            let detail = if part.detail.is_empty() {
                String::new()
            } else {
                format!(": {}", part.detail)
            };
            lines.push(format!("  {} is {}{detail}", part.name, part.status));
        }
        lines.join("\n")
    }
}
