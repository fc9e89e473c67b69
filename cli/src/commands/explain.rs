//! `vouchsafe explain`: why a process gets the identities that it gets, or none.

use clap::Args;
use serde::Serialize;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_client::AgentAdminClient;
use vouchsafe_proto::vouchsafe::agent::v1::{ExplainRequest, ExplainResponse, RunMembership};
use vouchsafe_proto::vouchsafe::types::v1::{Selector, Trust};
use vouchsafe_proto::vouchsafe::workload::v1::WhoAmIRequest;
use vouchsafe_proto::vouchsafe::workload::v1::workload_info_client::WorkloadInfoClient;

use crate::args::Global;
use crate::client::{Connection, workload_request};
use crate::error::CliError;
use crate::output::{self, Output};
use crate::values;

/// Flags of `vouchsafe explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The process; asks the agent's admin socket. Without it: this process, over the workload socket
    pid: Option<i32>,
}

#[derive(Debug, Serialize)]
struct SelectorView {
    selector: String,
    trust: &'static str,
}

#[derive(Debug, Serialize)]
struct NearestView {
    entry_id: String,
    spiffe_id: String,
    missing: Vec<String>,
    present: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ExplainView {
    pid: Option<i32>,
    uid: Option<u32>,
    gid: Option<u32>,
    path: Option<String>,
    selectors: Vec<SelectorView>,
    withheld: Vec<WithheldView>,
    spiffe_ids: Vec<String>,
    nearest: Vec<NearestView>,
    reason: String,
    run: Option<RunView>,
    knowledge: Option<KnowledgeView>,
}

#[derive(Debug, Serialize)]
struct RunView {
    run: String,
    class: String,
    task: String,
    main: bool,
    main_pid: i32,
    launcher_uid: u32,
    parent_run: Option<String>,
    expires_at: Option<String>,
    calls: u64,
    last_call_at: Option<String>,
    selectors: Vec<String>,
}

#[derive(Debug, Serialize)]
struct WithheldView {
    selector_type: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct KnowledgeView {
    last_sync_at: Option<String>,
    entries: u64,
    server_reachable: bool,
    bundle_sequence: u64,
}

/// Runs the command.
pub(crate) async fn run(args: ExplainArgs, global: &Global, output: &Output) -> Result<(), CliError> {
    let view = match args.pid {
        Some(pid) => {
            let agent = Connection::agent_admin(global).await?;
            let request = ExplainRequest { pid: Some(pid) };
            let answer = agent
                .call(AgentAdminClient::new(agent.channel.clone()).explain(request))
                .await?;
            ExplainView::from(answer)
        }
        None => {
            let agent = Connection::workload(global).await?;
            let answer = agent
                .call(
                    WorkloadInfoClient::new(agent.channel.clone())
                        .who_am_i(workload_request(WhoAmIRequest {})),
                )
                .await?;
            ExplainView {
                pid: None,
                uid: None,
                gid: None,
                path: None,
                selectors: answer.selectors.iter().map(SelectorView::from).collect(),
                withheld: Vec::new(),
                spiffe_ids: answer.spiffe_ids,
                nearest: Vec::new(),
                reason: answer.reason,
                run: None,
                knowledge: None,
            }
        }
    };
    output.show(&view, || view.text());
    Ok(())
}

impl From<&Selector> for SelectorView {
    fn from(selector: &Selector) -> Self {
        let trust = match selector.trust() {
            Trust::Measured => "measured",
            Trust::Asserted => "asserted",
            Trust::Unspecified => "unknown",
        };
        Self {
            selector: show(selector),
            trust,
        }
    }
}

fn show(selector: &Selector) -> String {
    format!("{}:{}", selector.r#type, selector.value)
}

impl From<ExplainResponse> for ExplainView {
    fn from(answer: ExplainResponse) -> Self {
        let process = answer.process.unwrap_or_default();
        let of_run = answer.run.as_ref().map(|run| run.spiffe_id.clone());
        let of_entries = answer.matched.into_iter().map(|m| m.spiffe_id);
        Self {
            pid: Some(process.pid),
            uid: Some(process.uid),
            gid: Some(process.gid),
            path: (!process.path.is_empty()).then_some(process.path),
            selectors: process.selectors.iter().map(SelectorView::from).collect(),
            withheld: answer
                .withheld
                .into_iter()
                .map(|w| WithheldView {
                    selector_type: w.selector_type,
                    reason: w.reason,
                })
                .collect(),
            spiffe_ids: of_run
                .filter(|id| !id.is_empty())
                .into_iter()
                .chain(of_entries)
                .collect(),
            nearest: answer
                .nearest
                .into_iter()
                .map(|n| NearestView {
                    entry_id: n.entry_id,
                    spiffe_id: n.spiffe_id,
                    missing: n.missing.iter().map(show).collect(),
                    present: n.present.iter().map(show).collect(),
                })
                .collect(),
            reason: answer.reason,
            run: answer.run.map(RunView::from),
            knowledge: answer.knowledge.map(|k| KnowledgeView {
                last_sync_at: k.last_sync_at.map(|at| values::show_time(at.seconds)),
                entries: k.entries,
                server_reachable: k.server_reachable,
                bundle_sequence: k.bundle_sequence,
            }),
        }
    }
}

impl From<RunMembership> for RunView {
    fn from(run: RunMembership) -> Self {
        let time = |at: prost_types::Timestamp| values::show_time(at.seconds);
        Self {
            run: run.run_id,
            class: run.class,
            task: run.task,
            main: run.main,
            main_pid: run.main_pid,
            launcher_uid: run.launcher_uid,
            parent_run: (!run.parent_run_id.is_empty()).then_some(run.parent_run_id),
            expires_at: run.expires_at.map(time),
            calls: run.calls,
            last_call_at: run.last_call_at.map(time),
            selectors: run.selectors,
        }
    }
}

impl RunView {
    fn text(&self) -> String {
        let what = match self.main {
            true => "The main process".to_owned(),
            false => format!("A child of process {}, the main process", self.main_pid),
        };
        let task = match self.task.as_str() {
            "" => String::new(),
            task => format!(", task {task}"),
        };
        let by = match &self.parent_run {
            Some(parent) => format!("run {parent}"),
            None => format!("uid {}", self.launcher_uid),
        };
        let last = self.last_call_at.as_deref().unwrap_or("never");
        format!(
            "{what} of run {} of class {}{task}, launched by {by}; last call: {last}",
            self.run, self.class
        )
    }
}

impl ExplainView {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        if let (Some(pid), Some(uid), Some(gid)) = (self.pid, self.uid, self.gid) {
            let path = self.path.as_deref().map_or_else(
                || "an executable whose path is not measured".to_owned(),
                output::value,
            );
            lines.push(format!("Process {pid}: uid {uid}, gid {gid}, {path}"));
        }
        if let Some(run) = &self.run {
            lines.push(run.text());
            lines.push("Measured as it was launched:".to_owned());
            lines.extend(
                run.selectors
                    .iter()
                    .map(|selector| format!("  {}", output::value(selector))),
            );
        }
        lines.push("Selectors seen:".to_owned());
        lines.extend(
            self.selectors
                .iter()
                .map(|s| format!("  {} ({})", output::value(&s.selector), s.trust)),
        );
        if !self.withheld.is_empty() {
            lines.push("Withheld:".to_owned());
            lines.extend(
                self.withheld
                    .iter()
                    .map(|w| format!("  {}: {}", w.selector_type, output::value(&w.reason))),
            );
        }
        if self.spiffe_ids.is_empty() {
            lines.push(format!("No identity: {}", self.reason));
        } else {
            lines.push("Identities:".to_owned());
            lines.extend(self.spiffe_ids.iter().map(|id| format!("  {id}")));
        }
        if !self.nearest.is_empty() {
            lines.push("Nearest entries, and what each lacks:".to_owned());
        }
        for near in &self.nearest {
            lines.push(format!("  {} (entry {})", near.spiffe_id, near.entry_id));
            lines.extend(
                near.missing
                    .iter()
                    .map(|s| format!("    missing {}", output::value(s))),
            );
            lines.extend(
                near.present
                    .iter()
                    .map(|s| format!("    present {}", output::value(s))),
            );
        }
        if let Some(known) = &self.knowledge {
            let at = known.last_sync_at.as_deref().unwrap_or("never");
            let server = if known.server_reachable {
                "reachable"
            } else {
                "not reachable"
            };
            lines.push(format!(
                "The agent knows {} entries, last heard from the server at {at}; the server is {server}.",
                known.entries
            ));
        }
        lines.join("\n")
    }
}
