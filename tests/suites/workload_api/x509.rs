//! The X.509-SVID profile.

use std::collections::HashSet;

use vouchsafe_identity::x509::{parse_leaf, verify_svid};
use vouchsafe_identity::{LocalKey, Signer};
use vouchsafe_proto::workload::{X509BundlesRequest, X509svidRequest};
use vouchsafe_runtime::Clock;
use vouchsafe_tests::workload::{self, certificates};

use super::{CODER, OWN, RESEARCHER, REVIEWER, bundle, deployment, register, served, with_researcher};

#[tokio::test]
async fn workload_api_5_1_leaf_must_come_first_and_the_key_must_be_unencrypted() {
    let (_deployment, api) = with_researcher().await;
    let svid = &served(&api, 1).await.svids[0];
    let chain = certificates(&svid.x509_svid).unwrap();
    let leaf = parse_leaf(&chain[0]).unwrap();
    assert_eq!(leaf.spiffe_id.as_str(), RESEARCHER);
    assert_eq!(svid.spiffe_id, RESEARCHER);
    // Only an unencrypted PKCS#8 key can be read without a passphrase, and it is that of the leaf.
    let key = LocalKey::from_pkcs8("svid", &svid.x509_svid_key).unwrap();
    assert_eq!(key.public_key_spki(), leaf.public_key);
    let verified = verify_svid(&chain, &bundle(&svid.bundle), Clock::system().now()).unwrap();
    assert_eq!(verified.spiffe_id, leaf.spiffe_id);
}

#[tokio::test]
async fn workload_api_5_2_1_there_must_be_one_svid_for_each_identity() {
    let deployment = deployment().await;
    let mut api = workload::connect(&deployment.workload_socket()).await.unwrap();
    // None at all is an error, never an empty message.
    let denied = match api.fetch_x509svid(X509svidRequest {}).await {
        Ok(stream) => workload::next(&mut stream.into_inner()).await,
        Err(status) => Err(status),
    };
    super::refused_with(denied, tonic::Code::PermissionDenied);
    for id in [RESEARCHER, CODER, REVIEWER] {
        register(&deployment, id, &[]).await;
    }
    let message = served(&api, 3).await;
    let ids: HashSet<&str> = message.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, HashSet::from([RESEARCHER, CODER, REVIEWER]));
    // Each with all its mandatory fields, and with a key of its own.
    let mut keys = HashSet::new();
    for svid in &message.svids {
        assert!(!svid.x509_svid.is_empty() && !svid.bundle.is_empty());
        assert!(keys.insert(&svid.x509_svid_key) && !svid.x509_svid_key.is_empty());
    }
}

#[tokio::test]
async fn workload_api_5_2_1_hints_must_be_unique() {
    let deployment = deployment().await;
    for (id, hint) in [
        (RESEARCHER, "internal"),
        (CODER, "internal"),
        (REVIEWER, "external"),
    ] {
        register(&deployment, id, &["--hint", hint]).await;
    }
    register(&deployment, "spiffe://example.org/agent/planner", &[]).await;
    register(&deployment, "spiffe://example.org/agent/tester", &[]).await;
    let api = workload::connect(&deployment.workload_socket()).await.unwrap();
    // Of two with one hint, one is given.
    let message = served(&api, 4).await;
    let mut hints: Vec<&str> = message.svids.iter().map(|svid| svid.hint.as_str()).collect();
    hints.sort_unstable();
    assert_eq!(hints, ["", "", "external", "internal"]);
}

#[tokio::test]
async fn workload_api_8_the_default_identity_stays_the_first() {
    let deployment = deployment().await;
    for id in [RESEARCHER, CODER, REVIEWER] {
        register(&deployment, id, &[]).await;
    }
    let api = workload::connect(&deployment.workload_socket()).await.unwrap();
    let ids = |message: vouchsafe_proto::workload::X509svidResponse| -> Vec<String> {
        message.svids.into_iter().map(|svid| svid.spiffe_id).collect()
    };
    let first = ids(served(&api, 3).await);
    for _ in 0..5 {
        let other = workload::connect(&deployment.workload_socket()).await.unwrap();
        assert_eq!(ids(served(&other, 3).await), first);
    }
}

#[tokio::test]
async fn workload_api_5_2_2_bundles_must_contain_that_of_the_own_trust_domain() {
    let (_deployment, mut api) = with_researcher().await;
    let mut stream = api
        .fetch_x509_bundles(X509BundlesRequest {})
        .await
        .unwrap()
        .into_inner();
    let bundles = workload::next(&mut stream).await.unwrap().bundles;
    assert_eq!(bundles.keys().collect::<Vec<_>>(), [OWN]);
    let svid = &served(&api, 1).await.svids[0];
    assert_eq!(bundles[OWN], svid.bundle);
    assert!(!bundle(&bundles[OWN]).x509_authorities.is_empty());
}
