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
use crate::status::Status;
use crate::workload::Parts;

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
        let parts = vec![
            identity(own.as_deref(), now),
            self.sync(&known),
            self.watch(),
            self.presence(),
        ];
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
            last_sync_at: self.status.sync().last_heard.map(render::moment),
            entries: count(known.entries.len()),
            cached_svids: count(workload.x509.held()),
            held_calls: count(workload.holding.held()),
        }
    }

    fn sync(&self, known: &Knowledge) -> HealthPart {
        let sync = self.status.sync();
        let status = match (known.complete, sync.reachable) {
            (false, _) => HealthStatus::NotServing,
            (true, false) => HealthStatus::Degraded,
            (true, true) => HealthStatus::Serving,
        };
        let detail = match (known.complete, sync.problem) {
            (_, Some(problem)) => problem,
            (false, None) => "the server has not been heard yet".to_owned(),
            (true, None) => String::new(),
        };
        part("sync", status, detail)
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

fn identity(own: Option<&OwnSvid>, now: OffsetDateTime) -> HealthPart {
    match own {
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
