//! X.509-SVIDs and bundles.

use std::time::Duration;

use tonic::Code;
use vouchsafe_identity::{Bundle, LocalKey, Signer, TrustDomain, x509};
use vouchsafe_proto::workload::{
    WitBundlesRequest, WitsvidRequest, X509BundlesRequest, X509svidRequest, X509svidResponse,
};
use vouchsafe_runtime::Clock;
use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::node::{Node, certificates, end, message, paths, with_header};

use super::node_with;

fn serial(response: &X509svidResponse) -> String {
    let chain = certificates(&response.svids[0].x509_svid).unwrap();
    x509::parse_leaf(&chain[0]).unwrap().serial
}

#[tokio::test]
async fn workload_endpoint_3_without_the_security_header_nothing_is_answered() {
    let node = node_with("me").await;
    let mut client = node.workload().await.unwrap();
    let bare = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(bare.code(), Code::InvalidArgument);
    assert_eq!(bare.message(), "security header missing from request");
    let mut twice = with_header(X509svidRequest {});
    twice
        .metadata_mut()
        .append("workload.spiffe.io", "true".parse().unwrap());
    let twice = client.fetch_x509svid(twice).await.unwrap_err();
    assert_eq!(twice.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn workload_api_4_a_process_without_an_identity_is_denied_with_the_reason() {
    let node = Node::start().await.unwrap();
    let denied = end(&mut node.x509().await.unwrap()).await.unwrap();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(
        denied
            .message()
            .starts_with("no identity issued: the agent has no"),
        "{denied}"
    );
    node.upstream
        .put_entry("other", &["unix:uid:4294967294", &own_uid()], |_| {});
    vouchsafe_tests::wait::until("the entry is known", async || {
        let denied = end(&mut node.x509().await.unwrap()).await.unwrap();
        denied
            .message()
            .contains("no registration entry matches")
            .then_some(())
    })
    .await
    .unwrap();
    let mut client = node.workload().await.unwrap();
    let stream = client
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await;
    let denied = end(&mut stream.unwrap().into_inner()).await.unwrap();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(
        !denied.message().contains("other"),
        "says nothing of entries: {denied}"
    );
}

#[tokio::test]
async fn the_svid_verifies_by_its_bundle_and_its_key_is_its_own() {
    let node = node_with("me").await;
    let response = node.given(&["/me"]).await.unwrap();
    let svid = &response.svids[0];
    let mut bundle = Bundle::empty(TrustDomain::new("example.org").unwrap());
    for certificate in certificates(&svid.bundle).unwrap() {
        bundle.x509_authorities.push(vouchsafe_identity::X509Authority {
            certificate,
            tainted: false,
        });
    }
    let chain = certificates(&svid.x509_svid).unwrap();
    let leaf = x509::verify_svid(&chain, &bundle, Clock::system().now()).unwrap();
    assert_eq!(leaf.spiffe_id.as_str(), "spiffe://example.org/me");
    let key = LocalKey::from_pkcs8("svid", &svid.x509_svid_key).unwrap();
    assert_eq!(leaf.public_key, key.public_key_spki());
    let again = node.given(&["/me"]).await.unwrap();
    assert_eq!(
        serial(&again),
        serial(&response),
        "a cached SVID is not issued anew"
    );
}

#[tokio::test]
async fn several_svids_come_oldest_entry_first_and_hints_are_unique() {
    let node = Node::start().await.unwrap();
    let uid = own_uid();
    node.upstream
        .put_entry("z-oldest", &[&uid], |entry| entry.hint = "db".to_owned());
    node.upstream
        .put_entry("b-middle", &[&uid], |entry| entry.hint = "db".to_owned());
    node.upstream.put_entry("a-youngest", &[&uid], |_| {});
    let response = node.given(&["/z-oldest", "/a-youngest"]).await.unwrap();
    let hints: Vec<_> = response.svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(hints, ["db", ""]);
}

#[tokio::test]
async fn a_change_of_entries_is_pushed_and_a_removed_identity_ends_the_stream() {
    let node = node_with("me").await;
    let mut stream = node.x509().await.unwrap();
    assert_eq!(paths(&message(&mut stream).await.unwrap()), ["/me"]);
    node.upstream.put_entry("too", &[&own_uid()], |_| {});
    assert_eq!(paths(&message(&mut stream).await.unwrap()), ["/me", "/too"]);
    node.upstream.change(|server| {
        server.entries.remove("me");
    });
    assert_eq!(paths(&message(&mut stream).await.unwrap()), ["/too"]);
    node.upstream.change(|server| server.entries.clear());
    assert_eq!(end(&mut stream).await.unwrap().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn rotation_is_pushed_before_the_old_svid_ends() {
    let node = Node::start().await.unwrap();
    node.upstream
        .change(|server| server.x509_ttl = Duration::from_secs(4));
    node.upstream.put_entry("me", &[&own_uid()], |_| {});
    node.given(&["/me"]).await.unwrap();
    let mut stream = node.x509().await.unwrap();
    let first = message(&mut stream).await.unwrap();
    let ends = {
        let chain = certificates(&first.svids[0].x509_svid).unwrap();
        x509::parse_leaf(&chain[0]).unwrap().not_after
    };
    let second = message(&mut stream).await.unwrap();
    assert!(Clock::system().now() < ends);
    assert_ne!(serial(&first), serial(&second));
    assert_ne!(
        first.svids[0].x509_svid_key, second.svids[0].x509_svid_key,
        "a new key each time"
    );
}

#[tokio::test]
async fn a_new_authority_is_pushed_to_every_stream_and_nothing_comes_twice() {
    let node = node_with("me").await;
    let mut svids = node.x509().await.unwrap();
    let mut client = node.workload().await.unwrap();
    let bundles = client
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await;
    let mut bundles = bundles.unwrap().into_inner();
    let authorities = |bundle: &[u8]| certificates(bundle).unwrap().len();
    assert_eq!(
        authorities(&message(&mut svids).await.unwrap().svids[0].bundle),
        1
    );
    let first = message(&mut bundles).await.unwrap();
    assert_eq!(authorities(&first.bundles["spiffe://example.org"]), 1);
    node.upstream.add_authority().unwrap();
    assert_eq!(
        authorities(&message(&mut svids).await.unwrap().svids[0].bundle),
        2
    );
    let second = message(&mut bundles).await.unwrap();
    assert_eq!(authorities(&second.bundles["spiffe://example.org"]), 2);
}

#[tokio::test]
async fn federated_bundles_go_to_those_whose_entries_name_them() {
    let node = Node::start().await.unwrap();
    let mut far = node.upstream.bundle();
    far.trust_domain = TrustDomain::new("far.example").unwrap();
    node.upstream.change(|server| {
        server.federated.insert("far.example".to_owned(), far);
    });
    node.upstream.put_entry("me", &[&own_uid()], |entry| {
        entry.federates_with = vec!["far.example".to_owned(), "unknown.example".to_owned()];
    });
    let response = node.given(&["/me"]).await.unwrap();
    let names: Vec<_> = response.federated_bundles.keys().collect();
    assert_eq!(names, ["spiffe://far.example"]);
}

#[tokio::test]
async fn more_entries_than_a_page_arrive_all() {
    let node = Node::start().await.unwrap();
    node.upstream.change(|server| server.page_size = 7);
    let uid = own_uid();
    let expected: Vec<String> = (0..40).map(|n| format!("/e{n:02}")).collect();
    for path in &expected {
        node.upstream.put_entry(&path[1..], &[&uid], |_| {});
    }
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    node.given(&expected).await.unwrap();
}

#[tokio::test]
async fn what_is_not_issued_here_says_so() {
    let node = node_with("me").await;
    let mut client = node.workload().await.unwrap();
    let svid = client.fetch_witsvid(with_header(WitsvidRequest::default())).await;
    assert_eq!(svid.unwrap_err().code(), Code::Unimplemented);
    let bundles = client.fetch_wit_bundles(with_header(WitBundlesRequest {})).await;
    assert_eq!(bundles.unwrap_err().code(), Code::Unimplemented);
}
