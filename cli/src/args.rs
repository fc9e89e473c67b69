//! The command line as types: flags have SPIRE's names and meaning, spelled the GNU way.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vouchsafe_identity::{Selector, SpiffeId, TrustDomain};

use crate::commands::{
    agent, audit, authority, backup, bundle, class, entry, explain, health, log_level, measure, run, svid,
    token,
};
use crate::dev;

/// Exit codes, shown below the help.
const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  refused or failed
  64  wrong usage
  65  not found, or the input is not valid
  69  a socket is not there or nobody listens on it
  75  try again: the other side is not ready
  77  permission denied, `no identity issued` included
`run --class` ends as its program does; it and `measure` with
 126  where the command cannot be executed
 127  where the command is not there";

/// Manages a Vouchsafe server and looks at a node agent.
#[derive(Debug, Parser)]
#[command(name = "vouchsafe", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes, before or after its name.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The server's admin socket
    #[arg(
        long,
        global = true,
        env = "VOUCHSAFE_SERVER_SOCKET",
        default_value = "/run/vouchsafe/server.sock"
    )]
    #[arg(value_name = "PATH", help_heading = "Connection")]
    pub(crate) server_socket: PathBuf,
    /// The agent's admin socket
    #[arg(long, global = true, env = "VOUCHSAFE_AGENT_ADMIN_SOCKET")]
    #[arg(
        default_value = "/run/vouchsafe-agent/admin.sock",
        value_name = "PATH",
        help_heading = "Connection"
    )]
    pub(crate) agent_admin_socket: PathBuf,
    /// The agent's Workload API socket; `unix:PATH` and `unix://PATH` are understood too
    #[arg(long, global = true, env = "SPIFFE_ENDPOINT_SOCKET", value_parser = crate::values::socket_path)]
    #[arg(
        default_value = "/run/vouchsafe-agent/agent.sock",
        value_name = "PATH",
        help_heading = "Connection"
    )]
    pub(crate) workload_socket: PathBuf,
    /// The agent's launch socket
    #[arg(long, global = true, env = "VOUCHSAFE_LAUNCH_SOCKET")]
    #[arg(
        default_value = "/run/vouchsafe-agent/launch.sock",
        value_name = "PATH",
        help_heading = "Connection"
    )]
    pub(crate) launch_socket: PathBuf,
    /// How long to wait for an answer
    #[arg(long, global = true, default_value = "10s", value_parser = crate::values::duration)]
    #[arg(value_name = "SPAN", help_heading = "Connection")]
    pub(crate) timeout: Duration,
    /// Tables for people or JSON for programs
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    Table,
    /// One JSON value a command; one a line for `watch` and `tail`.
    Json,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Registration entries: which process gets which SPIFFE ID
    #[command(subcommand)]
    Entry(entry::EntryCommand),
    /// Classes: agent programs that an operator approved
    #[command(subcommand)]
    Class(class::ClassCommand),
    /// Runs of a class, each with an identity of its own: launch one with --class, look at them, end one
    Run(run::RunArgs),
    /// What a class would say of a command: its files with their hashes, by the launcher's own measuring
    Measure(measure::MeasureArgs),
    /// Join tokens, with which a node joins once
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Agents that have joined
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// The trust bundle: the authorities that verify SVIDs
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// The server's signing keys by hand: after a leak, or before a change
    #[command(subcommand)]
    Authority(authority::AuthorityCommand),
    /// Fetch SVIDs as a workload does
    #[command(subcommand)]
    Svid(svid::SvidCommand),
    /// Why a process gets the identities that it gets, or none
    Explain(explain::ExplainArgs),
    /// Whether server and agent are well
    Health(health::HealthArgs),
    /// How much server and agent log, while they run
    #[command(subcommand)]
    LogLevel(log_level::LogLevelCommand),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Everything that the server keeps in one file, sealed with its keys or without them
    Backup(backup::BackupArgs),
    /// A server and an agent in one process, for development
    Dev(dev::DevArgs),
    /// A completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it launches a run, for which this process's signals are.
    pub(crate) fn launches(&self) -> bool {
        matches!(self, Self::Run(args) if args.launches())
    }
}

/// How a filter's selectors or trust domains are compared with an entry's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Match {
    /// The same set.
    Exact,
    /// The entry has no other than those given.
    Subset,
    /// The entry has all of those given, and maybe more.
    Superset,
    /// The entry has at least one of those given.
    Any,
}

/// A filter for entries.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EntryFilter {
    /// Only entries that give this SPIFFE ID
    #[arg(long, value_name = "ID")]
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// Only entries with this parent
    #[arg(long, value_name = "ID")]
    pub(crate) parent_id: Option<SpiffeId>,
    /// Only entries with these selectors (repeat)
    #[arg(long = "selector", value_name = "TYPE:VALUE")]
    pub(crate) selectors: Vec<Selector>,
    /// How --selector is compared [default: superset]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) match_selectors_on: Option<Match>,
    /// Only entries that federate with these trust domains (repeat)
    #[arg(long = "federates-with", value_name = "TRUST_DOMAIN")]
    pub(crate) federates_with: Vec<TrustDomain>,
    /// How --federates-with is compared [default: superset]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) match_federates_with_on: Option<Match>,
    /// Only entries with this hint
    #[arg(long)]
    pub(crate) hint: Option<String>,
    /// Only entries for downstream servers
    #[arg(long)]
    pub(crate) downstream: bool,
}
