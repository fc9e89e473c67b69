//! JWT-SVIDs: fetched, cached, validated.

use std::time::Duration;

use tonic::{Code, Status};
use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};
use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::node::{Node, message, with_header};
use vouchsafe_tests::wait::until;

use super::node_with;

async fn fetch(node: &Node, audience: &[&str], spiffe_id: &str) -> Result<JwtsvidResponse, Status> {
    let request = JwtsvidRequest {
        audience: audience.iter().map(|one| (*one).to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    };
    let mut client = node.workload().await.unwrap();
    client
        .fetch_jwtsvid(with_header(request))
        .await
        .map(tonic::Response::into_inner)
}

async fn validate(node: &Node, audience: &str, svid: &str) -> Result<ValidateJwtsvidResponse, Status> {
    let request = ValidateJwtsvidRequest {
        audience: audience.to_owned(),
        svid: svid.to_owned(),
    };
    let mut client = node.workload().await.unwrap();
    client
        .validate_jwtsvid(with_header(request))
        .await
        .map(tonic::Response::into_inner)
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_by_name() {
    let node = node_with("me").await;
    for (audience, id, code, part) in [
        (&[][..], "", Code::InvalidArgument, "audience must be specified"),
        (&[""], "", Code::InvalidArgument, "audience must be specified"),
        (&["a"], "me", Code::InvalidArgument, "invalid requested SPIFFE ID"),
        (
            &["a"],
            "spiffe://example.org/other",
            Code::PermissionDenied,
            "no identity issued",
        ),
    ] {
        let refused = fetch(&node, audience, id).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(part), "{refused}");
    }
    for (audience, svid, part) in [
        ("", "x", "audience"),
        ("a", "", "svid must be"),
        ("a", "x.y.z", ""),
    ] {
        let refused = validate(&node, audience, svid).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(part), "{refused}");
    }
}

#[tokio::test]
async fn a_process_without_an_identity_gets_no_token_and_no_validation() {
    let node = Node::start().await.unwrap();
    let refused = fetch(&node, &["a"], "").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("no identity issued"), "{refused}");
    assert_eq!(
        validate(&node, "a", "x.y.z").await.unwrap_err().code(),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn a_token_is_valid_for_its_audience_alone_and_comes_from_the_cache_the_second_time() {
    let node = node_with("me").await;
    let first = fetch(&node, &["a", "b"], "").await.unwrap();
    let token = &first.svids[0].svid;
    let again = fetch(&node, &["b", "a"], "spiffe://example.org/me")
        .await
        .unwrap();
    assert_eq!(again.svids[0].svid, *token, "the order of audiences is no matter");
    assert_eq!(node.upstream.counts().jwt, 1);
    let valid = validate(&node, "b", token).await.unwrap();
    assert_eq!(valid.spiffe_id, "spiffe://example.org/me");
    assert!(valid.claims.unwrap().fields.contains_key("exp"));
    let other = validate(&node, "c", token).await.unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    let forged = format!("{}x", token);
    assert_eq!(
        validate(&node, "b", &forged).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn an_entry_that_wants_single_tokens_gets_a_fresh_one_each_time() {
    let node = Node::start().await.unwrap();
    node.upstream.put_entry("me", &[&own_uid()], |entry| {
        entry.additional_attributes = Some(vouchsafe_proto::spire::api::types::entry::AdditionalAttributes {
            jwt_svid_include_jti: true,
            ..Default::default()
        });
    });
    node.given(&["/me"]).await.unwrap();
    let first = fetch(&node, &["a"], "").await.unwrap();
    let second = fetch(&node, &["a"], "").await.unwrap();
    assert_ne!(first.svids[0].svid, second.svids[0].svid);
}

#[tokio::test]
async fn while_the_server_is_away_a_cached_token_serves_until_it_ends_and_no_longer() {
    let node = node_with("me").await;
    node.upstream
        .change(|server| server.jwt_ttl = Duration::from_secs(6));
    let token = fetch(&node, &["a"], "").await.unwrap().svids[0].svid.clone();
    node.upstream.change(|server| server.away = true);
    let new = fetch(&node, &["elsewhere"], "").await.unwrap_err();
    assert_eq!(new.code(), Code::Unavailable);
    let served = fetch(&node, &["a"], "").await.unwrap();
    assert_eq!(served.svids[0].svid, token);
    let ended = until("the token ends", async || match fetch(&node, &["a"], "").await {
        Ok(served) => {
            assert_eq!(served.svids[0].svid, token);
            None
        }
        Err(refused) => Some(refused),
    });
    assert_eq!(ended.await.unwrap().code(), Code::Unavailable);
}

#[tokio::test]
async fn jwt_bundles_name_the_keys_of_the_trust_domain() {
    let node = node_with("me").await;
    let mut client = node.workload().await.unwrap();
    let stream = client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await;
    let bundles = message(&mut stream.unwrap().into_inner()).await.unwrap().bundles;
    let keys: serde_json::Value = serde_json::from_slice(&bundles["spiffe://example.org"]).unwrap();
    assert_eq!(keys["keys"][0]["kid"], "jwt-key");
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "JWT keys alone");
}
