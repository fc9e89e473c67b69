//! What agents ask again and again, gathered by agent and method, one record each a minute: a fleet that polls would fill the
//! audit log with answers that gave nothing new. Refusals and everything that signs or changes are recorded one by one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use vouchsafe_audit::{Draft, Outcome, Principal};
use vouchsafe_identity::SpiffeId;
use vouchsafe_runtime::Clock;

use crate::caller::{Peer, Proof, Scope};
use crate::usecases::Origin;

/// The methods that SPIRE's agents, and ours without a stream, call every few seconds.
const POLLS: [&str; 4] = [
    "/spire.api.server.entry.v1.Entry/GetAuthorizedEntries",
    "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries",
    "/spire.api.server.bundle.v1.Bundle/GetBundle",
    "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle",
];
/// Most agents and methods that are gathered within a minute; what is more is recorded one by one.
const MAX_GATHERED: usize = 100_000;

/// Gathers calls of agents that succeeded.
#[derive(Debug, Default)]
pub(super) struct Polls(Mutex<HashMap<(SpiffeId, &'static str), u64>>);

impl Polls {
    /// Counts a call that succeeded; `false` when it needs a record of its own.
    pub(super) fn note(&self, caller: &Peer, scope: Scope, method: &str) -> bool {
        let (Proof::Svid { id, .. }, Scope::Agent) = (&caller.proof, scope) else {
            return false;
        };
        let Some(method) = POLLS.into_iter().find(|poll| *poll == method) else {
            return false;
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (id.clone(), method);
        if let Some(count) = counts.get_mut(&key) {
            *count += 1;
            return true;
        }
        let room = counts.len() < MAX_GATHERED;
        if room {
            counts.insert(key, 1);
        }
        room
    }

    /// What was gathered since the last time.
    pub(super) fn take(&self, clock: &Clock) -> Vec<Draft> {
        let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rows: Vec<_> = counts.into_iter().collect();
        rows.sort_unstable_by(|(a, _), (b, _)| (a.0.as_str(), a.1).cmp(&(b.0.as_str(), b.1)));
        rows.into_iter()
            .map(|((id, method), count)| {
                let origin = Origin {
                    principal: Principal::Spiffe { id },
                    scope: Scope::Agent.name(),
                    ..Origin::system("polls", clock.now())
                };
                Draft {
                    outcome: Outcome::Done,
                    code: Some("Ok".into()),
                    ..origin.change(method, [("count", count.to_string())])
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Source;

    #[tokio::test(start_paused = true)]
    async fn polls_of_an_agent_make_one_record_and_nothing_else_is_gathered() {
        let clock = Clock::manual(time::OffsetDateTime::UNIX_EPOCH);
        let polls = Polls::default();
        let peer = |proof| Peer {
            source: Source::Socket,
            proof,
        };
        let agent = |name: &str| {
            peer(Proof::Svid {
                id: format!("spiffe://example.org/spire/agent/x/{name}")
                    .parse()
                    .unwrap(),
                serial: "1".to_owned(),
                expires_at: clock.now(),
            })
        };
        for _ in 0..100 {
            assert!(polls.note(&agent("a"), Scope::Agent, POLLS[1]));
        }
        assert!(polls.note(&agent("b"), Scope::Agent, POLLS[1]));
        let signing = "/spire.api.server.svid.v1.SVID/NewJWTSVID";
        assert!(!polls.note(&agent("a"), Scope::Agent, signing));
        assert!(!polls.note(&agent("a"), Scope::Admin, POLLS[1]));
        let local = peer(Proof::Local { uid: 0, pid: 1 });
        assert!(!polls.note(&local, Scope::Local, POLLS[2]));
        let drafts = polls.take(&clock);
        let counts: Vec<&str> = drafts.iter().map(|draft| draft.facts["count"].as_str()).collect();
        assert_eq!(counts, ["100", "1"]);
        assert_eq!(drafts[0].action, POLLS[1]);
        assert!(polls.take(&clock).is_empty());
    }
}
