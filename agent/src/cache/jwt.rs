//! JWT-SVIDs that were fetched before. A token is kept for one process alone: the key of the cache names the process
//! itself (never its number), and a process that has executed another program since gets a new one.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use time::OffsetDateTime;
use vouchsafe_identity::SpiffeId;
use vouchsafe_identity::secret::Secret;
use vouchsafe_sys::ProcessIdentity;
use vouchsafe_workload_attestors::Fingerprint;

use super::distrust::Distrust;
use super::rotation::Lifetime;
use crate::entry::{EntryId, EntryVersion};
use crate::knowledge::{EntryChange, Knowledge};

/// For whom and for what a token is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JwtKey {
    /// The process that got it.
    pub process: ProcessIdentity,
    /// The entry that it rests on.
    pub entry: EntryId,
    /// Who shall accept it: sorted, none twice.
    pub audience: Vec<String>,
}

/// A JWT-SVID.
#[derive(Debug)]
pub struct JwtSvid {
    /// The token in compact form.
    pub token: Secret<String>,
    /// Its `sub`: of a run it may be that of the class.
    pub spiffe_id: SpiffeId,
    /// The authority that it names as its signer.
    pub key_id: Option<String>,
    /// From when to when it is valid.
    pub lifetime: Lifetime,
}

/// What the cache has.
#[derive(Debug, Clone)]
pub enum Cached {
    /// A token in the first half of its life.
    Fresh(Arc<JwtSvid>),
    /// A token that is still valid, for when no newer one can be had.
    Aged(Arc<JwtSvid>),
    /// Nothing that may be used.
    Missing,
}

/// What must not have changed since the token was fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtContext {
    /// What the process runs, as whom.
    pub fingerprint: Fingerprint,
    /// State of the entry.
    pub version: EntryVersion,
}

#[derive(Debug)]
struct Place {
    svid: Arc<JwtSvid>,
    context: JwtContext,
    renew_at: OffsetDateTime,
    used: u64,
}

/// The tokens, at most a fixed number; the one that was unused for longest goes first.
#[derive(Debug)]
pub struct JwtCache {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    places: HashMap<JwtKey, Place>,
    distrust: Arc<Distrust>,
    tick: u64,
}

impl JwtCache {
    /// An empty cache of that many tokens.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            inner: Mutex::default(),
        }
    }

    /// What there is for this process, entry and audience.
    pub fn look(&self, key: &JwtKey, context: &JwtContext, now: OffsetDateTime) -> Cached {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tick += 1;
        let tick = inner.tick;
        let Some(place) = inner.places.get_mut(key) else {
            return Cached::Missing;
        };
        if place.context != *context || place.svid.lifetime.is_over(now) {
            inner.places.remove(key);
            return Cached::Missing;
        }
        place.used = tick;
        let svid = Arc::clone(&place.svid);
        if now < place.renew_at {
            Cached::Fresh(svid)
        } else {
            Cached::Aged(svid)
        }
    }

    /// Keeps a token that has just come. `jitter` is a random number from -1 to 1.
    pub fn keep(
        &self,
        key: JwtKey,
        context: JwtContext,
        svid: Arc<JwtSvid>,
        now: OffsetDateTime,
        jitter: f64,
    ) {
        let renew_at = svid.lifetime.rotate_at(now, jitter);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.distrust.covers_key(svid.key_id.as_deref()) {
            return;
        }
        inner.tick += 1;
        let place = Place {
            svid,
            context,
            renew_at,
            used: inner.tick,
        };
        inner.places.insert(key, place);
        if inner.places.len() > self.limit {
            inner.make_room(now);
        }
    }

    /// A newer token could not be had: what is kept counts as fresh until `until`, so that callers do not each wait for
    /// a server that does not answer.
    pub fn defer(&self, key: &JwtKey, until: OffsetDateTime) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = inner.places.get_mut(key) {
            place.renew_at = place.renew_at.max(until);
        }
    }

    /// Forgets the tokens of entries that are gone.
    pub fn retain_entries(&self, exists: impl Fn(&EntryId) -> bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.places.retain(|key, _| exists(&key.entry));
    }

    /// Forgets the tokens of entries that are gone since the state of that version, as far as it is remembered.
    pub fn follow_since(&self, known: &Knowledge, version: u64) {
        let gone = known.since(version).map(|steps| {
            let gone = |change: &EntryChange| match (&change.before, &change.after) {
                (Some(entry), None) => Some(entry.id.clone()),
                _ => None,
            };
            let changes = steps.flat_map(|step| &step.entries);
            changes.filter_map(gone).collect::<HashSet<EntryId>>()
        });
        match gone {
            Some(gone) if gone.is_empty() => {}
            Some(gone) => self.retain_entries(|id| !gone.contains(id)),
            None => self.retain_entries(|id| known.entries.get(id).is_some()),
        }
    }

    /// Forgets the tokens that one of these authorities signed, and keeps none of them from now on.
    pub(super) fn distrust(&self, distrust: Arc<Distrust>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .places
            .retain(|_, place| !distrust.covers_key(place.svid.key_id.as_deref()));
        inner.distrust = distrust;
    }

    /// Whether a token of this signer would not be kept.
    pub fn distrusts(&self, key_id: Option<&str>) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.distrust.covers_key(key_id)
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .places
            .len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn make_room(&mut self, now: OffsetDateTime) {
        let before = self.places.len();
        self.places.retain(|_, place| !place.svid.lifetime.is_over(now));
        if self.places.len() < before {
            return;
        }
        let oldest = self
            .places
            .iter()
            .min_by_key(|(_, place)| place.used)
            .map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            self.places.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
