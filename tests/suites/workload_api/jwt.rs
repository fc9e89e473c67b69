//! The JWT-SVID profile: what is given, and what validation refuses.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost_types::value::Kind;
use serde_json::{Value, json};
use time::Duration;
use tonic::{Code, Status};
use vouchsafe_identity::jwt::{SvidClaims, peek_unverified, sign_svid, verify_svid};
use vouchsafe_identity::{Bundle, KeyAlgorithm, LocalKey, SpiffeId, TrustDomain};
use vouchsafe_proto::workload::{
    JwtBundlesRequest, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};
use vouchsafe_runtime::Clock;
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload::{self, WorkloadApi};

use super::{CODER, OWN, RESEARCHER, REVIEWER, deployment, refused_with, register, served, with_researcher};

async fn fetch(api: &WorkloadApi, audience: &[&str], spiffe_id: &str) -> Result<Vec<Jwtsvid>, Status> {
    let request = JwtsvidRequest {
        audience: audience.iter().map(|one| (*one).to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    };
    Ok(api.clone().fetch_jwtsvid(request).await?.into_inner().svids)
}

async fn validate(api: &WorkloadApi, audience: &str, svid: &str) -> Result<ValidateJwtsvidResponse, Status> {
    let request = ValidateJwtsvidRequest {
        audience: audience.to_owned(),
        svid: svid.to_owned(),
    };
    Ok(api.clone().validate_jwtsvid(request).await?.into_inner())
}

fn ids(svids: &[Jwtsvid]) -> HashSet<&str> {
    svids.iter().map(|svid| svid.spiffe_id.as_str()).collect()
}

/// A part of a token, as JSON.
fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn workload_api_1_both_profiles_must_be_served() {
    let (_deployment, api) = with_researcher().await;
    let x509 = served(&api, 1).await;
    let jwt = fetch(&api, &["reports"], "").await.unwrap();
    assert_eq!(
        (x509.svids[0].spiffe_id.as_str(), jwt[0].spiffe_id.as_str()),
        (RESEARCHER, RESEARCHER)
    );
    let valid = validate(&api, "reports", &jwt[0].svid).await.unwrap();
    assert_eq!(valid.spiffe_id, RESEARCHER);
}

#[tokio::test]
async fn workload_api_6_2_1_the_audience_must_be_named_and_is_that_of_the_token() {
    let (_deployment, api) = with_researcher().await;
    for none in [&[][..], &[""], &["reports", ""]] {
        refused_with(fetch(&api, none, "").await, Code::InvalidArgument);
    }
    for asked in [&["reports"][..], &["reports", "billing"]] {
        let svids = fetch(&api, asked, "").await.unwrap();
        let token = &svids[0].svid;
        let claims = peek_unverified(token).unwrap();
        let named: HashSet<&str> = claims.audience.iter().map(String::as_str).collect();
        assert_eq!(named, asked.iter().copied().collect());
        assert_eq!((svids.len(), claims.subject.as_str()), (1, RESEARCHER));
        let header = part(token, 0);
        let names: HashSet<&str> = header.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(names.is_subset(&HashSet::from(["alg", "kid", "typ"])), "{header}");
    }
}

#[tokio::test]
async fn workload_api_6_2_1_without_a_spiffe_id_all_identities_must_be_returned() {
    let deployment = deployment().await;
    for (id, hint) in [
        (RESEARCHER, "internal"),
        (CODER, "internal"),
        (REVIEWER, "external"),
    ] {
        register(&deployment, id, &["--hint", hint]).await;
    }
    register(&deployment, "spiffe://example.org/agent/planner", &[]).await;
    let api = workload::connect(&deployment.workload_socket()).await.unwrap();
    let x509 = served(&api, 3).await;
    let all = fetch(&api, &["reports"], "").await.unwrap();
    let in_order: Vec<&str> = all.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    let expected: Vec<&str> = x509.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(
        in_order, expected,
        "the same identities in the same order as X.509"
    );
    let mut hints: Vec<&str> = all.iter().map(|svid| svid.hint.as_str()).collect();
    hints.sort_unstable();
    assert_eq!(hints, ["", "external", "internal"]);
    // One that is named comes alone; one that is not the caller's does not come.
    let one = fetch(&api, &["reports"], REVIEWER).await.unwrap();
    assert_eq!((one.len(), ids(&one)), (1, HashSet::from([REVIEWER])));
    for foreign in ["spiffe://example.org/agent/nobody", "spiffe://other.org/w", OWN] {
        let denied = refused_with(fetch(&api, &["reports"], foreign).await, Code::PermissionDenied);
        assert!(denied.contains("no identity issued"), "{denied}");
    }
    refused_with(
        fetch(&api, &["reports"], "researcher").await,
        Code::InvalidArgument,
    );
}

#[tokio::test]
async fn workload_api_6_2_2_bundles_must_have_the_own_trust_domain_and_keys_for_jwt_alone() {
    let (_deployment, mut api) = with_researcher().await;
    let mut stream = api
        .fetch_jwt_bundles(JwtBundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    let bundles = workload::next(&mut stream).await.unwrap().bundles;
    assert_eq!(bundles.keys().collect::<Vec<_>>(), [OWN]);
    let set: Value = serde_json::from_slice(&bundles[OWN]).unwrap();
    let keys = set["keys"].as_array().unwrap();
    assert!(!keys.is_empty());
    let token = &fetch(&api, &["reports"], "").await.unwrap()[0].svid;
    assert!(
        keys.iter().any(|key| key["kid"] == part(token, 0)["kid"]),
        "the key that signs is among them"
    );
    for key in keys {
        assert!(key.get("x5c").is_none() && key["kid"].is_string(), "{key}");
        assert!(
            key.get("use").is_none_or(|key_use| key_use == "jwt-svid"),
            "{key}"
        );
    }
    // They are enough to validate a token without the agent.
    let mut whole = set.clone();
    for key in whole["keys"].as_array_mut().unwrap() {
        key["use"] = json!("jwt-svid");
    }
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let bundle = Bundle::from_jwks(trust_domain, whole.to_string().as_bytes()).unwrap();
    let verified = verify_svid(token, "reports", |_| Some(&bundle), Clock::system().now()).unwrap();
    assert_eq!(verified.spiffe_id.as_str(), RESEARCHER);
}

/// Tokens that look like those of the agent's trust domain, and are not.
fn forgeries(good: &str) -> Vec<(&'static str, String)> {
    let now = Clock::system().now();
    let kid = part(good, 0)["kid"].as_str().unwrap().to_owned();
    let claims = |subject: &str| SvidClaims {
        subject: SpiffeId::new(subject).unwrap(),
        audience: vec!["reports".to_owned()],
        issued_at: now,
        expires_at: now + Duration::HOUR,
        issuer: None,
        jti: None,
        run: None,
    };
    let stranger = LocalKey::generate("stranger", KeyAlgorithm::EcP256).unwrap();
    let signed = |subject: &str, kid: &str| sign_svid(&claims(subject), kid, &stranger).unwrap();
    let pieces: Vec<&str> = good.split('.').collect();
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (mut elevated, mut timeless, mut for_all) = (part(good, 1), part(good, 1), part(good, 1));
    elevated["sub"] = json!(CODER);
    timeless.as_object_mut().unwrap().remove("exp");
    for_all.as_object_mut().unwrap().remove("aud");
    let with_payload = |payload: &Value| format!("{}.{}.{}", pieces[0], encoded(payload), pieces[2]);
    let mut signature = URL_SAFE_NO_PAD.decode(pieces[2]).unwrap();
    signature[5] ^= 1;
    let bent = URL_SAFE_NO_PAD.encode(signature);
    vec![
        ("a bent signature", format!("{}.{}.{bent}", pieces[0], pieces[1])),
        ("no signature", format!("{}.{}.", pieces[0], pieces[1])),
        ("another subject", with_payload(&elevated)),
        ("no expiry", with_payload(&timeless)),
        ("no audience", with_payload(&for_all)),
        ("a stranger's key under a known kid", signed(RESEARCHER, &kid)),
        ("an unknown kid", signed(RESEARCHER, "unknown")),
        (
            "a stranger's key without kid",
            format!(
                "{}.{}.{bent}",
                encoded(&json!({"alg": "ES256", "typ": "JWT"})),
                pieces[1]
            ),
        ),
        (
            "algorithm none",
            format!("{}.{}.", encoded(&json!({"alg": "none", "kid": kid})), pieces[1]),
        ),
        (
            "algorithm HS256",
            format!(
                "{}.{}.{}",
                encoded(&json!({"alg": "HS256", "kid": kid})),
                pieces[1],
                pieces[2]
            ),
        ),
        (
            "another type",
            format!(
                "{}.{}.{}",
                encoded(&json!({"alg": "ES256", "kid": kid, "typ": "wit+jwt"})),
                pieces[1],
                pieces[2]
            ),
        ),
        (
            "the JSON serialization",
            json!({"protected": pieces[0], "payload": pieces[1], "signature": pieces[2]}).to_string(),
        ),
        ("no token", "token".to_owned()),
        ("nothing", String::new()),
    ]
}

#[tokio::test]
async fn workload_api_6_2_3_tokens_must_be_validated_by_the_rules_of_jwt_svid() {
    let (_deployment, api) = with_researcher().await;
    let good = fetch(&api, &["reports"], "").await.unwrap()[0].svid.clone();
    for (what, token) in forgeries(&good) {
        let answer = validate(&api, "reports", &token).await;
        assert_eq!(
            answer.map_err(|status| status.code()).unwrap_err(),
            Code::InvalidArgument,
            "{what}"
        );
    }
    for audience in ["billing", "Reports", ""] {
        refused_with(validate(&api, audience, &good).await, Code::InvalidArgument);
    }
    let valid = validate(&api, "reports", &good).await.unwrap();
    assert_eq!(valid.spiffe_id, RESEARCHER);
    let claims = valid.claims.unwrap().fields;
    assert_eq!(claims["sub"].kind, Some(Kind::StringValue(RESEARCHER.to_owned())));
    for name in ["aud", "exp"] {
        assert!(claims.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn workload_api_6_2_3_an_expired_token_must_not_validate() {
    let deployment = deployment().await;
    register(&deployment, RESEARCHER, &["--jwt-svid-ttl", "3s"]).await;
    let api = workload::connect(&deployment.workload_socket()).await.unwrap();
    served(&api, 1).await;
    let token = fetch(&api, &["reports"], "").await.unwrap()[0].svid.clone();
    validate(&api, "reports", &token).await.unwrap();
    let refused = until("the token expires", async || {
        validate(&api, "reports", &token).await.err()
    });
    let message = refused_with(Err::<(), _>(refused.await.unwrap()), Code::InvalidArgument);
    assert!(message.contains("expired"), "{message}");
    // Whoever asks anew gets one that is valid.
    let fresh = fetch(&api, &["reports"], "").await.unwrap()[0].svid.clone();
    validate(&api, "reports", &fresh).await.unwrap();
}

#[tokio::test]
async fn workload_api_6_3_a_token_must_be_validated_by_the_bundle_of_its_own_trust_domain() {
    let (_deployment, api) = with_researcher().await;
    let good = fetch(&api, &["reports"], "").await.unwrap()[0].svid.clone();
    let stranger = LocalKey::generate("stranger", KeyAlgorithm::EcP256).unwrap();
    let now = Clock::system().now();
    let claims = SvidClaims {
        subject: SpiffeId::new("spiffe://other.org/agent/researcher").unwrap(),
        audience: vec!["reports".to_owned()],
        issued_at: now,
        expires_at: now + Duration::HOUR,
        issuer: None,
        jti: None,
        run: None,
    };
    // A token of a trust domain that is not known, under the kid of our own key.
    let kid = part(&good, 0)["kid"].as_str().unwrap().to_owned();
    let foreign = sign_svid(&claims, &kid, &stranger).unwrap();
    let message = refused_with(validate(&api, "reports", &foreign).await, Code::InvalidArgument);
    assert!(message.contains("other.org"), "{message}");
}
