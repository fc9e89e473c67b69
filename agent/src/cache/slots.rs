//! One slot for each entry whose X.509-SVID is held or wanted, and what is due for it. Plain decisions: no clock, no
//! IO, no keys are made here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_identity::SpiffeId;
use vouchsafe_identity::secret::Secret;

use super::EntryIndex;
use super::rotation::Lifetime;
use crate::entry::{Entry, EntryId, EntryVersion};

/// After a first failure an SVID is asked for again after this long; twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// After a call that failed as a whole, so that others come in between.
const UNASKED_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// An X.509-SVID with its key.
pub struct X509Svid {
    /// Whose identity it is.
    pub spiffe_id: SpiffeId,
    /// State of the entry that it was issued for.
    pub version: EntryVersion,
    /// DER certificates one after another, leaf first.
    pub certificates: Vec<u8>,
    /// PKCS#8, DER.
    pub key: Secret<Vec<u8>>,
    /// From when to when it is valid.
    pub lifetime: Lifetime,
    /// When to replace it.
    pub rotate_at: OffsetDateTime,
    /// Of the leaf, in lower-case hex.
    pub serial: String,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// Why an SVID could not be had the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people.
    pub reason: String,
    attempts: u32,
    retry_at: OffsetDateTime,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    svid: Option<Arc<X509Svid>>,
    failure: Option<Failure>,
    asked: bool,
    pins: usize,
    used: u64,
}

impl Slot {
    /// From when on a (new) SVID is needed; `None`: at once.
    fn needed_from(&self) -> Option<OffsetDateTime> {
        let needed = match &self.svid {
            Some(svid) if svid.version == self.entry.version => Some(svid.rotate_at),
            _ => None,
        };
        match (&self.failure, needed) {
            (Some(failure), Some(needed)) => Some(failure.retry_at.max(needed)),
            (Some(failure), None) => Some(failure.retry_at),
            (None, needed) => needed,
        }
    }

    fn is_due(&self, now: OffsetDateTime) -> bool {
        !self.asked && self.needed_from().is_none_or(|from| from <= now)
    }

    /// Who is served first: those that a caller waits for, then those without, then by age.
    fn urgency(&self) -> (bool, bool, Option<OffsetDateTime>) {
        (self.pins == 0, self.svid.is_some(), self.needed_from())
    }

    fn usable(&self, now: OffsetDateTime) -> Option<Arc<X509Svid>> {
        self.svid
            .as_ref()
            .filter(|svid| svid.spiffe_id == self.entry.spiffe_id && !svid.lifetime.is_over(now))
            .cloned()
    }
}

/// What is known of the SVID of one entry.
#[derive(Debug, Clone)]
pub enum Held {
    /// It is there and valid.
    Ready(Arc<X509Svid>),
    /// It was asked for and could not be had.
    Failed(String),
    /// It is on its way.
    Awaited,
}

/// All slots, at most `limit` besides those that open streams hold.
#[derive(Debug)]
pub struct Slots {
    slots: HashMap<EntryId, Slot>,
    limit: usize,
    tick: u64,
}

impl Slots {
    /// No slot yet.
    pub fn new(limit: usize) -> Self {
        Self {
            slots: HashMap::new(),
            limit,
            tick: 0,
        }
    }

    /// Takes in what the server now says: slots of entries that are gone go, and as long as there is room SVIDs are
    /// had before anyone asks.
    pub fn follow(&mut self, entries: &EntryIndex) {
        self.slots.retain(|id, slot| match entries.get(id) {
            Some(entry) => {
                if entry.version != slot.entry.version {
                    slot.failure = None;
                }
                slot.entry = Arc::clone(entry);
                true
            }
            None => false,
        });
        for entry in entries.iter().filter(|entry| entry.prefetch && !entry.store_svid) {
            if self.slots.len() >= self.limit {
                break;
            }
            self.slot(entry);
        }
    }

    fn slot(&mut self, entry: &Arc<Entry>) -> &mut Slot {
        self.tick += 1;
        let used = self.tick;
        self.slots.entry(entry.id.clone()).or_insert_with(|| Slot {
            entry: Arc::clone(entry),
            svid: None,
            failure: None,
            asked: false,
            pins: 0,
            used,
        })
    }

    /// A caller wants the SVID of this entry, and keeps it from being evicted until [`Slots::unpin`].
    pub fn pin(&mut self, entry: &Arc<Entry>) {
        let tick = self.tick + 1;
        let slot = self.slot(entry);
        slot.pins += 1;
        slot.used = tick;
    }

    /// A caller is done with it.
    pub fn unpin(&mut self, id: &EntryId) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.pins = slot.pins.saturating_sub(1);
        }
        self.evict();
    }

    /// Drops the slots that were unused for longest, until the limit is kept.
    fn evict(&mut self) {
        let excess = self.slots.len().saturating_sub(self.limit);
        if excess == 0 {
            return;
        }
        let mut idle: Vec<(u64, EntryId)> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.pins == 0)
            .map(|(id, slot)| (slot.used, id.clone()))
            .collect();
        idle.sort_unstable();
        for (_, id) in idle.into_iter().take(excess) {
            self.slots.remove(&id);
        }
    }

    /// What is known of the SVID of this entry at this moment.
    pub fn look(&self, entry: &Entry, now: OffsetDateTime) -> Held {
        let Some(slot) = self.slots.get(&entry.id) else {
            return Held::Awaited;
        };
        match (slot.usable(now), &slot.failure) {
            // The slot can be ahead of, or behind, the entry that the caller matched.
            (Some(svid), _) if svid.spiffe_id == entry.spiffe_id => Held::Ready(svid),
            (_, Some(failure)) => Held::Failed(failure.reason.clone()),
            (_, None) => Held::Awaited,
        }
    }

    /// Takes at most `count` entries whose SVIDs are to be had now, the most urgent first. Each is answered with
    /// [`Slots::issued`] or [`Slots::failed`].
    pub fn take_due(&mut self, now: OffsetDateTime, count: usize) -> Vec<Arc<Entry>> {
        let mut due: Vec<&mut Slot> = self.slots.values_mut().filter(|slot| slot.is_due(now)).collect();
        due.sort_by_key(|slot| slot.urgency());
        due.into_iter()
            .take(count)
            .map(|slot| {
                slot.asked = true;
                Arc::clone(&slot.entry)
            })
            .collect()
    }

    /// When something will next be due, if nothing changes.
    pub fn next_due(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        self.slots
            .values()
            .filter(|slot| !slot.asked)
            .map(|slot| slot.needed_from().unwrap_or(now))
            .min()
    }

    /// An SVID has come.
    pub fn issued(&mut self, id: &EntryId, svid: X509Svid) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.asked = false;
            slot.failure = None;
            slot.svid = Some(Arc::new(svid));
        }
    }

    /// Nobody could be asked, which says nothing about this SVID: it does not wait longer each time.
    pub fn unasked(&mut self, id: &EntryId, reason: &str, now: OffsetDateTime) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.asked = false;
            slot.failure = Some(Failure {
                reason: reason.to_owned(),
                attempts: 0,
                retry_at: now + UNASKED_RETRY,
            });
        }
    }

    /// An SVID could not be had.
    pub fn failed(&mut self, id: &EntryId, reason: &str, now: OffsetDateTime) {
        if let Some(slot) = self.slots.get_mut(id) {
            let attempts = slot.failure.as_ref().map_or(0, |failure| failure.attempts);
            let wait = FIRST_RETRY
                .saturating_mul(1 << attempts.min(16))
                .min(LONGEST_RETRY);
            slot.asked = false;
            slot.failure = Some(Failure {
                reason: reason.to_owned(),
                attempts: attempts + 1,
                retry_at: now + wait,
            });
        }
    }

    /// How many SVIDs are held.
    pub fn held(&self) -> usize {
        self.slots.values().filter(|slot| slot.svid.is_some()).count()
    }
}

#[cfg(test)]
mod tests;
