//! The runs that live on this node: which process is whose, and how a run begins and ends.
//!
//! A run is known by its main process, which the agent holds by a pidfd, and by the control group that the agent made
//! for it. Who is in the group and is not the main process is a child of the run, whatever it did since it was forked.

pub mod admission;
pub mod children;
pub mod command;
mod findings;
pub mod keeper;
pub mod launching;
pub mod leases;
pub mod output;
pub mod record;
pub mod run;
pub mod service;
pub mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vouchsafe_attestors::{Process, Reach};
use vouchsafe_identity::RunId;
use vouchsafe_sys::{PidFd, ProcessIdentity};

use crate::cache::{EntryIndex, Shelf};
use crate::entry::Entry;
pub use run::{Cause, Inherit, Run};

/// Of how many runs it is remembered that they have ended.
const MAX_ENDED: usize = 4096;

/// Why a process of a run gets nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotServed {
    /// It is not the main process, and the class says that only that has an identity.
    #[error(
        "this process belongs to run {run}, and class `{class}` lets only the run's main process have an identity \
         (`inherit = \"none\"`)"
    )]
    Child {
        /// The run.
        run: RunId,
        /// Its class.
        class: String,
    },
    /// It is the main process, and not what was started.
    #[error("run {run} is not served: {reason}")]
    Altered {
        /// The run.
        run: RunId,
        /// What is otherwise.
        reason: String,
    },
    /// The run has ended.
    #[error("run {run} has ended: {cause}")]
    Ended {
        /// The run.
        run: RunId,
        /// Why.
        cause: Cause,
    },
    /// It is in no control group of the run whose uid it has.
    #[error(
        "this process has the uid {uid} of run {run}, which is that run's alone, and is not in its control group"
    )]
    Strayed {
        /// The run.
        run: RunId,
        /// Its uid.
        uid: u32,
    },
    /// More children than are told apart.
    #[error("run {run} has more than {max} children that ask for an identity")]
    TooManyChildren {
        /// The run.
        run: RunId,
        /// The limit.
        max: usize,
    },
    /// No number is left for another child.
    #[error("run {run} has given each of the {max} numbers that its children can have: launch it anew")]
    NumbersGiven {
        /// The run.
        run: RunId,
        /// The limit.
        max: u32,
    },
    /// The kernel does not say to what the process belongs.
    #[error("it cannot be told what this process is to a run: {0}")]
    Unknown(String),
}

/// What a process is to the runs of this node.
#[derive(Debug, Clone, Default)]
pub enum Standing {
    /// It belongs to none.
    #[default]
    Outside,
    /// It belongs to one, and has an identity by it.
    Of(Member),
}

/// A process of a run that has an identity.
#[derive(Debug, Clone)]
pub struct Member {
    /// The run.
    pub run: Arc<Run>,
    /// What its SVIDs rest on.
    pub entry: Arc<Entry>,
    /// Whether it is the main process.
    pub main: bool,
}

/// The runs of this node. Cheap to clone: all clones are the same.
#[derive(Debug, Clone)]
pub struct Runs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// How many there are, to be read without the lock.
    live: AtomicUsize,
    shelf: Shelf,
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<RunId, Arc<Run>>,
    by_process: HashMap<ProcessIdentity, Arc<Run>>,
    /// By the path that `/proc/PID/cgroup` gives.
    by_group: HashMap<String, Arc<Run>>,
    /// By the uid of a pool, which no other run has meanwhile.
    by_uid: HashMap<u32, RunId>,
    /// Groups of what runs left behind that ended before this agent was started.
    left: HashMap<String, RunId>,
    entries: EntryIndex,
    /// The last that ended.
    ended: BTreeSet<RunId>,
    /// Launch leases.
    leased: leases::Leased,
}

impl Runs {
    /// None yet; their SVIDs come from `shelf`.
    pub fn new(shelf: Shelf) -> Self {
        Self(Arc::new(Shared {
            table: Mutex::default(),
            live: AtomicUsize::new(0),
            shelf,
        }))
    }

    /// Their SVIDs.
    pub fn shelf(&self) -> &Shelf {
        &self.0.shelf
    }

    /// How many live.
    pub fn live(&self) -> usize {
        self.0.live.load(Ordering::Acquire)
    }

    /// All that live, in the order of their admission.
    pub fn all(&self) -> Vec<Arc<Run>> {
        self.lock().by_id.values().cloned().collect()
    }

    /// A run that lives.
    pub fn get(&self, id: RunId) -> Option<Arc<Run>> {
        self.lock().by_id.get(&id).cloned()
    }

    /// Takes a run in: from now on its processes are known. Its SVID is had at once.
    pub(crate) fn enter(&self, run: Arc<Run>) {
        let mut table = self.lock();
        table.by_process.insert(run.process, Arc::clone(&run));
        if let Some(group) = &run.group {
            table.by_group.insert(group.clone(), Arc::clone(&run));
        }
        if let Some(uid) = run.own_uid {
            table.by_uid.insert(uid, run.id);
        }
        for entry in run.entries() {
            table.entries.put(entry);
        }
        table.by_id.insert(run.id, run);
        self.settle(&table);
    }

    /// Lets go of a run: its processes get nothing from now on. They stay known as its own until [`Runs::forget`].
    pub(crate) fn end(&self, run: &Run, cause: Cause) {
        run.end(cause);
        let mut table = self.lock();
        for entry in run.entries() {
            table.entries.remove(&entry.id);
        }
        table.ended.insert(run.id);
        if table.ended.len() > MAX_ENDED {
            table.ended.pop_first();
        }
        self.settle(&table);
    }

    /// Whether a run is among the last that ended here, since this agent was started.
    pub fn has_ended(&self, id: RunId) -> bool {
        self.lock().ended.contains(&id)
    }

    /// Forgets a run whose processes are gone.
    pub(crate) fn forget(&self, run: &Run) {
        let mut table = self.lock();
        table.by_process.remove(&run.process);
        if let Some(group) = &run.group {
            table.by_group.remove(group);
        }
        if let Some(uid) = run.own_uid {
            table.by_uid.remove(&uid);
        }
        table.by_id.remove(&run.id);
        self.settle(&table);
    }

    /// A run that has ended before has left processes behind: they are known as its own.
    pub(crate) fn leave(&self, run: RunId, group: String) {
        let mut table = self.lock();
        table.left.insert(group, run);
        self.settle(&table);
    }

    /// What a run left behind has gone.
    pub(crate) fn forget_left(&self, group: &str) {
        let mut table = self.lock();
        table.left.remove(group);
        self.settle(&table);
    }

    fn settle(&self, table: &Table) {
        let live = table.by_id.len().saturating_add(table.left.len());
        self.0.live.store(live, Ordering::Release);
        self.0.shelf.x509.follow(&table.entries);
        let exists = |id: &_| table.entries.get(id).is_some();
        self.0.shelf.jwt.retain_entries(exists);
    }

    /// The run that a process belongs to, and whether it is its main process.
    ///
    /// # Errors
    /// [`NotServed::Unknown`]; [`NotServed::Ended`] where the run ended before this agent was started;
    /// [`NotServed::Strayed`] where the process has a run's own uid and is not in its control group.
    pub fn run_of(&self, process: &Process) -> Result<Option<(Arc<Run>, bool)>, NotServed> {
        if self.live() == 0 {
            return Ok(None);
        }
        let identity = process.pidfd.identity();
        let identity = identity.map_err(|error| NotServed::Unknown(error.to_string()))?;
        if let Some(run) = self.lock().by_process.get(&identity) {
            return Ok(Some((Arc::clone(run), true)));
        }
        let group = group_of(&process.pidfd, process.pid).map_err(NotServed::Unknown)?;
        let table = self.lock();
        let above = group.match_indices('/').map(|(at, _)| at).chain([group.len()]);
        for path in above.filter_map(|end| group.get(..end)) {
            if let Some(run) = table.by_group.get(path) {
                return Ok(Some((Arc::clone(run), false)));
            }
            if let Some(run) = table.left.get(path) {
                let (run, cause) = (*run, Cause::Over);
                return Err(NotServed::Ended { run, cause });
            }
        }
        // Whoever it is, it came of that run: its group was left with more rights than a run is given, or somebody started
        // it at the run's request.
        match table.by_uid.get(&process.uid) {
            Some(run) => Err(NotServed::Strayed {
                run: *run,
                uid: process.uid,
            }),
            None => Ok(None),
        }
    }

    /// What a process gets by the run that it belongs to. Blocks on reads of `/proc`.
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn standing(&self, process: &Process) -> Result<Standing, NotServed> {
        let Some((run, main)) = self.run_of(process)? else {
            return Ok(Standing::Outside);
        };
        run.alive()?;
        if main {
            run.unaltered(&process.reach)?;
            let entry = Arc::clone(&run.entry);
            return Ok(Standing::Of(Member { run, entry, main }));
        }
        if run.inherit == Inherit::None {
            let (run, class) = (run.id, run.class.to_string());
            return Err(NotServed::Child { run, class });
        }
        // Who can name another process as the sender could name one of this run's.
        if let Reach::NamespaceOnly { reason } = &process.reach {
            return Err(NotServed::Altered {
                run: run.id,
                reason: reason.clone(),
            });
        }
        let entry = match run.inherit {
            Inherit::Derived => self.child(&run, &process.pidfd)?,
            _ => Arc::clone(&run.entry),
        };
        Ok(Standing::Of(Member { run, entry, main }))
    }

    /// What the SVIDs of a child rest on that has an id of its own.
    fn child(&self, run: &Run, pidfd: &PidFd) -> Result<Arc<Entry>, NotServed> {
        let (entry, gone) = run.child(pidfd)?;
        let mut table = self.lock();
        if table.by_id.contains_key(&run.id) {
            table.entries.put(Arc::clone(&entry));
        }
        for entry in &gone {
            table.entries.remove(&entry.id);
        }
        if !gone.is_empty() {
            self.settle(&table);
        }
        Ok(entry)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// Whether what was found still holds. Blocks on reads of `/proc`.
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn holds(&self, process: &Process) -> Result<(), NotServed> {
        let Self::Of(member) = self else {
            return Ok(());
        };
        member.run.alive()?;
        match member.main {
            true => member.run.unaltered(&process.reach),
            false => Ok(()),
        }
    }
}

/// The control group of a process in the unified hierarchy, as the agent sees it.
pub(crate) fn group_of(pidfd: &PidFd, pid: i32) -> Result<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| error.to_string())?;
    if !pidfd.is_alive() {
        return Err("it has ended".to_owned());
    }
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    // Without a unified hierarchy there are no groups of ours.
    Ok(unified.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
