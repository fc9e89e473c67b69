//! `vouchsafe audit`: the audit log.

use clap::Subcommand;
use tokio_stream::StreamExt;
use vouchsafe_proto::vouchsafe::server::v1::TailAuditRequest;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;

use crate::args::Global;
use crate::client::Connection;
use crate::error::CliError;
use crate::output::{self, Output};

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print records as JSON lines, oldest first
    Tail {
        /// The first record's place in the log; the oldest where it is not given
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        from: u64,
        /// Go on with each new record
        #[arg(long)]
        follow: bool,
    },
}

/// Runs a command of the group. The records are JSON lines in either output format.
pub(crate) async fn run(command: AuditCommand, global: &Global, _output: &Output) -> Result<(), CliError> {
    let AuditCommand::Tail { from, follow } = command;
    let server = Connection::server(global).await?;
    let mut client = ServerAdminClient::new(server.channel.clone());
    let mut records = server
        .call(client.tail_audit(TailAuditRequest {
            from_seq: from,
            follow,
        }))
        .await?;
    while let Some(record) = records.next().await {
        output::line(&record.map_err(|status| server.refused(status))?.json);
    }
    Ok(())
}
