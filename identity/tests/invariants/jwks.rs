//! What holds for any bytes that are read as a bundle: what is read can be written and read again.

use vouchsafe_identity::{Bundle, TrustDomain};

/// Reads any bytes as a bundle document and as PEM.
pub(crate) fn check(data: &[u8]) {
    let Ok(trust_domain) = TrustDomain::new("example.org") else {
        return;
    };
    if let Ok(bundle) = Bundle::from_jwks(trust_domain.clone(), data) {
        assert!(bundle.jwt_authorities.iter().all(|one| !one.key_id.is_empty()));
        // A root's key may be of a kind that we do not write; the JWT keys never are.
        assert!(bundle.jwt_jwks().is_ok());
        if let Ok(document) = bundle.to_jwks() {
            assert_eq!(
                Bundle::from_jwks(trust_domain.clone(), &document).expect("our own document"),
                bundle
            );
        }
    }
    if let Ok(bundle) = Bundle::from_pem(trust_domain.clone(), data) {
        assert!(!bundle.x509_authorities.is_empty());
        assert_eq!(
            Bundle::from_pem(trust_domain, bundle.to_pem().as_bytes()).expect("our own PEM"),
            bundle
        );
    }
}
