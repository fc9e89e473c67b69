//! The commands: one file a group.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod authority;
pub(crate) mod backup;
pub(crate) mod bundle;
pub(crate) mod class;
pub(crate) mod entry;
pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod log_level;
pub(crate) mod measure;
pub(crate) mod run;
pub(crate) mod svid;
pub(crate) mod token;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::error::CliError;
use crate::launch::{self, Ending, Signals};
use crate::output::{self, Output};

/// Runs the command that was given.
pub(crate) async fn run(cli: Cli, signals: Option<Signals>, output: &Output) -> Result<Ending, CliError> {
    let global = cli.global;
    let done = match cli.command {
        Command::Run(args) => match (args.parted()?, signals) {
            (run::Asked::Launch(args), Some(signals)) => {
                return Box::pin(launch::run(args, signals, &global, output)).await;
            }
            (run::Asked::Look(command), _) => run::run(command, &global, output).await,
            (run::Asked::Launch(_), None) => Ok(()),
        },
        Command::Entry(command) => entry::run(command, &global, output).await,
        Command::Class(command) => class::run(command, &global, output).await,
        Command::Measure(args) => measure::run(&args, &global, output),
        Command::Token(command) => token::run(command, &global, output).await,
        Command::Agent(command) => agent::run(command, &global, output).await,
        Command::Bundle(command) => bundle::run(command, &global, output).await,
        Command::Authority(command) => authority::run(command, &global, output).await,
        Command::Svid(command) => svid::run(command, &global, output).await,
        Command::Explain(args) => explain::run(args, &global, output).await,
        Command::Health(args) => health::run(args, &global, output).await,
        Command::LogLevel(command) => log_level::run(command, &global, output).await,
        Command::Audit(command) => audit::run(command, &global, output).await,
        Command::Backup(args) => backup::run(args, &global, output).await,
        Command::Dev(args) => Box::pin(crate::dev::run(args, &global, output)).await,
        Command::Completions { shell } => {
            // By way of a buffer: the generator panics where the reader has gone away.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "vouchsafe", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    };
    done.map(|()| Ending::Done)
}
