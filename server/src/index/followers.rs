//! The agents that follow by push, and what each has to look at anew.
//!
//! Marks are set under the index's write lock, and taken together with a look at the index under its read
//! lock: so a revision that an agent is told never leaves out a change that it was not told.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vouchsafe_identity::{RunId, SpiffeId};

use super::Index;
use super::concern::{Concern, What, Who};
use super::view::View;

/// Most entries that wait to be looked at one by one; beyond it the agent looks at everything.
pub const MAX_PENDING: usize = 4096;

/// What an agent has to look at anew.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Entries that changed.
    pub entries: HashSet<Arc<str>>,
    /// Any entry may have come or gone.
    pub everything: bool,
    /// There were more changes than are kept one by one.
    pub overflowed: bool,
    /// A bundle changed.
    pub bundles: bool,
    /// A class changed, or which ones may run there.
    pub classes: bool,
    /// Runs that came or went.
    pub runs: HashSet<RunId>,
    /// Runs whose SVIDs were revoked, or whose revocation is over.
    pub revocations: HashSet<RunId>,
    /// Any revocation may have come or gone.
    pub all_revocations: bool,
    /// The agent's node changed.
    pub standing: bool,
    /// The agent follows by another stream now.
    pub replaced: bool,
}

impl Pending {
    /// How soon it has to be looked at.
    fn urgency(&self) -> Urgency {
        let flags = self.everything || self.bundles || self.classes || self.standing || self.replaced;
        if flags || !self.entries.is_empty() || !self.runs.is_empty() {
            Urgency::Now
        } else if self.all_revocations || !self.revocations.is_empty() {
            Urgency::Soon
        } else {
            Urgency::None
        }
    }

    fn add(&mut self, what: &What) {
        match what {
            What::Entry(_) if self.everything => {}
            What::Entry(id) => {
                self.entries.insert(Arc::clone(id));
                if self.entries.len() > MAX_PENDING {
                    self.overflowed = true;
                    self.add(&What::Entries);
                }
            }
            What::Entries => {
                self.entries = HashSet::new();
                self.runs = HashSet::new();
                self.everything = true;
            }
            What::Class(_) | What::Classes => self.classes = true,
            What::Run(_) if self.everything => {}
            What::Run(id) => {
                self.runs.insert(*id);
                if self.runs.len() > MAX_PENDING {
                    self.overflowed = true;
                    self.add(&What::Entries);
                }
            }
            What::Revocation(_) if self.all_revocations => {}
            What::Revocation(id) => {
                self.revocations.insert(*id);
                if self.revocations.len() > MAX_PENDING {
                    self.revocations = HashSet::new();
                    self.all_revocations = true;
                }
            }
            What::Standing => self.standing = true,
            What::Bundle(_) => self.bundles = true,
        }
    }
}

/// How soon an agent has to look. Revocations concern all agents and come by the hundred where runs do: they are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    None,
    Soon,
    Now,
}

#[derive(Debug, Default)]
struct Follower {
    pending: Mutex<Pending>,
    wake: Notify,
}

impl Follower {
    /// Marks; true if it has to be looked at sooner than before.
    fn mark(&self, mark: impl FnOnce(&mut Pending)) -> bool {
        let mut pending = lock(&self.pending);
        let before = pending.urgency();
        mark(&mut pending);
        before < pending.urgency()
    }
}

/// All followers by their agent's id; one for each.
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<HashMap<SpiffeId, Arc<Follower>>>);

/// Followers that have something to do now.
#[must_use = "they sleep until they are woken"]
#[derive(Debug, Default)]
pub(super) struct Woken(Vec<Arc<Follower>>);

impl Woken {
    /// Wakes them; best done when no lock is held.
    pub(super) fn wake(self) {
        self.0.iter().for_each(|follower| follower.wake.notify_one());
    }
}

impl Followers {
    /// Marks what concerns them.
    pub(super) fn mark(&self, concerns: &[Concern]) -> Woken {
        let followers = lock(&self.0);
        let mut woken = Woken::default();
        if followers.is_empty() {
            return woken;
        }
        for concerns in concerns.chunk_by(Concern::shares_agents) {
            let mut tell = |follower: &Arc<Follower>| {
                let add =
                    |pending: &mut Pending| concerns.iter().for_each(|concern| pending.add(&concern.what));
                if follower.mark(add) {
                    woken.0.push(Arc::clone(follower));
                }
            };
            match concerns.first().map(|concern| &concern.who) {
                Some(Who::These(agents)) => agents
                    .iter()
                    .filter_map(|agent| followers.get(agent))
                    .for_each(&mut tell),
                Some(Who::Anybody) => followers.values().for_each(&mut tell),
                None => {}
            }
        }
        woken
    }

    /// Has all of them look at everything.
    pub(super) fn mark_all(&self) -> Woken {
        let followers = lock(&self.0).values().cloned().collect::<Vec<_>>();
        for follower in &followers {
            follower.mark(|pending| {
                [What::Entries, What::Standing]
                    .iter()
                    .for_each(|what| pending.add(what));
                pending.bundles = true;
                pending.all_revocations = true;
            });
        }
        Woken(followers)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// An agent that follows, until this is dropped.
pub struct Following {
    index: Arc<Index>,
    agent: SpiffeId,
    follower: Arc<Follower>,
}

impl Following {
    /// Lets an agent follow, in place of the stream by which it followed before, and takes a first look.
    pub(super) fn join<T>(
        index: &Arc<Index>,
        agent: &SpiffeId,
        look: impl FnOnce(&View<'_>) -> T,
    ) -> (Self, T) {
        let follower = Arc::new(Follower::default());
        let state = index.read();
        let before = lock(&index.followers.0).insert(agent.clone(), Arc::clone(&follower));
        let seen = look(&View(&state));
        drop(state);
        if let Some(before) = before {
            before.mark(|pending| pending.replaced = true);
            before.wake.notify_one();
        }
        let following = Self {
            index: Arc::clone(index),
            agent: agent.clone(),
            follower,
        };
        (following, seen)
    }

    /// Whom this is about.
    pub fn agent(&self) -> &SpiffeId {
        &self.agent
    }

    /// Waits until there is something to look at, now or soon.
    pub async fn news(&self) {
        self.follower.wake.notified().await;
    }

    /// Whether what is to be looked at can wait for more of its kind.
    pub fn may_gather(&self) -> bool {
        lock(&self.follower.pending).urgency() < Urgency::Now
    }

    /// Looks at the index together with what is to be looked at anew, which is taken by this.
    pub fn look<T>(&self, look: impl FnOnce(&View<'_>, Pending) -> T) -> T {
        let state = self.index.read();
        let pending = std::mem::take(&mut *lock(&self.follower.pending));
        look(&View(&state), pending)
    }

    /// Looks at the index and takes nothing; whether another stream has taken the place of this one comes with it.
    pub fn peek<T>(&self, look: impl FnOnce(&View<'_>, bool) -> T) -> T {
        let state = self.index.read();
        let replaced = lock(&self.follower.pending).replaced;
        look(&View(&state), replaced)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut followers = lock(&self.index.followers.0);
        if followers
            .get(&self.agent)
            .is_some_and(|follower| Arc::ptr_eq(follower, &self.follower))
        {
            followers.remove(&self.agent);
        }
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Following({})", self.agent)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
