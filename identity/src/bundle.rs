//! Trust bundles: the authorities by which the SVIDs of one trust domain are verified
//! (SPIFFE Trust Domain and Bundle §4).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::TrustDomain;
use crate::public_key::PublicKeyError;

mod jwk;
mod jwks;
mod pem;

/// Largest bundle document that is read, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// Most keys in a bundle document, those of unknown uses included.
pub const MAX_BUNDLE_KEYS: usize = 1024;

/// Why a bundle cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Longer than [`MAX_BUNDLE_BYTES`].
    #[error("a bundle of {0} bytes is longer than the limit of {MAX_BUNDLE_BYTES} bytes")]
    TooLong(usize),
    /// More than [`MAX_BUNDLE_KEYS`] keys.
    #[error("a bundle of {0} keys has more than the limit of {MAX_BUNDLE_KEYS}")]
    TooManyKeys(usize),
    /// The document is not a JWK set, or a parameter has a wrong type.
    #[error("the bundle is not a SPIFFE bundle document (a JWK set)")]
    Json(#[source] serde_json::Error),
    /// A JWK of a use that we know lacks something or has something wrong (number, from 0, and what).
    #[error("key {at} of the bundle is refused: {reason}")]
    Jwk {
        /// Its place in `keys`, from 0.
        at: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key of a kind that is not supported, or weak.
    #[error("key {at} of the bundle is refused")]
    Key {
        /// Its place, from 0.
        at: usize,
        /// Why.
        source: PublicKeyError,
    },
    /// Two different JWT keys have one `kid`.
    #[error("the bundle has two JWT keys with the id `{0}`")]
    DuplicateKeyId(String),
    /// The text is not PEM.
    #[error("the bundle is not PEM")]
    Pem(#[source] ::pem::PemError),
    /// A PEM block other than a certificate, such as a private key.
    #[error("the bundle has a PEM block `{0}`: only `CERTIFICATE` may stand in it")]
    PemBlock(String),
    /// There is no certificate in a PEM bundle.
    #[error("the bundle has no certificate")]
    Empty,
    /// A certificate that cannot be read, or is not one of an authority (X509-SVID §4.1).
    #[error("certificate {at} of the bundle is refused: {reason}")]
    Certificate {
        /// Its place, from 0.
        at: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A certificate authority of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct X509Authority {
    /// The self-signed certificate, DER.
    pub certificate: Vec<u8>,
    /// Whether the operator distrusts it: what hangs on it is issued anew.
    pub tainted: bool,
}

impl X509Authority {
    /// Until when the certificate is valid; `None` when it cannot be read.
    pub fn expires_at(&self) -> Option<OffsetDateTime> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        Some(parsed.validity().not_after.to_datetime())
    }

    /// The subject key id in lower-case hex, by which operators know the authority: as the certificate has it, else
    /// that of its key. `None` when the certificate cannot be read.
    pub fn key_id(&self) -> Option<String> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        let named = parsed
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(hex::encode(id.0)),
                _ => None,
            });
        Some(named.unwrap_or_else(|| crate::x509::key_id(parsed.public_key().raw)))
    }

    /// Whether the authority's key signed one of these certificates (DER, one after another). What they say of their
    /// issuer does not count.
    pub fn signed_any(&self, mut certificates: &[u8]) -> bool {
        let Ok((_, authority)) = X509Certificate::from_der(&self.certificate) else {
            return false;
        };
        while let Ok((rest, one)) = X509Certificate::from_der(certificates) {
            if one.verify_signature(Some(authority.public_key())).is_ok() {
                return true;
            }
            certificates = rest;
        }
        false
    }
}

/// A key of a trust domain that signs JWT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwtAuthority {
    /// The `kid` that tokens name (JWT-SVID §2).
    pub key_id: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// When the key stops signing and verifying, if it is known.
    #[serde(with = "time::serde::timestamp::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// Whether the operator distrusts it.
    pub tainted: bool,
}

/// All authorities of one trust domain, with how often to ask for news of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Whose authorities these are.
    pub trust_domain: TrustDomain,
    /// X.509 roots.
    pub x509_authorities: Vec<X509Authority>,
    /// JWT keys.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// How long a reader may wait before it asks again (`spiffe_refresh_hint`).
    pub refresh_hint: Option<Duration>,
    /// Grows with each change (`spiffe_sequence`).
    pub sequence: u64,
}

impl Bundle {
    /// A bundle without any authority: everything is refused by it.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            refresh_hint: None,
            sequence: 0,
        }
    }

    /// The X.509 authorities one after the other, as the Workload API sends them.
    pub fn x509_der_concat(&self) -> Vec<u8> {
        self.x509_authorities
            .iter()
            .flat_map(|authority| authority.certificate.iter().copied())
            .collect()
    }

    /// The JWT authority of this id.
    pub fn jwt_authority(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.jwt_authorities
            .iter()
            .find(|authority| authority.key_id == key_id)
    }
}

#[cfg(test)]
mod tests;
