//! Life before the server is heard: what was sealed is known and served again, and the service manager learns how it is.

use std::sync::Arc;

use tokio::sync::watch;
use vouchsafe_identity::Bundle;
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::notify::Notifier;

use super::{AppError, Host};
use crate::cache::X509Cache;
use crate::cache::slots::X509Svid;
use crate::config::Config;
use crate::entry::EntryId;
use crate::knowledge::{KnowledgeBase, News, Whole};
use crate::node::state::StateDir;
use crate::node::{OwnSvid, stored_id};
use crate::runs::Runs;
use crate::sealed::{Keeper, Restored, Seal};
use crate::status::{Status, SyncState};

/// What is held in memory, and is sealed on disk.
pub(super) struct Held {
    pub(super) knowledge: KnowledgeBase,
    pub(super) x509: X509Cache,
    /// X.509-SVIDs of runs.
    pub(super) of_runs: X509Cache,
    pub(super) status: Arc<Status>,
}

/// X.509-SVIDs of runs that live or may be launched: to be taken in once it is known which those are.
pub(super) type OfRuns = Vec<(EntryId, X509Svid)>;

impl Held {
    pub(super) fn of(knowledge: &KnowledgeBase, x509: &X509Cache, runs: &Runs, status: &Arc<Status>) -> Self {
        Self {
            knowledge: knowledge.clone(),
            x509: x509.clone(),
            of_runs: runs.shelf().x509.clone(),
            status: Arc::clone(status),
        }
    }

    /// Opens the sealed state, and takes in what was sealed for the agent whose SVID is stored. What is refused counts
    /// as nothing.
    pub(super) fn restore(
        &self,
        config: &Config,
        host: &Host,
        state: &StateDir,
    ) -> Result<(Option<Seal>, OfRuns), AppError> {
        let seal = Seal::open(&config.seal_key, &config.data_dir, host.credentials.as_deref())?;
        let mut of_runs = OfRuns::new();
        let Some(seal) = seal else {
            return Ok((None, of_runs));
        };
        self.status.seal_wanted();
        let now = host.clock.now();
        let restored = stored_id(state, &config.trust_domain)?
            .and_then(|agent| seal.restore(agent.as_str(), &config.trust_domain, now));
        if let Some(mut restored) = restored {
            if let Some(stored) = state.load_bundle(&config.trust_domain)?
                && prefer_newer(&mut restored.bundles, stored)
            {
                // The digest there is that of the sealed bundle.
                restored.resume = None;
            }
            of_runs = std::mem::take(&mut restored.run_svids);
            self.take(restored, &host.clock);
        }
        Ok((Some(seal), of_runs))
    }

    fn take(&self, restored: Restored, clock: &Clock) {
        let Restored {
            entries,
            bundles,
            svids,
            run_svids: _,
            left_out,
            heard_at,
            resume,
            classes,
            runs,
            revoked,
        } = restored;
        tracing::info!(
            entries = entries.len(),
            svids = svids.len(),
            expired = left_out,
            "the sealed state is served until the server is heard"
        );
        self.knowledge.learn(News::Whole(Whole {
            entries,
            bundles,
            classes,
            runs,
            revoked,
            resume,
        }));
        let entries = &self.knowledge.get().entries;
        self.x509.restore(entries, svids, clock.now(), || clock.jitter());
        self.status.restored(heard_at);
    }

    /// Seals what is held, from this moment on.
    pub(super) fn keeper(
        self,
        seal: Seal,
        own: watch::Receiver<Option<Arc<OwnSvid>>>,
        clock: &Clock,
    ) -> Keeper {
        let caches = (self.x509, self.of_runs);
        Keeper::new(seal, self.knowledge, caches, own, self.status, clock.clone())
    }
}

/// Puts the stored bundle in place of the sealed one if it is the newer: it is stored at once, and sealed a moment
/// later. An agent that went back to the older one might no longer know its server. Whether it did.
fn prefer_newer(sealed: &mut [Bundle], stored: Bundle) -> bool {
    let same = sealed
        .iter_mut()
        .find(|bundle| bundle.trust_domain == stored.trust_domain);
    match same.filter(|bundle| bundle.sequence < stored.sequence) {
        Some(older) => {
            *older = stored;
            true
        }
        None => false,
    }
}

/// Tells the service manager whether the server is heard, at each change.
pub(super) async fn tell(notifier: &Notifier, status: &Status) {
    let mut changes = status.changes();
    let mut told = None;
    loop {
        let text = in_words(&changes.borrow_and_update());
        if told.as_ref() != Some(&text) {
            notifier.status(&text);
            told = Some(text);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn in_words(sync: &SyncState) -> String {
    let heard = sync
        .last_heard
        .map_or_else(|| "never".to_owned(), |at| at.to_string());
    match (sync.reachable, sync.unreachable_since) {
        (true, _) => "serving".to_owned(),
        (false, Some(since)) => {
            format!("degraded: the server is unreachable since {since}, last heard {heard}")
        }
        (false, None) => format!("degraded: serving what was sealed, the server was last heard {heard}"),
    }
}

#[cfg(test)]
mod tests {
    use vouchsafe_identity::TrustDomain;

    use super::*;

    fn bundle(name: &str, sequence: u64) -> Bundle {
        Bundle {
            sequence,
            ..Bundle::empty(TrustDomain::new(name).unwrap())
        }
    }

    #[test]
    fn of_the_sealed_and_the_stored_bundle_the_newer_counts() {
        for (sealed, stored, counts) in [(3, 4, 4), (4, 4, 4), (5, 4, 5)] {
            let mut bundles = [bundle("far.example", 1), bundle("example.org", sealed)];
            let did = prefer_newer(&mut bundles, bundle("example.org", stored));
            assert_eq!(did, sealed < stored);
            assert_eq!(bundles.map(|bundle| bundle.sequence), [1, counts]);
        }
    }
}
