//! The X.509-SVIDs that are held, shared by callers and the issuer: a lock around [`Slots`], and who is woken when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use vouchsafe_runtime::telemetry::traces::OnBehalf;

use super::EntryIndex;
use super::distrust::Distrust;
use super::slots::{Held, Lane, Pin, Slots, Watcher, X509Svid};
use crate::entry::{Entry, EntryId};
use crate::knowledge::Knowledge;

/// Holds X.509-SVIDs. Cheap to clone: all clones hold the same.
#[derive(Debug, Clone)]
pub struct X509Cache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    slots: Mutex<Slots>,
    distrust: ArcSwap<Distrust>,
    /// Counts changes of what [`X509Cache::look`] says.
    changes: watch::Sender<u64>,
    /// Wakes the issuer of SVIDs that callers wait for.
    urgent: Notify,
    /// Wakes the issuer of the others.
    ahead: Notify,
}

/// The outcome of asking for one SVID.
pub type Outcome = Result<X509Svid, String>;

impl X509Cache {
    /// An empty cache of that many SVIDs, besides those that open streams hold.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            slots: Mutex::new(Slots::new(limit)),
            distrust: ArcSwap::default(),
            changes: watch::Sender::new(0),
            urgent: Notify::new(),
            ahead: Notify::new(),
        }))
    }

    /// Takes in all that the server now says.
    pub fn follow(&self, entries: &EntryIndex) {
        self.lock().follow(entries);
        self.wake();
    }

    /// Takes in what differs since the state of that version, as far as it is remembered, else all of it.
    pub fn follow_since(&self, known: &Knowledge, version: u64) {
        let Some(steps) = known.since(version) else {
            return self.follow(&known.entries);
        };
        let changes = steps.flat_map(|step| &step.entries);
        self.lock().change(changes, &known.entries);
        self.wake();
    }

    /// Says that a caller wants the SVIDs of these entries, and is woken by what becomes of them, until the pins are
    /// dropped.
    pub fn pin(&self, entries: &[Arc<Entry>], watcher: &Watcher) -> Pins {
        let mut slots = self.lock();
        let held: HashMap<EntryId, Pin> = entries
            .iter()
            .map(|entry| (entry.id.clone(), slots.pin(entry, watcher)))
            .collect();
        drop(slots);
        if held.values().any(|pin| pin.awaits) {
            self.0.urgent.notify_one();
        }
        Pins {
            cache: self.clone(),
            watcher: watcher.clone(),
            held,
        }
    }

    /// What is known of the SVIDs of these entries, in their order.
    pub fn look(&self, entries: &[Arc<Entry>], now: OffsetDateTime) -> Vec<Held> {
        let slots = self.lock();
        entries.iter().map(|entry| slots.look(entry, now)).collect()
    }

    /// To wait for changes of what is known.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Takes in what was held before the agent's last start. `jitter` gives random numbers from -1 to 1.
    pub fn restore(
        &self,
        entries: &EntryIndex,
        svids: Vec<(EntryId, X509Svid)>,
        now: OffsetDateTime,
        jitter: impl Fn() -> f64,
    ) {
        let mut slots = self.lock();
        slots.follow(entries);
        for (id, mut svid) in svids {
            if let Some(entry) = entries.get(&id) {
                svid.rotate_at = svid.lifetime.rotate_at(now, jitter());
                slots.restore(entry, svid);
            }
        }
        drop(slots);
        self.wake();
        self.changed();
    }

    /// The SVIDs that are held, by entry.
    pub fn snapshot(&self) -> HashMap<EntryId, Arc<X509Svid>> {
        self.lock().snapshot()
    }

    /// The earliest and the latest end of the SVIDs that may be served now.
    pub fn ends(&self, now: OffsetDateTime) -> Option<(OffsetDateTime, OffsetDateTime)> {
        self.lock().ends(now)
    }

    /// How many SVIDs are held.
    pub fn held(&self) -> usize {
        self.lock().held()
    }

    /// Takes at most `count` entries whose SVIDs are to be had now.
    pub(super) fn take_due(&self, lane: Lane, now: OffsetDateTime, count: usize) -> Vec<Arc<Entry>> {
        self.lock().take_due(lane, now, count)
    }

    /// The call on whose behalf SVIDs of a lane are had: of those that callers wait for, the first one that is traced.
    pub(super) fn waiting(&self, lane: Lane, entries: &[Arc<Entry>]) -> OnBehalf {
        match lane {
            Lane::Urgent => self.lock().waiting(entries),
            Lane::Ahead => OnBehalf::default(),
        }
    }

    /// When something will next be due, if nothing changes.
    pub(super) fn next_due(&self, lane: Lane, now: OffsetDateTime) -> Option<OffsetDateTime> {
        self.lock().next_due(lane, now)
    }

    /// Waits until something may be due earlier than [`X509Cache::next_due`] said.
    pub(super) async fn work(&self, lane: Lane) {
        match lane {
            Lane::Urgent => self.0.urgent.notified().await,
            Lane::Ahead => self.0.ahead.notified().await,
        }
    }

    fn wake(&self) {
        self.0.urgent.notify_one();
        self.0.ahead.notify_one();
    }

    /// Takes in that a call for these entries failed as a whole.
    pub(super) fn unasked(&self, entries: &[Arc<Entry>], reason: &str, now: OffsetDateTime) {
        let mut slots = self.lock();
        for entry in entries {
            slots.unasked(&entry.id, reason, now);
        }
        drop(slots);
        self.changed();
    }

    /// From now on an SVID that hangs on one of these authorities is replaced as soon as it comes.
    pub(super) fn distrust(&self, distrust: Arc<Distrust>) {
        self.0.distrust.store(distrust);
    }

    /// The SVIDs that are held and not to be replaced at once anyway; those that callers wait for come first.
    pub(super) fn unhurried(&self) -> Vec<(EntryId, Arc<X509Svid>)> {
        self.lock().unhurried()
    }

    /// These SVIDs are to be replaced from the moment that stands with each, whatever their age.
    pub(super) fn hurry(&self, svids: Vec<(EntryId, Arc<X509Svid>, OffsetDateTime)>) {
        let mut slots = self.lock();
        for (id, svid, at) in &svids {
            slots.hurry(id, svid, *at);
        }
        drop(slots);
        self.wake();
    }

    /// Takes in the outcomes of one call.
    pub(super) fn settle(&self, outcomes: Vec<(EntryId, Outcome)>, now: OffsetDateTime) {
        let distrust = self.0.distrust.load_full();
        // Proving signatures takes time, so it is done before the lock is held.
        let outcomes: Vec<_> = outcomes
            .into_iter()
            .map(|(id, outcome)| {
                let in_vain = outcome
                    .as_ref()
                    .is_ok_and(|svid| distrust.covers_chain(&svid.certificates));
                (id, outcome, in_vain)
            })
            .collect();
        let mut slots = self.lock();
        for (id, outcome, in_vain) in outcomes {
            match outcome {
                Ok(svid) if in_vain => slots.issued_in_vain(&id, svid, now),
                Ok(svid) => slots.issued(&id, svid),
                Err(reason) => slots.failed(&id, &reason, now),
            }
        }
        drop(slots);
        self.changed();
    }

    fn changed(&self) {
        // What was issued is from now on the other lane's to renew.
        self.wake();
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps SVIDs from being evicted while a caller holds a stream on them.
#[derive(Debug)]
pub struct Pins {
    cache: X509Cache,
    watcher: Watcher,
    held: HashMap<EntryId, Pin>,
}

impl Pins {
    /// Whether these are the pins of exactly these entries, and still hold.
    pub fn hold(&self, entries: &[Arc<Entry>]) -> bool {
        let slots = self.cache.lock();
        let held = |entry: &Arc<Entry>| {
            self.held
                .get(&entry.id)
                .is_some_and(|pin| slots.is_pinned(&entry.id, *pin))
        };
        self.held.len() == entries.len() && entries.iter().all(held)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut slots = self.cache.lock();
        for (id, pin) in &self.held {
            slots.unpin(id, *pin, &self.watcher);
        }
    }
}
