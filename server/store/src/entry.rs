//! Registration entries: which process of which node gets which SPIFFE ID.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::{SelectorSet, SpiffeId, TrustDomain};

use crate::{StoreError, Versioned};

/// Longest entry id in bytes (SPIRE's limit).
pub const MAX_ENTRY_ID_BYTES: usize = 255;

/// The id of an entry: letters, digits, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryId(Box<str>);

/// Why a text is not an entry id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an entry id: 1 to {MAX_ENTRY_ID_BYTES} letters, digits, `.`, `_` or `-`")]
pub struct EntryIdError(String);

impl EntryId {
    /// Checks and wraps an id.
    ///
    /// # Errors
    /// [`EntryIdError`] when it is empty, too long or has another character.
    pub fn new(id: &str) -> Result<Self, EntryIdError> {
        let good = !id.is_empty()
            && id.len() <= MAX_ENTRY_ID_BYTES
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if good {
            Ok(Self(id.into()))
        } else {
            Err(EntryIdError(id.chars().take(300).collect()))
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EntryId {
    type Error = EntryIdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::new(&s)
    }
}

impl From<EntryId> for String {
    fn from(id: EntryId) -> Self {
        id.0.into()
    }
}

/// A registration entry (SPIRE's `types.Entry`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub id: EntryId,
    /// The identity that it gives.
    pub spiffe_id: SpiffeId,
    /// Who may serve it: an agent, an alias, or `/spire/server` for an alias of nodes.
    pub parent_id: SpiffeId,
    /// What a process (or node) must have, all of it.
    pub selectors: SelectorSet,
    /// Life of X.509-SVIDs in seconds; 0 = the server's default.
    #[serde(default)]
    pub x509_svid_ttl_seconds: u32,
    /// Life of JWT-SVIDs in seconds; 0 = the server's default.
    #[serde(default)]
    pub jwt_svid_ttl_seconds: u32,
    /// Trust domains whose bundles its holder gets too.
    #[serde(default)]
    pub federates_with: Vec<TrustDomain>,
    /// Whether its holder may call the server's admin methods.
    #[serde(default)]
    pub admin: bool,
    /// Whether its holder may ask for an intermediate CA.
    #[serde(default)]
    pub downstream: bool,
    /// When the entry ends by itself.
    #[serde(default, with = "time::serde::timestamp::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// DNS names in the X.509-SVID.
    #[serde(default)]
    pub dns_names: Vec<String>,
    /// Grows with each update of this entry, from 0; with a chosen id from the store's revision at its making.
    pub revision_number: i64,
    /// Whether the SVID is for a store of the agent's, not for the Workload API.
    #[serde(default)]
    pub store_svid: bool,
    /// Tells several SVIDs of one process apart.
    #[serde(default)]
    pub hint: String,
    /// When it was made.
    #[serde(with = "time::serde::timestamp")]
    pub created_at: OffsetDateTime,
    /// Whether the agent waits with the SVID until it is asked for.
    #[serde(default)]
    pub disable_x509_svid_prefetch: bool,
    /// Whether its JWT-SVIDs carry a `jti`.
    #[serde(default)]
    pub jwt_svid_include_jti: bool,
}

impl Entry {
    /// An entry of which nothing else is said: the server's lives, for the Workload API, without an end.
    pub fn new(
        id: EntryId,
        spiffe_id: SpiffeId,
        parent_id: SpiffeId,
        selectors: SelectorSet,
        created_at: OffsetDateTime,
    ) -> Self {
        Self {
            id,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl_seconds: 0,
            jwt_svid_ttl_seconds: 0,
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            expires_at: None,
            dns_names: Vec::new(),
            revision_number: 0,
            store_svid: false,
            hint: String::new(),
            created_at,
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        }
    }

    /// What makes two entries the same for their users: parent, SPIFFE ID and selectors, as one line of text.
    pub fn shape(&self) -> String {
        let mut shape = format!("{} {}", self.parent_id, self.spiffe_id);
        for selector in &self.selectors {
            let text = selector.to_string();
            shape.push_str(&format!(" {}:{text}", text.len()));
        }
        shape
    }
}

/// Reads entries. Filters are the index's work, not the store's.
#[async_trait]
pub trait EntryReader: Send + Sync {
    /// One entry, or `None`.
    async fn entry(&self, id: &EntryId) -> Result<Option<Versioned<Entry>>, StoreError>;
    /// The entry that has this [`Entry::shape`], or `None`.
    async fn entry_by_shape(&self, shape: &str) -> Result<Option<EntryId>, StoreError>;
    /// Up to `limit` entries with ids after `after`, in order of id.
    async fn entries(
        &self,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<Vec<Versioned<Entry>>, StoreError>;
    /// An id with about as many entries before it as after it, or `None` where there are none: those who read everything
    /// share the work there.
    async fn middle_entry(&self) -> Result<Option<EntryId>, StoreError>;
}
