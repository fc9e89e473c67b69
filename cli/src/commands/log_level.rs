//! `vouchsafe log-level`: how much server and agent log, changed while they run.

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use vouchsafe_proto::spire::api::server::logger::v1::logger_client::LoggerClient;
use vouchsafe_proto::spire::api::server::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::agent::v1 as agent;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_client::AgentAdminClient;

use super::health::Whom;
use crate::args::Global;
use crate::client::Connection;
use crate::error::CliError;
use crate::output::{self, Output};

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum LogLevelCommand {
    /// Show the level, and the one of the configuration
    Show {
        /// Whom to ask
        #[arg(value_enum)]
        whom: Whom,
    },
    /// Change the level until the daemon ends
    Set {
        /// Who shall log by it
        #[arg(value_enum)]
        whom: Whom,
        /// off, error, warn, info, debug or trace; of an agent also by part: info,vouchsafe_agent=debug
        level: String,
    },
    /// Go back to the level of the configuration
    Reset {
        /// Who shall
        #[arg(value_enum)]
        whom: Whom,
    },
}

#[derive(Debug, Serialize)]
struct LevelView {
    current: String,
    launch: String,
}

/// What is asked.
enum Ask {
    Show,
    Set(String),
    Reset,
}

/// Levels as SPIRE's API has them.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Runs a command of the group.
pub(crate) async fn run(command: LogLevelCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    let (whom, ask) = match command {
        LogLevelCommand::Show { whom } => (whom, Ask::Show),
        LogLevelCommand::Set { whom, level } => (whom, Ask::Set(level)),
        LogLevelCommand::Reset { whom } => (whom, Ask::Reset),
    };
    let view = match whom {
        Whom::Server => of_server(ask, global).await?,
        Whom::Agent => of_agent(ask, global).await?,
    };
    output.show(&view, || {
        output::pairs(&[
            ("Level", view.current.clone()),
            ("At the start", view.launch.clone()),
        ])
    });
    Ok(())
}

async fn of_server(ask: Ask, global: &Global) -> Result<LevelView, CliError> {
    let new_level = match &ask {
        Ask::Set(level) => spires(level)?.into(),
        Ask::Show | Ask::Reset => 0,
    };
    let server = Connection::server(global).await?;
    let mut client = LoggerClient::new(server.channel.clone());
    let state = match ask {
        Ask::Show => server.call(client.get_logger(GetLoggerRequest {})).await?,
        Ask::Set(_) => {
            server
                .call(client.set_log_level(SetLogLevelRequest { new_level }))
                .await?
        }
        Ask::Reset => {
            server
                .call(client.reset_log_level(ResetLogLevelRequest {}))
                .await?
        }
    };
    Ok(LevelView {
        current: ours(state.current_level()).to_owned(),
        launch: ours(state.launch_level()).to_owned(),
    })
}

async fn of_agent(ask: Ask, global: &Global) -> Result<LevelView, CliError> {
    let connection = Connection::agent_admin(global).await?;
    let mut client = AgentAdminClient::new(connection.channel.clone());
    let state = match ask {
        Ask::Show => {
            connection
                .call(client.get_log_level(agent::GetLogLevelRequest {}))
                .await?
        }
        Ask::Set(level) => {
            let request = agent::SetLogLevelRequest { level };
            connection.call(client.set_log_level(request)).await?
        }
        Ask::Reset => {
            connection
                .call(client.reset_log_level(agent::ResetLogLevelRequest {}))
                .await?
        }
    };
    Ok(LevelView {
        current: state.current,
        launch: state.launch,
    })
}

fn spires(level: &str) -> Result<types::LogLevel, CliError> {
    let known = Level::from_str(level, true).map_err(|_| {
        CliError::Invalid(format!(
            "`{level}` is not a log level: the server takes off, error, warn, info, debug or trace"
        ))
    })?;
    Ok(match known {
        Level::Off => types::LogLevel::Panic,
        Level::Error => types::LogLevel::Error,
        Level::Warn => types::LogLevel::Warn,
        Level::Info => types::LogLevel::Info,
        Level::Debug => types::LogLevel::Debug,
        Level::Trace => types::LogLevel::Trace,
    })
}

fn ours(level: types::LogLevel) -> &'static str {
    match level {
        types::LogLevel::Panic | types::LogLevel::Fatal => "off",
        types::LogLevel::Error => "error",
        types::LogLevel::Warn => "warn",
        types::LogLevel::Info => "info",
        types::LogLevel::Debug => "debug",
        types::LogLevel::Trace => "trace",
        types::LogLevel::Unspecified => "unknown",
    }
}
