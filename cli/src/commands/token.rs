//! `vouchsafe token`: join tokens.

use std::time::Duration;

use clap::Subcommand;
use vouchsafe_identity::SpiffeId;
use vouchsafe_proto::spire::api::server::agent::v1::CreateJoinTokenRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;

use super::entry::wire_id;
use crate::args::Global;
use crate::client::Connection;
use crate::error::CliError;
use crate::output::Output;
use crate::values;

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token with which one node joins once
    Generate {
        /// An alias for the node that joins with it, so that entries need not know its token
        #[arg(long, value_name = "ID")]
        spiffe_id: Option<SpiffeId>,
        /// How long it may be used
        #[arg(long, default_value = "10m", value_parser = values::duration, value_name = "SPAN")]
        ttl: Duration,
        /// The token's text; made by the server where it is not given
        #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
        token: Option<String>,
    },
}

/// Runs a command of the group.
pub(crate) async fn run(command: TokenCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    let TokenCommand::Generate {
        spiffe_id,
        ttl,
        token,
    } = command;
    let ttl = i32::try_from(ttl.as_secs())
        .map_err(|_| CliError::Invalid(format!("--ttl of {} s is too long", ttl.as_secs())))?;
    let server = Connection::server(global).await?;
    let request = CreateJoinTokenRequest {
        ttl,
        token: token.unwrap_or_default(),
        agent_id: spiffe_id.as_ref().map(wire_id),
    };
    let made = server
        .call(AgentClient::new(server.channel.clone()).create_join_token(request))
        .await?;
    let expires_at = values::show_time(made.expires_at);
    output.show(
        &serde_json::json!({ "value": made.value, "expires_at": expires_at }),
        || format!("Token: {}", made.value),
    );
    if spiffe_id.is_none() {
        output.note(
            "note: without --spiffe-id, entries must name /spire/agent/join_token/<token> as their parent",
        );
    }
    Ok(())
}
