//! JWT-SVIDs: what is signed verifies, and nothing else does.

use super::*;
use crate::x509::testing::{NOW, id, jwt_bundle, key};

fn claims() -> SvidClaims {
    SvidClaims {
        subject: id("spiffe://example.org/w"),
        audience: vec!["reports".to_owned()],
        issued_at: NOW,
        expires_at: NOW + Duration::minutes(5),
        issuer: None,
        jti: None,
    }
}

#[test]
fn a_signed_token_verifies() {
    let signer = key("jwt");
    let token = sign_svid(&claims(), "k1", &signer).unwrap();
    let bundle = jwt_bundle("example.org", "k1", signer.public_key_spki());
    let svid = verify_svid(&token, "reports", |_| Some(&bundle), NOW).unwrap();
    assert_eq!(svid.spiffe_id, claims().subject);
    assert_eq!(svid.expires_at, claims().expires_at);
}
