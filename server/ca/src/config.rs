//! What an operator chooses about the certificate authority.

use std::time::Duration;

use vouchsafe_identity::TrustDomain;

use crate::life_cycle::activation_margin;

/// Settings of the authority; defaults are SPIRE's.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// The trust domain that it signs for.
    pub trust_domain: TrustDomain,
    /// Life of each signing key.
    pub ca_ttl: Duration,
    /// Life of X.509-SVIDs whose entry names none.
    pub x509_svid_ttl: Duration,
    /// Life of JWT-SVIDs whose entry names none.
    pub jwt_svid_ttl: Duration,
    /// `iss` of JWT-SVIDs, if they are to carry one.
    pub jwt_issuer: Option<String>,
    /// How often readers of the bundle are asked to look for news.
    pub refresh_hint: Duration,
}

impl CaConfig {
    /// The defaults for a trust domain: CA 24 h, X.509-SVID 1 h, JWT-SVID 5 min.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            ca_ttl: Duration::from_secs(24 * 3600),
            x509_svid_ttl: Duration::from_secs(3600),
            jwt_svid_ttl: Duration::from_secs(300),
            jwt_issuer: None,
            refresh_hint: Duration::from_secs(300),
        }
    }

    /// The longest SVID that is never cut short by the end of its issuer.
    pub fn longest_whole_ttl(&self) -> Duration {
        activation_margin(self.ca_ttl)
    }
}
