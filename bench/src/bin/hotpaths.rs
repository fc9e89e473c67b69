//! `vouchsafe-hotpaths`: counts the instructions of each hot path and compares them with the committed counts.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vouchsafe_bench::guard::{self, Verdict};
use vouchsafe_bench::hot;

/// Guards the hot paths: fails when one needs more instructions than it did (docs/performance.md).
#[derive(Debug, Parser)]
#[command(name = "vouchsafe-hotpaths", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Writes the counts instead of comparing them
    #[arg(long)]
    update: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs rounds of one path, as the count does under valgrind
    Run {
        /// The path
        name: String,
        /// How many
        rounds: u32,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Command::Run { name, rounds }) = arguments.command {
        let mut round = hot::prepare(&name)?;
        // What is made once, at the first call, is not counted.
        round()?;
        hot::counted_rounds(&mut round, rounds)?;
        return Ok(ExitCode::SUCCESS);
    }
    let counted = guard::count()?;
    let mut out = std::io::stdout();
    if arguments.update {
        guard::update(&counted)?;
        writeln!(out, "wrote {}", guard::file().display())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut bad = false;
    for (name, was, is, verdict) in guard::compare(&guard::committed()?, &counted) {
        let text = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let word = match verdict {
            Verdict::Same => "ok",
            Verdict::Better => "ok, and better: renew the count with UPDATE=1",
            Verdict::Regression => "REGRESSION",
            Verdict::Unknown => "not in both: renew the counts with UPDATE=1",
        };
        bad |= matches!(verdict, Verdict::Regression | Verdict::Unknown);
        writeln!(out, "{name:26} {:>10} {:>10}  {word}", text(was), text(is))?;
    }
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
