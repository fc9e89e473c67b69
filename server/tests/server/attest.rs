//! Joining with a token, renewing in two phases, being banned and evicted.

use std::sync::Arc;

use tonic::Code;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    BanAgentRequest, CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest, PostStatusRequest,
};
use vouchsafe_proto::spire::api::server::entry::v1::GetAuthorizedEntriesRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;

use crate::support::*;

async fn post_status(channel: tonic::transport::Channel) -> Result<(), tonic::Status> {
    let status = PostStatusRequest {
        agent_version: "1.2.3".to_owned(),
        ..PostStatusRequest::default()
    };
    AgentClient::new(channel).post_status(status).await.map(|_| ())
}

#[tokio::test]
async fn a_token_that_nobody_made_is_refused() {
    let server = server().await;
    let status = attest(server.tls(None).await, "made-up").await.map(|_| ());
    refused(
        status,
        Code::InvalidArgument,
        "join token does not exist or has already been used",
    );
}

#[tokio::test]
async fn a_token_lets_one_node_join_and_not_a_second_one() {
    let server = server().await;
    let token = server.token(600).await;
    let agent = attest(server.tls(None).await, &token).await.unwrap();
    assert_eq!(agent.id().path(), format!("/spire/agent/join_token/{token}"));
    post_status(server.tls(Some(&agent)).await).await.unwrap();
    let again = attest(server.tls(None).await, &token).await.map(|_| ());
    refused(
        again,
        Code::InvalidArgument,
        "join token does not exist or has already been used",
    );
    post_status(server.tls(Some(&agent)).await).await.unwrap();
}

#[tokio::test]
async fn a_node_whose_answer_was_lost_joins_with_the_same_token_and_key() {
    let server = server().await;
    let token = server.token(600).await;
    let (ours, theirs) = (key(), key());
    let lost = attest_with(server.tls(None).await, &token, Arc::clone(&ours))
        .await
        .unwrap();
    let stranger = attest_with(server.tls(None).await, &token, theirs).await;
    refused(stranger.map(|_| ()), Code::InvalidArgument, "already been used");
    let joined = attest_with(server.tls(None).await, &token, Arc::clone(&ours))
        .await
        .unwrap();
    assert_eq!(joined.id(), lost.id());
    assert_ne!(joined.leaf().serial, lost.leaf().serial);
    post_status(server.tls(Some(&joined)).await).await.unwrap();
    // What was lost is worth nothing, and a node that has gone on does not join again.
    assert!(post_status(server.tls(Some(&lost)).await).await.is_err());
    let late = attest_with(server.tls(None).await, &token, ours).await;
    refused(late.map(|_| ()), Code::InvalidArgument, "already been used");
}

#[tokio::test]
async fn a_used_token_does_not_let_a_node_back_that_was_evicted_or_banned() {
    let server = server().await;
    for (evicted, why) in [(true, "already been used"), (false, "agent is banned")] {
        let (token, key) = (server.token(600).await, key());
        let joined = attest_with(server.tls(None).await, &token, Arc::clone(&key))
            .await
            .unwrap();
        let id = Some(message(&joined.id()));
        let mut operator = AgentClient::new(server.local().await);
        match evicted {
            true => operator
                .delete_agent(DeleteAgentRequest { id })
                .await
                .map(drop)
                .unwrap(),
            false => operator
                .ban_agent(BanAgentRequest { id })
                .await
                .map(drop)
                .unwrap(),
        }
        let back = attest_with(server.tls(None).await, &token, key).await;
        refused(
            back.map(|_| ()),
            if evicted {
                Code::InvalidArgument
            } else {
                Code::PermissionDenied
            },
            why,
        );
    }
}

#[tokio::test]
async fn of_many_that_race_for_one_token_one_joins() {
    let server = server().await;
    let token = server.token(600).await;
    let channel = server.tls(None).await;
    let tries: Vec<_> = (0..16)
        .map(|_| {
            let (channel, token) = (channel.clone(), token.clone());
            spawn(async move {
                attest(channel, &token)
                    .await
                    .map(|_| ())
                    .map_err(|status| status.code())
            })
        })
        .collect();
    let mut joined = 0;
    for one in tries {
        match one.await.unwrap() {
            Ok(()) => joined += 1,
            Err(code) => assert_eq!(code, Code::InvalidArgument),
        }
    }
    assert_eq!(joined, 1);
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let server = server().await;
    let token = server.token(60).await;
    server.clock.jump(time::Duration::seconds(61));
    let status = attest(server.tls(None).await, &token).await.map(|_| ());
    refused(status, Code::InvalidArgument, "join token expired");
}

#[tokio::test]
async fn tokens_without_a_life_or_with_a_text_that_no_id_can_hold_are_not_made() {
    let server = server().await;
    let mut client = AgentClient::new(server.local().await);
    let asked = |ttl, token: &str| CreateJoinTokenRequest {
        ttl,
        token: token.to_owned(),
        agent_id: None,
    };
    refused(
        client.create_join_token(asked(0, "")).await,
        Code::InvalidArgument,
        "ttl",
    );
    refused(
        client.create_join_token(asked(-1, "")).await,
        Code::InvalidArgument,
        "ttl",
    );
    refused(
        client.create_join_token(asked(60, "a/b")).await,
        Code::InvalidArgument,
        "join token",
    );
    client.create_join_token(asked(60, "chosen")).await.unwrap();
    refused(
        client.create_join_token(asked(60, "chosen")).await,
        Code::AlreadyExists,
        "already exists",
    );
    let foreign = CreateJoinTokenRequest {
        ttl: 60,
        agent_id: Some(message(&id("/spire/agent/x"))),
        ..CreateJoinTokenRequest::default()
    };
    refused(
        client.create_join_token(foreign).await,
        Code::InvalidArgument,
        "/spire",
    );
}

#[tokio::test]
async fn an_unknown_attestor_and_an_empty_proof_are_refused() {
    let server = server().await;
    let csr = vouchsafe_identity::x509::csr::create(key().as_ref(), None, &[]).unwrap();
    let mut client = AgentClient::new(server.tls(None).await);
    for (kind, payload, csr, code, text) in [
        ("nope", &b"x"[..], csr.clone(), Code::FailedPrecondition, "nope"),
        ("", &b"x"[..], csr.clone(), Code::InvalidArgument, "type"),
        (
            "join_token",
            &b""[..],
            csr.clone(),
            Code::InvalidArgument,
            "payload",
        ),
        ("join_token", &b"x"[..], Vec::new(), Code::InvalidArgument, "csr"),
        (
            "join_token",
            &b"x"[..],
            vec![0x30, 0],
            Code::InvalidArgument,
            "certificate request",
        ),
    ] {
        let request = attest_request(kind, payload, csr);
        let mut answers = client
            .attest_agent(tokio_stream::once(request))
            .await
            .unwrap()
            .into_inner();
        refused(answers.message().await, code, text);
    }
}

#[tokio::test]
async fn a_bad_csr_does_not_burn_the_token() {
    let server = server().await;
    let token = server.token(600).await;
    let mut client = AgentClient::new(server.tls(None).await);
    let request = attest_request("join_token", token.as_bytes(), vec![1, 2, 3]);
    let mut answers = client
        .attest_agent(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.is_err());
    attest(server.tls(None).await, &token).await.unwrap();
}

#[tokio::test]
async fn the_alias_of_a_token_gives_the_agent_what_hangs_below_it() {
    let server = server().await;
    let alias = id("/node/one");
    let below = server.entry(entry(&alias, "/workload", 1000)).await;
    let token = server.token_with(600, Some(&alias)).await;
    let agent = attest(server.tls(None).await, &token).await.unwrap();
    let mut client = EntryClient::new(server.tls(Some(&agent)).await);
    let got = client
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .unwrap();
    let ids: Vec<String> = got
        .into_inner()
        .entries
        .into_iter()
        .map(|entry| entry.id)
        .collect();
    assert!(ids.contains(&below.id), "{ids:?}");
}

#[tokio::test]
async fn the_old_svid_works_until_the_new_one_is_used_and_no_longer() {
    let server = server().await;
    let old = server.agent().await;
    let new = renew(server.tls(Some(&old)).await).await.unwrap();
    assert_ne!(old.leaf().serial, new.leaf().serial);
    post_status(server.tls(Some(&old)).await).await.unwrap();
    // The answer got lost: the agent renews once more with what it has, and once it uses that, the lost one is worth
    // nothing.
    let newer = renew(server.tls(Some(&old)).await).await.unwrap();
    post_status(server.tls(Some(&newer)).await).await.unwrap();
    let lost = refused(
        post_status(server.tls(Some(&new)).await).await,
        Code::PermissionDenied,
        "not active",
    );
    assert_eq!(reason(&lost), Some(Reason::AgentNotActive));
    let stale = refused(
        post_status(server.tls(Some(&old)).await).await,
        Code::PermissionDenied,
        "not active",
    );
    assert_eq!(reason(&stale), Some(Reason::AgentNotActive));
    renew(server.tls(Some(&newer)).await).await.unwrap();
}

#[tokio::test]
async fn first_uses_of_a_new_svid_that_race_all_succeed() {
    let server = server().await;
    let old = server.agent().await;
    let new = renew(server.tls(Some(&old)).await).await.unwrap();
    let channel = server.tls(Some(&new)).await;
    let uses: Vec<_> = (0..8).map(|_| spawn(post_status(channel.clone()))).collect();
    for one in uses {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_banned_agent_is_shut_out_until_it_is_evicted_and_evicted_it_is_not_known() {
    let server = server().await;
    let agent = server.agent().await;
    let channel = server.tls(Some(&agent)).await;
    let mut admin = AgentClient::new(server.local().await);
    let id = Some(message(&agent.id()));
    admin.ban_agent(BanAgentRequest { id: id.clone() }).await.unwrap();
    let banned = refused(
        post_status(channel.clone()).await,
        Code::PermissionDenied,
        "banned",
    );
    assert_eq!(reason(&banned), Some(Reason::AgentBanned));
    let shown = admin
        .get_agent(GetAgentRequest {
            id: id.clone(),
            output_mask: None,
        })
        .await
        .unwrap();
    let shown = shown.into_inner();
    assert!(shown.banned && shown.x509svid_serial_number.is_empty());
    let token = agent.id().path().rsplit('/').next().unwrap().to_owned();
    let again = CreateJoinTokenRequest {
        ttl: 60,
        token: token.clone(),
        agent_id: None,
    };
    admin.create_join_token(again.clone()).await.unwrap();
    let status = attest(server.tls(None).await, &token).await.map(|_| ());
    refused(
        status,
        Code::PermissionDenied,
        "failed to attest: agent is banned",
    );
    admin
        .delete_agent(DeleteAgentRequest { id: id.clone() })
        .await
        .unwrap();
    let gone = refused(post_status(channel).await, Code::PermissionDenied, "not attested");
    assert_eq!(reason(&gone), Some(Reason::AgentNotAttested));
    refused(
        admin.delete_agent(DeleteAgentRequest { id: id.clone() }).await,
        Code::NotFound,
        "not found",
    );
    refused(
        admin.ban_agent(BanAgentRequest { id }).await,
        Code::NotFound,
        "not found",
    );
    attest(server.tls(None).await, &token).await.unwrap();
}

#[tokio::test]
async fn an_open_connection_does_not_outlive_the_svid() {
    let server = server_with("agent_ttl = \"10m\"").await;
    let agent = server.agent().await;
    let channel = server.tls(Some(&agent)).await;
    post_status(channel.clone()).await.unwrap();
    server.clock.jump(time::Duration::minutes(11));
    let expired = refused(post_status(channel).await, Code::PermissionDenied, "expired");
    assert_eq!(reason(&expired), Some(Reason::AgentExpired));
}

#[tokio::test]
async fn a_renewal_that_was_held_up_takes_nothing_from_the_agent() {
    let server = server().await;
    let agent = server.agent().await;
    let channel = server.tls(Some(&agent)).await;
    let kept = renew(channel.clone()).await.unwrap();
    // Requests that the agent gave up come after all, and their answers reach nobody.
    for _ in 0..2 {
        renew(channel.clone()).await.unwrap();
    }
    post_status(server.tls(Some(&kept)).await).await.unwrap();
    // From the first use on it is the only one.
    let late = refused(
        renew(channel).await.map(|_| ()),
        Code::PermissionDenied,
        "not active",
    );
    assert_eq!(reason(&late), Some(Reason::AgentNotActive));
}

#[tokio::test]
async fn of_the_renewed_svids_that_were_never_used_only_the_latest_few_count() {
    let server = server().await;
    let agent = server.agent().await;
    let channel = server.tls(Some(&agent)).await;
    let first = renew(channel.clone()).await.unwrap();
    for _ in 0..4 {
        renew(channel.clone()).await.unwrap();
    }
    let old = post_status(server.tls(Some(&first)).await).await;
    refused(old, Code::PermissionDenied, "not active");
    post_status(channel).await.unwrap();
}
