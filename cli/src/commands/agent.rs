//! `vouchsafe agent`: the agents that have joined.

use clap::{Args, Subcommand};
use serde::Serialize;
use time::OffsetDateTime;
use vouchsafe_identity::{Selector, SpiffeId};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    count_agents_request, list_agents_request,
};
use vouchsafe_proto::spire::api::types::{self, SelectorMatch, selector_match::MatchBehavior};

use super::entry::{show_id, wire_id, wire_selector};
use crate::args::Global;
use crate::client::{Connection, MAX_ANSWER_BYTES};
use crate::error::CliError;
use crate::output::{self, Output};
use crate::values;

const PAGE: i32 = 500;

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List agents, all or those that match
    List(AgentFilter),
    /// Show one agent with its selectors
    Show {
        /// The agent's id
        #[arg(long, value_name = "ID")]
        spiffe_id: SpiffeId,
    },
    /// Count agents, all or those that match
    Count(AgentFilter),
    /// Shut an agent out until it is evicted
    Ban {
        /// The agent's id
        #[arg(long, value_name = "ID")]
        spiffe_id: SpiffeId,
    },
    /// Forget an agent; it may join again
    Evict {
        /// The agent's id
        #[arg(long, value_name = "ID")]
        spiffe_id: SpiffeId,
    },
}

/// Which agents are meant.
#[derive(Debug, Args)]
pub(crate) struct AgentFilter {
    /// Only agents with these selectors, and maybe more (repeat)
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    selectors: Vec<Selector>,
    /// Only agents that joined by this attestor
    #[arg(long, value_name = "NAME")]
    attestation_type: Option<String>,
    /// Only banned (true) or not banned (false) agents
    #[arg(long, value_name = "BOOL")]
    banned: Option<bool>,
    /// Only agents that may (true) or may not (false) attest again
    #[arg(long, value_name = "BOOL")]
    can_reattest: Option<bool>,
    /// Only agents whose SVID expires before this time: RFC 3339, or seconds since 1970
    #[arg(long, value_parser = values::moment, value_name = "TIME")]
    expires_before: Option<OffsetDateTime>,
}

#[derive(Debug, Serialize)]
struct AgentView {
    spiffe_id: String,
    attestation_type: String,
    serial_number: String,
    expires_at: String,
    banned: bool,
    can_reattest: bool,
    agent_version: String,
    selectors: Vec<String>,
}

impl From<types::Agent> for AgentView {
    fn from(agent: types::Agent) -> Self {
        Self {
            spiffe_id: show_id(agent.id.as_ref()),
            attestation_type: agent.attestation_type,
            serial_number: agent.x509svid_serial_number,
            expires_at: values::show_time(agent.x509svid_expires_at),
            banned: agent.banned,
            can_reattest: agent.can_reattest,
            agent_version: agent.agent_version,
            selectors: agent
                .selectors
                .iter()
                .map(|s| format!("{}:{}", s.r#type, s.value))
                .collect(),
        }
    }
}

impl AgentView {
    fn block(&self) -> String {
        let mut rows = vec![
            ("SPIFFE ID", self.spiffe_id.clone()),
            ("Attestation type", self.attestation_type.clone()),
            ("Expiration time", self.expires_at.clone()),
        ];
        if self.banned {
            rows.push(("Banned", "true".to_owned()));
        } else {
            rows.push(("Serial number", self.serial_number.clone()));
        }
        rows.push(("Can re-attest", self.can_reattest.to_string()));
        if !self.agent_version.is_empty() {
            rows.push(("Agent version", self.agent_version.clone()));
        }
        rows.extend(self.selectors.iter().map(|s| ("Selector", s.clone())));
        output::pairs(&rows)
    }
}

/// Runs a command of the group.
pub(crate) async fn run(command: AgentCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    let server = Connection::server(global).await?;
    let mut client = AgentClient::new(server.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
    match command {
        AgentCommand::List(filter) => list(filter, &server, client, output).await?,
        AgentCommand::Show { spiffe_id } => {
            let request = GetAgentRequest {
                id: Some(wire_id(&spiffe_id)),
                output_mask: None,
            };
            let view = AgentView::from(server.call(client.get_agent(request)).await?);
            output.show(&view, || view.block());
        }
        AgentCommand::Count(filter) => {
            let filter = wire_filter(filter);
            let filter = count_agents_request::Filter {
                by_attestation_type: filter.by_attestation_type,
                by_selector_match: filter.by_selector_match,
                by_banned: filter.by_banned,
                by_can_reattest: filter.by_can_reattest,
                by_expires_before: filter.by_expires_before,
            };
            let request = CountAgentsRequest { filter: Some(filter) };
            let count = server.call(client.count_agents(request)).await?.count;
            output.show(&serde_json::json!({ "count": count }), || count.to_string());
        }
        AgentCommand::Ban { spiffe_id } => {
            let request = BanAgentRequest {
                id: Some(wire_id(&spiffe_id)),
            };
            server.call(client.ban_agent(request)).await?;
            output.show(&serde_json::json!({ "banned": spiffe_id.as_str() }), || {
                format!("Agent banned successfully: {spiffe_id}")
            });
        }
        AgentCommand::Evict { spiffe_id } => {
            let request = DeleteAgentRequest {
                id: Some(wire_id(&spiffe_id)),
            };
            server.call(client.delete_agent(request)).await?;
            output.show(&serde_json::json!({ "evicted": spiffe_id.as_str() }), || {
                format!("Agent evicted successfully: {spiffe_id}")
            });
        }
    }
    Ok(())
}

async fn list(
    filter: AgentFilter,
    server: &Connection,
    mut client: AgentClient<tonic::transport::Channel>,
    output: &Output,
) -> Result<(), CliError> {
    let filter = Some(wire_filter(filter));
    let mut views: Vec<AgentView> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAgentsRequest {
            filter: filter.clone(),
            output_mask: None,
            page_size: PAGE,
            page_token,
        };
        let page = server.call(client.list_agents(request)).await?;
        views.extend(page.agents.into_iter().map(AgentView::from));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    output.show(&views, || match views.as_slice() {
        [] => "No attested agents found".to_owned(),
        some => {
            let rows = some.iter().map(|view| {
                let state = if view.banned { "banned" } else { "active" };
                vec![
                    view.spiffe_id.clone(),
                    view.attestation_type.clone(),
                    state.to_owned(),
                    view.expires_at.clone(),
                    view.agent_version.clone(),
                ]
            });
            let noun = if some.len() == 1 { "agent" } else { "agents" };
            let table = output::table(
                &["SPIFFE ID", "ATTESTED BY", "STATE", "EXPIRES", "VERSION"],
                rows.collect(),
            );
            format!("Found {} attested {noun}\n\n{table}", some.len())
        }
    });
    Ok(())
}

fn wire_filter(filter: AgentFilter) -> list_agents_request::Filter {
    list_agents_request::Filter {
        by_attestation_type: filter.attestation_type.unwrap_or_default(),
        by_selector_match: (!filter.selectors.is_empty()).then(|| SelectorMatch {
            selectors: filter.selectors.iter().map(wire_selector).collect(),
            r#match: MatchBehavior::MatchSuperset.into(),
        }),
        by_banned: filter.banned,
        by_can_reattest: filter.can_reattest,
        by_expires_before: filter.expires_before.map(go_time).unwrap_or_default(),
    }
}

/// The layout in which SPIRE's API wants a time: `2006-01-02 15:04:05 -0700 -07`.
fn go_time(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let (date, hour, minute, second) = (at.date(), at.hour(), at.minute(), at.second());
    format!("{date} {hour:02}:{minute:02}:{second:02} +0000 +00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_spires_api_wants_them() {
        assert_eq!(
            go_time(OffsetDateTime::UNIX_EPOCH),
            "1970-01-01 00:00:00 +0000 +00"
        );
    }
}
