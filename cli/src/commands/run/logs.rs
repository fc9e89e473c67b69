//! `vouchsafe run logs`: what a run says, byte for byte.

use std::io::{ErrorKind, Write};

use vouchsafe_identity::RunId;
use vouchsafe_proto::vouchsafe::launch::v1::ReadOutputRequest;
use vouchsafe_proto::vouchsafe::launch::v1::launch_client::LaunchClient;

use crate::args::Global;
use crate::client::{Connection, workload_request};
use crate::error::CliError;

/// Prints what the agent kept of it, and what comes if that is wanted.
pub(super) async fn print(global: &Global, run: RunId, follow: bool) -> Result<(), CliError> {
    let agent = Connection::launch(global, None).await?;
    let mut client = LaunchClient::new(agent.channel.clone());
    let request = ReadOutputRequest {
        run_id: run.to_string(),
        follow,
    };
    let mut chunks = agent.call(client.read_output(workload_request(request))).await?;
    while let Some(chunk) = chunks.message().await.map_err(|status| agent.refused(status))? {
        let mut to = std::io::stdout().lock();
        match to.write_all(&chunk.output).and_then(|()| to.flush()) {
            // Who reads has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(CliError::Output)?,
        }
    }
    Ok(())
}
