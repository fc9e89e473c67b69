//! Classes and live runs in memory: what is looked up when a run is admitted, and when it asks for SVIDs. And the revocations of
//! SVIDs of ended runs, of which all agents hear.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use vouchsafe_identity::{ClassId, ClassName, RunId, RunIdentity, SpiffeId, TaskId};
use vouchsafe_runtime::{ItemDigest, SetDigest};
use vouchsafe_store::class::ClassNodes;
use vouchsafe_store::run::Ended;
use vouchsafe_store::{Class, Revision, Revocation, Run, Versioned};

use super::authorized;
use super::state::State;
use super::view::View;
use super::{Index, Page, page};

/// Of how many SVIDs of a run, of each kind, the latest are remembered by number.
const MAX_NUMBERS: usize = 1000;

/// A run that lives.
#[derive(Debug)]
pub struct LiveRun {
    /// The run.
    pub run: Run,
    /// When it was last written.
    pub revision: Revision,
    uses: Arc<Uses>,
}

impl PartialEq for LiveRun {
    fn eq(&self, other: &Self) -> bool {
        self.run == other.run && self.revision == other.revision
    }
}

impl Eq for LiveRun {}

/// What a run was given, since the server started.
#[derive(Debug, Default)]
struct Uses {
    issued: AtomicU64,
    last: AtomicI64,
    numbers: Mutex<Numbers>,
}

/// The latest SVIDs of a run: serial numbers, and `jti`s.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of X.509-SVIDs.
    pub x509: VecDeque<String>,
    /// Of JWT-SVIDs.
    pub jwt: VecDeque<String>,
}

/// The number of one SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Number {
    /// The serial number of an X.509-SVID.
    X509(String),
    /// The `jti` of a JWT-SVID.
    Jwt(String),
}

impl LiveRun {
    /// Notes that it was given an SVID.
    pub fn used(&self, now: OffsetDateTime, number: Number) {
        self.uses.issued.fetch_add(1, Ordering::Relaxed);
        self.uses.last.store(now.unix_timestamp(), Ordering::Relaxed);
        let mut numbers = self.uses.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let (of_kind, number) = match number {
            Number::X509(serial) => (&mut numbers.x509, serial),
            Number::Jwt(jti) => (&mut numbers.jwt, jti),
        };
        if of_kind.len() == MAX_NUMBERS {
            of_kind.pop_front();
        }
        of_kind.push_back(number);
    }

    /// The latest SVIDs that it was given.
    pub fn numbers(&self) -> Numbers {
        let numbers = self.uses.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.clone()
    }

    /// How many SVIDs it was given, and when the last, in Unix seconds.
    pub fn uses(&self) -> (u64, i64) {
        let uses = &self.uses;
        (
            uses.issued.load(Ordering::Relaxed),
            uses.last.load(Ordering::Relaxed),
        )
    }
}

/// Which runs are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Of this class.
    pub class: Option<ClassName>,
    /// On the node of this agent.
    pub node: Option<SpiffeId>,
    /// For this task.
    pub task: Option<TaskId>,
}

impl RunFilter {
    /// Whether a run is wanted.
    pub fn picks(&self, run: &Run) -> bool {
        self.class.as_ref().is_none_or(|class| *class == run.class)
            && self.node.as_ref().is_none_or(|node| *node == run.node)
            && self
                .task
                .as_ref()
                .is_none_or(|task| run.task.as_ref() == Some(task))
    }
}

/// A revocation, as agents are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// The revocation.
    pub revocation: Revocation,
    /// The SPIFFE ID of its run.
    pub spiffe_id: String,
}

impl From<Revocation> for Revoked {
    fn from(revocation: Revocation) -> Self {
        let spiffe_id = spiffe_id_of(&revocation.class_id, revocation.run);
        Self {
            revocation,
            spiffe_id,
        }
    }
}

impl Revoked {
    /// What it adds to the digest of a set.
    pub fn digest(&self) -> ItemDigest {
        let Revocation { run, at, until, .. } = &self.revocation;
        let (at, until) = (at.unix_timestamp(), until.unix_timestamp());
        ItemDigest::of_revocation(&run.to_string(), &self.spiffe_id, at, until)
    }
}

/// The SPIFFE ID of a run of a class.
pub fn spiffe_id_of(class: &ClassId, run: RunId) -> String {
    let identity = RunIdentity {
        class: class.clone(),
        run,
        child: None,
    };
    identity.spiffe_id().map(String::from).unwrap_or_default()
}

/// Classes, live runs, and the ends of those whose SVIDs may still be valid.
#[derive(Debug, Default)]
pub(super) struct Runs {
    classes: BTreeMap<ClassName, Arc<Versioned<Class>>>,
    by_id: HashMap<ClassId, ClassName>,
    /// Classes that may run on any node.
    anywhere: BTreeSet<ClassName>,
    /// The others, by the agents and aliases that they name.
    by_node: HashMap<SpiffeId, BTreeSet<ClassName>>,
    live: BTreeMap<RunId, Arc<LiveRun>>,
    live_on: HashMap<SpiffeId, BTreeSet<RunId>>,
    places: HashMap<ClassName, BTreeMap<u32, RunId>>,
    ended: BTreeMap<RunId, (SpiffeId, Ended)>,
    revoked: Arc<BTreeMap<RunId, Arc<Revoked>>>,
    revoked_digest: SetDigest,
}

impl Runs {
    pub(super) fn put_class(&mut self, name: &ClassName, row: Option<Versioned<Class>>) {
        if let Some(old) = self.classes.remove(name) {
            self.by_id.remove(&old.value.id);
            self.anywhere.remove(name);
            for node in named(&old.value) {
                take_out(&mut self.by_node, node, name);
            }
        }
        if let Some(row) = row {
            match &row.value.spec.nodes {
                ClassNodes::Any => drop(self.anywhere.insert(name.clone())),
                ClassNodes::These(nodes) => nodes.iter().for_each(|node| {
                    let classes = self.by_node.entry(node.clone()).or_default();
                    classes.insert(name.clone());
                }),
            }
            self.by_id.insert(row.value.id.clone(), name.clone());
            self.classes.insert(name.clone(), Arc::new(row));
        }
    }

    pub(super) fn put_run(&mut self, id: RunId, row: Option<Versioned<Run>>) {
        let old = self.live.remove(&id);
        if let Some(old) = &old {
            take_out(&mut self.live_on, &old.run.node, &id);
        }
        if let Some(old) = &old
            && let Some(places) = self.places.get_mut(&old.run.class)
        {
            places.remove(&old.run.place);
            if places.is_empty() {
                self.places.remove(&old.run.class);
            }
        }
        self.ended.remove(&id);
        let Some(Versioned { value: run, revision }) = row else {
            return;
        };
        if let Some(ended) = run.ended {
            self.ended.insert(id, (run.node, ended));
            return;
        }
        let places = self.places.entry(run.class.clone()).or_default();
        places.insert(run.place, id);
        self.live_on.entry(run.node.clone()).or_default().insert(id);
        let uses = old.map(|old| Arc::clone(&old.uses)).unwrap_or_default();
        let live = LiveRun { run, revision, uses };
        self.live.insert(id, Arc::new(live));
    }

    pub(super) fn put_revocation(&mut self, id: RunId, row: Option<Versioned<Revocation>>) {
        // Copied only while somebody is being told all of them.
        let revoked = Arc::make_mut(&mut self.revoked);
        let old = match row {
            Some(row) => {
                let new = Revoked::from(row.value);
                self.revoked_digest.toggle(new.digest());
                revoked.insert(id, Arc::new(new))
            }
            None => revoked.remove(&id),
        };
        old.into_iter()
            .for_each(|old| self.revoked_digest.toggle(old.digest()));
    }

    pub(super) fn class(&self, name: &ClassName) -> Option<&Class> {
        self.classes.get(name).map(|row| &row.value)
    }

    pub(super) fn live(&self, id: &RunId) -> Option<&Run> {
        self.live.get(id).map(|live| &live.run)
    }

    /// The node of a run that lives, or ended of late.
    pub(super) fn node_of(&self, id: &RunId) -> Option<&SpiffeId> {
        let ended = || self.ended.get(id).map(|(node, _)| node);
        self.live(id).map(|run| &run.node).or_else(ended)
    }

    /// Whether a class names this id as a node.
    pub(super) fn names_node(&self, id: &SpiffeId) -> bool {
        self.by_node.contains_key(id)
    }
}

/// The agents and aliases that a class names.
fn named(class: &Class) -> &[SpiffeId] {
    match &class.spec.nodes {
        ClassNodes::Any => &[],
        ClassNodes::These(nodes) => nodes,
    }
}

fn take_out<T: Ord>(map: &mut HashMap<SpiffeId, BTreeSet<T>>, key: &SpiffeId, item: &T) {
    if let Some(items) = map.get_mut(key) {
        items.remove(item);
        if items.is_empty() {
            map.remove(key);
        }
    }
}

impl View<'_> {
    /// The classes that may run on an agent's node, disabled ones too.
    pub fn classes_of(
        &self,
        agent: &SpiffeId,
        now: OffsetDateTime,
    ) -> BTreeMap<ClassName, Arc<Versioned<Class>>> {
        let runs = &self.0.runs;
        if runs.classes.is_empty() {
            return BTreeMap::new();
        }
        let ids = std::iter::once(agent)
            .chain(authorized::aliases_of(self.0, agent, now))
            .chain(own_aliases(self.0, agent, now));
        let there = ids.filter_map(|id| runs.by_node.get(id)).flatten();
        let names = runs.anywhere.iter().chain(there);
        let found = names.filter_map(|name| Some((name.clone(), Arc::clone(runs.classes.get(name)?))));
        found.collect()
    }

    /// The runs that live on an agent's node.
    pub fn runs_of(&self, agent: &SpiffeId) -> BTreeMap<RunId, Arc<LiveRun>> {
        let runs = &self.0.runs;
        let here = runs.live_on.get(agent).into_iter().flatten();
        let found = here.filter_map(|id| Some((*id, Arc::clone(runs.live.get(id)?))));
        found.collect()
    }

    /// One run, if it lives on an agent's node.
    pub fn run_of(&self, agent: &SpiffeId, id: &RunId) -> Option<&Arc<LiveRun>> {
        self.0.runs.live.get(id).filter(|live| live.run.node == *agent)
    }

    /// All revocations, and their digest.
    pub fn revocations(&self) -> (&Arc<BTreeMap<RunId, Arc<Revoked>>>, SetDigest) {
        let runs = &self.0.runs;
        (&runs.revoked, runs.revoked_digest)
    }

    /// How a run ended, as long as its SVIDs may be valid.
    pub fn end_of(&self, agent: &SpiffeId, id: &RunId) -> Option<&Ended> {
        let (node, ended) = self.0.runs.ended.get(id)?;
        (node == agent).then_some(ended)
    }
}

impl Index {
    /// One class.
    pub fn class(&self, name: &ClassName) -> Option<Arc<Versioned<Class>>> {
        self.read().runs.classes.get(name).cloned()
    }

    /// Classes with names after `after`, at most `limit`.
    pub fn classes(&self, after: Option<&ClassName>, limit: usize) -> Page<Arc<Versioned<Class>>> {
        let state = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = state.runs.classes.range::<ClassName, _>((from, Bound::Unbounded));
        page(rows.map(|(_, class)| Arc::clone(class)), limit)
    }

    /// The class that an id belongs to: its own, or that of a run.
    pub fn class_owning(&self, id: &SpiffeId) -> Option<ClassName> {
        let state = self.read();
        if state.runs.by_id.is_empty() {
            return None;
        }
        state.runs.by_id.get(&ClassId::owning(id)?).cloned()
    }

    /// The id of an entry that a class of this id would own.
    pub fn entry_within(&self, class: &ClassId) -> Option<SpiffeId> {
        let state = self.read();
        let own = |id: &&SpiffeId| ClassId::owning(id).as_ref() == Some(class);
        state.by_spiffe_id.keys().find(own).cloned()
    }

    /// How many runs live, and how many are revoked.
    pub fn run_counts(&self) -> (usize, usize) {
        let state = self.read();
        (state.runs.live.len(), state.runs.revoked.len())
    }

    /// One run, if it lives.
    pub fn run(&self, id: &RunId) -> Option<Arc<LiveRun>> {
        self.read().runs.live.get(id).cloned()
    }

    /// How a run of this node ended, as long as its SVIDs may be valid.
    pub fn ended_run(&self, id: &RunId, node: &SpiffeId) -> Option<Ended> {
        let state = self.read();
        let (of, ended) = state.runs.ended.get(id)?;
        (of == node).then(|| ended.clone())
    }

    /// How many runs of a class live.
    pub fn live_runs(&self, class: &ClassName) -> usize {
        self.read().runs.places.get(class).map_or(0, BTreeMap::len)
    }

    /// The places of a class, up to `places`, that no live run has.
    pub fn free_places(&self, class: &ClassName, places: u32) -> Vec<u32> {
        let state = self.read();
        let taken = state.runs.places.get(class);
        let free = |place: &u32| taken.is_none_or(|taken| !taken.contains_key(place));
        (1..=places).filter(free).collect()
    }

    /// Live runs that the filter picks, after an id, at most `limit`.
    pub fn runs(&self, filter: &RunFilter, after: Option<&RunId>, limit: usize) -> Page<Arc<LiveRun>> {
        let state = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = state.runs.live.range::<RunId, _>((from, Bound::Unbounded));
        let picked = rows.map(|(_, live)| live).filter(|live| filter.picks(&live.run));
        page(picked.cloned(), limit)
    }

    /// The runs whose revocations are past: all of their SVIDs have ended by themselves.
    pub fn past_revocations(&self, now: OffsetDateTime) -> Vec<RunId> {
        let state = self.read();
        let past = |(_, revoked): &(&RunId, &Arc<Revoked>)| revoked.revocation.until <= now;
        state
            .runs
            .revoked
            .iter()
            .filter(past)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Revocations of runs with ids after `after`, at most `limit`.
    pub fn revocations(&self, after: Option<&RunId>, limit: usize) -> Page<Arc<Revoked>> {
        let state = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = state.runs.revoked.range::<RunId, _>((from, Bound::Unbounded));
        page(rows.map(|(_, revoked)| Arc::clone(revoked)), limit)
    }

    /// Forgets the ends of runs whose SVIDs are all past.
    pub fn forget_ended_runs(&self, now: OffsetDateTime) {
        let mut state = self.write();
        state.runs.ended.retain(|_, (_, ended)| ended.svids_end_at > now);
    }

    /// Whether an agent is one of these nodes, by its id or by an alias.
    pub fn is_among(&self, agent: &SpiffeId, nodes: &ClassNodes, now: OffsetDateTime) -> bool {
        match nodes {
            ClassNodes::Any => true,
            ClassNodes::These(nodes) => {
                let state = self.read();
                nodes.contains(agent)
                    || authorized::aliases_of(&state, agent, now).any(|alias| nodes.contains(alias))
                    || own_aliases(&state, agent, now).any(|alias| nodes.contains(alias))
            }
        }
    }

    /// Whether an agent may serve an entry that gives this id.
    pub fn may_hold(&self, agent: &SpiffeId, id: &SpiffeId, now: OffsetDateTime) -> bool {
        let state = self.read();
        let holders = state.by_spiffe_id.get(id).map(|group| group.all());
        holders
            .into_iter()
            .flatten()
            .any(|entry| authorized::may_serve(&state, agent, entry, now))
    }
}

/// The aliases that an agent got with its join token: entries below itself that ask for its own id.
fn own_aliases<'a>(
    state: &'a State,
    agent: &'a SpiffeId,
    now: OffsetDateTime,
) -> impl Iterator<Item = &'a SpiffeId> {
    let below = state.by_parent.get(agent).map(|group| group.all());
    below
        .into_iter()
        .flatten()
        .filter(move |entry| {
            let own = |selector: &vouchsafe_identity::Selector| {
                selector.kind() == "spiffe_id" && selector.value() == agent.as_str()
            };
            entry.is_live(now) && !entry.selectors.is_empty() && entry.selectors.iter().all(own)
        })
        .map(|entry| &entry.spiffe_id)
}
