//! The SPIFFE Workload API on the workload socket, which every uid may open. A caller learns of itself and of nothing
//! else.

pub mod bundles;
pub mod feed;
pub mod header;
pub mod hold;
pub mod info;
pub mod jwt;
mod revoked;
pub mod service;
pub mod svids;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use vouchsafe_identity::SpiffeId;
use vouchsafe_runtime::Clock;

use crate::cache::Shelf;
use crate::caller::{Caller, CallerError, Connection, Gate};
use crate::entry::Entry;
use crate::explain;
use crate::knowledge::{Knowledge, KnowledgeBase};
use crate::metrics::Attestations;
use crate::runs::{Runs, Standing};
use hold::Holding;

/// How long a call waits for the server to be heard, or for an SVID to be issued, before it is answered with an error.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What every call needs.
#[derive(Clone)]
pub struct Parts {
    /// Measures callers.
    pub gate: Arc<Gate>,
    /// Measures how long that takes.
    pub attestations: Attestations,
    /// Entries and bundles.
    pub knowledge: KnowledgeBase,
    /// The SVIDs of entries.
    pub svids: Shelf,
    /// The runs of this node.
    pub runs: Runs,
    /// Calls that match nothing yet.
    pub holding: Holding,
    /// How well the server is heard.
    pub status: Arc<crate::status::Status>,
    /// Tells the time.
    pub clock: Clock,
    /// Ends the streams when the agent stops.
    pub stopping: CancellationToken,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl Parts {
    /// Measures the caller of a request.
    ///
    /// # Errors
    /// A status that says why there is no answer.
    pub async fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        // Over a connection that still drains too.
        self.goes_on()?;
        let connection = request
            .extensions()
            .get::<Arc<Connection>>()
            .ok_or_else(|| Status::internal("the connection is not known"))?;
        let known = self.knowledge.get();
        let measuring = self.gate.measure(connection, known.entries.asked());
        let measured = self.attestations.took(measuring).await;
        measured.map_err(|error| {
            let status = Status::from(error);
            self.gate.tell(connection.peer.credentials().pid, &status);
            status
        })
    }

    /// Whether a call may be answered now: its caller is still what was measured, and the agent goes on.
    ///
    /// # Errors
    /// The status for the caller.
    pub async fn may_answer(&self, caller: &Caller) -> Result<(), Status> {
        self.gate.check(caller).await?;
        if let Standing::Of(member) = &caller.standing {
            member.run.called(self.clock.now());
        }
        self.goes_on()
    }

    /// The SVIDs of which the caller gets its own.
    pub fn shelf(&self, caller: &Caller) -> &Shelf {
        match caller.standing {
            Standing::Outside => &self.svids,
            Standing::Of(_) => self.runs.shelf(),
        }
    }

    /// Nothing more is served by an agent that stops: the server may have refused it.
    fn goes_on(&self) -> Result<(), Status> {
        match self.stopping.is_cancelled() {
            true => Err(stopping()),
            false => Ok(()),
        }
    }

    /// What is known, once the server has been heard; waits for that as long as [`PATIENCE`] allows.
    ///
    /// # Errors
    /// `Unavailable` when it has not been heard.
    pub async fn known(&self) -> Result<Arc<Knowledge>, Status> {
        let mut changes = self.knowledge.changes();
        let heard = tokio::time::timeout(PATIENCE, changes.wait_for(|known| known.complete)).await;
        match heard {
            Ok(Ok(known)) => Ok(Arc::clone(&known)),
            _ => Err(unheard()),
        }
    }

    /// What is known and the caller's entries, of those that `wanted` picks. A call that has none is held as long as may
    /// be; its caller is then measured again.
    ///
    /// # Errors
    /// The status for the caller.
    pub async fn matched(&self, caller: &mut Caller, wanted: Option<&SpiffeId>) -> Result<Matched, Status> {
        let mut hold = self.holding.begin(caller);
        self.known().await?;
        let mut changes = self.knowledge.changes();
        loop {
            let known = Arc::clone(&changes.borrow_and_update());
            if !caller.is_measured_for(&known.entries) {
                *caller = self.gate.measure_again(caller, known.entries.asked()).await?;
            }
            match wanted_of(&known, caller, wanted) {
                Ok(entries) if !hold.release() => return Ok(Matched { known, entries }),
                Ok(_) => {
                    *caller = self.gate.measure_again(caller, known.entries.asked()).await?;
                    changes.mark_changed();
                }
                Err(status) => hold.keep(status)?,
            }
            let over = async {
                match hold.until() {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Err(stopping()),
                _ = changes.changed() => {}
                () = over => {}
            }
        }
    }
}

/// The answer of an agent that stops.
fn stopping() -> Status {
    Status::unavailable("the agent is stopping")
}

/// What a call rests on.
#[derive(Debug)]
pub struct Matched {
    /// What is known.
    pub known: Arc<Knowledge>,
    /// The caller's entries, at least one.
    pub entries: Vec<Arc<Entry>>,
}

/// The entries whose SVIDs a process gets, or the one of them that it wants.
fn wanted_of(
    known: &Knowledge,
    caller: &Caller,
    wanted: Option<&SpiffeId>,
) -> Result<Vec<Arc<Entry>>, Status> {
    let mut entries = identities(known, caller)?;
    if let Some(wanted) = wanted {
        entries.retain(|entry| entry.spiffe_id == *wanted);
        if entries.is_empty() {
            return Err(Status::permission_denied(format!(
                "no identity issued: `{wanted}` is not among the identities of this process"
            )));
        }
    }
    Ok(entries)
}

/// Says that the server was not heard yet.
pub(crate) fn unheard() -> Status {
    Status::unavailable("the agent has not heard from its server yet: try again, and see `vouchsafe health`")
}

/// What the SVIDs rest on that a process gets: its run, if it belongs to one, else the entries that it matches.
///
/// # Errors
/// `PermissionDenied` with the reason when there is none. Client libraries look for `no identity issued` in the text.
pub(crate) fn identities(known: &Knowledge, caller: &Caller) -> Result<Vec<Arc<Entry>>, Status> {
    if let Standing::Of(member) = &caller.standing {
        member.run.alive().map_err(CallerError::from)?;
        return Ok(vec![Arc::clone(&member.entry)]);
    }
    let entries = known.entries.identities(&caller.selectors);
    if entries.is_empty() {
        let reason = explain::reason(known.entries.len(), caller.selectors.len());
        return Err(Status::permission_denied(format!("no identity issued: {reason}")));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
