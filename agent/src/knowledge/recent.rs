//! The last few steps of what is known.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::entry::Entry;

/// Most steps that are remembered: readers that are woken for each see all of them.
const MAX_STEPS: usize = 64;
/// A step with more changed entries is not remembered: looking at everything is no dearer then.
const MAX_CHANGES: usize = 256;

/// How one state differs from the last.
#[derive(Debug)]
pub struct Step {
    /// The version of the state that it leads to.
    pub version: u64,
    /// The entries that changed.
    pub entries: Vec<EntryChange>,
    /// Whether bundles changed.
    pub bundles: bool,
}

/// A changed entry: as it was, and as it is.
#[derive(Debug, Clone)]
pub struct EntryChange {
    /// `None`: it is new.
    pub before: Option<Arc<Entry>>,
    /// `None`: it is gone.
    pub after: Option<Arc<Entry>>,
}

/// The steps since some version.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    from: u64,
    steps: VecDeque<Arc<Step>>,
}

impl Recent {
    /// Remembers a step, and forgets the oldest one where there are too many.
    pub(super) fn push(&mut self, step: Step) {
        if step.entries.len() > MAX_CHANGES {
            return self.forget(step.version);
        }
        self.steps.push_back(Arc::new(step));
        if self.steps.len() > MAX_STEPS
            && let Some(oldest) = self.steps.pop_front()
        {
            self.from = oldest.version;
        }
    }

    /// Begins anew with the state of that version.
    pub(super) fn forget(&mut self, version: u64) {
        self.steps.clear();
        self.from = version;
    }

    /// The steps that lead on from that version, if all of them are remembered.
    pub(super) fn since(&self, version: u64) -> Option<impl Iterator<Item = &Step>> {
        let after = move |step: &&Step| step.version > version;
        (version >= self.from).then(|| self.steps.iter().map(AsRef::as_ref).filter(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(version: u64, changes: usize) -> Step {
        let change = EntryChange {
            before: None,
            after: None,
        };
        Step {
            version,
            entries: vec![change; changes],
            bundles: false,
        }
    }

    fn versions(recent: &Recent, since: u64) -> Option<Vec<u64>> {
        recent
            .since(since)
            .map(|steps| steps.map(|step| step.version).collect())
    }

    #[test]
    fn who_is_too_far_behind_must_look_at_everything() {
        let mut recent = Recent::default();
        let last = u64::try_from(MAX_STEPS).unwrap() + 3;
        for version in 1..=last {
            recent.push(step(version, 1));
        }
        assert_eq!(versions(&recent, 2), None);
        assert_eq!(versions(&recent, 3).unwrap().len(), MAX_STEPS);
        assert_eq!(versions(&recent, last - 1), Some(vec![last]));
        assert_eq!(versions(&recent, last), Some(Vec::new()));
    }

    #[test]
    fn a_large_step_is_not_remembered() {
        let mut recent = Recent::default();
        recent.push(step(1, 1));
        recent.push(step(2, MAX_CHANGES + 1));
        recent.push(step(3, 1));
        assert_eq!(versions(&recent, 1), None);
        assert_eq!(versions(&recent, 2), Some(vec![3]));
    }
}
