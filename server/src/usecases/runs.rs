//! The life of runs: admitted for a node, started, ended, forgotten.
//!
//! Each live run has one of its class's numbered places, taken in the commit of its admission and freed in that of its
//! end: so that never more live than the class allows, however many ask at once.

mod admission;
mod leases;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_identity::run::RunError;
use vouchsafe_identity::{RunId, SpiffeId, TrustDomain};
use vouchsafe_store::run::{EndReason, Ended, Started};
use vouchsafe_store::{
    ChangeKind, Commit, CommitError, Expect, Key, Record, Revocation, Run, SharedStore, StoreError, Versioned,
};

use super::Origin;
use crate::index::{Index, LiveRun, RunFilter};

pub use admission::{Admission, Admitted, Launcher, Refusal};
pub use leases::{LeasedStart, Leases};

/// Most runs that an agent may report at once.
pub const MAX_REPORTED: usize = 10_000;
/// How often a change is tried anew when others change the same run meanwhile.
const MAX_ATTEMPTS: usize = 16;
/// How long a run may stay admitted without being started.
const START_WITHIN: Duration = Duration::from_secs(300);
/// Runs ended or forgotten in one commit.
const BATCH: usize = 500;
/// An SVID that was being signed when its run ended is dated a moment later.
const SIGNING_TIME: Duration = Duration::from_secs(60);

/// Why something was not done about a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunsError {
    /// The class does not let this run be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A name or an id is malformed.
    #[error(transparent)]
    Malformed(#[from] RunError),
    /// There is none, or it is not the caller's; which of both an agent is not told.
    #[error("run `{0}` not found")]
    NotFound(RunId),
    /// It has ended.
    #[error("run `{id}` has ended: {how}")]
    Ended {
        /// Which.
        id: RunId,
        /// How.
        how: String,
    },
    /// More runs are reported than the limit.
    #[error("{0} runs are more than the limit of {MAX_REPORTED} in one report")]
    TooMany(usize),
    /// It was not leased to the node, or is no longer.
    #[error("run `{0}` is not leased: only a leased run may be launched while the server is away")]
    NotLeased(RunId),
    /// It is leased, so that nobody knows who launched it.
    #[error("run `{0}` is leased: say who launched it, and for what")]
    Leased(RunId),
    /// No key signs leases.
    #[error("no lease can be signed")]
    Ca(#[from] vouchsafe_ca::CaError),
    /// Others kept changing it.
    #[error("run `{0}` is being changed by others: try again")]
    Busy(RunId),
    /// Others kept taking the places of the class.
    #[error("many runs of class `{0}` are being launched: try again")]
    Crowded(vouchsafe_identity::ClassName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How long SVIDs live of which the class says nothing, and how long ended runs are kept.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Of X.509-SVIDs.
    pub x509_svid_ttl: Duration,
    /// Of JWT-SVIDs.
    pub jwt_svid_ttl: Duration,
    /// Of ended runs.
    pub keep_ended_runs: Duration,
}

/// Admits runs, and writes what becomes of them.
#[derive(Clone)]
pub struct Runs {
    trust_domain: TrustDomain,
    store: SharedStore,
    index: Arc<Index>,
    times: Times,
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runs({})", self.trust_domain)
    }
}

impl Runs {
    /// The runs of a trust domain.
    pub fn new(trust_domain: TrustDomain, store: SharedStore, index: Arc<Index>, times: Times) -> Self {
        Self {
            trust_domain,
            store,
            index,
            times,
        }
    }

    /// Notes that a run of this node has been started; to be told so again changes nothing.
    ///
    /// # Errors
    /// [`RunsError`] when it does not live.
    pub async fn start(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        id: RunId,
        pid: u32,
    ) -> Result<Run, RunsError> {
        for _ in 0..MAX_ATTEMPTS {
            let Versioned { value: run, revision } = self.of_node(node, id).await?;
            if let Some(ended) = &run.ended {
                return Err(has_ended(id, ended));
            }
            if run.started.is_some() {
                return Ok(run);
            }
            if run.lease.is_some() {
                return Err(RunsError::Leased(id));
            }
            let started = Started {
                at: whole(origin.at),
                pid,
            };
            let run = Run {
                started: Some(started),
                ..run
            };
            let commit = Commit::default()
                .expect(Expect::At(Key::Run(id), revision))
                .audit(origin.change("run.start", facts(&run)))
                .put(Record::Run(run.clone()))
                .change(ChangeKind::Run(id));
            if self.written(commit).await? {
                return Ok(run);
            }
        }
        Err(RunsError::Busy(id))
    }

    /// Ends a run of this node; one that has ended stays as it ended.
    ///
    /// # Errors
    /// [`RunsError`] when there is none.
    pub async fn end(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        id: RunId,
        reason: EndReason,
    ) -> Result<(), RunsError> {
        self.of_node(node, id).await?;
        self.finish(origin, id, reason).await.map(|_run| ())
    }

    /// Kills a run, for an operator; one that has ended stays as it ended.
    ///
    /// # Errors
    /// [`RunsError`] when there is none.
    pub async fn kill(&self, origin: &Origin, id: RunId) -> Result<Run, RunsError> {
        let by = EndReason::Killed(origin.principal.to_string());
        self.finish(origin, id, by).await
    }

    /// Ends those live runs of a node that its agent does not name; tells which of those that it names do not live.
    ///
    /// # Errors
    /// [`RunsError`] when there are too many, or the store failed.
    pub async fn report(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        named: Vec<RunId>,
        all: bool,
    ) -> Result<Vec<RunId>, RunsError> {
        if named.len() > MAX_REPORTED {
            return Err(RunsError::TooMany(named.len()));
        }
        let live = self.live_of(node);
        let named: HashSet<RunId> = named.into_iter().collect();
        // Of what is only leased it is not known whether it was launched.
        let admitted = live.iter().filter(|live| live.run.lease.is_none());
        let lost = admitted.map(|live| live.run.id).filter(|id| !named.contains(id));
        for lost in lost.filter(|_| all) {
            self.finish(origin, lost, EndReason::Lost).await?;
        }
        let live: HashSet<RunId> = live.iter().map(|live| live.run.id).collect();
        let mut gone: Vec<RunId> = named.difference(&live).copied().collect();
        gone.sort_unstable();
        Ok(gone)
    }

    /// The run, wherever it stands.
    ///
    /// # Errors
    /// [`RunsError`] when there is none.
    pub async fn get(&self, id: RunId) -> Result<Run, RunsError> {
        let found = self.store.run(&id).await?;
        found.map(|row| row.value).ok_or(RunsError::NotFound(id))
    }

    /// Runs in any state after an id: those of at most `limit` that the filter picks, and from where to go on.
    ///
    /// # Errors
    /// [`RunsError`] when the store failed.
    pub async fn stored(
        &self,
        filter: &RunFilter,
        after: Option<RunId>,
        limit: usize,
    ) -> Result<(Vec<Run>, Option<RunId>), RunsError> {
        let rows = self.store.runs(after.as_ref(), limit).await?;
        let next = rows
            .last()
            .filter(|_| rows.len() == limit)
            .map(|row| row.value.id);
        let runs = rows.into_iter().map(|row| row.value);
        Ok((runs.filter(|run| filter.picks(run)).collect(), next))
    }

    /// Ends what has lived too long, was never started, or has lost its node; forgets what ended long ago.
    ///
    /// # Errors
    /// [`StoreError`]; the next round takes the rest.
    pub async fn tidy(&self, origin: &Origin) -> Result<(), RunsError> {
        let all = self.index.runs(&RunFilter::default(), None, usize::MAX).rows;
        for live in all {
            if let Some(reason) = self.over(&live.run, origin.at) {
                match self.finish(origin, live.run.id, reason).await {
                    // Somebody else was quicker, or goes on changing it: the next round sees.
                    Ok(_) | Err(RunsError::NotFound(_) | RunsError::Busy(_)) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        self.index.forget_ended_runs(origin.at);
        self.forget_revocations(origin.at).await?;
        self.forget(origin).await
    }

    /// Forgets the revocations of SVIDs that have all ended by themselves.
    async fn forget_revocations(&self, now: OffsetDateTime) -> Result<(), RunsError> {
        for past in self.index.past_revocations(now).chunks(BATCH) {
            let forget = |commit: Commit, id: &RunId| {
                commit
                    .delete(Key::Revocation(*id))
                    .change(ChangeKind::Revocation(*id))
            };
            let commit = past.iter().fold(Commit::default(), forget);
            self.written(commit).await?;
        }
        Ok(())
    }

    /// Why a run that lives should not.
    fn over(&self, run: &Run, now: OffsetDateTime) -> Option<EndReason> {
        if run.lease.is_some() {
            let class = self.index.class(&run.class);
            let holds = class.is_some_and(|class| class.value.leases(run));
            if !holds || run.expires_at <= now {
                return Some(EndReason::NeverStarted);
            }
        } else if run.expires_at <= now {
            return Some(EndReason::Expired);
        }
        if run.started.is_none() && run.lease.is_none() && run.admitted_at + START_WITHIN <= now {
            return Some(EndReason::NeverStarted);
        }
        let node = self.index.node(&run.node);
        node.is_none_or(|node| node.value.banned)
            .then_some(EndReason::Lost)
    }

    /// Forgets runs that ended long ago. Ids are in the order of admission, and no run ends before that.
    async fn forget(&self, origin: &Origin) -> Result<(), RunsError> {
        let before = origin.at - self.times.keep_ended_runs;
        let mut after = None;
        loop {
            let page = self.store.runs(after.as_ref(), BATCH).await?;
            let Some(last) = page.last() else { return Ok(()) };
            let is_last = last.value.admitted_at > before;
            after = Some(last.value.id);
            let long_ago = |run: &Run| run.ended.as_ref().is_some_and(|ended| ended.at <= before);
            let ended: Vec<_> = page.iter().filter(|row| long_ago(&row.value)).collect();
            if !ended.is_empty() {
                let count = ended.len().to_string();
                let mut commit = Commit::default().audit(origin.change("run.prune", [("count", count)]));
                for row in ended {
                    let key = Key::Run(row.value.id);
                    commit = commit
                        .expect(Expect::At(key.clone(), row.revision))
                        .delete(key)
                        .change(ChangeKind::Run(row.value.id));
                }
                self.written(commit).await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn finish(&self, origin: &Origin, id: RunId, reason: EndReason) -> Result<Run, RunsError> {
        for _ in 0..MAX_ATTEMPTS {
            let found = self.store.run(&id).await?;
            let Versioned { value: run, revision } = found.ok_or(RunsError::NotFound(id))?;
            if run.ended.is_some() {
                return Ok(run);
            }
            let live = self.index.run(&id);
            let row = (run, revision, live.as_deref());
            let (commit, run) = self.close(Commit::default(), origin, row, reason.clone());
            if self.written(commit).await? {
                return Ok(run);
            }
        }
        Err(RunsError::Busy(id))
    }

    /// Adds the end of a live run to a commit.
    pub(super) fn ending(
        &self,
        commit: Commit,
        origin: &Origin,
        live: &LiveRun,
        reason: EndReason,
    ) -> Commit {
        let row = (live.run.clone(), live.revision, Some(live));
        self.close(commit, origin, row, reason).0
    }

    /// The end of a run, which frees its place and revokes its SVIDs.
    fn close(
        &self,
        commit: Commit,
        origin: &Origin,
        (run, revision, live): (Run, vouchsafe_store::Revision, Option<&LiveRun>),
        reason: EndReason,
    ) -> (Commit, Run) {
        let at = whole(origin.at).max(run.admitted_at);
        let longest = or_default(run.svids.x509_ttl_seconds, self.times.x509_svid_ttl)
            .max(or_default(run.svids.jwt_ttl_seconds, self.times.jwt_svid_ttl));
        let ended = Ended {
            at,
            reason,
            svids_end_at: (at + longest + SIGNING_TIME).min(run.expires_at.max(at)),
            svids_issued: live.map_or(0, |live| live.uses().0),
        };
        let revocation = revocation(&run, &ended, live);
        let run = Run {
            ended: Some(ended),
            ..run
        };
        let mut commit = commit
            .expect(Expect::At(Key::Run(run.id), revision))
            .delete(Key::RunPlace(run.class.clone(), run.place))
            .put(Record::Run(run.clone()))
            .change(ChangeKind::Run(run.id))
            .audit(origin.change("run.end", end_facts(&run)));
        if let Some(revocation) = revocation {
            commit = commit
                .put(Record::Revocation(revocation))
                .change(ChangeKind::Revocation(run.id));
        }
        (commit, run)
    }

    /// A run of this node, wherever it stands.
    async fn of_node(&self, node: &SpiffeId, id: RunId) -> Result<Versioned<Run>, RunsError> {
        let found = self.store.run(&id).await?;
        let own = found.filter(|row| row.value.node == *node);
        own.ok_or(RunsError::NotFound(id))
    }

    fn live_of(&self, node: &SpiffeId) -> Vec<Arc<LiveRun>> {
        let filter = RunFilter {
            node: Some(node.clone()),
            ..RunFilter::default()
        };
        self.index.runs(&filter, None, usize::MAX).rows
    }

    /// Commits; false when something was not as expected.
    async fn written(&self, commit: Commit) -> Result<bool, RunsError> {
        match self.store.commit(commit).await {
            Ok(revision) => {
                self.index.wait_for(revision).await;
                Ok(true)
            }
            Err(CommitError::Store(e)) => Err(e.into()),
            Err(_) => Ok(false),
        }
    }

    /// Waits until the index shows what the store has.
    pub(super) async fn caught_up(&self) {
        let latest = *self.store.revisions().borrow();
        self.index.wait_for(latest).await;
    }
}

/// What of a run that ends is revoked; nothing where none of its SVIDs can be valid any more.
fn revocation(run: &Run, ended: &Ended, live: Option<&LiveRun>) -> Option<Revocation> {
    let numbers = live.map(LiveRun::numbers).unwrap_or_default();
    (ended.svids_end_at > ended.at).then(|| Revocation {
        run: run.id,
        class_id: run.class_id.clone(),
        at: ended.at,
        until: ended.svids_end_at,
        x509_serials: numbers.x509.into(),
        jwt_ids: numbers.jwt.into(),
    })
}

/// That a run has ended.
pub(super) fn has_ended(id: RunId, ended: &Ended) -> RunsError {
    RunsError::Ended {
        id,
        how: ended.reason.text(),
    }
}

/// Stored times have whole seconds.
fn whole(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

fn or_default(seconds: u32, default: Duration) -> Duration {
    match seconds {
        0 => default,
        seconds => Duration::from_secs(seconds.into()),
    }
}

/// What records say of a run.
fn facts(run: &Run) -> [(&'static str, String); 9] {
    [
        ("run", run.id.to_string()),
        ("class", run.class.to_string()),
        ("class_id", run.class_id.to_string()),
        ("class_version", run.class_version.to_string()),
        ("node", run.node.to_string()),
        ("launcher", run.launcher.clone()),
        (
            "task",
            run.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        ),
        ("uid", run.uid.to_string()),
        ("isolation", run.isolation.name().to_owned()),
    ]
}

fn end_facts(run: &Run) -> [(&'static str, String); 12] {
    let [a, b, c, d, e, f, g, h, i] = facts(run);
    let ended = run.ended.as_ref();
    let from = run.started.map_or(run.admitted_at, |started| started.at);
    let seconds = ended.map_or(0, |ended| (ended.at - from).whole_seconds().max(0));
    let svids = ended.map_or(0, |ended| ended.svids_issued);
    [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        i,
        ("end", ended.map(|ended| ended.reason.text()).unwrap_or_default()),
        ("duration_seconds", seconds.to_string()),
        ("svids_issued", svids.to_string()),
    ]
}

#[cfg(test)]
mod tests;
