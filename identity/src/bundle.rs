//! Trust bundles: the authorities by which the SVIDs of one trust domain are verified
//! (SPIFFE Trust Domain and Bundle §4).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::TrustDomain;

/// A certificate authority of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct X509Authority {
    /// The self-signed certificate, DER.
    pub certificate: Vec<u8>,
    /// Whether the operator distrusts it: what hangs on it is issued anew.
    pub tainted: bool,
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
}
