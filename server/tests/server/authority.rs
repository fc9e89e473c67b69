//! Authorities by hand over the API: who may not, what is refused with which code, and what a server does with its own
//! SVID and its callers'.

use tonic::Code;
use vouchsafe_identity::x509;
use vouchsafe_proto::spire::api::server::agent::v1::PostStatusRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use vouchsafe_proto::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, GetJwtAuthorityStateRequest,
    GetWitAuthorityStateRequest, GetX509AuthorityStateRequest, GetX509AuthorityStateResponse,
    PrepareJwtAuthorityRequest, PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest,
    RevokeX509AuthorityRequest, RevokeX509UpstreamAuthorityRequest, TaintJwtAuthorityRequest,
    TaintX509AuthorityRequest, TaintX509UpstreamAuthorityRequest,
};
use vouchsafe_proto::spire::api::server::svid::v1::BatchNewX509svidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;
use vouchsafe_proto::vouchsafe::server::v1::{HealthRequest, HealthResponse, TailAuditRequest};
use vouchsafe_proto::vouchsafe::types::v1::HealthStatus;
use vouchsafe_runtime::tls::BundleHandle;

use crate::follow::agent::{Follows, hello};
use crate::support::*;

type Client = LocalAuthorityClient<tonic::transport::Channel>;

async fn operator(server: &TestServer) -> Client {
    LocalAuthorityClient::new(server.local().await)
}

async fn x509_states(client: &mut Client) -> GetX509AuthorityStateResponse {
    let asked = GetX509AuthorityStateRequest {};
    client.get_x509_authority_state(asked).await.unwrap().into_inner()
}

/// Another X.509 authority signs from now on: the id of the one before it.
pub(crate) async fn replace_x509(client: &mut Client) -> String {
    let before = x509_states(client).await.active.unwrap().authority_id;
    let prepared = client.prepare_x509_authority(PrepareX509AuthorityRequest {});
    let prepared = prepared.await.unwrap().into_inner().prepared_authority.unwrap();
    let asked = ActivateX509AuthorityRequest {
        authority_id: prepared.authority_id,
    };
    client.activate_x509_authority(asked).await.unwrap();
    before
}

fn activate(authority_id: &str) -> ActivateX509AuthorityRequest {
    ActivateX509AuthorityRequest {
        authority_id: authority_id.to_owned(),
    }
}

pub(crate) fn taint(authority_id: &str) -> TaintX509AuthorityRequest {
    TaintX509AuthorityRequest {
        authority_id: authority_id.to_owned(),
    }
}

pub(crate) fn revoke(authority_id: &str) -> RevokeX509AuthorityRequest {
    RevokeX509AuthorityRequest {
        authority_id: authority_id.to_owned(),
    }
}

#[tokio::test]
async fn agents_and_workloads_change_no_authority() {
    let server = server().await;
    for identity in [server.agent().await, server.minted("/some/workload").await] {
        let mut client = LocalAuthorityClient::new(server.tls(Some(&identity)).await);
        let text = "authorization denied";
        let asked = PrepareX509AuthorityRequest {};
        refused(
            client.prepare_x509_authority(asked).await,
            Code::PermissionDenied,
            text,
        );
        refused(
            client.activate_x509_authority(activate("x")).await,
            Code::PermissionDenied,
            text,
        );
        refused(
            client.taint_x509_authority(taint("x")).await,
            Code::PermissionDenied,
            text,
        );
        refused(
            client.revoke_x509_authority(revoke("x")).await,
            Code::PermissionDenied,
            text,
        );
    }
}

#[tokio::test]
async fn what_is_not_in_the_right_state_is_refused_with_the_next_step() {
    let server = server().await;
    let mut client = operator(&server).await;
    let active = x509_states(&mut client).await.active.unwrap().authority_id;
    let bad = Code::InvalidArgument;
    refused(
        client.activate_x509_authority(activate("")).await,
        bad,
        "no authority ID provided",
    );
    refused(
        client.taint_x509_authority(taint("")).await,
        bad,
        "no authority ID provided",
    );
    refused(
        client.revoke_x509_authority(revoke("")).await,
        bad,
        "no authority ID provided",
    );
    refused(
        client.activate_x509_authority(activate("00")).await,
        bad,
        "unexpected authority ID",
    );
    refused(
        client.taint_x509_authority(taint("00")).await,
        bad,
        "unexpected authority ID",
    );
    refused(
        client.revoke_x509_authority(revoke("00")).await,
        bad,
        "invalid authority ID",
    );
    refused(
        client.taint_x509_authority(taint(&active)).await,
        bad,
        "activate another first",
    );
    refused(
        client.revoke_x509_authority(revoke(&active)).await,
        bad,
        "activate another",
    );
    let state = Code::FailedPrecondition;
    refused(
        client.activate_x509_authority(activate(&active)).await,
        state,
        "prepare another",
    );
    let old = replace_x509(&mut client).await;
    refused(client.revoke_x509_authority(revoke(&old)).await, state, "taint");
    client.taint_x509_authority(taint(&old)).await.unwrap();
    refused(
        client.taint_x509_authority(taint(&old)).await,
        state,
        "already tainted",
    );
}

#[tokio::test]
async fn there_is_no_upstream_authority_and_no_wit_authority() {
    let server = server().await;
    let mut client = operator(&server).await;
    let (code, text) = (Code::FailedPrecondition, "upstream authority is not configured");
    let asked = TaintX509UpstreamAuthorityRequest::default();
    refused(client.taint_x509_upstream_authority(asked).await, code, text);
    let asked = RevokeX509UpstreamAuthorityRequest::default();
    refused(client.revoke_x509_upstream_authority(asked).await, code, text);
    let asked = GetWitAuthorityStateRequest {};
    refused(
        client.get_wit_authority_state(asked).await,
        Code::Unimplemented,
        "",
    );
}

#[tokio::test]
async fn jwt_authorities_go_the_same_way() {
    let server = server().await;
    let mut client = operator(&server).await;
    let states = client.get_jwt_authority_state(GetJwtAuthorityStateRequest {});
    let old = states.await.unwrap().into_inner().active.unwrap().authority_id;
    let prepared = client.prepare_jwt_authority(PrepareJwtAuthorityRequest {});
    let prepared = prepared.await.unwrap().into_inner().prepared_authority.unwrap();
    let authority_id = prepared.authority_id;
    let asked = ActivateJwtAuthorityRequest { authority_id };
    client.activate_jwt_authority(asked).await.unwrap();
    let authority_id = old.clone();
    let asked = TaintJwtAuthorityRequest { authority_id };
    client.taint_jwt_authority(asked).await.unwrap();
    let bundle = server.bundle().await;
    assert!(bundle.jwt_authority(&old).unwrap().tainted);
    assert!(bundle.x509_authorities.iter().all(|authority| !authority.tainted));
    let authority_id = old.clone();
    let asked = RevokeJwtAuthorityRequest { authority_id };
    client.revoke_jwt_authority(asked).await.unwrap();
    assert!(server.bundle().await.jwt_authority(&old).is_none());
}

/// A verifier that knows the bundle without the old authority believes the server and the agents that have renewed, and
/// nobody else.
#[tokio::test]
async fn the_servers_own_svid_is_replaced_at_once_and_old_ones_are_refused_after_the_revocation() {
    let server = server().await;
    let agent = server.agent().await;
    let mut client = operator(&server).await;
    let old = replace_x509(&mut client).await;
    client.taint_x509_authority(taint(&old)).await.unwrap();
    // The old SVID is still good for one thing at least: to get a new one.
    let renewed = renew(server.tls(Some(&agent)).await).await.unwrap();
    let mut strict = server.bundle().await;
    strict.x509_authorities.retain(|authority| !authority.tainted);
    let now = server.clock.now();
    assert!(x509::verify_svid(&agent.chain, &strict, now).is_err());
    x509::verify_svid(&renewed.chain, &strict, now).unwrap();
    let bundles = BundleHandle::new();
    bundles.set(strict);
    let posted = async |identity: &Identity| {
        let channel = server.tls_trusting(Some(identity), &bundles);
        AgentClient::new(channel)
            .post_status(PostStatusRequest::default())
            .await
    };
    posted(&renewed).await.unwrap();
    client.revoke_x509_authority(revoke(&old)).await.unwrap();
    posted(&renewed).await.unwrap();
    let shut_out = posted(&agent).await.unwrap_err();
    assert_eq!(reason(&shut_out), None, "TLS refuses it: {shut_out:?}");
}

#[tokio::test]
async fn a_step_is_recorded_with_its_caller_and_a_restart_forgets_none() {
    let first = server_on_disk(tempfile::tempdir().unwrap()).await;
    let mut client = operator(&first).await;
    let old = replace_x509(&mut client).await;
    client.taint_x509_authority(taint(&old)).await.unwrap();
    let states = x509_states(&mut client).await;
    let second = server_on_disk(first.stop().await).await;
    let mut client = operator(&second).await;
    assert_eq!(x509_states(&mut client).await, states);
    assert_eq!(states.old.unwrap().authority_id, old);
    let tainted = second.bundle().await.x509_authorities;
    assert_eq!(tainted.iter().filter(|authority| authority.tainted).count(), 1);
    client.revoke_x509_authority(revoke(&old)).await.unwrap();
    let mut tail = ServerAdminClient::new(second.local().await)
        .tail_audit(TailAuditRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut steps = Vec::new();
    while let Some(record) = tail.message().await.unwrap() {
        let record: serde_json::Value = serde_json::from_str(&record.json).unwrap();
        let action = record["action"].as_str().unwrap().to_owned();
        if action.starts_with("authority.") && record["scope"] == "local" {
            assert!(record["principal"].to_string().contains("uid"), "{record}");
            steps.push(action);
        }
    }
    let all = ["prepare", "activate", "taint", "revoke"].map(|step| format!("authority.{step}"));
    assert_eq!(steps, all);
    let keys = std::fs::read_dir(second.dir.path().join("data/keys")).unwrap();
    assert_eq!(keys.count(), 2, "the revoked key is deleted");
}

#[tokio::test]
async fn a_lost_key_shows_in_the_health_until_its_authority_is_revoked() {
    let first = server_on_disk(tempfile::tempdir().unwrap()).await;
    let dir = first.stop().await;
    let keys = std::fs::read_dir(dir.path().join("data/keys")).unwrap();
    for key in keys.map(Result::unwrap) {
        if key.file_name().to_string_lossy().starts_with("x509-ca") {
            std::fs::remove_file(key.path()).unwrap();
        }
    }
    let server = server_on_disk(dir).await;
    let health = ca_health(&server).await;
    assert_eq!(health.0, HealthStatus::Degraded);
    assert!(health.1.contains("is gone"), "{}", health.1);
    let mut client = operator(&server).await;
    let lost = x509_states(&mut client).await.old.unwrap().authority_id;
    assert!(health.1.contains(&lost), "{}", health.1);
    client.taint_x509_authority(taint(&lost)).await.unwrap();
    assert!(ca_health(&server).await.1.contains("revoke it"));
    client.revoke_x509_authority(revoke(&lost)).await.unwrap();
    assert_eq!(ca_health(&server).await.0, HealthStatus::Serving);
}

async fn ca_health(server: &TestServer) -> (HealthStatus, String) {
    let mut client = ServerAdminClient::new(server.local().await);
    let health: HealthResponse = client.health(HealthRequest {}).await.unwrap().into_inner();
    let part = health.parts.iter().find(|part| part.name == "ca").unwrap();
    (part.status(), part.detail.clone())
}

#[tokio::test]
async fn a_revoked_authority_opens_no_admin_method_on_a_connection_that_was_open_before() {
    let server = server_with(&format!("admin_ids = [\"spiffe://{TRUST_DOMAIN}/admin\"]")).await;
    let before = server.minted("/admin").await;
    let mut admin = LocalAuthorityClient::new(server.tls(Some(&before)).await);
    let old = replace_x509(&mut admin).await;
    admin.taint_x509_authority(taint(&old)).await.unwrap();
    x509_states(&mut admin).await;
    let mut newer = LocalAuthorityClient::new(server.tls(Some(&server.minted("/admin").await)).await);
    operator(&server)
        .await
        .revoke_x509_authority(revoke(&old))
        .await
        .unwrap();
    let asked = GetX509AuthorityStateRequest {};
    let denied = admin.get_x509_authority_state(asked).await;
    refused(denied, Code::PermissionDenied, "authorization denied");
    x509_states(&mut newer).await;
}

#[tokio::test]
async fn an_agent_whose_authority_is_revoked_may_only_renew_over_a_connection_that_was_open_before() {
    let server = server().await;
    let (left, renewed) = (server.agent().await, server.agent().await);
    let channel = server.tls(Some(&left)).await;
    let mut agent = AgentClient::new(channel.clone());
    let status = PostStatusRequest::default;
    agent.post_status(status()).await.unwrap();
    let mut stream = Follows::open(&server, &left).await;
    let mut local = operator(&server).await;
    let old = replace_x509(&mut local).await;
    local.taint_x509_authority(taint(&old)).await.unwrap();
    // A tainted one still counts: by it agents renew.
    agent.post_status(status()).await.unwrap();
    let newer = renew(server.tls(Some(&renewed)).await).await.unwrap();
    let mut newer = Follows::begin(&server, &newer, hello(None)).await;
    newer.welcome().await;
    local.revoke_x509_authority(revoke(&old)).await.unwrap();
    let text = "authority that signed the SVID of agent";
    refused(stream.until_ended().await, Code::Unauthenticated, text);
    refused(agent.post_status(status()).await, Code::Unauthenticated, text);
    let signed = SvidClient::new(channel.clone())
        .batch_new_x509svid(BatchNewX509svidRequest::default())
        .await;
    refused(signed, Code::Unauthenticated, text);
    // It was too slow, and is not shut out for that: over the connection that it has it renews, and over no other.
    let again = renew(server.tls(Some(&left)).await).await;
    assert!(
        again.is_err(),
        "a new connection with an SVID of a revoked authority"
    );
    let late = renew(channel).await.unwrap();
    Follows::begin(&server, &late, hello(None)).await.welcome().await;
    let made = server.entry(entry(&renewed.id(), "/a", 1)).await;
    newer.until(|held| held.entries.contains_key(&made.id)).await;
}
