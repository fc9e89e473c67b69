//! The command line: measures the figures and prints them beside their limits.
//! A miss is a result, not a failure, unless `--strict` is given.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::plan::Plan;
use crate::report::Report;
use crate::{bare, bare_issuer, figures, usage};

/// Measures what the daemons cost and how fast they are (docs/performance.md).
#[derive(Debug, Parser)]
#[command(name = "vouchsafe-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Measures this figure alone; may be given several times
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=i64::from(figures::LAST)))]
    only: Vec<u8>,
    /// Little load: shows that each figure can be measured, not what it is
    #[arg(long)]
    quick: bool,
    /// Ends with 1 when a figure misses its limit
    #[arg(long)]
    strict: bool,
    /// How the figures are printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves given answers on a socket, for comparison
    #[command(hide = true)]
    Bare {
        /// The socket
        socket: PathBuf,
        /// An `X509SVIDResponse`
        x509: PathBuf,
        /// A `JWTSVIDResponse`
        jwt: PathBuf,
        /// Makes sure who calls, and answers then
        #[arg(long)]
        attesting: bool,
    },
    /// Issues nothing but raw cryptography, for comparison
    #[command(hide = true)]
    BareIssuer {
        /// Where its identity is, and where its address goes
        folder: PathBuf,
    },
}

/// Does what the command line asks for.
///
/// # Errors
/// When nothing can be measured, or printed.
pub async fn run() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Bare {
            socket,
            x509,
            jwt,
            attesting,
        }) => {
            let kind = match attesting {
                true => bare::Kind::Attesting,
                false => bare::Kind::Plain,
            };
            bare::serve(kind, &socket, &x509, &jwt).await?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::BareIssuer { folder }) => {
            bare_issuer::serve(&folder).await?;
            Ok(ExitCode::SUCCESS)
        }
        None => measure(&arguments).await,
    }
}

async fn measure(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        quick: arguments.quick,
    };
    usage::raise_open_files()?;
    let mut report = Report::default();
    let mut failed = 0;
    for figure in 1..=figures::LAST {
        if !arguments.only.is_empty() && !arguments.only.contains(&figure) {
            continue;
        }
        writeln!(std::io::stderr(), "measuring figure {figure} …")?;
        // One that cannot be measured does not keep the others from it.
        if let Err(error) = figures::measure(figure, &plan, &mut report).await {
            writeln!(
                std::io::stderr(),
                "figure {figure} could not be measured: {error:#}"
            )?;
            failed += 1;
        }
    }
    let printed = match arguments.output {
        Output::Text => report.table(),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
    };
    std::io::stdout().write_all(printed.as_bytes())?;
    let misses = report.misses();
    writeln!(
        std::io::stderr(),
        "{} lines, {misses} misses, {failed} figures not measured",
        report.lines.len()
    )?;
    let bad = failed > 0 || (arguments.strict && misses > 0);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
