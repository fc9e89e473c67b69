//! What the agent holds in memory to answer at once: entries by selector, X.509-SVIDs with their keys, JWT-SVIDs.
//!
//! What is due and who matches are decided by plain functions of values and `now`; [`x509::X509Cache`] and
//! [`issuer`] carry the decisions out.

pub mod distrust;
pub mod index;
pub mod issuer;
pub mod jwt;
pub mod rotation;
mod shards;
pub mod slots;
pub mod x509;

pub use index::EntryIndex;
pub use jwt::JwtCache;
pub use x509::X509Cache;

use std::sync::Arc;

use crate::upstream::Authority;

/// The SVIDs of one kind of identity: what is held, and who signs them. Cheap to clone: all clones hold the same.
#[derive(Clone)]
pub struct Shelf {
    /// X.509-SVIDs.
    pub x509: X509Cache,
    /// JWT-SVIDs.
    pub jwt: Arc<JwtCache>,
    /// Signs them.
    pub authority: Arc<dyn Authority>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}
