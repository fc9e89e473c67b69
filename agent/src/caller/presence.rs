//! Of whom it is demanded that they prove their presence by answering a PING (DESIGN §5.4), and who is exempt.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vouchsafe_runtime::uds::Throttle;

use super::{CallerError, Connection};

/// The rule, and how often it was not applied.
#[derive(Debug)]
pub struct PresenceRule {
    within: Duration,
    exempt_uids: BTreeSet<u32>,
    exempted: AtomicU64,
    warnings: Throttle,
}

impl PresenceRule {
    /// Callers have so long to answer; those of some users need not. Says so loudly where there are such users.
    pub fn new(within: Duration, exempt_uids: BTreeSet<u32>) -> Self {
        if !exempt_uids.is_empty() {
            tracing::warn!(
                uids = ?exempt_uids,
                "processes of these users get identities without the presence proof: whoever shares a connection with \
                 one of their programs can have its identity"
            );
        }
        Self {
            within,
            exempt_uids,
            exempted: AtomicU64::new(0),
            warnings: Throttle::new(),
        }
    }

    /// The users that are exempt.
    pub fn exempt_uids(&self) -> &BTreeSet<u32> {
        &self.exempt_uids
    }

    /// How many calls were let through without an answer.
    pub fn exempted(&self) -> u64 {
        self.exempted.load(Ordering::Relaxed)
    }

    /// Has the connector answer.
    pub(super) async fn demand(&self, connection: &Connection) -> Result<(), CallerError> {
        let credentials = connection.peer.credentials();
        if self.exempt_uids.contains(&credentials.uid) {
            self.exempted.fetch_add(1, Ordering::Relaxed);
            if let Some(suppressed) = self.warnings.permit() {
                let (pid, uid) = (credentials.pid, credentials.uid);
                tracing::warn!(
                    pid,
                    uid,
                    suppressed,
                    "a caller was served without the presence proof"
                );
            }
            return Ok(());
        }
        connection
            .presence
            .prove(self.within)
            .await
            .map_err(CallerError::Absent)
    }
}
