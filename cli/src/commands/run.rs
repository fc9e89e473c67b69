//! `vouchsafe run`: which runs there are, what they say, and their end. Launching them is in `launch`.

mod logs;
mod revoked;
mod tree;

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use vouchsafe_identity::{ClassName, RunId, SpiffeId, TaskId};
use vouchsafe_proto::vouchsafe::run::v1 as proto;
use vouchsafe_proto::vouchsafe::run::v1::run_end::Reason;
use vouchsafe_proto::vouchsafe::run::v1::runs_client::RunsClient;
use vouchsafe_proto::vouchsafe::run::v1::{GetRunRequest, KillRunRequest, ListRunsRequest, RunState};
use vouchsafe_runtime::Clock;

use crate::args::Global;
use crate::client::{Connection, MAX_ANSWER_BYTES};
use crate::error::CliError;
use crate::launch::LaunchArgs;
use crate::output::{self, Output};
use crate::values;

const PAGE: i32 = 500;
const HEAD: [&str; 9] = [
    "RUN",
    "CLASS",
    "STATE",
    "TASK",
    "LAUNCHER",
    "NODE",
    "AGE",
    "SVIDS",
    "LAST CALL",
];

/// A run to launch, or one of the group's commands.
#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, arg_required_else_help = true)]
#[command(
    override_usage = "vouchsafe run --class <NAME> [OPTIONS] -- <COMMAND>...\n       vouchsafe run <SUBCOMMAND>"
)]
pub(crate) struct RunArgs {
    #[command(subcommand)]
    command: Option<RunCommand>,
    #[command(flatten)]
    launch: Option<LaunchArgs>,
}

/// What is wanted.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A run.
    Launch(LaunchArgs),
    /// To look at runs, or to end one.
    Look(RunCommand),
}

impl RunArgs {
    /// Whether a run is to be launched.
    pub(crate) fn launches(&self) -> bool {
        self.command.is_none() && self.launch.is_some()
    }

    /// The one or the other.
    pub(crate) fn parted(self) -> Result<Asked, CliError> {
        match (self.command, self.launch) {
            (Some(command), None) => Ok(Asked::Look(command)),
            (None, Some(launch)) => Ok(Asked::Launch(launch)),
            _ => Err(CliError::Usage(
                "the flags of a launch go with `-- COMMAND`, and not with a subcommand".to_owned(),
            )),
        }
    }
}

/// The group's commands.
#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// List runs, those that live unless told otherwise
    List {
        /// Only runs of this class
        #[arg(long, value_name = "NAME")]
        class: Option<ClassName>,
        /// Only runs on the node of this agent
        #[arg(long, value_name = "ID")]
        node: Option<SpiffeId>,
        /// Only runs for this task
        #[arg(long)]
        task: Option<TaskId>,
        /// In which state
        #[arg(long, value_enum, default_value_t = State::Live)]
        state: State,
    },
    /// Show a run
    Show {
        /// Its id
        #[arg(value_name = "RUN")]
        run: RunId,
    },
    /// Show who launched whom: runs that live, and those that launched them
    Tree {
        /// Only runs of this class, and those that launched them
        #[arg(long, value_name = "NAME")]
        class: Option<ClassName>,
    },
    /// Print what a run says that was launched with `--detach`; for its launcher, on its node
    Logs {
        /// Its id
        #[arg(value_name = "RUN")]
        run: RunId,
        /// Go on until it ends
        #[arg(long, short)]
        follow: bool,
    },
    /// List the ended runs whose SVIDs are revoked, until the last of them would have ended by itself
    Revoked,
    /// End a run: it gets no SVID from now on
    Kill {
        /// Its id
        #[arg(value_name = "RUN")]
        run: RunId,
    },
}

/// Which runs are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// Admitted or running.
    Live,
    /// Admitted, not started yet.
    Admitted,
    /// Started.
    Running,
    /// Over.
    Ended,
    /// Launch leases: not launched, as far as the server knows.
    Leased,
    /// All that the server still knows.
    All,
}

/// A run as it is shown.
#[derive(Debug, Serialize)]
struct RunView {
    run: String,
    spiffe_id: String,
    class: String,
    class_id: String,
    class_version: u64,
    state: &'static str,
    task: Option<String>,
    labels: BTreeMap<String, String>,
    launcher: String,
    parent_run: Option<String>,
    node: String,
    uid: u32,
    isolation: &'static str,
    measured_sha256: Option<String>,
    selectors: Vec<String>,
    admitted_at: String,
    expires_at: String,
    started_at: Option<String>,
    pid: Option<u32>,
    ended_at: Option<String>,
    end: Option<String>,
    svids_end_at: Option<String>,
    svids_issued: u64,
    last_svid_at: Option<String>,
    #[serde(skip)]
    times: Times,
}

/// For reckoning, in seconds since 1970; 0: never.
#[derive(Debug, Clone, Copy)]
struct Times {
    admitted_at: i64,
    last_svid_at: i64,
    ended_at: i64,
}

impl From<proto::Run> for RunView {
    fn from(run: proto::Run) -> Self {
        let text = |text: String| (!text.is_empty()).then_some(text);
        let time = |seconds: i64| (seconds != 0).then(|| values::show_time(seconds));
        let state = match run.state() {
            RunState::Admitted => "admitted",
            RunState::Running => "running",
            RunState::Ended => "ended",
            RunState::Leased => "leased",
            RunState::Unspecified => "unknown",
        };
        let isolation = match run.isolation() {
            proto::Isolation::None => "none",
            _ => "process",
        };
        let end = run.end.as_ref();
        let times = Times {
            admitted_at: run.admitted_at,
            last_svid_at: run.last_svid_at,
            ended_at: end.map_or(0, |end| end.at),
        };
        Self {
            times,
            state,
            isolation,
            ended_at: end.and_then(|end| time(end.at)),
            end: end.map(how),
            svids_end_at: end.and_then(|end| time(end.svids_end_at)),
            run: run.run_id,
            spiffe_id: run.spiffe_id,
            class: run.class,
            class_id: run.class_id,
            class_version: run.class_version,
            task: text(run.task),
            labels: run.labels,
            launcher: run.launcher,
            parent_run: text(run.parent_run_id),
            node: run.node,
            uid: run.uid,
            measured_sha256: text(run.measured_sha256),
            selectors: run.selectors,
            admitted_at: values::show_time(run.admitted_at),
            expires_at: values::show_time(run.expires_at),
            started_at: time(run.started_at),
            pid: (run.pid != 0).then_some(run.pid),
            svids_issued: run.svids_issued,
            last_svid_at: time(run.last_svid_at),
        }
    }
}

fn how(end: &proto::RunEnd) -> String {
    match &end.reason {
        Some(Reason::Exited(code)) => format!("exited with {code}"),
        Some(Reason::Signalled(signal)) => format!("ended by signal {signal}"),
        Some(Reason::Killed(killed)) => format!("killed by {}", killed.by),
        Some(Reason::Expired(_)) => "its time was over".to_owned(),
        Some(Reason::NeverStarted(_)) => "never started".to_owned(),
        Some(Reason::Lost(_)) => "its agent no longer had it".to_owned(),
        None => "unknown".to_owned(),
    }
}

impl RunView {
    /// How old it is, or how old it became.
    fn age(&self, now: i64) -> String {
        let until = match self.times.ended_at {
            0 => now,
            ended_at => ended_at,
        };
        values::show_age(until - self.times.admitted_at)
    }

    fn row(&self, now: i64) -> Vec<String> {
        vec![
            self.run.clone(),
            self.class.clone(),
            self.state.to_owned(),
            self.task.clone().unwrap_or_default(),
            self.launcher.clone(),
            self.node.clone(),
            self.age(now),
            self.svids_issued.to_string(),
            match self.times.last_svid_at {
                0 => "never".to_owned(),
                at => format!("{} ago", values::show_age(now - at)),
            },
        ]
    }

    fn block(&self) -> String {
        let mut rows = vec![
            ("Run", self.run.clone()),
            ("SPIFFE ID", self.spiffe_id.clone()),
            ("Class", format!("{} version {}", self.class, self.class_version)),
            ("State", self.state.to_owned()),
        ];
        let optional = [
            ("Task", &self.task),
            ("Ended", &self.ended_at),
            ("End", &self.end),
            ("SVIDs end", &self.svids_end_at),
            ("Launched by run", &self.parent_run),
            ("Measured", &self.measured_sha256),
            ("Started", &self.started_at),
            ("Last SVID", &self.last_svid_at),
        ];
        let given = |(label, text): (&'static str, &Option<String>)| Some((label, text.clone()?));
        rows.extend(optional.into_iter().filter_map(given));
        for (key, value) in &self.labels {
            rows.push(("Label", format!("{key}={value}")));
        }
        for selector in &self.selectors {
            rows.push(("Selector", output::value(selector)));
        }
        rows.extend(self.pid.map(|pid| ("PID", pid.to_string())));
        rows.extend([
            ("Launcher", self.launcher.clone()),
            ("Node", self.node.clone()),
            ("UID", self.uid.to_string()),
            ("Isolation", self.isolation.to_owned()),
            ("Admitted", self.admitted_at.clone()),
            ("Ends by", self.expires_at.clone()),
            ("SVIDs issued", self.svids_issued.to_string()),
        ]);
        output::pairs(&rows)
    }
}

/// Runs a command of the group.
pub(crate) async fn run(command: RunCommand, global: &Global, output: &Output) -> Result<(), CliError> {
    if let RunCommand::Logs { run, follow } = command {
        return logs::print(global, run, follow).await;
    }
    let server = Connection::server(global).await?;
    match command {
        RunCommand::Logs { .. } => Ok(()),
        RunCommand::Tree { class } => tree::show(&server, class, output).await,
        RunCommand::Revoked => revoked::list(&server, output).await,
        RunCommand::List {
            class,
            node,
            task,
            state,
        } => {
            let request = ListRunsRequest {
                class: class.map(String::from).unwrap_or_default(),
                node: node.map(String::from).unwrap_or_default(),
                task: task.map(String::from).unwrap_or_default(),
                states: states(state).iter().map(|state| (*state).into()).collect(),
                page_size: PAGE,
                page_token: String::new(),
            };
            list(&server, request, output).await
        }
        RunCommand::Show { run } => {
            let run_id = run.to_string();
            let found = server
                .call(client(&server).get_run(GetRunRequest { run_id }))
                .await?;
            show(found, output);
            Ok(())
        }
        RunCommand::Kill { run } => {
            let run_id = run.to_string();
            let killed = server
                .call(client(&server).kill_run(KillRunRequest { run_id }))
                .await?;
            show(killed, output);
            Ok(())
        }
    }
}

fn client(connection: &Connection) -> RunsClient<tonic::transport::Channel> {
    RunsClient::new(connection.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn states(state: State) -> &'static [RunState] {
    match state {
        State::Live => &[RunState::Admitted, RunState::Running],
        State::Admitted => &[RunState::Admitted],
        State::Running => &[RunState::Running],
        State::Ended => &[RunState::Ended],
        State::Leased => &[RunState::Leased],
        State::All => &[],
    }
}

fn show(run: proto::Run, output: &Output) {
    let view = RunView::from(run);
    output.show(&view, || view.block());
}

/// All runs that match, in order of their ids.
async fn all(server: &Connection, mut request: ListRunsRequest) -> Result<Vec<RunView>, CliError> {
    let mut views: Vec<RunView> = Vec::new();
    loop {
        let page = server.call(client(server).list_runs(request.clone())).await?;
        views.extend(page.runs.into_iter().map(RunView::from));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(views);
        }
    }
}

async fn list(server: &Connection, request: ListRunsRequest, output: &Output) -> Result<(), CliError> {
    let views = all(server, request).await?;
    let now = Clock::system().now().unix_timestamp();
    output.show(&views, || match views.as_slice() {
        [] => "No runs found".to_owned(),
        some => output::table(&HEAD, some.iter().map(|view| view.row(now)).collect()),
    });
    Ok(())
}
