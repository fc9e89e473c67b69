//! Leases that must not be believed, then one that must.

use time::Duration;

use super::*;
use crate::LocalKey;
use crate::jwt::{MAX_TOKEN_BYTES, SvidClaims, sign_svid, verify_svid};
use crate::x509::testing::{NOW, id, jwt_bundle, key};

fn lease() -> LaunchLease {
    LaunchLease {
        run: id("spiffe://example.org/agent/r/run/01K9Z3V7Q8R4S5T6V7W8X9YZAB"),
        node: id("spiffe://example.org/spire/agent/x"),
        class: ClassName::new("r").unwrap(),
        class_version: 3,
        issued_at: NOW,
        expires_at: NOW + Duration::hours(1),
    }
}

fn signer() -> (LocalKey, Bundle) {
    let key = key("jwt");
    let bundle = jwt_bundle("example.org", "k1", key.public_key_spki());
    (key, bundle)
}

#[test]
fn a_jwt_svid_is_no_lease_and_a_lease_is_no_jwt_svid() {
    let (key, bundle) = signer();
    let svid = SvidClaims {
        subject: id("spiffe://example.org/w"),
        audience: vec!["reports".to_owned()],
        issued_at: NOW,
        expires_at: NOW + Duration::minutes(5),
        issuer: None,
        jti: None,
        run: None,
    };
    let token = sign_svid(&svid, "k1", &key).unwrap();
    assert!(matches!(
        verify_lease(&token, &bundle, NOW),
        Err(JwtError::NotALease)
    ));
    let token = sign_lease(&lease(), "k1", &key).unwrap();
    let refused = verify_svid(&token, "reports", |_| Some(&bundle), NOW);
    assert!(matches!(refused, Err(JwtError::Type(typ)) if typ == TYPE));
}

#[test]
fn what_is_over_or_signed_by_others_or_by_a_tainted_key_is_no_lease() {
    let (signer, mut bundle) = signer();
    let token = sign_lease(&lease(), "k1", &signer).unwrap();
    assert!(matches!(
        verify_lease(&token, &bundle, NOW + Duration::hours(1)),
        Err(JwtError::Expired(_))
    ));
    let forged = sign_lease(&lease(), "k1", &key("another")).unwrap();
    assert!(matches!(
        verify_lease(&forged, &bundle, NOW),
        Err(JwtError::Signature)
    ));
    for torn in [
        &token[..token.len() - 4],
        "",
        "a.b.c",
        &"a".repeat(MAX_TOKEN_BYTES + 1),
    ] {
        verify_lease(torn, &bundle, NOW).unwrap_err();
    }
    bundle
        .jwt_authorities
        .iter_mut()
        .for_each(|one| one.tainted = true);
    assert!(matches!(
        verify_lease(&token, &bundle, NOW),
        Err(JwtError::UnknownKey { .. })
    ));
}

#[test]
fn a_lease_that_ends_before_it_begins_is_not_signed() {
    let (key, _) = signer();
    let never = LaunchLease {
        expires_at: NOW,
        ..lease()
    };
    assert!(matches!(
        sign_lease(&never, "k1", &key),
        Err(JwtError::Validity { .. })
    ));
}

#[test]
fn a_lease_says_what_was_signed() {
    let (key, bundle) = signer();
    let token = sign_lease(&lease(), "k1", &key).unwrap();
    assert_eq!(verify_lease(&token, &bundle, NOW).unwrap(), lease());
}
