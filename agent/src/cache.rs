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
