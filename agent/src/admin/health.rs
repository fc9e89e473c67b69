//! How the agent is, part by part.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::watch;
use vouchsafe_proto::vouchsafe::agent::v1 as api;
use vouchsafe_proto::vouchsafe::types::v1::{HealthPart, HealthStatus};

use super::count;
use crate::caller::exec::Mode;
use crate::caller::{ExecWatch, Gate};
use crate::knowledge::Knowledge;
use crate::node::OwnSvid;
use crate::render;
use crate::status::{Status, SyncMode};
use crate::workload::Parts;

/// What an operator who wants it so should know.
const NOT_SEALED: &str =
    "nothing is sealed (`seal_key = \"none\"`): after a restart the agent needs its server";

/// Where the health of the parts is read.
#[derive(Debug, Clone)]
pub struct Pulse {
    /// How well the server is heard.
    pub status: Arc<Status>,
    /// The agent's own SVID.
    pub own: watch::Receiver<Option<Arc<OwnSvid>>>,
    /// How execs come to be known.
    pub execs: ExecWatch,
    /// Who is exempt from the presence proof.
    pub gate: Arc<Gate>,
}

impl Pulse {
    /// The whole.
    pub fn health(&self, workload: &Parts) -> api::HealthResponse {
        let (known, now) = (workload.knowledge.get(), workload.clock.now());
        let own = self.own.borrow().clone();
        let ends = workload.svids.x509.ends(now);
        let parts = vec![
            identity(own.as_deref(), ends.map(|(_, latest)| latest), now),
            self.sync(&known),
            self.seal(),
            self.watch(),
            self.presence(),
        ];
        let sync = self.status.sync();
        let worst = parts
            .iter()
            .map(HealthPart::status)
            .max_by_key(|status| i32::from(*status))
            .unwrap_or(HealthStatus::Unspecified);
        api::HealthResponse {
            status: worst.into(),
            parts,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spiffe_id: own
                .as_ref()
                .map(|own| own.spiffe_id.to_string())
                .unwrap_or_default(),
            svid_expires_at: own.as_ref().map(|own| render::moment(own.lifetime.not_after)),
            last_sync_at: sync.last_heard.map(render::moment),
            entries: count(known.entries.len()),
            cached_svids: count(workload.svids.x509.held()),
            held_calls: count(workload.holding.held()),
            unreachable_since: sync.unreachable_since.map(render::moment),
            earliest_expiry: ends.map(|(earliest, _)| render::moment(earliest)),
            sealed_at: self.status.seal().sealed_at.map(render::moment),
            sync_mode: sync_mode(sync.mode).into(),
            sync_revision: known.resume.as_ref().map_or(0, |resume| resume.revision),
        }
    }

    fn sync(&self, known: &Knowledge) -> HealthPart {
        let sync = self.status.sync();
        let status = match (known.complete, sync.reachable) {
            (false, _) => HealthStatus::NotServing,
            (true, false) => HealthStatus::Degraded,
            (true, true) => HealthStatus::Serving,
        };
        let detail = match (sync.problem, sync.unreachable_since) {
            (Some(problem), Some(since)) => format!("the server is unreachable since {since}: {problem}"),
            (Some(problem), None) => problem,
            (None, _) if !known.complete => "the server has not been heard yet".to_owned(),
            (None, _) if sync.restored => {
                "what was sealed is served: the server has not been heard since the start".to_owned()
            }
            (None, _) => String::new(),
        };
        part("sync", status, detail)
    }

    /// An agent whose state is not sealed serves, and would not after a restart without its server.
    fn seal(&self) -> HealthPart {
        let seal = self.status.seal();
        match seal.problem {
            Some(problem) => part("seal", HealthStatus::Degraded, problem),
            None if !seal.wanted => part("seal", HealthStatus::Serving, NOT_SEALED.to_owned()),
            None => part("seal", HealthStatus::Serving, String::new()),
        }
    }

    /// Looking every second is slower, and serves all the same.
    fn watch(&self) -> HealthPart {
        let detail = match self.execs.mode() {
            Mode::Events => String::new(),
            Mode::Looking(reason) => {
                format!("callers are looked at every second, not at each exec: {reason}")
            }
        };
        part("exec_watch", HealthStatus::Serving, detail)
    }

    /// An exemption is the operator's decision, and is told as long as it stands.
    fn presence(&self) -> HealthPart {
        let rule = self.gate.presence();
        let exempt: Vec<String> = rule.exempt_uids().iter().map(u32::to_string).collect();
        let detail = match exempt.is_empty() {
            true => String::new(),
            false => format!(
                "insecure: uids {} are exempt from the presence proof (`attest.presence_exempt_uids`); {} calls were \
                 served without it",
                exempt.join(", "),
                rule.exempted()
            ),
        };
        part("presence", HealthStatus::Serving, detail)
    }
}

fn sync_mode(mode: Option<SyncMode>) -> api::SyncMode {
    match mode {
        None => api::SyncMode::Unspecified,
        Some(SyncMode::Push) => api::SyncMode::Push,
        Some(SyncMode::Poll) => api::SyncMode::Poll,
    }
}

/// `served_until` is the latest end of the SVIDs of workloads.
fn identity(own: Option<&OwnSvid>, served_until: Option<OffsetDateTime>, now: OffsetDateTime) -> HealthPart {
    match own {
        Some(own) if own.lifetime.is_over(now) && served_until.is_some() => part(
            "identity",
            HealthStatus::Degraded,
            format!(
                "the agent's SVID expired at {}: it must join again with a new join token, and serves the SVIDs that \
                 are still valid until then",
                own.lifetime.not_after
            ),
        ),
        None => part(
            "identity",
            HealthStatus::NotServing,
            "the agent has not joined yet".to_owned(),
        ),
        Some(own) if own.lifetime.is_over(now) => part(
            "identity",
            HealthStatus::NotServing,
            format!("the agent's SVID expired at {}", own.lifetime.not_after),
        ),
        Some(_) => part("identity", HealthStatus::Serving, String::new()),
    }
}

fn part(name: &str, status: HealthStatus, detail: String) -> HealthPart {
    HealthPart {
        name: name.to_owned(),
        status: status.into(),
        detail,
    }
}
