//! The admin socket, for the operator of this node: health, and why a process gets what it gets. Mode 0600; whoever can
//! open it may ask about any process and sees the entries.

pub mod health;

use std::sync::Arc;

use tonic::{Request, Response, Status};
use vouchsafe_attestors::{Evidence, Process};
use vouchsafe_proto::vouchsafe::agent::v1 as api;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_server::AgentAdmin;
use vouchsafe_runtime::telemetry::{LogLevel, TelemetryError};
use vouchsafe_runtime::uds::PlainPeer;
use vouchsafe_sys::PidFd;

use crate::caller::CallerError;
use crate::explain;
use crate::knowledge::Knowledge;
use crate::render;
use crate::runs::Standing;
use crate::workload::Parts;
pub use health::Pulse;

/// The service.
#[derive(Debug, Clone)]
pub struct Admin {
    /// What the Workload API works with.
    pub parts: Parts,
    /// How the agent is.
    pub pulse: Pulse,
    /// The log's level.
    pub log: LogLevel,
}

#[tonic::async_trait]
impl AgentAdmin for Admin {
    async fn explain(
        &self,
        request: Request<api::ExplainRequest>,
    ) -> Result<Response<api::ExplainResponse>, Status> {
        let pid = match request.get_ref().pid {
            Some(pid) if pid > 0 => pid,
            Some(pid) => return Err(Status::invalid_argument(format!("`{pid}` is not a process id"))),
            None => caller_pid(&request)?,
        };
        let (process, shown, evidence) = self.examine(pid).await?;
        let known = self.parts.knowledge.get();
        let mut explained = explanation(shown, &evidence, &known, self.knowledge(&known));
        if let Some((membership, reason)) = self.membership(&process).await? {
            // Entries do not count for it.
            (explained.matched, explained.nearest) = (Vec::new(), Vec::new());
            (explained.run, explained.reason) = (Some(membership), reason);
        }
        Ok(Response::new(explained))
    }

    async fn health(
        &self,
        _request: Request<api::HealthRequest>,
    ) -> Result<Response<api::HealthResponse>, Status> {
        Ok(Response::new(self.pulse.health(&self.parts)))
    }

    async fn get_log_level(
        &self,
        _request: Request<api::GetLogLevelRequest>,
    ) -> Result<Response<api::LogLevel>, Status> {
        Ok(level(&self.log))
    }

    async fn set_log_level(
        &self,
        request: Request<api::SetLogLevelRequest>,
    ) -> Result<Response<api::LogLevel>, Status> {
        let done = self.log.set(&request.get_ref().level);
        done.map(|()| level(&self.log)).map_err(not_set)
    }

    async fn reset_log_level(
        &self,
        _request: Request<api::ResetLogLevelRequest>,
    ) -> Result<Response<api::LogLevel>, Status> {
        self.log.reset().map(|()| level(&self.log)).map_err(not_set)
    }
}

fn level(log: &LogLevel) -> Response<api::LogLevel> {
    Response::new(api::LogLevel {
        current: log.current(),
        launch: log.launch().to_owned(),
    })
}

fn not_set(error: TelemetryError) -> Status {
    match error {
        TelemetryError::Gone(_) => Status::failed_precondition(error.to_string()),
        _ => Status::invalid_argument(error.to_string()),
    }
}

fn caller_pid<T>(request: &Request<T>) -> Result<i32, Status> {
    request
        .extensions()
        .get::<PlainPeer>()
        .map(|peer| peer.pid)
        .filter(|pid| *pid > 0)
        .ok_or_else(|| Status::invalid_argument("the calling process has no id here: name a process"))
}

impl Admin {
    /// Measures any process as a caller would be measured.
    async fn examine(&self, pid: i32) -> Result<(Process, api::Process, Evidence), Status> {
        let gone = || Status::not_found(format!("there is no process {pid}"));
        let failed = |error: CallerError| match error {
            CallerError::Gone => gone(),
            other => Status::from(other),
        };
        let pidfd = PidFd::open(pid).map_err(|error| failed(error.into()))?;
        let (uid, gid) = ids(&pidfd, pid).ok_or_else(gone)?;
        let process = self
            .parts
            .gate
            .process(Arc::new(pidfd), uid, gid)
            .await
            .map_err(failed)?;
        let evidence = self.parts.gate.examine(&process).await.map_err(failed)?;
        let path = tokio::fs::read_link(format!("/proc/{pid}/exe")).await;
        let path = path.map(|path| path.display().to_string()).unwrap_or_default();
        if !process.pidfd.is_alive() {
            return Err(gone());
        }
        let shown = api::Process {
            pid,
            uid,
            gid,
            path,
            selectors: render::findings(&evidence),
        };
        Ok((process, shown, evidence))
    }

    /// The run that a process belongs to, and why it gets nothing by it.
    async fn membership(&self, process: &Process) -> Result<Option<(api::RunMembership, String)>, Status> {
        let found = self.parts.runs.run_of(process);
        let Some((run, main)) = found.map_err(CallerError::from)? else {
            return Ok(None);
        };
        let (spiffe_id, reason) = match self.parts.gate.standing(process).await {
            Ok(Standing::Of(member)) => (member.entry.spiffe_id.to_string(), String::new()),
            Ok(Standing::Outside) => (String::new(), "the run has just been forgotten".to_owned()),
            Err(CallerError::NotServed(reason)) => (String::new(), reason.to_string()),
            Err(error) => return Err(error.into()),
        };
        Ok(Some((render::membership(&run, main, spiffe_id), reason)))
    }

    fn knowledge(&self, known: &Knowledge) -> api::Knowledge {
        let sync = self.pulse.status.sync();
        api::Knowledge {
            last_sync_at: sync.last_heard.map(render::moment),
            entries: count(known.entries.len()),
            server_reachable: sync.reachable,
            bundle_sequence: known.own_bundle().map_or(0, |bundle| bundle.sequence),
        }
    }
}

/// Effective ids of a process: from the kernel by pidfd, where it can; else as `/proc` says, which attestors compare.
fn ids(pidfd: &PidFd, pid: i32) -> Option<(u32, u32)> {
    if let Ok(info) = pidfd.info() {
        return Some((info.euid, info.egid));
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let effective = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((effective("Uid:")?, effective("Gid:")?))
}

fn explanation(
    process: api::Process,
    evidence: &Evidence,
    known: &Knowledge,
    knowledge: api::Knowledge,
) -> api::ExplainResponse {
    let selectors = evidence.selectors();
    let matched = known.entries.identities(&selectors);
    let reason = match matched.is_empty() {
        true if !known.complete => "the agent has not heard from its server yet".to_owned(),
        true if known.entries.is_empty() => explain::reason(0, selectors.len()),
        true => "no registration entry has selectors that this process has all of".to_owned(),
        false => String::new(),
    };
    api::ExplainResponse {
        run: None,
        process: Some(process),
        withheld: evidence
            .withheld
            .iter()
            .map(|withheld| api::WithheldSelector {
                selector_type: withheld.what.clone(),
                reason: withheld.reason.clone(),
            })
            .collect(),
        matched: matched
            .iter()
            .map(|entry| api::MatchedEntry {
                entry_id: entry.id.to_string(),
                spiffe_id: entry.spiffe_id.to_string(),
            })
            .collect(),
        nearest: explain::nearest(&known.entries, &selectors)
            .iter()
            .map(|near| api::NearestEntry {
                entry_id: near.entry.id.to_string(),
                spiffe_id: near.entry.spiffe_id.to_string(),
                missing: near
                    .missing
                    .iter()
                    .map(|one| render::selector(one, None))
                    .collect(),
                present: near
                    .present
                    .iter()
                    .map(|one| render::selector(one, None))
                    .collect(),
            })
            .collect(),
        knowledge: Some(knowledge),
        reason,
    }
}

pub(crate) fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
