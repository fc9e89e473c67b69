//! `vouchsafe`: the operator's command line. It talks to API sockets, never to a store.

mod args;
mod client;
mod commands;
mod dev;
mod error;
mod launch;
mod output;
mod values;

use clap::Parser;

use crate::args::Cli;
use crate::launch::{Ending, Signals};
use crate::output::Output;

/// Whether a command line that is wrong otherwise asks for JSON.
fn wants_json(arguments: impl Iterator<Item = std::ffi::OsString>) -> bool {
    let arguments: Vec<_> = arguments.collect();
    let flag = arguments.iter().any(|one| one == "--output=json");
    let pair = arguments.windows(2).any(|pair| pair == ["--output", "json"]);
    flag || pair
}

fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refused) => return output::usage(&refused, wants_json(std::env::args_os())),
    };
    let output = Output::new(cli.global.output);
    // Before the runtime has threads, which are to block what is blocked here.
    let signals = match cli.command.launches().then(Signals::block).transpose() {
        Ok(signals) => signals,
        Err(errno) => return output.fail(&error::CliError::Runtime(errno.into())),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return output.fail(&error::CliError::Runtime(error)),
    };
    match runtime.block_on(commands::run(cli, signals, &output)) {
        Ok(Ending::Exited(code)) => std::process::ExitCode::from(code),
        Ok(Ending::Signalled(signal)) => launch::end_by(signal),
        Ok(Ending::Done) => match output::unwritten() {
            None => std::process::ExitCode::SUCCESS,
            Some(error) => output.fail(&error::CliError::Output(error)),
        },
        Err(error) => output.fail(&error),
    }
}
