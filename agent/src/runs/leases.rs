//! Launch leases: runs that may be launched here while the server is away.
//!
//! A lease is a run that the server has given its id and its place, and signed for. Its X.509-SVID is had and renewed
//! beforehand, as are the lease and the class, and all of it is sealed. Who may launch is for the agent to judge then; the
//! server hears of it as soon as it is back, and has the run killed if it would not have admitted it.

mod keeping;
mod marks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::watch;
use vouchsafe_identity::jwt::{LaunchLease, verify_lease};
use vouchsafe_identity::{RunId, RunIdentity, SpiffeId};
use vouchsafe_proto::vouchsafe::run::v1::{AdmitRunRequest, Class, ClassSpec, Launcher};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;
use vouchsafe_runtime::Clock;

use super::run::entry;
use super::{Runs, Table, launching};
use crate::cache::slots::X509Svid;
use crate::entry::{Entry, EntryId};
use crate::knowledge::{Knowledge, KnowledgeBase};
use crate::node::OwnSvid;
use crate::status::Status;

pub use marks::Marks;

/// The longest life of a run of a class that says nothing, in seconds.
const DEFAULT_MAX_TTL_SECONDS: u32 = 24 * 3600;

/// Why a run is not launched by a lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoLease {
    /// The class gives none.
    #[error("class `{0}` is not launched without it (`offline_runs = 0`)")]
    Never(String),
    /// There is none here that holds.
    #[error("this node holds no launch lease of class `{0}` that is valid and unused")]
    None(String),
    /// The class as it was last heard of does not let it be.
    #[error("class `{0}` takes no new runs")]
    Disabled(String),
    /// The class does not name who asks.
    #[error("the launcher may not launch class `{0}`: an operator has to name it among the launchers")]
    Launcher(String),
    /// That a lease is used cannot be written.
    #[error("what was launched by a lease cannot be noted on disk: {0}")]
    Io(String),
}

/// What it takes to use leases.
#[derive(Debug, Clone)]
pub struct Leases {
    /// Classes, and the bundle that leases are verified by.
    pub knowledge: KnowledgeBase,
    /// Whether the server is away.
    pub status: Arc<Status>,
    /// Who this agent is.
    pub own: watch::Receiver<Option<Arc<OwnSvid>>>,
    /// Tells the time.
    pub clock: Clock,
    /// Which were used.
    pub marks: Marks,
}

/// The leases that are here.
#[derive(Debug, Default)]
pub(super) struct Leased {
    /// Not launched by.
    free: BTreeMap<RunId, (Arc<LiveRun>, Arc<Entry>)>,
    /// Launched by, or being so. What the server says of them may be late, so none is forgotten: they are few.
    used: BTreeSet<RunId>,
}

impl Leases {
    /// Whether the server is known to be away, so that there is no use in asking it.
    pub(super) fn is_server_away(&self) -> bool {
        let sync = self.status.sync();
        !sync.reachable && sync.unreachable_since.is_some()
    }

    /// Takes a lease for what would have been asked of the server, by the class as it was last heard of. Blocks.
    ///
    /// # Errors
    /// [`NoLease`].
    pub(super) fn take(&self, runs: &Runs, asked: &AdmitRunRequest) -> Result<LaunchLease, NoLease> {
        let known = self.knowledge.get();
        let name = || asked.class.clone();
        let class = known.classes.values().find(|class| class.name == asked.class);
        let class = class.ok_or_else(|| NoLease::Never(name()))?;
        let nothing = ClassSpec::default();
        let spec = class.spec.as_ref().unwrap_or(&nothing);
        if spec.offline_runs == 0 {
            return Err(NoLease::Never(name()));
        }
        if spec.disabled {
            return Err(NoLease::Disabled(name()));
        }
        if !may_launch(spec, asked) {
            return Err(NoLease::Launcher(name()));
        }
        let now = self.clock.now();
        let own = self.own.borrow().as_ref().map(|own| own.spiffe_id.clone());
        let valid = |lease: &LiveRun| {
            own.as_ref()
                .and_then(|own| verified(lease, class, own, &known, now))
        };
        let mut lease = runs.take_lease(valid).ok_or_else(|| NoLease::None(name()))?;
        let run = RunIdentity::parse(&lease.run).map(|identity| identity.run);
        let run = run.ok_or_else(|| NoLease::None(name()))?;
        let marked = self.marks.put(run, lease.expires_at);
        marked.map_err(|error| NoLease::Io(error.to_string()))?;
        let longest = match spec.max_ttl_seconds {
            0 => DEFAULT_MAX_TTL_SECONDS,
            seconds => seconds,
        };
        let longest = now + std::time::Duration::from_secs(longest.into());
        lease.expires_at = lease.expires_at.min(longest);
        Ok(lease)
    }

    /// Knows again which leases were used before the agent's last start.
    pub(crate) fn remember(&self, runs: &Runs) -> std::io::Result<()> {
        for run in self.marks.all(self.clock.now())? {
            runs.lease_is_used(run);
        }
        Ok(())
    }
}

/// What a lease says, if it is the server's word for this node and this state of the class.
fn verified(
    lease: &LiveRun,
    class: &Class,
    own: &SpiffeId,
    known: &Knowledge,
    now: OffsetDateTime,
) -> Option<LaunchLease> {
    let said = verify_lease(&lease.lease, known.own_bundle()?, now).ok()?;
    let is_it = said.node == *own
        && said.run.as_str() == lease.spiffe_id
        && said.class.as_str() == class.name
        && said.class_version == class.version;
    is_it.then_some(said)
}

/// Whether a class names who asks; a run counts by its own SPIFFE ID alone.
pub(super) fn may_launch(spec: &ClassSpec, asked: &AdmitRunRequest) -> bool {
    let nobody = Launcher::default();
    let launcher = asked.launcher.as_ref().unwrap_or(&nobody);
    let is_run = !asked.parent_run_id.is_empty();
    let id = SpiffeId::new(&launcher.spiffe_id).ok();
    spec.launchers.iter().any(|rule| match rule.split_once(':') {
        Some(("uid", uid)) => !is_run && uid == launcher.uid.to_string(),
        Some(("gid", gid)) => !is_run && launcher.gids.iter().any(|own| own.to_string() == gid),
        Some(("user", name)) => !is_run && !launcher.user.is_empty() && launcher.user == name,
        _ => id.as_ref().is_some_and(|id| launching::covers(rule, id)),
    })
}

impl Runs {
    /// Takes in which runs are leased to this node, as the server says.
    pub(crate) fn lease(&self, known: &Knowledge) {
        // Of what has not been heard it is not known whether it is leased.
        if !known.complete {
            return;
        }
        let mut table = self.lock();
        let told: BTreeMap<RunId, &Arc<LiveRun>> = known
            .runs
            .iter()
            .filter(|(_, run)| !run.lease.is_empty())
            .map(|(id, run)| (*id, run))
            .collect();
        let gone: Vec<RunId> = table.leased.free.keys().copied().collect();
        let mut differs = false;
        for id in gone.into_iter().filter(|id| !told.contains_key(id)) {
            differs = true;
            if let Some((_, entry)) = table.leased.free.remove(&id)
                && !table.by_id.contains_key(&id)
            {
                table.entries.remove(&entry.id);
            }
        }
        for (id, lease) in told {
            if table.is_used(id) {
                continue;
            }
            if let Some((held, _)) = table.leased.free.get_mut(&id) {
                *held = Arc::clone(lease);
                continue;
            }
            let Ok(spiffe_id) = SpiffeId::new(&lease.spiffe_id) else {
                continue;
            };
            differs = true;
            let entry = Arc::new(entry(id.to_string(), spiffe_id, true));
            table.entries.put(Arc::clone(&entry));
            table.leased.free.insert(id, (Arc::clone(lease), entry));
        }
        if differs {
            self.settle(&table);
        }
    }

    /// How many leases of a state of a class are here and unused.
    pub(super) fn free_leases(&self, class: &Class) -> usize {
        let table = self.lock();
        let of_it = |(lease, _): &&(Arc<LiveRun>, Arc<Entry>)| {
            lease.class == class.name && lease.class_version == class.version
        };
        table.leased.free.values().filter(of_it).count()
    }

    /// Takes the valid lease that holds for longest; nobody else gets it.
    fn take_lease(&self, valid: impl Fn(&LiveRun) -> Option<LaunchLease>) -> Option<LaunchLease> {
        let mut table = self.lock();
        let leases = table.leased.free.iter();
        let held = leases.filter_map(|(id, (lease, _))| Some((valid(lease)?, *id)));
        let (lease, id) = held.max_by_key(|(lease, _)| lease.expires_at)?;
        table.leased.free.remove(&id);
        table.leased.used.insert(id);
        Some(lease)
    }

    /// A lease was used in an earlier life of the agent.
    pub(super) fn lease_is_used(&self, id: RunId) {
        self.lock().leased.used.insert(id);
    }

    /// Nothing was launched by a lease that was taken: its SVID is not renewed any more.
    pub(super) fn drop_lease(&self, id: RunId) {
        let mut table = self.lock();
        if !table.by_id.contains_key(&id) {
            table.entries.remove(&EntryId::from(id.to_string().as_str()));
            self.settle(&table);
        }
    }

    /// Takes in the SVIDs that runs and leases had before the agent's last start.
    pub(crate) fn restore(
        &self,
        svids: Vec<(EntryId, X509Svid)>,
        now: OffsetDateTime,
        jitter: impl Fn() -> f64,
    ) {
        let table = self.lock();
        self.0.shelf.x509.restore(&table.entries, svids, now, jitter);
    }
}

impl Table {
    /// Whether a lease is or was launched by.
    fn is_used(&self, id: RunId) -> bool {
        self.leased.used.contains(&id) || self.by_id.contains_key(&id) || self.ended.contains(&id)
    }
}

#[cfg(test)]
mod tests;
