//! JWT-SVIDs: tokens that must not be believed, then those that must.

use std::str::FromStr;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::x509::testing::{BrokenKey, NOW, id, jwt_bundle, key};
use crate::{Bundle, JwtAuthority, LocalKey};

fn claims() -> SvidClaims {
    SvidClaims {
        subject: id("spiffe://example.org/w"),
        audience: vec!["reports".to_owned()],
        issued_at: NOW,
        expires_at: NOW + Duration::minutes(5),
        issuer: None,
        jti: None,
        run: None,
    }
}

/// A key and the bundle of example.org that lists it as `k1`.
fn signer() -> (LocalKey, Bundle) {
    let key = key("jwt");
    let bundle = jwt_bundle("example.org", "k1", key.public_key_spki());
    (key, bundle)
}

fn judged(token: &str, bundle: &Bundle) -> Result<VerifiedSvid, JwtError> {
    verify_svid(token, "reports", |_| Some(bundle), NOW)
}

fn good_header() -> Value {
    json!({"alg": "ES256", "kid": "k1", "typ": "JWT"})
}

fn good_payload() -> Value {
    json!({
        "sub": "spiffe://example.org/w",
        "aud": ["reports"],
        "exp": (NOW + Duration::minutes(5)).unix_timestamp(),
        "iat": NOW.unix_timestamp(),
    })
}

/// A token of any header and payload, rightly signed.
fn signed(key: &LocalKey, header: &str, payload: &str) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let signature = ecdsa::to_fixed_p256(&key.sign(message.as_bytes()).unwrap()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// What is said of a token whose header has these parameters more, or other.
fn with_header(change: Value) -> JwtError {
    let (key, bundle) = signer();
    let token = signed(
        &key,
        &merged(good_header(), change).to_string(),
        &good_payload().to_string(),
    );
    judged(&token, &bundle).unwrap_err()
}

/// What is said of a token whose claims are changed so; `null` takes a claim away.
fn with_claims(change: Value) -> Result<VerifiedSvid, JwtError> {
    let (key, bundle) = signer();
    let token = signed(
        &key,
        &good_header().to_string(),
        &merged(good_payload(), change).to_string(),
    );
    judged(&token, &bundle)
}

fn merged(mut base: Value, change: Value) -> Value {
    let target = base.as_object_mut().unwrap();
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => target.remove(name),
            other => target.insert(name.clone(), other.clone()),
        };
    }
    base
}

#[test]
fn jwt_svid_2_headers_other_than_alg_kid_typ_must_not_be_there() {
    for more in [
        json!({"jku": "https://evil.org/keys"}),
        json!({"jwk": {"kty": "EC"}}),
        json!({"x5u": "https://evil.org/chain"}),
        json!({"x5c": ["AAAA"]}),
        json!({"crit": ["exp"]}),
        json!({"b64": false}),
        json!({"cty": "JWT"}),
        json!({"x-own": 1}),
    ] {
        assert!(matches!(with_header(more.clone()), JwtError::Header(_)), "{more}");
    }
    assert!(matches!(with_header(json!({"alg": null})), JwtError::Header(_)));
}

#[test]
fn a_header_that_stands_twice_is_refused() {
    let (key, bundle) = signer();
    let header = r#"{"alg":"ES256","kid":"k1","alg":"none"}"#;
    let token = signed(&key, header, &good_payload().to_string());
    assert!(matches!(judged(&token, &bundle), Err(JwtError::Header(_))));
}

#[test]
fn jwt_svid_2_1_other_algorithms_must_be_rejected() {
    for alg in [
        "none", "None", "HS256", "HS384", "HS512", "EdDSA", "es256", "", "ES256K", "dir",
    ] {
        assert!(
            matches!(with_header(json!({"alg": alg})), JwtError::Algorithm(found) if found == alg),
            "{alg}"
        );
    }
}

#[test]
fn jwt_svid_2_1_a_public_key_must_not_serve_as_a_secret() {
    let (key, bundle) = signer();
    for secret in [
        key.public_key_spki().to_vec(),
        crate::public_key::key_bits(key.public_key_spki()).unwrap(),
    ] {
        let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
        header.kid = Some("k1".to_owned());
        let token =
            jsonwebtoken::encode(&header, &good_payload(), &EncodingKey::from_secret(&secret)).unwrap();
        assert!(matches!(judged(&token, &bundle), Err(JwtError::Algorithm(_))));
    }
}

#[test]
fn jwt_svid_2_1_an_unsigned_token_must_be_rejected() {
    let (key, bundle) = signer();
    let token = signed(&key, &good_header().to_string(), &good_payload().to_string());
    let (message, _) = token.rsplit_once('.').unwrap();
    assert!(matches!(
        judged(&format!("{message}."), &bundle),
        Err(JwtError::Signature)
    ));
    assert!(matches!(judged(message, &bundle), Err(JwtError::Malformed(_))));
}

#[test]
fn jwt_svid_2_2_key_id_is_optional() {
    let (key, mut bundle) = signer();
    let header = r#"{"alg":"ES256"}"#;
    let token = signed(&key, header, &good_payload().to_string());
    assert!(judged(&token, &bundle).is_ok());
    let other = crate::x509::testing::key("other");
    bundle.jwt_authorities.insert(
        0,
        JwtAuthority {
            key_id: "k0".to_owned(),
            public_key: other.public_key_spki().to_vec(),
            expires_at: None,
            tainted: false,
        },
    );
    assert!(judged(&token, &bundle).is_ok());
    bundle.jwt_authorities.truncate(1);
    assert!(matches!(judged(&token, &bundle), Err(JwtError::Signature)));
    bundle.jwt_authorities.clear();
    assert!(matches!(
        judged(&token, &bundle),
        Err(JwtError::UnknownKey { .. })
    ));
}

#[test]
fn jwt_svid_2_3_type_must_be_jwt_or_jose() {
    for typ in ["wit+jwt", "at+jwt", "jwt", "", "JWS"] {
        assert!(
            matches!(with_header(json!({"typ": typ})), JwtError::Type(found) if found == typ),
            "{typ}"
        );
    }
    let (key, bundle) = signer();
    for header in [
        r#"{"alg":"ES256","kid":"k1","typ":"JOSE"}"#,
        r#"{"alg":"ES256","kid":"k1"}"#,
    ] {
        let token = signed(&key, header, &good_payload().to_string());
        assert!(judged(&token, &bundle).is_ok(), "{header}");
    }
}

#[test]
fn jwt_svid_3_1_subject_must_be_a_spiffe_id() {
    for sub in [json!(null), json!(7), json!(["spiffe://example.org/w"])] {
        assert!(matches!(
            with_claims(json!({"sub": sub})),
            Err(JwtError::Claim("sub"))
        ));
    }
    for sub in ["", "w", "https://example.org/w", "spiffe://Example.org/w"] {
        assert!(matches!(
            with_claims(json!({"sub": sub})),
            Err(JwtError::Subject(_))
        ));
    }
}

#[test]
fn jwt_svid_3_2_audience_must_be_present_and_match() {
    for aud in [json!(null), json!([]), json!(7), json!(["reports", 7]), json!({})] {
        assert!(
            matches!(
                with_claims(json!({"aud": aud.clone()})),
                Err(JwtError::Claim("aud"))
            ),
            "{aud}"
        );
    }
    for aud in [
        json!("billing"),
        json!(["billing", "Reports", "reports "]),
        json!([""]),
    ] {
        assert!(
            matches!(
                with_claims(json!({"aud": aud.clone()})),
                Err(JwtError::Audience(_))
            ),
            "{aud}"
        );
    }
    for aud in [json!("reports"), json!(["billing", "reports"])] {
        assert!(with_claims(json!({"aud": aud})).is_ok());
    }
    let (key, bundle) = signer();
    let token = signed(&key, &good_header().to_string(), &good_payload().to_string());
    assert!(matches!(
        verify_svid(&token, "", |_| Some(&bundle), NOW),
        Err(JwtError::NoAudience)
    ));
}

#[test]
fn jwt_svid_3_3_expiration_must_be_set_and_obeyed() {
    for exp in [
        json!(null),
        json!("soon"),
        json!(1e300),
        json!(i64::MAX),
        json!({}),
    ] {
        assert!(
            matches!(
                with_claims(json!({"exp": exp.clone()})),
                Err(JwtError::Claim("exp"))
            ),
            "{exp}"
        );
    }
    let now = NOW.unix_timestamp();
    for past in [json!(now), json!(now - 1), json!(0), json!(-1)] {
        assert!(matches!(
            with_claims(json!({"exp": past})),
            Err(JwtError::Expired(_))
        ));
    }
    assert!(with_claims(json!({"exp": now + 1})).is_ok());
    assert!(with_claims(json!({"exp": 2_000_000_000.5})).is_ok());
}

#[test]
fn not_before_is_obeyed_with_a_small_leeway() {
    let now = NOW.unix_timestamp();
    assert!(with_claims(json!({"nbf": now + 10})).is_ok());
    assert!(matches!(
        with_claims(json!({"nbf": now + 11})),
        Err(JwtError::NotYetValid(_))
    ));
    assert!(matches!(
        with_claims(json!({"nbf": "later"})),
        Err(JwtError::Claim("nbf"))
    ));
}

#[test]
fn jwt_svid_5_1_must_be_compact_serialization() {
    let (key, bundle) = signer();
    let token = signed(&key, &good_header().to_string(), &good_payload().to_string());
    let parts: Vec<&str> = token.split('.').collect();
    let json_form = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]});
    for bad in [
        json_form.to_string(),
        String::new(),
        "..".to_owned(),
        "a.b".to_owned(),
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.x"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("{}.{}.{}=", parts[0], parts[1], parts[2]),
    ] {
        assert!(judged(&bad, &bundle).is_err(), "{bad}");
    }
}

#[test]
fn a_token_of_another_trust_domain_needs_that_domains_bundle() {
    let (key, bundle) = signer();
    let foreign = merged(good_payload(), json!({"sub": "spiffe://other.org/w"}));
    let token = signed(&key, &good_header().to_string(), &foreign.to_string());
    // The right key in the wrong bundle, then no bundle at all.
    assert!(matches!(
        judged(&token, &bundle),
        Err(JwtError::UnknownTrustDomain(td)) if td.name() == "other.org"
    ));
    let known = |td: &TrustDomain| (td.name() == "example.org").then_some(&bundle);
    assert!(matches!(
        verify_svid(&token, "reports", known, NOW),
        Err(JwtError::UnknownTrustDomain(_))
    ));
    let theirs = jwt_bundle(
        "other.org",
        "k1",
        crate::x509::testing::key("x").public_key_spki(),
    );
    assert!(matches!(judged(&token, &theirs), Err(JwtError::Signature)));
}

#[test]
fn unknown_and_expired_keys_are_refused_and_tainted_ones_not_yet() {
    let (key, mut bundle) = signer();
    let token = sign_svid(&claims(), "k1", &key).unwrap();
    let unknown = sign_svid(&claims(), "k2", &key).unwrap();
    assert!(matches!(
        judged(&unknown, &bundle),
        Err(JwtError::UnknownKey { key_id, .. }) if key_id == "k2"
    ));
    bundle.jwt_authorities[0].tainted = true;
    assert!(judged(&token, &bundle).is_ok());
    bundle.jwt_authorities[0].expires_at = Some(NOW + Duration::SECOND);
    assert!(judged(&token, &bundle).is_ok());
    bundle.jwt_authorities[0].expires_at = Some(NOW);
    assert!(matches!(
        judged(&token, &bundle),
        Err(JwtError::UnknownKey { .. })
    ));
}

#[test]
fn the_algorithm_must_fit_the_key() {
    let (key, _) = signer();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap();
    let token = sign_svid(&claims(), "k1", &key).unwrap();
    let bundle = jwt_bundle("example.org", "k1", spki.as_ref());
    assert!(matches!(judged(&token, &bundle), Err(JwtError::Signature)));
    for alg in ["ES384", "RS256", "PS512"] {
        assert!(matches!(with_header(json!({"alg": alg})), JwtError::Signature));
    }
    let broken = jwt_bundle("example.org", "k1", b"no key");
    assert!(matches!(judged(&token, &broken), Err(JwtError::Signature)));
}

#[test]
fn a_token_that_is_too_long_is_refused() {
    let (key, bundle) = signer();
    let mut long = claims();
    long.audience.push("x".repeat(MAX_TOKEN_BYTES));
    assert!(matches!(sign_svid(&long, "k1", &key), Err(JwtError::TooLong(_))));
    let token = signed(&key, &good_header().to_string(), &" ".repeat(MAX_TOKEN_BYTES));
    assert!(matches!(judged(&token, &bundle), Err(JwtError::TooLong(_))));
}

#[test]
fn claims_that_break_a_rule_are_not_signed() {
    let (key, _) = signer();
    let refused = |spoil: &dyn Fn(&mut SvidClaims)| {
        let mut claims = claims();
        spoil(&mut claims);
        sign_svid(&claims, "k1", &key).unwrap_err()
    };
    assert!(matches!(
        refused(&|claims| claims.subject = id("spiffe://example.org")),
        JwtError::NoPath(_)
    ));
    assert!(matches!(
        refused(&|claims| claims.audience.clear()),
        JwtError::NoAudience
    ));
    assert!(matches!(
        refused(&|claims| claims.audience.push(String::new())),
        JwtError::NoAudience
    ));
    assert!(matches!(
        refused(&|claims| claims.expires_at = claims.issued_at),
        JwtError::Validity { .. }
    ));
    assert!(matches!(
        sign_svid(&claims(), "k1", &BrokenKey::new()),
        Err(JwtError::Sign(error)) if error.reason == "the token was pulled out"
    ));
}

#[test]
fn a_signed_token_says_what_it_should_and_verifies() {
    let (key, bundle) = signer();
    let mut all = claims();
    all.audience.push("billing".to_owned());
    all.issuer = Some("https://issuer.example.org".to_owned());
    all.jti = Some("one".to_owned());
    let token = sign_svid(&all, "k1", &key).unwrap();
    let svid = judged(&token, &bundle).unwrap();
    assert_eq!(svid.spiffe_id, all.subject);
    assert_eq!(svid.expires_at, all.expires_at);
    assert_eq!(
        Value::Object(svid.claims),
        merged(
            good_payload(),
            json!({"aud": ["reports", "billing"], "iss": "https://issuer.example.org", "jti": "one"})
        )
    );
    let header = token.split('.').next().unwrap();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    assert_eq!(header, good_header());
    let bare = judged(&sign_svid(&claims(), "k1", &key).unwrap(), &bundle).unwrap();
    assert_eq!(Value::Object(bare.claims), good_payload());
}

#[test]
fn another_library_verifies_what_we_sign() {
    let (key, _) = signer();
    let mut eternal = claims();
    eternal.expires_at = time::macros::datetime!(2200-01-01 00:00:00 UTC);
    for _ in 0..50 {
        let token = sign_svid(&eternal, "k1", &key).unwrap();
        let point = crate::public_key::key_bits(key.public_key_spki()).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&["reports"]);
        rules.set_required_spec_claims(&["exp", "aud", "sub"]);
        let data = jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_ec_der(&point), &rules).unwrap();
        assert_eq!(data.claims["sub"], "spiffe://example.org/w");
    }
}

#[test]
fn jwt_svid_2_1_tokens_of_the_other_algorithms_verify() {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa_spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(rsa.public_key()).unwrap();
    // The library that signs here wants the bare RSA key, which is the content of the PKCS#8 one.
    let pkcs8 = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
    let inner = crate::der::fields_of_one(crate::der::SEQUENCE, pkcs8.as_ref()).unwrap()[2].content;
    let rsa_key = EncodingKey::from_rsa_der(inner);
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
    let p384_spki = p384.public_key().as_der().unwrap();
    let p384_key = EncodingKey::from_ec_der(p384.to_pkcs8v1().unwrap().as_ref());
    for name in ["ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        let (key, spki) = if name == "ES384" {
            (&p384_key, p384_spki.as_ref())
        } else {
            (&rsa_key, rsa_spki.as_ref())
        };
        let mut header = jsonwebtoken::Header::new(Algorithm::from_str(name).unwrap());
        header.kid = Some("k1".to_owned());
        let token = jsonwebtoken::encode(&header, &good_payload(), key).unwrap();
        let svid = judged(&token, &jwt_bundle("example.org", "k1", spki)).unwrap();
        assert_eq!(svid.spiffe_id.path(), "/w", "{name}");
    }
}

#[test]
fn peeking_shows_the_claims_of_a_token_that_nobody_verified() {
    let (key, _) = signer();
    let token = sign_svid(&claims(), "k1", &key).unwrap();
    let forged = format!("{}A", &token[..token.len() - 1]);
    for token in [token, forged] {
        let peeked = peek_unverified(&token).unwrap();
        assert_eq!(peeked.key_id.as_deref(), Some("k1"));
        assert_eq!(peeked.subject, claims().subject);
        assert_eq!(peeked.audience, claims().audience);
        assert_eq!(peeked.issued_at, Some(claims().issued_at));
        assert_eq!(peeked.expires_at, claims().expires_at);
    }
    assert!(peek_unverified("a.b.c").is_err());
}

proptest! {
    #[test]
    fn a_bent_token_never_verifies(
        at in any::<proptest::sample::Index>(), with in "[A-Za-z0-9_=. -]"
    ) {
        let (key, bundle) = signer();
        let token = sign_svid(&claims(), "k1", &key).unwrap();
        let at = at.index(token.len());
        let mut bent = token.clone();
        bent.replace_range(at..=at, &with);
        prop_assert_eq!(judged(&bent, &bundle).is_ok(), bent == token);
        bent = token;
        bent.insert_str(at, &with);
        prop_assert!(judged(&bent, &bundle).is_err());
        bent.truncate(at);
        prop_assert!(judged(&bent, &bundle).is_err());
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}", header in "\\PC{0,60}") {
        let (_, bundle) = signer();
        prop_assert!(judged(&text, &bundle).is_err());
        let token = format!(
            "{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&text), "AAAA"
        );
        prop_assert!(judged(&token, &bundle).is_err());
    }
}
