//! `vouchsafe-agent`: reads the configuration, builds the agent, runs it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use vouchsafe_agent::{App, AppError, Config, Host};
use vouchsafe_node_attestors::join_token::Token;
use vouchsafe_runtime::{ExitCode, config, signals, telemetry};

/// The Vouchsafe node agent: attests processes, serves the SPIFFE Workload API.
#[derive(Debug, Parser)]
#[command(name = "vouchsafe-agent", version)]
enum Command {
    /// Run the agent.
    Run {
        /// Configuration file, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Token to join with; counts more than the one of the configuration.
        #[arg(
            long,
            value_name = "TOKEN",
            env = "VOUCHSAFE_JOIN_TOKEN",
            hide_env_values = true
        )]
        join_token: Option<String>,
    },
    /// Check a configuration file and do nothing.
    Validate {
        /// Configuration file, TOML.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> std::process::ExitCode {
    let ended = match Command::try_parse() {
        Ok(Command::Run { config, join_token }) => run(&config, join_token),
        Ok(Command::Validate { config }) => load(&config).map(drop),
        Err(usage) => {
            let wrong = usage.use_stderr().then_some(ExitCode::Usage);
            let printed = usage.print().map_or(ExitCode::Io, |()| ExitCode::Ok);
            return wrong.unwrap_or(printed).into();
        }
    };
    let Err(error) = ended else {
        return ExitCode::Ok.into();
    };
    let _nowhere_to_say_it = writeln!(std::io::stderr(), "vouchsafe-agent: {error:#}");
    let code = error.downcast_ref::<AppError>().map(AppError::exit_code);
    code.unwrap_or(ExitCode::Config).into()
}

fn load(path: &Path) -> anyhow::Result<Config> {
    let config: Config = config::load(path)?;
    config.check().with_context(|| path.display().to_string())?;
    Ok(config)
}

#[tokio::main]
async fn run(path: &Path, token: Option<String>) -> anyhow::Result<()> {
    let config = load(path)?;
    telemetry::init(&config.log)?;
    let token = token
        .map(|text| Token::new(&text))
        .transpose()
        .context("--join-token")?;
    let signal = signals::shutdown_signal()?;
    let app = App::build(config, Host::system(), token).await?;
    Ok(app.run(signal).await?)
}
