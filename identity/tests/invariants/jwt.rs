//! What holds for any text that is read as a JWT-SVID: without the key, nothing verifies.

use std::sync::LazyLock;

use time::macros::datetime;
use vouchsafe_identity::jwt::{peek_unverified, verify_svid};
use vouchsafe_identity::{Bundle, JwtAuthority, KeyAlgorithm, LocalKey, Signer, TrustDomain};

/// A bundle whose private key is gone, so that no input can be right.
static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| {
    let key = LocalKey::generate("gone", KeyAlgorithm::EcP256).expect("randomness");
    let mut bundle = Bundle::empty(TrustDomain::new("example.org").expect("a name"));
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: "k1".to_owned(),
        public_key: key.public_key_spki().to_vec(),
        expires_at: None,
        tainted: false,
    });
    bundle
});

/// Looks into any bytes and verifies them as a token.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(claims) = peek_unverified(text) {
        assert!(!claims.audience.is_empty());
        assert_eq!(text.split('.').count(), 3);
    }
    let now = datetime!(2030-01-01 00:00:00 UTC);
    assert!(verify_svid(text, "a", |_| Some(&*BUNDLE), now).is_err());
}
