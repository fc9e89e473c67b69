//! Who calls: the process that made the connection and alone wrote on it, measured, and looked at again before each
//! answer (DESIGN §5.4).
//!
//! What a process is, is taken down when its connection is accepted, before a byte of it is read. A connector that
//! executes another program, or changes its credentials, is another caller: its connection ends, and it connects again
//! as what it then is.

pub mod connection;
pub mod exec;
mod places;
mod presence;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};
use vouchsafe_attestors::{Asked, Evidence, Process, Reach, WorkloadAttestError};
use vouchsafe_identity::SelectorSet;
use vouchsafe_runtime::uds::{Peer, PresenceError, Throttle};
use vouchsafe_sys::{PidFd, ProcessIdentity, SysError};
use vouchsafe_workload_attestors::{AgentNamespaces, Fingerprint, Measurer};

use crate::cache::EntryIndex;
use crate::runs::{NotServed, Runs, Standing};

pub use connection::{CallerStream, Connection};
pub use exec::ExecWatch;
pub use places::{CallPlaces, Place};
pub use presence::PresenceRule;

#[cfg(test)]
mod tests;

/// How long a look at a caller counts as one of this moment. So long may pass between any look and the answer anyhow, on a
/// host that is busy.
const THIS_MOMENT: Duration = Duration::from_millis(1);

/// Why a caller gets no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallerError {
    /// It has ended.
    #[error("the calling process has ended")]
    Gone,
    /// It is not what it was when it connected.
    #[error("the calling process has executed another program or changed its credentials: connect again")]
    Changed,
    /// It could not be measured.
    #[error("workload attestation failed")]
    Unmeasured(#[source] WorkloadAttestError),
    /// It could not be measured when it connected; the text says why.
    #[error("workload attestation failed: {0}")]
    UnmeasuredAtFirst(String),
    /// The kernel did not say what it was asked.
    #[error("the calling process cannot be held")]
    Kernel(#[source] SysError),
    /// Nothing shows that the program that was measured is the one that speaks on the connection.
    #[error(
        "{0}: use a client that does, or have the operator name this user in `attest.presence_exempt_uids` of the \
         agent"
    )]
    Absent(PresenceError),
    /// It belongs to a run, and gets nothing by it.
    #[error("no identity issued")]
    NotServed(#[from] NotServed),
    /// Its user has as many calls open as one may have.
    #[error(
        "this user has reached the limit of {max} open calls (`limits.max_streams_per_uid` of the agent): end some first"
    )]
    TooManyCalls {
        /// The limit.
        max: usize,
    },
}

impl From<WorkloadAttestError> for CallerError {
    fn from(error: WorkloadAttestError) -> Self {
        match error {
            WorkloadAttestError::Gone { .. } => Self::Gone,
            WorkloadAttestError::Changed { .. } | WorkloadAttestError::CredentialsDiffer { .. } => {
                Self::Changed
            }
            other => Self::Unmeasured(other),
        }
    }
}

impl From<SysError> for CallerError {
    fn from(error: SysError) -> Self {
        match error {
            SysError::Gone => Self::Gone,
            other => Self::Kernel(other),
        }
    }
}

impl From<CallerError> for Status {
    fn from(error: CallerError) -> Self {
        let code = match error {
            CallerError::Changed => Code::Aborted,
            CallerError::NotServed(_) => Code::PermissionDenied,
            CallerError::Absent(PresenceError::NoAnswer { .. }) => Code::FailedPrecondition,
            CallerError::TooManyCalls { .. } => Code::ResourceExhausted,
            _ => Code::Unavailable,
        };
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Self::new(code, format!("{error}{}", cause.unwrap_or_default()))
    }
}

/// A caller as it was measured for one call.
#[derive(Debug)]
pub struct Caller {
    /// Its connection.
    pub connection: Arc<Connection>,
    /// What was found.
    pub evidence: Evidence,
    /// The same, for matching.
    pub selectors: SelectorSet,
    /// For what it was measured, beyond what is always looked for.
    pub asked: Asked,
    /// What must not change until it is answered.
    pub fingerprint: Fingerprint,
    /// What it is to the runs of this node.
    pub standing: Standing,
    /// When that was seen last.
    seen: Instant,
    /// Among the open calls of its user.
    place: Arc<Place>,
}

impl Caller {
    /// Whether it was measured for all that these entries ask. A member of a run has the run's identity whatever they ask.
    pub fn is_measured_for(&self, entries: &EntryIndex) -> bool {
        matches!(self.standing, Standing::Of(_)) || self.asked.covers(entries.asked())
    }

    /// Which process it is.
    pub fn process(&self) -> ProcessIdentity {
        self.connection.peer.identity()
    }
}

/// A process of which it is not known yet how much may be measured.
fn unmeasured(pidfd: Arc<PidFd>, uid: u32, gid: u32) -> Result<Process, CallerError> {
    let pid = pidfd.pid()?;
    Ok(Process {
        pidfd,
        pid,
        uid,
        gid,
        reach: Reach::NamespaceOnly {
            reason: "it was not measured yet".to_owned(),
        },
        program: None,
    })
}

/// Measures callers.
#[derive(Debug)]
pub struct Gate {
    measurer: Measurer,
    namespaces: AgentNamespaces,
    presence: PresenceRule,
    places: Arc<CallPlaces>,
    runs: Runs,
    /// Any user of the host can have itself refused as often as it likes.
    refusals: Throttle,
}

impl Gate {
    /// A gate that measures with `measurer`, in an agent that lives in `namespaces`.
    pub fn new(
        measurer: Measurer,
        namespaces: AgentNamespaces,
        presence: PresenceRule,
        places: Arc<CallPlaces>,
        runs: Runs,
    ) -> Self {
        Self {
            measurer,
            namespaces,
            presence,
            places,
            runs,
            refusals: Throttle::new(),
        }
    }

    /// Takes down what a process is, when its connection is accepted.
    pub(crate) async fn first_look(&self, peer: &Arc<Peer>) -> Result<(Process, Fingerprint), CallerError> {
        let pidfd = Arc::new(peer.pidfd().try_clone()?);
        let credentials = peer.credentials();
        let process = unmeasured(pidfd, credentials.uid, credentials.gid)?;
        Ok(self.measurer.first_look(self.namespaces, process).await?)
    }

    /// A process, with how much of it may be measured.
    ///
    /// # Errors
    /// [`CallerError`] when it has ended or the kernel does not answer.
    pub async fn process(&self, pidfd: Arc<PidFd>, uid: u32, gid: u32) -> Result<Process, CallerError> {
        let mut process = unmeasured(pidfd, uid, gid)?;
        process.reach = self.measurer.reach(self.namespaces, &process).await?;
        Ok(process)
    }

    /// Of whom it is demanded that they answer.
    pub fn presence(&self) -> &PresenceRule {
        &self.presence
    }

    /// Has the caller of one call show that it is the one that speaks on the connection, and measures it: a program
    /// that was put in the place of the one that wrote the request (by exec, before the first look) cannot show that, and
    /// one that comes after the first look is another one when it is measured. Before each answer, [`Gate::check`] compares
    /// again.
    ///
    /// # Errors
    /// [`CallerError`]; nobody gets anything then.
    pub async fn measure(&self, connection: &Arc<Connection>, asked: &Asked) -> Result<Caller, CallerError> {
        let place = self.places.take(connection.peer.credentials().uid);
        let place = place.ok_or_else(|| CallerError::TooManyCalls {
            max: self.places.max_per_uid(),
        })?;
        self.measure_at(connection, asked, Arc::new(place)).await
    }

    /// The same once more, for a call that was held meanwhile, or when more is asked than it was measured for; it keeps
    /// its place.
    ///
    /// # Errors
    /// As [`Gate::measure`].
    pub async fn measure_again(&self, caller: &Caller, asked: &Asked) -> Result<Caller, CallerError> {
        self.measure_at(&caller.connection, asked, Arc::clone(&caller.place))
            .await
    }

    async fn measure_at(
        &self,
        connection: &Arc<Connection>,
        asked: &Asked,
        place: Arc<Place>,
    ) -> Result<Caller, CallerError> {
        let (process, at_first) = connection.first()?;
        if let Err(absent) = self.presence.demand(connection).await {
            // What is another program now does not answer either, and should hear that.
            self.check_now(connection).await?;
            return Err(absent);
        }
        let measured = self.measurer.measure_since(process, asked, at_first).await;
        let measured = connection.unless_changed(measured.map_err(CallerError::from))?;
        let standing = self.standing(process).await?;
        connection.check_told()?;
        Ok(Caller {
            connection: Arc::clone(connection),
            selectors: measured.evidence.selectors(),
            evidence: measured.evidence,
            asked: asked.clone(),
            fingerprint: measured.fingerprint,
            standing,
            seen: measured.seen,
            place,
        })
    }

    /// Whether the caller is still the process that was measured, running what it ran: to be asked before each answer.
    ///
    /// # Errors
    /// [`CallerError`]; the connection is ended where it belongs to another program now.
    pub async fn check(&self, caller: &Caller) -> Result<(), CallerError> {
        if caller.seen.elapsed() < THIS_MOMENT {
            return caller.connection.check_told();
        }
        self.check_now(&caller.connection).await?;
        if let Standing::Of(_) = caller.standing {
            let (process, _) = caller.connection.first()?;
            let (subject, standing) = (process.clone(), caller.standing.clone());
            let look = move || Ok(standing.holds(&subject));
            self.measurer.look(process, "the run", look).await??;
        }
        Ok(())
    }

    /// What a process is to the runs of this node.
    ///
    /// # Errors
    /// [`CallerError::NotServed`], and those of looking.
    pub async fn standing(&self, process: &Process) -> Result<Standing, CallerError> {
        // Whose it is not is told without a change of threads.
        if self.runs.run_of(process)?.is_none() {
            return Ok(Standing::Outside);
        }
        let (runs, subject) = (self.runs.clone(), process.clone());
        let look = move || Ok(runs.standing(&subject));
        Ok(self.measurer.look(process, "the run", look).await??)
    }

    /// Whether the connection still belongs to the program that made it.
    ///
    /// # Errors
    /// As [`Gate::check`].
    pub(crate) async fn check_now(&self, connection: &Connection) -> Result<(), CallerError> {
        // Without waiting for a look, where the kernel tells.
        connection.check_told()?;
        let (process, at_first) = connection.first()?;
        let now = self.measurer.fingerprint(process).await;
        let same = now
            .map_err(CallerError::from)
            .and_then(|now| match now == *at_first {
                true => Ok(()),
                false => Err(CallerError::Changed),
            });
        connection.unless_changed(same)?;
        connection.check_told()
    }

    /// Logs that a caller got nothing, so many times in a while.
    pub(crate) fn tell(&self, pid: i32, refused: &Status) {
        if let Some(suppressed) = self.refusals.permit() {
            tracing::warn!(
                pid,
                error = refused.message(),
                suppressed,
                "a caller was not served"
            );
        }
    }

    /// Measures any process for all that an entry could ask, for an operator.
    ///
    /// # Errors
    /// [`CallerError`].
    pub async fn examine(&self, process: &Process) -> Result<Evidence, CallerError> {
        let asked = Asked::everything();
        Ok(self.measurer.measure(process, &asked).await?.evidence)
    }
}
