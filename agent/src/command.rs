//! The command line of `vouchsafe-agent`, and with which exit code each end is told.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use vouchsafe_node_attestors::join_token::Token;
use vouchsafe_runtime::{ExitCode, Handed, config, signals, telemetry};

use crate::app::{App, Host};
use crate::config::Config;

/// The Vouchsafe node agent: attests processes, serves the SPIFFE Workload API.
#[derive(Debug, Parser)]
#[command(name = "vouchsafe-agent", version)]
enum Command {
    /// Runs the agent until it gets SIGTERM or SIGINT.
    ///
    /// Exit code 77: the server refuses this agent, so that it needs a new join token.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Token to join with; counts more than the one of the configuration, less than a stored SVID.
        #[arg(
            long,
            value_name = "TOKEN",
            env = "VOUCHSAFE_JOIN_TOKEN",
            hide_env_values = true
        )]
        join_token: Option<String>,
    },
    /// Checks a configuration file and says what is wrong with it.
    Validate {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints the version.
    Version,
}

/// Why the command failed, for people, and its code, for programs.
struct Failure(String, ExitCode);

impl Failure {
    fn new(error: &dyn Error, code: ExitCode) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Self(text, code)
    }
}

/// How long work on other threads may go on when all else has ended.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Does what the command line says.
pub fn main() -> ExitCode {
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let code = runtime.block_on(carry_out());
            // What a caller makes hang does not keep the agent from ending.
            runtime.shutdown_timeout(LAST_WORK);
            code
        }
        Err(error) => {
            let _unwritable = writeln!(std::io::stderr(), "vouchsafe-agent: cannot start: {error}");
            ExitCode::Software
        }
    }
}

async fn carry_out() -> ExitCode {
    let done = match Command::try_parse() {
        Ok(Command::Run { config, join_token }) => run(&config, join_token).await.map(|()| None),
        Ok(Command::Validate { config }) => {
            load(&config).map(|_| Some(format!("{} is valid", config.display())))
        }
        Ok(Command::Version) => Ok(Some(env!("CARGO_PKG_VERSION").to_owned())),
        Err(usage) => {
            let code = if usage.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Ok
            };
            return usage.print().map_or(ExitCode::Io, |()| code);
        }
    };
    match done {
        Ok(text) => {
            if let Some(text) = text {
                let _unwritable = writeln!(std::io::stdout(), "{text}");
            }
            ExitCode::Ok
        }
        Err(Failure(text, code)) => {
            let _unwritable = writeln!(std::io::stderr(), "vouchsafe-agent: {text}");
            code
        }
    }
}

fn load(path: &Path) -> Result<Config, Failure> {
    let config: Config = config::load(path).map_err(|e| Failure::new(&e, ExitCode::Config))?;
    config.check().map_err(|e| Failure::new(&e, ExitCode::Config))?;
    Ok(config)
}

async fn run(path: &Path, token: Option<String>) -> Result<(), Failure> {
    let config = load(path)?;
    let log = telemetry::init(&config.log).map_err(|e| Failure::new(&e, ExitCode::Config))?;
    let token = token.map(|text| Token::new(&text)).transpose();
    let token = token.map_err(|e| Failure::new(&e, ExitCode::Usage))?;
    let host = Host {
        log,
        handed: Handed::from_environment().map_err(|e| Failure::new(&e, ExitCode::Config))?,
        ..Host::default()
    };
    let signal = signals::shutdown_signal().map_err(|e| Failure::new(&e, ExitCode::Software))?;
    let app = App::build(config, host, token).await;
    let app = app.map_err(|e| Failure::new(&e, e.exit_code()))?;
    app.run(signal).await.map_err(|e| Failure::new(&e, e.exit_code()))
}
