//! The last changes, as agents see them: an agent that was cut off for a while hears what it has missed,
//! without a look into the store.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use vouchsafe_identity::{ClassName, RunId, SpiffeId, TrustDomain};
use vouchsafe_store::{Change, ChangeKind, Revision};

use super::concern::{Concern, What, Who};
use super::runs::Runs;

/// How many changes are remembered.
pub(super) const MAX_CHANGES: usize = 8192;
/// Of a change that concerns more agents than this, it is not remembered whom.
const MAX_NAMED: usize = 64;

/// What an agent may have missed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// Entries that changed.
    pub entries: HashSet<Arc<str>>,
    /// Trust domains whose bundles changed.
    pub bundles: HashSet<TrustDomain>,
    /// Any entry may have come or gone.
    pub everything: bool,
    /// Classes that changed.
    pub classes: HashSet<ClassName>,
    /// Runs that came or went.
    pub runs: HashSet<RunId>,
    /// Any class may have come or gone.
    pub all_classes: bool,
    /// Runs whose SVIDs were revoked, or whose revocation is over.
    pub revocations: HashSet<RunId>,
}

impl Missed {
    /// How many things it is.
    pub fn count(&self) -> usize {
        self.entries.len() + self.classes.len() + self.runs.len() + self.revocations.len()
    }

    /// The same without classes, runs and revocations.
    #[must_use]
    pub fn without_runs(self) -> Self {
        Self {
            entries: self.entries,
            bundles: self.bundles,
            everything: self.everything,
            ..Self::default()
        }
    }
}

#[derive(Debug)]
struct Past {
    revision: Revision,
    what: What,
    /// `None`: it may concern anybody.
    who: Option<Box<[SpiffeId]>>,
}

/// The last changes, oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Changes up to this revision are forgotten.
    floor: Revision,
    past: VecDeque<Past>,
}

impl History {
    /// Remembers nothing of what was up to `floor`.
    pub(super) fn from(floor: Revision) -> Self {
        Self {
            floor,
            past: VecDeque::new(),
        }
    }

    /// A change as the store remembers it: what, but not whom it concerned, apart from runs, of which `runs` knows.
    pub(super) fn add_stored(&mut self, change: Change, runs: &Runs) {
        let mut who = None;
        let what = match change.kind {
            ChangeKind::Entry(id) => What::Entry(id.as_str().into()),
            ChangeKind::Bundle(trust_domain) => What::Bundle(trust_domain),
            ChangeKind::Revocation(id) => What::Revocation(id),
            ChangeKind::Class(name) => What::Class(name),
            ChangeKind::Run(id) => {
                // What is kept no longer ended days ago.
                let Some(node) = runs.node_of(&id) else { return };
                who = Some([node.clone()].into());
                What::Run(id)
            }
            _ => return,
        };
        let revision = change.revision;
        self.push(Past { revision, what, who });
    }

    /// A change that the index has just shown.
    pub(super) fn add(&mut self, revision: Revision, concern: &Concern) {
        let who = match &concern.who {
            Who::These(agents) if agents.is_empty() => return,
            Who::These(agents) if agents.len() <= MAX_NAMED => Some(agents.iter().cloned().collect()),
            Who::These(_) | Who::Anybody => None,
        };
        if concern.what == What::Standing {
            return;
        }
        self.push(Past {
            revision,
            what: concern.what.clone(),
            who,
        });
    }

    /// The revision of the last change; what came after it changed nothing for agents.
    pub(super) fn last(&self) -> Revision {
        self.past.back().map_or(self.floor, |past| past.revision)
    }

    /// What may concern an agent of all that came after `after`; `None` when that is not remembered any more.
    pub(super) fn missed(&self, agent: &SpiffeId, after: Revision) -> Option<Missed> {
        if after < self.floor {
            return None;
        }
        let mut missed = Missed::default();
        let newer = self.past.iter().rev().take_while(|past| past.revision > after);
        let concerning = newer.filter(|past| past.who.as_ref().is_none_or(|who| who.contains(agent)));
        for past in concerning {
            match &past.what {
                What::Entry(id) => {
                    missed.entries.insert(Arc::clone(id));
                }
                What::Bundle(trust_domain) => {
                    missed.bundles.insert(trust_domain.clone());
                }
                What::Entries => missed.everything = true,
                What::Class(name) => {
                    missed.classes.insert(name.clone());
                }
                What::Classes => missed.all_classes = true,
                What::Run(id) => {
                    missed.runs.insert(*id);
                }
                What::Revocation(id) => {
                    missed.revocations.insert(*id);
                }
                What::Standing => {}
            }
        }
        Some(missed)
    }

    fn push(&mut self, past: Past) {
        self.past.push_back(past);
        if self.past.len() > MAX_CHANGES
            && let Some(forgotten) = self.past.pop_front()
        {
            self.floor = forgotten.revision;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(n: usize) -> SpiffeId {
        SpiffeId::new(&format!("spiffe://example.org/spire/agent/{n}")).unwrap()
    }

    fn change(n: usize) -> Concern {
        Concern {
            what: What::Entry(n.to_string().into()),
            who: Who::These(HashSet::from([agent(n % 2)]).into()),
        }
    }

    #[test]
    fn an_agent_hears_of_its_own_changes_after_its_revision_only() {
        let mut history = History::from(Revision(10));
        for n in 11..=16_u64 {
            history.add(Revision(n), &change(usize::try_from(n).unwrap()));
        }
        let missed = history.missed(&agent(0), Revision(12)).unwrap();
        assert_eq!(missed.entries, HashSet::from(["14".into(), "16".into()]));
        assert!(!missed.everything && missed.bundles.is_empty());
        assert_eq!(
            history.missed(&agent(0), Revision(16)).unwrap(),
            Missed::default()
        );
        assert!(history.missed(&agent(0), Revision(9)).is_none());
        assert_eq!(history.last(), Revision(16));
    }

    #[test]
    fn what_is_forgotten_is_not_passed_off_as_nothing() {
        let mut history = History::from(Revision(0));
        for n in 1..=MAX_CHANGES + 5 {
            history.add(Revision(n.try_into().unwrap()), &change(n));
        }
        assert!(history.missed(&agent(0), Revision(4)).is_none());
        let missed = history.missed(&agent(0), Revision(5)).unwrap();
        assert_eq!(missed.entries.len(), MAX_CHANGES / 2);
    }

    #[test]
    fn a_change_of_many_is_remembered_for_everybody() {
        let mut history = History::from(Revision(0));
        let many = Concern {
            what: What::Entries,
            who: Who::These(Arc::new((0..=MAX_NAMED).map(agent).collect())),
        };
        history.add(Revision(1), &many);
        assert!(
            history
                .missed(&agent(MAX_NAMED + 7), Revision(0))
                .unwrap()
                .everything
        );
    }
}
