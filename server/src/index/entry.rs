//! A registration entry as the index holds it: the same facts as the stored one, in less room.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::num::NonZeroI64;
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_identity::{Selector, SpiffeId, TrustDomain};
use vouchsafe_store::{Entry, EntryId};

/// One entry, immutable; an update puts another one in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedEntry {
    /// Its id.
    pub id: EntryId,
    /// The identity that it gives.
    pub spiffe_id: SpiffeId,
    /// Who may serve it.
    pub parent_id: SpiffeId,
    /// What a process or node must have, in order.
    pub selectors: Box<[Selector]>,
    /// Trust domains whose bundles its holder gets too.
    pub federates_with: Box<[TrustDomain]>,
    /// DNS names in the X.509-SVID.
    pub dns_names: Box<[Box<str>]>,
    /// Tells several SVIDs of one process apart.
    pub hint: Box<str>,
    /// Life of X.509-SVIDs; 0 = the server's default.
    pub x509_svid_ttl_seconds: u32,
    /// Life of JWT-SVIDs; 0 = the server's default.
    pub jwt_svid_ttl_seconds: u32,
    /// Grows with each update.
    pub revision_number: i64,
    /// When it was made, in Unix seconds.
    pub created_at: i64,
    /// When it ends by itself, in Unix seconds.
    pub expires_at: Option<NonZeroI64>,
    /// Whether its holder may call admin methods.
    pub admin: bool,
    /// Whether its holder is a server below this one.
    pub downstream: bool,
    /// Whether the SVID is for a store of the agent's.
    pub store_svid: bool,
    /// Whether the agent waits with the SVID until it is asked for.
    pub disable_x509_svid_prefetch: bool,
    /// Whether its JWT-SVIDs carry a `jti`.
    pub jwt_svid_include_jti: bool,
}

impl IndexedEntry {
    /// Whether the entry has not ended at `now`.
    pub fn is_live(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_none_or(|end| end.get() > now.unix_timestamp())
    }
}

impl From<Entry> for IndexedEntry {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            spiffe_id: entry.spiffe_id,
            parent_id: entry.parent_id,
            selectors: entry.selectors.into_iter().collect(),
            federates_with: entry.federates_with.into(),
            dns_names: entry.dns_names.into_iter().map(String::into_boxed_str).collect(),
            hint: entry.hint.into(),
            x509_svid_ttl_seconds: entry.x509_svid_ttl_seconds,
            jwt_svid_ttl_seconds: entry.jwt_svid_ttl_seconds,
            revision_number: entry.revision_number,
            created_at: entry.created_at.unix_timestamp(),
            expires_at: entry
                .expires_at
                .and_then(|at| NonZeroI64::new(at.unix_timestamp())),
            admin: entry.admin,
            downstream: entry.downstream,
            store_svid: entry.store_svid,
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        }
    }
}

/// An entry that is ordered by its id, so that sets of entries need no second copy of it.
#[derive(Debug, Clone)]
pub(super) struct ById(pub(super) Arc<IndexedEntry>);

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.id.as_str().cmp(other.0.id.as_str())
    }
}

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.id.as_str()
    }
}
