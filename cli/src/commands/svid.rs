//! `vouchsafe svid`: SVIDs over the Workload API, as a workload gets them.

mod files;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use tokio_stream::StreamExt;
use vouchsafe_identity::SpiffeId;
use vouchsafe_identity::x509::parse_leaf;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{JwtsvidRequest, X509svidRequest, X509svidResponse};

use crate::args::Global;
use crate::client::{Connection, workload_request};
use crate::error::CliError;
use crate::output::{self, Output};
use crate::values;

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum SvidCommand {
    /// Fetch the X.509-SVIDs of this process
    X509 {
        /// Write certificates, keys and bundles as PEM files into this folder
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
    /// Fetch JWT-SVIDs for an audience
    Jwt {
        /// Who shall accept the token (repeat)
        #[arg(long, required = true)]
        audience: Vec<String>,
        /// Only for this identity; all where it is not given
        #[arg(long, value_name = "ID")]
        spiffe_id: Option<SpiffeId>,
        /// Write the tokens as files into this folder
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
    /// Hold a stream and print each X.509 update as it is pushed
    Watch {
        /// Write each update as PEM files into this folder
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
        /// End after so many updates
        #[arg(long, value_name = "N")]
        updates: Option<NonZeroUsize>,
    },
}

#[derive(Debug, Serialize)]
struct SvidView {
    spiffe_id: String,
    serial_number: String,
    valid_from: String,
    valid_until: String,
    dns_names: Vec<String>,
    hint: String,
}

#[derive(Debug, Serialize)]
struct JwtView {
    spiffe_id: String,
    token: String,
    hint: String,
}

/// Runs a command of the group.
pub(crate) async fn run(command: SvidCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    let agent = Connection::workload(global).await?;
    match command {
        SvidCommand::X509 { write } => fetch(&agent, output, write.as_deref()).await,
        SvidCommand::Watch { write, updates } => watch(&agent, output, write.as_deref(), updates).await,
        SvidCommand::Jwt {
            audience,
            spiffe_id,
            write,
        } => {
            let spiffe_id = spiffe_id.map(String::from).unwrap_or_default();
            let request = workload_request(JwtsvidRequest { audience, spiffe_id });
            let mut client = SpiffeWorkloadApiClient::new(agent.channel.clone());
            let svids = agent.call(client.fetch_jwtsvid(request)).await?.svids;
            let views: Vec<JwtView> = svids
                .into_iter()
                .map(|svid| JwtView {
                    spiffe_id: svid.spiffe_id,
                    token: svid.svid,
                    hint: svid.hint,
                })
                .collect();
            if let Some(dir) = &write {
                for (n, view) in views.iter().enumerate() {
                    files::private(&dir.join(format!("jwt_svid.{n}.token")), view.token.as_bytes())?;
                }
            }
            output.show(&views, || {
                let one = |view: &JwtView| format!("token({}):\n\t{}", view.spiffe_id, view.token);
                views.iter().map(one).collect::<Vec<_>>().join("\n")
            });
            Ok(())
        }
    }
}

type Updates = tonic::Streaming<X509svidResponse>;

/// The stream, and its first answer, which must come in time.
async fn opened(agent: &Connection) -> Result<(Updates, X509svidResponse), CliError> {
    let mut client = SpiffeWorkloadApiClient::new(agent.channel.clone());
    let mut stream = agent
        .call(client.fetch_x509svid(workload_request(X509svidRequest {})))
        .await?;
    let first = async { Ok(tonic::Response::new(stream.next().await.transpose()?)) };
    let first = agent.call(first).await?.ok_or_else(closed)?;
    Ok((stream, first))
}

fn closed() -> CliError {
    CliError::Unwell("the agent closed the stream".to_owned())
}

async fn fetch(agent: &Connection, output: &Output, write: Option<&Path>) -> Result<(), CliError> {
    let (_stream, response) = opened(agent).await?;
    let views = taken(&response, write)?;
    output.show(&views, || describe(&views));
    Ok(())
}

async fn watch(
    agent: &Connection,
    output: &Output,
    write: Option<&Path>,
    updates: Option<NonZeroUsize>,
) -> Result<(), CliError> {
    let (mut stream, mut response) = opened(agent).await?;
    for seen in 1.. {
        let views = taken(&response, write)?;
        output.event(&views, || describe(&views));
        if updates.is_some_and(|limit| seen >= limit.get()) {
            break;
        }
        let next = stream.next().await.transpose();
        response = next.map_err(|status| agent.refused(status))?.ok_or_else(closed)?;
    }
    Ok(())
}

/// What an update says; it is written where that is wanted.
fn taken(response: &X509svidResponse, write: Option<&Path>) -> Result<Vec<SvidView>, CliError> {
    let views = views(response)?;
    if let Some(dir) = write {
        files::write_x509(dir, response)?;
    }
    Ok(views)
}

fn views(response: &X509svidResponse) -> Result<Vec<SvidView>, CliError> {
    response
        .svids
        .iter()
        .map(|svid| {
            let unreadable = |reason: String| CliError::Answer {
                what: "agent",
                reason,
            };
            let chain = files::certificates(&svid.x509_svid)?;
            let leaf = chain
                .first()
                .ok_or_else(|| unreadable("an SVID has no certificate".to_owned()))?;
            let leaf = parse_leaf(leaf).map_err(|error| unreadable(error.to_string()))?;
            Ok(SvidView {
                spiffe_id: svid.spiffe_id.clone(),
                serial_number: leaf.serial,
                valid_from: values::show_time(leaf.not_before.unix_timestamp()),
                valid_until: values::show_time(leaf.not_after.unix_timestamp()),
                dns_names: leaf.dns_names,
                hint: svid.hint.clone(),
            })
        })
        .collect()
}

fn describe(views: &[SvidView]) -> String {
    let noun = if views.len() == 1 { "SVID" } else { "SVIDs" };
    let mut text = format!("Received {} {noun}\n", views.len());
    for view in views {
        let mut rows = vec![
            ("SPIFFE ID", view.spiffe_id.clone()),
            ("Serial number", view.serial_number.clone()),
            ("Valid from", view.valid_from.clone()),
            ("Valid until", view.valid_until.clone()),
        ];
        rows.extend(view.dns_names.iter().map(|name| ("DNS name", name.clone())));
        if !view.hint.is_empty() {
            rows.push(("Hint", view.hint.clone()));
        }
        text.push('\n');
        text.push_str(&output::pairs(&rows));
    }
    text
}
