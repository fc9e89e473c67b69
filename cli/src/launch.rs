//! `vouchsafe run --class … -- COMMAND`: has the node agent launch a run, lends it standard input, output and error, and
//! ends as the program ends. Nothing of its own goes to standard output, unless the run is detached.

mod ending;
mod request;
mod session;
mod signals;
mod terminal;
mod view;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use clap::Args;
use tonic::Status;
use vouchsafe_identity::{ClassName, TaskId};
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_proto::vouchsafe::launch::v1::launch_client::LaunchClient;

pub(crate) use self::ending::{Ending, NotAdmitted};
pub(crate) use self::request::find as find_program;
use self::session::Session;
pub(crate) use self::signals::{Signals, end_by};
use self::terminal::Pty;
use crate::args::Global;
use crate::client::{Connection, workload_request};
use crate::error::CliError;
use crate::output::Output;

/// Flags of a launch.
#[derive(Debug, Args)]
pub(crate) struct LaunchArgs {
    /// The class that the run is one of
    #[arg(long, value_name = "NAME", required = true)]
    pub(crate) class: ClassName,
    /// What it works on
    #[arg(long)]
    pub(crate) task: Option<TaskId>,
    /// A label (repeat)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = request::label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Print the run's id and leave it running; `vouchsafe run logs` shows what it says
    #[arg(long)]
    pub(crate) detach: bool,
    /// Say nothing of one's own on standard error, unless the launch fails
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// How long to wait for an agent that went away during the run
    #[arg(long, default_value = "60s", value_parser = crate::values::duration, value_name = "SPAN")]
    pub(crate) agent_wait: Duration,
    /// The command with its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Launches a run, and follows it to its end.
pub(crate) async fn run(
    args: LaunchArgs,
    signals: Signals,
    global: &Global,
    output: &Output,
) -> Result<Ending, CliError> {
    let folder = std::env::current_dir().map_err(|source| CliError::Stdio {
        what: "the working directory",
        source,
    })?;
    request::find(&args.command, std::env::var_os("PATH").as_deref(), &folder)?;
    let mut pty = None;
    let mut passed = None;
    if !args.detach {
        if std::io::stdin().is_terminal() {
            pty = Some(Pty::open().map_err(terminal_error)?);
        }
        passed = Some(stdio(pty.as_ref())?);
    }
    let request = request::of(&args, std::env::vars_os(), &folder, pty.is_some())?;
    let mut heard = signals.listen();
    let agent = Connection::launch(global, passed).await?;
    let events = tokio::select! {
        biased;
        signal = signals::deadly(&mut heard) => return Ok(Ending::Signalled(signal as i32)),
        events = opened(&agent, request) => events?,
    };
    let session = Session::new(&args, global, output, agent, events, heard, pty);
    session.follow().await
}

async fn opened(agent: &Connection, request: LaunchRequest) -> Result<session::Events, CliError> {
    let class = request.class.clone();
    let mut client = LaunchClient::new(agent.channel.clone());
    match agent.call(client.launch(workload_request(request))).await {
        Err(CliError::Call { status, .. }) => Err(refused(agent, &class, *status)),
        other => other,
    }
}

/// What the agent, or the server by way of it, says of a launch.
fn refused(agent: &Connection, class: &str, status: Status) -> CliError {
    match NotAdmitted::of(class, &status) {
        Some(not_admitted) => CliError::NotAdmitted(not_admitted),
        None => agent.refused(status),
    }
}

/// What the run gets: our own, or its terminal in the place of each that is one.
fn stdio(pty: Option<&Pty>) -> Result<[OwnedFd; 3], CliError> {
    let copy = |own: &dyn AsFd, terminal: bool| match pty {
        Some(pty) if terminal => pty.end(),
        _ => own.as_fd().try_clone_to_owned(),
    };
    let (input, said, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let copies = || {
        Ok([
            copy(&input, input.is_terminal())?,
            copy(&said, said.is_terminal())?,
            copy(&errors, errors.is_terminal())?,
        ])
    };
    copies().map_err(|source| CliError::Stdio {
        what: "standard input, output and error",
        source,
    })
}

fn terminal_error(source: std::io::Error) -> CliError {
    CliError::Stdio {
        what: "a terminal for the run",
        source,
    }
}
