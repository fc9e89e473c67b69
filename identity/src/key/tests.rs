//! Keys in memory: they sign, they survive PKCS#8, and they show nothing.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::*;

#[test]
fn a_key_signs_what_its_public_half_verifies() {
    let key = LocalKey::generate("k", KeyAlgorithm::EcP256).unwrap();
    let signature = key.sign(b"message").unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key_spki());
    assert!(public.verify(b"message", &signature).is_ok());
    assert!(public.verify(b"massage", &signature).is_err());
}

#[test]
fn a_key_survives_pkcs8() {
    let key = LocalKey::generate("k", KeyAlgorithm::EcP256).unwrap();
    let again = LocalKey::from_pkcs8("k", &key.to_pkcs8()).unwrap();
    assert_eq!(again.public_key_spki(), key.public_key_spki());
    assert_eq!(again.to_pkcs8(), key.to_pkcs8());
}

#[test]
fn what_is_no_p256_key_is_refused() {
    let malformed = KeyMaterialError::Malformed {
        key_id: "k".to_owned(),
    };
    let key = LocalKey::generate("k", KeyAlgorithm::EcP256).unwrap();
    let good = key.to_pkcs8();
    let p384 =
        aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1_SIGNING)
            .unwrap()
            .to_pkcs8v1()
            .unwrap();
    let mut extra = good.to_vec();
    extra.push(0);
    for bad in [
        &[][..],
        b"-----BEGIN PRIVATE KEY-----",
        &good[..good.len() - 1],
        &extra,
        p384.as_ref(),
    ] {
        assert_eq!(LocalKey::from_pkcs8("k", bad).unwrap_err(), malformed);
    }
}

#[test]
fn debug_shows_id_and_algorithm_alone() {
    let key = LocalKey::generate("agent-7", KeyAlgorithm::EcP256).unwrap();
    assert_eq!(
        format!("{key:?}"),
        "LocalKey { key_id: \"agent-7\", algorithm: EcP256, .. }"
    );
}

#[test]
fn serials_do_not_repeat() {
    let serials: std::collections::HashSet<_> = (0..1000).map(|_| random_serial().unwrap()).collect();
    assert_eq!(serials.len(), 1000);
}
