//! What the agent knows from the server: entries, bundles, classes and runs, as one snapshot that readers take without a lock.
//!
//! Each state remembers the last few steps to it, so that who has seen a state of late need only look at what changed.

mod recent;
mod runs;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;
use vouchsafe_identity::{Bundle, ClassName, RunId, SelectorSet, TrustDomain};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;
use vouchsafe_runtime::set_digest::SetDigest;

use crate::cache::EntryIndex;
use crate::entry::{Entry, EntryId, EntryVersion};
use recent::Recent;
pub use recent::{EntryChange, Step};

/// One state of what is known. It is replaced as a whole, and only when something differs.
#[derive(Debug, Clone)]
pub struct Knowledge {
    /// The agent's own trust domain.
    pub trust_domain: TrustDomain,
    /// The entries that this agent may serve.
    pub entries: Arc<EntryIndex>,
    /// Bundles of the own trust domain and of those that entries federate with.
    pub bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    /// The classes that may run on this node, disabled ones too.
    pub classes: Arc<BTreeMap<ClassName, Arc<Class>>>,
    /// The runs that live on this node, as the server knows them.
    pub runs: Arc<BTreeMap<RunId, Arc<LiveRun>>>,
    /// How runs ended that lived on this node: the last few of which the server told it, by people's words.
    pub ended_runs: Arc<BTreeMap<RunId, Arc<str>>>,
    /// The runs, of any node, whose SVIDs are revoked.
    pub revoked: Arc<BTreeMap<RunId, Arc<Revocation>>>,
    /// Whether the server has been heard since the start.
    pub complete: bool,
    /// Up to where the server's changes were followed, if it pushes them. It moves on without waking anybody.
    pub resume: Option<Resume>,
    /// Which state of entries and bundles this is; grows with each.
    pub version: u64,
    recent: Recent,
}

/// A place in the server's log of changes, and what the server told up to there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The log that the revision counts in.
    pub log_id: Arc<str>,
    /// The server's revision.
    pub revision: u64,
    /// The digest of what the server told, entries that cannot be used included.
    pub digest: SetDigest,
    /// The entries that the server told and that cannot be used.
    pub unusable: Arc<BTreeMap<EntryId, EntryVersion>>,
}

/// What a source learned from the server.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// All that there is.
    Whole(Whole),
    /// What differs from what is known.
    Changes(Changes),
}

/// All entries and bundles that there are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Whole {
    /// All entries that this agent may serve.
    pub entries: Vec<Arc<Entry>>,
    /// All bundles that there are.
    pub bundles: Vec<Bundle>,
    /// All classes that may run on this node.
    pub classes: BTreeMap<ClassName, Arc<Class>>,
    /// All runs that live on this node.
    pub runs: BTreeMap<RunId, Arc<LiveRun>>,
    /// All runs whose SVIDs are revoked.
    pub revoked: BTreeMap<RunId, Arc<Revocation>>,
    /// Where in the server's log of changes this is.
    pub resume: Option<Resume>,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum RunNews {
    /// It lives.
    Lives(Arc<LiveRun>),
    /// It has ended; how, for people.
    Ended(Arc<str>),
}

/// Some changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Entries that are new, or differ.
    pub put: Vec<Arc<Entry>>,
    /// Entries that must no longer be served. They need not be known.
    pub gone: Vec<EntryId>,
    /// Bundles that are new, or differ.
    pub bundles: Vec<Bundle>,
    /// Trust domains whose bundles are no longer needed.
    pub bundles_gone: Vec<TrustDomain>,
    /// Classes that are new, or differ, or are gone.
    pub classes: BTreeMap<ClassName, Option<Arc<Class>>>,
    /// Runs that were admitted, or have ended.
    pub runs: BTreeMap<RunId, RunNews>,
    /// Runs whose SVIDs are revoked, or whose revocation is over.
    pub revoked: BTreeMap<RunId, Option<Arc<Revocation>>>,
    /// Where in the server's log of changes this leads.
    pub resume: Option<Resume>,
}

impl News {
    /// Whether the server pushed this and what it holds for the agent agrees.
    pub fn is_agreed(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.resume.is_some(),
            Self::Changes(changes) => changes.resume.is_some(),
        }
    }
}

impl Knowledge {
    /// The bundle of the agent's own trust domain.
    pub fn own_bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundles.get(&self.trust_domain)
    }

    /// The bundles, without the own one, of the trust domains that these entries federate with.
    pub fn federated<'a>(&'a self, entries: &[Arc<Entry>]) -> BTreeMap<&'a TrustDomain, &'a Arc<Bundle>> {
        entries
            .iter()
            .flat_map(|entry| &entry.federates_with)
            .filter(|trust_domain| **trust_domain != self.trust_domain)
            .filter_map(|trust_domain| self.bundles.get_key_value(trust_domain))
            .collect()
    }

    /// The steps from a state of that version to this one; `None`: too many to remember, look at everything.
    pub fn since(&self, version: u64) -> Option<impl Iterator<Item = &Step>> {
        self.recent.since(version)
    }

    /// Whether a process with these selectors may be answered otherwise than in the state of that version.
    pub fn concerns(&self, since: u64, selectors: &SelectorSet) -> bool {
        let of_it = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|entry| entry.matches(selectors));
        let changes = |step: &Step| {
            let mut entries = step.entries.iter();
            step.bundles || entries.any(|change| of_it(&change.before) || of_it(&change.after))
        };
        self.since(since).is_none_or(|mut steps| steps.any(changes))
    }

    /// The next state, and whether it differs from this one in what callers see.
    fn next(&self, changes: Changes) -> (Self, bool) {
        let mut next = self.clone();
        next.complete = true;
        next.resume = changes.resume;
        let mut step = Step {
            version: self.version + 1,
            entries: Vec::new(),
            bundles: false,
        };
        // Copied at the first change only: most of the time there is none.
        let gone = changes.gone.iter().filter_map(|id| self.entries.get(id));
        for entry in gone {
            let before = Arc::make_mut(&mut next.entries).remove(&entry.id);
            step.entries.push(EntryChange { before, after: None });
        }
        for entry in changes.put {
            if next.entries.get(&entry.id) == Some(&entry) {
                continue;
            }
            let before = Arc::make_mut(&mut next.entries).put(Arc::clone(&entry));
            let after = Some(entry);
            step.entries.push(EntryChange { before, after });
        }
        for trust_domain in &changes.bundles_gone {
            step.bundles |= next.bundles.remove(trust_domain).is_some();
        }
        for bundle in changes.bundles {
            if next.bundles.get(&bundle.trust_domain).map(AsRef::as_ref) != Some(&bundle) {
                next.bundles.insert(bundle.trust_domain.clone(), Arc::new(bundle));
                step.bundles = true;
            }
        }
        let runs = next.take_in_runs(changes.classes, changes.runs, changes.revoked);
        let differs = !self.complete || step.bundles || !step.entries.is_empty();
        if differs {
            next.version = step.version;
            match self.complete {
                true => next.recent.push(step),
                false => next.recent.forget(step.version),
            }
        }
        (next, differs || runs)
    }

    /// What of the whole set differs from this state.
    fn changes_to(&self, whole: Whole) -> Changes {
        let ids: HashSet<&EntryId> = whole.entries.iter().map(|entry| &entry.id).collect();
        let gone = self.entries.iter().filter(|entry| !ids.contains(&entry.id));
        let gone = gone.map(|entry| entry.id.clone()).collect();
        let domains: HashSet<&TrustDomain> = whole.bundles.iter().map(|one| &one.trust_domain).collect();
        let bundles_gone = self.bundles.keys().filter(|name| !domains.contains(name));
        let bundles_gone = bundles_gone.cloned().collect();
        Changes {
            put: whole.entries,
            gone,
            bundles: whole.bundles,
            bundles_gone,
            classes: runs::changes(&self.classes, whole.classes),
            revoked: runs::changes(&self.revoked, whole.revoked),
            runs: self.runs_to(whole.runs),
            resume: whole.resume,
        }
    }
}

/// Holds the present [`Knowledge`] and tells of each change. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KnowledgeBase(watch::Sender<Arc<Knowledge>>);

impl KnowledgeBase {
    /// Knows nothing of entries yet, and the own bundle if one is given.
    pub fn new(trust_domain: TrustDomain, own: Option<Bundle>) -> Self {
        let bundles = own
            .into_iter()
            .map(|bundle| (bundle.trust_domain.clone(), Arc::new(bundle)))
            .collect();
        Self(watch::Sender::new(Arc::new(Knowledge {
            trust_domain,
            entries: Arc::default(),
            bundles,
            classes: Arc::default(),
            runs: Arc::default(),
            ended_runs: Arc::default(),
            revoked: Arc::default(),
            complete: false,
            resume: None,
            version: 0,
            recent: Recent::default(),
        })))
    }

    /// What is known now.
    pub fn get(&self) -> Arc<Knowledge> {
        Arc::clone(&self.0.borrow())
    }

    /// To wait for changes.
    pub fn changes(&self) -> watch::Receiver<Arc<Knowledge>> {
        self.0.subscribe()
    }

    /// Takes in what the server says; whether anything differs. What is equal stays the same object, and wakes nobody.
    /// One source at a time may tell.
    pub fn learn(&self, news: News) -> bool {
        let known = self.get();
        let changes = match news {
            News::Whole(whole) => known.changes_to(whole),
            News::Changes(changes) => changes,
        };
        let (next, differs) = known.next(changes);
        if differs || next.resume != known.resume {
            self.0.send_if_modified(|known| {
                *known = Arc::new(next);
                differs
            });
        }
        differs
    }
}

#[cfg(test)]
mod tests;
