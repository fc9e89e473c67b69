//! What is looked for only where somebody wants it, for it is dear: each attestor names such selectors, and entries ask for
//! them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A set of such selectors, by what stands before their value, as in `process:venv`. Each is counted, as often as it was
/// added. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    everything: bool,
    counts: Arc<BTreeMap<Box<str>, usize>>,
}

impl Asked {
    /// All that can be found: for operators who look what an entry could ask for.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            everything: true,
            counts: Arc::default(),
        }
    }

    /// Adds one more who wants this.
    pub fn add(&mut self, what: &str) {
        let counts = Arc::make_mut(&mut self.counts);
        match counts.get_mut(what) {
            Some(count) => *count = count.saturating_add(1),
            None => {
                counts.insert(what.into(), 1);
            }
        }
    }

    /// Takes one away who wanted this.
    pub fn remove(&mut self, what: &str) {
        let counts = Arc::make_mut(&mut self.counts);
        match counts.get_mut(what) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                counts.remove(what);
            }
        }
    }

    /// Whether anybody wants this.
    #[must_use]
    pub fn has(&self, what: &str) -> bool {
        self.everything || self.counts.contains_key(what)
    }

    /// Whether anybody wants something that begins so.
    #[must_use]
    pub fn has_any_below(&self, prefix: &str) -> bool {
        let mut from = self
            .counts
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        self.everything || from.next().is_some_and(|(what, _)| what.starts_with(prefix))
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.everything && self.counts.is_empty()
    }

    /// Whether all is wanted.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether all that `other` wants was looked for where this was wanted.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.everything
            || Arc::ptr_eq(&self.counts, &other.counts)
            || (!other.everything && other.counts.keys().all(|what| self.counts.contains_key(what)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(all: &[&str]) -> Asked {
        let mut asked = Asked::default();
        all.iter().for_each(|what| asked.add(what));
        asked
    }

    #[test]
    fn what_was_added_twice_is_wanted_until_it_was_taken_away_twice() {
        let mut asked = asked(&["process:cwd", "process:cwd"]);
        let before = asked.clone();
        asked.remove("process:cwd");
        assert!(asked.has("process:cwd"));
        asked.remove("process:cwd");
        asked.remove("process:cwd");
        assert_eq!(asked, Asked::default());
        assert!(before.has("process:cwd"), "a copy stays as it was");
    }

    #[test]
    fn one_set_covers_another_if_it_has_all_of_it() {
        let (few, more) = (asked(&["a"]), asked(&["a", "a", "b"]));
        assert!(more.covers(&few) && !few.covers(&more) && few.covers(&few));
        assert!(Asked::everything().covers(&more) && !more.covers(&Asked::everything()));
        assert!(few.covers(&Asked::default()));
    }

    #[test]
    fn what_begins_so_is_found_and_no_neighbour() {
        let asked = asked(&["process:package:x", "process:z"]);
        assert!(asked.has_any_below("process:package:"));
        assert!(!asked.has_any_below("process:pa:") && !asked.has_any_below("process:q"));
        assert!(Asked::everything().has_any_below("a") && Asked::everything().has("a"));
    }
}
