//! Bundle documents: what is refused and what is ignored in them, then what survives.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::jwt::{JwtError, SvidClaims, sign_svid, verify_svid};
use crate::x509::issue::issue_svid;
use crate::x509::testing::{NOW, bundle_of, id, issuer, key, leaf_params, request, td};
use crate::{Signer, x509};

/// A bundle with one authority of each sort.
fn full() -> Bundle {
    let mut bundle = bundle_of(&issuer("example.org"));
    bundle.sequence = 7;
    bundle.refresh_hint = Some(Duration::from_secs(300));
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: "k1".to_owned(),
        public_key: key("jwt").public_key_spki().to_vec(),
        expires_at: None,
        tainted: false,
    });
    bundle
}

fn document(bundle: &Bundle) -> Value {
    serde_json::from_slice(&bundle.to_jwks().unwrap()).unwrap()
}

fn read(document: &Value) -> Result<Bundle, BundleError> {
    Bundle::from_jwks(td("example.org"), document.to_string().as_bytes())
}

/// The full document, changed: `keys[0]` is the X.509 authority, `keys[1]` the JWT one.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Bundle, BundleError> {
    let mut document = document(&full());
    change(&mut document);
    read(&document)
}

#[test]
fn bundle_4_1_3_keys_must_be_present() {
    for text in ["", "{}", "[]", "null", "7", r#"{"keys":{}}"#, r#"{"keys":null}"#] {
        assert!(
            matches!(
                Bundle::from_jwks(td("example.org"), text.as_bytes()),
                Err(BundleError::Json(_))
            ),
            "{text}"
        );
    }
    let empty = read(&json!({"keys": []})).unwrap();
    assert_eq!(empty, Bundle::empty(td("example.org")));
}

#[test]
fn bundle_4_1_1_sequence_must_be_an_integer() {
    for bad in [json!("7"), json!(-1), json!(1.5), json!([])] {
        assert!(changed(|document| document["spiffe_sequence"] = bad).is_err());
    }
    let most = changed(|document| document["spiffe_sequence"] = json!(u64::MAX)).unwrap();
    assert_eq!(most.sequence, u64::MAX);
}

#[test]
fn bundle_4_1_2_refresh_hint_must_be_an_integer() {
    for bad in [json!("300"), json!(-300), json!(0.5)] {
        assert!(changed(|document| document["spiffe_refresh_hint"] = bad).is_err());
    }
}

#[test]
fn bundle_4_1_parameters_that_are_not_defined_must_not_be_needed_nor_harm() {
    let bundle = changed(|document| {
        document["x-own"] = json!({"a": 1});
        document["keys"][0]["x-own"] = json!(1);
        document["keys"][1]["alg"] = json!("ES256");
        document.as_object_mut().unwrap().remove("spiffe_sequence");
        document.as_object_mut().unwrap().remove("spiffe_refresh_hint");
    })
    .unwrap();
    assert_eq!((bundle.sequence, bundle.refresh_hint), (0, None));
    assert_eq!(
        (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
        (1, 1)
    );
}

#[test]
fn bundle_4_2_1_unknown_key_types_must_be_ignored() {
    for kty in [json!("AKP"), json!("oct"), json!(null)] {
        let bundle = changed(|document| {
            document["keys"][0]["kty"] = kty.clone();
            document["keys"][1]["kty"] = kty;
        })
        .unwrap();
        assert!(bundle.x509_authorities.is_empty() && bundle.jwt_authorities.is_empty());
    }
    let curve = changed(|document| document["keys"][1]["crv"] = json!("secp256k1")).unwrap();
    assert!(curve.jwt_authorities.is_empty());
}

#[test]
fn bundle_4_2_2_missing_and_unknown_uses_must_be_ignored() {
    for key_use in [
        json!(null),
        json!("sig"),
        json!("JWT-SVID"),
        json!("wit-svid"),
        json!(7),
    ] {
        let bundle = changed(|document| {
            document["keys"][0]["use"] = key_use.clone();
            document["keys"][1]["use"] = key_use;
        })
        .unwrap();
        assert!(bundle.x509_authorities.is_empty() && bundle.jwt_authorities.is_empty());
    }
    let junk = changed(|document| document["keys"] = json!([7, null, "x", [], {}])).unwrap();
    assert!(junk.x509_authorities.is_empty());
}

#[test]
fn x509_svid_6_1_entries_must_have_use_and_one_x5c_and_no_kid() {
    let bundle = full();
    let entry = &document(&bundle)["keys"][0];
    assert_eq!(entry["use"], "x509-svid");
    assert!(entry.get("kid").is_none());
    assert_eq!(entry["kty"], "EC");
    let encoded = STANDARD.encode(&bundle.x509_authorities[0].certificate);
    assert_eq!(entry["x5c"], json!([encoded]));
}

#[test]
fn x509_svid_6_2_entries_without_x5c_must_be_ignored_and_later_certificates_too() {
    for x5c in [json!(null), json!([])] {
        let bundle = changed(|document| document["keys"][0]["x5c"] = x5c).unwrap();
        assert!(bundle.x509_authorities.is_empty());
    }
    let two = changed(|document| {
        let other = STANDARD.encode(issuer("example.org").certificate());
        document["keys"][0]["x5c"]
            .as_array_mut()
            .unwrap()
            .push(json!(other));
    })
    .unwrap();
    assert_eq!(two.x509_authorities.len(), 1);
}

#[test]
fn certificates_that_are_no_authority_refuse_the_document() {
    let signer = rcgen::KeyPair::generate().unwrap();
    let leaf = leaf_params("spiffe://example.org/w")
        .self_signed(&signer)
        .unwrap();
    let mut extra = issuer("example.org").certificate().to_vec();
    extra.push(0);
    for bad in [leaf.der().to_vec(), extra, b"junk".to_vec(), Vec::new()] {
        assert!(matches!(
            changed(|document| document["keys"][0]["x5c"][0] = json!(STANDARD.encode(bad))),
            Err(BundleError::Certificate { at: 0, .. })
        ));
    }
    assert!(matches!(
        changed(|document| document["keys"][0]["x5c"][0] = json!("-")),
        Err(BundleError::Certificate { at: 0, .. })
    ));
    assert!(matches!(
        changed(|document| document["keys"][0]["x5c"] = json!("text")),
        Err(BundleError::Json(_))
    ));
}

#[test]
fn jwt_svid_6_1_entries_must_have_use_and_kid() {
    let entry = &document(&full())["keys"][1];
    assert_eq!((&entry["use"], &entry["kid"]), (&json!("jwt-svid"), &json!("k1")));
    assert!(entry.get("x5c").is_none());
    for kid in [json!(null), json!("")] {
        assert!(matches!(
            changed(|document| document["keys"][1]["kid"] = kid),
            Err(BundleError::Jwk { at: 1, .. })
        ));
    }
}

#[test]
fn jwt_svid_6_2_only_keys_for_jwt_svids_must_verify_them() {
    let signer = key("jwt");
    let claims = SvidClaims {
        subject: id("spiffe://example.org/w"),
        audience: vec!["reports".to_owned()],
        issued_at: NOW,
        expires_at: NOW + time::Duration::HOUR,
        issuer: None,
        jti: None,
        run: None,
    };
    let token = sign_svid(&claims, "k1", &signer).unwrap();
    let mut bundle = full();
    bundle.jwt_authorities[0].public_key = signer.public_key_spki().to_vec();
    let judged = |document: &Value| {
        let bundle = read(document).unwrap();
        verify_svid(&token, "reports", |_| Some(&bundle), NOW).map(|_| ())
    };
    let mut document = document(&bundle);
    assert!(judged(&document).is_ok());
    for key_use in [json!("x509-svid"), json!("wit-svid"), json!("sig"), json!(null)] {
        document["keys"][1]["use"] = key_use;
        assert!(matches!(judged(&document), Err(JwtError::UnknownKey { .. })));
    }
}

#[test]
fn bundle_4_1_3_without_usable_keys_all_svids_must_be_untrusted() {
    let issuer = issuer("example.org");
    let workload = key("w");
    let wanted = request("spiffe://example.org/w", workload.public_key_spki());
    let svid = issue_svid(&wanted, &issuer).unwrap();
    let whole = document(&bundle_of(&issuer));
    assert!(x509::verify_svid(&svid.chain, &read(&whole).unwrap(), NOW).is_ok());
    let mut unknown = whole.clone();
    unknown["keys"][0]["use"] = json!("x509-svid-2");
    for document in [unknown, json!({"keys": []})] {
        let bundle = read(&document).unwrap();
        assert!(matches!(
            x509::verify_svid(&svid.chain, &bundle, NOW),
            Err(x509::VerifyError::NoAuthority(_))
        ));
    }
}

#[test]
fn broken_and_weak_jwt_keys_refuse_the_document() {
    for (name, value) in [
        ("x", json!(null)),
        ("x", json!("AAAA")),
        ("y", json!("not base64url!")),
        ("x", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        ("crv", json!("P-384")),
    ] {
        assert!(
            matches!(
                changed(|document| document["keys"][1][name] = value.clone()),
                Err(BundleError::Key { at: 1, .. })
            ),
            "{name} {value}"
        );
    }
    let weak = json!({
        "keys": [{"use": "jwt-svid", "kty": "RSA", "kid": "k", "e": "AQAB", "n": format!("{}8", "_".repeat(170))}]
    });
    assert!(matches!(
        read(&weak),
        Err(BundleError::Key {
            at: 0,
            source: PublicKeyError::RsaSize(_)
        })
    ));
}

#[test]
fn one_key_id_for_two_keys_is_refused() {
    let mut other = full();
    other.jwt_authorities.extend(full().jwt_authorities);
    assert!(matches!(
        read(&document(&other)),
        Err(BundleError::DuplicateKeyId(key_id)) if key_id == "k1"
    ));
    let mut same = full();
    same.jwt_authorities.extend(same.jwt_authorities.clone());
    same.x509_authorities.extend(same.x509_authorities.clone());
    let read = read(&document(&same)).unwrap();
    assert_eq!((read.x509_authorities.len(), read.jwt_authorities.len()), (1, 1));
}

#[test]
fn documents_that_are_too_large_are_refused() {
    let long = vec![b' '; MAX_BUNDLE_BYTES + 1];
    assert!(matches!(
        Bundle::from_jwks(td("example.org"), &long),
        Err(BundleError::TooLong(_))
    ));
    assert!(matches!(
        Bundle::from_pem(td("example.org"), &long),
        Err(BundleError::TooLong(_))
    ));
    assert!(matches!(
        read(&json!({"keys": vec![1; MAX_BUNDLE_KEYS + 1]})),
        Err(BundleError::TooManyKeys(_))
    ));
}

/// A bundle with a key of each kind that has a JWK.
fn of_every_kind() -> Bundle {
    let mut bundle = full();
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
    let rsa = crate::x509::csr::check(include_bytes!("../../tests/data/csr/rsa2048.der")).unwrap();
    let ed25519 = crate::x509::csr::check(include_bytes!("../../tests/data/csr/ed25519.der")).unwrap();
    for (key_id, public_key) in [
        ("k2", p384.public_key().as_der().unwrap().as_ref().to_vec()),
        ("k3", rsa.public_key.spki().to_vec()),
        ("k4", ed25519.public_key.spki().to_vec()),
    ] {
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: key_id.to_owned(),
            public_key,
            expires_at: None,
            tainted: false,
        });
    }
    bundle
}

#[test]
fn bundle_4_2_type_and_use_must_be_set_on_every_key() {
    let document = document(&of_every_kind());
    let keys = document["keys"].as_array().unwrap();
    let named: Vec<_> = keys.iter().map(|key| (&key["kty"], &key["use"])).collect();
    let expected = [
        ("EC", "x509-svid"),
        ("EC", "jwt-svid"),
        ("EC", "jwt-svid"),
        ("RSA", "jwt-svid"),
        ("OKP", "jwt-svid"),
    ];
    assert_eq!(named.len(), expected.len());
    for ((kty, key_use), expected) in named.into_iter().zip(expected) {
        assert_eq!((kty, key_use), (&json!(expected.0), &json!(expected.1)));
    }
}

#[test]
fn a_bundle_survives_its_document() {
    let bundle = of_every_kind();
    let document = bundle.to_jwks().unwrap();
    assert_eq!(Bundle::from_jwks(td("example.org"), &document).unwrap(), bundle);
}

#[test]
fn a_document_of_the_standards_form_is_read() {
    let certificate = STANDARD.encode(issuer("example.org").certificate());
    let bundle = read(&json!({
        "spiffe_sequence": 1,
        "spiffe_refresh_hint": 2_419_200,
        "keys": [
            {"kty": "RSA", "use": "x509-svid", "x5c": [certificate], "n": "AQAB", "e": "AQAB"}
        ]
    }))
    .unwrap();
    assert_eq!(bundle.sequence, 1);
    assert_eq!(bundle.refresh_hint, Some(Duration::from_secs(28 * 86_400)));
    assert_eq!(bundle.x509_authorities.len(), 1);
}

#[test]
fn workload_api_6_2_2_jwt_bundles_must_not_have_other_keys() {
    let set: Value = serde_json::from_slice(&full().jwt_jwks().unwrap()).unwrap();
    let keys = set["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["kid"]), (1, &json!("k1")));
    assert!(keys[0].get("use").is_none() && set.get("spiffe_sequence").is_none());
    let none = Bundle::empty(td("example.org")).jwt_jwks().unwrap();
    assert_eq!(none, br#"{"keys":[]}"#);
    // Another library reads the key as what it is.
    let read: jsonwebtoken::jwk::JwkSet = serde_json::from_value(set).unwrap();
    assert!(jsonwebtoken::DecodingKey::from_jwk(read.find("k1").unwrap()).is_ok());
}

#[test]
fn keys_that_cannot_be_written_are_an_error() {
    let mut bundle = full();
    bundle.jwt_authorities[0].public_key = b"junk".to_vec();
    assert!(matches!(bundle.to_jwks(), Err(BundleError::Key { at: 0, .. })));
    assert!(matches!(bundle.jwt_jwks(), Err(BundleError::Key { at: 0, .. })));
    let mut bundle = full();
    bundle.x509_authorities[0].certificate = b"junk".to_vec();
    assert!(matches!(
        bundle.to_jwks(),
        Err(BundleError::Certificate { at: 0, .. })
    ));
}

#[test]
fn x509_authorities_survive_pem() {
    let mut bundle = bundle_of(&issuer("example.org"));
    bundle
        .x509_authorities
        .extend(bundle_of(&issuer("example.org")).x509_authorities);
    let text = bundle.to_pem();
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(
        Bundle::from_pem(td("example.org"), text.as_bytes()).unwrap(),
        bundle
    );
    let commented = format!("# root of example.org\n{text}\n");
    assert_eq!(
        Bundle::from_pem(td("example.org"), commented.as_bytes()).unwrap(),
        bundle
    );
}

#[test]
fn pem_of_anything_else_is_refused() {
    let read = |text: &str| Bundle::from_pem(td("example.org"), text.as_bytes()).unwrap_err();
    assert!(matches!(read(""), BundleError::Empty));
    assert!(matches!(read("no PEM at all"), BundleError::Empty));
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let good = bundle_of(&issuer("example.org")).to_pem();
    assert!(matches!(
        read(&format!("{good}{key}")),
        BundleError::PemBlock(tag) if tag == "PRIVATE KEY"
    ));
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        read(&format!("{good}{junk}")),
        BundleError::Certificate { at: 1, .. }
    ));
    assert!(matches!(
        read("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
        BundleError::Pem(_)
    ));
}

#[test]
fn der_of_all_authorities_is_one_after_the_other() {
    let mut bundle = bundle_of(&issuer("example.org"));
    bundle
        .x509_authorities
        .extend(bundle_of(&issuer("example.org")).x509_authorities);
    let whole = bundle.x509_der_concat();
    assert_eq!(crate::der::fields(&whole).unwrap().len(), 2);
    assert_eq!(
        whole,
        [
            bundle.x509_authorities[0].certificate.as_slice(),
            &bundle.x509_authorities[1].certificate
        ]
        .concat()
    );
}

#[test]
fn authorities_are_found_by_their_key_id() {
    let bundle = full();
    assert_eq!(bundle.jwt_authority("k1"), bundle.jwt_authorities.first());
    assert_eq!(bundle.jwt_authority("k2"), None);
}

proptest! {
    #[test]
    fn arbitrary_documents_never_panic(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Bundle::from_jwks(td("example.org"), text.as_bytes());
        let _ = Bundle::from_jwks(td("example.org"), &bytes);
        let _ = Bundle::from_pem(td("example.org"), text.as_bytes());
        let _ = Bundle::from_pem(td("example.org"), &bytes);
    }
}
