//! One slot for each entry whose X.509-SVID is held or wanted, and what is due for it. Plain decisions: no clock, no
//! IO, no keys are made here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Notify;
use vouchsafe_identity::SpiffeId;
use vouchsafe_identity::secret::Secret;
use vouchsafe_runtime::telemetry::traces::OnBehalf;

use super::EntryIndex;
use super::rotation::Lifetime;
use crate::entry::{Entry, EntryId, EntryVersion};
use crate::knowledge::EntryChange;

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

/// Wakes one caller when something becomes of an SVID that it holds. Cheap to clone: all clones wake the same.
#[derive(Debug, Clone)]
pub struct Watcher {
    wake: Arc<Notify>,
    caller: OnBehalf,
}

impl Default for Watcher {
    /// Of the call that is under way.
    fn default() -> Self {
        Self {
            wake: Arc::default(),
            caller: OnBehalf::current(),
        }
    }
}

impl Watcher {
    /// Waits until something became of one of the SVIDs. What happens while nobody waits is kept.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn wake(&self) {
        self.wake.notify_one();
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.wake, &other.wake)
    }
}

/// What a caller got for holding an SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    slot: u64,
    /// Whether the SVID is still to be had.
    pub awaits: bool,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    /// Tells it from an earlier slot of the same entry.
    born: u64,
    svid: Option<Arc<X509Svid>>,
    /// When to replace it if that is before its time.
    hurried: Option<OffsetDateTime>,
    failure: Option<Failure>,
    asked: bool,
    /// The callers that hold it, each as often as it does.
    pins: Vec<Watcher>,
    used: u64,
}

impl Slot {
    /// Takes in the entry as it is now.
    fn update(&mut self, entry: &Arc<Entry>) {
        if entry.version != self.entry.version {
            self.failure = None;
        }
        self.entry = Arc::clone(entry);
    }

    /// From when on a (new) SVID is needed; `None`: at once. One of before the clock was set back is as good as none.
    fn needed_from(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let needed = match &self.svid {
            Some(svid) if svid.version == self.entry.version && svid.lifetime.has_begun(now) => {
                Some(self.hurried.map_or(svid.rotate_at, |at| at.min(svid.rotate_at)))
            }
            _ => None,
        };
        let retry_at = self.failure.as_ref().map(|failure| failure.retry_at);
        match (retry_at.filter(|at| *at <= now + LONGEST_RETRY), needed) {
            (Some(retry_at), Some(needed)) => Some(retry_at.max(needed)),
            (Some(retry_at), None) => Some(retry_at),
            (None, needed) => needed,
        }
    }

    fn is_due(&self, now: OffsetDateTime) -> bool {
        !self.asked && self.needed_from(now).is_none_or(|from| from <= now)
    }

    /// Who is served first: those that a caller waits for, then those without, then by age.
    fn urgency(&self, now: OffsetDateTime) -> (bool, bool, Option<OffsetDateTime>) {
        (self.pins.is_empty(), self.svid.is_some(), self.needed_from(now))
    }

    /// Wakes the callers that hold it.
    fn tell(&self) {
        self.pins.iter().for_each(Watcher::wake);
    }

    fn usable(&self, now: OffsetDateTime) -> Option<Arc<X509Svid>> {
        self.svid
            .as_ref()
            .filter(|svid| svid.spiffe_id == self.entry.spiffe_id)
            .filter(|svid| svid.lifetime.has_begun(now) && !svid.lifetime.is_over(now))
            .cloned()
    }
}

/// SVIDs are had in two lanes, so that a caller that waits for one does not wait for a large batch of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Those that a caller waits for.
    Urgent,
    /// All others.
    Ahead,
}

impl Lane {
    fn takes(self, slot: &Slot) -> bool {
        let urgent = slot.svid.is_none() && !slot.pins.is_empty();
        urgent == (self == Self::Urgent)
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
                slot.update(entry);
                true
            }
            None => {
                slot.tell();
                false
            }
        });
        self.fill(entries);
    }

    /// Takes in some changes of what the server says; `entries` are all as they are now.
    pub fn change<'a>(&mut self, changes: impl IntoIterator<Item = &'a EntryChange>, entries: &EntryIndex) {
        let mut room = false;
        for change in changes {
            let full = self.slots.len() >= self.limit;
            match (&change.before, &change.after) {
                (_, Some(entry)) => match self.slots.get_mut(&entry.id) {
                    Some(slot) => slot.update(entry),
                    None if entry.is_prefetched() && !full => {
                        self.slot(entry);
                    }
                    None => {}
                },
                (Some(gone), None) => {
                    // A caller that holds the slot by a later state of what is known holds it anew.
                    let slot = self.slots.remove(&gone.id);
                    slot.iter().for_each(Slot::tell);
                    room |= slot.is_some();
                }
                (None, None) => {}
            }
        }
        // Entries that found no room before may find it now.
        if room && entries.len() > self.slots.len() {
            self.fill(entries);
        }
    }

    /// Has SVIDs before anyone asks, of the oldest entries first, as long as there is room.
    fn fill(&mut self, entries: &EntryIndex) {
        let room = self.limit.saturating_sub(self.slots.len());
        if room == 0 {
            return;
        }
        let lacking = |entry: &&Arc<Entry>| entry.is_prefetched() && !self.slots.contains_key(&entry.id);
        let mut lacking: Vec<&Arc<Entry>> = entries.iter().filter(lacking).collect();
        if lacking.len() > room {
            lacking.select_nth_unstable_by(room, |a, b| a.age().cmp(&b.age()));
            lacking.truncate(room);
        }
        for entry in lacking {
            self.slot(entry);
        }
    }

    fn slot(&mut self, entry: &Arc<Entry>) -> &mut Slot {
        self.tick += 1;
        let used = self.tick;
        self.slots.entry(entry.id.clone()).or_insert_with(|| Slot {
            entry: Arc::clone(entry),
            born: used,
            svid: None,
            hurried: None,
            failure: None,
            asked: false,
            pins: Vec::new(),
            used,
        })
    }

    /// A caller wants the SVID of this entry, hears of what becomes of it, and keeps it from being evicted until
    /// [`Slots::unpin`].
    pub fn pin(&mut self, entry: &Arc<Entry>, watcher: &Watcher) -> Pin {
        let tick = self.tick + 1;
        let slot = self.slot(entry);
        slot.pins.push(watcher.clone());
        slot.used = tick;
        Pin {
            slot: slot.born,
            awaits: slot.svid.is_none(),
        }
    }

    /// Whether the pin still holds the SVID of that entry: not where the entry was gone in between.
    pub fn is_pinned(&self, id: &EntryId, pin: Pin) -> bool {
        self.slots.get(id).is_some_and(|slot| slot.born == pin.slot)
    }

    /// A caller is done with it.
    pub fn unpin(&mut self, id: &EntryId, pin: Pin, watcher: &Watcher) {
        if let Some(slot) = self.slots.get_mut(id)
            && slot.born == pin.slot
            && let Some(at) = slot.pins.iter().position(|pin| pin.is(watcher))
        {
            slot.pins.swap_remove(at);
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
            .filter(|(_, slot)| slot.pins.is_empty())
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
    pub fn take_due(&mut self, lane: Lane, now: OffsetDateTime, count: usize) -> Vec<Arc<Entry>> {
        let mut due: Vec<&mut Slot> = self
            .slots
            .values_mut()
            .filter(|slot| lane.takes(slot) && slot.is_due(now))
            .collect();
        due.sort_by_key(|slot| slot.urgency(now));
        due.into_iter()
            .take(count)
            .map(|slot| {
                slot.asked = true;
                Arc::clone(&slot.entry)
            })
            .collect()
    }

    /// The first traced call that holds one of these.
    pub fn waiting(&self, entries: &[Arc<Entry>]) -> OnBehalf {
        let slots = entries.iter().filter_map(|entry| self.slots.get(&entry.id));
        let mut callers = slots.flat_map(|slot| &slot.pins).map(|pin| &pin.caller);
        callers
            .find(|caller| !caller.is_nobody())
            .cloned()
            .unwrap_or_default()
    }

    /// When something will next be due, if nothing changes.
    pub fn next_due(&self, lane: Lane, now: OffsetDateTime) -> Option<OffsetDateTime> {
        self.slots
            .values()
            .filter(|slot| lane.takes(slot) && !slot.asked)
            .map(|slot| slot.needed_from(now).unwrap_or(now))
            .min()
    }

    /// An SVID has come.
    pub fn issued(&mut self, id: &EntryId, svid: X509Svid) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.asked = false;
            slot.failure = None;
            slot.hurried = None;
            slot.svid = Some(Arc::new(svid));
            slot.tell();
        }
    }

    /// Takes in an SVID that was had before the agent's last start, as long as there is room.
    pub fn restore(&mut self, entry: &Arc<Entry>, svid: X509Svid) {
        if self.slots.len() < self.limit || self.slots.contains_key(&entry.id) {
            self.slot(entry).svid = Some(Arc::new(svid));
        }
    }

    /// An SVID has come that serves and must be replaced all the same: its authority is distrusted.
    pub fn issued_in_vain(&mut self, id: &EntryId, svid: X509Svid, now: OffsetDateTime) {
        if let Some(slot) = self.slots.get_mut(id) {
            slot.hurried = Some(now);
            slot.svid = Some(Arc::new(svid));
        }
        self.failed(id, "the server signed it with an authority that is tainted", now);
    }

    /// The SVIDs that are held and not to be replaced at once anyway; those that callers wait for come first.
    pub fn unhurried(&self) -> Vec<(EntryId, Arc<X509Svid>)> {
        let mut held: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.hurried.is_none())
            .filter_map(|(id, slot)| Some((slot.pins.is_empty(), id, slot.svid.as_ref()?)))
            .collect();
        held.sort_by_key(|(unpinned, ..)| *unpinned);
        held.into_iter()
            .map(|(_, id, svid)| (id.clone(), Arc::clone(svid)))
            .collect()
    }

    /// This SVID is to be replaced from then on, whatever its age.
    pub fn hurry(&mut self, id: &EntryId, svid: &Arc<X509Svid>, at: OffsetDateTime) {
        let slot = self.slots.get_mut(id);
        if let Some(slot) = slot.filter(|slot| slot.svid.as_ref().is_some_and(|held| Arc::ptr_eq(held, svid)))
        {
            slot.hurried = Some(at);
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
            slot.tell();
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
            slot.tell();
        }
    }

    /// The SVIDs that are held, by entry.
    pub fn snapshot(&self) -> HashMap<EntryId, Arc<X509Svid>> {
        let held = |(id, slot): (&EntryId, &Slot)| Some((id.clone(), Arc::clone(slot.svid.as_ref()?)));
        self.slots.iter().filter_map(held).collect()
    }

    /// The earliest and the latest end of the SVIDs that may be served now.
    pub fn ends(&self, now: OffsetDateTime) -> Option<(OffsetDateTime, OffsetDateTime)> {
        let ends = self.slots.values().filter_map(|slot| slot.usable(now));
        ends.map(|svid| svid.lifetime.not_after)
            .fold(None, |ends, end| match ends {
                Some((earliest, latest)) => Some((end.min(earliest), end.max(latest))),
                None => Some((end, end)),
            })
    }

    /// How many SVIDs are held.
    pub fn held(&self) -> usize {
        self.slots.values().filter(|slot| slot.svid.is_some()).count()
    }
}

#[cfg(test)]
mod tests;
