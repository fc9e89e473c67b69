//! The command line of `vouchsafe-server`, and with which exit code each end is told.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use vouchsafe_runtime::notify::Notifier;
use vouchsafe_runtime::{ExitCode, Handed, config, signals, telemetry, uds};

use crate::app::{App, Host};
use crate::config::Config;
use crate::errors::chain;
use crate::restoring;

/// The Vouchsafe server: certificate authority, registry and audit of a trust domain.
#[derive(Debug, Parser)]
#[command(name = "vouchsafe-server", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server until it gets SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Checks a configuration file and says what is wrong with it.
    Validate {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Makes a data directory from a backup, for a server that does not run.
    Restore {
        /// The file that `vouchsafe backup` made.
        file: PathBuf,
        /// The folder to restore into: empty, or not there yet.
        #[arg(long, value_name = "DATA_DIR")]
        into: PathBuf,
        /// The file of the key that the backup was sealed with.
        #[arg(long, value_name = "FILE")]
        seal_key: Option<PathBuf>,
    },
    /// Prints the version.
    Version,
}

/// Why the command failed, for people, and its code, for programs.
struct Failure(String, ExitCode);

impl Failure {
    fn new(error: &dyn Error, code: ExitCode) -> Self {
        Self(chain(error), code)
    }
}

/// Does what the command line says.
pub async fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let _unwritable = error.print();
            return if error.use_stderr() {
                ExitCode::Usage
            } else {
                ExitCode::Ok
            };
        }
    };
    let done = match line.command {
        Command::Run { config } => run(&config).await.map(|()| None),
        Command::Validate { config } => load(&config).map(|_| Some(format!("{} is valid", config.display()))),
        Command::Restore { file, into, seal_key } => {
            restore(&file, &into, seal_key.as_deref()).await.map(Some)
        }
        Command::Version => Ok(Some(env!("CARGO_PKG_VERSION").to_owned())),
    };
    match done {
        Ok(text) => {
            if let Some(text) = text {
                let _unwritable = writeln!(std::io::stdout(), "{text}");
            }
            ExitCode::Ok
        }
        Err(Failure(text, code)) => {
            let _unwritable = writeln!(std::io::stderr(), "vouchsafe-server: {text}");
            code
        }
    }
}

fn load(path: &Path) -> Result<Config, Failure> {
    let config: Config = config::load(path).map_err(|e| Failure::new(&e, ExitCode::Config))?;
    config.check().map_err(|e| Failure::new(&e, ExitCode::Config))?;
    if let Some(group) = &config.admin_socket_group {
        uds::check_group(group).map_err(|e| Failure::new(&e, ExitCode::Config))?;
    }
    Ok(config)
}

async fn restore(file: &Path, into: &Path, seal_key: Option<&Path>) -> Result<String, Failure> {
    let restored = restoring::into_data_dir(file, into, seal_key, Host::default().clock.now()).await;
    let restored = restored.map_err(|e| Failure::new(&e, ExitCode::Io))?;
    Ok(format!(
        "revision {}, {} audit records and {} private keys are in {}: make it the `data_dir` of the server, and start it",
        restored.end.revision.0,
        restored.end.audit_seq,
        restored.keys,
        into.display()
    ))
}

async fn run(path: &Path) -> Result<(), Failure> {
    let config = load(path)?;
    let log = telemetry::init(&config.log).map_err(|e| Failure::new(&e, ExitCode::Config))?;
    let signal = signals::shutdown_signal().map_err(|e| Failure::new(&e, ExitCode::Software))?;
    let host = Host {
        log,
        notifier: Notifier::from_environment(),
        handed: Handed::from_environment().map_err(|e| Failure::new(&e, ExitCode::Config))?,
        ..Host::default()
    };
    let app = App::build(config, host).await;
    let app = app.map_err(|e| Failure::new(&e, e.exit_code()))?;
    app.run(signal)
        .await
        .map_err(|e| Failure::new(&e, ExitCode::Software))
}
