//! What callers know: what was acknowledged, and what was asked and not answered.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure};

/// What a thing shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Want {
    /// There, with this value.
    Is(String),
    /// There, with a value that the server chooses.
    Made,
    /// Gone.
    Gone,
}

impl Want {
    fn is_met(&self, found: Option<&String>) -> bool {
        match self {
            Self::Is(value) => found == Some(value),
            Self::Made => found.is_some(),
            Self::Gone => found.is_none(),
        }
    }
}

/// One step of a caller. Things are named by their kind and id, such as `entry/abc`.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Asked for; from now on it may be done.
    Asked(String, Want),
    /// Acknowledged; from now on it must be done.
    Acknowledged(String, Want),
    /// A serial number was handed out.
    Serial(String),
}

/// What must and what may be there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    settled: BTreeMap<String, Want>,
    flying: BTreeMap<String, Want>,
    serials: BTreeSet<String>,
}

impl Ledger {
    /// Takes down one step.
    pub(crate) fn note(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Asked(name, want) => {
                self.flying.insert(name, want);
            }
            Event::Acknowledged(name, want) => {
                self.flying.remove(&name);
                self.settled.insert(name, want);
            }
            Event::Serial(serial) => {
                ensure!(
                    self.serials.insert(serial.clone()),
                    "serial {serial} was issued twice"
                );
            }
        }
        Ok(())
    }

    /// Checks what was found, and takes it for settled: what was in flight has landed, or never will.
    pub(crate) fn settle(&mut self, found: &BTreeMap<String, String>) -> anyhow::Result<()> {
        let flying = std::mem::take(&mut self.flying);
        for (name, want) in &self.settled {
            let there = found.get(name);
            let in_flight = flying.get(name).is_some_and(|want| want.is_met(there));
            if !want.is_met(there) && !in_flight {
                bail!("`{name}` was acknowledged as {want:?} and is {there:?}");
            }
        }
        for name in found.keys() {
            ensure!(
                self.settled.contains_key(name)
                    || flying.contains_key(name)
                    || name.starts_with("authority/"),
                "`{name}` is there, and nobody asked for it"
            );
        }
        for (name, want) in flying {
            let now = match found.get(&name) {
                Some(value) => Want::Is(value.clone()),
                None => Want::Gone,
            };
            let known = self.settled.get(&name);
            ensure!(
                want.is_met(found.get(&name)) || known.is_none_or(|known| known.is_met(found.get(&name))),
                "`{name}` is {now:?}, neither as before nor as asked"
            );
            self.settled.insert(name, now);
        }
        Ok(())
    }

    /// The things of a kind that are there for certain.
    pub(crate) fn standing(&self, kind: &str) -> Vec<String> {
        let there = self.settled.iter().filter(|(_, want)| **want != Want::Gone);
        there
            .filter_map(|(name, _)| name.strip_prefix(kind)?.strip_prefix('/').map(str::to_owned))
            .collect()
    }

    /// How much was acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.settled.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[(&str, &str)]) -> BTreeMap<String, String> {
        let names = names.iter();
        names
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn is(value: &str) -> Want {
        Want::Is(value.to_owned())
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let mut ledger = Ledger::default();
        ledger.note(Event::Acknowledged("a".to_owned(), is("1"))).unwrap();
        ledger.clone().settle(&found(&[])).unwrap_err();
        ledger.clone().settle(&found(&[("a", "2")])).unwrap_err();
        ledger.settle(&found(&[("a", "1")])).unwrap();
    }

    #[test]
    fn what_is_in_flight_may_be_either_and_nothing_else() {
        let mut ledger = Ledger::default();
        ledger.note(Event::Acknowledged("a".to_owned(), is("1"))).unwrap();
        ledger.note(Event::Asked("a".to_owned(), is("2"))).unwrap();
        ledger.note(Event::Asked("b".to_owned(), Want::Made)).unwrap();
        ledger.clone().settle(&found(&[("a", "3")])).unwrap_err();
        ledger.clone().settle(&found(&[])).unwrap_err();
        ledger.clone().settle(&found(&[("a", "1")])).unwrap();
        ledger.settle(&found(&[("a", "2"), ("b", "x")])).unwrap();
        // From then on it is so.
        ledger
            .clone()
            .settle(&found(&[("a", "1"), ("b", "x")]))
            .unwrap_err();
        ledger.settle(&found(&[("a", "2")])).unwrap_err();
    }

    #[test]
    fn what_nobody_asked_for_is_told() {
        Ledger::default().settle(&found(&[("a", "1")])).unwrap_err();
    }

    #[test]
    fn a_serial_comes_once() {
        let mut ledger = Ledger::default();
        ledger.note(Event::Serial("1".to_owned())).unwrap();
        ledger.note(Event::Serial("1".to_owned())).unwrap_err();
    }
}
