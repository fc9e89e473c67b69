//! X.509-SVIDs: checking requests, issuing, reading and verifying (standard X509-SVID).
//!
//! Certificates are always DER here, and chains begin with the leaf.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use time::OffsetDateTime;

use crate::SpiffeId;
use crate::public_key::key_bits;

pub mod csr;
pub mod dns;
pub mod issue;
mod remote;
pub mod svid;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;

pub use csr::{CheckedCsr, CsrError};
pub use issue::{IssueError, Issuer, SvidRequest};
pub use svid::{LeafInfo, SvidError, parse_leaf};
pub use verify::{VerifyError, verify_svid};

/// Largest certificate that is read, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Most certificates in a chain, leaf included.
pub const MAX_CHAIN_CERTIFICATES: usize = 8;

/// An X.509-SVID as it was issued: the leaf and what a peer needs to reach a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertifiedChain {
    /// Whose identity it is.
    pub spiffe_id: SpiffeId,
    /// DER certificates, the leaf first; roots are not among them.
    pub chain: Vec<Vec<u8>>,
    /// From when the leaf is valid.
    pub not_before: OffsetDateTime,
    /// Until when the leaf is valid, this second included.
    pub not_after: OffsetDateTime,
    /// The leaf's serial number in lower-case hex, as [`LeafInfo::serial`] shows it.
    pub serial: String,
}

/// The key identifier of a SubjectPublicKeyInfo: SHA-1 of its key bits in lower-case hex.
///
/// This is the subject key id of what we issue and the id of an authority (RFC 5280 §4.2.1.2, method 1).
/// It names a key and proves nothing. Bytes that are no SubjectPublicKeyInfo are hashed whole.
pub fn key_id(spki: &[u8]) -> String {
    hex::encode(key_id_bytes(spki))
}

pub(crate) fn key_id_bytes(spki: &[u8]) -> Vec<u8> {
    let bits = key_bits(spki).unwrap_or_else(|| spki.to_vec());
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &bits).as_ref().to_vec()
}

/// A serial number as text: lower-case hex of the unsigned number, without leading zero bytes.
pub(crate) fn serial_hex(big_endian: &[u8]) -> String {
    let start = big_endian
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(big_endian.len());
    hex::encode(big_endian.get(start..).unwrap_or_default())
}
