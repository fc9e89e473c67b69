//! An agent whose own SVID ends, or whose server is slow, while it serves what it has.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;
use vouchsafe_agent::AppError;
use vouchsafe_agent::node::NodeError;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_proto::vouchsafe::agent::v1::HealthResponse;
use vouchsafe_proto::vouchsafe::types::v1::{HealthPart, HealthStatus};
use vouchsafe_proto::workload::JwtsvidRequest;
use vouchsafe_runtime::ExitCode;
use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::node::{Node, message, paths, with_header};
use vouchsafe_tests::upstream::TOKEN;
use vouchsafe_tests::wait::until;

use super::node_with;

fn part(health: &HealthResponse, name: &str) -> HealthPart {
    let mut parts = health.parts.iter();
    parts.find(|part| part.name == name).unwrap().clone()
}

async fn fetch(node: &Node, audience: &str) -> Result<String, tonic::Status> {
    let request = JwtsvidRequest {
        audience: vec![audience.to_owned()],
        spiffe_id: String::new(),
    };
    let mut client = node.workload().await.unwrap();
    let answer = client.fetch_jwtsvid(with_header(request)).await?;
    Ok(answer.into_inner().svids[0].svid.clone())
}

#[tokio::test]
async fn an_agent_whose_own_svid_ends_serves_what_is_valid_and_says_that_it_must_join_again() {
    let mut node = Node::down("").await.unwrap();
    node.upstream.put_entry("me", &[&own_uid()], |_| {});
    node.upstream.change(|server| {
        server.agent_ttl = Duration::from_secs(6);
        server.x509_ttl = Duration::from_secs(25);
    });
    node.run(Some(TOKEN)).await.unwrap();
    node.given(&["/me"]).await.unwrap();
    node.upstream.change(|server| server.away = true);
    let lapsed = async |node: &Node| {
        until("the agent says that it must join again", async || {
            let identity = part(&node.health().await.ok()?, "identity");
            identity.detail.contains("must join again").then_some(identity)
        })
        .await
        .unwrap()
    };
    assert_eq!(lapsed(&node).await.status(), HealthStatus::Degraded);
    node.given(&["/me"]).await.unwrap();
    // Also after a start: there is no token, and what was sealed is served.
    node.stop().await.unwrap();
    node.run(None).await.unwrap();
    node.given(&["/me"]).await.unwrap();
    assert_eq!(lapsed(&node).await.status(), HealthStatus::Degraded);
    let ended = node.failure().await.unwrap();
    assert!(matches!(ended, AppError::Node(NodeError::Expired(_))), "{ended}");
    assert_eq!(ended.exit_code(), ExitCode::NoPermission);
    // With nothing left to serve it does not start.
    let refused = node.run(None).await.unwrap_err().downcast::<AppError>().unwrap();
    assert!(
        matches!(refused, AppError::Node(NodeError::NothingToJoinWith)),
        "{refused}"
    );
}

#[tokio::test]
async fn health_says_since_when_the_server_is_unreachable_and_when_the_first_svid_ends() {
    let node = node_with("me").await;
    let well = node.health().await.unwrap();
    assert!(well.unreachable_since.is_none() && well.last_sync_at.is_some());
    let expiry = well.earliest_expiry.unwrap().seconds;
    let leaf =
        vouchsafe_tests::workload::certificates(&node.given(&["/me"]).await.unwrap().svids[0].x509_svid);
    let leaf = vouchsafe_identity::x509::parse_leaf(&leaf.unwrap()[0]).unwrap();
    assert_eq!(expiry, leaf.not_after.unix_timestamp());
    node.upstream.change(|server| server.away = true);
    let away = until("the agent is degraded", async || {
        let health = node.health().await.ok()?;
        (health.status == i32::from(HealthStatus::Degraded)).then_some(health)
    })
    .await
    .unwrap();
    let since = away.unreachable_since.unwrap().seconds;
    assert!(since >= away.last_sync_at.unwrap().seconds);
    let sync = part(&away, "sync");
    assert!(sync.detail.contains("unreachable since"), "{}", sync.detail);
    node.upstream.change(|server| server.away = false);
    node.healthy().await.unwrap();
    assert!(node.health().await.unwrap().unreachable_since.is_none());
}

#[tokio::test]
async fn a_slow_server_is_not_waited_for_while_a_token_is_valid() {
    let node = node_with("me").await;
    node.upstream
        .change(|server| server.jwt_ttl = Duration::from_secs(20));
    let token = fetch(&node, "a").await.unwrap();
    // Half of its life passes: the server is asked again, and would take too long.
    node.upstream
        .change(|server| server.jwt_delay = Duration::from_secs(60));
    let served = until("the agent asks for a newer token and gives up", async || {
        let begun = Instant::now();
        assert_eq!(fetch(&node, "a").await.unwrap(), token);
        (begun.elapsed() > Duration::from_millis(500)).then_some(begun.elapsed())
    });
    let waited = served.await.unwrap();
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    // The next caller does not wait at all.
    let begun = Instant::now();
    assert_eq!(fetch(&node, "a").await.unwrap(), token);
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_single_use_token_is_refused_with_the_reason_while_the_server_is_away() {
    let node = Node::start().await.unwrap();
    node.upstream.put_entry("me", &[&own_uid()], |entry| {
        entry.additional_attributes = Some(vouchsafe_proto::spire::api::types::entry::AdditionalAttributes {
            jwt_svid_include_jti: true,
            ..Default::default()
        });
    });
    node.given(&["/me"]).await.unwrap();
    fetch(&node, "a").await.unwrap();
    node.upstream.change(|server| server.away = true);
    let refused = fetch(&node, "a").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("server unreachable"), "{refused}");
    assert!(refused.message().contains("single use"), "{refused}");
}

#[tokio::test]
async fn a_token_is_not_sealed() {
    let mut node = node_with("me").await;
    let token = fetch(&node, "a").await.unwrap();
    node.upstream.change(|server| server.away = true);
    assert_eq!(fetch(&node, "a").await.unwrap(), token);
    node.stop().await.unwrap();
    node.run(None).await.unwrap();
    node.given(&["/me"]).await.unwrap();
    let refused = fetch(&node, "a").await.unwrap_err();
    assert!(refused.message().contains("server unreachable"), "{refused}");
}

#[tokio::test]
async fn an_agent_that_its_server_refuses_leaves_nothing_sealed() {
    let mut node = node_with("me").await;
    let folder = node.path("agent/sealed");
    until("the state is sealed", async || {
        folder.join("head").exists().then_some(())
    })
    .await
    .unwrap();
    node.upstream
        .change(|server| server.refuse = Some(Reason::AgentBanned));
    let ended = node.failure().await.unwrap();
    assert!(matches!(ended, AppError::Node(NodeError::Expelled(_))), "{ended}");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    assert!(!node.path("agent/seal.key").exists());
}

#[tokio::test]
async fn nothing_is_sealed_where_nothing_shall_be() {
    let mut node = Node::down("seal_key = \"none\"").await.unwrap();
    node.upstream.put_entry("me", &[&own_uid()], |_| {});
    node.run(Some(TOKEN)).await.unwrap();
    node.given(&["/me"]).await.unwrap();
    let seal = part(&node.health().await.unwrap(), "seal");
    assert!(seal.detail.contains("nothing is sealed"), "{}", seal.detail);
    node.stop().await.unwrap();
    assert!(!node.path("agent/seal.key").exists() && !node.path("agent/sealed").exists());
    node.upstream.change(|server| server.away = true);
    node.run(None).await.unwrap();
    until("the agent does not serve", async || {
        let health = node.health().await.ok()?;
        (health.status == i32::from(HealthStatus::NotServing)).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_removed_entry_stays_removed_after_a_start_without_the_server() {
    let mut node = node_with("me").await;
    node.upstream.put_entry("other", &[&own_uid()], |_| {});
    node.given(&["/me", "/other"]).await.unwrap();
    node.upstream.change(|server| drop(server.entries.remove("me")));
    node.given(&["/other"]).await.unwrap();
    node.stop().await.unwrap();
    node.upstream.change(|server| server.away = true);
    node.run(None).await.unwrap();
    let served = message(&mut node.x509().await.unwrap()).await.unwrap();
    assert_eq!(paths(&served), ["/other"]);
}
