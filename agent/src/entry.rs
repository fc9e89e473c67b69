//! Registration entries as the agent knows them: which process gets which SPIFFE ID.
//!
//! Only what the agent needs: lifetimes and DNS names are the server's business.

use std::fmt;
use std::sync::Arc;

use vouchsafe_identity::{SelectorSet, SpiffeId, TrustDomain};

/// An entry's id, as the server gave it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(Arc<str>);

impl EntryId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for EntryId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which state of an entry it is. An id that was deleted and used again differs in `created_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryVersion {
    /// Grows with each change of the entry.
    pub revision: i64,
    /// Unix seconds.
    pub created_at: i64,
}

/// A registration entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// Which state of it this is.
    pub version: EntryVersion,
    /// The identity that it gives.
    pub spiffe_id: SpiffeId,
    /// What a process must have, all of it.
    pub selectors: SelectorSet,
    /// Trust domains whose bundles the process gets too.
    pub federates_with: Vec<TrustDomain>,
    /// Helps a workload to choose among several SVIDs; may be empty.
    pub hint: String,
    /// The SVID belongs into a store of secrets and is not for the Workload API.
    pub store_svid: bool,
    /// Whether an X.509-SVID is had before someone asks.
    pub prefetch: bool,
    /// Each JWT-SVID is fresh and has a `jti` of its own.
    pub single_jwt: bool,
}

impl Entry {
    /// Whether its X.509-SVID is had before someone asks.
    pub fn is_prefetched(&self) -> bool {
        self.prefetch && !self.store_svid
    }

    /// By what entries are ordered: the oldest first, among equally old ones by id.
    pub fn age(&self) -> (i64, &EntryId) {
        (self.version.created_at, &self.id)
    }

    /// Whether a process with these selectors matches: it has all that the entry asks for, and that is not nothing.
    pub fn matches(&self, selectors: &SelectorSet) -> bool {
        !self.selectors.is_empty() && self.selectors.is_subset(selectors)
    }
}
