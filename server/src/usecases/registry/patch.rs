//! The fields of an entry that a caller may set, each given or left alone.

use time::OffsetDateTime;
use vouchsafe_identity::{SelectorSet, SpiffeId, TrustDomain};
use vouchsafe_store::{Entry, EntryId};

use super::RuleError;

/// What a caller wants of an entry; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryPatch {
    /// The identity that it gives.
    pub spiffe_id: Option<SpiffeId>,
    /// Who may serve it.
    pub parent_id: Option<SpiffeId>,
    /// What a process must have.
    pub selectors: Option<SelectorSet>,
    /// Life of X.509-SVIDs.
    pub x509_svid_ttl_seconds: Option<u32>,
    /// Life of JWT-SVIDs.
    pub jwt_svid_ttl_seconds: Option<u32>,
    /// Trust domains whose bundles its holder gets too.
    pub federates_with: Option<Vec<TrustDomain>>,
    /// Whether its holder may call admin methods.
    pub admin: Option<bool>,
    /// Whether its holder is a server below this one.
    pub downstream: Option<bool>,
    /// When it ends by itself, if it does.
    pub expires_at: Option<Option<OffsetDateTime>>,
    /// DNS names in the X.509-SVID.
    pub dns_names: Option<Vec<String>>,
    /// Whether the SVID is for a store of the agent's.
    pub store_svid: Option<bool>,
    /// Tells several SVIDs of one process apart.
    pub hint: Option<String>,
    /// Whether the agent waits with the SVID until it is asked for.
    pub disable_x509_svid_prefetch: Option<bool>,
    /// Whether its JWT-SVIDs carry a `jti`.
    pub jwt_svid_include_jti: Option<bool>,
}

impl EntryPatch {
    /// A new entry of these fields, whose updates count from `first` on.
    ///
    /// # Errors
    /// [`RuleError::Missing`] when SPIFFE ID or parent are not given.
    pub fn into_new(mut self, id: EntryId, now: OffsetDateTime, first: i64) -> Result<Entry, RuleError> {
        let spiffe_id = self.spiffe_id.take().ok_or(RuleError::Missing("spiffe_id"))?;
        let parent_id = self.parent_id.take().ok_or(RuleError::Missing("parent_id"))?;
        let empty = Entry::new(
            id,
            spiffe_id,
            parent_id,
            SelectorSet::new(),
            now.replace_nanosecond(0).unwrap_or(now),
        );
        Ok(Entry {
            revision_number: first,
            ..self.onto(empty, 0)
        })
    }

    /// The entry with these fields, one revision on, and at least at `least`.
    pub fn onto(self, entry: Entry, least: i64) -> Entry {
        Entry {
            spiffe_id: self.spiffe_id.unwrap_or(entry.spiffe_id),
            parent_id: self.parent_id.unwrap_or(entry.parent_id),
            selectors: self.selectors.unwrap_or(entry.selectors),
            x509_svid_ttl_seconds: self.x509_svid_ttl_seconds.unwrap_or(entry.x509_svid_ttl_seconds),
            jwt_svid_ttl_seconds: self.jwt_svid_ttl_seconds.unwrap_or(entry.jwt_svid_ttl_seconds),
            federates_with: self.federates_with.unwrap_or(entry.federates_with),
            admin: self.admin.unwrap_or(entry.admin),
            downstream: self.downstream.unwrap_or(entry.downstream),
            expires_at: self.expires_at.unwrap_or(entry.expires_at),
            dns_names: self.dns_names.unwrap_or(entry.dns_names),
            revision_number: entry.revision_number.saturating_add(1).max(least),
            store_svid: self.store_svid.unwrap_or(entry.store_svid),
            hint: self.hint.unwrap_or(entry.hint),
            created_at: entry.created_at,
            disable_x509_svid_prefetch: self
                .disable_x509_svid_prefetch
                .unwrap_or(entry.disable_x509_svid_prefetch),
            jwt_svid_include_jti: self.jwt_svid_include_jti.unwrap_or(entry.jwt_svid_include_jti),
            id: entry.id,
        }
    }
}
