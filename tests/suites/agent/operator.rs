//! The admin socket, `WhoAmI`, and what must not harm the agent.

use std::os::unix::fs::PermissionsExt;

use tonic::Code;
use vouchsafe_proto::vouchsafe::types::v1::Trust;
use vouchsafe_proto::vouchsafe::workload::v1::WhoAmIRequest;
use vouchsafe_proto::vouchsafe::workload::v1::workload_info_client::WorkloadInfoClient;
use vouchsafe_proto::workload::ValidateJwtsvidRequest;
use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::node::{Node, channel, with_header};

use super::node_with;

#[tokio::test]
async fn the_admin_socket_is_the_operators_alone_and_the_workload_socket_everyones() {
    let node = Node::start().await.unwrap();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(node.admin_socket()), 0o600);
    assert_eq!(mode(node.workload_socket()), 0o666);
    assert_eq!(mode(node.path("agent")), 0o700);
}

#[tokio::test]
async fn explain_names_what_the_nearest_entry_lacks() {
    let node = node_with("me").await;
    node.upstream
        .put_entry("near", &[&own_uid(), "unix:path:/not/this"], |_| {});
    let explained = vouchsafe_tests::wait::until("the entry is known", async || {
        let explained = node.explain(None).await.unwrap();
        (!explained.nearest.is_empty()).then_some(explained)
    })
    .await
    .unwrap();
    let process = explained.process.unwrap();
    assert_eq!(process.pid, nix::unistd::getpid().as_raw());
    assert!(process.selectors.iter().any(|one| one.trust() == Trust::Measured));
    assert_eq!(explained.matched[0].spiffe_id, "spiffe://example.org/me");
    let near = &explained.nearest[0];
    assert_eq!(near.missing[0].value, "path:/not/this");
    assert_eq!(near.present.len(), 1);
    let knowledge = explained.knowledge.unwrap();
    assert!(knowledge.server_reachable && knowledge.last_sync_at.is_some());
    assert_eq!(knowledge.entries, 2);
}

#[tokio::test]
async fn explain_of_a_process_that_is_not_there_says_so() {
    let node = Node::start().await.unwrap();
    for pid in [0, -1, i32::MAX] {
        let refused = node.explain(Some(pid)).await.unwrap_err();
        let status = refused.downcast_ref::<tonic::Status>().unwrap();
        assert!(
            matches!(status.code(), Code::NotFound | Code::InvalidArgument),
            "{status}"
        );
    }
}

#[tokio::test]
async fn who_am_i_tells_of_the_caller_and_of_nothing_else() {
    let node = node_with("me").await;
    let mut client = WorkloadInfoClient::new(channel(&node.workload_socket()).await.unwrap());
    let told = client
        .who_am_i(with_header(WhoAmIRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(told.spiffe_ids, ["spiffe://example.org/me"]);
    assert!(
        told.selectors
            .iter()
            .any(|one| format!("{}:{}", one.r#type, one.value) == own_uid())
    );
    assert!(told.reason.is_empty());
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_the_agent_lives() {
    let node = node_with("me").await;
    let mut client = node.workload().await.unwrap();
    let request = ValidateJwtsvidRequest {
        audience: "a".to_owned(),
        svid: "x".repeat(200 * 1024),
    };
    let refused = client.validate_jwtsvid(with_header(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    node.given(&["/me"]).await.unwrap();
}

#[tokio::test]
async fn health_names_each_part_and_how_execs_are_noticed() {
    let node = Node::start().await.unwrap();
    let health = node.health().await.unwrap();
    let names: Vec<_> = health.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["identity", "sync", "seal", "exec_watch", "presence"]);
    assert_eq!(
        health.spiffe_id,
        "spiffe://example.org/spire/agent/join_token/open-sesame"
    );
    let watch = &health.parts[2].detail;
    let events = vouchsafe_sys::proc_events::ProcEvents::listen().is_ok();
    assert_eq!(events, watch.is_empty(), "{watch}");
    assert_eq!(health.parts[3].detail, "");
}
