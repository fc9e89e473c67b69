//! Starting, stopping, and what stands in the way of both.

use tonic::Code;
use vouchsafe_proto::spire::api::server::agent::v1::PostStatusRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_runtime::ExitCode;
use vouchsafe_server::app::{App, Host};

use crate::support::*;

#[tokio::test]
async fn a_server_that_is_told_to_stop_ends_and_takes_its_socket_along() {
    let server = server().await;
    let path = server.addresses.admin_socket.clone();
    assert!(path.exists());
    let dir = server.stop().await;
    assert!(!path.exists());
    drop(dir);
}

#[tokio::test]
async fn an_svid_that_is_no_agents_opens_no_agent_methods() {
    let server = server().await;
    let minted = server.minted("/some/workload").await;
    let mut client = AgentClient::new(server.tls(Some(&minted)).await);
    let outcome = client.post_status(PostStatusRequest::default()).await;
    refused(outcome, Code::PermissionDenied, "authorization denied");
}

#[tokio::test]
async fn what_is_taken_stops_a_second_server_and_leaves_the_first_one_alone() {
    let first = server_with("").await;
    let dir = tempfile::tempdir().unwrap();
    let mut second = config(&dir, "store = \"memory\"\nkey_manager = \"memory\"");
    second.admin_socket = first.addresses.admin_socket.clone();
    let taken = App::build(second.clone(), Host::default()).await.unwrap_err();
    assert_eq!(taken.exit_code(), ExitCode::Unavailable);
    second.admin_socket = dir.path().join("other.sock");
    second.listen = first.addresses.listen;
    let taken = App::build(second, Host::default()).await.unwrap_err();
    assert!(
        taken
            .to_string()
            .contains(&first.addresses.listen.port().to_string()),
        "{taken}"
    );
    first.agent().await;
}

#[tokio::test]
async fn a_data_dir_that_another_server_holds_is_refused_and_a_key_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let app = App::build(config(&dir, ""), Host::default()).await.unwrap();
    let mut second = config(&dir, "");
    second.admin_socket = dir.path().join("other.sock");
    let held = App::build(second.clone(), Host::default()).await.unwrap_err();
    assert_eq!(held.exit_code(), ExitCode::TempFail);
    assert!(held.to_string().contains("data_dir"), "{held}");
    app.run(async { "test" }).await.unwrap();
    let keys = dir.path().join("data/keys");
    let key = std::fs::read_dir(&keys).unwrap().next().unwrap().unwrap().path();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = App::build(second.clone(), Host::default()).await.unwrap_err();
    assert_eq!(exposed.exit_code(), ExitCode::NoPermission, "{exposed:?}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let again = App::build(second, Host::default()).await.unwrap();
    again.run(async { "test" }).await.unwrap();
}

#[tokio::test]
async fn a_restart_forgets_nothing_that_was_answered() {
    let first = server_on_disk(tempfile::tempdir().unwrap()).await;
    let agent = first.agent().await;
    let own = first.entry(entry(&agent.id(), "/own", 1)).await;
    let (bundle, unused) = (first.bundle().await, first.token(600).await);
    let second = server_on_disk(first.stop().await).await;
    assert_eq!(second.bundle().await, bundle);
    let mut client = EntryClient::new(second.tls(Some(&agent)).await);
    let got = client
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap();
    assert_eq!(got.into_inner().entries, [own]);
    attest(second.tls(None).await, &unused).await.unwrap();
}
