//! Launch leases: runs that a node may launch while the server is away. Each has its id and its place from the beginning, so
//! that no more live than the class allows however many nodes are cut off; launcher, task and user are heard of afterwards,
//! and the run is killed if the class would not have let it be.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_ca::CaManager;
use vouchsafe_identity::jwt::LaunchLease;
use vouchsafe_identity::{ClassName, RunId, SpiffeId};
use vouchsafe_store::class::Offline;
use vouchsafe_store::run::{EndReason, Lease, Started};
use vouchsafe_store::{ChangeKind, Class, Commit, CommitError, Expect, Key, Record, Run, Versioned};

use super::admission::{in_force, longest_life, new_run, spiffe_id};
use super::{Admission, MAX_ATTEMPTS, Refusal, Runs, RunsError, facts, has_ended, whole};
use crate::index::LiveRun;
use crate::usecases::Origin;

/// Gives leases, and hears what was launched by them.
#[derive(Debug, Clone)]
pub struct Leases {
    runs: Runs,
    ca: Arc<CaManager>,
}

/// What a node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    /// How many leases.
    pub held: usize,
    /// When they end.
    pub expires_at: Option<OffsetDateTime>,
}

/// How a run was launched by a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedStart {
    /// As it would have been asked.
    pub admission: Admission,
    /// When.
    pub at: OffsetDateTime,
}

impl Leases {
    /// Leases of these runs, signed by the CA's JWT key.
    pub fn new(runs: Runs, ca: Arc<CaManager>) -> Self {
        Self { runs, ca }
    }

    /// Renews the leases of a class that a node holds, and fills them up; those that are too many end.
    ///
    /// # Errors
    /// [`RunsError`] when the class takes no runs on that node.
    pub async fn renew(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        name: &ClassName,
        version: u64,
    ) -> Result<Leased, RunsError> {
        let class = self.runs.index.class(name);
        let class = class.ok_or_else(|| Refusal::UnknownClass(name.clone()))?;
        self.runs.takes_runs(origin, node, &class.value, version)?;
        let Offline { runs, for_seconds } = class.value.spec.offline.unwrap_or(Offline {
            runs: 0,
            for_seconds: 0,
        });
        let wanted = usize::try_from(runs).unwrap_or(usize::MAX);
        let until = whole(origin.at) + Duration::from_secs(for_seconds.into());
        let mut leased = Leased {
            held: 0,
            expires_at: None,
        };
        let held = self.runs.live_of(node).into_iter();
        let held = held.filter(|live| live.run.lease.is_some() && live.run.class == *name);
        for live in held {
            if leased.held < wanted && class.value.leases(&live.run) {
                if let Some(expires_at) = self.extend(origin, &live, until).await? {
                    leased.held += 1;
                    leased.expires_at = Some(expires_at);
                }
            } else {
                self.runs
                    .finish(origin, live.run.id, EndReason::NeverStarted)
                    .await?;
            }
        }
        while leased.held < wanted {
            match self.grant(origin, node, &class, until).await {
                Ok(expires_at) => {
                    leased.held += 1;
                    leased.expires_at = Some(expires_at);
                }
                // The class has no place left: the node holds as many as there are.
                Err(RunsError::Refused(Refusal::MaxRuns { .. })) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(leased)
    }

    /// One more lease; until when.
    async fn grant(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        class: &Versioned<Class>,
        until: OffsetDateTime,
    ) -> Result<OffsetDateTime, RunsError> {
        for _ in 0..MAX_ATTEMPTS {
            let run = self.runs.nobodys(origin, node, &class.value)?;
            let run = self.signed(origin, run, until)?;
            let commit = new_run(class, &run).audit(origin.change("run.lease", facts(&run)));
            match self.runs.store.commit(commit).await {
                Ok(revision) => {
                    self.runs.index.wait_for(revision).await;
                    return Ok(run.expires_at);
                }
                Err(CommitError::Store(e)) => return Err(e.into()),
                Err(CommitError::Conflict(Key::Class(name))) => return Err(RunsError::Crowded(name)),
                Err(_) => self.runs.caught_up().await,
            }
        }
        Err(RunsError::Crowded(class.value.name.clone()))
    }

    /// Has a lease hold for longer; until when, or nothing when it was launched or ended meanwhile.
    async fn extend(
        &self,
        origin: &Origin,
        live: &LiveRun,
        until: OffsetDateTime,
    ) -> Result<Option<OffsetDateTime>, RunsError> {
        let run = self.signed(origin, live.run.clone(), until)?;
        let expires_at = run.expires_at;
        let commit = Commit::default()
            .expect(Expect::At(Key::Run(run.id), live.revision))
            .change(ChangeKind::Run(run.id))
            .put(Record::Run(run));
        let written = self.runs.written(commit).await?;
        Ok(written.then_some(expires_at))
    }

    fn signed(&self, origin: &Origin, run: Run, until: OffsetDateTime) -> Result<Run, RunsError> {
        let lease = LaunchLease {
            run: spiffe_id(&run)?,
            node: run.node.clone(),
            class: run.class.clone(),
            class_version: run.class_version,
            issued_at: whole(origin.at),
            expires_at: until,
        };
        let (token, lease) = self.ca.issue_lease(lease)?;
        Ok(Run {
            lease: Some(Lease { token }),
            expires_at: lease.expires_at,
            ..run
        })
    }

    /// Hears that a leased run was launched while the server was away: it is admitted now as it would have been then, or it
    /// is killed. To be told so again changes nothing.
    ///
    /// # Errors
    /// [`RunsError::Refused`] says why it was killed; [`RunsError::NotLeased`] when it is none of this node's leases.
    pub async fn launched(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        (id, pid): (RunId, u32),
        told: &LeasedStart,
    ) -> Result<Run, RunsError> {
        for _ in 0..MAX_ATTEMPTS {
            let Versioned { value: run, revision } = self.runs.of_node(node, id).await?;
            if let Some(ended) = &run.ended {
                return Err(has_ended(id, ended));
            }
            if run.started.is_some() {
                return Ok(run);
            }
            if run.lease.is_none() || told.admission.class != run.class {
                return Err(RunsError::NotLeased(id));
            }
            let (class, launcher) = match self.admissible(origin, node, &told.admission) {
                Ok(admissible) => admissible,
                Err(refusal) => {
                    let by = EndReason::Killed(format!("its class: {refusal}"));
                    self.runs.finish(origin, id, by).await?;
                    return Err(refusal.into());
                }
            };
            let at = whole(told.at).clamp(run.admitted_at, whole(origin.at).max(run.admitted_at));
            let run = started(run, &class.value, (at, pid), told, launcher);
            let commit = Commit::default()
                .expect(Expect::At(Key::Class(class.value.name.clone()), class.revision))
                .expect(Expect::At(Key::Run(id), revision))
                .audit(origin.change("run.start_by_lease", facts(&run)))
                .put(Record::Run(run.clone()))
                .change(ChangeKind::Run(id));
            if self.runs.written(commit).await? {
                return Ok(run);
            }
            self.runs.caught_up().await;
        }
        Err(RunsError::Busy(id))
    }

    fn admissible(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        asked: &Admission,
    ) -> Result<(Arc<Versioned<Class>>, String), Refusal> {
        let class = self.runs.index.class(&asked.class);
        let class = class.ok_or_else(|| Refusal::UnknownClass(asked.class.clone()))?;
        let launcher = self.runs.may_launch(origin, node, &class.value, asked)?;
        Ok((class, launcher))
    }
}

/// The run, as it is since it was launched.
fn started(
    run: Run,
    class: &Class,
    (at, pid): (OffsetDateTime, u32),
    told: &LeasedStart,
    launcher: String,
) -> Run {
    let asked = &told.admission;
    Run {
        launcher,
        parent: asked.parent,
        task: asked.task.clone(),
        labels: asked.labels.clone(),
        uid: asked.uid,
        isolation: in_force(class, asked),
        measured_sha256: asked.measured_sha256.clone(),
        selectors: asked.selectors.clone(),
        expires_at: at + longest_life(class),
        lease: None,
        started: Some(Started { at, pid }),
        ..run
    }
}
