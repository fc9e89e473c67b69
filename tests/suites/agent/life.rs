//! The agent's own identity: joining, renewing, coming back, and obeying a server that refuses it.

use std::time::Duration;

use vouchsafe_agent::AppError;
use vouchsafe_agent::node::NodeError;
use vouchsafe_agent::node::state::StateError;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_proto::vouchsafe::types::v1::HealthStatus;
use vouchsafe_runtime::ExitCode;
use vouchsafe_runtime::uds::BindError;
use vouchsafe_tests::node::Node;
use vouchsafe_tests::upstream::{TOKEN, Upstream};
use vouchsafe_tests::wait::until;

use super::node_with;

async fn build_error(node: &mut Node, token: Option<&str>) -> AppError {
    node.run(token).await.unwrap_err().downcast().unwrap()
}

#[tokio::test]
async fn without_a_token_and_a_stored_svid_the_agent_does_not_start() {
    let mut node = Node::down("").await.unwrap();
    let refused = build_error(&mut node, None).await;
    assert!(
        matches!(refused, AppError::Node(NodeError::NothingToJoinWith)),
        "{refused}"
    );
    assert_eq!(refused.exit_code(), ExitCode::Config);
}

#[tokio::test]
async fn a_token_that_the_server_does_not_know_ends_the_agent() {
    let mut node = Node::down("").await.unwrap();
    node.run(Some("wrong")).await.unwrap();
    let ended = node.failure().await.unwrap();
    assert!(
        matches!(ended, AppError::Node(NodeError::NotAdmitted(_))),
        "{ended}"
    );
    assert!(ended.to_string().contains("join token does not exist"), "{ended}");
    assert_eq!(ended.exit_code(), ExitCode::NoPermission);
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_joined_and_learns_no_token() {
    let mut node = Node::down("").await.unwrap();
    let impostor = Upstream::start().await.unwrap();
    std::fs::write(node.path("bundle.pem"), impostor.bundle_pem()).unwrap();
    node.run(Some(TOKEN)).await.unwrap();
    until("the agent refuses the server", async || {
        (node.upstream.failed_handshakes() > 0).then_some(())
    })
    .await
    .unwrap();
    until("the agent says that it has not joined", async || {
        let health = node.health().await.ok()?;
        let identity = health.parts.into_iter().find(|part| part.name == "identity")?;
        (identity.status() == HealthStatus::NotServing).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(node.upstream.counts().attested, 0);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn an_insecure_bootstrap_joins_whatever_answers() {
    let mut node = Node::down("insecure_bootstrap = true").await.unwrap();
    node.run(Some(TOKEN)).await.unwrap();
    node.healthy().await.unwrap();
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_restarted_agent_comes_back_without_a_token() {
    let mut node = node_with("me").await;
    let before = node.health().await.unwrap();
    node.stop().await.unwrap();
    assert!(!node.workload_socket().exists());
    node.run(None).await.unwrap();
    node.healthy().await.unwrap();
    node.given(&["/me"]).await.unwrap();
    let after = node.health().await.unwrap();
    assert_eq!(after.spiffe_id, before.spiffe_id);
    assert_eq!(after.svid_expires_at, before.svid_expires_at);
    assert_eq!(node.upstream.counts().attested, 1);
}

/// The file was of use once; without a stored SVID it is what the agent needs.
#[tokio::test]
async fn a_token_file_that_holds_none_is_in_the_way_of_the_first_start_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let mut node = Node::down(&format!("join_token_file = {file:?}")).await.unwrap();
    for content in [None, Some("# used\n"), Some("")] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let refused = node.run(None).await.unwrap_err();
        let error = refused.downcast_ref::<AppError>();
        assert!(matches!(error, Some(AppError::TokenFile(_))), "{refused:?}");
    }
    std::fs::write(&file, TOKEN).unwrap();
    node.run(None).await.unwrap();
    node.healthy().await.unwrap();
    for content in [Some("# used\n"), None] {
        node.stop().await.unwrap();
        match content {
            Some(content) => std::fs::write(&file, content).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        node.run(None).await.unwrap();
        node.healthy().await.unwrap();
    }
    assert_eq!(node.upstream.counts().attested, 1);
}

#[tokio::test]
async fn a_second_agent_is_told_what_is_taken() {
    let node = node_with("me").await;
    let host = || vouchsafe_agent::Host {
        notifier: vouchsafe_runtime::notify::Notifier::new(None),
        credentials: None,
        ..vouchsafe_agent::Host::default()
    };
    let same_folder = vouchsafe_agent::App::build(node.config().unwrap(), host(), None).await;
    assert!(
        matches!(same_folder, Err(AppError::State(StateError::Held(_)))),
        "{same_folder:?}"
    );
    let mut config = node.config().unwrap();
    config.data_dir = node.path("another");
    let same_socket = vouchsafe_agent::App::build(config, host(), None).await;
    assert!(
        matches!(same_socket, Err(AppError::Bind(BindError::Taken { .. }))),
        "{same_socket:?}"
    );
}

#[tokio::test]
async fn renewal_goes_on_and_on_though_each_new_svid_ends_the_old_one() {
    let mut node = Node::down("").await.unwrap();
    node.upstream
        .change(|server| server.agent_ttl = Duration::from_secs(4));
    node.run(Some(TOKEN)).await.unwrap();
    until("three renewals", async || {
        (node.upstream.counts().renewed >= 3).then_some(())
    })
    .await
    .unwrap();
    node.healthy().await.unwrap();
    node.stop().await.unwrap();
    node.run(None).await.unwrap();
    node.healthy().await.unwrap();
    assert_eq!(node.upstream.counts().attested, 1);
}

/// Two phases: what could not be stored is not used, for its first use would end the SVID that is stored.
#[tokio::test]
async fn a_renewed_svid_that_cannot_be_stored_is_not_used() {
    let mut node = Node::down("").await.unwrap();
    node.upstream
        .change(|server| server.agent_ttl = Duration::from_secs(8));
    node.run(Some(TOKEN)).await.unwrap();
    node.healthy().await.unwrap();
    let stored = || std::fs::read(node.path("agent/agent-svid.json")).unwrap();
    let first = stored();
    let in_the_way = node.path("agent/agent-svid.tmp");
    std::fs::create_dir(&in_the_way).unwrap();
    until("the agent renews twice", async || {
        (node.upstream.counts().renewed >= 2).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(stored(), first);
    assert_eq!(node.health().await.unwrap().status(), HealthStatus::Serving);
    std::fs::remove_dir(&in_the_way).unwrap();
    until("the renewed SVID is stored", async || {
        (stored() != first).then_some(())
    })
    .await
    .unwrap();
    node.healthy().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_the_server_refuses_forgets_its_svid_and_ends() {
    for reason in [
        Reason::AgentBanned,
        Reason::AgentNotAttested,
        Reason::AgentNotActive,
        Reason::AgentExpired,
        Reason::AgentMustReattest,
    ] {
        let mut node = node_with("me").await;
        assert!(node.path("agent/agent-svid.json").exists());
        node.upstream.change(|server| server.refuse = Some(reason));
        let ended = node.failure().await.unwrap();
        let AppError::Node(NodeError::Expelled(refusal)) = &ended else {
            panic!("{reason:?}: {ended}");
        };
        assert_eq!(refusal.reason, reason);
        assert_eq!(ended.exit_code(), ExitCode::NoPermission);
        assert!(!node.path("agent/agent-svid.json").exists());
        let again = build_error(&mut node, None).await;
        assert!(matches!(again, AppError::Node(NodeError::NothingToJoinWith)));
    }
}

#[tokio::test]
async fn while_the_server_is_away_the_agent_lives_and_serves_what_it_has() {
    let node = node_with("me").await;
    node.upstream.change(|server| server.away = true);
    until("the agent says that the server is away", async || {
        let health = node.health().await.ok()?;
        (health.status() == HealthStatus::Degraded).then_some(())
    })
    .await
    .unwrap();
    node.given(&["/me"]).await.unwrap();
    node.upstream.change(|server| server.away = false);
    node.healthy().await.unwrap();
}
