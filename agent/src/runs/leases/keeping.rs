//! Has leases given and renewed while the server is there, and tells it afterwards what was launched by them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_identity::{ClassName, RunId};
use vouchsafe_proto::vouchsafe::run::v1::{Class, LeasedStart};

use crate::random::Backoff;
use crate::runs::keeper::{FIRST_RETRY, Keeper, LONGEST_RETRY};
use crate::runs::{Cause, Run};
use crate::upstream::UpstreamError;

/// How soon after a lease was used another is asked for.
const REFILL_AFTER: Duration = Duration::from_secs(10);
/// How soon the server is asked again for leases that it did not give.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Leases are renewed when a third of their time is over.
const RENEW_AFTER: i32 = 3;

/// When a class's leases were asked for, and what the server said.
#[derive(Debug, Clone, Copy)]
struct Asked {
    version: u64,
    held: usize,
    at: OffsetDateTime,
    again_at: OffsetDateTime,
}

impl Keeper {
    /// Keeps as many leases as the classes of this node say, once the server has heard which runs live here.
    pub async fn keep_leases(self) {
        self.launching.reported.heard().await;
        let mut changes = self.knowledge.changes();
        let mut asked: BTreeMap<ClassName, Asked> = BTreeMap::new();
        let mut backoff = Backoff::new(&self.clock, FIRST_RETRY, LONGEST_RETRY);
        loop {
            let known = Arc::clone(&changes.borrow_and_update());
            asked.retain(|name, _| known.classes.contains_key(name));
            let mut next = self.clock.now() + ASK_AGAIN;
            for (name, class) in known.classes.iter().filter(|(_, class)| gives_leases(class)) {
                let due = self.due(class, asked.get(name));
                let due = match due <= self.clock.now() {
                    false => due,
                    true => match self.ask_for_leases(class).await {
                        Ok(answer) => {
                            backoff.reset();
                            asked.insert(name.clone(), answer);
                            self.due(class, Some(&answer))
                        }
                        Err(error) => {
                            tracing::debug!(class = class.name, %error, "no launch leases were given");
                            let pause = backoff.wait_at_least(error.retry_after());
                            self.clock.now() + pause.max(FIRST_RETRY)
                        }
                    },
                };
                next = next.min(due);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    /// When the leases of a class are to be asked for.
    fn due(&self, class: &Class, asked: Option<&Asked>) -> OffsetDateTime {
        match asked.filter(|asked| asked.version == class.version) {
            None => self.clock.now(),
            Some(asked) if self.launching.runs.free_leases(class) < asked.held => {
                asked.again_at.min(asked.at + REFILL_AFTER)
            }
            Some(asked) => asked.again_at,
        }
    }

    async fn ask_for_leases(&self, class: &Class) -> Result<Asked, UpstreamError> {
        let answer = self.launching.admission.lease(&class.name, class.version).await?;
        let now = self.clock.now();
        let wanted = class.spec.as_ref().map_or(0, |spec| spec.offline_runs);
        let until = OffsetDateTime::from_unix_timestamp(answer.expires_at).unwrap_or(now);
        let renew_at = now + ((until - now) / RENEW_AFTER).max(time::Duration::ZERO);
        // Fewer than wanted: the class has no room at present.
        let again_at = match answer.held < wanted {
            true => renew_at.min(now + ASK_AGAIN).max(now + REFILL_AFTER),
            false => renew_at.max(now + FIRST_RETRY),
        };
        Ok(Asked {
            version: class.version,
            held: usize::try_from(answer.held).unwrap_or(usize::MAX),
            at: now,
            again_at,
        })
    }

    /// Tells the server that a run was launched by a lease, until it knows: it lives on then, or is ended.
    pub(in crate::runs) async fn tell_launched(&self, run: &Run, told: LeasedStart) {
        let pid = run.main().pid().unwrap_or_default();
        match self.launched_by_lease(run.id, pid, told).await {
            Ok(expires_at) => {
                tracing::info!(run_id = %run.id, "the server has heard of a run that was launched by a lease");
                if let Some(mut record) = self.launching.records.get(run.id) {
                    record.unheard = None;
                    record.expires_at = expires_at;
                    if let Err(error) = self.launching.records.put(&record) {
                        // The next life of the agent tells the server once more.
                        tracing::warn!(run_id = %run.id, %error, "the record of a run cannot be written");
                    }
                }
                run.heard(Some(expires_at));
            }
            Err(error) => {
                tracing::warn!(run_id = %run.id, %error, "the server does not take a run that was launched by a lease");
                let cause = Cause::Revoked(error.to_string().into());
                self.launching.runs.end(run, cause);
                run.heard(None);
            }
        }
    }

    /// The same of a run that may have ended meanwhile; when it ends at the latest.
    ///
    /// # Errors
    /// Why the server does not take it.
    pub(in crate::runs) async fn launched_by_lease(
        &self,
        run: RunId,
        pid: i32,
        told: LeasedStart,
    ) -> Result<i64, UpstreamError> {
        let mut backoff = Backoff::new(&self.clock, FIRST_RETRY, LONGEST_RETRY);
        loop {
            let started = self.launching.admission.started(run, pid, Some(told.clone()));
            match started.await {
                Err(error) if error.is_temporary() => {
                    tracing::debug!(run_id = %run, %error, "the server has not heard yet of a run that was launched by a lease");
                    self.clock.sleep(backoff.wait_at_least(error.retry_after())).await;
                }
                answer => return answer,
            }
        }
    }
}

fn gives_leases(class: &Class) -> bool {
    let spec = class.spec.as_ref();
    spec.is_some_and(|spec| spec.offline_runs > 0 && !spec.disabled)
}
