//! Following by push, over real streams: who may, what is told of each change, and how a stream ends.

pub(crate) mod agent;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    BanAgentRequest, DeleteAgentRequest, PostStatusRequest,
};
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, GetAuthorizedEntriesRequest,
};
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use vouchsafe_proto::spire::api::server::svid::v1::BatchNewX509svidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_proto::vouchsafe::server::v1::TailAuditRequest;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;
use vouchsafe_proto::vouchsafe::sync::v1::follow_request::Message as Ask;
use vouchsafe_proto::vouchsafe::sync::v1::{FollowRequest, FullReason, Hello, ResumePoint, Resync};

use crate::authority;
use crate::support::*;
use agent::{Follows, Held, LONG, hello};

async fn update(server: &TestServer, entry: types::Entry) {
    let mut client = EntryClient::new(server.local().await);
    let asked = BatchUpdateEntryRequest {
        entries: vec![entry],
        ..BatchUpdateEntryRequest::default()
    };
    let results = client
        .batch_update_entry(asked)
        .await
        .unwrap()
        .into_inner()
        .results;
    assert_eq!(results[0].status.as_ref().unwrap().code, 0, "{results:?}");
}

async fn delete(server: &TestServer, ids: &[&types::Entry]) {
    let mut client = EntryClient::new(server.local().await);
    let ids = ids.iter().map(|entry| entry.id.clone()).collect();
    client
        .batch_delete_entry(BatchDeleteEntryRequest { ids })
        .await
        .unwrap();
}

/// Entries of the agent, `count` of them, each about `kib` KiB large.
async fn many(server: &TestServer, parent: &Identity, count: u32, kib: usize) {
    let mut client = EntryClient::new(server.local().await);
    for start in (0..count).step_by(200) {
        let entries = (start..count.min(start + 200)).map(|n| {
            let mut made = entry(&parent.id(), &format!("/many/{n}"), n);
            for part in 0..kib {
                let value = format!("path:/{part}/{}", "x".repeat(1000));
                made.selectors.push(selector("unix", &value));
            }
            made
        });
        let asked = BatchCreateEntryRequest {
            entries: entries.collect(),
            output_mask: Some(types::EntryMask::default()),
        };
        let results = client
            .batch_create_entry(asked)
            .await
            .unwrap()
            .into_inner()
            .results;
        assert!(
            results
                .iter()
                .all(|result| result.status.as_ref().unwrap().code == 0)
        );
    }
}

#[tokio::test]
async fn garbage_is_refused_and_named() {
    let server = server().await;
    let agent = server.agent().await;
    let resume = |digest: usize, log_id: &str| ResumePoint {
        log_id: log_id.to_owned(),
        revision: 1,
        digest: vec![1; digest],
    };
    let good = Hello {
        version: 1,
        ..Hello::default()
    };
    let asked = |hello: Hello| Some(Ask::Hello(hello));
    for (first, text) in [
        (None, "`hello`"),
        (Some(Ask::Resync(Resync {})), "`hello`"),
        (asked(Hello::default()), "`hello.version`"),
        (
            asked(Hello {
                agent_version: "v".repeat(256),
                ..good.clone()
            }),
            "`hello.agent_version` of 256 bytes",
        ),
        (
            asked(Hello {
                resume: Some(resume(0, "")),
                ..good.clone()
            }),
            "`hello.resume.digest` has 0 bytes",
        ),
        (
            asked(Hello {
                resume: Some(resume(33, "")),
                ..good.clone()
            }),
            "`hello.resume.digest` has 33 bytes",
        ),
        (
            asked(Hello {
                resume: Some(resume(32, &"l".repeat(256))),
                ..good.clone()
            }),
            "`hello.resume.log_id`",
        ),
    ] {
        let mut stream = Follows::begin(&server, &agent, FollowRequest { message: first }).await;
        refused(stream.answers.message().await, Code::InvalidArgument, text);
    }
    let mut stream = Follows::open(&server, &agent).await;
    stream.ask(Ask::Hello(good)).await;
    refused(
        stream.until_ended().await,
        Code::InvalidArgument,
        "only the first",
    );
}

#[tokio::test]
async fn a_newer_agent_is_answered_in_our_version_and_what_it_asks_beyond_it_is_skipped() {
    let server = server().await;
    let agent = server.agent().await;
    let hello = Hello {
        version: 7,
        features: vec!["juggling".to_owned()],
        ..Hello::default()
    };
    let mut stream = Follows::begin(
        &server,
        &agent,
        FollowRequest {
            message: Some(Ask::Hello(hello)),
        },
    )
    .await;
    let welcome = stream.welcome().await;
    assert_eq!((welcome.version, welcome.features.len()), (1, 0));
    stream.ask.send(FollowRequest { message: None }).await.unwrap();
    let made = server.entry(entry(&agent.id(), "/a", 1)).await;
    stream.until(|held| held.entries.contains_key(&made.id)).await;
}

#[tokio::test]
async fn a_banned_agent_loses_its_stream_and_its_svid_is_refused_at_once() {
    let server = server().await;
    let agent = server.agent().await;
    let mut stream = Follows::open(&server, &agent).await;
    let channel = server.tls(Some(&agent)).await;
    let mut svids = SvidClient::new(channel.clone());
    svids
        .batch_new_x509svid(BatchNewX509svidRequest::default())
        .await
        .unwrap();
    let mut admin = AgentClient::new(server.local().await);
    admin
        .ban_agent(BanAgentRequest {
            id: Some(message(&agent.id())),
        })
        .await
        .unwrap();
    let refusals = [
        svids
            .batch_new_x509svid(BatchNewX509svidRequest::default())
            .await
            .map(|_| ()),
        EntryClient::new(channel.clone())
            .get_authorized_entries(GetAuthorizedEntriesRequest::default())
            .await
            .map(|_| ()),
        AgentClient::new(channel)
            .post_status(PostStatusRequest::default())
            .await
            .map(|_| ()),
        stream.until_ended().await,
    ];
    for refusal in refusals {
        let status = refused(refusal, Code::PermissionDenied, "banned");
        assert_eq!(reason(&status), Some(Reason::AgentBanned));
    }
    // What happens from then on it does not hear, not even by another stream.
    server.entry(entry(&agent.id(), "/a", 1)).await;
    let again = Follows::try_begin(&server, &agent, hello(None)).await;
    let status = refused(again.map(|_| ()), Code::PermissionDenied, "banned");
    assert_eq!(reason(&status), Some(Reason::AgentBanned));
}

#[tokio::test]
async fn an_agent_that_is_evicted_or_has_a_newer_svid_loses_its_stream_with_the_reason() {
    let server = server().await;
    let (evicted, old) = (server.agent().await, server.agent().await);
    let (mut of_evicted, mut of_old) = (
        Follows::open(&server, &evicted).await,
        Follows::open(&server, &old).await,
    );
    let mut admin = AgentClient::new(server.local().await);
    admin
        .delete_agent(DeleteAgentRequest {
            id: Some(message(&evicted.id())),
        })
        .await
        .unwrap();
    let status = refused(
        of_evicted.until_ended().await,
        Code::PermissionDenied,
        "not attested",
    );
    assert_eq!(reason(&status), Some(Reason::AgentNotAttested));
    let new = renew(server.tls(Some(&old)).await).await.unwrap();
    let made = server.entry(entry(&old.id(), "/a", 1)).await;
    // The renewed SVID is not in use yet: the stream goes on.
    of_old.until(|held| held.entries.contains_key(&made.id)).await;
    let mut of_new = Follows::begin(&server, &new, hello(of_old.held.point.clone())).await;
    assert_eq!(of_new.welcome().await.full_reason(), FullReason::Unspecified);
    let status = refused(of_old.until_ended().await, Code::PermissionDenied, "not active");
    assert_eq!(reason(&status), Some(Reason::AgentNotActive));
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate() {
    let server = server_with("agent_ttl = \"3s\"").await;
    let agent = server.agent().await;
    let mut stream = Follows::open(&server, &agent).await;
    let status = refused(stream.until_ended().await, Code::PermissionDenied, "expired");
    assert_eq!(reason(&status), Some(Reason::AgentExpired));
}

#[tokio::test]
async fn the_second_stream_of_an_agent_ends_the_first() {
    let server = server().await;
    let agent = server.agent().await;
    let mut first = Follows::open(&server, &agent).await;
    let mut second = Follows::open(&server, &agent).await;
    refused(first.until_ended().await, Code::Aborted, "another stream");
    let made = server.entry(entry(&agent.id(), "/a", 1)).await;
    second.until(|held| held.entries.contains_key(&made.id)).await;
}

#[tokio::test]
async fn a_server_that_stops_says_so() {
    let server = server().await;
    let agent = server.agent().await;
    let mut stream = Follows::open(&server, &agent).await;
    let stopping = spawn(server.stop());
    refused(stream.until_ended().await, Code::Unavailable, "shutting down");
    stopping.await.unwrap();
}

#[tokio::test]
async fn each_kind_of_change_is_told_to_those_whom_it_concerns() {
    let server = server().await;
    let (agent, other) = (server.agent().await, server.agent().await);
    let (mut stream, mut others) = (
        Follows::open(&server, &agent).await,
        Follows::open(&server, &other).await,
    );
    let mut made = server.entry(entry(&agent.id(), "/a", 1)).await;
    stream.until(|held| held.entries.contains_key(&made.id)).await;
    made.hint = "changed".to_owned();
    update(&server, made.clone()).await;
    stream
        .until(|held| held.entries[&made.id].hint == "changed")
        .await;
    // One that hangs on it follows where it goes.
    let below = server.entry(entry(&id("/a"), "/below", 2)).await;
    stream.until(|held| held.entries.contains_key(&below.id)).await;
    assert!(others.held.entries.is_empty());
    made.parent_id = Some(message(&other.id()));
    update(&server, made.clone()).await;
    others.until(|held| held.entries.len() == 2).await;
    stream.until(|held| held.entries.is_empty()).await;
    delete(&server, &[&made]).await;
    others.until(|held| held.entries.is_empty()).await;
    stream.assert_quiet().await;
    others.assert_quiet().await;
}

#[tokio::test]
async fn a_bundle_that_changes_is_told_and_a_taint_alone() {
    let server = server().await;
    let (agent, other) = (server.agent().await, server.agent().await);
    let mut streams = [
        Follows::open(&server, &agent).await,
        Follows::open(&server, &other).await,
    ];
    let mut operator = LocalAuthorityClient::new(server.local().await);
    let old = authority::replace_x509(&mut operator).await;
    let authorities = |held: &Held| held.bundles[TRUST_DOMAIN].x509_authorities.clone();
    for stream in &mut streams {
        stream.until(|held| authorities(held).len() == 2).await;
        assert_eq!(stream.held.taints, 0);
    }
    let asked = authority::taint(&old);
    operator.taint_x509_authority(asked).await.unwrap();
    for stream in &mut streams {
        let changes = stream.changes;
        stream.until(|held| held.taints == 1).await;
        let tainted = authorities(&stream.held).iter().filter(|a| a.tainted).count();
        assert_eq!((tainted, stream.changes - changes), (1, 1));
    }
    let renewed = renew(server.tls(Some(&agent)).await).await.unwrap();
    let [mut stays, mut late] = streams;
    let mut goes_on = Follows::resume(&server, &renewed, stays.held.clone()).await;
    refused(stays.until_ended().await, Code::PermissionDenied, "not active");
    operator
        .revoke_x509_authority(authority::revoke(&old))
        .await
        .unwrap();
    goes_on.until(|held| authorities(held).len() == 1).await;
    // One that has not renewed hears that, and nothing after it.
    refused(late.until_ended().await, Code::Unauthenticated, "revoked");
    assert_eq!(authorities(&late.held).len(), 1);
}

#[tokio::test]
async fn an_entry_that_ends_is_withdrawn_at_once_and_what_hangs_on_it() {
    let server = server().await;
    let agent = server.agent().await;
    let mut ends = entry(&agent.id(), "/a", 1);
    ends.expires_at = server.clock.now().unix_timestamp() + 3;
    let mut stream = Follows::open(&server, &agent).await;
    server.entry(ends).await;
    server.entry(entry(&id("/a"), "/below", 2)).await;
    stream.until(|held| held.entries.len() == 2).await;
    stream.until(|held| held.entries.is_empty()).await;
}

#[tokio::test]
async fn a_large_set_comes_in_pages_and_a_resume_brings_only_what_was_missed() {
    let server = server().await;
    let agent = server.agent().await;
    many(&server, &agent, 1100, 0).await;
    let stream = Follows::open(&server, &agent).await;
    assert_eq!((stream.held.entries.len(), stream.held.bundles.len()), (1100, 1));
    assert!(stream.pages >= 3);
    let known = stream.held.clone();
    drop(stream);
    let made = server.entry(entry(&agent.id(), "/new", 1)).await;
    let gone = known.entries.values().next().unwrap().clone();
    delete(&server, &[&gone]).await;
    let mut stream = Follows::resume(&server, &agent, known).await;
    let welcome = stream.welcome().await;
    assert_eq!(welcome.full_reason(), FullReason::Unspecified);
    stream
        .until(|held| held.entries.contains_key(&made.id) && !held.entries.contains_key(&gone.id))
        .await;
    assert_eq!((stream.pages, stream.changes), (0, 2));
    // Nothing was missed: there is nothing to tell but where we are.
    let known = stream.held.clone();
    drop(stream);
    let mut stream = Follows::resume(&server, &agent, known).await;
    assert_eq!(stream.welcome().await.full_reason(), FullReason::Unspecified);
    stream.until(|_| true).await;
    assert_eq!((stream.pages, stream.changes), (0, 0));
}

/// The same id in the same second, with another SPIFFE ID: by its revision number it is another entry.
#[tokio::test]
async fn an_entry_that_was_deleted_and_made_again_with_its_id_is_told_after_a_cut() {
    let server = server().await;
    let agent = server.agent().await;
    let mut again = entry(&agent.id(), "/before", 1);
    again.id = "chosen".to_owned();
    let mut before = server.entry(again.clone()).await;
    let mut stream = Follows::open(&server, &agent).await;
    for round in 0..20 {
        // As often updated as may be: the number of an update is none of a later entry's.
        update(&server, before.clone()).await;
        stream
            .until(|held| held.entries["chosen"].revision_number == before.revision_number + 1)
            .await;
        let held = stream.held.clone();
        let known = held.entries["chosen"].clone();
        drop(stream);
        delete(&server, &[&before]).await;
        again.spiffe_id = Some(message(&id(&format!("/after/{round}"))));
        let after = server.entry(again.clone()).await;
        assert!(
            after.revision_number > known.revision_number,
            "{after:?} after {known:?}"
        );
        stream = Follows::resume(&server, &agent, held).await;
        stream.until(|held| held.entries["chosen"] == after).await;
        if after.created_at == known.created_at {
            return;
        }
        before = after;
    }
    panic!("the clock was never twice in the same second");
}

#[tokio::test]
async fn a_resume_point_that_is_not_ours_gets_the_whole_set_with_the_reason() {
    let server = server().await;
    let agent = server.agent().await;
    let made = server.entry(entry(&agent.id(), "/a", 1)).await;
    let point = Follows::open(&server, &agent).await.held.point.unwrap();
    for (point, expected) in [
        (None, FullReason::First),
        (
            Some(ResumePoint {
                log_id: "other".to_owned(),
                ..point.clone()
            }),
            FullReason::Pruned,
        ),
        (
            Some(ResumePoint {
                revision: u64::MAX,
                ..point.clone()
            }),
            FullReason::Pruned,
        ),
        (
            Some(ResumePoint {
                digest: vec![0; 32],
                ..point.clone()
            }),
            FullReason::Digest,
        ),
    ] {
        let mut stream = Follows::begin(&server, &agent, hello(point)).await;
        assert_eq!(stream.welcome().await.full_reason(), expected);
        stream.until(|held| held.entries.contains_key(&made.id)).await;
    }
}

#[tokio::test]
async fn an_agent_whose_set_differs_gets_it_anew_on_the_same_stream_and_not_in_a_flood() {
    let server = server().await;
    let agent = server.agent().await;
    let made = server.entry(entry(&agent.id(), "/a", 1)).await;
    let mut stream = Follows::open(&server, &agent).await;
    for _ in 0..3 {
        stream.held.entries.clear();
        stream.ask(Ask::Resync(Resync {})).await;
        stream.until(|held| held.entries.contains_key(&made.id)).await;
        assert_eq!(stream.full_reason, FullReason::Digest);
    }
    let begun = Instant::now();
    for _ in 0..3 {
        stream.ask(Ask::Resync(Resync {})).await;
    }
    let before = stream.pages;
    while stream.pages < before + 3 {
        stream.step().await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "one a second");
}

#[tokio::test]
async fn an_agent_that_does_not_read_holds_up_nobody_and_catches_up_later() {
    let server = server_with("[limits]\nmax_whole_sets = 1").await;
    let (slow, quick) = (server.agent().await, server.agent().await);
    many(&server, &slow, 1000, 10).await;
    // Its whole set does not fit into what a connection buffers, so it keeps its turn for as long as it may.
    let mut of_slow = Follows::begin(&server, &slow, hello(None)).await;
    of_slow.welcome().await;
    let late = Follows::begin(&server, &quick, hello(None)).await;
    let status = refused(late.ended().await, Code::ResourceExhausted, "try again");
    let delay = retry_after(&status).expect("it says when to come again");
    assert!((1..=10).contains(&delay), "{delay}");
    let begun = Instant::now();
    let mut of_quick = loop {
        let mut stream = Follows::begin(&server, &quick, hello(None)).await;
        match stream.step().await {
            Ok(()) => break stream,
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
        }
        assert!(
            begun.elapsed() < LONG,
            "the turn of one that does not read never ends"
        );
    };
    of_quick.until(|held| held.point.is_some()).await;
    for n in 0..20 {
        let made = server.entry(entry(&quick.id(), "/q", n)).await;
        server.entry(entry(&slow.id(), "/s", n)).await;
        let begun = Instant::now();
        of_quick.until(|held| held.entries.contains_key(&made.id)).await;
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    of_slow.until(|held| held.entries.len() == 1020).await;
}

fn retry_after(status: &Status) -> Option<i64> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct RpcStatus {
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<prost_types::Duration>,
    }
    use prost::Message;
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let any = details.first()?;
    assert_eq!(any.type_url, "type.googleapis.com/google.rpc.RetryInfo");
    Some(RetryInfo::decode(any.value.as_slice()).ok()?.retry_delay?.seconds)
}

#[tokio::test]
async fn a_stream_has_two_records_and_its_messages_none() {
    let server = server().await;
    let agent = server.agent().await;
    let mut stream = Follows::open(&server, &agent).await;
    for n in 0..5 {
        let made = server.entry(entry(&agent.id(), "/a", n)).await;
        stream.until(|held| held.entries.contains_key(&made.id)).await;
    }
    drop(stream);
    let mut client = ServerAdminClient::new(server.local().await);
    let asked = TailAuditRequest {
        from_seq: 0,
        follow: true,
    };
    let mut tail = client.tail_audit(asked).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let line = timeout(LONG, tail.message())
            .await
            .expect("a record of the end")
            .unwrap()
            .unwrap();
        let record: serde_json::Value = serde_json::from_str(&line.json).unwrap();
        if record["action"] == "/vouchsafe.sync.v1.Sync/Follow" {
            seen.push((record["facts"]["stream"].clone(), record["code"].clone()));
        }
    }
    assert_eq!(
        seen,
        [
            ("opened".into(), "Ok".into()),
            ("ended".into(), "Cancelled".into())
        ]
    );
}

#[tokio::test]
async fn the_release_that_an_agent_names_is_noted() {
    let server = server().await;
    let agent = server.agent().await;
    let hello = Hello {
        version: 1,
        agent_version: "9.8.7".to_owned(),
        ..Hello::default()
    };
    let mut stream = Follows::begin(
        &server,
        &agent,
        FollowRequest {
            message: Some(Ask::Hello(hello)),
        },
    )
    .await;
    stream.welcome().await;
    let asked = vouchsafe_proto::spire::api::server::agent::v1::GetAgentRequest {
        id: Some(message(&agent.id())),
        output_mask: None,
    };
    let shown = AgentClient::new(server.local().await)
        .get_agent(asked)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(shown.agent_version, "9.8.7");
}

#[tokio::test]
async fn streams_have_places_of_their_own_and_no_more_than_those() {
    let server = server_with("[limits]\nmax_calls = 1\nmax_followers = 2").await;
    let agents = [server.agent().await, server.agent().await, server.agent().await];
    let _first = Follows::open(&server, &agents[0]).await;
    let _second = Follows::open(&server, &agents[1]).await;
    let third = Follows::try_begin(&server, &agents[2], hello(None)).await;
    refused(
        third.map(|_| ()),
        Code::ResourceExhausted,
        "`max_followers` of 2 streams at a time",
    );
    let mut client = AgentClient::new(server.tls(Some(&agents[2])).await);
    client.post_status(PostStatusRequest::default()).await.unwrap();
}

#[tokio::test]
async fn what_a_restarted_server_has_on_disk_is_told_from_where_the_agent_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = server_on_disk(dir).await;
    let agent = server.agent().await;
    let kept = server.entry(entry(&agent.id(), "/a", 1)).await;
    let held = Follows::open(&server, &agent).await.held;
    let made = server.entry(entry(&agent.id(), "/b", 2)).await;
    let server = server_on_disk(server.stop().await).await;
    let mut stream = Follows::resume(&server, &agent, held).await;
    assert_eq!(stream.welcome().await.full_reason(), FullReason::Unspecified);
    stream.until(|held| held.entries.contains_key(&made.id)).await;
    let ids: BTreeSet<&String> = stream.held.entries.keys().collect();
    assert_eq!(ids, BTreeSet::from([&kept.id, &made.id]));
    assert_eq!(stream.changes, 1);
}
