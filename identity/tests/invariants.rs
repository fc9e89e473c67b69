//! The invariants of the fuzz targets (`tests/fuzz`) on bent examples: a small part of what fuzzing tries.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test helper that fails is a test that fails"
)]

#[path = "invariants/csr.rs"]
mod csr;
#[path = "invariants/jwks.rs"]
mod jwks;
#[path = "invariants/jwt.rs"]
mod jwt;
#[path = "invariants/selector.rs"]
mod selector;
#[path = "invariants/spiffe_id.rs"]
mod spiffe_id;
#[path = "invariants/x509_leaf.rs"]
mod x509_leaf;

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use time::Duration;
use time::macros::datetime;
use vouchsafe_identity::jwt::{SvidClaims, sign_svid};
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::x509::issue::{issue_svid, self_signed_ca};
use vouchsafe_identity::x509::{Issuer, SvidRequest};
use vouchsafe_identity::{
    Bundle, JwtAuthority, KeyAlgorithm, LocalKey, Signer, SpiffeId, TrustDomain, X509Authority,
};

/// A check and an input from which it starts.
type Case = (fn(&[u8]), Vec<u8>);

/// Every target with an input that is right.
fn cases() -> Vec<Case> {
    let now = datetime!(2030-01-01 00:00:00 UTC);
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let key = LocalKey::generate("k", KeyAlgorithm::EcP256).unwrap();
    let public_key = key.public_key_spki().to_vec();
    let root = self_signed_ca(&trust_domain, &key, now, now + Duration::DAY, &[1; 16]).unwrap();
    let wanted = SvidRequest {
        spiffe_id: SpiffeId::new("spiffe://example.org/w").unwrap(),
        public_key: CheckedKey::new(&public_key).unwrap(),
        dns_names: vec!["w.example.org".to_owned()],
        not_before: now,
        not_after: now + Duration::HOUR,
        serial: [2; 16],
    };
    let claims = SvidClaims {
        subject: wanted.spiffe_id.clone(),
        audience: vec!["a".to_owned()],
        issued_at: now,
        expires_at: now + Duration::HOUR,
        issuer: None,
        jti: None,
        run: None,
    };
    let token = sign_svid(&claims, "k1", &key).unwrap().into_bytes();
    let svid = issue_svid(&wanted, &Issuer::new(&root, Arc::new(key)).unwrap()).unwrap();
    let mut bundle = Bundle::empty(trust_domain);
    bundle.x509_authorities.push(X509Authority {
        certificate: root,
        tainted: false,
    });
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: "k1".to_owned(),
        public_key,
        expires_at: None,
        tainted: false,
    });
    vec![
        (spiffe_id::check, b"spiffe://example.org/a/b".to_vec()),
        (selector::check, b"unix:uid:1000".to_vec()),
        (csr::check, include_bytes!("data/csr/p256.der").to_vec()),
        (x509_leaf::check, svid.chain[0].clone()),
        (jwt::check, token),
        (jwks::check, bundle.to_jwks().unwrap()),
        (jwks::check, bundle.to_pem().into_bytes()),
    ]
}

proptest! {
    #[test]
    fn invariants_hold_for_bent_examples(
        at in any::<Index>(), cut in 0..4usize, with in proptest::collection::vec(any::<u8>(), 0..4)
    ) {
        for (check, example) in cases() {
            let mut input = example;
            let from = at.index(input.len());
            let to = (from + cut).min(input.len());
            input.splice(from..to, with.iter().copied());
            check(&input);
        }
    }

    #[test]
    fn invariants_hold_for_arbitrary_bytes(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        for (check, _) in cases() {
            check(&input);
        }
    }
}
