//! Follows each run to its end, ends those whose time has come, and finds those again that an earlier life of the agent
//! started.

mod again;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use vouchsafe_identity::RunId;
use vouchsafe_launch::{LaunchError, Launched, Outcome};
use vouchsafe_proto::vouchsafe::run::v1::LeasedStart;
use vouchsafe_runtime::{Clock, TaskGroup};

use super::launching::Launching;
use super::output::KEPT_BYTES;
use super::run::{Cause, Launcher};
use super::users::Place;
use super::{Run, admission};
use crate::knowledge::{Knowledge, KnowledgeBase};
use crate::random::Backoff;
use crate::upstream::UpstreamError;
use crate::workload::PATIENCE;
pub use again::Found;

/// How long a run that must end has to end by itself.
pub const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether what a run left behind has gone, and whether what it says grows too long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How soon, where a run says much.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// First and longest wait before the server is told again.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(500);
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How often the server is asked whether runs still live for it of which it does not say so by itself.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How many runs the server is asked of at once.
const MAX_ASKED: usize = 10_000;
/// Ended runs whose ends are remembered for those who ask.
const REMEMBERED: usize = 1024;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// The run.
    pub run: RunId,
    /// Who launched it.
    pub launcher: Launcher,
    /// How its main process ended.
    pub outcome: Outcome,
    /// Why it was ended.
    pub cause: Cause,
}

/// The last runs that ended. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ends(Arc<Mutex<VecDeque<Over>>>, watch::Sender<u64>);

impl Default for Ends {
    fn default() -> Self {
        Self(Arc::default(), watch::Sender::new(0))
    }
}

impl Ends {
    fn note(&self, over: Over) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() >= REMEMBERED {
            ends.pop_front();
        }
        ends.push_back(over);
        drop(ends);
        self.1.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// How a run ended, if it has not been too long ago.
    pub fn of(&self, run: RunId) -> Option<Over> {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().rev().find(|over| over.run == run).cloned()
    }

    /// Waits until a run has ended.
    pub async fn wait(&self, run: RunId) -> Over {
        let mut changes = self.1.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(over) = self.of(run) {
                return over;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Whether the server has heard which runs live here: until then it counts others in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reported(watch::Sender<bool>);

impl Default for Reported {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Reported {
    /// Waits for it, however long.
    pub(super) async fn heard(&self) {
        let mut reported = self.0.subscribe();
        let _never_closed = reported.wait_for(|reported| *reported).await;
    }

    /// Waits for it, not for too long.
    ///
    /// # Errors
    /// `Unavailable` when the server has not been heard.
    pub async fn wait(&self) -> Result<(), UpstreamError> {
        let mut reported = self.0.subscribe();
        let waited = tokio::time::timeout(PATIENCE, reported.wait_for(|reported| *reported)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(UpstreamError::Unavailable(
                "it has not heard yet which runs live on this node".to_owned(),
            )),
        }
    }
}

/// Keeps runs.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// What runs are started with.
    pub launching: Launching,
    /// The last ends.
    pub ends: Ends,
    /// Which runs the server has.
    pub knowledge: KnowledgeBase,
    /// Tells the time.
    pub clock: Clock,
    /// Runs are followed in tasks of it.
    pub group: TaskGroup,
}

/// A run that is followed.
#[derive(Debug)]
pub struct Kept {
    /// The run.
    pub run: Arc<Run>,
    /// Its processes.
    pub launched: Launched,
    /// Its uid of a pool.
    pub place: Option<Place>,
    /// Whether the agent keeps what it says.
    pub output: bool,
    /// How it was launched by a lease, if the server has not heard of it.
    pub unheard: Option<LeasedStart>,
}

impl Keeper {
    /// Follows a run to its end, unless the agent stops before: it lives on then, and the next life of the agent finds it.
    /// One whose launcher waits for it is ended when `abandoned` resolves.
    pub fn keep(&self, kept: Kept, abandoned: impl Future<Output = ()> + Send + 'static) {
        // It may have been told before the run was here.
        self.heed_of(&self.knowledge.get(), &kept.run);
        if let Some(told) = kept.unheard.clone() {
            let (keeper, run) = (self.clone(), Arc::clone(&kept.run));
            self.group.passing("run of a lease", async move {
                keeper.tell_launched(&run, told).await;
            });
        }
        let keeper = self.clone();
        self.group.passing("run", async move {
            keeper.follow(kept, abandoned).await;
        });
    }

    async fn follow(self, mut kept: Kept, abandoned: impl Future<Output = ()> + Send) {
        let run = Arc::clone(&kept.run);
        let ended = tokio::select! {
            ended = kept.launched.ended() => Ok(ended),
            cause = self.cause(&run, kept.output, abandoned) => Err(cause),
        };
        let (outcome, cause) = match ended {
            Ok(outcome) => (outcome, Cause::Over),
            Err(cause) => {
                tracing::info!(run_id = %run.id, class = %run.class, reason = %cause, "a run is ended");
                self.launching.runs.end(&run, cause.clone());
                (finish(&mut kept.launched, &cause).await, cause)
            }
        };
        let outcome = outcome.unwrap_or_else(|error| {
            tracing::warn!(run_id = %run.id, %error, "how a run ended cannot be told");
            Outcome::Lost
        });
        self.launching.runs.end(&run, cause.clone());
        tracing::info!(run_id = %run.id, class = %run.class, outcome = ?outcome, "a run has ended");
        self.ends.note(Over {
            run: run.id,
            launcher: run.launcher.clone(),
            outcome,
            cause,
        });
        if kept.output {
            let (outputs, id) = (self.launching.outputs.clone(), run.id);
            let _trimmed = tokio::task::spawn_blocking(move || outputs.trim(id)).await;
        }
        // It has to begin for the server before it can end.
        run.known_to_server().await;
        self.tell(run.id, outcome).await;
        self.forget(run.id).await;
        self.launching.runs.forget(&run);
        drop(kept.place);
    }

    /// Waits for what ends a run before it ends by itself.
    async fn cause(&self, run: &Arc<Run>, output: bool, abandoned: impl Future<Output = ()>) -> Cause {
        let expired = async {
            while self.clock.now() < run.expires_at() {
                self.clock
                    .sleep_until_or_back(self.clock.now(), run.expires_at())
                    .await;
            }
        };
        let trims = async {
            if !output {
                std::future::pending::<()>().await;
            }
            let (mut pause, mut before) = (LOOK_SOON, 0);
            loop {
                self.clock.sleep(pause).await;
                let (outputs, id) = (self.launching.outputs.clone(), run.id);
                let said = tokio::task::spawn_blocking(move || outputs.trim(id)).await;
                let said = said.unwrap_or_default();
                pause = match said.saturating_sub(before) {
                    // It may fill a disk within seconds.
                    much if much > KEPT_BYTES / 8 => LOOK_SOON,
                    _ => LOOK_AGAIN.min(pause * 2),
                };
                before = said;
            }
        };
        tokio::select! {
            () = expired => Cause::Expired,
            () = abandoned => Cause::Abandoned,
            _ended = run.ended() => run.cause().unwrap_or(Cause::Over),
            never = trims => never,
        }
    }

    /// Tells the server, until it knows.
    async fn tell(&self, run: RunId, outcome: Outcome) {
        let admission = &self.launching.admission;
        tell(admission.as_ref(), run, Some(outcome), &self.clock).await;
    }

    /// Forgets a run on disk once none of its processes is left: until then they are known to be its own.
    async fn forget(&self, run: RunId) {
        let name = run.to_string();
        while self.is_populated(name.clone()).await {
            self.clock.sleep(LOOK_AGAIN).await;
        }
        if let Err(error) = self.launching.starter.forget(&name) {
            tracing::warn!(run_id = name, %error, "what is left of a run cannot be removed");
        }
        self.launching.records.remove(run);
    }

    async fn is_populated(&self, name: String) -> bool {
        let starter = Arc::clone(&self.launching.starter);
        let look = move || starter.is_populated(&name);
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }

    /// Tells the server which runs live here, and goes on to ask it whether they still live for it.
    async fn report(&self) {
        let mut backoff = Backoff::new(&self.clock, FIRST_RETRY, LONGEST_RETRY);
        let mut all = true;
        loop {
            // Of those that the server says live, it says when they end.
            let known = self.knowledge.get();
            let all_runs = self.launching.runs.all();
            let living = all_runs.iter().map(|run| run.id);
            let living: Vec<RunId> = living
                .filter(|run| all || !known.runs.contains_key(run))
                .collect();
            let pause = match self.ask(&living, all).await {
                Ok(()) => {
                    backoff.reset();
                    self.launching.reported.0.send_replace(true);
                    all = false;
                    ASK_AGAIN
                }
                Err(error) => {
                    tracing::debug!(%error, "the server does not hear which runs live here");
                    backoff.wait_at_least(error.retry_after())
                }
            };
            self.clock.sleep(pause).await;
        }
    }

    /// Ends the runs that live no longer for the server.
    async fn ask(&self, living: &[RunId], all: bool) -> Result<(), UpstreamError> {
        let asked = if all {
            living
        } else {
            living.get(..MAX_ASKED).unwrap_or(living)
        };
        if asked.is_empty() && !all {
            return Ok(());
        }
        let gone = self.launching.admission.report(asked, all).await?;
        for run in gone.into_iter().filter_map(|run| self.launching.runs.get(run)) {
            self.launching.runs.end(&run, Cause::Revoked("".into()));
        }
        Ok(())
    }

    /// Ends the runs that the server says have ended, as soon as it says so.
    pub async fn heed(self) {
        let mut changes = self.knowledge.changes();
        loop {
            let known = Arc::clone(&changes.borrow_and_update());
            self.launching.runs.lease(&known);
            for run in self.launching.runs.all() {
                self.heed_of(&known, &run);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn heed_of(&self, known: &Knowledge, run: &Run) {
        if let Some(how) = known.ended_runs.get(&run.id) {
            self.launching.runs.end(run, Cause::Revoked(Arc::clone(how)));
        }
    }
}

/// Ends the processes of a run: at once if it was revoked, else with time to end by themselves.
async fn finish(launched: &mut Launched, cause: &Cause) -> Result<Outcome, LaunchError> {
    if !matches!(cause, Cause::Revoked(_)) && launched.signal(Signal::SIGTERM).is_ok() {
        let ended = tokio::time::timeout(GRACE, launched.ended()).await;
        if let Ok(ended) = ended {
            return ended;
        }
    }
    launched.kill()?;
    launched.ended().await
}

/// Tells the server how a run ended, until it knows or will not hear it.
pub(super) async fn tell(
    admission: &dyn admission::Admission,
    run: RunId,
    outcome: Option<Outcome>,
    clock: &Clock,
) {
    let mut backoff = Backoff::new(clock, FIRST_RETRY, LONGEST_RETRY);
    loop {
        match admission.ended(run, outcome).await {
            Ok(()) => return,
            Err(error) if error.is_temporary() => {
                tracing::debug!(run_id = %run, %error, "the server has not heard yet that a run is over");
                clock.sleep(backoff.wait_at_least(error.retry_after())).await;
            }
            // It ended for the server before.
            Err(error) => {
                tracing::debug!(run_id = %run, %error, "the server takes no end of this run");
                return;
            }
        }
    }
}
