//! Seals what changes: soon after a change, and then not again for a while, so that a busy agent does not write all the
//! time; and once more when the agent stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vouchsafe_runtime::Clock;

use super::Seal;
use super::snapshot::Snapshot;
use crate::cache::X509Cache;
use crate::knowledge::{Knowledge, KnowledgeBase};
use crate::node::OwnSvid;
use crate::random::Backoff;
use crate::status::Status;

/// What changes together is sealed together, when it comes within this time.
const GATHER: Duration = Duration::from_millis(100);
/// Least time from one write to the next.
const PAUSE: Duration = Duration::from_secs(3);
/// A write that took long is followed by a pause that many times as long, so that sealing never takes much of the disk.
const PAUSE_FACTOR: u32 = 20;
/// Longest time between two tries that fail.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Seals what the agent knows and holds.
#[derive(Debug)]
pub struct Keeper {
    seal: Seal,
    knowledge: KnowledgeBase,
    known: watch::Receiver<Arc<Knowledge>>,
    x509: X509Cache,
    svids: watch::Receiver<u64>,
    /// The same of runs.
    of_runs: X509Cache,
    run_svids: watch::Receiver<u64>,
    own: watch::Receiver<Option<Arc<OwnSvid>>>,
    status: Arc<Status>,
    clock: Clock,
    written: Option<Written>,
}

/// What was sealed last, and for which agent.
#[derive(Debug)]
struct Written {
    agent: String,
    snapshot: Snapshot,
}

impl Keeper {
    /// Seals changes from this moment on.
    pub fn new(
        seal: Seal,
        knowledge: KnowledgeBase,
        (x509, of_runs): (X509Cache, X509Cache),
        own: watch::Receiver<Option<Arc<OwnSvid>>>,
        status: Arc<Status>,
        clock: Clock,
    ) -> Self {
        Self {
            seal,
            known: knowledge.changes(),
            knowledge,
            svids: x509.changes(),
            x509,
            run_svids: of_runs.changes(),
            of_runs,
            own,
            status,
            clock,
            written: None,
        }
    }

    /// Seals until `stopping`, and then for the last time.
    pub async fn run(mut self, stopping: CancellationToken) {
        let mut backoff = Backoff::new(&self.clock, PAUSE, LONGEST_RETRY);
        let mut failed = false;
        loop {
            let mut stopped = self.change(failed, &stopping).await;
            if !stopped {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = tokio::time::sleep(GATHER) => {}
                }
                // Only a write that begins after it is the last one: another may have missed what came meanwhile.
                stopped = stopping.is_cancelled();
            }
            let begun = Instant::now();
            let pause = match self.write().await {
                Ok(()) => {
                    backoff.reset();
                    failed = false;
                    PAUSE.max(begun.elapsed() * PAUSE_FACTOR)
                }
                Err(()) => {
                    failed = true;
                    backoff.wait()
                }
            };
            if stopped {
                return;
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Waits until something may have changed, or a try is due again; whether the agent stops.
    async fn change(&mut self, failed: bool, stopping: &CancellationToken) -> bool {
        if failed {
            return stopping.is_cancelled();
        }
        tokio::select! {
            () = stopping.cancelled() => true,
            changed = self.known.changed() => changed.is_err(),
            changed = self.svids.changed() => changed.is_err(),
            changed = self.run_svids.changed() => changed.is_err(),
            changed = self.own.changed() => changed.is_err(),
        }
    }

    async fn write(&mut self) -> Result<(), ()> {
        self.known.mark_unchanged();
        self.svids.mark_unchanged();
        self.run_svids.mark_unchanged();
        let own = self.own.borrow_and_update().clone();
        let known = self.knowledge.get();
        // Before the agent has joined and heard the server there is nothing to seal.
        let (Some(own), true) = (own, known.complete) else {
            return Ok(());
        };
        let agent = own.spiffe_id.to_string();
        let snapshot = Snapshot {
            known,
            svids: self.x509.snapshot(),
            run_svids: self.of_runs.snapshot(),
            heard_at: self.status.sync().last_heard,
        };
        let before = self.written.take().filter(|written| written.agent == agent);
        let now = self.clock.now();
        let before = before.map(|written| written.snapshot);
        let sealed = self
            .seal
            .write(agent.clone(), snapshot.clone(), before.clone(), now);
        match sealed.await {
            Ok(()) => {
                if self.status.sealed(now) {
                    tracing::info!("the agent's state is sealed again");
                }
                self.written = Some(Written { agent, snapshot });
                Ok(())
            }
            Err(error) => {
                let text = error.to_string();
                if self.status.unsealed(&text) {
                    tracing::error!(
                        error = text,
                        "the agent's state could not be sealed: after a restart without the server it would serve what was sealed before"
                    );
                }
                self.written = before.map(|snapshot| Written { agent, snapshot });
                Err(())
            }
        }
    }
}
